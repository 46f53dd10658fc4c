//! What a scanner says of a line: a row of integers that a GPU kernel can write as well as a CPU.

use super::reason::Reason;
use bytemuck::{Pod, Zeroable};

/// One line of a chunk, measured. 32 bytes, no pointers.
///
/// Of a line that is not a document (blank or rejected), `hash`, `chars` and `words` are 0, and so
/// are its spans: rows of two scanners can be compared with `==`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Row {
    /// XXH3-64 of the decoded text's UTF-8 bytes, with the job's seed.
    pub hash: u64,
    /// Where the line starts, in bytes from the chunk's start.
    pub start: u32,
    /// Bytes of the line without its line feed.
    pub len: u32,
    /// Unicode code points of the decoded text.
    pub chars: u32,
    /// Maximal runs without white space in the decoded text.
    pub words: u32,
    /// What the line is: see [`Row::verdict`].
    pub code: u8,
    /// For `missing_field`, `wrong_type` and `lone_surrogate`: the index of the field in the schema.
    pub field: u8,
    /// Always zero.
    pub reserved: [u8; 6],
}

/// A part of a line: a mapped value as it stands there, quotes and all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Span {
    /// Bytes from the line's start.
    pub start: u32,
    /// Bytes; 0 where the line has no such value (or it is `null`).
    pub len: u32,
}

impl Span {
    /// The bytes of the span in its line.
    ///
    /// # Panics
    /// If the span was not made for `line`.
    pub fn of<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        &line[self.start as usize..self.start as usize + self.len as usize]
    }

    /// Whether the line has no such value.
    pub fn is_absent(&self) -> bool {
        self.len == 0
    }
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A sound document.
    Document,
    /// White space alone.
    Blank,
    /// Not exported, for this reason.
    Rejected(Reason),
}

/// The code of a document; 1 is a blank line, 2 and up are the reasons in their order.
const DOCUMENT: u8 = 0;
const BLANK: u8 = 1;
const FIRST_REASON: u8 = 2;

impl Verdict {
    /// The number that stands for this verdict in [`Row::code`].
    pub fn code(self) -> u8 {
        match self {
            Verdict::Document => DOCUMENT,
            Verdict::Blank => BLANK,
            Verdict::Rejected(reason) => FIRST_REASON + reason as u8,
        }
    }
}

impl Row {
    /// A row for a line that is not a document.
    pub fn without_measures(start: u32, len: u32, verdict: Verdict, field: u8) -> Row {
        Row { start, len, code: verdict.code(), field, ..Row::default() }
    }

    /// What the line is.
    ///
    /// # Panics
    /// If `code` is none that [`Verdict::code`] gives: a scanner is broken.
    pub fn verdict(&self) -> Verdict {
        match self.code {
            DOCUMENT => Verdict::Document,
            BLANK => Verdict::Blank,
            code => Verdict::Rejected(Reason::ALL[usize::from(code - FIRST_REASON)]),
        }
    }

    /// The line's bytes in its chunk, without the line feed.
    ///
    /// # Panics
    /// If the row was not made for `chunk`.
    pub fn line<'a>(&self, chunk: &'a [u8]) -> &'a [u8] {
        &chunk[self.start as usize..self.start as usize + self.len as usize]
    }
}

/// The rows of a chunk's lines, in order, with the spans of their mapped values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// One row a line.
    pub rows: Vec<Row>,
    /// `sources` spans a line, one for each source path of the schema, in its order.
    pub spans: Vec<Span>,
    /// How many source paths the schema has.
    pub sources: usize,
}

impl Rows {
    /// Empties the rows, keeping their memory, for a schema with so many source paths.
    pub fn clear(&mut self, sources: usize) {
        self.rows.clear();
        self.spans.clear();
        self.sources = sources;
    }

    /// Adds a row for a line that is not a document.
    pub fn push_without_spans(&mut self, row: Row) {
        self.rows.push(row);
        self.spans.resize(self.spans.len() + self.sources, Span::default());
    }

    /// Each row with its spans.
    pub fn iter(&self) -> impl Iterator<Item = (&Row, &[Span])> {
        // `chunks_exact(0)` would panic; the schema always has at least the text.
        self.rows.iter().zip(self.spans.chunks_exact(self.sources.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_survive_the_way_through_a_row() {
        let rejected = Reason::ALL.into_iter().map(Verdict::Rejected);
        for verdict in rejected.chain([Verdict::Document, Verdict::Blank]) {
            assert_eq!(Row::without_measures(0, 0, verdict, 0).verdict(), verdict);
        }
    }
}
