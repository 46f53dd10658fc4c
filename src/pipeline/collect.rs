//! The scan before a plan: a row for each document that the filters admit.

use super::inspect::with_long_line;
use super::scheduler::{self, Progress, Work};
use super::stop::Stop;
use crate::config::ExportConfig;
use crate::domain::ledger::{Ledger, Rejects};
use crate::domain::origin::{UNKNOWN, decoded};
use crate::domain::row::{Row, Rows, Span, Verdict};
use crate::domain::selection::{NamedField, Selection};
use crate::error::{Error, Result};
use crate::input::{Chunk, Cutter};
use crate::scan::ScanJob;
use crate::scan::engine::Engine;
use crate::select::rows::{ChunkRows, DocRow, MAX_VALUES, Names, RowStore};
use crate::select::spill::Spill;
use std::sync::{Mutex, PoisonError};

/// Documents of which something could not be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unknowns {
    /// For each filter, documents that it kept for lack of a value.
    pub undecided: Vec<u64>,
    /// Documents without the field of `--split-key`.
    pub keyless: u64,
}

impl Unknowns {
    /// None yet.
    pub fn new(selection: &Selection) -> Unknowns {
        Unknowns { undecided: vec![0; selection.filters.len()], keyless: 0 }
    }

    /// Adds another worker's counts.
    pub fn merge(&mut self, other: &Unknowns) {
        self.undecided.iter_mut().zip(&other.undecided).for_each(|(mine, theirs)| *mine += theirs);
        self.keyless += other.keyless;
    }

    /// What a user should know of them.
    pub fn warnings(&self, selection: &Selection) -> Vec<String> {
        let undecided = selection.filters.iter().zip(&self.undecided).filter(|(_, documents)| **documents > 0);
        let kept = undecided.map(|(filter, documents)| {
            let name = &filter.name;
            let remedy = match name.as_str() {
                "--domains" | "--exclude-domains" => "--exclude-domains unknown leaves them out",
                _ => "a [[filter]] with required = true leaves such documents out",
            };
            format!("{name}: {documents} documents have no such value and are kept; {remedy}")
        });
        let keyless = selection.key.as_ref().filter(|_| self.keyless > 0).map(|key| {
            format!("--split-key {}: {} documents do not have it and are split by their text", key.name, self.keyless)
        });
        kept.chain(keyless).collect()
    }
}

/// What the scan counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Lines so far: those that the filters admit count as exported.
    pub ledger: Ledger,
    /// Rejected lines by reason.
    pub rejects: Rejects,
    /// What could not be told.
    pub unknowns: Unknowns,
}

impl Counts {
    /// None yet.
    pub fn new(selection: &Selection) -> Counts {
        Counts { unknowns: Unknowns::new(selection), ..Counts::default() }
    }

    /// Adds another worker's counts.
    pub fn merge(&mut self, other: &Counts) {
        self.ledger.merge(&other.ledger);
        self.rejects.merge(&other.rejects);
        self.unknowns.merge(&other.unknowns);
    }
}

/// Scans what is cut, and collects a row for each document that the filters admit.
///
/// # Errors
/// If the shards cannot be read, or there is no room.
pub fn collect(
    config: &ExportConfig,
    cutter: Cutter,
    engine: &Engine,
    spill: &Spill,
    progress: &Progress,
    stop: &Stop,
) -> Result<(RowStore, Counts)> {
    let work = Collect { config, rows: Mutex::new(RowStore::new(spill.clone())), progress };
    let locals = scheduler::run(&work, cutter, engine, config.run.threads, stop)?;
    let rows = work.rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut counts = Counts::new(&config.selection);
    locals.iter().for_each(|local| counts.merge(local));
    Ok((rows, counts))
}

/// Fails if a field by whose values documents are balanced or stratified has too many of them.
///
/// # Errors
/// [`Error::Gate`], naming the flag and the field.
pub fn check_values(selection: &Selection, rows: &RowStore) -> Result<()> {
    for (flag, field, names) in [
        ("--balance-by", selection.balance_by(), &rows.values),
        ("--stratify-by", selection.strata.as_ref(), &rows.strata),
    ] {
        if names.len() > MAX_VALUES {
            let field = field.map_or("", |field| &field.name);
            return Err(Error::Gate(format!(
                "{flag} {field}: it has more than {MAX_VALUES} different values; choose a field with fewer"
            )));
        }
    }
    Ok(())
}

/// Adds a document to the rows of its chunk.
pub fn add_row(selection: &Selection, row: &Row, line: &[u8], spans: &[Span], to: &mut ChunkRows) {
    let number = |field: Option<&NamedField>, names: &mut Names| match field {
        Some(field) => names.number(&field.origin.value(line, spans).map_or(UNKNOWN.as_bytes().into(), decoded)),
        None => 0,
    };
    let value = number(selection.balance_by(), &mut to.values);
    let stratum = number(selection.strata.as_ref(), &mut to.strata);
    to.rows.push(DocRow { value, stratum, ..DocRow::new(row, selection.key_hash(row, line, spans)) });
}

struct Collect<'a> {
    config: &'a ExportConfig,
    rows: Mutex<RowStore>,
    progress: &'a Progress,
}

impl Collect<'_> {
    fn lines(&self, chunk: &Chunk, rows: &Rows, counts: &mut Counts, found: &mut ChunkRows) {
        let selection = &self.config.selection;
        let Counts { ledger, rejects, unknowns } = counts;
        for (row, spans) in rows.iter() {
            ledger.lines += 1;
            match row.verdict() {
                Verdict::Blank => ledger.blank += 1,
                Verdict::Rejected(reason) => {
                    ledger.rejected += 1;
                    rejects.add(reason);
                }
                Verdict::Document => {
                    let line = row.line(chunk);
                    if !selection.admits(row, line, spans, &mut unknowns.undecided) {
                        ledger.filtered += 1;
                        continue;
                    }
                    ledger.exported += 1;
                    unknowns.keyless += u64::from(selection.is_keyless(line, spans));
                    add_row(selection, row, line, spans, found);
                }
            }
        }
    }
}

impl Work for Collect<'_> {
    type Local = Counts;
    type Done = ChunkRows;

    fn local(&self) -> Counts {
        Counts::new(&self.config.selection)
    }

    fn job(&self) -> ScanJob<'_> {
        ScanJob { schema: &self.config.schema, seed: self.config.selection.seed, hash: true }
    }

    fn progress(&self) -> Option<&Progress> {
        Some(self.progress)
    }

    fn process(&self, counts: &mut Counts, chunk: Chunk, rows: &Rows) -> Result<ChunkRows> {
        let mut found = ChunkRows { shard: chunk.shard, offset: chunk.offset, ..ChunkRows::default() };
        self.lines(&chunk, &with_long_line(&chunk, rows, &self.job()), counts, &mut found);
        chunk.check()?;
        self.progress.add(chunk.len() as u64, 0, 0);
        Ok(found)
    }

    fn commit(&self, done: ChunkRows) -> Result<()> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.push(done)?;
        check_values(&self.config.selection, &rows)
    }
}
