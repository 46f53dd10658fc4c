//! Step 9 of the workshop: how many documents each stage left.

use crate::error::{Context, Result};
use crate::input::{Encoding, unpacked};
use crate::pipeline::stop::Stop;
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::path::Path;

/// Name, folder and description of each stage, as in the workshop.
const STAGES: [(&str, &str, &str); 7] = [
    ("01 - Download", "raw/wikipedia", "Raw web documents"),
    ("02 - Extract", "extracted", "After text extraction + lang ID"),
    ("03a - Exact Dedup", "exact-deduped", "After hash-based dedup"),
    ("03b - Fuzzy Dedup", "fuzzy-deduped", "After MinHash LSH dedup"),
    ("04 - Filter", "filtered", "After quality filtering"),
    ("05 - Classify", "classified", "After domain classification"),
    ("06 - Export", "export", "Final curated dataset"),
];

/// A stage with its documents.
pub struct Stage {
    name: &'static str,
    folder: &'static str,
    description: &'static str,
    /// Lines of the shards in the stage's folder.
    pub documents: u64,
}

/// Counts the stages below a folder. A stage whose folder is missing has no documents.
///
/// # Errors
/// If the data folder or a shard cannot be read, or the run was asked to stop.
pub fn count(data: &Path, stop: &Stop) -> Result<Vec<Stage>> {
    fs::read_dir(data).context(data, "read the folder")?;
    STAGES
        .iter()
        .map(|&(name, folder, description)| {
            let documents = lines_in_folder(&data.join(folder), stop)?;
            Ok(Stage { name, folder, description, documents })
        })
        .collect()
}

/// Lines of the shards directly in a folder, hidden ones left out.
fn lines_in_folder(folder: &Path, stop: &Stop) -> Result<u64> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries.context(folder, "read the folder")?,
    };
    let mut lines = 0;
    for entry in entries {
        let path = entry.context(folder, "read the folder")?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if let (Some(encoding), false) = (Encoding::of(&path), hidden || path.is_dir()) {
            lines += lines_in_file(&path, encoding, stop)?;
        }
    }
    Ok(lines)
}

/// Lines of a file; the last line feed may be missing.
fn lines_in_file(path: &Path, encoding: Encoding, stop: &Stop) -> Result<u64> {
    let mut bytes = unpacked(path, encoding).context(path, "read the shard")?;
    let mut buffer = vec![0; 256 << 10];
    let (mut lines, mut last) = (0, b'\n');
    loop {
        stop.check()?;
        let read = bytes.read(&mut buffer).context(path, "read the shard")?;
        let Some(end) = buffer[..read].last() else { return Ok(lines + u64::from(last != b'\n')) };
        last = *end;
        lines += memchr::memchr_iter(b'\n', &buffer[..read]).count() as u64;
    }
}

/// The workshop's table, to the character.
pub fn table(stages: &[Stage]) -> String {
    let (double, single) = ("=".repeat(70), "-".repeat(70));
    let mut lines = vec![double.clone(), "TECHPULSE MEDIA - DATA CURATION PIPELINE SUMMARY".into(), double];
    lines.push(format!("{:<25} {:>10} {:>10}", "Stage", "Documents", "Reduction"));
    lines.push(single.clone());
    let mut before = None;
    for stage in stages {
        let reduction = before.filter(|n| *n > 0).map(|n| reduction(n, stage.documents)).unwrap_or_default();
        let documents = thousands(stage.documents);
        lines.push(format!("{:<25} {documents:>10} {reduction:>10}   {}", stage.name, stage.description));
        before = Some(stage.documents);
    }
    lines.push(single);
    lines.push("Pipeline complete. Dataset ready for LLM training.".into());
    lines.join("\n") + "\n"
}

/// `-5.5%`; `+5.5%` where a stage has more documents than the one before.
fn reduction(before: u64, now: u64) -> String {
    let percent = (before as f64 - now as f64) * 100.0 / before as f64;
    if percent < 0.0 { format!("+{:.1}%", -percent) } else { format!("-{percent:.1}%") }
}

/// A number with a comma before each group of three digits.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap_or_default()).collect();
    groups.join(",")
}

/// The table for machines.
pub fn to_json(stages: &[Stage]) -> Value {
    stages.iter().map(|s| json!({ "stage": s.name, "folder": s.folder, "documents": s.documents })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workshop_s_table() {
        let counts = [1000, 945, 920, 800, 705, 705, 705];
        let stages: Vec<_> = STAGES
            .iter()
            .zip(counts)
            .map(|(&(name, folder, description), documents)| Stage { name, folder, description, documents })
            .collect();
        let expected = "\
======================================================================
TECHPULSE MEDIA - DATA CURATION PIPELINE SUMMARY
======================================================================
Stage                      Documents  Reduction
----------------------------------------------------------------------
01 - Download                  1,000              Raw web documents
02 - Extract                     945      -5.5%   After text extraction + lang ID
03a - Exact Dedup                920      -2.6%   After hash-based dedup
03b - Fuzzy Dedup                800     -13.0%   After MinHash LSH dedup
04 - Filter                      705     -11.9%   After quality filtering
05 - Classify                    705      -0.0%   After domain classification
06 - Export                      705      -0.0%   Final curated dataset
----------------------------------------------------------------------
Pipeline complete. Dataset ready for LLM training.
";
        assert_eq!(table(&stages), expected);
    }

    #[test]
    fn odd_counts() {
        assert_eq!(reduction(100, 105), "+5.0%");
        assert_eq!(reduction(3, 0), "-100.0%");
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
