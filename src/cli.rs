//! The command line: what there is, and what each command does with the rest of the program.

use crate::config::{self, ExportArgs, ExportConfig, RunArgs};
use crate::demo;
use crate::error::{Error, Result, show};
use crate::input::Encoding;
use crate::pipeline::Progress;
use crate::pipeline::export::{self, find_input, scanner};
use crate::pipeline::inspect;
use crate::pipeline::stop::Stop;
use crate::report::{devices, progress, summary, text};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The last step of a training corpus: maps, splits, validates, counts and proves JSON Lines.
///
/// Exit status: 0 done and sound, 1 the data failed a gate, 2 usage, 3 the environment failed
/// (a retry may help), 130 and 143 stopped by a signal.
#[derive(Parser)]
#[command(name = "colophon", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
#[command(next_help_heading = "Messages and results")]
struct Global {
    /// Print the result as JSON
    #[arg(long, global = true, env = "COLOPHON_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    json: bool,

    /// How to write progress and messages
    #[arg(long, global = true, env = "COLOPHON_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// No progress, no messages but warnings and errors
    #[arg(long, short, global = true, env = "COLOPHON_QUIET", value_parser = clap::builder::FalseyValueParser::new())]
    quiet: bool,

    /// More messages
    #[arg(long, short, global = true, env = "COLOPHON_VERBOSE", value_parser = clap::builder::FalseyValueParser::new())]
    verbose: bool,
}

/// How messages are written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for containers.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Map, split, validate, count and write a dataset, in one pass
    Export {
        #[command(flatten)]
        args: Box<ExportArgs>,
        /// Job file (TOML) with any of these options, and the schema
        #[arg(long, env = "COLOPHON_JOB", value_name = "FILE")]
        job: Option<PathBuf>,
    },
    /// Check the integrity of existing files
    Validate {
        /// Folders (the splits in them) or files
        #[arg(required = true, value_name = "DIR_OR_FILE")]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Count existing files; prints and writes dataset_stats.json
    Stats {
        /// Folder with the splits
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Show how many documents each stage of the pipeline left
    Summary {
        /// Folder with the stages
        #[arg(value_name = "DATA_DIR")]
        folder: PathBuf,
    },
    /// Make a small corpus and run export, validate and summary on it
    Demo {
        /// Folder for it
        #[arg(value_name = "DIR", default_value = "colophon-demo")]
        folder: PathBuf,
    },
    /// Show what this machine can scan with, and how fast
    Devices,
}

/// Parses the process's arguments, runs the command and gives the exit status.
pub fn main() -> u8 {
    let cli: Cli = match config::parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors. Nothing can be done if they cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { 2 } else { 0 };
        }
    };
    start_log(&cli.global);
    warn_of_unknown_variables();
    match run(&cli) {
        Ok(sound) => u8::from(!sound),
        Err(error) => {
            tracing::error!(status = error.status(), "{error}");
            error.status()
        }
    }
}

fn start_log(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => tracing::Level::WARN,
        (_, true) => tracing::Level::DEBUG,
        _ => tracing::Level::INFO,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    match global.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => {
            let log = log.with_ansi(std::io::stderr().is_terminal()).without_time();
            log.event_format(PlainMessages).init();
        }
    }
}

/// `error: …` and `warning: …`, as command-line tools write them; the rest as it is.
struct PlainMessages;

impl<S, N> tracing_subscriber::fmt::FormatEvent<S, N> for PlainMessages
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    N: for<'a> tracing_subscriber::fmt::FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &tracing_subscriber::fmt::FmtContext<'_, S, N>,
        mut out: tracing_subscriber::fmt::format::Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        let (label, colour) = match *event.metadata().level() {
            tracing::Level::ERROR => ("error: ", "\x1b[1;31m"),
            tracing::Level::WARN => ("warning: ", "\x1b[1;33m"),
            _ => ("", ""),
        };
        if out.has_ansi_escapes() && !label.is_empty() {
            writeln!(out, "{colour}{label}\x1b[0m{}", message.0)
        } else {
            writeln!(out, "{label}{}", message.0)
        }
    }
}

/// A misspelt variable would otherwise change nothing without a word.
fn warn_of_unknown_variables() {
    let known = config::known_variables(&Cli::command());
    for (name, _) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("COLOPHON_")) else { continue };
        if !known.iter().any(|k| k == name) {
            tracing::warn!("the environment variable {name} is not one that colophon knows");
        }
    }
}

/// Runs a command; whether the data are sound.
fn run(cli: &Cli) -> Result<bool> {
    let global = &cli.global;
    match &cli.command {
        Command::Export { args, job } => run_export(global, args, job.as_deref()),
        Command::Validate { paths, run } => run_validate(global, paths, run),
        Command::Stats { folder, run } => run_stats(global, folder, run),
        Command::Summary { folder } => run_summary(global, folder),
        Command::Demo { folder } => run_demo(global, folder),
        Command::Devices => run_devices(global),
    }
}

fn run_export(global: &Global, args: &ExportArgs, job: Option<&Path>) -> Result<bool> {
    let file = job.map(ExportArgs::from_file).transpose()?.unwrap_or_default();
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let config = ExportConfig::new(args.clone().or(file), &today)?;
    export_and_print(global, &config).map(|()| true)
}

fn export_and_print(global: &Global, config: &ExportConfig) -> Result<()> {
    let stop = Stop::on_signals()?;
    let start = Instant::now();
    let shards = find_input(config)?;
    let packed = shards.iter().any(|shard| shard.encoding != Encoding::Plain);
    let total = (!packed).then(|| shards.iter().map(|shard| shard.bytes).sum());
    let files = if shards.len() == 1 { "1 shard".into() } else { format!("{} shards", shards.len()) };
    let threads = if config.run.threads == 1 { "1 thread".into() } else { format!("{} threads", config.run.threads) };
    tracing::info!("Exporting {files} from {} with {threads}", show(&config.input));
    let state = Progress::default();
    let report = progress::shown(global.quiet, &state, total, || export::export(config, &shards, &state, &stop))?;
    warn_of_empty_splits(&report);
    tracing::info!(ledger = %json!(report.ledger), "Done: {}", report.ledger);
    let seconds = start.elapsed().as_secs_f64();
    print(global, &report.to_json(), || text::export(&report, seconds))
}

fn warn_of_empty_splits(report: &export::Report) {
    if report.ledger.exported == 0 {
        tracing::warn!("no document was exported: the dataset is empty");
        return;
    }
    for (name, _) in report.splits.iter().filter(|(_, documents)| *documents == 0) {
        tracing::warn!("the split '{name}' got no document");
    }
}

fn run_validate(global: &Global, paths: &[PathBuf], run: &RunArgs) -> Result<bool> {
    let stop = Stop::on_signals()?;
    let run = run.check()?;
    let scanner = scanner(&run)?;
    let mut groups = Vec::new();
    for path in paths {
        groups.extend(inspect::groups(path)?);
    }
    let state = Progress::default();
    let validate = |group| inspect::validate(group, &*scanner, &run, &state, &stop);
    let validations = progress::shown(global.quiet, &state, total(&groups), || {
        groups.iter().map(validate).collect::<Result<Vec<_>>>()
    })?;
    let passed = validations.iter().all(inspect::Validation::passed);
    let report = json!({ "passed": passed, "splits": validations.iter().map(|v| v.to_json()).collect::<Vec<_>>() });
    print(global, &report, || {
        let splits: String = validations.iter().map(text::validation).collect();
        format!("{splits}{}\n", text::validation_end(passed))
    })?;
    Ok(passed)
}

/// Bytes of all files, where none is compressed.
fn total(groups: &[inspect::Group]) -> Option<u64> {
    let shards = || groups.iter().flat_map(|group| group.files.iter().flat_map(|files| files.iter()));
    shards().all(|shard| shard.encoding == Encoding::Plain).then(|| shards().map(|shard| shard.bytes).sum())
}

fn run_stats(global: &Global, folder: &Path, run: &RunArgs) -> Result<bool> {
    let stop = Stop::on_signals()?;
    let run = run.check()?;
    let scanner = scanner(&run)?;
    let state = Progress::default();
    let total = total(&inspect::groups(folder)?);
    let stats =
        progress::shown(global.quiet, &state, total, || inspect::stats(folder, &*scanner, &run, &state, &stop))?;
    inspect::write_stats(folder, &stats)?;
    print(global, &stats, || pretty(&stats))?;
    Ok(true)
}

fn run_summary(global: &Global, folder: &Path) -> Result<bool> {
    let stages = summary::count(folder)?;
    print(global, &summary::to_json(&stages), || summary::table(&stages))?;
    Ok(true)
}

fn run_demo(global: &Global, folder: &Path) -> Result<bool> {
    demo::write(folder)?;
    tracing::info!("Made a corpus of six stages in {}", show(folder));
    let args = ExportArgs {
        input_dir: Some(folder.join("classified")),
        output_dir: Some(folder.join("export")),
        set: vec!["metadata.source=demo".into(), format!("metadata.curation_date={}", demo::DATE)],
        ..ExportArgs::default()
    };
    let config = ExportConfig::new(args, demo::DATE)?;
    step(global, "colophon export");
    export_and_print(global, &config)?;
    step(global, "colophon validate");
    let passed = run_validate(global, &[folder.join("export")], &RunArgs::default())?;
    step(global, "colophon summary");
    run_summary(global, folder)?;
    Ok(passed)
}

/// A heading between the steps of the demo.
fn step(global: &Global, command: &str) {
    if !global.json {
        let _ = writeln!(std::io::stdout(), "\n$ {command} …");
    }
}

fn run_devices(global: &Global) -> Result<bool> {
    let found = devices::measure();
    print(global, &devices::to_json(&found), || devices::table(&found))?;
    Ok(true)
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Prints a result to standard output.
fn print(global: &Global, json: &Value, text: impl FnOnce() -> String) -> Result<()> {
    let text = if global.json { pretty(json) } else { text() };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough: no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Error::io(Path::new("standard output"), "write", &error)),
    }
}
