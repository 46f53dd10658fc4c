//! The ledger: what became of every line.

use super::reason::Reason;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Lines by what became of them. `lines` is counted on its own, so that the balance can be checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// All lines of the input.
    pub lines: u64,
    /// Lines of white space alone.
    pub blank: u64,
    /// Lines in quarantine.
    pub rejected: u64,
    /// Documents that a filter left out.
    pub filtered: u64,
    /// Documents whose text stood before.
    pub duplicates: u64,
    /// Documents that sampling or balancing left out.
    pub sampled_out: u64,
    /// Documents in the output.
    pub exported: u64,
    /// Further copies of exported documents, counted apart.
    pub repeats: u64,
}

impl Ledger {
    /// Whether every line is accounted for.
    pub fn balances(&self) -> bool {
        // Wide enough for whatever a file may claim.
        let sum: u128 = self.fates().iter().map(|(_, lines)| u128::from(*lines)).sum();
        u128::from(self.lines) == sum
    }

    /// Lines that are not blank.
    pub fn non_blank(&self) -> u64 {
        self.lines - self.blank
    }

    /// What can become of a line, with how many lines it became of.
    pub fn fates(&self) -> [(&'static str, u64); 6] {
        [
            ("blank", self.blank),
            ("rejected", self.rejected),
            ("filtered", self.filtered),
            ("duplicate", self.duplicates),
            ("sampled_out", self.sampled_out),
            ("exported", self.exported),
        ]
    }

    /// Adds another ledger.
    pub fn merge(&mut self, other: &Ledger) {
        self.lines += other.lines;
        self.blank += other.blank;
        self.rejected += other.rejected;
        self.filtered += other.filtered;
        self.duplicates += other.duplicates;
        self.sampled_out += other.sampled_out;
        self.exported += other.exported;
        self.repeats += other.repeats;
    }
}

impl std::fmt::Display for Ledger {
    /// One line, the equation of the ledger: `lines = blank + rejected + …`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} lines = {} blank + {} rejected + {} filtered + {} duplicates + {} sampled out + {} exported",
            self.lines, self.blank, self.rejected, self.filtered, self.duplicates, self.sampled_out, self.exported
        )?;
        if self.repeats > 0 {
            write!(f, " (+ {} repeats)", self.repeats)?;
        }
        Ok(())
    }
}

/// Rejected lines by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rejects(BTreeMap<Reason, u64>);

impl Rejects {
    /// Counts one line.
    pub fn add(&mut self, reason: Reason) {
        *self.0.entry(reason).or_default() += 1;
    }

    /// Adds other counts.
    pub fn merge(&mut self, other: &Rejects) {
        for (&reason, &times) in &other.0 {
            *self.0.entry(reason).or_default() += times;
        }
    }

    /// Reasons that occurred, in the order of checking, each with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        self.0.iter().map(|(reason, times)| (*reason, *times))
    }
}
