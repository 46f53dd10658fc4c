//! A part: what one of several workers leaves of an export, or of a plan, and what was counted on the way.

use super::ledger::{Ledger, Rejects};
use super::planned::Findings;
use super::share::Share;
use super::stats::Stats;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The format of a part; to be raised when its meaning changes.
pub const FORMAT: u32 = 2;

/// What a part is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An export.
    Export,
    /// A plan.
    Plan,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 2] = [Kind::Export, Kind::Plan];

    /// The command that leaves such parts.
    pub fn command(self) -> &'static str {
        match self {
            Kind::Export => "export",
            Kind::Plan => "plan",
        }
    }

    /// What such a part is called.
    pub fn noun(self) -> &'static str {
        match self {
            Kind::Export => "part",
            Kind::Plan => "plan part",
        }
    }
}

/// What a part says of itself, of whichever kind.
pub trait AnyPart: Serialize + DeserializeOwned {
    /// What it is of.
    const KIND: Kind;

    /// What it was made from, by what.
    fn maker(&self) -> &Maker;
}

impl AnyPart for Part {
    const KIND: Kind = Kind::Export;

    fn maker(&self) -> &Maker {
        &self.maker
    }
}

impl AnyPart for PlanPart {
    const KIND: Kind = Kind::Plan;

    fn maker(&self) -> &Maker {
        &self.maker
    }
}

/// What a worker leaves of a plan: the documents of its share, of which nothing is decided yet.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlanPart {
    /// What it was made from, by what.
    pub maker: Maker,
    /// A row for each document that the filters admit.
    pub rows: ProvedFile,
    /// The values that the rows have numbers of.
    pub names: ProvedFile,
    /// What became of the share's lines so far: those that the filters admit count as exported.
    pub ledger: Ledger,
    /// Its rejected lines by reason.
    pub rejects: Rejects,
    /// For each filter, documents that it kept for lack of a value.
    pub undecided: Vec<u64>,
    /// Documents without the field of `--split-key`.
    pub keyless: u64,
}

/// `part.json` of an export: which share of what this is, and what is in it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    /// What it was made from, by what.
    pub maker: Maker,
    /// Lines of each shard that the share has any of, in order.
    pub counted: Vec<Counted>,
    /// The lines of each split, in order.
    pub splits: Vec<PartFile>,
    /// Files with rejected lines.
    pub quarantine: Vec<ProvedFile>,
    /// A row for each exported document, where it has to be counted whether texts stand in two splits.
    pub rows: Option<ProvedFile>,
    /// What the plan found that the worker followed, if it followed one.
    pub planned: Option<Findings>,
    /// What became of the share's lines.
    pub ledger: Ledger,
    /// Its rejected lines by reason.
    pub rejects: Rejects,
    /// Counts over its exported documents.
    pub stats: Stats,
    /// For each filter, documents that it kept for lack of a value.
    pub undecided: Vec<u64>,
    /// Documents without the field of `--split-key`.
    pub keyless: u64,
}

/// What has to be the same for all parts of an export, but for the share's index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maker {
    /// [`FORMAT`].
    pub format: u32,
    /// `colophon` and its version.
    pub generator: String,
    /// The share.
    pub share: Share,
    /// What shapes the output, as the program understood it.
    pub configuration: Map<String, Value>,
    /// SHA-256 of the list of the input's shards, in hexadecimal.
    pub input: String,
    /// SHA-256 of the plan that was followed, in hexadecimal, if one was.
    pub plan: Option<String>,
}

/// A shard of the input as a worker found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundShard {
    /// Path below the input folder.
    pub path: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was changed: seconds and nanoseconds since 1970.
    pub changed: (i64, i64),
}

/// What a share has of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The shard's place in the input's list, from 0.
    pub shard: usize,
    /// Lines.
    pub lines: u64,
    /// Lines in quarantine.
    pub rejected: u64,
}

/// A part's lines for one split.
#[derive(Debug, Serialize, Deserialize)]
pub struct PartFile {
    /// Path below the part's folder.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// Documents.
    pub documents: u64,
    /// The file from front to end in blocks of whole lines, each proved by itself, so that several can be checked at a time.
    pub blocks: Vec<Block>,
}

/// Some whole lines of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of them, in hexadecimal.
    pub sha256: String,
}

/// A file of a part that is small beside its lines.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProvedFile {
    /// Path below the part's folder.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Maker {
    /// Why parts made like this and like `other` cannot be one export, in words that follow the name of `other`'s
    /// part; `None` if they can.
    pub fn difference(&self, other: &Maker) -> Option<String> {
        if other.format != self.format || other.generator != self.generator {
            return Some(format!("was made by {}, not {}", other.generator, self.generator));
        }
        let difference = configuration_difference(&self.configuration, &other.configuration);
        let difference =
            difference.or_else(|| (other.input != self.input).then(|| "was made from another input".into()));
        difference.or_else(|| (other.plan != self.plan).then(|| "was made by another plan".into()))
    }
}

/// What differs between two configurations, in words that follow the name of what was made by `theirs`.
pub fn configuration_difference(ours: &Map<String, Value>, theirs: &Map<String, Value>) -> Option<String> {
    let differs = |key: &&String| ours.get(*key) != theirs.get(*key);
    let key = ours.keys().chain(theirs.keys()).find(differs)?;
    let [there, here] = [theirs, ours].map(|configuration| said(configuration, key));
    Some(format!("was made by another configuration: {key} is {there} there, {here} here"))
}

/// What a configuration says of a key; of a table, only what is not too long for a message.
fn said(configuration: &Map<String, Value>, key: &str) -> String {
    const LONG: usize = 200;
    let text = configuration.get(key).filter(|value| !value.is_null()).map_or("not set".into(), Value::to_string);
    if text.len() <= LONG { text } else { "something else".into() }
}

/// What differs between two lists of the input's shards, in words; `None` if nothing does.
pub fn input_difference(ours: &[FoundShard], theirs: &[FoundShard]) -> Option<String> {
    let at = (0..ours.len().max(theirs.len())).find(|&i| ours.get(i) != theirs.get(i))?;
    Some(match (ours.get(at), theirs.get(at)) {
        (Some(our), Some(their)) if our.path == their.path && our.bytes != their.bytes => {
            format!("{} has {} bytes there, {} here", our.path, their.bytes, our.bytes)
        }
        (Some(our), Some(their)) if our.path == their.path => {
            format!("{} was changed at another time", our.path)
        }
        (Some(our), their) if their.is_none_or(|their| our.path < their.path) => {
            format!("{} is missing there", our.path)
        }
        (_, their) => format!("{} is missing here", their.map_or("", |their| &their.path)),
    })
}
