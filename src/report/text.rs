//! Reports as text.

use super::summary::thousands;
use crate::domain::ledger::{Ledger, Rejects};
use crate::error::show;
use crate::pipeline::conclude::Report;
use crate::pipeline::inspect::Validation;
use crate::pipeline::verify::{self, Outcome};
use crate::pipeline::{plan, worker};
use std::fmt::Write;

/// Step 5 of the workshop for one split, to the character.
pub fn validation(v: &Validation) -> String {
    if !v.found {
        return format!("--- {} --- FILE NOT FOUND\n", v.name);
    }
    let mut text = format!("--- {} ---\nDocuments: {}\nErrors: {}\n", v.name, v.documents, v.errors);
    for error in &v.shown {
        let _ = writeln!(text, "  ! {error}");
    }
    let more = v.errors - v.shown.len() as u64;
    if more > 0 {
        let _ = writeln!(text, "  ... and {more} more");
    }
    let l = v.lengths;
    if l.count > 0 {
        let mean = l.sum as f64 / l.count as f64;
        let _ = write!(text, "Avg text length: {mean:.0} chars\nMin: {}, Max: {}\n", l.min, l.max);
    }
    text.push('\n');
    text
}

/// The last line of step 5.
pub fn validation_end(passed: bool) -> &'static str {
    if passed { "ALL SPLITS PASSED VALIDATION" } else { "VALIDATION FAILED - see errors above" }
}

/// What an export came to.
pub fn export(report: &Report, seconds: f64) -> String {
    let mut text = counts(&report.splits, &report.ledger, &report.rejects);
    let size = indicatif::HumanBytes(report.bytes);
    let scanner = report.scanner.map(|name| format!(", scanner {name}")).unwrap_or_default();
    let _ = writeln!(text, "{size} of splits in {} ({seconds:.1} s{scanner})", show(&report.output));
    text
}

/// What a worker came to.
pub fn part(report: &worker::Report, seconds: f64) -> String {
    let mut text = counts(&report.splits, &report.ledger, &report.rejects);
    let scanner = report.scanner.map_or(", there already".into(), |name| format!(", scanner {name}"));
    let _ = writeln!(text, "The part of worker {} is {} ({seconds:.1} s{scanner})", report.share, show(&report.folder));
    text
}

/// What a worker came to that looked for its share of a plan.
pub fn plan_part(report: &plan::worker::Report, seconds: f64) -> String {
    let Ledger { lines, blank, rejected, filtered, exported, .. } = report.ledger;
    let mut text =
        format!("{lines} lines = {blank} blank + {rejected} rejected + {filtered} filtered + {exported} to plan for\n");
    for (reason, times) in report.rejects.iter() {
        let _ = writeln!(text, "  rejected, {reason}: {}", thousands(times));
    }
    let (share, folder) = (report.share, show(&report.folder));
    let scanner = report.scanner.map_or(", there already".into(), |name| format!(", scanner {name}"));
    let _ = writeln!(text, "The plan part of worker {share} is {folder} ({seconds:.1} s{scanner})");
    text
}

fn counts(splits: &[(String, u64)], ledger: &Ledger, rejects: &Rejects) -> String {
    let mut text = String::new();
    let width = splits.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, documents) in splits {
        let _ = writeln!(text, "  {name:<width$}  {:>12} documents", thousands(*documents));
    }
    let _ = writeln!(text, "Ledger: {ledger}");
    for (reason, times) in rejects.iter() {
        let _ = writeln!(text, "  rejected, {reason}: {}", thousands(times));
    }
    text
}

/// The checklist of a verification: a line for each item, and below it what is wrong.
pub fn verification(report: &verify::Report) -> String {
    let mut text = String::new();
    for item in &report.items {
        let mark = match item.outcome {
            Outcome::Passed => '✓',
            Outcome::Failed => '✗',
            Outcome::NotChecked => '-',
        };
        let scope = match item.outcome {
            Outcome::NotChecked => " (not checked)".into(),
            Outcome::Passed if !item.scope.is_empty() => format!(" ({})", item.scope),
            _ => String::new(),
        };
        let _ = writeln!(text, "{mark} {}{scope}", item.title);
        for problem in &item.problems {
            let _ = writeln!(text, "    {problem}");
        }
        let more = item.count - item.problems.len() as u64;
        if more > 0 {
            let _ = writeln!(text, "    ... and {} more", thousands(more));
        }
    }
    let failed = report.items.iter().filter(|item| item.outcome == Outcome::Failed).count();
    let _ = match failed {
        0 => writeln!(text, "VERIFIED"),
        _ => writeln!(text, "NOT VERIFIED: {failed} of {} items failed", report.items.len()),
    };
    text
}
