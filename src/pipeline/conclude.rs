//! The end of an export, when all lines are written: gates, statistics, card, manifest, commit.

use super::collect::Unknowns;
use super::plan;
use crate::config::ExportConfig;
use crate::domain::ledger::{Ledger, Rejects};
use crate::domain::manifest::{self, GENERATOR, InputFile, Manifest, OutputFile, SplitFiles, hex};
use crate::domain::stats::{Described, Stats};
use crate::error::{Context, Error, Result, show};
use crate::input::Shard;
use crate::report::card;
use crate::report::dataset::Dataset;
use crate::select::plan::Leakage;
use crate::write::output::FileRecord;
use crate::write::quarantine::QuarantineFile;
use crate::write::stage::{self, FAILED, MANIFEST, STATS, Stage};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// What an export came to.
pub struct Report {
    /// Names of the splits with their documents.
    pub splits: Vec<(String, u64)>,
    /// What became of every line.
    pub ledger: Ledger,
    /// Rejected lines by reason.
    pub rejects: Rejects,
    /// Where it lies.
    pub output: PathBuf,
    /// The statistics as written.
    pub stats: Value,
    /// Bytes of all split files on disk.
    pub bytes: u64,
    /// Name of the scanner that was used, if any was.
    pub scanner: Option<&'static str>,
    /// Bytes of the input that GPUs scanned.
    pub gpu_bytes: u64,
    /// Texts that stand in more than one split.
    pub leakage: u64,
    /// What a user should know.
    pub warnings: Vec<String>,
}

impl Report {
    /// The report for machines.
    pub fn to_json(&self) -> Value {
        let splits: serde_json::Map<_, _> = self.splits.iter().map(|(name, n)| (name.clone(), (*n).into())).collect();
        serde_json::json!({
            "output": show(&self.output),
            "splits": splits,
            "bytes": self.bytes,
            "ledger": self.ledger,
            "rejects": self.rejects,
            "scanner": self.scanner,
            "gpu_bytes": self.gpu_bytes,
            "leakage": self.leakage,
            "warnings": self.warnings,
        })
    }
}

/// What is counted on the way.
pub(super) struct Tally {
    pub stats: Stats,
    pub ledger: Ledger,
    pub rejects: Rejects,
    pub unknowns: Unknowns,
}

impl Tally {
    pub fn new(config: &ExportConfig) -> Tally {
        let splits = config.selection.splits.names().len();
        let unknowns = Unknowns::new(&config.selection);
        Tally { stats: Stats::new(splits), ledger: Ledger::default(), rejects: Rejects::default(), unknowns }
    }

    pub fn merge(&mut self, other: &Tally) {
        self.stats.merge(&other.stats);
        self.ledger.merge(&other.ledger);
        self.rejects.merge(&other.rejects);
        self.unknowns.merge(&other.unknowns);
    }
}

/// All that was written and counted, of the whole input.
pub(super) struct Whole {
    pub tally: Tally,
    pub files: Vec<FileRecord>,
    pub quarantine: Vec<QuarantineFile>,
    pub inputs: Vec<InputFile>,
    pub leakage: Leakage,
    pub warnings: Vec<String>,
}

/// Makes an export of what is in the stage, if it passes the gates. (What it was scanned with, the report does not say.)
///
/// # Errors
/// [`Error::Gate`] if it does not; the files that say why are then under `failed/`.
pub(super) fn conclude(stage: Stage, config: &ExportConfig, shards: &[Shard], whole: Whole) -> Result<Report> {
    let Whole { tally, files, quarantine, inputs, leakage, warnings } = whole;
    let names = config.selection.splits.names();
    if !tally.ledger.balances() {
        return Err(Error::Gate(format!(
            "the ledger does not balance, which is a defect of colophon: {}",
            tally.ledger
        )));
    }
    let stats = stats(names, &tally, &leakage);
    let stats_file = write_json(&stage, STATS, &stats)?;
    let splits: Vec<(String, u64)> =
        names.iter().cloned().enumerate().map(|(i, name)| (name, tally.stats.split_documents(i))).collect();
    let report = Report {
        warnings: [warnings, plan::empty_splits(&splits)].concat(),
        splits,
        output: stage.output().into(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        scanner: None,
        gpu_bytes: 0,
        stats,
        leakage: leakage.texts,
        ledger: tally.ledger,
        rejects: tally.rejects,
    };
    let failures = plan::gates(config, shards, &report.ledger, &report.rejects, &leakage);
    if !failures.is_empty() {
        return Err(fail(stage, &files, &failures, report.ledger.rejected > 0)?);
    }
    let mut manifest = manifest(config, &report, inputs, &files, quarantine, stats_file);
    if let Some(about) = &config.about {
        let described = Described::new(&config.schema);
        let dataset =
            Dataset { about, schema: &config.schema, stats: &tally.stats, described: &described, manifest: &manifest };
        let files = card::files(&dataset);
        let written = files.iter().map(|file| write_file(&stage, file.name, file.text.as_bytes()));
        let written = written.collect::<Result<Vec<_>>>()?;
        manifest.files.extend(written);
    }
    write_json(&stage, MANIFEST, &manifest)?;
    stage.commit()?;
    Ok(report)
}

/// Fails if something in the output folder is in the way of the export: better before the work than after it.
///
/// # Errors
/// [`Error::Usage`], naming it.
pub(super) fn refuse_obstacles(output: &Path, config: &ExportConfig) -> Result<()> {
    stage::refuse_foreign_manifest(output)?;
    let of_split = |name: &str, split: &String| {
        let rest = name.strip_prefix(split.as_str()).unwrap_or_default();
        rest.starts_with(".jsonl") || (rest.starts_with('-') && rest.contains("-of-") && rest.contains(".jsonl"))
    };
    let splits = config.selection.splits.names();
    stage::refuse_folders(output, |name| {
        let is_of_card = config.about.is_some() && card::FILES.contains(&name);
        [MANIFEST, STATS].contains(&name) || is_of_card || splits.iter().any(|split| of_split(name, split))
    })?;
    refuse_to_lose_a_card(output, config.about.is_some())
}

/// Fails if the card in the output folder is one that people wrote or edited, and the export would replace it (as it
/// makes one) or remove it (as the earlier export had one).
fn refuse_to_lose_a_card(output: &Path, is_made: bool) -> Result<()> {
    let path = output.join(card::FILE);
    if !is_made && !stage::is_exported(output, card::FILE) {
        return Ok(());
    }
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.context(&path, "read")?,
    };
    if card::is_sealed(&text) {
        return Ok(());
    }
    let path = show(&path);
    Err(Error::Usage(format!(
        "{path} is not as colophon wrote it, and the export would replace it: move it elsewhere; --no-card writes none"
    )))
}

/// `dataset_stats.json`.
fn stats(names: &[String], sum: &Tally, leakage: &Leakage) -> Value {
    let mut stats = sum.stats.to_json(names, &sum.ledger, &sum.rejects);
    stats["leakage"] = leakage.texts.into();
    stats
}

/// Leaves the quarantine and the statistics for a look, and says what failed.
fn fail(stage: Stage, files: &[FileRecord], failures: &[String], has_rejects: bool) -> Result<Error> {
    for file in files {
        let path = stage.folder().join(&file.name);
        std::fs::remove_file(&path).context(&path, "remove")?;
    }
    let failed = stage.output().join(FAILED);
    let (what, at) = if has_rejects {
        ("rejected lines are", failed.join(crate::write::quarantine::FOLDER))
    } else {
        ("statistics are", failed.join(STATS))
    };
    let at = show(&at);
    let words = format!("{}; the earlier export is untouched, the {what} in {at}", failures.join("; "));
    stage.commit_as_failed(&words)?;
    Ok(Error::Gate(words))
}

/// Writes a JSON file into the stage.
fn write_json(stage: &Stage, name: &str, value: &impl serde::Serialize) -> Result<OutputFile> {
    let path = stage.folder().join(name);
    let mut text = serde_json::to_vec_pretty(value).map_err(std::io::Error::from).context(&path, "write")?;
    text.push(b'\n');
    write_file(stage, name, &text)
}

/// Writes a file into the stage.
fn write_file(stage: &Stage, name: &str, text: &[u8]) -> Result<OutputFile> {
    let path = stage.folder().join(name);
    std::fs::write(&path, text).context(&path, "write")?;
    Ok(OutputFile { path: name.into(), bytes: text.len() as u64, documents: None, sha256: hex(&Sha256::digest(text)) })
}

fn manifest(
    config: &ExportConfig,
    report: &Report,
    inputs: Vec<InputFile>,
    records: &[FileRecord],
    quarantine: Vec<QuarantineFile>,
    stats: OutputFile,
) -> Manifest {
    let of_split = |split: usize| records.iter().filter(move |r| r.split == split).map(|r| r.name.clone()).collect();
    let mut files: Vec<OutputFile> = records
        .iter()
        .map(|r| OutputFile {
            path: r.name.clone(),
            bytes: r.bytes,
            documents: Some(r.documents),
            sha256: r.sha256.clone(),
        })
        .collect();
    files.push(stats);
    files.extend(quarantine.into_iter().map(|q| OutputFile {
        path: q.path,
        bytes: q.bytes,
        documents: None,
        sha256: q.sha256,
    }));
    Manifest {
        format: manifest::FORMAT,
        generator: GENERATOR.into(),
        configuration: config.to_json(),
        inputs,
        splits: report
            .splits
            .iter()
            .enumerate()
            .map(|(split, (name, documents))| SplitFiles {
                name: name.clone(),
                documents: *documents,
                files: of_split(split),
            })
            .collect(),
        files,
        ledger: report.ledger.clone(),
    }
}
