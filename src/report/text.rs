//! Reports as text.

use super::summary::thousands;
use crate::error::show;
use crate::pipeline::export::Report;
use crate::pipeline::inspect::Validation;
use crate::pipeline::verify::{self, Outcome};
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
    let mut text = String::new();
    let width = report.splits.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, documents) in &report.splits {
        let _ = writeln!(text, "  {name:<width$}  {:>12} documents", thousands(*documents));
    }
    let _ = writeln!(text, "Ledger: {}", report.ledger);
    for (reason, times) in report.rejects.iter() {
        let _ = writeln!(text, "  rejected, {reason}: {}", thousands(times));
    }
    let size = indicatif::HumanBytes(report.bytes);
    let _ =
        writeln!(text, "{} of splits in {} ({seconds:.1} s, scanner {})", size, show(&report.output), report.scanner);
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
