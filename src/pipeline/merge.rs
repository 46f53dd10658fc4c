//! `merge`: one export of the parts that workers left, as one machine would have made it.
//!
//! The parts say what they were made from; they have to agree. Counts are added, lines are put one behind the other,
//! and what depends on the whole (line numbers, gates, card, manifest) is done here. Until the commit the parts stay
//! as they are, so a merge that is killed can be started again; with the commit, or the failure of a gate, they disappear.

mod lines;
mod texts;

use super::collect::Unknowns;
use super::conclude::{Report, Tally, Whole, conclude, refuse_obstacles};
use super::memory;
use super::plan;
use super::scheduler::Progress;
use super::stop::Stop;
use super::worker::found;
use crate::config::{ExportArgs, ExportConfig, MergeConfig};
use crate::domain::manifest::{GENERATOR, InputFile, Manifest};
use crate::domain::part::{FoundShard, Part, input_difference};
use crate::domain::share::Share;
use crate::error::{Context, Error, Result, show, unshow};
use crate::input::{Encoding, Shard, Stamp, discover};
use crate::select::spill::Spill;
use crate::write::output::{Outputs, Proof};
use crate::write::part::{self, Sealed};
use crate::write::quarantine::{Quarantine, QuarantineFile, Reject, replay};
use crate::write::stage::{MANIFEST, STATS, Stage};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Names that a message has of each kind.
const SHOWN: usize = 10;

/// All parts of an export, which belong together.
pub struct Set {
    /// The output folder.
    output: PathBuf,
    parts: Vec<Part>,
    /// What they were known by when they were read.
    sealed: Vec<Sealed>,
    /// The input's shards.
    inputs: Vec<FoundShard>,
}

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
    let mut set = Set::read(stage.output(), job.input.as_deref())?;
    let config = set.config(job)?;
    refuse_obstacles(stage.output(), &config)?;
    let (output, sealed) = (stage.output().to_owned(), std::mem::take(&mut set.sealed));
    // A worker may publish a part at any moment: what was not merged must not disappear.
    stage.use_up(part::FOLDER, move || part::check_unchanged(&output, &sealed));
    let shards: Vec<Shard> = set.inputs.iter().map(shard).collect();
    let tally = set.tally(&config);
    let spill = Spill::new(stage.folder(), job.memory_limit.unwrap_or_else(memory::default_limit));
    let leakage = texts::leakage(&set, &spill, config.run.threads, stop)?;
    progress.reject_all(&tally.rejects);
    let warnings = tally.unknowns.warnings(&config.selection);
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
        let folder = part::of_share(&set.output, part.maker.share);
        if !part.quarantine.is_empty() {
            part.quarantine.iter().try_for_each(|file| part::check_file(&folder, file, || stop.check()))?;
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

impl Set {
    /// Reads what the parts say, and checks that they belong together; and first that they are of this input, as parts
    /// that are not will be made anew.
    fn read(output: &Path, input: Option<&Path>) -> Result<Set> {
        part::refuse_strangers(output)?;
        let shares = part::shares(output)?;
        if let Some(input) = input {
            check_input(output, &shares, input)?;
        }
        check_complete(output, &shares)?;
        let (mut parts, mut sealed): (Vec<Part>, _) = (Vec::new(), Vec::new());
        for share in shares {
            let (part, seal) = part::read_sealed(output, share)?.ok_or_else(|| missing(output, &[share]))?;
            if part.maker.generator != GENERATOR {
                return Err(Error::Usage(format!(
                    "{} was made by {}, and this is {GENERATOR}: use one version for all workers and the merge",
                    show(&part::of_share(output, share)),
                    part.maker.generator
                )));
            }
            if let Some(first) = parts.first() {
                check_alike(output, first, &part)?;
            }
            parts.push(part);
            sealed.push(seal);
        }
        // There is a first one, as all are there.
        let inputs = part::inputs(output, &parts[0])?;
        match parts.iter().find(|part| part.counted.iter().any(|counted| counted.shard >= inputs.len())) {
            Some(part) => Err(part::damaged(&part::of_share(output, part.maker.share))),
            None => Ok(Set { output: output.into(), parts, sealed, inputs }),
        }
    }

    /// The configuration that the parts were made by.
    fn config(&self, job: &MergeConfig) -> Result<ExportConfig> {
        let made_by = &self.parts[0].maker.configuration;
        let unread = |cause: String| {
            let path = show(&part::of_share(&self.output, self.parts[0].maker.share));
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

/// Fails if a part was not made from what is in the input now. Where there is none, nothing can be said.
fn check_input(output: &Path, shares: &[Share], input: &Path) -> Result<()> {
    let shards = discover(input, Some(output));
    if !input.exists() && shards.as_ref().map_or(true, Vec::is_empty) {
        tracing::warn!("{} is not here: the parts are not held against it", show(input));
        return Ok(());
    }
    let now = |shard: &Shard| Stamp::of_shard(shard).map(|stamp| found(shard, &stamp));
    let now = shards?.iter().map(now).collect::<Result<Vec<_>>>()?;
    for share in shares {
        let part = part::read(output, *share)?.ok_or_else(|| missing(output, &[*share]))?;
        let Some(difference) = input_difference(&now, &part::inputs(output, &part)?) else { continue };
        return Err(Error::environment(
            &part::of_share(output, *share),
            format!("the part was made from another input: {difference}"),
            "run the workers again, or wait until they are done",
        ));
    }
    Ok(())
}

/// Fails unless there is the part of every worker, and of no others.
fn check_complete(output: &Path, shares: &[Share]) -> Result<()> {
    let Some(of) = shares.first().map(|share| share.of()) else {
        let cause = match output.join(MANIFEST).exists() {
            true => "there are no parts, but an export that is whole",
            false => "there are no parts",
        };
        return Err(Error::environment(
            &part::folder(output),
            cause,
            "run colophon export --worker I/N for each I from 0 to N-1, or wait until the workers are done",
        ));
    };
    if let Some(other) = shares.iter().find(|share| share.of() != of) {
        return Err(Error::Usage(format!(
            "{} has parts of {of} workers and parts of {} workers: remove those that are not wanted",
            show(&part::folder(output)),
            other.of()
        )));
    }
    let is_there = |index: &u32| shares.binary_search_by_key(index, |share| share.index()).is_ok();
    let missing: Vec<Share> =
        (0..of).filter(|index| !is_there(index)).filter_map(|index| Share::new(index, of).ok()).collect();
    if missing.is_empty() { Ok(()) } else { Err(self::missing(output, &missing)) }
}

fn missing(output: &Path, shares: &[Share]) -> Error {
    let mut names = shares.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if shares.len() > SHOWN {
        names += &format!(" and {} more", shares.len() - SHOWN);
    }
    let cause = match shares.len() {
        1 => format!("the part of worker {names} is missing"),
        _ => format!("the parts of the workers {names} are missing"),
    };
    let first = shares.first().map(ToString::to_string).unwrap_or_default();
    let remedy = format!("run colophon export --worker {first}, or wait until it is done");
    Error::environment(&part::folder(output), cause, remedy)
}

/// Fails if two parts are not of one export.
fn check_alike(output: &Path, first: &Part, other: &Part) -> Result<()> {
    let Some(difference) = first.maker.difference(&other.maker) else { return Ok(()) };
    let mut message = format!("{} {difference}", show(&part::of_share(output, other.maker.share)));
    if first.maker.input != other.maker.input {
        let inputs = (part::inputs(output, first).ok(), part::inputs(output, other).ok());
        if let (Some(ours), Some(theirs)) = inputs
            && let Some(shard) = input_difference(&ours, &theirs)
        {
            message += &format!(": {shard}");
        }
    }
    Err(Error::Usage(format!(
        "{message} (in {}); run the worker whose part is stale again: it makes it anew",
        show(&part::of_share(output, first.maker.share))
    )))
}

/// About the bytes that a merge will copy, for whoever shows progress.
pub fn total(output: &Path) -> Option<u64> {
    let size = |share: Share| -> Option<u64> {
        let entries = std::fs::read_dir(part::of_share(output, share)).ok()?.flatten();
        let lines = entries.filter(|entry| Encoding::of(Path::new(&entry.file_name())).is_some());
        Some(lines.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum())
    };
    part::shares(output).ok()?.into_iter().map(size).sum()
}
