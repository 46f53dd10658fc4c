//! The command line: what there is, and what each command does with the rest of the program.

use crate::config::card::CardArgs;
use crate::config::upload::{UploadArgs, UploadConfig};
use crate::config::{self, ExportArgs, ExportConfig, JOB_INDEX, JobFile, LogFormat, MergeArgs, PlanArgs, RunArgs};
use crate::demo;
use crate::domain::ledger::Ledger;
use crate::domain::share::Share;
use crate::error::{Context, Error, Result, show};
use crate::input::{Encoding, Piece, Shard, share};
use crate::pipeline::Progress;
use crate::pipeline::conclude::Report;
use crate::pipeline::engine::engine;
use crate::pipeline::export::{self, find_input};
use crate::pipeline::stop::Stop;
use crate::pipeline::{inspect, merge, plan, upload, verify, worker};
use crate::publish::receipt::Receipt;
use crate::report::metrics::Metrics;
use crate::report::progress::Display;
use crate::report::{self, devices, progress, summary, text};
use crate::scan::engine::Engine;
use crate::write::part;
use crate::write::place::resolve;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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

#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Messages and results")]
struct Global {
    /// Print the result as JSON
    #[arg(long, global = true, env = "COLOPHON_JSON")]
    json: Option<bool>,

    /// How to write progress and messages [default: text]
    #[arg(long, global = true, env = "COLOPHON_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,

    /// No progress, no messages but warnings and errors
    #[arg(long, short, global = true, env = "COLOPHON_QUIET")]
    quiet: Option<bool>,

    /// More messages
    #[arg(long, short, global = true, env = "COLOPHON_VERBOSE")]
    verbose: Option<bool>,

    /// Write figures for Prometheus to this file, every two seconds and at the end
    #[arg(long, global = true, env = "COLOPHON_METRICS_FILE", value_name = "FILE")]
    metrics_file: Option<PathBuf>,

    /// Serve figures for Prometheus at this address, such as 0.0.0.0:9464, under /metrics
    #[arg(long, global = true, env = "COLOPHON_METRICS_ADDR", value_name = "IP:PORT")]
    metrics_addr: Option<SocketAddr>,

    /// Where the figures go, from when the command begins.
    #[arg(skip)]
    metrics: Metrics,
}

impl Cli {
    /// The job file, for the command that has one.
    fn job(&self) -> Option<&Path> {
        match &self.command {
            Command::Export { job, .. }
            | Command::Plan { job, .. }
            | Command::Merge { job, .. }
            | Command::Upload { job, .. } => job.as_deref(),
            Command::Run { job, .. } => Some(job),
            _ => None,
        }
    }
}

impl Global {
    /// Takes from the job file what is not given here.
    fn or(&self, file: &JobFile) -> Global {
        Global {
            json: self.json.or(file.messages.json),
            log_format: self.log_format.or(file.messages.log_format),
            quiet: self.quiet.or(file.messages.quiet),
            verbose: self.verbose.or(file.messages.verbose),
            metrics_file: self.metrics_file.clone().or_else(|| file.messages.metrics_file.clone()),
            metrics_addr: self.metrics_addr.or(file.messages.metrics_addr),
            metrics: self.metrics.clone(),
        }
    }

    /// Runs `job`, which is to process `total` bytes if that is known, and tells meanwhile how far it has come.
    fn watch<T>(&self, progress: &Progress, total: Option<u64>, job: impl FnOnce() -> T) -> T {
        let display = match (self.quiet, self.log_format) {
            (Some(true), _) => Display::None,
            (_, Some(LogFormat::Json)) => Display::Lines,
            _ if io::stderr().is_terminal() => Display::Bar,
            _ => Display::Lines,
        };
        progress::shown(display, &self.metrics, progress, total, job)
    }

    /// The last word of an export that went well; each of the ledger's numbers has a field of its own.
    fn log_end(&self, ledger: &Ledger) {
        self.metrics.note_ledger(ledger);
        let Ledger { lines, blank, rejected, filtered, duplicates, sampled_out, exported, repeats } = *ledger;
        tracing::info!(
            status = 0,
            lines,
            blank,
            rejected,
            filtered,
            duplicates,
            sampled_out,
            exported,
            repeats,
            "Done: {ledger}"
        );
    }
}

#[derive(Subcommand)]
enum Command {
    /// Map, select, split, validate, count and write a dataset
    Export {
        #[command(flatten)]
        args: Box<ExportArgs>,
        /// Job file (TOML) with any of these options, and the schema
        #[arg(long, env = "COLOPHON_JOB", value_name = "FILE")]
        job: Option<PathBuf>,
    },
    /// Make the export of the parts that `export --worker` left
    Merge {
        #[command(flatten)]
        args: MergeArgs,
        /// Job file (TOML) that the workers were run with; its options that are not listed here are passed over
        #[arg(long, env = "COLOPHON_JOB", value_name = "FILE")]
        job: Option<PathBuf>,
    },
    /// Show what an export would do: the ledger, splits and shares; nothing is written but what --save or --worker says
    Plan {
        #[command(flatten)]
        args: Box<ExportArgs>,
        #[command(flatten)]
        own: PlanArgs,
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
    /// Check a finished export against its manifest: one line for each item
    Verify {
        /// Folder of the export
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Send a finished export to S3 or to the Hugging Face Hub; it is verified first
    Upload {
        /// Folder of the export [default: output-dir of the job file]
        #[arg(value_name = "DIR", required_unless_present = "job")]
        folder: Option<PathBuf>,
        /// s3://BUCKET/PREFIX or hf://datasets/OWNER/NAME[@BRANCH] [default: target of the job file]
        #[arg(value_name = "TARGET", env = "COLOPHON_TARGET")]
        target: Option<String>,
        #[command(flatten)]
        args: Box<UploadArgs>,
        #[command(flatten)]
        run: RunArgs,
        /// Job file (TOML) with any of these options in its table [upload]
        #[arg(long, env = "COLOPHON_JOB", value_name = "FILE")]
        job: Option<PathBuf>,
    },
    /// Export, verify, upload and show the summary, as a job file says
    Run {
        /// Job file (TOML); what is given here or in the environment goes before what it says
        #[arg(value_name = "JOB.toml", env = "COLOPHON_JOB")]
        job: PathBuf,
        #[command(flatten)]
        export: Box<ExportArgs>,
        /// s3://BUCKET/PREFIX or hf://datasets/OWNER/NAME[@BRANCH], to upload to
        #[arg(long, value_name = "TARGET", env = "COLOPHON_TARGET")]
        target: Option<String>,
        #[command(flatten)]
        upload: Box<UploadArgs>,
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

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Command::Export { .. } => "export",
            Command::Plan { .. } => "plan",
            Command::Merge { .. } => "merge",
            Command::Upload { .. } => "upload",
            Command::Run { .. } => "run",
            Command::Validate { .. } => "validate",
            Command::Stats { .. } => "stats",
            Command::Verify { .. } => "verify",
            Command::Summary { .. } => "summary",
            Command::Demo { .. } => "demo",
            Command::Devices => "devices",
        }
    }
}

/// Parses the process's arguments, runs the command and gives the exit status.
pub fn main() -> u8 {
    let cli: Cli = match config::parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors. Nothing can be done if they cannot be printed.
            if !error.use_stderr() {
                let _ = error.print();
                return 0;
            }
            return refuse(&error);
        }
    };
    let (file, failure) = match cli.job().map(JobFile::read).transpose() {
        Ok(file) => (file.unwrap_or_default(), None),
        // Where its failure is to be told, it may say all the same.
        Err(error) => (JobFile::of_messages(cli.job()), Some(error)),
    };
    let mut global = cli.global.or(&file);
    start_log(&global);
    warn_of_unknown_variables();
    // A page that an earlier run left must not stand for this one, however early it fails.
    let metrics = Metrics::start(cli.command.name(), global.metrics_file.as_deref(), global.metrics_addr);
    let metrics = metrics.map(|metrics| global.metrics = metrics);
    let outcome = failure.map_or(Ok(()), Err).and(metrics).and_then(|()| run(&cli.command, &global, file));
    let outcome = outcome.and_then(|outcome| outcome.print(&global).map(|()| outcome.sound));
    let status = match outcome {
        Ok(sound) => u8::from(!sound),
        Err(error) => {
            tracing::error!(status = error.status(), "{error}");
            error.status()
        }
    };
    global.metrics.end(status);
    status
}

/// Says what is wrong with the command line, where and how it asks for messages; gives the exit status.
fn refuse(error: &clap::Error) -> u8 {
    const STATUS: u8 = 2;
    let format = config::said("log-format", |text| LogFormat::from_str(text, true).ok());
    match format {
        Some(LogFormat::Json) => {
            let text = error.render().to_string();
            let message = text.trim().trim_start_matches("error: ");
            start_log(&Global { log_format: format, ..Global::default() });
            tracing::error!(status = STATUS, "{message}");
        }
        Some(LogFormat::Text) | None => drop(error.print()),
    }
    // A page that an earlier run left must not stand for this one.
    let file = config::said("metrics-file", |text| Some(PathBuf::from(text)));
    let names = Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect::<Vec<_>>();
    // Any argument may be what is wrong, and no text.
    let mut args = std::env::args_os().skip(1).filter_map(|arg| arg.into_string().ok());
    let command = args.find(|arg| names.contains(arg)).unwrap_or_default();
    if let Ok(metrics) = Metrics::start(&command, file.as_deref(), None) {
        metrics.end(STATUS);
    }
    STATUS
}

fn start_log(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (Some(true), _) => tracing::Level::WARN,
        (_, Some(true)) => tracing::Level::DEBUG,
        _ => tracing::Level::INFO,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(|| Unread).with_target(false);
    // Only what this program says itself: libraries would tell of every request, with more of it than anyone should see.
    let own = Targets::new().with_target(env!("CARGO_PKG_NAME"), level);
    match global.log_format {
        Some(LogFormat::Json) => log.json().flatten_event(true).finish().with(own).init(),
        Some(LogFormat::Text) | None => {
            let log = log.with_ansi(std::io::stderr().is_terminal()).without_time();
            log.event_format(PlainMessages).finish().with(own).init();
        }
    }
}

/// Standard error, where it is no failure if nobody reads.
struct Unread;

impl Write for Unread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
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

/// What a command came to.
struct Outcome {
    /// For `--json`.
    json: Value,
    /// For people.
    text: String,
    /// Whether the data are sound.
    sound: bool,
}

impl Outcome {
    /// Adds what a further step came to.
    fn add(&mut self, step: &str, outcome: Outcome) {
        self.json[step] = outcome.json;
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text += &outcome.text;
        self.sound &= outcome.sound;
    }

    /// Prints the result to standard output.
    fn print(&self, global: &Global) -> Result<()> {
        let json;
        let text = if global.json == Some(true) {
            // A container's log has both streams in it: what reads a JSON object a line reads this one, too.
            json = match global.log_format {
                Some(LogFormat::Json) => format!("{}\n", self.json),
                Some(LogFormat::Text) | None => pretty(&self.json),
            };
            &json
        } else {
            &self.text
        };
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Whoever reads has seen enough: no failure.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|error| {
                Error::io(Path::new("standard output"), "write the result (the work is done)", &error)
            }),
        }
    }
}

fn run(command: &Command, global: &Global, file: JobFile) -> Result<Outcome> {
    match command {
        Command::Export { args, .. } => run_export(global, args, file.export),
        Command::Plan { args, own, .. } => run_plan(global, args, own, file.export),
        Command::Merge { args, .. } => run_merge(global, args, file.export),
        Command::Upload { folder, target, args, run, .. } => {
            let args = UploadArgs { target: target.clone(), ..(**args).clone() };
            run_upload(global, folder.as_deref(), args, run, file)
        }
        Command::Run { export, target, upload, .. } => {
            let upload = UploadArgs { target: target.clone(), ..(**upload).clone() };
            run_job(global, (**export).clone(), upload, file)
        }
        Command::Validate { paths, run } => run_validate(global, paths, run),
        Command::Stats { folder, run } => run_stats(global, folder, run),
        Command::Verify { folder, run } => run_verify(global, folder, run),
        Command::Summary { folder } => run_summary(folder),
        Command::Demo { folder } => run_demo(global, folder),
        Command::Devices => Ok(run_devices()),
    }
}

fn run_export(global: &Global, args: &ExportArgs, file: ExportArgs) -> Result<Outcome> {
    let args = args.clone().or(file);
    match args.share(std::env::var(JOB_INDEX).ok().as_deref())? {
        Some(share) => run_worker(global, args, share),
        None => export(global, &ExportConfig::new(args, &today())?),
    }
}

/// The date of the default constants.
fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}

fn run_worker(global: &Global, args: ExportArgs, share: Share) -> Result<Outcome> {
    args.check_for_worker(share)?;
    let config = |day: &str| ExportConfig::new(args.clone(), day);
    let mut config_of_worker = config(&today())?;
    worker::refuse(&config_of_worker)?;
    // Workers may start on different days.
    if config("")?.to_json() != config_of_worker.to_json() {
        config_of_worker = config(&part::day(&config_of_worker.output, &today())?)?;
    }
    let config = config_of_worker;
    let start = Instant::now();
    let report = as_worker(global, &config, share, "exporting", |work| {
        worker::export(&config, work.shards, (share, work.pieces), &work.engine, work.progress, work.stop)
    })?;
    global.log_end(&report.ledger);
    let text = text::part(&report, start.elapsed().as_secs_f64());
    Ok(Outcome { json: report.to_json(), text, sound: true })
}

/// What a worker works with.
struct Work<'a> {
    shards: &'a Arc<[Shard]>,
    pieces: Vec<Piece>,
    engine: Engine,
    progress: &'a Progress,
    stop: &'a Stop,
}

/// Has a worker do its share.
fn as_worker<T>(
    global: &Global,
    config: &ExportConfig,
    share: Share,
    doing: &str,
    work: impl FnOnce(Work<'_>) -> Result<T>,
) -> Result<T> {
    let stop = Stop::on_signals()?;
    let shards = find_input(config)?;
    let pieces = share::pieces(&shards, share);
    let bytes = share::bytes(&pieces);
    let is_plain = pieces.iter().all(|piece| shards[piece.shard].encoding == Encoding::Plain);
    let input = show(&config.input);
    tracing::info!("Worker {share}: {doing} {} of {input}", indicatif::HumanBytes(bytes));
    let progress = Progress::default();
    let engine = engine(&config.run, bytes)?;
    let of = Work { shards: &shards, pieces, engine, progress: &progress, stop: &stop };
    global.watch(&progress, is_plain.then_some(bytes), || work(of))
}

fn run_merge(global: &Global, args: &MergeArgs, file: ExportArgs) -> Result<Outcome> {
    let config = args.clone().or(file).check()?;
    let stop = Stop::on_signals()?;
    let start = Instant::now();
    tracing::info!("Merging the parts in {}", show(&config.output));
    let state = Progress::default();
    let total = merge::total(&config.output);
    let report = global.watch(&state, total, || merge::merge(&config, &state, &stop))?;
    Ok(exported(global, &report, start))
}

/// What an export came to.
fn exported(global: &Global, report: &Report, start: Instant) -> Outcome {
    report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    global.log_end(&report.ledger);
    Outcome { json: report.to_json(), text: text::export(report, start.elapsed().as_secs_f64()), sound: true }
}

fn export(global: &Global, config: &ExportConfig) -> Result<Outcome> {
    let stop = Stop::on_signals()?;
    let start = Instant::now();
    let shards = find_input(config)?;
    // What needs a plan is read twice, unless there is one.
    let passes = if config.selection.needs_plan() && config.plan.is_none() { 2 } else { 1 };
    let total = bytes_of(shards.iter()).map(|bytes| bytes * passes);
    let files = if shards.len() == 1 { "1 shard".into() } else { format!("{} shards", shards.len()) };
    let threads = if config.run.threads == 1 { "1 thread".into() } else { format!("{} threads", config.run.threads) };
    tracing::info!("Exporting {files} from {} with {threads}", show(&config.input));
    let state = Progress::default();
    let engine = engine(&config.run, shards.iter().map(|shard| shard.bytes).sum())?;
    let export = || export::export(config, &shards, &engine, &state, &stop);
    let report = global.watch(&state, total, export)?;
    Ok(exported(global, &report, start))
}

fn run_plan(global: &Global, args: &ExportArgs, own: &PlanArgs, file: ExportArgs) -> Result<Outcome> {
    let mut args = args.clone().or(file);
    let save = own.save.as_ref().map(|save| place_of_plan(save.as_deref(), args.plan.as_deref())).transpose()?;
    // With a job file for workers and what follows them, their number is no mistake.
    if own.from_parts {
        if let Some(worker) = &args.worker {
            let message = format!("--from-parts plans from what all workers left: leave out --worker {worker}");
            return Err(Error::Usage(message));
        }
    } else if let Some(share) = args.share(std::env::var(JOB_INDEX).ok().as_deref())? {
        if save.is_some() {
            return Err(Error::Usage(format!(
                "worker {share} leaves a part of a plan: leave out --save, and give it to plan --from-parts when all \
                 workers are done"
            )));
        }
        return run_plan_worker(global, args, share);
    } else {
        // Nothing is written there, so there need not be a place for it.
        args.output_dir.get_or_insert_default();
    }
    // An export is to follow it, so what is asked of a plan to follow is asked of its place.
    args.plan = save.clone().or(args.plan);
    let config = ExportConfig::new(args, &today())?;
    let stop = Stop::on_signals()?;
    let shards = find_input(&config)?;
    let state = Progress::default();
    let (source, total) = match own.from_parts {
        true => (plan::Source::Parts, None),
        false => (plan::Source::Scan, bytes_of(shards.iter())),
    };
    let report =
        global.watch(&state, total, || plan::plan(&config, &shards, source, save.as_deref(), &state, &stop))?;
    report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    report.failures.iter().for_each(|failure| tracing::error!("the export would fail: {failure}"));
    let sound = report.failures.is_empty();
    Ok(Outcome { json: report.to_json(), text: report::plan::text(&report), sound })
}

/// Where a plan is saved: what `--save` says, or else `--plan`.
fn place_of_plan(save: Option<&Path>, plan: Option<&Path>) -> Result<PathBuf> {
    let place = |path: &Path| resolve(path).context(path, "find");
    match (save, plan) {
        (Some(save), Some(plan)) if place(save)? != place(plan)? => Err(Error::Usage(format!(
            "--save {} and --plan {} are two files, and a plan that is made follows none: give one name to both, or \
             --save alone, which takes that of --plan",
            show(save),
            show(plan)
        ))),
        (Some(path), _) | (None, Some(path)) => Ok(path.into()),
        (None, None) => {
            Err(Error::Usage("--save does not say where: give --save FILE, or name the file with --plan".into()))
        }
    }
}

fn run_plan_worker(global: &Global, args: ExportArgs, share: Share) -> Result<Outcome> {
    let config = ExportConfig::new(args, &today())?;
    let start = Instant::now();
    let report = as_worker(global, &config, share, "planning", |work| {
        plan::worker::leave(&config, work.shards, (share, work.pieces), &work.engine, work.progress, work.stop)
    })?;
    let text = text::plan_part(&report, start.elapsed().as_secs_f64());
    Ok(Outcome { json: report.to_json(), text, sound: true })
}

fn run_validate(global: &Global, paths: &[PathBuf], run: &RunArgs) -> Result<Outcome> {
    let stop = Stop::on_signals()?;
    let run = run.check()?;
    let mut groups = Vec::new();
    for path in paths {
        groups.extend(inspect::groups(path)?);
    }
    let engine = engine(&run, bytes(&groups))?;
    let state = Progress::default();
    let validate = |group| inspect::validate(group, &engine, &run, &state, &stop);
    let all = || groups.iter().map(validate).collect::<Result<Vec<_>>>();
    let validations = global.watch(&state, total(&groups), all)?;
    let sound = validations.iter().all(inspect::Validation::passed);
    let splits: String = validations.iter().map(text::validation).collect();
    let reports: Vec<Value> = validations.iter().map(inspect::Validation::to_json).collect();
    Ok(Outcome {
        json: json!({ "passed": sound, "splits": reports }),
        text: format!("{splits}{}\n", text::validation_end(sound)),
        sound,
    })
}

fn shards(groups: &[inspect::Group]) -> impl Iterator<Item = &Shard> {
    groups.iter().flat_map(|group| group.files.iter().flat_map(|files| files.iter()))
}

/// Bytes of all files of some groups.
fn bytes(groups: &[inspect::Group]) -> u64 {
    shards(groups).map(|shard| shard.bytes).sum()
}

/// Bytes of all shards, where none is compressed.
fn bytes_of<'a>(shards: impl Iterator<Item = &'a Shard>) -> Option<u64> {
    shards.map(|shard| (shard.encoding == Encoding::Plain).then_some(shard.bytes)).sum()
}

/// Bytes of all files of some groups, where none is compressed.
fn total(groups: &[inspect::Group]) -> Option<u64> {
    bytes_of(shards(groups))
}

fn run_stats(global: &Global, folder: &Path, run: &RunArgs) -> Result<Outcome> {
    if !fs::metadata(folder).context(folder, "read the folder")?.is_dir() {
        return Err(Error::Usage(format!("{}: stats counts the splits of a folder, and this is none", show(folder))));
    }
    let stop = Stop::on_signals()?;
    let run = run.check()?;
    let state = Progress::default();
    let groups = inspect::groups(folder)?;
    let total = total(&groups);
    let engine = engine(&run, bytes(&groups))?;
    let count = || inspect::stats(folder, &engine, &run, &state, &stop);
    let (stats, rejected) = global.watch(&state, total, count)?;
    if rejected > 0 {
        tracing::warn!("{rejected} lines are no documents and were not counted; colophon validate says why");
    }
    let outcome = Outcome { text: pretty(&stats), json: stats, sound: rejected == 0 };
    if let Err(error) = inspect::write_stats(folder, &outcome.json) {
        outcome.print(global)?;
        return Err(error);
    }
    Ok(outcome)
}

fn run_verify(global: &Global, folder: &Path, run: &RunArgs) -> Result<Outcome> {
    let stop = Stop::on_signals()?;
    let run = run.check()?;
    let total = verify::total(folder);
    let engine = engine(&run, total.unwrap_or_default())?;
    let state = Progress::default();
    let verify = || verify::verify(folder, &engine, &run, &state, &stop);
    Ok(verified(&global.watch(&state, total, verify)?))
}

/// What a verification came to.
fn verified(report: &verify::Report) -> Outcome {
    Outcome { json: report.to_json(), text: text::verification(report), sound: report.passed() }
}

/// What an upload came to.
fn uploaded(receipt: &Receipt) -> Outcome {
    Outcome { json: json!(receipt), text: report::upload::text(receipt), sound: true }
}

fn run_upload(
    global: &Global,
    folder: Option<&Path>,
    args: UploadArgs,
    run: &RunArgs,
    file: JobFile,
) -> Result<Outcome> {
    let config = args.or(file.upload.unwrap_or_default()).check(&run.clone().or(file.export.run))?;
    upload::check_feature(&config.target)?;
    let Some(folder) = folder.map(Path::to_owned).or(file.export.output_dir) else {
        return Err(Error::Usage("the folder is missing: name it, or write output-dir in the job file".into()));
    };
    let stop = Stop::on_signals()?;
    let published = publish(global, &folder, &config, &stop)?;
    Ok(match published {
        Published::Unsound(report) => {
            tracing::error!("{} is not sound: nothing was uploaded", show(&folder));
            Outcome { json: json!({ "verify": report.to_json() }), text: text::verification(&report), sound: false }
        }
        Published::Sent { receipt, .. } => uploaded(&receipt),
    })
}

/// What became of an upload.
enum Published {
    /// Nothing: the export is not sound.
    Unsound(verify::Report),
    /// It was sent.
    Sent {
        /// What was verified, if it was.
        verified: Option<verify::Report>,
        /// What was sent.
        receipt: Box<Receipt>,
    },
}

/// Verifies an export and sends it.
fn publish(global: &Global, folder: &Path, config: &UploadConfig, stop: &Stop) -> Result<Published> {
    let content = upload::content(folder)?;
    upload::check_credentials(config, stop)?;
    let total = if config.verify { verify::total(folder) } else { Some(content.bytes()) };
    let engine = config.verify.then(|| engine(&config.run, total.unwrap_or_default())).transpose()?;
    tracing::info!("{} {}", if config.verify { "Verifying" } else { "Reading" }, show(folder));
    let state = Progress::default();
    let check = || upload::verify(folder, &content, engine.as_ref(), config, &state, stop);
    let verified = global.watch(&state, total, check)?;
    drop(engine);
    match verified {
        Some(report) if !report.passed() => return Ok(Published::Unsound(report)),
        _ => {}
    }
    let bytes = content.bytes();
    tracing::info!(
        "{} {} files ({}) to {}",
        if config.options.dry_run { "Comparing" } else { "Uploading" },
        content.files.len(),
        indicatif::HumanBytes(bytes),
        config.target
    );
    let state = Progress::of_files();
    let send = || upload::send(&content, config, &state, stop);
    let receipt = global.watch(&state, Some(bytes), send).inspect_err(|error| {
        if matches!(error, Error::Stopped(_)) {
            tracing::warn!("the upload to {} is not complete: run it again", config.target);
        }
    })?;
    Ok(Published::Sent { verified, receipt: Box::new(receipt) })
}

/// The steps of `run`, with all that they need, checked.
struct Job {
    export: ExportConfig,
    upload: Option<UploadConfig>,
    verify: RunArgs,
    summary: Option<PathBuf>,
}

impl Job {
    fn new(export: ExportArgs, upload: UploadArgs, file: JobFile) -> Result<Job> {
        let export = export.or(file.export);
        if export.share(std::env::var(JOB_INDEX).ok().as_deref())?.is_some() {
            return Err(Error::Usage(
                "run makes the whole export: leave out worker and workers, or use export and merge".into(),
            ));
        }
        if upload.dry_run.or(file.upload.as_ref().and_then(|upload| upload.dry_run)) == Some(true) {
            return Err(Error::Usage(
                "run does all of the job, and replaces the export: leave out dry-run; `colophon plan` shows what would \
                 be exported, `colophon upload --dry-run` what would be sent"
                    .into(),
            ));
        }
        let verify = export.run.clone();
        let is_wanted = upload.target.is_some() || file.upload.is_some();
        let upload = upload.or(file.upload.unwrap_or_default());
        let upload = is_wanted.then(|| upload.check(&verify)).transpose()?;
        if let Some(upload) = &upload {
            upload::check_feature(&upload.target)?;
        }
        let summary = file.summary.map(|summary| summary.data_dir);
        if let Some(folder) = summary.as_ref().filter(|folder| !folder.is_dir()) {
            return Err(Error::environment(
                folder,
                "there is no such folder",
                "check data-dir in the table [summary] of the job file",
            ));
        }
        Ok(Job { export: ExportConfig::new(export, &today())?, upload, verify, summary })
    }
}

/// Export, verify, upload, summary. All options are checked before the first step begins. If a step fails, what the
/// steps before it came to is printed.
fn run_job(global: &Global, export: ExportArgs, upload: UploadArgs, file: JobFile) -> Result<Outcome> {
    let job = Job::new(export, upload, file)?;
    // A signal between two steps is for the next.
    let stop = Stop::on_signals()?;
    job.upload.iter().try_for_each(|upload| upload::check_credentials(upload, &stop))?;
    let mut done = Outcome { json: json!({}), text: String::new(), sound: true };
    done.add("export", self::export(global, &job.export)?);
    let rest = stop.check().and_then(|()| after_export(global, &job, &stop, &mut done));
    if rest.is_err() {
        done.print(global)?;
    }
    rest.map(|()| done)
}

fn after_export(global: &Global, job: &Job, stop: &Stop, done: &mut Outcome) -> Result<()> {
    let folder = &job.export.output;
    match &job.upload {
        None => done.add("verify", run_verify(global, folder, &job.verify)?),
        // The upload verifies first, so that it is done once.
        Some(upload) => match publish(global, folder, upload, stop)? {
            Published::Unsound(report) => done.add("verify", verified(&report)),
            Published::Sent { verified: report, receipt } => {
                report.iter().for_each(|report| done.add("verify", verified(report)));
                done.add("upload", uploaded(&receipt));
            }
        },
    }
    if let Some(folder) = job.summary.as_ref().filter(|_| done.sound) {
        done.add("summary", run_summary(folder)?);
    }
    Ok(())
}

fn run_summary(folder: &Path) -> Result<Outcome> {
    let stages = summary::count(folder, &Stop::on_signals()?)?;
    Ok(Outcome { json: summary::to_json(&stages), text: summary::table(&stages), sound: true })
}

const DEMO_DESCRIPTION: &str = "Articles on technology in many languages, put together at random by `colophon demo` to \
    show what an export looks like. Nothing in them is true.";

fn run_demo(global: &Global, folder: &Path) -> Result<Outcome> {
    demo::write(folder)?;
    tracing::info!("Made a corpus of six stages in {}", show(folder));
    let output = folder.join("export");
    let args = ExportArgs {
        input_dir: Some(folder.join("classified")),
        output_dir: Some(output.clone()),
        set: vec!["metadata.source=demo".into()],
        card: CardArgs {
            pretty_name: Some("Technology articles that nobody wrote".into()),
            description: Some(DEMO_DESCRIPTION.into()),
            tags: Some("demo,synthetic".into()),
            ..CardArgs::default()
        },
        ..ExportArgs::default()
    };
    let export = export(global, &ExportConfig::new(args, demo::DATE)?)?;
    let validation = run_validate(global, &[output], &RunArgs::default())?;
    let summary = run_summary(folder)?;
    let shown = show(folder);
    Ok(Outcome {
        text: format!(
            "$ colophon export --input-dir {shown}/classified --output-dir {shown}/export\n{}\n\
             $ colophon validate {shown}/export\n{}\n$ colophon summary {shown}\n{}",
            export.text, validation.text, summary.text
        ),
        json: json!({ "export": export.json, "validate": validation.json, "summary": summary.json }),
        sound: validation.sound,
    })
}

fn run_devices() -> Outcome {
    let found = devices::measure();
    Outcome { json: devices::to_json(&found), text: devices::table(&found), sound: true }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
