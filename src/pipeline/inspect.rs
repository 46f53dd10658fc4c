//! `validate` and `stats`: steps 5 and 6 of the workshop, on files that are already there.

use super::numbering::LineNumbers;
use super::scheduler::{self, Progress, Work};
use super::stop::Stop;
use crate::config::RunConfig;
use crate::domain::ledger::{Ledger, Rejects};
use crate::domain::manifest::{Manifest, is_own};
use crate::domain::reason::Reason;
use crate::domain::row::{Row, Rows, Span, Verdict};
use crate::domain::schema::{Field, FieldType, METADATA, Schema, TEXT};
use crate::domain::stats::{Described, Stats};
use crate::error::{Context, Error, Result, show};
use crate::input::{Chunk, Cutter, Encoding, Shard, discover};
use crate::scan::ScanJob;
use crate::scan::engine::Engine;
use crate::scan::reference::{Decoder, Judgement, judge, locate, member};
use crate::write::stage::{self, MANIFEST, STATS};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The splits that are looked for where no manifest names any.
const SEED_SPLITS: [&str; 3] = ["train", "validation", "test"];
/// Errors of a split that are shown.
const SHOWN_ERRORS: usize = 5;

/// Files that are reported on together: a split, or a shard on its own.
pub struct Group {
    /// The split's name, or the shard's.
    pub name: String,
    /// Its files; `None` if they should be there and are not.
    pub files: Option<Arc<[Shard]>>,
}

/// What there is to look at in a folder: the splits that its manifest names; else train, validation
/// and test, if any of them is there; else every shard on its own.
///
/// # Errors
/// If something cannot be read, or there is nothing.
pub fn groups(path: &Path) -> Result<Vec<Group>> {
    let meta = fs::metadata(path).context(path, "read")?;
    stage::refuse_interrupted(path)?;
    if !meta.is_dir() {
        let files: Arc<[Shard]> = discover(path, None)?.into();
        let name = files.first().map(|shard| split_name(&shard.name)).unwrap_or_default();
        return Ok(vec![Group { name, files: Some(files) }]);
    }
    if let Some(manifest) = read_manifest(path)? {
        let group = |name: &str, files: &[String]| Group {
            name: name.into(),
            files: files.iter().map(|file| shard(path, Path::new(file))).collect::<Option<Vec<_>>>().map(Into::into),
        };
        return Ok(manifest.splits.iter().map(|split| group(&split.name, &split.files)).collect());
    }
    let seed_splits = SEED_SPLITS.map(|name| Group { name: name.into(), files: seed_split(path, name) });
    if seed_splits.iter().any(|group| group.files.is_some()) {
        return Ok(seed_splits.into());
    }
    let shards = discover(path, None)?;
    if shards.is_empty() {
        return Err(Error::Usage(format!("nothing to look at in {}: no manifest, no splits, no shards", show(path))));
    }
    Ok(shards.into_iter().map(|s| Group { name: show(&s.name), files: Some(vec![s].into()) }).collect())
}

/// The manifest of a folder, if it has one.
///
/// # Errors
/// If it is there but cannot be read, or is damaged. Another program's counts as none.
pub fn read_manifest(folder: &Path) -> Result<Option<Manifest>> {
    let path = folder.join(MANIFEST);
    match fs::read(&path) {
        Ok(text) => match serde_json::from_slice::<Value>(&text) {
            Ok(other) if !other["generator"].as_str().is_some_and(is_own) => {
                tracing::warn!("{} is another program's: not heeded", show(&path));
                Ok(None)
            }
            _ => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|e| Error::Gate(format!("{}: damaged: {e}; export again", show(&path)))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(&path, "read", &error)),
    }
}

fn seed_split(folder: &Path, name: &str) -> Option<Arc<[Shard]>> {
    let found =
        ["", ".gz", ".zst"].iter().find_map(|suffix| shard(folder, Path::new(&format!("{name}.jsonl{suffix}"))));
    found.map(|shard| vec![shard].into())
}

/// A file of a folder as a shard, if it is there and one by its name.
pub(super) fn shard(folder: &Path, name: &Path) -> Option<Shard> {
    let path = folder.join(name);
    let meta = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    Some(Shard { encoding: Encoding::of(&path)?, path, name: name.into(), bytes: meta.len() })
}

/// `train` for `train.jsonl.gz`.
fn split_name(name: &Path) -> String {
    let name = show(name);
    let stem = [".jsonl", ".ndjson"].iter().find_map(|suffix| name.rfind(suffix).map(|at| &name[..at]));
    stem.unwrap_or(&name).into()
}

fn schema(fields: &[(&str, &str)]) -> Schema {
    let text = Field { from: TEXT.into(), to: TEXT.into(), kind: FieldType::String, required: true };
    let other = |(from, to): &(&str, &str)| Field {
        from: (*from).into(),
        to: (*to).into(),
        kind: FieldType::Any,
        required: false,
    };
    let fields = std::iter::once(text).chain(fields.iter().map(other)).collect();
    Schema::new(fields, Vec::new()).expect("these fields are sound")
}

/// What `validate` found in a split.
#[derive(Clone, Debug, Default)]
pub struct Validation {
    /// The split's name.
    pub name: String,
    /// Whether its files were there.
    pub found: bool,
    /// Lines that are not blank.
    pub documents: u64,
    /// How many errors there are.
    pub errors: u64,
    /// The first of them.
    pub shown: Vec<String>,
    /// How many texts were measured, and their lengths in code points.
    pub lengths: Lengths,
}

/// Lengths of texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lengths {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The shortest; 0 if there is none.
    pub min: u64,
    /// The longest.
    pub max: u64,
}

impl Lengths {
    fn add(&mut self, chars: u64) {
        self.min = if self.count == 0 { chars } else { self.min.min(chars) };
        self.max = self.max.max(chars);
        self.count += 1;
        self.sum += chars;
    }

    fn merge(&mut self, other: &Lengths) {
        if other.count > 0 {
            self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
            self.max = self.max.max(other.max);
            self.count += other.count;
            self.sum += other.sum;
        }
    }
}

impl Validation {
    /// Whether nothing is wrong.
    pub fn passed(&self) -> bool {
        self.found && self.errors == 0
    }

    /// The report for machines.
    pub fn to_json(&self) -> Value {
        let Lengths { count, sum, min, max } = self.lengths;
        let mean = if count == 0 { Value::Null } else { (sum as f64 / count as f64).into() };
        json!({
            "split": self.name,
            "found": self.found,
            "passed": self.passed(),
            "documents": self.documents,
            "errors": self.errors,
            "first_errors": self.shown,
            "text_length": { "mean": mean, "min": min, "max": max },
        })
    }
}

/// Validates a split.
///
/// # Errors
/// If the files cannot be read; what is wrong with the data is in the result.
pub fn validate(
    group: &Group,
    engine: &Engine,
    run: &RunConfig,
    progress: &Progress,
    stop: &Stop,
) -> Result<Validation> {
    let found = group.files.is_some();
    let mut validation = Validation { name: group.name.clone(), found, ..Validation::default() };
    let Some(files) = &group.files else { return Ok(validation) };
    let work = Validate { files, schema: schema(&[(METADATA, "present")]), ordered: Mutex::default(), progress };
    let cutter = Cutter::new(Arc::clone(files), run.chunk_size);
    for local in scheduler::run(&work, cutter, engine, run.threads, stop)? {
        validation.documents += local.documents;
        validation.errors += local.errors;
        validation.lengths.merge(&local.lengths);
    }
    validation.shown = work.ordered.into_inner().unwrap_or_else(PoisonError::into_inner).shown;
    Ok(validation)
}

struct Validate<'a> {
    files: &'a [Shard],
    schema: Schema,
    ordered: Mutex<FirstErrors>,
    progress: &'a Progress,
}

#[derive(Default)]
struct FirstErrors {
    numbers: LineNumbers,
    shown: Vec<String>,
}

#[derive(Default)]
struct ValidateLocal {
    documents: u64,
    errors: u64,
    lengths: Lengths,
}

/// A chunk's lines and first errors, by their place in the chunk.
struct ChunkErrors {
    shard: usize,
    lines: u64,
    first: Vec<(u64, String)>,
}

impl Work for Validate<'_> {
    type Local = ValidateLocal;
    type Done = ChunkErrors;

    fn local(&self) -> ValidateLocal {
        ValidateLocal::default()
    }

    fn job(&self) -> ScanJob<'_> {
        ScanJob { schema: &self.schema, seed: 0, hash: false }
    }

    fn progress(&self) -> Option<&Progress> {
        Some(self.progress)
    }

    fn process(&self, local: &mut ValidateLocal, chunk: Chunk, rows: &Rows) -> Result<ChunkErrors> {
        let rows = with_long_line(&chunk, rows, &self.job());
        let mut done = ChunkErrors { shard: chunk.shard, lines: rows.rows.len() as u64, first: Vec::new() };
        let (documents, errors) = (local.documents, local.errors);
        for (number, (row, spans)) in rows.iter().enumerate() {
            if row.verdict() == Verdict::Blank {
                continue;
            }
            local.documents += 1;
            if let Verdict::Rejected(reason) = row.verdict() {
                self.progress.reject(reason);
            }
            let line = if chunk.is_too_long_for_rows() { &chunk[..] } else { row.line(&chunk) };
            let (found, chars) = self.line(row, spans, line);
            if let Some(chars) = chars {
                local.lengths.add(chars);
            }
            for error in found {
                local.errors += 1;
                if done.first.len() < SHOWN_ERRORS {
                    done.first.push((number as u64, error));
                }
            }
        }
        chunk.check()?;
        self.progress.add(chunk.len() as u64, local.documents - documents, local.errors - errors);
        Ok(done)
    }

    fn commit(&self, done: ChunkErrors) -> Result<()> {
        let mut ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        let before = ordered.numbers.before(done.shard, done.lines);
        for (line, error) in done.first {
            if ordered.shown.len() < SHOWN_ERRORS {
                let number = before + line + 1;
                // A split of one file is reported as the workshop does; of several, the file is named.
                let file = if self.files.len() > 1 {
                    format!("{}: ", show(&self.files[done.shard].name))
                } else {
                    String::new()
                };
                ordered.shown.push(format!("{file}Line {number}: {error}"));
            }
        }
        Ok(())
    }
}

impl Validate<'_> {
    /// What is wrong with a line, and its text's length if that is to be counted.
    fn line(&self, row: &Row, spans: &[Span], line: &[u8]) -> (Vec<String>, Option<u64>) {
        match row.verdict() {
            Verdict::Document if !spans[1].is_absent() => (Vec::new(), Some(row.chars.into())),
            Verdict::Document => (metadata_error(line), Some(row.chars.into())),
            Verdict::Blank => (Vec::new(), None),
            Verdict::Rejected(Reason::NullByte) => self.null_bytes(line),
            Verdict::Rejected(reason) => (vec![self.message(reason, line)], None),
        }
    }

    /// As in the workshop, a text with U+0000 is measured all the same, and its metadata looked at.
    fn null_bytes(&self, line: &[u8]) -> (Vec<String>, Option<u64>) {
        if line.contains(&0) {
            return (vec!["Invalid JSON".into()], None);
        }
        let mut errors = vec!["Contains null bytes".to_owned()];
        let text = locate(line, &self.schema).and_then(|values| values[self.schema.text_source()].clone());
        let chars = text.map(|text| Decoder::new(&line[text]).count() as u64);
        if chars.is_some() {
            errors.extend(metadata_error(line));
        }
        (errors, chars)
    }

    /// The workshop's words where it has some.
    fn message(&self, reason: Reason, line: &[u8]) -> String {
        let missing = || "Missing \"text\" field".to_owned();
        match reason {
            Reason::InvalidJson => "Invalid JSON".into(),
            Reason::InvalidUtf8 => "Invalid UTF-8".into(),
            Reason::LoneSurrogate => "Lone surrogate in text or metadata".into(),
            Reason::TooLong => "Longer than 1 GiB".into(),
            Reason::NotObject => missing(),
            Reason::EmptyText | Reason::NullByte => "Empty text".into(),
            Reason::MissingField | Reason::WrongType => match member(line, TEXT) {
                None => missing(),
                Some(b"null" | b"false") => "Empty text".into(),
                Some(value) => python_type_error(value),
            },
        }
    }
}

fn metadata_error(line: &[u8]) -> Vec<String> {
    // `null` has no span, but it is there.
    if member(line, METADATA).is_none() { vec!["Missing metadata".into()] } else { Vec::new() }
}

/// What the workshop says of a text that is not a string: empty values count as empty texts.
fn python_type_error(value: &[u8]) -> String {
    let is_empty = |close| value[1..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&close);
    let number = || std::str::from_utf8(value).ok().and_then(|v| v.parse::<f64>().ok()).unwrap_or(1.0);
    let (name, empty) = match value.first() {
        Some(b't') => ("bool", false),
        Some(b'[') => ("list", is_empty(b']')),
        Some(b'{') => ("dict", is_empty(b'}')),
        _ if value.iter().any(|b| matches!(b, b'.' | b'e' | b'E')) => ("float", number() == 0.0),
        _ => ("int", number() == 0.0),
    };
    if empty { "Empty text".into() } else { format!("text is {name}, expected str") }
}

/// The rows of a chunk; a line too long for a row gets one all the same, without a length.
pub(super) fn with_long_line<'a>(chunk: &Chunk, rows: &'a Rows, job: &ScanJob) -> Cow<'a, Rows> {
    if !chunk.is_too_long_for_rows() {
        return Cow::Borrowed(rows);
    }
    let verdict = match judge(chunk.strip_suffix(b"\n").unwrap_or(chunk), job) {
        Judgement::Rejected(rejection) => Verdict::Rejected(rejection.reason),
        _ => Verdict::Blank,
    };
    let mut rows = Rows::default();
    rows.clear(job.schema.tree().sources());
    rows.push_without_spans(Row::without_measures(0, 0, verdict, 0));
    Cow::Owned(rows)
}

/// Counts the splits of a folder afresh, as `dataset_stats.json` has them.
///
/// The ledger, the rejects and the leakage of an export are not counted from its output; where the folder has
/// them, they are kept. So the statistics of an untouched export come out as they were.
///
/// Also says how many lines were no documents.
///
/// # Errors
/// If the files cannot be read.
pub fn stats(
    folder: &Path,
    engine: &Engine,
    run: &RunConfig,
    progress: &Progress,
    stop: &Stop,
) -> Result<(Value, u64)> {
    let groups = groups(folder)?;
    let has_manifest = read_manifest(folder)?.is_some();
    if let (true, Some(lost)) = (has_manifest, groups.iter().find(|group| group.files.is_none())) {
        let folder = show(folder);
        return Err(Error::Gate(format!(
            "{folder}: the split '{}' is not there whole, though the manifest names it",
            lost.name
        )));
    }
    // Without a manifest a split that is missing is passed over, as in the workshop.
    let groups: Vec<Group> = groups.into_iter().filter(|group| group.files.is_some()).collect();
    let paths = ["metadata.domain", "metadata.quality_score", "metadata.word_count"];
    let schema = schema(&paths.map(|path| (path, path)));
    let described = Described::new(&schema);
    let mut stats = Stats::new(groups.len());
    let (mut ledger, mut rejects) = (Ledger::default(), Rejects::default());
    for (split, group) in groups.iter().enumerate() {
        let Some(files) = &group.files else { continue };
        let work = Count { split, splits: groups.len(), schema: &schema, described: &described, progress };
        let cutter = Cutter::new(Arc::clone(files), run.chunk_size);
        for local in scheduler::run(&work, cutter, engine, run.threads, stop)? {
            stats.merge(&local.stats);
            ledger.merge(&local.ledger);
            rejects.merge(&local.rejects);
        }
    }
    let names: Vec<String> = groups.into_iter().map(|group| group.name).collect();
    let mut value = stats.to_json(&names, &ledger, &rejects);
    let earlier = fs::read(folder.join(STATS)).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    if let (true, Some(earlier)) = (has_manifest, earlier) {
        for key in ["ledger", "rejects", "leakage"].into_iter().filter(|key| earlier.get(key).is_some()) {
            value[key] = earlier[key].clone();
        }
    }
    Ok((value, ledger.rejected))
}

/// Writes the statistics into their folder, at once.
///
/// # Errors
/// If the file cannot be written.
pub fn write_stats(folder: &Path, stats: &Value) -> Result<PathBuf> {
    let path = folder.join(STATS);
    let text = format!("{stats:#}\n");
    let mut file = tempfile::NamedTempFile::new_in(folder).context(folder, "write")?;
    std::io::Write::write_all(&mut file, text.as_bytes()).context(&path, "write")?;
    use std::os::unix::fs::PermissionsExt;
    // A temporary file is its owner's alone; a result is for whoever may read the others.
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).context(&path, "write")?;
    file.as_file().sync_all().context(&path, "sync")?;
    file.persist(&path).map_err(|e| Error::io(&path, "write", &e.error))?;
    Ok(path)
}

struct Count<'a> {
    split: usize,
    splits: usize,
    schema: &'a Schema,
    described: &'a Described,
    progress: &'a Progress,
}

struct CountLocal {
    stats: Stats,
    ledger: Ledger,
    rejects: Rejects,
}

impl Work for Count<'_> {
    type Local = CountLocal;
    type Done = ();

    fn local(&self) -> CountLocal {
        CountLocal { stats: Stats::new(self.splits), ledger: Ledger::default(), rejects: Rejects::default() }
    }

    fn job(&self) -> ScanJob<'_> {
        ScanJob { schema: self.schema, seed: 0, hash: false }
    }

    fn progress(&self) -> Option<&Progress> {
        Some(self.progress)
    }

    fn process(&self, local: &mut CountLocal, chunk: Chunk, rows: &Rows) -> Result<()> {
        let rows = with_long_line(&chunk, rows, &self.job());
        let (exported, rejected) = (local.ledger.exported, local.ledger.rejected);
        for (row, spans) in rows.iter() {
            local.ledger.lines += 1;
            match row.verdict() {
                Verdict::Blank => local.ledger.blank += 1,
                Verdict::Rejected(reason) => {
                    local.ledger.rejected += 1;
                    local.rejects.add(reason);
                    self.progress.reject(reason);
                }
                Verdict::Document => {
                    local.ledger.exported += 1;
                    let line = row.line(&chunk);
                    local.stats.add(self.split, row, line, spans, line.len() as u64 + 1, self.described);
                }
            }
        }
        chunk.check()?;
        self.progress.add(chunk.len() as u64, local.ledger.exported - exported, local.ledger.rejected - rejected);
        Ok(())
    }

    fn commit(&self, (): ()) -> Result<()> {
        Ok(())
    }
}
