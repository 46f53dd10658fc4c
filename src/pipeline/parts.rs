//! Parts that have to belong together: what a worker finds in its place, and what is made one of them all.

use super::stop::Stop;
use crate::domain::manifest::GENERATOR;
use crate::domain::part::{AnyPart, FoundShard, Kind, Maker, ProvedFile, input_difference};
use crate::domain::share::Share;
use crate::error::{Error, Result, show};
use crate::write::part::{self, Sealed};
use crate::write::stage::MANIFEST;
use std::path::{Path, PathBuf};

/// Names that a message has of each kind.
const SHOWN: usize = 10;

/// All parts of an export or of a plan, which belong together.
pub struct Set<P> {
    /// The output folder.
    pub output: PathBuf,
    /// One of each worker, in order.
    pub parts: Vec<P>,
    /// What they were known by when they were read.
    pub sealed: Vec<Sealed>,
    /// The input's shards.
    pub inputs: Vec<FoundShard>,
}

impl<P: AnyPart> Set<P> {
    /// Reads what the parts say, and checks that they belong together; and first that they are of the input as it is
    /// `now`, as parts that are not will be made anew.
    ///
    /// # Errors
    /// [`Error::Environment`] if parts are missing, damaged or of another input; [`Error::Usage`] if they do not belong
    /// together.
    pub fn read(output: &Path, now: Option<&[FoundShard]>) -> Result<Set<P>> {
        part::refuse_strangers(output)?;
        let shares = part::shares(output, P::KIND)?;
        if let Some(now) = now {
            check_input::<P>(output, &shares, now)?;
        }
        check_complete(output, P::KIND, &shares)?;
        let (mut parts, mut sealed): (Vec<P>, _) = (Vec::new(), Vec::new());
        for share in shares {
            let (part, seal) =
                part::read_sealed::<P>(output, share)?.ok_or_else(|| missing(output, P::KIND, &[share]))?;
            if part.maker().generator != GENERATOR {
                return Err(Error::Usage(format!(
                    "{} was made by {}, and this is {GENERATOR}: use one version for all workers and what follows",
                    show(&part::of_share(output, P::KIND, share)),
                    part.maker().generator
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
        Ok(Set { output: output.into(), parts, sealed, inputs })
    }

    /// The folder of a part.
    pub fn folder(&self, part: &P) -> PathBuf {
        part::of_share(&self.output, P::KIND, part.maker().share)
    }
}

/// The part, if it is there and is what would be made now. What is there instead goes. `check` looks at its files.
///
/// # Errors
/// If the run was asked to stop, or what is there cannot be taken away.
pub fn there<P: AnyPart>(
    output: &Path,
    maker: &Maker,
    found: &[FoundShard],
    check: impl Fn(&Path, &P) -> Result<()>,
) -> Result<Option<P>> {
    let path = part::of_share(output, P::KIND, maker.share);
    let cause = match part::read::<P>(output, maker.share) {
        Ok(None) => return Ok(None),
        Ok(Some(part)) => match maker.difference(part.maker()) {
            None => match part::inputs(output, &part).and_then(|_| check(&path, &part)) {
                Ok(()) => {
                    let (noun, share) = (P::KIND.noun(), maker.share);
                    tracing::info!("The {noun} of worker {share} is there already, and as it should be");
                    return Ok(Some(part));
                }
                Err(error @ Error::Stopped(_)) => return Err(error),
                Err(error) => error.to_string(),
            },
            Some(difference) => {
                let inputs = part::inputs(output, &part).ok();
                let shard = inputs.and_then(|theirs| input_difference(found, &theirs));
                let shard = shard.filter(|_| maker.configuration == part.maker().configuration);
                format!("{} {difference}{}", show(&path), shard.map(|s| format!(": {s}")).unwrap_or_default())
            }
        },
        Err(error) => error.to_string(),
    };
    tracing::warn!("{cause}; it is made anew");
    part::displace(output, P::KIND, maker.share)?;
    Ok(None)
}

/// Fails if one of the files of a part is not what the worker wrote.
///
/// # Errors
/// [`Error::Environment`], naming the file; or that the run was asked to stop.
pub fn check_files<'a>(folder: &Path, files: impl IntoIterator<Item = &'a ProvedFile>, stop: &Stop) -> Result<()> {
    files.into_iter().try_for_each(|file| part::check_file(folder, file, || stop.check()))
}

/// Fails if a part was not made from what is in the input now.
fn check_input<P: AnyPart>(output: &Path, shares: &[Share], now: &[FoundShard]) -> Result<()> {
    for share in shares {
        let part = part::read::<P>(output, *share)?.ok_or_else(|| missing(output, P::KIND, &[*share]))?;
        let Some(difference) = input_difference(now, &part::inputs(output, &part)?) else { continue };
        return Err(Error::environment(
            &part::of_share(output, P::KIND, *share),
            format!("the part was made from another input: {difference}"),
            "run the workers again, or wait until they are done",
        ));
    }
    Ok(())
}

/// Fails unless there is the part of every worker, and of no others.
fn check_complete(output: &Path, kind: Kind, shares: &[Share]) -> Result<()> {
    let (command, noun) = (kind.command(), kind.noun());
    let Some(of) = shares.first().map(|share| share.of()) else {
        let cause = match kind == Kind::Export && output.join(MANIFEST).exists() {
            true => "there are no parts, but an export that is whole".into(),
            false => format!("there are no {noun}s"),
        };
        let remedy =
            format!("run colophon {command} --worker I/N for each I from 0 to N-1, or wait until the workers are done");
        return Err(Error::environment(&part::folder(output), cause, remedy));
    };
    if let Some(other) = shares.iter().find(|share| share.of() != of) {
        return Err(Error::Usage(format!(
            "{} has {noun}s of {of} workers and {noun}s of {} workers: remove those that are not wanted",
            show(&part::folder(output)),
            other.of()
        )));
    }
    let is_there = |index: &u32| shares.binary_search_by_key(index, |share| share.index()).is_ok();
    let missing: Vec<Share> =
        (0..of).filter(|index| !is_there(index)).filter_map(|index| Share::new(index, of).ok()).collect();
    if missing.is_empty() { Ok(()) } else { Err(self::missing(output, kind, &missing)) }
}

fn missing(output: &Path, kind: Kind, shares: &[Share]) -> Error {
    let mut names = shares.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if shares.len() > SHOWN {
        names += &format!(" and {} more", shares.len() - SHOWN);
    }
    let noun = kind.noun();
    let cause = match shares.len() {
        1 => format!("the {noun} of worker {names} is missing"),
        _ => format!("the {noun}s of the workers {names} are missing"),
    };
    let first = shares.first().map(ToString::to_string).unwrap_or_default();
    let remedy = format!("run colophon {} --worker {first}, or wait until it is done", kind.command());
    Error::environment(&part::folder(output), cause, remedy)
}

/// Fails if two parts are not of one export or plan.
fn check_alike<P: AnyPart>(output: &Path, first: &P, other: &P) -> Result<()> {
    let Some(difference) = first.maker().difference(other.maker()) else { return Ok(()) };
    let mut message = format!("{} {difference}", show(&part::of_share(output, P::KIND, other.maker().share)));
    if first.maker().input != other.maker().input {
        let inputs = (part::inputs(output, first).ok(), part::inputs(output, other).ok());
        if let (Some(ours), Some(theirs)) = inputs
            && let Some(shard) = input_difference(&ours, &theirs)
        {
            message += &format!(": {shard}");
        }
    }
    Err(Error::Usage(format!(
        "{message} (in {}); run the worker whose part is stale again: it makes it anew",
        show(&part::of_share(output, P::KIND, first.maker().share))
    )))
}
