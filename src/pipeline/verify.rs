//! `verify`: a finished export, read again from its files and held against its manifest.
//!
//! Nothing that the export counted is believed: every file is hashed, every line scanned, every text compared.

mod files;
mod recount;
mod texts;

use super::inspect::read_manifest;
use super::scheduler::Progress;
use super::stop::Stop;
use crate::config::RunConfig;
use crate::domain::ledger::Ledger;
use crate::domain::manifest::{self, Manifest};
use crate::error::{Context, Error, Result, show};
use crate::scan::engine::Engine;
use crate::write::quarantine;
use crate::write::stage::{self, MANIFEST, STATS};
use files::Files;
use recount::Recount;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Problems of an item that are shown.
const SHOWN: usize = 10;

/// What came of a verification: the items of the workshop's checklist, in its order.
pub struct Report {
    /// The items.
    pub items: Vec<Item>,
}

/// Something that has to be so.
pub struct Item {
    /// Its name, for machines.
    pub key: &'static str,
    /// What has to be so.
    pub title: &'static str,
    /// How much was looked at, in words; empty where there is nothing to say.
    pub scope: String,
    /// Whether it is.
    pub outcome: Outcome,
    /// What is wrong: the first of it.
    pub problems: Vec<String>,
    /// How many problems there are.
    pub count: u64,
}

/// Whether an item holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It does.
    Passed,
    /// It does not.
    Failed,
    /// It could not be looked at, for what another item says.
    NotChecked,
}

/// What is wrong with one item: the first problems, and how many there are.
#[derive(Default)]
struct Problems {
    shown: Vec<String>,
    count: u64,
}

impl Problems {
    fn add(&mut self, problem: impl Into<String>) {
        self.count += 1;
        if self.shown.len() < SHOWN {
            self.shown.push(problem.into());
        }
    }

    fn expect(&mut self, is_so: bool, problem: impl FnOnce() -> String) {
        if !is_so {
            self.add(problem());
        }
    }

    fn item(self, key: &'static str, title: &'static str, scope: String) -> Item {
        let outcome = if self.count == 0 { Outcome::Passed } else { Outcome::Failed };
        Item { key, title, scope, outcome, problems: self.shown, count: self.count }
    }
}

/// Keys and titles of the items after the first.
const ITEMS: [(&str, &str); 11] = [
    ("files", "Every file is there"),
    ("sizes", "Every file has its size"),
    ("sha256", "Every file has its SHA-256"),
    ("stray", "There are no other files"),
    ("json", "Every line is one JSON object"),
    ("text", "Every document has a text"),
    ("fields", "Every document has metadata with the expected fields"),
    ("counts", "Every split has its documents"),
    ("statistics", "The statistics agree with a fresh count"),
    ("leakage", "No text stands in two splits"),
    ("ledger", "The ledger balances"),
];

impl Report {
    /// Whether every item holds.
    pub fn passed(&self) -> bool {
        self.items.iter().all(|item| item.outcome == Outcome::Passed)
    }

    /// The report for machines.
    pub fn to_json(&self) -> Value {
        let outcome = |outcome| match outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::NotChecked => "not_checked",
        };
        let item = |item: &Item| {
            json!({
                "item": item.key,
                "title": item.title,
                "scope": item.scope,
                "outcome": outcome(item.outcome),
                "problems": item.count,
                "first_problems": item.problems,
            })
        };
        json!({ "passed": self.passed(), "items": self.items.iter().map(item).collect::<Vec<_>>() })
    }

    /// There is no manifest to hold anything against.
    fn without_manifest(problem: String) -> Report {
        let mut complete = Problems::default();
        complete.add(problem);
        let mut items = vec![complete.item("complete", COMPLETE, String::new())];
        items.extend(ITEMS.map(|(key, title)| not_checked(key, title)));
        Report { items }
    }
}

const COMPLETE: &str = "The export is complete";

fn not_checked(key: &'static str, title: &'static str) -> Item {
    let (outcome, problems) = (Outcome::NotChecked, Vec::new());
    Item { key, title, scope: String::new(), outcome, problems, count: 0 }
}

/// Bytes that a verification reads: every file once, and the lines of the splits once more. `None` where some are
/// compressed, or there is no manifest.
pub fn total(folder: &Path) -> Option<u64> {
    let manifest = fs::read(folder.join(MANIFEST)).ok()?;
    let manifest: Manifest = serde_json::from_slice(&manifest).ok()?;
    let splits = manifest.splits.iter().flat_map(|split| &split.files);
    let is_packed = splits.clone().any(|path| !path.ends_with(".jsonl"));
    let of_splits = manifest.files.iter().filter(|file| file.documents.is_some()).map(|file| file.bytes);
    let all = manifest.files.iter().map(|file| file.bytes).chain(of_splits);
    (!is_packed).then(|| all.fold(0, u64::saturating_add))
}

/// Verifies an export.
///
/// # Errors
/// If the folder or a file cannot be read, an export into it was interrupted, or it is of a later version. What is
/// wrong with the export is in the report.
pub fn verify(folder: &Path, engine: &Engine, run: &RunConfig, progress: &Progress, stop: &Stop) -> Result<Report> {
    if !fs::metadata(folder).context(folder, "read the folder")?.is_dir() {
        return Err(Error::Usage(format!("{}: verify checks the folder of an export, and this is none", show(folder))));
    }
    stage::refuse_interrupted(folder)?;
    let manifest = match read_manifest(folder) {
        Ok(Some(manifest)) => manifest,
        Ok(None) => return Ok(Report::without_manifest(format!("no {MANIFEST} of colophon in {}", show(folder)))),
        Err(Error::Gate(damage)) => return Ok(Report::without_manifest(damage)),
        Err(error) => return Err(error),
    };
    if manifest.format > manifest::FORMAT {
        return Err(Error::Usage(format!(
            "{} has format {}, and this colophon knows formats up to {}: use the version that made it, {}",
            show(&folder.join(MANIFEST)),
            manifest.format,
            manifest::FORMAT,
            manifest.generator
        )));
    }
    Verification { folder, manifest: &manifest, engine, run, progress, stop }.report()
}

struct Verification<'a> {
    folder: &'a Path,
    manifest: &'a Manifest,
    engine: &'a Engine,
    run: &'a RunConfig,
    progress: &'a Progress,
    stop: &'a Stop,
}

impl Verification<'_> {
    fn report(&self) -> Result<Report> {
        let mut files = Files::find(self.folder, self.manifest)?;
        let cancelled = AtomicBool::new(false);
        // A file's hash is one thread's work, and scanning leaves the disk idle: both go on at once.
        let (hashed, recount) = std::thread::scope(|scope| {
            let hashing = scope.spawn(|| files.hash(self.run.threads, self.progress, self.stop, &cancelled));
            let recount = Recount::new(self, &files);
            if recount.is_err() {
                cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            (hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), recount)
        });
        let mut recount = recount?;
        files.compare(self.manifest, &hashed?);
        recount.explain(&files, self.manifest)?;
        let leakage = match recount.is_whole {
            true => Some(texts::in_two_splits(self, &files, &recount)?),
            false => None,
        };
        let stats = self.read_stats();
        let mut items = vec![Problems::default().item("complete", COMPLETE, self.manifest.generator.clone())];
        let bytes = indicatif::HumanBytes(files.bytes()).to_string();
        let number = format!("{} files", self.manifest.files.len());
        let lines = format!("{} lines", recount.lines);
        let parts = if files.has_parts { "but for parts/, of an export that workers make" } else { "" };
        let scopes = [number, bytes.clone(), bytes, parts.into(), lines, String::new(), String::new()];
        let Files { missing, sizes, hashes, stray, .. } = files;
        let statistics = stats.as_ref().ok().map(|stats| self.statistics(stats, &recount, leakage.as_ref()));
        let statistics = statistics.unwrap_or_else(|| {
            let mut problems = Problems::default();
            problems.add(stats.as_ref().err().cloned().unwrap_or_default());
            problems
        });
        let ledger = self.ledger(stats.as_ref().ok())?;
        let documents = recount.splits.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" + ");
        let counts = self.counts(&recount);
        let Recount { is_whole, json, text, fields, .. } = recount;
        let found = [missing, sizes, hashes, stray, json, text, fields];
        for (((key, title), problems), scope) in ITEMS.into_iter().zip(found).zip(scopes) {
            let is_of_lines = matches!(key, "json" | "text" | "fields");
            items.push(match is_of_lines && !is_whole && problems.count == 0 {
                true => not_checked(key, title),
                false => problems.item(key, title, scope),
            });
        }
        let allowed = leakage.map(|leakage| self.leakage(leakage, stats.as_ref().ok()));
        let scoped = [
            is_whole.then_some((counts, documents)),
            is_whole.then_some((statistics, STATS.into())),
            allowed,
            Some((ledger, self.manifest.ledger.to_string())),
        ];
        for ((key, title), found) in ITEMS[7..].iter().zip(scoped) {
            items.push(
                found.map_or_else(|| not_checked(key, title), |(problems, scope)| problems.item(key, title, scope)),
            );
        }
        Ok(Report { items })
    }

    /// The statistics as they lie there.
    fn read_stats(&self) -> std::result::Result<Value, String> {
        let text = fs::read(self.folder.join(STATS)).map_err(|e| format!("{STATS} cannot be read: {e}"))?;
        serde_json::from_slice(&text).map_err(|e| format!("{STATS} is damaged: {e}"))
    }

    /// Documents of every split and every file.
    fn counts(&self, recount: &Recount) -> Problems {
        let mut problems = Problems::default();
        for (split, counted) in self.manifest.splits.iter().zip(&recount.splits) {
            let said = split.documents;
            problems.expect(said == *counted, || {
                format!("{} has {counted} documents, the manifest says {said}", split.name)
            });
        }
        for file in &self.manifest.files {
            let (Some(said), Some(counted)) = (file.documents, recount.files.get(&file.path)) else { continue };
            problems.expect(said == *counted, || {
                format!("{} has {counted} documents, the manifest says {said}", file.path)
            });
        }
        problems
    }

    /// What was counted afresh against what was written.
    fn statistics(&self, stats: &Value, recount: &Recount, leakage: Option<&texts::Leakage>) -> Problems {
        let mut problems = Problems::default();
        for (key, counted) in &recount.stats {
            differences(counted, stats.get(key).unwrap_or(&Value::Null), key, &mut problems);
        }
        differences(&json!(self.manifest.ledger), &stats["ledger"], "ledger", &mut problems);
        if let (Some(leakage), Some(said)) = (leakage, stats.get("leakage")) {
            differences(&leakage.texts.into(), said, "leakage", &mut problems);
        }
        problems
    }

    /// Under a split key a text may stand in two splits, if the statistics say so.
    fn leakage(&self, leakage: texts::Leakage, stats: Option<&Value>) -> (Problems, String) {
        let has_key = self.manifest.configuration.get("split_key").is_some_and(|key| !key.is_null());
        let said = stats.and_then(|stats| stats["leakage"].as_u64());
        if has_key && leakage.texts > 0 && said == Some(leakage.texts) {
            let scope = format!("but for {} that the split key parts, as the statistics say", leakage.texts);
            return (Problems::default(), scope);
        }
        (leakage.problems, String::new())
    }

    fn ledger(&self, stats: Option<&Value>) -> Result<Problems> {
        let mut problems = Problems::default();
        let ledger: &Ledger = &self.manifest.ledger;
        let sums =
            [ledger.blank, ledger.rejected, ledger.filtered, ledger.duplicates, ledger.sampled_out, ledger.exported];
        let sum = sums.iter().map(|n| u128::from(*n)).sum::<u128>();
        problems.expect(u128::from(ledger.lines) == sum, || {
            format!("it has {} lines, but accounts for {sum}", ledger.lines)
        });
        let of_splits: u64 = self.manifest.splits.iter().map(|split| split.documents).sum();
        let exported = ledger.exported.saturating_add(ledger.repeats);
        problems
            .expect(of_splits == exported, || format!("it has {exported} exported documents, the splits {of_splits}"));
        let sum_of = |of: fn(&manifest::InputFile) -> u64| self.manifest.inputs.iter().map(of).sum::<u64>();
        let (lines, rejected) = (sum_of(|input| input.lines), sum_of(|input| input.rejected));
        problems.expect(lines == ledger.lines, || format!("it has {} lines, the inputs {lines}", ledger.lines));
        problems.expect(rejected == ledger.rejected, || {
            format!("it has {} rejected lines, the inputs {rejected}", ledger.rejected)
        });
        let quarantine = self.quarantine()?;
        let kept: u64 = quarantine.values().sum();
        problems.expect(kept == ledger.rejected, || {
            format!("it has {} rejected lines, the quarantine {kept}", ledger.rejected)
        });
        if let Some(stats) = stats {
            differences(&json!(quarantine), &stats["rejects"], "rejects", &mut problems);
        }
        Ok(problems)
    }

    /// Lines in quarantine by reason, counted in its index. What is no entry counts under its own name.
    fn quarantine(&self) -> Result<BTreeMap<String, u64>> {
        let path = self.folder.join(quarantine::FOLDER).join(quarantine::INDEX);
        let mut reasons = BTreeMap::new();
        let index = match fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(reasons),
            index => index.context(&path, "read")?,
        };
        for line in BufReader::new(index).split(b'\n') {
            let line = line.context(&path, "read")?;
            let entry = serde_json::from_slice::<Value>(&line).ok();
            let reason = entry.as_ref().and_then(|entry| entry["reason"].as_str()).unwrap_or("not_an_entry");
            *reasons.entry(reason.to_owned()).or_default() += 1;
            self.stop.check()?;
        }
        Ok(reasons)
    }
}

/// Every place where two values differ.
fn differences(counted: &Value, said: &Value, at: &str, problems: &mut Problems) {
    match (counted, said) {
        (Value::Object(counted), Value::Object(said)) => {
            for (key, value) in counted {
                differences(value, said.get(key).unwrap_or(&Value::Null), &format!("{at}.{key}"), problems);
            }
            for key in said.keys().filter(|key| !counted.contains_key(*key)) {
                problems.add(format!("{at}.{key} is {}, and there is none", said[key]));
            }
        }
        _ => problems.expect(counted == said, || format!("{at} is {said}, {counted} was counted")),
    }
}
