//! Why a line was rejected, in words.

use super::ScanJob;
use super::reference::{Judgement, judge};

/// What is wrong with a rejected line, for the quarantine's index: what was found, and at which
/// byte of the line (from 1, as editors count columns).
pub fn of(line: &[u8], job: &ScanJob) -> String {
    match judge(line, &ScanJob { hash: false, ..*job }) {
        Judgement::Rejected(rejection) => match rejection.at {
            Some(at) => format!("{} at byte {}", rejection.detail, at + 1),
            None => rejection.detail,
        },
        // The shard was changed since it was scanned. The run finds that out and throws this away.
        Judgement::Blank | Judgement::Document { .. } => "not the line that was scanned".into(),
    }
}
