//! From flags, environment and job file to one checked configuration.
//!
//! A flag beats the environment, which beats the file, which beats the default. Flags and file share
//! one definition ([`ExportArgs`]), so neither can know an option that the other doesn't.

use crate::domain::about::About;
use crate::domain::chance::Chance;
use crate::domain::decimal::Fraction;
use crate::domain::schema::{self, Constant, Field, Schema};
use crate::domain::selection::Selection;
use crate::domain::share::Share;
use crate::domain::split::Splits;
use crate::error::{Error, Result, show};
use crate::publish::discreet;
use crate::write::output::Compression;
use card::CardArgs;
use clap::builder::FalseyValueParser;
use clap::{Args, CommandFactory, FromArgMatches, ValueEnum};
use select::{Base, SelectArgs};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use upload::UploadArgs;

pub mod card;
pub mod select;
pub mod upload;

/// Where the options for several machines stand in the help.
const WORKERS: &str = "More than one machine";
/// What a Kubernetes Indexed Job tells each of its pods: its number, from 0.
pub const JOB_INDEX: &str = "JOB_COMPLETION_INDEX";

/// The options of `export`, as given; every one may be absent.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ExportArgs {
    /// Folder (searched through), file or glob with the curated documents
    #[arg(long, env = "COLOPHON_INPUT_DIR", value_name = "DIR")]
    pub input_dir: Option<PathBuf>,

    /// Folder for the dataset; replaced as a whole when all is written and proved
    #[arg(long, env = "COLOPHON_OUTPUT_DIR", value_name = "DIR")]
    pub output_dir: Option<PathBuf>,

    /// Format of the split files [default: jsonl]
    #[arg(long, env = "COLOPHON_FORMAT", value_name = "FORMAT")]
    pub format: Option<Format>,

    /// Share of each split; decimals that add up to 1 [default: 0.95,0.03,0.02]
    #[arg(long, env = "COLOPHON_SPLIT_RATIO", value_name = "R,R,R")]
    #[serde(deserialize_with = "list")]
    pub split_ratio: Option<String>,

    /// Names of the splits [default: train,validation,test]
    #[arg(long, env = "COLOPHON_SPLIT_NAMES", value_name = "A,B,C")]
    #[serde(deserialize_with = "list")]
    pub split_names: Option<String>,

    /// How a document's split is found [default: hash]
    #[arg(long, env = "COLOPHON_SPLIT_METHOD", value_name = "METHOD")]
    pub split_method: Option<SplitMethod>,

    #[command(flatten)]
    #[serde(skip)]
    /// Which documents are exported.
    pub select: SelectArgs,

    /// Seed of the text's hash, and so of the splits and samples [default: 42]
    #[arg(
        long,
        help_heading = "Selection: filter, duplicates, sample or balance, split, repeats",
        env = "COLOPHON_SEED",
        value_name = "N"
    )]
    pub seed: Option<u64>,

    /// A constant for every document, such as metadata.source=wikipedia; may be repeated
    #[arg(long = "set", help_heading = "What is written", env = "COLOPHON_SET", value_name = "PATH=VALUE", value_delimiter = None)]
    pub set: Vec<String>,

    /// Largest share of rejected lines with which the export still counts as sound [default: 0.01]
    #[arg(long, help_heading = "What is written", env = "COLOPHON_MAX_REJECT_RATIO", value_name = "RATIO")]
    #[serde(deserialize_with = "list")]
    pub max_reject_ratio: Option<String>,

    /// Cut each split into files of at most so many bytes of lines, such as 512MiB
    #[arg(long, help_heading = "What is written", env = "COLOPHON_SHARD_SIZE", value_name = "SIZE")]
    #[serde(deserialize_with = "list")]
    pub shard_size: Option<String>,

    /// Compress the split files
    #[arg(long, help_heading = "What is written", env = "COLOPHON_COMPRESS", value_name = "METHOD")]
    pub compress: Option<Compression>,

    #[command(flatten)]
    #[serde(skip)]
    /// What the dataset is.
    pub card: CardArgs,

    #[command(flatten)]
    #[serde(skip)]
    /// How to run; none of these changes the output.
    pub run: RunArgs,

    /// Do one of N equal shares of the input, I from 0 to N-1, and leave a part in the output folder's parts/; when all N
    /// are there, `colophon merge` makes the export of them, and `colophon plan --from-parts` the plan
    #[arg(long, help_heading = WORKERS, env = "COLOPHON_WORKER", value_name = "I/N")]
    pub worker: Option<String>,

    /// Take I from JOB_COMPLETION_INDEX instead, which a Kubernetes Indexed Job sets
    #[arg(long, help_heading = WORKERS, env = "COLOPHON_WORKERS", value_name = "N")]
    pub workers: Option<u32>,

    /// Follow the plan in this file, which `colophon plan --save` made, instead of making one: with it workers do what
    /// needs the whole corpus
    #[arg(long, help_heading = "How to run", env = "COLOPHON_PLAN", value_name = "FILE")]
    pub plan: Option<PathBuf>,

    /// Mapped fields, in the order in which they are written (job file only).
    #[arg(skip)]
    #[serde(rename = "field")]
    pub fields: Option<Vec<Field>>,

    /// Constants (job file only).
    #[arg(skip)]
    #[serde(deserialize_with = "constants")]
    pub constants: Option<Map<String, Value>>,

    /// Whether the constants of the default schema are written (job file only) [default: true].
    #[arg(skip)]
    pub default_constants: Option<bool>,
}

/// The options that say how to run, not what comes out.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RunArgs {
    /// Worker threads [default: the cores that this process may use]
    #[arg(long, help_heading = "How to run", env = "COLOPHON_THREADS", value_name = "N")]
    pub threads: Option<usize>,

    /// What to scan with [default: auto]
    #[arg(long, help_heading = "How to run", env = "COLOPHON_DEVICE", value_name = "DEVICE")]
    pub device: Option<Device>,

    /// Use GPUs, with --device auto, only from so many bytes of input a thread on: opening one takes some tenths of a
    /// second [default: 1GiB]
    #[arg(long, help_heading = "How to run", env = "COLOPHON_GPU_FROM", value_name = "SIZE")]
    #[serde(deserialize_with = "list")]
    pub gpu_from: Option<String>,

    /// Force one of the CPU scanners that `colophon devices` lists
    #[arg(long, help_heading = "How to run", env = "COLOPHON_SCANNER", value_name = "NAME")]
    pub scanner: Option<String>,

    /// Bytes of input that are worked on together [default: 512KiB]
    #[arg(long, help_heading = "How to run", env = "COLOPHON_CHUNK_SIZE", value_name = "SIZE")]
    #[serde(deserialize_with = "list")]
    pub chunk_size: Option<String>,
}

/// The options that `plan` has beside those of `export`.
#[derive(Args, Clone, Debug, Default)]
pub struct PlanArgs {
    /// Write the plan to this file, for `colophon export --plan FILE` [default: the file that --plan names]
    #[arg(long, help_heading = WORKERS, env = "COLOPHON_SAVE", value_name = "FILE", num_args = 0..=1)]
    pub save: Option<Option<PathBuf>>,

    /// Plan from what all workers of `colophon plan --worker` left in the output folder, instead of scanning the input
    #[arg(long, help_heading = WORKERS, env = "COLOPHON_FROM_PARTS", value_parser = FalseyValueParser::new())]
    pub from_parts: bool,
}

/// The options of `merge`, as given.
#[derive(Args, Clone, Debug, Default)]
pub struct MergeArgs {
    /// Folder that the workers exported to
    #[arg(long, env = "COLOPHON_OUTPUT_DIR", value_name = "DIR")]
    pub output_dir: Option<PathBuf>,

    /// Refuse parts that were made from anything else than what is here now: the workers are not done, or not all ran
    #[arg(long, env = "COLOPHON_INPUT_DIR", value_name = "DIR")]
    pub input_dir: Option<PathBuf>,

    /// Worker threads [default: the cores that this process may use]
    #[arg(long, env = "COLOPHON_THREADS", value_name = "N")]
    pub threads: Option<usize>,

    /// Memory for counting texts in two splits, beyond which it goes to disk [default: a quarter of what there is]
    #[arg(long, env = "COLOPHON_MEMORY_LIMIT", value_name = "SIZE")]
    pub memory_limit: Option<String>,
}

impl MergeArgs {
    /// Takes from `file` what is not given here.
    pub fn or(self, file: ExportArgs) -> MergeArgs {
        MergeArgs {
            output_dir: self.output_dir.or(file.output_dir),
            input_dir: self.input_dir.or(file.input_dir),
            threads: self.threads.or(file.run.threads),
            memory_limit: self.memory_limit.or(file.select.memory_limit),
        }
    }

    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Usage`] with what to change.
    pub fn check(self) -> Result<MergeConfig> {
        Ok(MergeConfig {
            output: self.output_dir.ok_or_else(|| missing("--output-dir"))?,
            input: self.input_dir,
            run: RunArgs { threads: self.threads, ..RunArgs::default() }.check()?,
            memory_limit: self.memory_limit.as_deref().map(|text| size("--memory-limit", text)).transpose()?,
        })
    }
}

/// A checked configuration of `merge`.
pub struct MergeConfig {
    /// The folder with the parts, which becomes the export.
    pub output: PathBuf,
    /// What the parts have to be made from, if that was said.
    pub input: Option<PathBuf>,
    /// How to run.
    pub run: RunConfig,
    /// Bytes of memory for counting texts in two splits, if that was said.
    pub memory_limit: Option<u64>,
}

fn missing(flag: &str) -> Error {
    Error::Usage(format!("{flag} is missing: give it as a flag, in the environment or in the job file"))
}

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for containers.
    Json,
}

/// Formats of split files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON Lines.
    Jsonl,
}

/// How a document's split is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitMethod {
    /// By the text's hash alone: the same text always lands in the same split.
    Hash,
    /// Documents ranked by hash and cut at exact counts.
    Exact,
}

/// What to scan with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The best there is.
    Auto,
    /// The CPU alone.
    Cpu,
    /// An NVIDIA GPU, or fail.
    Cuda,
}

/// Constants as JSON: dates as text; what JSON cannot say is refused.
fn constants<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Map<String, Value>>, D::Error> {
    fn json(key: &str, value: &toml::Value) -> std::result::Result<Value, String> {
        Ok(match value {
            toml::Value::String(text) => text.clone().into(),
            toml::Value::Integer(number) => (*number).into(),
            toml::Value::Float(number) if !number.is_finite() => return Err(format!("'{key}' is no number in JSON")),
            toml::Value::Float(number) => (*number).into(),
            toml::Value::Boolean(truth) => (*truth).into(),
            toml::Value::Datetime(date) => date.to_string().into(),
            toml::Value::Array(values) => values.iter().map(|v| json(key, v)).collect::<std::result::Result<_, _>>()?,
            toml::Value::Table(table) => {
                let member = |(k, v): (&String, &toml::Value)| Ok((k.clone(), json(k, v)?));
                Value::Object(table.iter().map(member).collect::<std::result::Result<_, String>>()?)
            }
        })
    }
    let table = toml::Value::Table(toml::Table::deserialize(from)?);
    match json("constants", &table).map_err(D::Error::custom)? {
        Value::Object(map) => Ok(Some(map)),
        _ => Ok(None),
    }
}

/// A list or number in a job file, where the command line has text: `[0.95, 0.05]` for `0.95,0.05`.
pub(crate) fn list<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<String>, D::Error> {
    fn text<E: serde::de::Error>(value: &Value) -> std::result::Result<String, E> {
        match value {
            Value::String(text) => Ok(text.clone()),
            // Without an exponent, as a person would write it.
            Value::Number(number) if number.is_f64() => Ok(number.as_f64().unwrap_or_default().to_string()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Array(values) => Ok(values.iter().map(text).collect::<std::result::Result<Vec<_>, E>>()?.join(",")),
            _ => Err(E::custom("expected text, a number or a list of them")),
        }
    }
    let value = Value::deserialize(from).map_err(D::Error::custom)?;
    text(&value).map(Some)
}

impl ExportArgs {
    /// Takes from `file` what is not given here.
    pub fn or(self, file: ExportArgs) -> ExportArgs {
        ExportArgs {
            input_dir: self.input_dir.or(file.input_dir),
            output_dir: self.output_dir.or(file.output_dir),
            format: self.format.or(file.format),
            split_ratio: self.split_ratio.or(file.split_ratio),
            split_names: self.split_names.or(file.split_names),
            split_method: self.split_method.or(file.split_method),
            select: self.select.or(file.select),
            seed: self.seed.or(file.seed),
            // Each sets what it names; where both name one path, the later wins.
            set: [file.set, self.set].concat(),
            max_reject_ratio: self.max_reject_ratio.or(file.max_reject_ratio),
            shard_size: self.shard_size.or(file.shard_size),
            compress: self.compress.or(file.compress),
            card: self.card.or(file.card),
            run: self.run.or(file.run),
            worker: self.worker.or(file.worker),
            workers: self.workers.or(file.workers),
            plan: self.plan.or(file.plan),
            fields: self.fields.or(file.fields),
            constants: self.constants.or(file.constants),
            default_constants: self.default_constants.or(file.default_constants),
        }
    }
}

impl ExportArgs {
    /// The options that say what a manifest's configuration says. What only says how to run is not in it.
    ///
    /// # Errors
    /// A sentence, if this version of the program cannot read it.
    pub fn of_configuration(configuration: &Map<String, Value>) -> std::result::Result<ExportArgs, String> {
        let is_said = |value: &Value| !value.is_null() && *value != json!([]) && *value != json!({});
        let mut file = Map::new();
        for (key, value) in configuration.iter().filter(|(_, value)| is_said(value)) {
            match (key.as_str(), value) {
                ("fields", value) => drop(file.insert("field".into(), value.clone())),
                ("filters", value) => drop(file.insert("filter".into(), value.clone())),
                ("card", Value::Object(about)) => {
                    for (key, value) in about.iter().filter(|(_, value)| is_said(value)) {
                        let key = if key == "header" { "card".into() } else { key.replace('_', "-") };
                        file.insert(key, value.clone());
                    }
                }
                (key, value) => drop(file.insert(key.replace('_', "-"), value.clone())),
            }
        }
        // The default ones are among the constants, if they are wanted.
        file.insert("default-constants".into(), false.into());
        file.insert("no-card".into(), (!configuration.get("card").is_some_and(Value::is_object)).into());
        let file = Value::Object(file);
        let unread = |error: serde_json::Error| error.to_string();
        Ok(ExportArgs {
            select: SelectArgs::deserialize(&file).map_err(unread)?,
            card: CardArgs::deserialize(&file).map_err(unread)?,
            ..ExportArgs::deserialize(&file).map_err(unread)?
        })
    }

    /// The share that this worker does, if it is one of several. `index` is its number, where [`JOB_INDEX`] says it.
    ///
    /// # Errors
    /// [`Error::Usage`] with what to change.
    pub fn share(&self, index: Option<&str>) -> Result<Option<Share>> {
        match (&self.worker, self.workers) {
            (Some(text), workers) => {
                let share: Share = text.parse().map_err(|e| Error::Usage(format!("--worker {text}: {e}")))?;
                match workers.filter(|workers| *workers != share.of()) {
                    Some(other) => Err(Error::Usage(format!("--worker {share} and --workers {other} contradict"))),
                    None => Ok(Some(share)),
                }
            }
            (None, Some(workers)) => {
                let bad = |e: String| Error::Usage(format!("--workers {workers}: {e}"));
                let index = index.ok_or_else(|| {
                    bad(format!("{JOB_INDEX} does not say which of them this is; give --worker I/N instead"))
                })?;
                let number = index.parse().map_err(|_| bad(format!("{JOB_INDEX} is '{index}', and no number")))?;
                Share::new(number, workers).map(Some).map_err(|e| bad(format!("{JOB_INDEX} is {index}, but {e}")))
            }
            (None, None) => Ok(None),
        }
    }

    /// Fails if the options ask for what no worker can decide by itself, and there is no plan to follow.
    ///
    /// # Errors
    /// [`Error::Usage`], naming the flag and how to make a plan.
    pub fn check_for_worker(&self, share: Share) -> Result<()> {
        let select = &self.select;
        let asked = [
            ("--dedup exact", select.dedup.is_some()),
            ("--max-documents", select.max_documents.is_some()),
            ("--balance-by", select.balance_by.is_some()),
            ("--split-method exact", self.split_method == Some(SplitMethod::Exact)),
        ];
        match asked.iter().find(|(_, is_asked)| *is_asked && self.plan.is_none()) {
            Some((flag, _)) => Err(Error::Usage(format!(
                "{flag} needs the whole corpus, and a worker has one share of it, so a plan comes first: run `colophon plan \
                 --worker {share}` for this share, and so for every other; then `colophon plan --from-parts --save FILE`; \
                 then `colophon export --worker {share} --plan FILE`, each with the options that were given here"
            ))),
            None => Ok(()),
        }
    }
}

/// What a job file says.
#[derive(Debug, Default)]
pub struct JobFile {
    /// The options of `export`.
    pub export: ExportArgs,
    /// How to write messages and results.
    pub messages: Messages,
    /// The options of `upload`, if the file has a table of that name.
    pub upload: Option<UploadArgs>,
    /// What `summary` is to show, if the file has a table of that name.
    pub summary: Option<SummaryArgs>,
}

/// The options of `summary`, as a job file has them.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SummaryArgs {
    /// Folder with the stages.
    pub data_dir: PathBuf,
}

/// What a job file says of the steps after the export.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Steps {
    upload: Option<UploadArgs>,
    summary: Option<SummaryArgs>,
}

/// The options of every command, as a job file has them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Messages {
    /// `--json`.
    pub json: Option<bool>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
    /// `--quiet`.
    pub quiet: Option<bool>,
    /// `--verbose`.
    pub verbose: Option<bool>,
    /// `--metrics-file`.
    pub metrics_file: Option<PathBuf>,
    /// `--metrics-addr`.
    pub metrics_addr: Option<SocketAddr>,
}

impl JobFile {
    /// Reads a job file.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or has a key that is not known.
    pub fn read(path: &Path) -> Result<JobFile> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::Usage(format!("{}: could not read the job file: {e}", show(path))))?;
        let usage = |line: Option<usize>, message: &str| {
            let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
            Error::Usage(format!("{}{line}: {message}", show(path)))
        };
        let wrong =
            |error: toml::de::Error| usage(error.span().map(|at| line_at(&text, at.start)), &described(&error, &text));
        let table: toml::Table = text.parse().map_err(wrong)?;
        check_keys(&table).map_err(|(key, message)| usage(line_of(&text, &key), &message))?;
        // Several readings of one text, as flattening would lose the line of a wrong value.
        let messages = toml::from_str(&text).map_err(wrong)?;
        let run = toml::from_str(&text).map_err(wrong)?;
        let select = toml::from_str(&text).map_err(wrong)?;
        let card = toml::from_str(&text).map_err(wrong)?;
        let Steps { upload, summary } = toml::from_str(&text).map_err(wrong)?;
        let args: ExportArgs = toml::from_str(&text).map_err(wrong)?;
        Ok(JobFile { export: ExportArgs { run, select, card, ..args }, messages, upload, summary })
    }
}

/// The line, from 1, of a byte of a text.
fn line_at(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// What is wrong with a job file, without what stands there: somebody may have written a password.
fn described(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().and_then(|at| text.lines().nth(line_at(text, at.start) - 1)).unwrap_or_default();
    let key = line.split_once('=').map(|(key, _)| key.trim()).unwrap_or_default();
    let key = if known_keys().iter().any(|known| known == key) { format!("{key}: ") } else { String::new() };
    let message = match error.message().split_once("string \"").map(|(before, rest)| (before, rest.rsplit_once('"'))) {
        Some((before, Some((_, after)))) => format!("{before}string{after}"),
        _ => error.message().to_owned(),
    };
    discreet::text(&format!("{key}{message}"), &[], QUOTE)
}

/// Every key that a job file can have, in any table.
fn known_keys() -> Vec<String> {
    let command = UploadArgs::augment_args(ExportArgs::augment_args(clap::Command::new("run")));
    let flags = command.get_arguments().filter_map(|arg| arg.get_long().map(String::from));
    let others = ["target", "data-dir", "from", "to", "type", "required", "min", "max", "in", "not_in"];
    flags.chain(FILE_KEYS.into_iter().chain(others).map(String::from)).collect()
}

/// Characters of a message about a job file.
const QUOTE: usize = 600;

impl JobFile {
    /// What a file that cannot be used says about messages, as far as that can be read.
    pub fn of_messages(path: Option<&Path>) -> JobFile {
        let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let mut messages: Messages = toml::from_str(&text).unwrap_or_default();
        // There will be nobody to ask it.
        messages.metrics_addr = None;
        JobFile { messages, ..JobFile::default() }
    }
}

/// The keys that a job file can have beside the flags.
const FILE_KEYS: [&str; 13] = [
    "field",
    "filter",
    "constants",
    "default-constants",
    "card",
    "upload",
    "summary",
    "json",
    "log-format",
    "quiet",
    "verbose",
    "metrics-file",
    "metrics-addr",
];

/// Names the first unknown key, with the known one that looks most like it; and an option that slipped below
/// `[constants]`, where TOML takes whatever follows.
fn check_keys(table: &toml::Table) -> std::result::Result<(), (String, String)> {
    let command = ExportArgs::augment_args(clap::Command::new("export"));
    let flags: Vec<String> = command.get_arguments().filter_map(|arg| arg.get_long().map(String::from)).collect();
    let known = || flags.iter().map(String::as_str).chain(FILE_KEYS);
    for key in table.keys() {
        if !known().any(|k| k == key) {
            let nearest = nearest(key, known()).unwrap_or_default();
            let shown = discreet::text(key, &[], QUOTE);
            return Err((key.clone(), format!("unknown key '{shown}'; did you mean '{nearest}'?")));
        }
    }
    let constants = table.get("constants").and_then(toml::Value::as_table);
    match constants.into_iter().flat_map(toml::Table::keys).find(|key| known().any(|k| k == *key)) {
        None => Ok(()),
        Some(key) => Err((
            key.clone(),
            format!(
                "'{key}' below [constants] would be written into every document; write the option '{key}' above the \
                 first table, or --set {key}=VALUE if a constant is what you want"
            ),
        )),
    }
}

/// The name that looks most like this one.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |other: &str| strsim::jaro_winkler(name, other);
    known.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// The line, from 1, on which a key of the file's first level stands, if it stands there plainly.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let is_key = |line: &str| {
        let line = line.trim_start_matches([' ', '\t', '[', '"', '\'']);
        line.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', '\t', '=', ']', '.', '"', '\'']))
    };
    text.lines().position(is_key).map(|index| index + 1)
}

/// What a configuration says of how documents are written, and of what is asked of them in the end. No constant can
/// decide anything: neither filters nor the fields of a selection may name one.
const WRITING: [&str; 7] =
    ["format", "max_reject_ratio", "shard_size", "compress", "forbid_leakage", "constants", "card"];

/// A checked configuration of `export`.
pub struct ExportConfig {
    /// Folder, file or glob to read.
    pub input: PathBuf,
    /// Folder to write.
    pub output: PathBuf,
    /// What goes where in an exported line.
    pub schema: Schema,
    /// Which documents go where, how often.
    pub selection: Selection,
    /// The gate for rejected lines.
    pub max_reject_ratio: Fraction,
    /// Bytes of lines in a split file, if there is a limit.
    pub shard_size: Option<u64>,
    /// How split files are packed.
    pub compression: Option<Compression>,
    /// What the card says beside the figures; `None` if there is to be no card.
    pub about: Option<About>,
    /// How to run.
    pub run: RunConfig,
    /// Bytes of memory that a plan may take, if that was said.
    pub memory_limit: Option<u64>,
    /// The file of a plan to follow, if there is one.
    pub plan: Option<PathBuf>,
    /// What the manifest says of the selection.
    selection_json: Map<String, Value>,
}

/// How to run.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Worker threads.
    pub threads: usize,
    /// What to scan with.
    pub device: Device,
    /// Bytes of input for each thread from which on GPUs are looked for.
    pub gpu_from: u64,
    /// A scanner to force.
    pub scanner: Option<String>,
    /// Bytes of a chunk.
    pub chunk_size: usize,
}

/// The most worker threads.
const MAX_THREADS: usize = 512;

impl RunArgs {
    /// Takes from `file` what is not given here.
    pub fn or(self, file: RunArgs) -> RunArgs {
        RunArgs {
            threads: self.threads.or(file.threads),
            device: self.device.or(file.device),
            gpu_from: self.gpu_from.or(file.gpu_from),
            scanner: self.scanner.or(file.scanner),
            chunk_size: self.chunk_size.or(file.chunk_size),
        }
    }

    /// Checks the options and fills in defaults.
    ///
    /// # Errors
    /// [`Error::Usage`] with what to change.
    pub fn check(&self) -> Result<RunConfig> {
        let threads = match self.threads {
            Some(0) => return Err(Error::Usage("--threads 0: at least one thread is needed".into())),
            Some(threads) if threads > MAX_THREADS => {
                return Err(Error::Usage(format!("--threads {threads}: {MAX_THREADS} is the most")));
            }
            Some(threads) => threads,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let chunk_size = size("--chunk-size", self.chunk_size.as_deref().unwrap_or("512KiB"))?;
        if chunk_size == 0 || chunk_size > crate::domain::reason::MAX_LINE_BYTES as u64 {
            return Err(Error::Usage("--chunk-size: choose from 1 byte to 1GiB".into()));
        }
        // A chunk has to fit a GPU's batch; what comes out is the same for any size.
        let most = if self.device == Some(Device::Cuda) { crate::scan::cuda::SLOT_BYTES as u64 / 2 } else { u64::MAX };
        let chunk_size = chunk_size.min(most);
        Ok(RunConfig {
            threads,
            device: self.device.unwrap_or(Device::Auto),
            gpu_from: size("--gpu-from", self.gpu_from.as_deref().unwrap_or("1GiB"))?,
            scanner: self.scanner.clone(),
            chunk_size: chunk_size as usize,
        })
    }
}

impl ExportConfig {
    /// Checks the options and fills in defaults. `today` is the date of the default constants.
    ///
    /// # Errors
    /// [`Error::Usage`] with what to change.
    pub fn new(args: ExportArgs, today: &str) -> Result<ExportConfig> {
        let ratios = args.split_ratio.as_deref().unwrap_or("0.95,0.03,0.02");
        let names = args.split_names.as_deref().unwrap_or("train,validation,test");
        let reject_ratio = args.max_reject_ratio.as_deref().unwrap_or("0.01");
        let splits =
            Splits::parse(names, ratios).map_err(|cause| Error::Usage(format!("--split-ratio {ratios}: {cause}")))?;
        let schema = schema_of(&args, today)?;
        let (seed, exact) = (args.seed.unwrap_or(42), args.split_method == Some(SplitMethod::Exact));
        let base = Base { splits, seed, chance: Chance::new(seed), exact };
        Ok(ExportConfig {
            selection_json: args.select.to_json()?,
            selection: args.select.check(base, &schema)?,
            schema,
            memory_limit: args.select.memory_limit()?,
            input: args.input_dir.ok_or_else(|| missing("--input-dir"))?,
            output: args.output_dir.ok_or_else(|| missing("--output-dir"))?,
            max_reject_ratio: reject_ratio.parse().map_err(|e| Error::Usage(format!("--max-reject-ratio: {e}")))?,
            shard_size: args.shard_size.as_deref().map(shard_size).transpose()?,
            compression: args.compress,
            about: args.card.check()?,
            run: args.run.check()?,
            plan: args.plan,
        })
    }

    /// Of all that shapes the output, what decides which documents are exported, to which split, how often.
    pub fn deciding(&self) -> Map<String, Value> {
        let mut decides = self.to_json();
        decides.retain(|key, _| !WRITING.contains(&key.as_str()));
        decides
    }

    /// Everything that shapes the output, for the manifest.
    pub fn to_json(&self) -> Map<String, Value> {
        let text = |values: &[Fraction]| values.iter().map(|v| Value::from(v.to_string())).collect::<Vec<_>>();
        let constants: Map<_, _> = self.schema.constants().iter().map(|c| (c.to.clone(), c.value.clone())).collect();
        let selection = &self.selection;
        let method = if selection.exact { SplitMethod::Exact } else { SplitMethod::Hash };
        let mut value = json!({
            "format": Format::Jsonl,
            "split_method": method,
            "split_names": selection.splits.names(),
            "split_ratio": text(selection.splits.ratios()),
            "seed": selection.seed,
            "max_reject_ratio": self.max_reject_ratio.to_string(),
            "shard_size": self.shard_size,
            "compress": self.compression,
        });
        let schema = json!({ "fields": self.schema.fields(), "constants": constants, "card": self.about });
        let parts =
            [value.as_object_mut().map(std::mem::take), Some(self.selection_json.clone()), schema.as_object().cloned()];
        parts.into_iter().flatten().flatten().collect()
    }
}

fn schema_of(args: &ExportArgs, today: &str) -> Result<Schema> {
    let fields = args.fields.clone().unwrap_or_else(schema::default_fields);
    let mut constants = match args.default_constants {
        Some(false) => Vec::new(),
        _ => schema::default_constants(today),
    };
    let mut set = |to: &str, value: Value| match constants.iter_mut().find(|c| c.to == to) {
        Some(constant) => constant.value = value,
        None => constants.push(Constant { to: to.into(), value }),
    };
    for (path, value) in args.constants.iter().flatten() {
        flat_constants(path, value, &mut set);
    }
    for text in &args.set {
        let (path, value) = text.split_once('=').ok_or_else(|| {
            Error::Usage(format!("--set {text}: write PATH=VALUE, such as metadata.source=wikipedia"))
        })?;
        set(path, value.into());
    }
    Schema::new(fields, constants).map_err(|e| Error::Usage(format!("schema: {e}")))
}

/// A job file may write `"metadata.source" = "x"` as well as `metadata.source = "x"`.
fn flat_constants(path: &str, value: &Value, set: &mut impl FnMut(&str, Value)) {
    match value {
        Value::Object(inner) => {
            inner.iter().for_each(|(key, value)| flat_constants(&format!("{path}.{key}"), value, set))
        }
        value => set(path, value.clone()),
    }
}

fn shard_size(text: &str) -> Result<u64> {
    match size("--shard-size", text)? {
        0 => Err(Error::Usage("--shard-size 0: a file must be able to hold something".into())),
        bytes => Ok(bytes),
    }
}

/// A number of bytes, with or without a unit: `1048576`, `512MiB`, `2GB`.
pub(crate) fn size(flag: &str, text: &str) -> Result<u64> {
    const UNITS: [(&str, u64); 14] = [
        ("", 1),
        ("b", 1),
        ("k", 1 << 10),
        ("kib", 1 << 10),
        ("m", 1 << 20),
        ("mib", 1 << 20),
        ("g", 1 << 30),
        ("gib", 1 << 30),
        ("t", 1 << 40),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
    ];
    let bad = || {
        Error::Usage(format!(
            "{flag} {text}: write a number of bytes, such as 1048576 or 512MiB (K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024; KB, MB, GB, TB of 1000)"
        ))
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let unit = text[digits..].trim().to_ascii_lowercase();
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
    text[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(*factor)).ok_or_else(bad)
}

/// The environment variables that the program knows, for telling typing errors from intentions.
pub fn known_variables(command: &clap::Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_env().map(|env| env.to_string_lossy().into_owned()));
    own.chain(command.get_subcommands().flat_map(known_variables)).collect()
}

/// Parses the process's arguments with `T`'s command.
///
/// # Errors
/// What clap says, help and version included.
pub fn parse<T: CommandFactory + FromArgMatches>() -> std::result::Result<T, clap::Error> {
    // Each option's variable follows from its name; saying so once keeps the help readable.
    // An empty variable is one that is not set: manifests often leave them so.
    let is_empty =
        |arg: &clap::Arg| arg.get_env().is_some_and(|name| std::env::var_os(name).is_some_and(|v| v.is_empty()));
    let option = |arg: clap::Arg| {
        let arg = if is_switch(&arg) { switch(arg) } else { arg };
        if is_empty(&arg) { arg.env(clap::builder::Resettable::Reset) } else { arg.hide_env(true) }
    };
    let terse = |command: clap::Command| command.mut_args(option).after_help(ENVIRONMENT);
    let command = terse(T::command()).mut_subcommands(terse);
    T::from_arg_matches(&command.try_get_matches()?)
}

/// Whether an option is on or off.
fn is_switch(arg: &clap::Arg) -> bool {
    arg.get_value_parser().type_id() == clap::builder::ValueParser::bool().type_id()
}

/// Lets an option that is on or off be named alone, and be switched off wherever it can be switched on: `--delete=false`
/// beats `COLOPHON_DELETE=true`, and `COLOPHON_DELETE=0` beats `delete = true` in the file. What is neither is refused.
fn switch(arg: clap::Arg) -> clap::Arg {
    let arg = arg.value_parser(clap::builder::BoolishValueParser::new()).value_name("BOOL");
    // Only behind `=`: what follows such an option has always been something else.
    arg.num_args(0..=1).require_equals(true).default_missing_value("true").hide_possible_values(true)
}

/// What the command line or the environment says for an option that has a value, where neither can be parsed as a whole.
pub fn said<T>(name: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    let flag = format!("--{name}");
    let args = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    // No options follow it.
    let args: Vec<String> = args.take_while(|arg| arg != "--").collect();
    let after = |(place, arg): (usize, &String)| match arg.strip_prefix(&flag) {
        // The next option is no value of one whose own was forgotten.
        Some("") => args.get(place + 1).filter(|value| !value.starts_with('-')).cloned(),
        Some(rest) => rest.strip_prefix('=').map(str::to_owned),
        None => None,
    };
    let flags: Vec<String> = args.iter().enumerate().filter_map(after).collect();
    let variable = std::env::var(format!("COLOPHON_{}", name.replace('-', "_").to_uppercase()));
    flags.iter().rev().chain(&variable.ok()).filter(|text| !text.is_empty()).find_map(|text| read(text))
}

const ENVIRONMENT: &str = "Every option can be given in the environment: --input-dir as COLOPHON_INPUT_DIR, and so on.";

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<ExportArgs> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("job.toml");
        std::fs::write(&path, text).expect("write");
        JobFile::read(&path).map(|file| file.export)
    }

    fn config(args: ExportArgs) -> Result<ExportConfig> {
        let file = ExportArgs { input_dir: Some("in".into()), output_dir: Some("out".into()), ..ExportArgs::default() };
        ExportConfig::new(args.or(file), "2024-01-15")
    }

    #[test]
    fn a_job_file_says_all_that_flags_say_and_more() {
        let args = file(concat!(
            "input-dir = 'in'\noutput-dir = 'out'\nseed = 7\nsplit-ratio = [0.9, 0.1]\nsplit-names = 'a,b'\n",
            "shard-size = '1MiB'\nthreads = 3\ndevice = 'cpu'\nmax-reject-ratio = 0.5\nset = ['metadata.x=1']\n",
            "[constants]\nmetadata.source = 'wiki'\n'metadata.n' = 5\n",
            "[[field]]\nfrom = 'body'\nto = 'text'\ntype = 'string'\nrequired = true\n",
        ));
        let config = config(args.expect("valid")).expect("valid");
        assert_eq!((config.selection.seed, config.shard_size, config.run.threads), (7, Some(1 << 20), 3));
        assert_eq!(config.selection.splits.names(), ["a", "b"]);
        assert_eq!(config.max_reject_ratio.to_string(), "0.5");
        assert_eq!(config.schema.fields()[0].from, "body");
        let constants: Vec<_> = config.schema.constants().iter().map(|c| format!("{}={}", c.to, c.value)).collect();
        assert_eq!(constants.first().map(String::as_str), Some("metadata.source=\"wiki\""));
        assert!(constants.contains(&"metadata.n=5".into()) && constants.contains(&"metadata.x=\"1\"".into()));
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        for (text, key, nearest) in [
            ("sede = 1", "sede", "seed"),
            ("[[fields]]", "fields", "field"),
            ("input_dir='x'", "input_dir", "input-dir"),
        ] {
            let message = file(text).expect_err(text).to_string();
            assert!(message.contains(&format!("'{key}'")) && message.contains(&format!("'{nearest}'")), "{message}");
        }
        for bad in ["seed = 'x'", "seed =", "[[field]]\nfrom='a'\nto='b'\ntipe='string'", "device = 'tpu'"] {
            assert_eq!(file(bad).expect_err(bad).status(), 2);
        }
    }

    /// Whatever is wrong with a job file, what stands in it is not repeated: it may be a password.
    #[test]
    fn no_mistake_shows_a_secret() {
        for text in [
            "seed = 1\n[upload]\nsecret-access-key = 'SECRET'",
            "seed = 1\npassword = SECRET",
            "seed = 1\npassword = 'SECRET",
            "seed = 1\npassword = \"SECRET\\q\"",
            "seed = 1\nSECRET",
            "seed = 1\nSECRET=",
            "seed = 1\n[upload]\nconcurrency = 'SECRET'",
            "seed = 1\n[upload]\nendpoint-url = ['SECRET']",
            "seed = 1\n[upload]\ntarget = { key = 'SECRET' }",
            "seed = 'SECRET' \n",
            "seed = 1\nseed = 'SECRET'",
            "seed = 1\n[upload]\ntoken = '''\nSECRET\n'''",
            "seed = 1\nhf-token = 'SECRET'",
        ] {
            let message = file(text).expect_err(text).to_string();
            // A key that nobody knows is named: it is no value.
            let message = if text.ends_with("SECRET=") { message.replace("'SECRET'", "") } else { message };
            assert!(!message.contains("SECRET") && message.contains(", line "), "{text}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn flags_beat_the_file() {
        let flags = ExportArgs { seed: Some(1), ..ExportArgs::default() };
        let merged = flags.or(file("seed = 2\nthreads = 5").expect("valid"));
        assert_eq!((merged.seed, merged.run.threads), (Some(1), Some(5)));
    }

    #[test]
    fn a_manifest_s_configuration_comes_back() {
        let select = |text: &str| file(text).expect(text);
        for args in [
            ExportArgs::default(),
            select(
                "no-card = true\nseed = 7\nshard-size = '1MiB'\ncompress = 'gzip'\nsplit-names = 'a,b'\nsplit-ratio = [0.9, 0.1]",
            ),
            select(
                "default-constants = false\n[constants]\n'b.c' = 1.5\na = true\n[[field]]\nfrom = 'x'\nto = 'text'\ntype = 'string'\nrequired = true",
            ),
            select(
                "min-quality = 0.25\nmin-words = 3\ndomains = ['a', 'b']\nsample = 0.125\nforbid-leakage = true\nsplit-key = 'url'",
            ),
            select(
                "tags = 'a,b'\nlanguage = ['en']\nhomepage = 'https://example.org'\n[card]\nx = [1, 'y']\n[[filter]]\nfield = 'domain'\nin = ['x']",
            ),
            ExportArgs { seed: Some(u64::MAX), max_reject_ratio: Some("0.333".into()), ..ExportArgs::default() },
        ] {
            let made = config(args).expect("valid").to_json();
            let read = config(ExportArgs::of_configuration(&made).expect("readable")).expect("valid").to_json();
            assert_eq!(Value::from(read), Value::from(made));
        }
    }

    #[test]
    fn which_share_a_worker_does() {
        let share = |worker: Option<&str>, workers, index| {
            let args = ExportArgs { worker: worker.map(String::from), workers, ..ExportArgs::default() };
            args.share(index).map(|share| share.map(|share| share.to_string())).map_err(|error| error.to_string())
        };
        assert_eq!(share(None, None, Some("3")), Ok(None), "an index alone means nothing");
        assert_eq!(share(Some("1/4"), None, Some("3")), Ok(Some("1/4".into())));
        assert_eq!(share(None, Some(4), Some("3")), Ok(Some("3/4".into())));
        for (result, part) in [
            (share(None, Some(4), None), "JOB_COMPLETION_INDEX"),
            (share(None, Some(4), Some("4")), "the last of 4 is 3/4"),
            (share(None, Some(4), Some("x")), "'x'"),
            (share(Some("1/4"), Some(5), None), "contradict"),
            (share(Some("4/4"), None, None), "--worker 4/4"),
        ] {
            let message = result.expect_err(part);
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("7", 7), ("512MiB", 512 << 20), ("1 GB", 1_000_000_000), ("3k", 3072)] {
            assert_eq!(size("--x", text).expect(text), bytes);
        }
        for bad in ["", "MiB", "-1", "1.5MiB", "1TBX", "99999999999999999999", "99999999999GiB"] {
            assert!(size("--x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_mistake_is_a_usage_error_that_names_the_option() {
        let args = |change: fn(&mut ExportArgs)| {
            let mut args = ExportArgs::default();
            change(&mut args);
            config(args).err().map(|e| (e.status(), e.to_string()))
        };
        for (error, part) in [
            (args(|a| a.split_ratio = Some("0.5,0.5".into())), "3 split names"),
            (args(|a| a.max_reject_ratio = Some("2".into())), "--max-reject-ratio"),
            (args(|a| a.shard_size = Some("0".into())), "--shard-size"),
            (args(|a| a.set = vec!["x".into()]), "PATH=VALUE"),
            (args(|a| a.set = vec!["text=x".into()]), "'text'"),
            (args(|a| a.run.threads = Some(0)), "--threads"),
            (args(|a| a.run.chunk_size = Some("2GiB".into())), "--chunk-size"),
        ] {
            let (status, message) = error.expect(part);
            assert!(status == 2 && message.contains(part), "{message}");
        }
    }
}
