//! What came of an upload.

use serde::Serialize;

/// What came of an upload.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Receipt {
    /// Where it went, as [`super::target::Target`] is written.
    pub target: String,
    /// Nothing was changed: this is what an upload would do.
    pub dry_run: bool,
    /// Where people look at it, if there is such a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The branch, where the target has branches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The commit that has the export, where the target has commits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Files that were sent.
    pub sent: Vec<Entry>,
    /// Files that were there already, with the same content.
    pub skipped: Vec<Entry>,
    /// Files of an earlier export that were removed.
    pub deleted: Vec<Entry>,
    /// Bytes of content that went over the network, without what was taken up from an interrupted upload.
    pub bytes_sent: u64,
    /// Requests that had to be made again.
    pub retries: u64,
    /// Seconds from the first request to the last answer.
    pub seconds: f64,
    /// What lies at the target now.
    pub listing: Vec<Listed>,
}

/// A file of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its path below the export's folder, with `/` between its parts.
    pub path: String,
    /// Bytes of its content.
    pub bytes: u64,
}

/// A file at the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its path below the target.
    pub path: String,
    /// Bytes of its content.
    pub bytes: u64,
    /// When it was written, in seconds since 1970-01-01 UTC, if the target says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<i64>,
}
