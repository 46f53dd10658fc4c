//! Why a line is rejected.

use serde::{Deserialize, Serialize};

/// The reasons, in the order in which they are checked: a line is rejected for the first that holds.
/// (`NullByte` stands for a raw zero byte, checked first, and for a decoded U+0000 in the text,
/// checked between `LoneSurrogate` and `EmptyText`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The line has a byte 0x00, or the decoded text has U+0000.
    NullByte,
    /// The line is not UTF-8.
    InvalidUtf8,
    /// The line is not one JSON value, or it is nested too deep.
    InvalidJson,
    /// The value is not an object.
    NotObject,
    /// A required field is absent or `null`.
    MissingField,
    /// A mapped field has another type than the schema says.
    WrongType,
    /// An exported string has an escaped surrogate without its other half.
    LoneSurrogate,
    /// The text has no character that is not white space.
    EmptyText,
    /// The line is longer than [`MAX_LINE_BYTES`].
    TooLong,
}

/// The longest line that is exported, in bytes without its line feed: 1 GiB.
pub const MAX_LINE_BYTES: usize = 1 << 30;

/// The deepest nesting of arrays and objects that is accepted; the outermost object is level 1.
pub const MAX_DEPTH: usize = 1024;

impl Reason {
    /// Every reason, in order.
    pub const ALL: [Reason; 9] = [
        Reason::NullByte,
        Reason::InvalidUtf8,
        Reason::InvalidJson,
        Reason::NotObject,
        Reason::MissingField,
        Reason::WrongType,
        Reason::LoneSurrogate,
        Reason::EmptyText,
        Reason::TooLong,
    ];

    /// The name used in the quarantine's index and in the statistics.
    pub fn name(self) -> &'static str {
        match self {
            Reason::NullByte => "null_byte",
            Reason::InvalidUtf8 => "invalid_utf8",
            Reason::InvalidJson => "invalid_json",
            Reason::NotObject => "not_object",
            Reason::MissingField => "missing_field",
            Reason::WrongType => "wrong_type",
            Reason::LoneSurrogate => "lone_surrogate",
            Reason::EmptyText => "empty_text",
            Reason::TooLong => "too_long",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
