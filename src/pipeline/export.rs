//! `export`: map, split, validate, count and write in one pass.

use super::scheduler::{self, Progress, Work};
use super::stop::Stop;
use crate::config::ExportConfig;
use crate::domain::ledger::{Ledger, Rejects};
use crate::domain::manifest::{self, InputFile, Manifest, OutputFile, SplitFiles};
use crate::domain::reason::Reason;
use crate::domain::row::{Rows, Verdict};
use crate::domain::stats::{Described, Stats};
use crate::error::{Context, Error, Result, show};
use crate::input::{Chunk, Cutter, Shard, discover};
use crate::scan::engine::Engine;
use crate::scan::reference::{Judgement, judge};
use crate::scan::{ScanJob, detail};
use crate::write::line::LineWriter;
use crate::write::output::{FileRecord, Lines, Outputs, hex};
use crate::write::quarantine::{Quarantine, QuarantineFile, Reject};
use crate::write::stage::{MANIFEST, STATS, Stage};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that may wait to be hashed and written before no new chunk is taken, for each worker.
const BACKLOG: usize = 8 << 20;

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
    /// Name of the scanner that was used.
    pub scanner: &'static str,
    /// Bytes of the input that GPUs scanned.
    pub gpu_bytes: u64,
}

/// What an export reads: the shards in order.
///
/// # Errors
/// If there are none, one cannot be read, or the output would overwrite them.
pub fn find_input(config: &ExportConfig) -> Result<Arc<[Shard]>> {
    let canonical = |path: &PathBuf| std::fs::canonicalize(path).ok();
    if canonical(&config.input).is_some_and(|input| Some(input) == canonical(&config.output)) {
        return Err(Error::Usage("--output-dir is the input folder: the export would replace what it reads".into()));
    }
    let shards = discover(&config.input, Some(&config.output))?;
    if shards.is_empty() {
        return Err(Error::Usage(format!(
            "no shards in {}: .jsonl and .ndjson files are read, each also with .gz or .zst",
            show(&config.input)
        )));
    }
    if let Some(output) = canonical(&config.output)
        && let Some(shard) = shards.iter().find(|s| canonical(&s.path).is_some_and(|p| p.starts_with(&output)))
    {
        let shard = show(&shard.path);
        return Err(Error::Usage(format!("{shard} lies in the output folder: the export would replace what it reads")));
    }
    Ok(shards.into())
}

/// Exports, whole or not at all.
///
/// # Errors
/// [`Error::Gate`] if too many lines are rejected; the files that say why are then under `failed/`.
/// Else whatever stopped the run; the output folder is then as it was.
pub fn export(
    config: &ExportConfig,
    shards: &Arc<[Shard]>,
    engine: &Engine,
    progress: &Progress,
    stop: &Stop,
) -> Result<Report> {
    let stage = Stage::open(&config.output)?;
    let export = Export::new(config, shards, &stage, progress)?;
    let cutter = Cutter::new(Arc::clone(shards), config.run.chunk_size);
    let locals = scheduler::run(&export, cutter, engine, config.run.threads, stop)?;
    let Export { outputs, ordered, .. } = export;
    let mut sum = Tally::new(config.splits.names().len());
    locals.iter().for_each(|local| sum.merge(&local.tally));
    let ordered = ordered.into_inner().unwrap_or_else(PoisonError::into_inner);
    let quarantine = ordered.quarantine.finish()?;
    let files = outputs.finish(config.splits.names())?;
    stop.check()?;
    if !sum.ledger.balances() {
        return Err(Error::Gate(format!("the ledger does not balance, which is a defect of colophon: {}", sum.ledger)));
    }
    let stats = sum.stats.to_json(config.splits.names(), &sum.ledger, &sum.rejects);
    let stats_file = write_json(&stage, STATS, &stats)?;
    let report = Report {
        splits: config
            .splits
            .names()
            .iter()
            .cloned()
            .enumerate()
            .map(|(i, n)| (n, sum.stats.split_documents(i)))
            .collect(),
        output: stage.output().into(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        scanner: engine.name(),
        gpu_bytes: engine.gpu_bytes(),
        stats,
        ledger: sum.ledger,
        rejects: sum.rejects,
    };
    if config.max_reject_ratio.is_exceeded_by(report.ledger.rejected, report.ledger.non_blank()) {
        return Err(fail(stage, config, &files, &report)?);
    }
    let manifest = manifest(config, &report, ordered.inputs, &files, quarantine, stats_file);
    write_json(&stage, MANIFEST, &manifest)?;
    stage.commit()?;
    Ok(report)
}

/// Leaves the quarantine and the statistics for a look, and says what failed.
fn fail(stage: Stage, config: &ExportConfig, files: &[FileRecord], report: &Report) -> Result<Error> {
    for file in files {
        let path = stage.folder().join(&file.name);
        std::fs::remove_file(&path).context(&path, "remove")?;
    }
    let failed = stage.commit_as_failed()?;
    let reasons: Vec<_> = report.rejects.iter().map(|(reason, times)| format!("{reason} {times}")).collect();
    Ok(Error::Gate(format!(
        "{} of {} lines rejected, more than --max-reject-ratio {} allows ({}); the earlier export is untouched, the rejected lines are in {}",
        report.ledger.rejected,
        report.ledger.non_blank(),
        config.max_reject_ratio,
        reasons.join(", "),
        show(&failed.join(crate::write::quarantine::FOLDER)),
    )))
}

/// Writes a JSON file into the stage.
fn write_json(stage: &Stage, name: &str, value: &impl serde::Serialize) -> Result<OutputFile> {
    let path = stage.folder().join(name);
    let mut text = serde_json::to_vec_pretty(value).map_err(std::io::Error::from).context(&path, "write")?;
    text.push(b'\n');
    std::fs::write(&path, &text).context(&path, "write")?;
    Ok(OutputFile { path: name.into(), bytes: text.len() as u64, documents: None, sha256: hex(&Sha256::digest(&text)) })
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
        generator: concat!("colophon ", env!("CARGO_PKG_VERSION")).into(),
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

/// The stages of an export, put together.
struct Export<'a> {
    config: &'a ExportConfig,
    shards: &'a [Shard],
    described: Described,
    line: LineWriter,
    outputs: Outputs,
    ordered: Mutex<Ordered>,
    progress: &'a Progress,
}

/// What only grows in input order.
struct Ordered {
    quarantine: Quarantine,
    inputs: Vec<InputFile>,
}

/// What a worker counts.
struct Tally {
    stats: Stats,
    ledger: Ledger,
    rejects: Rejects,
}

impl Tally {
    fn new(splits: usize) -> Tally {
        Tally { stats: Stats::new(splits), ledger: Ledger::default(), rejects: Rejects::default() }
    }

    fn merge(&mut self, other: &Tally) {
        self.stats.merge(&other.stats);
        self.ledger.merge(&other.ledger);
        self.rejects.merge(&other.rejects);
    }
}

/// A worker's own.
struct Local {
    tally: Tally,
}

/// A chunk, processed.
struct Done {
    shard: usize,
    lines: u64,
    /// Lines for each split.
    splits: Vec<Lines>,
    rejects: Vec<ChunkReject>,
    /// The chunk, if rejected lines have to be copied from it.
    chunk: Option<Chunk>,
}

/// A rejected line by its place in the chunk.
struct ChunkReject {
    line: u64,
    start: usize,
    len: usize,
    reason: Reason,
    detail: String,
}

impl<'a> Export<'a> {
    fn new(config: &'a ExportConfig, shards: &'a [Shard], stage: &Stage, progress: &'a Progress) -> Result<Export<'a>> {
        let splits = config.splits.names().len();
        let inputs = shards.iter().map(|s| InputFile { path: show(&s.name), bytes: s.bytes, ..InputFile::default() });
        Ok(Export {
            config,
            shards,
            described: Described::new(&config.schema),
            line: LineWriter::new(&config.schema),
            outputs: Outputs::create(stage.folder(), splits, config.compression, config.shard_size)?,
            ordered: Mutex::new(Ordered { quarantine: Quarantine::new(stage.folder()), inputs: inputs.collect() }),
            progress,
        })
    }

    fn lines(&self, chunk: &Chunk, rows: &Rows, tally: &mut Tally, done: &mut Done) {
        let job = self.job();
        for (number, (row, spans)) in rows.iter().enumerate() {
            tally.ledger.lines += 1;
            match row.verdict() {
                Verdict::Blank => tally.ledger.blank += 1,
                Verdict::Rejected(reason) => {
                    tally.ledger.rejected += 1;
                    tally.rejects.add(reason);
                    let (line, start, len) = (number as u64, row.start as usize, row.len as usize);
                    let detail = detail::of(row.line(chunk), &job);
                    done.rejects.push(ChunkReject { line, start, len, reason, detail });
                }
                Verdict::Document => {
                    let line = row.line(chunk);
                    let split = self.config.splits.of_hash(row.hash);
                    let lines = &mut done.splits[split];
                    let before = lines.bytes.len();
                    self.line.write(line, spans, &mut lines.bytes);
                    let bytes = (lines.bytes.len() - before) as u64;
                    lines.ends.push(lines.bytes.len());
                    tally.ledger.exported += 1;
                    tally.stats.add(split, row, line, spans, bytes, &self.described);
                }
            }
        }
        done.lines = rows.rows.len() as u64;
    }

    /// A chunk that is one line, too long for a row.
    fn long_line(&self, chunk: &Chunk, tally: &mut Tally, done: &mut Done) {
        let line = chunk.strip_suffix(b"\n").unwrap_or(chunk);
        tally.ledger.lines += 1;
        done.lines = 1;
        match judge(line, &self.job()) {
            Judgement::Rejected(rejection) => {
                tally.ledger.rejected += 1;
                tally.rejects.add(rejection.reason);
                let (reason, detail) = (rejection.reason, rejection.detail);
                done.rejects.push(ChunkReject { line: 0, start: 0, len: line.len(), reason, detail });
            }
            Judgement::Blank => tally.ledger.blank += 1,
            Judgement::Document { .. } => unreachable!("a line of this length is no document"),
        }
    }
}

impl Work for Export<'_> {
    type Local = Local;
    type Done = Done;

    fn local(&self) -> Local {
        Local { tally: Tally::new(self.config.splits.names().len()) }
    }

    fn job(&self) -> ScanJob<'_> {
        ScanJob { schema: &self.config.schema, seed: self.config.seed, hash: true }
    }

    fn process(&self, local: &mut Local, chunk: Chunk, rows: &Rows) -> Result<Done> {
        let splits =
            self.config.splits.names().iter().map(|_| Lines { bytes: self.outputs.buffer(), ends: Vec::new() });
        let mut done =
            Done { shard: chunk.shard, lines: 0, splits: splits.collect(), rejects: Vec::new(), chunk: None };
        let (documents, rejected) = (local.tally.ledger.exported, local.tally.ledger.rejected);
        if chunk.is_too_long_for_rows() {
            self.long_line(&chunk, &mut local.tally, &mut done);
        } else {
            self.lines(&chunk, rows, &mut local.tally, &mut done);
        }
        chunk.check()?;
        let ledger = &local.tally.ledger;
        self.progress.add(chunk.len() as u64, ledger.exported - documents, ledger.rejected - rejected);
        if !done.rejects.is_empty() {
            done.chunk = Some(chunk);
        }
        Ok(done)
    }

    fn commit(&self, done: Done) -> Result<()> {
        let mut ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        let Ordered { quarantine, inputs } = &mut *ordered;
        let input = &mut inputs[done.shard];
        if let Some(chunk) = &done.chunk {
            for reject in &done.rejects {
                let reject = Reject {
                    line: input.lines + reject.line + 1,
                    offset: chunk.offset + reject.start as u64,
                    bytes: &chunk[reject.start..reject.start + reject.len],
                    reason: reject.reason,
                    detail: reject.detail.clone(),
                };
                quarantine.add(done.shard, &self.shards[done.shard], &reject)?;
            }
            chunk.check()?;
        }
        input.lines += done.lines;
        input.rejected += done.rejects.len() as u64;
        for (split, lines) in done.splits.into_iter().enumerate() {
            self.outputs.append(split, lines)?;
        }
        Ok(())
    }

    fn close(&self) {
        self.outputs.close();
    }

    fn help(&self) -> Result<bool> {
        match self.outputs.pick() {
            Some(job) => self.outputs.run(job).map(|()| true),
            None => Ok(false),
        }
    }

    fn is_behind(&self) -> bool {
        self.outputs.queued() > BACKLOG * self.config.run.threads
    }
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
        })
    }
}
