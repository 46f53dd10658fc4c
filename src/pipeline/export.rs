//! `export`: map, select, split, validate, count and write; in one pass, or in two with a plan between them.

use super::collect::{Unknowns, add_row};
use super::plan::{self, Planned};
use super::scheduler::{self, Progress, Work};
use super::stop::Stop;
use crate::config::ExportConfig;
use crate::domain::ledger::{Ledger, Rejects};
use crate::domain::manifest::{self, InputFile, Manifest, OutputFile, SplitFiles, hex};
use crate::domain::reason::Reason;
use crate::domain::row::{Row, Rows, Span, Verdict};
use crate::domain::selection::Fate;
use crate::domain::stats::{Described, Stats};
use crate::error::{Context, Error, Result, show};
use crate::input::{Chunk, Cutter, Shard, discover};
use crate::report::card;
use crate::report::dataset::Dataset;
use crate::scan::engine::Engine;
use crate::scan::reference::{Judgement, judge};
use crate::scan::{ScanJob, detail};
use crate::select::plan::Leakage;
use crate::select::rows::{ChunkRows, RowStore};
use crate::select::spill::Spill;
use crate::write::line::LineWriter;
use crate::write::output::{FileRecord, Lines, Outputs};
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
    /// Texts that stand in more than one split.
    pub leakage: u64,
    /// What a user should know.
    pub warnings: Vec<String>,
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
    refuse_to_lose_a_card(&stage, config.about.is_some())?;
    let spill = plan::spill(config, stage.folder());
    let needs_plan = config.selection.needs_plan();
    let make_plan = || Planned::new(config, shards, engine, &spill, progress, stop);
    let planned = needs_plan.then(make_plan).transpose()?;
    if needs_plan {
        tracing::info!("The plan is made: writing the splits");
    }
    let export = Export::new(config, shards, &stage, progress, planned.as_ref(), &spill)?;
    let cutter = Cutter::new(Arc::clone(shards), config.run.chunk_size);
    let locals = scheduler::run(&export, cutter, engine, config.run.threads, stop)?;
    let Export { outputs, ordered, described, .. } = export;
    let mut sum = Tally::new(config);
    locals.iter().for_each(|local| sum.merge(&local.tally));
    let ordered = ordered.into_inner().unwrap_or_else(PoisonError::into_inner);
    let quarantine = ordered.quarantine.finish()?;
    let names = config.selection.splits.names();
    let files = outputs.finish(names)?;
    let (leakage, warnings) = match &planned {
        Some(planned) => {
            planned.check(shards)?;
            (planned.plan.figures.leakage.clone(), planned.warnings(config))
        }
        None => {
            let count = |rows: &RowStore| plan::leakage(config, shards, rows, &spill, stop);
            let leakage = ordered.rows.as_ref().map(count).transpose()?;
            (leakage.unwrap_or_default(), sum.unknowns.warnings(&config.selection))
        }
    };
    stop.check()?;
    if !sum.ledger.balances() {
        return Err(Error::Gate(format!("the ledger does not balance, which is a defect of colophon: {}", sum.ledger)));
    }
    let stats = stats(names, &sum, &leakage);
    let stats_file = write_json(&stage, STATS, &stats)?;
    let splits: Vec<(String, u64)> =
        names.iter().cloned().enumerate().map(|(i, name)| (name, sum.stats.split_documents(i))).collect();
    let report = Report {
        warnings: [warnings, plan::empty_splits(&splits)].concat(),
        splits,
        output: stage.output().into(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        scanner: engine.name(),
        gpu_bytes: engine.gpu_bytes(),
        stats,
        leakage: leakage.texts,
        ledger: sum.ledger,
        rejects: sum.rejects,
    };
    let failures = plan::gates(config, shards, &report.ledger, &report.rejects, &leakage);
    if !failures.is_empty() {
        return Err(fail(stage, &files, &failures, report.ledger.rejected > 0)?);
    }
    let mut manifest = manifest(config, &report, ordered.inputs, &files, quarantine, stats_file);
    if let Some(about) = &config.about {
        let dataset =
            Dataset { about, schema: &config.schema, stats: &sum.stats, described: &described, manifest: &manifest };
        let files = card::files(&dataset);
        let written = files.iter().map(|file| write_file(&stage, file.name, file.text.as_bytes()));
        let written = written.collect::<Result<Vec<_>>>()?;
        manifest.files.extend(written);
    }
    write_json(&stage, MANIFEST, &manifest)?;
    stage.commit()?;
    Ok(report)
}

/// Fails if the card in the output folder is one that people wrote or edited, and the export would replace it (as it
/// makes one) or remove it (as the earlier export had one).
fn refuse_to_lose_a_card(stage: &Stage, is_made: bool) -> Result<()> {
    let path = stage.output().join(card::FILE);
    if !is_made && !stage.is_exported(card::FILE) {
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
    let failed = stage.commit_as_failed()?;
    let (what, at) = if has_rejects {
        ("rejected lines are", failed.join(crate::write::quarantine::FOLDER))
    } else {
        ("statistics are", failed.join(STATS))
    };
    let at = show(&at);
    Ok(Error::Gate(format!("{}; the earlier export is untouched, the {what} in {at}", failures.join("; "))))
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
    /// Decisions for all documents; without them, each is decided by itself.
    planned: Option<&'a Planned>,
}

/// What only grows in input order.
struct Ordered {
    quarantine: Quarantine,
    inputs: Vec<InputFile>,
    /// Exported documents, where it has to be counted whether their texts stand in two splits.
    rows: Option<RowStore>,
}

/// What a worker counts.
struct Tally {
    stats: Stats,
    ledger: Ledger,
    rejects: Rejects,
    unknowns: Unknowns,
}

impl Tally {
    fn new(config: &ExportConfig) -> Tally {
        let splits = config.selection.splits.names().len();
        let unknowns = Unknowns::new(&config.selection);
        Tally { stats: Stats::new(splits), ledger: Ledger::default(), rejects: Rejects::default(), unknowns }
    }

    fn merge(&mut self, other: &Tally) {
        self.stats.merge(&other.stats);
        self.ledger.merge(&other.ledger);
        self.rejects.merge(&other.rejects);
        self.unknowns.merge(&other.unknowns);
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
    /// The exported documents, where they are wanted.
    rows: Option<ChunkRows>,
    /// The chunk, if rejected lines have to be copied from it.
    chunk: Option<Chunk>,
}

/// A sound line.
#[derive(Clone, Copy)]
struct Document<'a> {
    row: &'a Row,
    line: &'a [u8],
    spans: &'a [Span],
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
    fn new(
        config: &'a ExportConfig,
        shards: &'a [Shard],
        stage: &Stage,
        progress: &'a Progress,
        planned: Option<&'a Planned>,
        spill: &Spill,
    ) -> Result<Export<'a>> {
        let splits = config.selection.splits.names().len();
        let inputs = shards.iter().map(|s| InputFile { path: show(&s.name), bytes: s.bytes, ..InputFile::default() });
        Ok(Export {
            config,
            shards,
            described: Described::new(&config.schema),
            line: LineWriter::new(&config.schema),
            outputs: Outputs::create(stage.folder(), splits, config.compression, config.shard_size)?,
            ordered: Mutex::new(Ordered {
                quarantine: Quarantine::new(stage.folder()),
                inputs: inputs.collect(),
                rows: (planned.is_none() && config.selection.may_leak()).then(|| RowStore::new(spill.clone())),
            }),
            progress,
            planned,
        })
    }

    fn lines(&self, chunk: &Chunk, rows: &Rows, tally: &mut Tally, done: &mut Done) -> Result<()> {
        let job = self.job();
        let mut decisions = self.planned.map(|planned| Decisions::of(planned, chunk, self.shards)).transpose()?;
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
                    let document = Document { row, line: row.line(chunk), spans };
                    match self.fate(document, &mut decisions, tally)? {
                        Fate::Filtered => tally.ledger.filtered += 1,
                        Fate::Duplicate => tally.ledger.duplicates += 1,
                        Fate::SampledOut => tally.ledger.sampled_out += 1,
                        Fate::Exported { split, repeats } => {
                            tally.ledger.exported += 1;
                            tally.ledger.repeats += u64::from(repeats);
                            self.write(document, split, repeats, tally, done);
                        }
                    }
                }
            }
        }
        done.lines = rows.rows.len() as u64;
        decisions.map_or(Ok(()), |decisions| decisions.end())
    }

    fn fate(&self, document: Document, decisions: &mut Option<Decisions<'_>>, tally: &mut Tally) -> Result<Fate> {
        let Document { row, line, spans } = document;
        let selection = &self.config.selection;
        if !selection.admits(row, line, spans, &mut tally.unknowns.undecided) {
            return Ok(Fate::Filtered);
        }
        tally.unknowns.keyless += u64::from(selection.is_keyless(line, spans));
        match decisions {
            Some(decisions) => decisions.next(row),
            None => Ok(selection.fate(row, line, spans)),
        }
    }

    /// Writes a document's line to its split, and so many copies more.
    fn write(&self, document: Document, split: usize, repeats: u16, tally: &mut Tally, done: &mut Done) {
        let Document { row, line, spans } = document;
        let lines = &mut done.splits[split];
        let before = lines.bytes.len();
        self.line.write(line, spans, &mut lines.bytes);
        let written = before..lines.bytes.len();
        for copy in 0..=repeats {
            if copy > 0 {
                lines.bytes.extend_from_within(written.clone());
            }
            lines.ends.push(lines.bytes.len());
            tally.stats.add(split, row, line, spans, written.len() as u64, &self.described);
        }
        if let Some(rows) = &mut done.rows {
            add_row(&self.config.selection, row, line, spans, rows);
            rows.rows.iter_mut().next_back().into_iter().for_each(|row| row.stratum = split as u32);
        }
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

/// The decisions for the documents of a chunk, one after the other.
struct Decisions<'a> {
    planned: &'a Planned,
    shard: &'a Shard,
    indices: std::ops::Range<usize>,
}

impl<'a> Decisions<'a> {
    fn of(planned: &'a Planned, chunk: &Chunk, shards: &'a [Shard]) -> Result<Decisions<'a>> {
        let shard = &shards[chunk.shard];
        let indices = planned.collected.rows.of_chunk(chunk.sequence, chunk.shard, chunk.offset);
        Ok(Decisions { planned, shard, indices: indices.ok_or_else(|| plan::changed(shard))? })
    }

    /// What becomes of the next document, which has to be the one that was scanned.
    fn next(&mut self, row: &Row) -> Result<Fate> {
        let rows = &self.planned.collected.rows;
        let is_same = |index: &usize| {
            let known = rows.get(*index);
            (known.hash, known.start, known.len) == (row.hash, row.start, row.len)
        };
        let index = self.indices.next().filter(is_same).ok_or_else(|| plan::changed(self.shard))?;
        Ok(self.planned.plan.fate(index))
    }

    /// There must be no more of them.
    fn end(self) -> Result<()> {
        if self.indices.is_empty() { Ok(()) } else { Err(plan::changed(self.shard)) }
    }
}

impl Work for Export<'_> {
    type Local = Local;
    type Done = Done;

    fn local(&self) -> Local {
        Local { tally: Tally::new(self.config) }
    }

    fn job(&self) -> ScanJob<'_> {
        ScanJob { schema: &self.config.schema, seed: self.config.selection.seed, hash: true }
    }

    fn progress(&self) -> Option<&Progress> {
        Some(self.progress)
    }

    fn process(&self, local: &mut Local, chunk: Chunk, rows: &Rows) -> Result<Done> {
        let splits = self
            .config
            .selection
            .splits
            .names()
            .iter()
            .map(|_| Lines { bytes: self.outputs.buffer(), ends: Vec::new() });
        let mut done = Done {
            shard: chunk.shard,
            lines: 0,
            splits: splits.collect(),
            rejects: Vec::new(),
            rows: None,
            chunk: None,
        };
        if self.planned.is_none() && self.config.selection.may_leak() {
            done.rows = Some(ChunkRows { shard: chunk.shard, offset: chunk.offset, ..ChunkRows::default() });
        }
        let (documents, rejected) = (local.tally.ledger.exported, local.tally.ledger.rejected);
        if chunk.is_too_long_for_rows() {
            self.long_line(&chunk, &mut local.tally, &mut done);
        } else {
            self.lines(&chunk, rows, &mut local.tally, &mut done)?;
        }
        chunk.check()?;
        let ledger = &local.tally.ledger;
        self.progress.add(chunk.len() as u64, ledger.exported - documents, ledger.rejected - rejected);
        done.rejects.iter().for_each(|reject| self.progress.reject(reject.reason));
        if !done.rejects.is_empty() {
            done.chunk = Some(chunk);
        }
        Ok(done)
    }

    fn commit(&self, done: Done) -> Result<()> {
        let mut ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        let Ordered { quarantine, inputs, rows } = &mut *ordered;
        if let (Some(rows), Some(chunk)) = (rows, done.rows) {
            rows.push(chunk)?;
        }
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
            "leakage": self.leakage,
            "warnings": self.warnings,
        })
    }
}
