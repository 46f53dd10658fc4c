//! Every line of the splits, scanned and counted again.

use super::files::Files;
use super::{Problems, SHOWN, Verification};
use crate::domain::ledger::{Ledger, Rejects};
use crate::domain::manifest::{Manifest, SplitFiles};
use crate::domain::reason::Reason;
use crate::domain::row::{Row, Rows, Span, Verdict};
use crate::domain::schema::{Field, FieldType, MAX_FIELDS, METADATA, Schema};
use crate::domain::stats::{Described, Stats};
use crate::error::{Error, Result, show};
use crate::input::{Chunk, Cutter, Encoding, Shard};
use crate::pipeline::inspect::with_long_line;
use crate::pipeline::numbering::LineNumbers;
use crate::pipeline::scheduler::{self, Progress, Work};
use crate::scan::{ScanJob, detail};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What was counted.
pub struct Recount {
    /// Whether every split could be counted.
    pub is_whole: bool,
    /// Lines of all splits.
    pub lines: u64,
    /// Documents of each split.
    pub splits: Vec<u64>,
    /// Documents of each file.
    pub files: BTreeMap<String, u64>,
    /// What `dataset_stats.json` should say, of what can be counted in the splits.
    pub stats: Map<String, Value>,
    /// Lines that are no JSON objects.
    pub json: Problems,
    /// Documents without a text.
    pub text: Problems,
    /// Documents whose fields are not as they should be.
    pub fields: Problems,
    /// What a document has to be.
    pub schema: Schema,
    /// The hashes of each split's texts, sorted.
    pub hashes: Vec<Vec<u64>>,
    /// Splits that could not be read to the end, with the reason.
    unread: Vec<(usize, Error)>,
}

/// Keys of the statistics that the splits alone decide.
const COUNTED: [&str; 5] =
    ["total_documents", "splits", "domain_distribution", "quality_distribution", "text_length_stats"];

impl Recount {
    /// Counts all splits whose files are there.
    ///
    /// # Errors
    /// If a plain file cannot be read, or the run was asked to stop.
    pub fn new(of: &Verification, files: &Files) -> Result<Recount> {
        let expected = Expected::new(of.manifest);
        let described = Described::new(&expected.schema);
        let names: Vec<String> = of.manifest.splits.iter().map(|split| split.name.clone()).collect();
        let mut stats = Stats::new(names.len());
        let mut found = Found::default();
        let (mut splits, mut hashes, mut unread) = (Vec::new(), Vec::new(), Vec::new());
        let mut is_whole = true;
        for (split, listed) in of.manifest.splits.iter().enumerate() {
            let Some(shards) = shards(listed, files) else {
                is_whole = false;
                splits.push(0);
                continue;
            };
            let work = Count {
                split,
                shards: &shards,
                stats: &stats,
                expected: &expected,
                described: &described,
                ordered: Mutex::new(Found { numbers: LineNumbers::default(), ..found }),
                progress: of.progress,
            };
            let cutter = Cutter::new(Arc::clone(&shards), of.run.chunk_size);
            let counted = scheduler::run(&work, cutter, of.engine, of.run.threads, of.stop);
            found = work.ordered.into_inner().unwrap_or_else(PoisonError::into_inner);
            match counted {
                Ok(locals) => {
                    locals.iter().for_each(|local| stats.merge(&local.stats));
                    let mut all: Vec<u64> = locals.into_iter().flat_map(|local| local.hashes).collect();
                    all.sort_unstable();
                    hashes.push(all);
                }
                Err(error) if shards.iter().all(|shard| shard.encoding == Encoding::Plain) => return Err(error),
                Err(error @ Error::Stopped(_)) => return Err(error),
                Err(error) => unread.push((split, error)),
            }
            splits.push(listed.files.iter().map(|path| found.files.get(path).copied().unwrap_or(0)).sum());
        }
        Ok(Recount {
            is_whole,
            lines: found.lines,
            splits,
            files: found.files,
            stats: as_written(&stats, &names),
            json: found.json,
            text: found.text,
            fields: found.fields,
            schema: expected.schema,
            hashes,
            unread,
        })
    }

    /// A packed split that cannot be unpacked is a fault of the data if its files are not what they were, and of
    /// the environment if they are.
    ///
    /// # Errors
    /// In the second case.
    pub fn explain(&mut self, files: &Files, manifest: &Manifest) -> Result<()> {
        for (split, error) in std::mem::take(&mut self.unread) {
            if !manifest.splits[split].files.iter().any(|path| files.is_damaged(path)) {
                return Err(error);
            }
            self.is_whole = false;
            self.json.add(error.to_string());
        }
        Ok(())
    }
}

/// The files of a split, if all are there.
pub fn shards(split: &SplitFiles, files: &Files) -> Option<Arc<[Shard]>> {
    let shard = |listed: &String| {
        let path = files.path(listed)?;
        let bytes = std::fs::metadata(path).ok()?.len();
        Some(Shard { encoding: Encoding::of(path)?, path: path.into(), name: Path::new(listed).into(), bytes })
    };
    split.files.iter().map(shard).collect::<Option<Vec<_>>>().map(Into::into)
}

/// The statistics as they would come back from a file.
fn as_written(stats: &Stats, names: &[String]) -> Map<String, Value> {
    let value = stats.to_json(names, &Ledger::default(), &Rejects::default());
    let read: Value = serde_json::from_str(&value.to_string()).unwrap_or_default();
    COUNTED.iter().map(|key| ((*key).to_owned(), read[*key].clone())).collect()
}

/// What the configuration says of an exported document.
struct Expected {
    /// The fields at their places in an exported line; then the constants; then `metadata` itself.
    schema: Schema,
    /// Sources of the constants, with their values.
    constants: Vec<(usize, Value)>,
    /// Source of `metadata`.
    metadata: usize,
}

impl Expected {
    fn new(manifest: &Manifest) -> Expected {
        let fields = manifest.configuration.get("fields").cloned().unwrap_or_default();
        let fields: Vec<Field> = serde_json::from_value(fields).unwrap_or_default();
        let constants = manifest.configuration.get("constants").and_then(Value::as_object).cloned().unwrap_or_default();
        let in_place = |field: Field| Field { from: field.to.clone(), ..field };
        let mut expected: Vec<Field> = fields.into_iter().map(in_place).collect();
        let room = (MAX_FIELDS - 1).saturating_sub(expected.len());
        expected.extend(constants.keys().take(room).map(|to| any(to, to)));
        // A name that nothing else has.
        let mut metadata = METADATA.to_owned() + "?";
        while expected.iter().any(|field| field.to == metadata || field.to.starts_with(&(metadata.clone() + "."))) {
            metadata.push('?');
        }
        expected.push(any(METADATA, &metadata));
        let schema = Schema::new(expected, Vec::new()).unwrap_or_else(|_| plain_schema(&metadata));
        let source = |(to, value): (String, Value)| Some((schema.source_to(&to)?, value));
        let constants = constants.into_iter().filter_map(source).collect();
        let metadata = schema.source_to(&metadata).unwrap_or_default();
        Expected { constants, metadata, schema }
    }

    /// What is wrong with a document's fields.
    fn fault(&self, line: &[u8], spans: &[Span]) -> Option<String> {
        if spans[self.metadata].is_absent() {
            return Some("no metadata".into());
        }
        let differs = |(source, value): &&(usize, Value)| {
            let span = spans[*source];
            span.is_absent() || serde_json::from_slice::<Value>(span.of(line)).ok().as_ref() != Some(value)
        };
        let (source, value) = self.constants.iter().find(differs)?;
        let name = self.schema.fields().iter().enumerate().find(|(i, _)| self.schema.source_of(*i) == *source);
        Some(format!("{} is not {value}, as in every document", name.map_or("a constant", |(_, field)| &field.to)))
    }
}

fn any(from: &str, to: &str) -> Field {
    Field { from: from.into(), to: to.into(), kind: FieldType::Any, required: false }
}

/// For a manifest whose fields make no sense.
fn plain_schema(metadata: &str) -> Schema {
    let text = Field { kind: FieldType::String, required: true, ..any("text", "text") };
    Schema::new(vec![text, any(METADATA, metadata)], Vec::new()).expect("these fields are sound")
}

/// What was found, in input order.
#[derive(Default)]
struct Found {
    numbers: LineNumbers,
    lines: u64,
    files: BTreeMap<String, u64>,
    json: Problems,
    text: Problems,
    fields: Problems,
}

/// What a fault is a fault of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Json,
    Text,
    Fields,
}

struct Count<'a> {
    split: usize,
    shards: &'a [Shard],
    /// For as many splits.
    stats: &'a Stats,
    expected: &'a Expected,
    described: &'a Described,
    ordered: Mutex<Found>,
    progress: &'a Progress,
}

struct Local {
    stats: Stats,
    hashes: Vec<u64>,
}

/// A chunk's lines and documents, and its faults by their place in it: the first with words.
struct Done {
    shard: usize,
    lines: u64,
    documents: u64,
    faults: Vec<(u64, Of, Option<String>)>,
}

impl Work for Count<'_> {
    type Local = Local;
    type Done = Done;

    fn local(&self) -> Local {
        Local { stats: self.stats.as_empty(), hashes: Vec::new() }
    }

    fn job(&self) -> ScanJob<'_> {
        ScanJob { schema: &self.expected.schema, seed: 0, hash: true }
    }

    fn process(&self, local: &mut Local, chunk: Chunk, rows: &Rows) -> Result<Done> {
        let rows = with_long_line(&chunk, rows, &self.job());
        let mut done = Done { shard: chunk.shard, lines: rows.rows.len() as u64, documents: 0, faults: Vec::new() };
        for (number, (row, spans)) in rows.iter().enumerate() {
            let line = if chunk.is_too_long_for_rows() { &chunk[..] } else { row.line(&chunk) };
            done.documents += u64::from(row.verdict() != Verdict::Blank);
            if row.verdict() == Verdict::Document {
                local.hashes.push(row.hash);
                local.stats.add(self.split, row, line, spans, line.len() as u64 + 1, self.described);
            }
            if let Some((of, fault)) = self.fault(row, line, spans) {
                let is_shown = done.faults.iter().filter(|(_, other, _)| *other == of).count() < SHOWN;
                done.faults.push((number as u64, of, is_shown.then(fault)));
            }
        }
        chunk.check()?;
        self.progress.add(chunk.len() as u64, done.documents, done.faults.len() as u64);
        Ok(done)
    }

    fn commit(&self, done: Done) -> Result<()> {
        let found = &mut *self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        let before = found.numbers.before(done.shard, done.lines);
        let file = show(&self.shards[done.shard].name);
        for (line, of, fault) in done.faults {
            let problems = match of {
                Of::Json => &mut found.json,
                Of::Text => &mut found.text,
                Of::Fields => &mut found.fields,
            };
            problems.add(format!("{file}, line {}: {}", before + line + 1, fault.unwrap_or_default()));
        }
        found.lines += done.lines;
        *found.files.entry(file).or_default() += done.documents;
        Ok(())
    }
}

impl Count<'_> {
    /// What is wrong with a line, in words if they are wanted.
    fn fault<'a>(
        &'a self,
        row: &Row,
        line: &'a [u8],
        spans: &'a [Span],
    ) -> Option<(Of, Box<dyn FnOnce() -> String + 'a>)> {
        let why = move || detail::of(line, &self.job());
        match row.verdict() {
            Verdict::Blank => Some((Of::Json, Box::new(|| "a blank line".into()))),
            Verdict::Document => {
                let fault = self.expected.fault(line, spans)?;
                Some((Of::Fields, Box::new(move || fault)))
            }
            Verdict::Rejected(reason) => {
                let is_text = usize::from(row.field) == self.expected.schema.text_field();
                let of = match reason {
                    Reason::MissingField | Reason::WrongType if !is_text => Of::Fields,
                    Reason::MissingField | Reason::WrongType | Reason::EmptyText => Of::Text,
                    Reason::NullByte if !line.contains(&0) => Of::Text,
                    _ => Of::Json,
                };
                Some((of, Box::new(why)))
            }
        }
    }
}
