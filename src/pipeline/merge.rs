//! `merge`: one export of the parts that workers left, as one machine would have made it.
//!
//! The parts say what they were made from; they have to agree. Counts are added, lines are put one behind the other,
//! and what depends on the whole (line numbers, gates, card, manifest) is done here. Until the commit the parts stay
//! as they are, so a merge that is killed can be started again; with the commit, or the failure of a gate, they disappear.

mod lines;
mod texts;

use super::collect::Unknowns;
use super::conclude::{Report, Tally, Whole, conclude, refuse_obstacles};
use super::found::Found;
use super::memory;
use super::parts;
use super::plan;
use super::scheduler::Progress;
use super::stop::Stop;
use crate::config::{ExportArgs, ExportConfig, MergeConfig};
use crate::domain::manifest::{InputFile, Manifest};
use crate::domain::part::{FoundShard, Kind, Part};
use crate::domain::planned::Findings;
use crate::domain::share::Share;
use crate::error::{Context, Error, Result, show, unshow};
use crate::input::{Encoding, Shard, discover};
use crate::select::spill::Spill;
use crate::write::output::{Outputs, Proof};
use crate::write::part;
use crate::write::quarantine::{Quarantine, QuarantineFile, Reject, replay};
use crate::write::stage::{MANIFEST, STATS, Stage};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The parts of an export.
type Set = parts::Set<Part>;

/// Merges the parts.
///
/// # Errors
/// [`Error::Environment`] if parts are missing or damaged; [`Error::Usage`] if they do not belong together;
/// [`Error::Gate`] as an export on one machine fails, and then without the parts; else they are still there.
pub fn merge(job: &MergeConfig, progress: &Progress, stop: &Stop) -> Result<Report> {
    if !job.output.is_dir() {
        return Err(Error::environment(&job.output, "there is no such folder", "check the path"));
    }
    let mut stage = Stage::open(&job.output)?;
    if let Some(words) = stage.used_up()?.filter(|_| !part::folder(stage.output()).exists()) {
        // A merge that was killed behind its commit: there is nothing left to do.
        let report = if words.is_empty() { finished(&stage)? } else { return Err(failed_again(&stage, words)?) };
        stage.forget_used_up()?;
        return Ok(report);
    }
    let mut set = read(stage.output(), job.input.as_deref())?;
    let config = set.config(job)?;
    refuse_obstacles(stage.output(), &config)?;
    let (output, mut sealed) = (stage.output().to_owned(), std::mem::take(&mut set.sealed));
    sealed.extend(part::sealed(&output, Kind::Plan)?);
    // A worker may publish a part at any moment: what was not merged must not disappear.
    stage.use_up(part::FOLDER, move || part::check_unchanged(&output, &sealed));
    let shards: Vec<Shard> = set.inputs.iter().map(shard).collect();
    let tally = set.tally(&config);
    let spill = Spill::new(stage.folder(), job.memory_limit.unwrap_or_else(memory::default_limit));
    let Findings { leakage, warnings } = match set.parts.iter().find_map(|part| part.planned.clone()) {
        Some(findings) => findings,
        None => Findings { leakage: texts::leakage(&set, &spill, config.run.threads, stop)?, ..Findings::default() },
    };
    progress.reject_all(&tally.rejects);
    let warnings = [tally.unknowns.warnings(&config.selection), warnings].concat();
    let quarantine = quarantine(&set, &shards, stage.folder(), stop)?;
    let splits = config.selection.splits.names();
    let mut files = Vec::new();
    // If a gate fails, nobody will see the lines.
    if plan::gates(&config, &shards, &tally.ledger, &tally.rejects, &leakage).is_empty() {
        let outputs =
            Outputs::create(stage.folder(), splits.len(), config.compression, config.shard_size, Proof::Whole)?;
        lines::copy(&set.output, &set.parts, &outputs, config.run.threads, progress, stop)?;
        files = outputs.finish(splits)?;
    }
    stop.check()?;
    let whole = Whole { tally, files, quarantine, inputs: set.counted(), leakage, warnings };
    conclude(stage, &config, &shards, whole)
}

/// The failure of a gate that an earlier merge did not come to tell.
fn failed_again(stage: &Stage, words: String) -> Result<Error> {
    tracing::info!("An earlier merge was killed when a gate had failed; there are no parts left");
    stage.forget_used_up()?;
    Ok(Error::Gate(words))
}

/// The report of an export that is there.
fn finished(stage: &Stage) -> Result<Report> {
    let read = |name: &str| -> Result<Value> {
        let path = stage.output().join(name);
        let text = std::fs::read(&path).context(&path, "read")?;
        serde_json::from_slice(&text).map_err(std::io::Error::from).context(&path, "read")
    };
    let path = stage.output().join(MANIFEST);
    let manifest: Manifest =
        serde_json::from_value(read(MANIFEST)?).map_err(std::io::Error::from).context(&path, "read")?;
    let stats = read(STATS)?;
    tracing::info!("An earlier merge was killed when the export was done; there are no parts left");
    Ok(Report {
        splits: manifest.splits.into_iter().map(|split| (split.name, split.documents)).collect(),
        ledger: manifest.ledger,
        rejects: serde_json::from_value(stats["rejects"].clone()).unwrap_or_default(),
        output: stage.output().into(),
        bytes: manifest.files.iter().filter(|file| file.documents.is_some()).map(|file| file.bytes).sum(),
        scanner: None,
        gpu_bytes: 0,
        leakage: stats["leakage"].as_u64().unwrap_or_default(),
        stats,
        warnings: Vec::new(),
    })
}

/// A shard as it was found, wherever it lies by now.
fn shard(found: &FoundShard) -> Shard {
    let name = unshow(&found.path).unwrap_or_else(|| found.path.clone().into());
    let encoding = Encoding::of(&name).unwrap_or(Encoding::Plain);
    Shard { path: name.clone(), name, encoding, bytes: found.bytes }
}

/// The quarantines of all parts as one. Workers count a shard's lines from where their share begins; here they are
/// counted from its start.
fn quarantine(set: &Set, shards: &[Shard], folder: &Path, stop: &Stop) -> Result<Vec<QuarantineFile>> {
    let mut whole = Quarantine::new(folder);
    let mut before = vec![0; shards.len()];
    for part in &set.parts {
        stop.check()?;
        let folder = set.folder(part);
        if !part.quarantine.is_empty() {
            parts::check_files(&folder, &part.quarantine, stop)?;
            let of_part: Vec<(usize, &Shard)> = part.counted.iter().map(|c| (c.shard, &shards[c.shard])).collect();
            replay(&folder, &of_part, |index, shard, reject| {
                stop.check()?;
                whole.add(index, shard, &Reject { line: before[index] + reject.line, ..reject })
            })?;
        }
        part.counted.iter().for_each(|counted| before[counted.shard] += counted.lines);
    }
    whole.finish()
}

/// The parts, which have to be of this input, if it is here. Where it is not, nothing can be said.
fn read(output: &Path, input: Option<&Path>) -> Result<Set> {
    let now = input.map(|input| now(output, input)).transpose()?.flatten();
    let set = Set::read(output, now.as_deref())?;
    match set.parts.iter().find(|part| part.counted.iter().any(|counted| counted.shard >= set.inputs.len())) {
        Some(part) => Err(part::damaged(&set.folder(part))),
        None => Ok(set),
    }
}

/// What is in the input now.
fn now(output: &Path, input: &Path) -> Result<Option<Vec<FoundShard>>> {
    let shards = discover(input, Some(output));
    if !input.exists() && shards.as_ref().map_or(true, Vec::is_empty) {
        tracing::warn!("{} is not here: the parts are not held against it", show(input));
        return Ok(None);
    }
    Found::of(&shards?).map(|found| Some(found.shards))
}

impl parts::Set<Part> {
    /// The configuration that the parts were made by.
    fn config(&self, job: &MergeConfig) -> Result<ExportConfig> {
        let made_by = &self.parts[0].maker.configuration;
        let unread = |cause: String| {
            let path = show(&self.folder(&self.parts[0]));
            Error::Usage(format!("{path}: its configuration cannot be read again: {cause}"))
        };
        let args = ExportArgs::of_configuration(made_by).map_err(unread)?;
        let output_dir = Some(job.output.clone());
        let args = ExportArgs { input_dir: Some(PathBuf::new()), output_dir, ..args };
        let mut config = ExportConfig::new(args, "")?;
        config.run = job.run.clone();
        if config.to_json() == *made_by { Ok(config) } else { Err(unread("it would not be the same".into())) }
    }

    fn tally(&self, config: &ExportConfig) -> Tally {
        let mut sum = Tally::new(config);
        for part in &self.parts {
            sum.stats.merge(&part.stats);
            sum.ledger.merge(&part.ledger);
            sum.rejects.merge(&part.rejects);
            sum.unknowns.merge(&Unknowns { undecided: part.undecided.clone(), keyless: part.keyless });
        }
        sum
    }

    /// The shards with their lines.
    fn counted(&self) -> Vec<InputFile> {
        let input =
            |found: &FoundShard| InputFile { path: found.path.clone(), bytes: found.bytes, ..InputFile::default() };
        let mut inputs: Vec<InputFile> = self.inputs.iter().map(input).collect();
        for counted in self.parts.iter().flat_map(|part| &part.counted) {
            inputs[counted.shard].lines += counted.lines;
            inputs[counted.shard].rejected += counted.rejected;
        }
        inputs
    }
}

/// About the bytes that a merge will copy, for whoever shows progress.
pub fn total(output: &Path) -> Option<u64> {
    let size = |share: Share| -> Option<u64> {
        let entries = std::fs::read_dir(part::of_share(output, Kind::Export, share)).ok()?.flatten();
        let lines = entries.filter(|entry| Encoding::of(Path::new(&entry.file_name())).is_some());
        Some(lines.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum())
    };
    part::shares(output, Kind::Export).ok()?.into_iter().map(size).sum()
}
