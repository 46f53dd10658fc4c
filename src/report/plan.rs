//! A plan, for people and for machines.

use super::summary::thousands;
use crate::error::show;
use crate::pipeline::plan::Report;
use crate::select::plan::{Count, ValueCount};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Values that are shown to people; machines get all.
const SHOWN: usize = 40;

/// The plan as tables.
pub fn text(report: &Report) -> String {
    let mut text = format!("Ledger: {}\n", report.ledger);
    for (reason, times) in report.rejects.iter() {
        let _ = writeln!(text, "  rejected, {reason}: {}", thousands(times));
    }
    text.push('\n');
    text.push_str(&table(&splits(report)));
    if !report.figures.values.is_empty() {
        text.push('\n');
        text.push_str(&table(&values(report)));
        let more = report.figures.values.len().saturating_sub(SHOWN);
        if more > 0 {
            let _ = writeln!(text, "  … and {} values more", thousands(more as u64));
        }
    }
    if let Some(limit) = &report.figures.limit {
        let (capacity, total) = (thousands(limit.capacity), thousands(limit.total));
        let _ =
            writeln!(text, "\nThe total is limited to {total} by '{}', which gives {capacity} at most.", limit.value);
    }
    let _ = writeln!(text, "\nTexts in more than one split: {}", thousands(report.figures.leakage.texts));
    if let Some(saved) = &report.saved {
        let _ = writeln!(text, "\nThe plan is {} ({})", show(&saved.path), indicatif::HumanBytes(saved.bytes));
    }
    text
}

fn splits(report: &Report) -> Vec<Vec<String>> {
    let head = ["split", "documents", "repeats", "chars", "words", "share", "asked", "off by"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (split, count) in report.figures.splits.iter().enumerate() {
        let asked = percent(report.ratios[split]);
        let off = format!("{:+.1}", report.difference(split));
        rows.push(
            [vec![report.names[split].clone()], counts(count), vec![percent(report.share(count)), asked, off]].concat(),
        );
    }
    rows.push([vec!["all".into()], counts(&report.figures.all), vec![String::new(); 3]].concat());
    rows
}

fn values(report: &Report) -> Vec<Vec<String>> {
    let field = report.field.clone().unwrap_or_default();
    let fixed = ["found", "documents", "repeats", "chars", "words", "share", "asked"].map(String::from);
    let mut rows = vec![[vec![field], fixed.to_vec(), report.names.clone()].concat()];
    for value in report.figures.values.iter().take(SHOWN) {
        let shares = vec![percent(report.share_of_lines(value)), value.share.map(percent).unwrap_or_default()];
        let in_splits = value.splits.iter().map(|n| thousands(*n)).collect();
        let name = vec![value.value.clone(), thousands(value.found)];
        rows.push([name, counts(&value.count), shares, in_splits].concat());
    }
    rows
}

fn counts(count: &Count) -> Vec<String> {
    [count.documents, count.repeats, count.chars, count.words].map(thousands).to_vec()
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// The first column to the left, the others to the right; two spaces between them.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = format!("  {:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            let _ = write!(line, "  {cell:>width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

impl Report {
    /// A split's part of all documents.
    fn share(&self, count: &Count) -> f64 {
        ratio(count.documents, self.figures.all.documents)
    }

    fn share_of_lines(&self, value: &ValueCount) -> f64 {
        ratio(value.count.lines(), self.figures.all.lines())
    }

    /// By how many documents a split differs from its due: exact counts where they were asked for, else the
    /// ratio of all.
    fn difference(&self, split: usize) -> f64 {
        let documents = self.figures.splits[split].documents as f64;
        let due = self.figures.due.as_ref().map(|due| due[split] as f64);
        documents - due.unwrap_or(self.ratios[split] * self.figures.all.documents as f64)
    }

    /// The plan for machines.
    pub fn to_json(&self) -> Value {
        let split = |(split, count): (usize, &Count)| {
            let mut value = count_json(count);
            value["asked"] = self.ratios[split].into();
            value["share"] = self.share(count).into();
            value["difference"] = self.difference(split).into();
            value["due"] = self.figures.due.as_ref().map(|due| due[split]).into();
            (self.names[split].clone(), value)
        };
        let value = |value: &ValueCount| {
            let mut json = count_json(&value.count);
            json["found"] = value.found.into();
            json["share"] = self.share_of_lines(value).into();
            json["asked"] = value.share.into();
            json["target"] = value.target.into();
            let splits: Map<_, _> = self.names.iter().cloned().zip(value.splits.iter().map(|n| (*n).into())).collect();
            json["splits"] = splits.into();
            (value.value.clone(), json)
        };
        let limit = self.figures.limit.as_ref();
        json!({
            "ledger": self.ledger,
            "rejects": self.rejects,
            "splits": self.figures.splits.iter().enumerate().map(split).collect::<Map<_, _>>(),
            "field": self.field,
            "values": self.figures.values.iter().map(value).collect::<Map<_, _>>(),
            "limit": limit.map(|l| json!({ "value": l.value, "capacity": l.capacity, "total": l.total })),
            "leakage": self.figures.leakage.texts,
            "warnings": self.warnings,
            "failures": self.failures,
            "saved": self.saved.as_ref().map(|saved| show(&saved.path)),
        })
    }
}

fn count_json(count: &Count) -> Value {
    json!({ "documents": count.documents, "repeats": count.repeats, "chars": count.chars, "words": count.words })
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
