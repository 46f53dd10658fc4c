//! A plan that was saved: what was decided of each document, by where it stands.

use super::leakage::{Leakage, Place};
use super::part::{FoundShard, configuration_difference};
use super::selection::Fate;
use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The format of a plan; to be raised when its meaning changes.
pub const FORMAT: u32 = 1;
/// The most documents of a block.
pub const BLOCK: usize = 1 << 16;

/// What a plan was made from, what it found, and where its decisions are. It does not depend on how many workers looked
/// for the documents.
#[derive(Debug, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u32,
    /// `colophon` and its version.
    pub generator: String,
    /// That part of the configuration which decides what becomes of a document.
    pub configuration: Map<String, Value>,
    /// The input's shards, in order.
    pub input: Vec<FoundShard>,
    /// What an export by this plan has to say.
    pub findings: Findings,
    /// The decisions in input order; no block has documents of two shards.
    pub blocks: Vec<RowBlock>,
}

/// What is known of an export by a plan before it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Texts in two splits.
    pub leakage: Leakage,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// Decisions for some documents of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowBlock {
    /// Index of the shard.
    pub shard: usize,
    /// Bytes (unpacked) of the shard before the first document's line.
    pub offset: u64,
    /// How many.
    pub rows: usize,
    /// SHA-256 of the rows, in hexadecimal.
    pub sha256: String,
}

/// What was decided of a document that the filters admit. 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PlanRow {
    /// XXH3-64 of the text.
    pub hash: u64,
    /// Bytes (unpacked) of the shard before the document's line.
    pub offset: u64,
    /// Bytes of the line.
    pub len: u32,
    repeats: u16,
    split: u8,
    fate: u8,
}

const EXPORTED: u8 = 0;
const DUPLICATE: u8 = 1;
const SAMPLED_OUT: u8 = 2;

impl PlanRow {
    /// The row of a document.
    ///
    /// # Panics
    /// If a filter refused it: then there is no row.
    pub fn new(hash: u64, place: Place, fate: Fate) -> PlanRow {
        let row = PlanRow { hash, offset: place.offset, len: place.len as u32, ..PlanRow::default() };
        match fate {
            Fate::Exported { split, repeats } => PlanRow { fate: EXPORTED, split: split as u8, repeats, ..row },
            Fate::Duplicate => PlanRow { fate: DUPLICATE, ..row },
            Fate::SampledOut => PlanRow { fate: SAMPLED_OUT, ..row },
            Fate::Filtered => unreachable!("a plan is for what the filters admit"),
        }
    }

    /// What becomes of the document; `None` if it was not this program that wrote the row.
    pub fn fate(&self) -> Option<Fate> {
        match self.fate {
            EXPORTED => Some(Fate::Exported { split: self.split.into(), repeats: self.repeats }),
            DUPLICATE => Some(Fate::Duplicate),
            SAMPLED_OUT => Some(Fate::SampledOut),
            _ => None,
        }
    }
}

impl Header {
    /// Why an export of this program with this configuration cannot follow the plan, in words that follow the plan's name;
    /// `None` if it can.
    pub fn difference(&self, generator: &str, configuration: &Map<String, Value>) -> Option<String> {
        if self.format != FORMAT || self.generator != generator {
            return Some(format!("was made by {}, and this is {generator}", self.generator));
        }
        configuration_difference(configuration, &self.configuration)
    }

    /// How many documents the plan is for.
    pub fn documents(&self) -> u64 {
        self.blocks.iter().map(|block| block.rows as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_what_was_decided() {
        let place = Place { index: 9, shard: 3, offset: 1 << 40, len: 77 };
        for fate in [Fate::Duplicate, Fate::SampledOut, Fate::Exported { split: 255, repeats: u16::MAX - 1 }] {
            let row = PlanRow::new(u64::MAX, place, fate);
            assert_eq!((row.hash, row.offset, row.len, row.fate()), (u64::MAX, 1 << 40, 77, Some(fate)));
        }
        assert_eq!(PlanRow { fate: 3, ..PlanRow::default() }.fate(), None);
        assert_eq!(size_of::<PlanRow>(), 24);
    }
}
