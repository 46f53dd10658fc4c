//! Which documents are exported, to which split, how often: the order of the steps is filter, exact
//! duplicates, sample or balance, split, repeats.

use super::balance::Balance;
use super::chance::Chance;
use super::decimal::Fraction;
use super::filter::{Admission, Filter};
use super::origin::{Origin, decoded};
use super::row::{Row, Span};
use super::split::Splits;
use twox_hash::XxHash3_64;

/// The split that repeats go to.
pub const TRAIN: &str = "train";

/// What was asked for, checked.
#[derive(Debug)]
pub struct Selection {
    /// What is wanted at all.
    pub filters: Vec<Filter>,
    /// Whether of documents with the same text only the first stays.
    pub dedup: bool,
    /// How many of them.
    pub take: Take,
    /// Names and ratios of the splits.
    pub splits: Splits,
    /// Whether the splits get exact counts; else each document's hash decides.
    pub exact: bool,
    /// The field whose hash decides instead of the text's.
    pub key: Option<NamedField>,
    /// The field within whose values the counts are exact.
    pub strata: Option<NamedField>,
    /// How often a document may stand in [`TRAIN`].
    pub repeat_up_to: u16,
    /// Whether a text in two splits is a failed gate.
    pub forbid_leakage: bool,
    /// The job's seed.
    pub seed: u64,
    /// The random numbers of that seed.
    pub chance: Chance,
}

/// How many documents are taken.
#[derive(Clone, Debug)]
pub enum Take {
    /// All.
    All,
    /// Each with this probability.
    Sample(Fraction),
    /// Exactly so many, if there are.
    AtMost(u64),
    /// By shares for the values of a field.
    Balance {
        /// The field.
        by: NamedField,
        /// The shares.
        mode: Balance,
        /// No more than so many in all.
        at_most: Option<u64>,
    },
}

/// A field of the documents, with the name by which it was asked for.
#[derive(Clone, Debug)]
pub struct NamedField {
    /// The name.
    pub name: String,
    /// Where its values come from.
    pub origin: Origin,
}

/// What becomes of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A filter refused it.
    Filtered,
    /// Its text stood before.
    Duplicate,
    /// Sampling or balancing left it out.
    SampledOut,
    /// It is written.
    Exported {
        /// To this split.
        split: usize,
        /// And so many times more.
        repeats: u16,
    },
}

impl Selection {
    /// Whether decisions need the whole corpus; else the document at hand is enough.
    pub fn needs_plan(&self) -> bool {
        self.dedup || self.exact || matches!(self.take, Take::AtMost(_) | Take::Balance { .. })
    }

    /// Whether equal texts may come to stand in two splits, so that it has to be counted.
    pub fn may_leak(&self) -> bool {
        self.key.is_some() && !self.dedup
    }

    /// The field by which documents are balanced.
    pub fn balance_by(&self) -> Option<&NamedField> {
        if let Take::Balance { by, .. } = &self.take { Some(by) } else { None }
    }

    /// The filters' verdict. `undecided` counts, for each filter, the documents kept for lack of a value.
    pub fn admits(&self, row: &Row, line: &[u8], spans: &[Span], undecided: &mut [u64]) -> bool {
        let mut is_undecided = false;
        for filter in &self.filters {
            match filter.admission(row, line, spans) {
                Admission::Admitted => {}
                Admission::Undecided => is_undecided = true,
                Admission::Refused => return false,
            }
        }
        if is_undecided {
            for (filter, undecided) in self.filters.iter().zip(undecided) {
                *undecided += u64::from(filter.admission(row, line, spans) == Admission::Undecided);
            }
        }
        true
    }

    /// The hash that decides the split: the text's, or that of the key where the document has one.
    pub fn key_hash(&self, row: &Row, line: &[u8], spans: &[Span]) -> u64 {
        let value = self.key.as_ref().and_then(|key| key.origin.value(line, spans));
        value.map_or(row.hash, |json| XxHash3_64::oneshot_with_seed(self.seed, &decoded(json)))
    }

    /// Whether a document lacks the field whose hash decides.
    pub fn is_keyless(&self, line: &[u8], spans: &[Span]) -> bool {
        self.key.as_ref().is_some_and(|key| key.origin.value(line, spans).is_none())
    }

    /// Whether a sample at this rate has the text of this hash.
    pub fn is_sampled(&self, rate: Fraction, hash: u64) -> bool {
        u128::from(self.chance.of(hash)) < rate.threshold()
    }

    /// What becomes of a document that the filters admit, where that can be told from itself alone:
    /// see [`Selection::needs_plan`].
    pub fn fate(&self, row: &Row, line: &[u8], spans: &[Span]) -> Fate {
        match self.take {
            Take::Sample(rate) if !self.is_sampled(rate, row.hash) => Fate::SampledOut,
            _ => Fate::Exported { split: self.splits.of_hash(self.key_hash(row, line, spans)), repeats: 0 },
        }
    }
}
