//! A folder to work in and the program to run there, in the manner of ripgrep's `Dir` and
//! `TestCommand`.
//!
//! Every test has a folder of its own, which is the working folder of what it runs; none sees the
//! `COLOPHON_*`, `AWS_*` and `HF_*` variables of whoever runs the tests. A run that is not as expected fails the test with
//! the command, what it wrote and what lies in the folder: enough to understand it without doing it
//! again.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A run that takes longer than this hangs; the slowest takes a few seconds.
const TIME_LIMIT: Duration = Duration::from_secs(150);
/// How often a test looks at what a run does.
const POLL: Duration = Duration::from_micros(100);
/// A user that may do nothing, on every Unix.
const NOBODY: u32 = 65_534;
/// Variables of whoever runs the tests, which no test is to see.
const FOREIGN: [&str; 3] = ["COLOPHON_", "AWS_", "HF_"];
/// The date that the tests' exports bear, so that their bytes do not change from day to day.
pub const DATE: &str = "2024-01-15";

/// Options of a run that is still at work when the test acts on it: slow, in small steps.
pub const SLOW: [&str; 6] = ["--scanner", "reference", "--threads", "2", "--chunk-size", "64KiB"];

/// A folder for one test, removed when the test ends.
pub struct Dir {
    root: TempDir,
}

impl Dir {
    pub fn new() -> Dir {
        let root = tempfile::Builder::new().prefix("colophon-test-").tempdir().expect("a temporary folder");
        // Temporary folders are their owner's alone; some tests run the program as somebody else.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("its permissions");
        Dir { root }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The absolute path of something in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    /// Writes a file, and the folders above it.
    pub fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        self.folder(path.parent().expect("below the root"));
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Makes a folder, and those above it.
    pub fn folder(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    pub fn read(&self, name: impl AsRef<Path>) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}\n{}", path.display(), listing(self.root())))
    }

    pub fn text(&self, name: impl AsRef<Path>) -> String {
        String::from_utf8(self.read(name)).expect("UTF-8")
    }

    pub fn json(&self, name: impl AsRef<Path>) -> Value {
        serde_json::from_slice(&self.read(&name)).unwrap_or_else(|e| panic!("{}: {e}", name.as_ref().display()))
    }

    /// The names of what lies in the folder or one below it, hidden entries and all, sorted.
    pub fn names(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).expect("a folder");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// What lies in a folder now.
    pub fn snapshot(&self, folder: impl AsRef<Path>) -> Snapshot {
        Snapshot::of(&self.path(folder))
    }

    /// Whether an export to `out` has begun to write split files.
    pub fn is_writing(&self) -> bool {
        let stage = fs::read_dir(self.path(".out.colophon-stage"));
        stage.into_iter().flatten().flatten().any(|entry| entry.metadata().is_ok_and(|meta| meta.len() > 0))
    }

    /// The program with these arguments.
    pub fn colophon<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> TestCommand<'_> {
        TestCommand {
            dir: self,
            wrapper: Vec::new(),
            args: args.into_iter().map(|arg| arg.as_ref().into()).collect(),
            env: Vec::new(),
            nobody: false,
            stdout: None,
            stderr: None,
        }
    }

    /// `colophon export` from `in` to `out`, with a fixed date.
    pub fn export(&self) -> TestCommand<'_> {
        let date = format!("metadata.curation_date={DATE}");
        self.colophon(["export", "--input-dir", "in", "--output-dir", "out", "--set", &date])
    }
}

/// The program, about to run.
pub struct TestCommand<'a> {
    dir: &'a Dir,
    wrapper: Vec<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    nobody: bool,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
}

impl TestCommand<'_> {
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().into()));
        self
    }

    /// Has a shell do something first, such as `ulimit -n 20`, that the program inherits.
    pub fn after(mut self, commands: &str) -> Self {
        self.wrapper = ["sh", "-c", &format!("{commands}; exec \"$@\""), "sh"].map(OsString::from).into();
        self
    }

    /// Runs as a user who has no rights; as whoever runs the tests where that is not root.
    pub fn by_nobody(mut self) -> Self {
        self.nobody = is_root();
        self
    }

    /// Puts something else in the place of standard output; it is then not captured.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// Puts something else in the place of standard error; it is then not captured.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    fn command(&self) -> Command {
        let mut words = self.wrapper.iter().map(OsString::as_os_str).chain([env!("CARGO_BIN_EXE_colophon").as_ref()]);
        let mut command = Command::new(words.next().expect("at least the program"));
        command.args(words).args(&self.args).current_dir(self.dir.root()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if FOREIGN.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if self.nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Starts it.
    #[track_caller]
    pub fn spawn(mut self) -> Running {
        let mut command = self.command();
        // Files rather than pipes: nobody has to read them while the program runs.
        let (stdout, stderr) = (anonymous_file(), anonymous_file());
        let clone = |file: &File| Stdio::from(file.try_clone().expect("a second handle"));
        command.stdout(self.stdout.take().unwrap_or_else(|| clone(&stdout)));
        command.stderr(self.stderr.take().unwrap_or_else(|| clone(&stderr)));
        let started = Instant::now();
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Running { child, command: format!("{command:?}"), root: self.dir.root().into(), stdout, stderr, started }
    }

    /// Runs it to its end.
    #[track_caller]
    #[must_use = "a run that nobody looks at tests nothing"]
    pub fn run(self) -> Finished {
        self.spawn().wait()
    }
}

fn anonymous_file() -> File {
    tempfile::tempfile().expect("a file for what the program writes")
}

/// The program at work. It is killed if the test ends before it.
pub struct Running {
    child: Child,
    command: String,
    root: PathBuf,
    stdout: File,
    stderr: File,
    started: Instant,
}

impl Running {
    pub fn signal(&self, signal: Signal) {
        // No error if it has ended: whoever waits for it sees that.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&mut self) -> String {
        // The file's position is the program's, too: reading from it elsewhere leaves it alone.
        let mut bytes = vec![0; self.stderr.metadata().expect("a file").len() as usize];
        self.stderr.read_exact_at(&mut bytes, 0).expect("what the program wrote");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Lets it run until `condition` holds, which has to happen before it ends.
    #[track_caller]
    pub fn until(&mut self, condition: impl Fn() -> bool) {
        if !self.until_or_end(condition) {
            panic!("it ended too early: {}\n{}", self.command, contents(&mut self.stderr));
        }
    }

    /// Lets it run until `condition` holds or it ends; which of the two it was.
    #[track_caller]
    pub fn until_or_end(&mut self, condition: impl Fn() -> bool) -> bool {
        while !condition() {
            assert!(self.started.elapsed() < TIME_LIMIT, "what was waited for did not happen: {}", self.command);
            if !self.is_running() {
                return condition();
            }
            std::thread::sleep(POLL);
        }
        true
    }

    /// Has it hold still, with all its threads, until [`Running::resume`]; false if it has ended before.
    pub fn pause(&mut self) -> bool {
        self.signal(Signal::STOP);
        // The signal takes its time to reach every thread; then the parent is told. Nothing is taken from a child
        // that has ended, so that it can be waited for.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(Pid::from_child(&self.child)), options).expect("a child");
        status.is_some_and(|status| status.stopped())
    }

    /// Starts a run and has it hold still while it reads a file and `is_due` holds, with most of the file unread.
    ///
    /// Whoever watches a run may be late on a busy machine: how far it was when it stood still is looked at then,
    /// and if it was too far it is ended and started again.
    #[track_caller]
    pub fn held_while_reading(
        start: impl Fn() -> Running,
        path: &str,
        is_due: impl Fn(&mut Running) -> bool,
    ) -> Running {
        for _ in 0..50 {
            let mut run = start();
            let is_reading = |run: &mut Running| share_read(run.child.id(), path).is_some() && is_due(run);
            while run.is_running() && !is_reading(&mut run) {
                std::thread::sleep(POLL);
            }
            let is_held = run.pause() && is_reading(&mut run);
            if is_held && share_read(run.child.id(), path).is_some_and(|share| share < 0.5) {
                return run;
            }
        }
        panic!("no run could be held while it read {path}");
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Lets it run for this long since its start, then ends it as only a kernel can.
    pub fn kill_after(mut self, delay: Duration) -> Finished {
        std::thread::sleep(delay.saturating_sub(self.started.elapsed()));
        self.signal(Signal::KILL);
        self.wait_at_most()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Finished {
        self.wait_at_most()
    }

    #[track_caller]
    fn wait_at_most(&mut self) -> Finished {
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return Finished {
                    status,
                    stdout: contents(&mut self.stdout),
                    stderr: contents(&mut self.stderr),
                    command: self.command.clone(),
                    root: self.root.clone(),
                    took: self.started.elapsed(),
                };
            }
            assert!(self.started.elapsed() < TIME_LIMIT, "it hangs: {}\n{}", self.command, contents(&mut self.stderr));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what usually happened.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How much of a file whose path ends so a process has read, as a share of it; `None` if it does not read it now.
fn share_read(process: u32, path: &str) -> Option<f64> {
    share_touched(process, path).or_else(|| share_passed(process, path))
}

/// Of a mapped file: the pages it has touched, which `smaps` calls resident.
fn share_touched(process: u32, path: &str) -> Option<f64> {
    let maps = fs::read_to_string(format!("/proc/{process}/smaps")).ok()?;
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(path)).skip(1);
    let mut kibibytes = |key: &str| -> Option<f64> {
        lines.find_map(|line| line.strip_prefix(key))?.trim().strip_suffix(" kB")?.trim().parse().ok()
    };
    let size = kibibytes("Size:")?;
    Some(kibibytes("Rss:")? / size)
}

/// Of an open file: what lies before its position.
fn share_passed(process: u32, path: &str) -> Option<f64> {
    let open = fs::read_dir(format!("/proc/{process}/fd")).ok()?.flatten();
    let links = open.filter_map(|link| Some((link.file_name(), fs::read_link(link.path()).ok()?)));
    let (name, file) = { links }.find(|(_, file)| file.ends_with(path))?;
    let info = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("fdinfo").join(name)).ok()?;
    let position: f64 = info.lines().find_map(|line| line.strip_prefix("pos:"))?.trim().parse().ok()?;
    Some(position / fs::metadata(file).ok()?.len() as f64)
}

fn contents(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("what the program wrote");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What came of a run.
pub struct Finished {
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
    status: ExitStatus,
    command: String,
    root: PathBuf,
}

impl Finished {
    /// The exit status; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Fails the test with all that is known.
    #[track_caller]
    pub fn fail(&self, what: &str) -> ! {
        panic!(
            "{what}\n\n==== command ====\n{}\n==== status ====\n{}\n==== stdout ====\n{}\n==== stderr ====\n{}\n==== files ====\n{}",
            self.command,
            self.status,
            self.stdout,
            self.stderr,
            listing(&self.root)
        )
    }

    /// Checks the exit status.
    #[track_caller]
    pub fn status(self, expected: i32) -> Finished {
        if self.code() != Some(expected) {
            self.fail(&format!("the exit status is not {expected}"));
        }
        self
    }

    /// Checks that standard error has all of these.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Finished {
        for part in parts {
            if !self.stderr.contains(part) {
                self.fail(&format!("standard error does not say {part:?}"));
            }
        }
        self
    }

    /// Checks standard output to the character.
    #[track_caller]
    pub fn prints(self, expected: &str) -> Finished {
        if self.stdout != expected {
            self.fail(&format!("standard output is not\n{expected}"));
        }
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| self.fail(&format!("standard output is not JSON: {e}")))
    }
}

/// Everything in a folder at a moment: names, kinds and bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, Entry>);

#[derive(Clone, PartialEq, Eq)]
enum Entry {
    File(Vec<u8>),
    Folder,
    Link(PathBuf),
}

impl Snapshot {
    pub fn of(folder: &Path) -> Snapshot {
        let mut entries = BTreeMap::new();
        if folder.exists() {
            collect(folder, Path::new(""), &mut entries);
        }
        Snapshot(entries)
    }

    /// Without what is hidden at the top: a killed run may leave its lock and its stage for the next.
    pub fn visible(mut self) -> Snapshot {
        self.0.retain(|path, _| !path.as_os_str().as_encoded_bytes().starts_with(b"."));
        self
    }

    /// Without one entry and all below it.
    pub fn without(mut self, name: &str) -> Snapshot {
        self.0.retain(|path, _| !path.starts_with(name));
        self
    }

    /// The files in it with their bytes.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.0.iter().filter_map(|(path, entry)| match entry {
            Entry::File(bytes) => Some((path.as_path(), bytes.as_slice())),
            _ => None,
        })
    }

    /// What differs, in words.
    fn differences(&self, other: &Snapshot) -> Vec<String> {
        let paths: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        let differing = paths.into_iter().filter(|path| self.0.get(*path) != other.0.get(*path));
        let show = |entry: Option<&Entry>| match entry {
            None => "nothing".to_owned(),
            Some(Entry::Folder) => "a folder".into(),
            Some(Entry::Link(to)) => format!("a link to {}", to.display()),
            Some(Entry::File(bytes)) => format!("{} bytes", bytes.len()),
        };
        let describe = |path: &PathBuf| {
            format!("{}: {} where {} was expected", path.display(), show(other.0.get(path)), show(self.0.get(path)))
        };
        differing.map(describe).collect()
    }
}

/// Checks that two snapshots are equal, byte for byte.
#[track_caller]
pub fn assert_same(expected: &Snapshot, found: &Snapshot, context: &str) {
    let differences = expected.differences(found);
    assert!(differences.is_empty(), "{context}:\n  {}", differences.join("\n  "));
}

fn collect(folder: &Path, name: &Path, entries: &mut BTreeMap<PathBuf, Entry>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            collect(&path, &name, entries);
            entries.insert(name, Entry::Folder);
        } else if kind.is_symlink() {
            entries.insert(name, Entry::Link(fs::read_link(&path).expect("a link")));
        } else {
            entries.insert(name, Entry::File(fs::read(&path).expect("a file")));
        }
    }
}

/// All paths below a folder with their sizes, for a message.
fn listing(folder: &Path) -> String {
    let mut lines = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        // What cannot be listed is not: a message must not fail.
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            let path = entry.path();
            let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
            if meta.is_dir() {
                lines.push(format!("{name}/"));
                folders.push(path);
            } else {
                lines.push(format!("{name}  {} bytes", meta.len()));
            }
        }
    }
    lines.sort();
    lines.join("\n")
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says on the test's output why it tested nothing.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("SKIPPED {test}: {reason}");
}

/// A file system mounted for one test.
pub struct Mount {
    at: PathBuf,
}

impl Mount {
    /// Mounts with these arguments of `mount`; `None`, and a word why, where that is not allowed.
    pub fn new(args: &[&str], at: PathBuf) -> Option<Mount> {
        let output = Command::new("mount").args(args).arg(&at).output();
        let refusal = match output {
            Ok(output) if output.status.success() => return Some(Mount { at }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        skip(&format!("nothing can be mounted here: {}", refusal.trim()));
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: it must go even if a failed test left something open in it.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
