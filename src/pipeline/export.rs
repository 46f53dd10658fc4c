//! `export`: map, select, split, validate, count and write; in one pass, or in two with a plan between them.

use super::collect::add_row;
use super::conclude::{Report, Tally, Whole, conclude, refuse_obstacles};
use super::found::Found;
use super::plan::file::Saved;
use super::plan::{self, Planned};
use super::scheduler::{self, Progress, Work};
use super::stop::Stop;
use crate::config::ExportConfig;
use crate::domain::manifest::InputFile;
use crate::domain::planned::Findings;
use crate::domain::reason::Reason;
use crate::domain::row::{Row, Rows, Span, Verdict};
use crate::domain::selection::Fate;
use crate::domain::stats::Described;
use crate::error::{Context, Error, Result, show};
use crate::input::{Chunk, Cutter, Shard, discover, share};
use crate::scan::engine::Engine;
use crate::scan::reference::{Judgement, judge};
use crate::scan::{ScanJob, detail};
use crate::select::rows::{ChunkRows, DocRow, Place, RowStore, Within};
use crate::select::spill::Spill;
use crate::write::line::LineWriter;
use crate::write::output::{FileRecord, Lines, Outputs, Proof};
use crate::write::place::resolve;
use crate::write::quarantine::{Quarantine, QuarantineFile, Reject};
use crate::write::stage::Stage;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that may wait to be hashed and written before no new chunk is taken, for each worker.
const BACKLOG: usize = 8 << 20;

/// What an export reads: the shards in order.
///
/// # Errors
/// If there are none, one cannot be read, or the output would overwrite them or the plan.
pub fn find_input(config: &ExportConfig) -> Result<Arc<[Shard]>> {
    let canonical = |path: &PathBuf| std::fs::canonicalize(path).ok();
    if canonical(&config.input).is_some_and(|input| Some(input) == canonical(&config.output)) {
        return Err(Error::Usage("--output-dir is the input folder: the export would replace what it reads".into()));
    }
    refuse_plan_within(config)?;
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

/// Fails if the plan, which is there or is to be made, lies where the export will.
fn refuse_plan_within(config: &ExportConfig) -> Result<()> {
    let Some(plan) = &config.plan else { return Ok(()) };
    // Who only plans need not say where the export will be.
    if config.output.as_os_str().is_empty() {
        return Ok(());
    }
    let place = |path: &Path| resolve(path).context(path, "find");
    if place(plan)?.starts_with(place(&config.output)?) {
        return Err(Error::Usage(format!(
            "the plan {} lies in the output folder, and nothing but the export may: save it beside the output folder",
            show(plan)
        )));
    }
    Ok(())
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
    refuse_obstacles(stage.output(), config)?;
    let spill = plan::spill(config, stage.folder());
    let is_planned = config.plan.is_some() || config.selection.needs_plan();
    let found = is_planned.then(|| Found::of(shards)).transpose()?;
    let planned = match (&config.plan, &found) {
        (Some(path), Some(found)) => {
            let saved = Saved::open(path, config, found)?;
            Some(saved.load(config, shards, &share::whole(shards), &spill, stop)?)
        }
        (None, Some(_)) => Some(Planned::new(config, shards, engine, &spill, progress, stop)?.0),
        (_, None) => None,
    };
    if is_planned {
        tracing::info!("The plan is {}: writing the splits", if config.plan.is_some() { "read" } else { "made" });
    }
    let splits = config.selection.splits.names().len();
    let outputs = Outputs::create(stage.folder(), splits, config.compression, config.shard_size, Proof::Whole)?;
    let job = Job { config, shards, engine, spill: &spill, progress, stop };
    let cutter = Cutter::new(Arc::clone(shards), config.run.chunk_size);
    let Written { tally, files, quarantine, inputs, rows } =
        write(&job, cutter, outputs, stage.folder(), planned.as_ref())?;
    let (leakage, warnings) = match &planned {
        Some(planned) => {
            found.map_or(Ok(()), |found| found.check(shards))?;
            let Findings { leakage, warnings } = planned.plan.findings();
            (leakage, [tally.unknowns.warnings(&config.selection), warnings].concat())
        }
        None => {
            let count = |rows: &RowStore| plan::leakage(config, shards, rows, &spill, stop);
            let leakage = rows.as_ref().map(count).transpose()?;
            (leakage.unwrap_or_default(), tally.unknowns.warnings(&config.selection))
        }
    };
    stop.check()?;
    let whole = Whole { tally, files, quarantine, inputs, leakage, warnings };
    let report = conclude(stage, config, shards, whole)?;
    Ok(Report { scanner: Some(engine.name()), gpu_bytes: engine.gpu_bytes(), ..report })
}

/// What lines are written with.
pub(super) struct Job<'a> {
    pub config: &'a ExportConfig,
    pub shards: &'a Arc<[Shard]>,
    pub engine: &'a Engine,
    pub spill: &'a Spill,
    pub progress: &'a Progress,
    pub stop: &'a Stop,
}

/// What came of writing lines.
pub(super) struct Written {
    pub tally: Tally,
    pub files: Vec<FileRecord>,
    pub quarantine: Vec<QuarantineFile>,
    pub inputs: Vec<InputFile>,
    /// Exported documents, where it has to be counted whether their texts stand in two splits.
    pub rows: Option<RowStore>,
}

/// Writes split files and quarantine, in one pass over the chunks.
pub(super) fn write(
    job: &Job<'_>,
    cutter: Cutter,
    outputs: Outputs,
    folder: &Path,
    planned: Option<&Planned>,
) -> Result<Written> {
    let config = job.config;
    let export = Export::new(job, outputs, folder, planned);
    let locals = scheduler::run(&export, cutter, job.engine, config.run.threads, job.stop)?;
    let Export { outputs, ordered, .. } = export;
    let mut tally = Tally::new(config);
    locals.iter().for_each(|local| tally.merge(&local.tally));
    let Ordered { quarantine, inputs, rows } = ordered.into_inner().unwrap_or_else(PoisonError::into_inner);
    let quarantine = quarantine.finish()?;
    let files = outputs.finish(config.selection.splits.names())?;
    Ok(Written { tally, files, quarantine, inputs, rows })
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
    fn new(job: &Job<'a>, outputs: Outputs, folder: &Path, planned: Option<&'a Planned>) -> Export<'a> {
        let Job { config, shards, spill, progress, .. } = *job;
        let inputs = shards.iter().map(|s| InputFile { path: show(&s.name), bytes: s.bytes, ..InputFile::default() });
        Export {
            config,
            shards,
            described: Described::new(&config.schema),
            line: LineWriter::new(&config.schema),
            outputs,
            ordered: Mutex::new(Ordered {
                quarantine: Quarantine::new(folder),
                inputs: inputs.collect(),
                rows: (planned.is_none() && config.selection.may_leak()).then(|| RowStore::new(spill.clone())),
            }),
            progress,
            planned,
        }
    }

    fn lines(&self, chunk: &Chunk, rows: &Rows, tally: &mut Tally, done: &mut Done) -> Result<()> {
        let job = self.job();
        let mut decisions = self.planned.map(|planned| Decisions::of(planned, chunk, self.shards));
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
            // Nothing is balanced or stratified without a plan: there is room for what leakage is counted with.
            if let Some(row) = rows.rows.last_mut() {
                (row.stratum, row.value) = (split as u32, written.len() as u32);
            }
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
    /// Bytes of the shard before the chunk.
    offset: u64,
    rows: Within<'a>,
}

impl<'a> Decisions<'a> {
    fn of(planned: &'a Planned, chunk: &Chunk, shards: &'a [Shard]) -> Decisions<'a> {
        let rows = planned.rows.within(chunk.shard, chunk.offset..chunk.offset + chunk.len() as u64);
        Decisions { planned, shard: &shards[chunk.shard], offset: chunk.offset, rows }
    }

    /// What becomes of the next document, which has to be the one that was scanned.
    fn next(&mut self, row: &Row) -> Result<Fate> {
        let offset = self.offset + u64::from(row.start);
        let is_same =
            |(place, known): &(Place, &DocRow)| (known.hash, place.offset, known.len) == (row.hash, offset, row.len);
        let (place, _) = self.rows.next().filter(is_same).ok_or_else(|| plan::changed(self.shard))?;
        Ok(self.planned.plan.fate(place.index as usize))
    }

    /// There must be no more of them.
    fn end(mut self) -> Result<()> {
        if self.rows.next().is_none() { Ok(()) } else { Err(plan::changed(self.shard)) }
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
