//! The stage: where an export is prepared, and from where it appears all at once.
//!
//! Usually the stage is a hidden folder beside the output folder, on the same file system. When all
//! is written and synced, the two folders change places in one step (`renameat2` with
//! `RENAME_EXCHANGE`; a plain rename where there was no output yet). At no moment, not even after a
//! power cut, does the output folder hold parts of two exports.
//!
//! Where that is impossible (the output folder is a mount point, its parent is not writable, the file
//! system cannot exchange, or the folder holds files that are not the export's), the stage lies within
//! the output folder, and the files are moved into place one by one, after a journal that lists the
//! moves. A run that dies between two moves is finished by the next one from the journal; until then
//! there is no manifest, and the commands that read exports refuse the folder
//! ([`refuse_interrupted`]).
//!
//! A lock on a file in the output folder keeps two runs apart. Not every shared volume has locks that all
//! its machines see; so a run also marks its stage, and commits only what is still its own.

use crate::domain::manifest::is_own;
use crate::error::{Context, Error, Result, show};
use rustix::fs::{Access, CWD, FlockOperation, RenameFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const LOCK: &str = ".colophon.lock";
const STAGE: &str = ".colophon-stage";
const JOURNAL: &str = ".colophon-commit.json";
const JOURNAL_DRAFT: &str = ".colophon-commit.draft";
const PROBE: &str = ".colophon-probe";
/// Says that what the export was made from is used up, and by which words a gate failed if one did. It comes with the
/// commit, or before the rest goes if a gate failed, and itself goes when all is done, so that a run that was killed
/// between is known to have nothing left to do.
const USED_UP: &str = ".colophon-used-up";
/// Within the stage: what its run knows it by, with a random number behind.
const OWNER: &str = ".colophon-owner.";
/// Within the stage: folders that disappear with it.
const REMOVED: &str = ".removed";
/// What could not be removed gets a name that begins so, and is in nobody's way.
const LEFT: &str = ".colophon-left.";
/// What may lie in a folder, left by a run that was killed; the next run sees to it.
const LEFTOVERS: [&str; 6] = [LOCK, STAGE, JOURNAL, JOURNAL_DRAFT, PROBE, USED_UP];
/// The manifest's name: it goes last, and names what an export consists of.
pub use crate::domain::manifest::FILE as MANIFEST;
/// The statistics' name.
pub const STATS: &str = "dataset_stats.json";
/// Where a failed gate leaves what there is to look at.
pub const FAILED: &str = "failed";

/// An output folder, locked, with a stage to prepare its next contents.
pub struct Stage {
    output: PathBuf,
    folder: PathBuf,
    /// A file in the stage that no other run makes; none when the stage is ready to become the output.
    mark: Option<PathBuf>,
    beside: bool,
    /// Whether this run made the output folder.
    made_output: bool,
    used_up: Vec<UsedUp>,
    done: bool,
    /// Let go last.
    lock: Lock,
}

/// An entry of the output folder that disappears with the commit.
struct UsedUp {
    name: String,
    /// Fails if it is not any more what the new export was made from.
    check: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

impl Stage {
    /// Locks the output folder, finishes or removes what a killed run left, and makes an empty stage.
    ///
    /// # Errors
    /// If another run holds the folder, or it cannot be written.
    pub fn open(output: &Path) -> Result<Stage> {
        let made_output = !output.exists();
        fs::create_dir_all(output).context(output, "make the output folder")?;
        let output = fs::canonicalize(output).context(output, "find the output folder")?;
        let lock = lock(&output)?;
        recover(&output)?;
        refuse_foreign_manifest(&output)?;
        for stale in [beside(&output), Some(output.join(STAGE))].into_iter().flatten() {
            clear_away(&stale)?;
        }
        let (folder, beside) = make_folder(&output)?;
        let mut stage =
            Stage { output, folder, mark: None, beside, made_output, used_up: Vec::new(), done: false, lock };
        stage.mark = Some(mark(&stage.folder)?);
        Ok(stage)
    }

    /// The folder to write into.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The output folder, absolute.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// Whether a run was killed when it had come to its end and what it worked on was gone: if a gate failed, by which
    /// words, and if the export is there, without any.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn used_up(&self) -> Result<Option<String>> {
        let path = self.output.join(USED_UP);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            words => words.context(&path, "read").map(Some),
        }
    }

    /// Forgets about that run.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn forget_used_up(&self) -> Result<()> {
        remove(&self.output.join(USED_UP))
    }

    /// Has an entry of the output folder disappear with the commit, of whichever kind: what this was made from. If
    /// `check` fails right before, nothing is committed.
    pub fn use_up(&mut self, name: &str, check: impl Fn() -> Result<()> + Send + Sync + 'static) {
        self.used_up.push(UsedUp { name: name.into(), check: Box::new(check) });
    }

    /// Makes the stage the output. Files of an earlier export that this one does not have disappear
    /// with it; files that are not an export's stay.
    ///
    /// # Errors
    /// If the file system fails. The output folder then holds the earlier export, or (after a
    /// journal was written) the next run finishes this one.
    pub fn commit(mut self) -> Result<()> {
        self.prepare(!self.used_up.is_empty())?;
        self.used_up.iter().try_for_each(|used| (used.check)())?;
        let mut earlier = exported_entries(&self.output);
        earlier.extend(self.used_up.iter().map(|used| used.name.clone()));
        earlier.insert(USED_UP.into());
        let strangers = entries(&self.output)?
            .into_iter()
            .any(|name| !earlier.contains(&name) && !LEFTOVERS.contains(&name.as_str()));
        if !(self.beside && !strangers && self.exchange()?) {
            self.move_each(&earlier)?;
        }
        self.done = true;
        self.forget_used_up()
    }

    /// Puts the stage's entries under `failed/` in the output folder instead. `words` say which gate failed, for a run
    /// that is started again.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn commit_as_failed(mut self, words: &str) -> Result<()> {
        self.prepare(false)?;
        self.used_up.iter().try_for_each(|used| (used.check)())?;
        let failed = self.output.join(FAILED);
        if failed.exists() && !is_own_failed(&failed) {
            return Err(Error::environment(
                &failed,
                "holds files that are not colophon's",
                "move them elsewhere and run again",
            ));
        }
        remove(&failed)?;
        fs::rename(&self.folder, &failed).context(&failed, "put the failed run's files")?;
        sync_folder(&self.output)?;
        self.done = true;
        let aside = self.output.join(STAGE);
        if !self.used_up.is_empty() {
            self.note_failure(&aside, words)?;
        }
        // What failed is there, and is what the run came to.
        for used in &self.used_up {
            set_aside(&self.output.join(&used.name), &aside).unwrap_or_else(|error| tracing::warn!("{error}"));
        }
        clear_away(&aside).unwrap_or_else(|error| tracing::warn!("{error}"));
        self.forget_used_up()
    }

    /// Says by which words a gate failed, before what would fail it again is gone.
    fn note_failure(&self, aside: &Path, words: &str) -> Result<()> {
        fs::create_dir_all(aside).context(aside, "make the folder")?;
        let (draft, path) = (aside.join(USED_UP), self.output.join(USED_UP));
        fs::write(&draft, words).context(&draft, "write")?;
        File::open(&draft).and_then(|file| file.sync_all()).context(&draft, "sync")?;
        fs::rename(&draft, &path).context(&path, "put in place")?;
        sync_folder(&self.output)
    }

    /// Makes the stage as it will be the output: on the disk, and without the mark, which has to be there.
    fn prepare(&mut self, says_used_up: bool) -> Result<()> {
        let taken = || Error::environment(&self.output, "another run has taken over this folder", "run one at a time");
        if !self.is_ours() {
            return Err(taken());
        }
        if says_used_up {
            let path = self.folder.join(USED_UP);
            File::create(&path).context(&path, "make the file")?;
        }
        sync_tree(&self.folder)?;
        if let Some(mark) = self.mark.take() {
            match fs::remove_file(&mark) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(taken()),
                removed => removed.context(&mark, "remove")?,
            }
        }
        sync_folder(&self.folder)
    }

    /// Whether the stage is still the one that this run made.
    fn is_ours(&self) -> bool {
        self.mark.as_ref().is_none_or(|mark| mark.exists())
    }

    /// Stage and output change places. `false` if the file system has no such operation.
    fn exchange(&self) -> Result<bool> {
        // What becomes the output is locked before it does: until the old folder is gone, no other
        // run may make a stage of the same name.
        let mut lock = lock(&self.folder)?;
        match rustix::fs::renameat_with(CWD, &self.folder, CWD, &self.output, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(error) => {
                tracing::debug!("no exchange of folders here ({error}): moving files one by one");
                return Ok(false);
            }
        }
        lock.path = self.output.join(LOCK);
        if let Some(parent) = self.output.parent() {
            sync_folder(parent)?;
        }
        // What was the output is now the stage. The export is there, whatever becomes of that.
        clear_away(&self.folder).unwrap_or_else(|error| tracing::warn!("{error}"));
        Ok(true)
    }

    fn move_each(&mut self, earlier: &BTreeSet<String>) -> Result<()> {
        for name in entries(&self.folder)?.difference(earlier) {
            let there = self.output.join(name);
            if there.is_dir() {
                let cause = "a folder that is not the export's stands where a part of it belongs";
                return Err(Error::environment(&there, cause, "move it elsewhere and run again"));
            }
        }
        for used in &self.used_up {
            refuse_unremovable(&self.output.join(&used.name))?;
        }
        let stage = self.output.join(STAGE);
        if self.beside {
            fs::rename(&self.folder, &stage).context(&stage, "put the stage")?;
            self.folder.clone_from(&stage);
        }
        let mut names: Vec<String> = entries(&stage)?.into_iter().collect();
        // The manifest says that an export is whole: the old one goes first, the new one comes last.
        names.sort_by_key(|name| name == MANIFEST);
        let used_up: Vec<String> = self.used_up.iter().map(|used| used.name.clone()).collect();
        let is_removed = |name: &&String| !names.contains(name) && !used_up.contains(name);
        let mut removed: Vec<String> = earlier.iter().filter(is_removed).cloned().collect();
        removed.insert(0, MANIFEST.into());
        let path = self.output.join(JOURNAL);
        let draft = self.output.join(JOURNAL_DRAFT);
        let journal = Journal { names, removed, used_up };
        let text = serde_json::to_vec(&journal).map_err(io::Error::from).context(&path, "write")?;
        fs::write(&draft, text).context(&draft, "write")?;
        File::open(&draft).and_then(|file| file.sync_all()).context(&draft, "sync")?;
        fs::rename(&draft, &path).context(&path, "write")?;
        sync_folder(&self.output)?;
        // The first steps may be refused (in a folder where only owners replace files): then everything is as it
        // was again, and the journal must not keep the next run from working.
        let aside = stage.join(REMOVED);
        let names = &journal.used_up;
        let begun = names.iter().try_for_each(|name| set_aside(&self.output.join(name), &aside));
        if let Err(error) = begun.and_then(|()| remove(&self.output.join(MANIFEST))) {
            // If that fails, too, the journal stays, and the next run goes on.
            self.done = true;
            put_back(names, &aside, &self.output)?;
            remove(&path)?;
            self.done = false;
            return Err(error);
        }
        // From here on there is only forward, if need be in the next run.
        self.done = true;
        recover(&self.output)
    }
}

impl Drop for Stage {
    /// Without a commit, everything is as it was.
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Nothing can be done about a failure here; the next run removes the stage.
        if self.is_ours() {
            let _ = remove(&self.folder);
        }
        if self.made_output {
            self.lock.release();
            let _ = fs::remove_dir(&self.output);
        }
    }
}

/// The moves that make the stage within a folder its contents, for a run that dies among them.
#[derive(Serialize, Deserialize)]
struct Journal {
    /// Entries of the stage, in the order in which they are moved.
    names: Vec<String>,
    /// Entries of the folder that disappear.
    removed: Vec<String>,
    /// Entries that disappear as well, but do no harm if they cannot.
    #[serde(default)]
    used_up: Vec<String>,
}

/// Finishes a commit that was begun, if one was.
///
/// # Errors
/// If the file system fails, or what is to be moved is gone.
fn recover(output: &Path) -> Result<()> {
    let path = output.join(JOURNAL);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(&path, "read", &error)),
    };
    let damaged =
        |cause: String| Error::environment(&path, cause, "move the folder's files elsewhere and export again");
    let journal: Journal = serde_json::from_slice(&text).map_err(|e| damaged(format!("damaged: {e}")))?;
    if let Some(name) =
        journal.names.iter().chain(&journal.removed).chain(&journal.used_up).find(|name| !is_plain(name))
    {
        return Err(damaged(format!("damaged: it names '{name}'")));
    }
    let stage = output.join(STAGE);
    let aside = stage.join(REMOVED);
    for name in &journal.removed {
        // The old manifest is removed only as long as the new one is not in its place.
        if name != MANIFEST || stage.join(MANIFEST).exists() {
            set_aside(&output.join(name), &aside)?;
        }
    }
    for name in &journal.names {
        let (from, to) = (stage.join(name), output.join(name));
        if !from.exists() {
            if to.exists() {
                continue; // moved already
            }
            return Err(damaged(format!("'{name}' of an interrupted export is gone")));
        }
        if from.is_dir() {
            remove(&to)?;
        }
        fs::rename(&from, &to).context(&to, "put in place")?;
    }
    for name in &journal.used_up {
        set_aside(&output.join(name), &aside).unwrap_or_else(|error| tracing::warn!("{error}"));
    }
    sync_folder(output)?;
    fs::remove_file(&path).context(&path, "remove")?;
    clear_away(&stage).unwrap_or_else(|error| tracing::warn!("{error}"));
    Ok(())
}

/// Undoes [`set_aside`] for those entries of the output folder that are aside.
fn put_back(names: &[String], aside: &Path, output: &Path) -> Result<()> {
    for name in names {
        let (from, to) = (aside.join(name), output.join(name));
        if from.exists() {
            fs::rename(&from, &to).context(&to, "put back")?;
        }
    }
    Ok(())
}

/// Fails if a folder, or one in it, is of somebody else who lets nobody change it: it could not be removed.
fn refuse_unremovable(folder: &Path) -> Result<()> {
    if !fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    let needed = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if let Err(error) = rustix::fs::access(folder, needed) {
        return Err(Error::environment(
            folder,
            format!("it could not be removed after the commit: {}", io::Error::from(error).kind()),
            "run this as the user who made it, or allow its group to write there; workers with umask 002 do",
        ));
    }
    for entry in fs::read_dir(folder).context(folder, "read the folder")? {
        refuse_unremovable(&entry.context(folder, "read the folder")?.path())?;
    }
    Ok(())
}

/// Removes a file or folder, if it is there. What others do not let go of gets another name, so that it is in nobody's
/// way, and a warning.
///
/// # Errors
/// If that fails, too.
fn clear_away(path: &Path) -> Result<()> {
    let (Err(error), Some(parent)) = (remove(path), path.parent()) else { return Ok(()) };
    // An empty folder, which another can replace.
    let Ok(left) = tempfile::Builder::new().prefix(LEFT).tempdir_in(parent) else { return Err(error) };
    if fs::rename(path, left.path()).is_err() {
        return Err(error);
    }
    let left = show(&left.keep());
    tracing::warn!("{error}; what is left of it lies in {left}: remove it as the user who may");
    Ok(())
}

/// Takes a file or folder, if it is there, out of the way in one step: to remove a large folder takes its time.
fn set_aside(path: &Path, to: &Path) -> Result<()> {
    let Some(name) = path.file_name() else { return Ok(()) };
    if !path.is_dir() {
        return remove(path);
    }
    fs::create_dir_all(to).context(to, "make the folder")?;
    fs::rename(path, to.join(name)).context(path, "remove")
}

/// Whether a name is that of an entry, and of nothing elsewhere.
fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains('/')
}

/// Fails if an export into this folder died while its files were moved into place.
///
/// # Errors
/// [`Error::Environment`] with what to do.
pub fn refuse_interrupted(folder: &Path) -> Result<()> {
    if !folder.join(JOURNAL).exists() {
        return Ok(());
    }
    Err(Error::environment(
        folder,
        "an export into this folder was interrupted",
        "run the export again; it finishes that first",
    ))
}

/// Whether the export in a folder has an entry of this name, which the next one will replace or remove.
pub fn is_exported(output: &Path, name: &str) -> bool {
    exported_entries(output).contains(name)
}

/// Fails if a folder that is not the export's has a name that the export needs for a file.
///
/// # Errors
/// [`Error::Usage`], naming it; [`Error::Environment`] if the output folder cannot be read.
pub fn refuse_folders(output: &Path, is_needed: impl Fn(&str) -> bool) -> Result<()> {
    if !output.exists() {
        return Ok(());
    }
    let exported = exported_entries(output);
    let stands = |name: &String| is_needed(name) && !exported.contains(name) && output.join(name).is_dir();
    match entries(output)?.into_iter().find(stands) {
        None => Ok(()),
        Some(name) => Err(Error::Usage(format!(
            "{} is a folder that is not the export's, and stands where a file of it belongs: move it elsewhere, or \
             choose another output folder",
            show(&output.join(name))
        ))),
    }
}

/// The export replaces what the manifest names; one that is not its own it must not heed, nor replace.
///
/// # Errors
/// [`Error::Usage`].
pub fn refuse_foreign_manifest(output: &Path) -> Result<()> {
    if output.join(MANIFEST).exists() && own_manifest(output).is_none() {
        let output = show(output);
        return Err(Error::Usage(format!(
            "{output} holds a {MANIFEST} that is not colophon's: remove it or choose another folder"
        )));
    }
    Ok(())
}

/// The folder's manifest, if it is one of this program.
fn own_manifest(output: &Path) -> Option<serde_json::Value> {
    let text = fs::read(output.join(MANIFEST)).ok()?;
    let manifest: serde_json::Value = serde_json::from_slice(&text).ok()?;
    is_own(manifest["generator"].as_str()?).then_some(manifest)
}

/// An exclusive lock, held as long as this lives.
struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Whether the file that is locked is the one at the path: only then does the lock mean something.
    fn is_there(&self) -> bool {
        let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let ours = self.file.metadata().map(identity);
        matches!((ours, fs::metadata(&self.path).map(identity)), (Ok(ours), Ok(there)) if ours == there)
    }

    /// Takes the file away. Another run's, made since, stays.
    fn release(&self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.release();
    }
}

fn lock(output: &Path) -> Result<Lock> {
    let path = output.join(LOCK);
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .context(&path, "lock the output folder")?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::environment(
                    output,
                    "another run is writing to this folder",
                    "wait for it, or choose another folder",
                ));
            }
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOLCK) => {
                tracing::warn!("{} has no locks: see to it that no other run writes there", show(output));
            }
            Err(error) => return Err(Error::io(&path, "lock the output folder", &error.into())),
        }
        // A run that ended just now may have taken the file away with it; then this is no lock.
        let lock = Lock { file, path: path.clone() };
        if lock.is_there() {
            return Ok(lock);
        }
    }
}

/// Where the stage beside an output folder lies; `None` for the root folder.
fn beside(output: &Path) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(output.file_name()?);
    name.push(STAGE);
    Some(output.parent()?.join(name))
}

/// Makes the stage: beside the output where the two can change places, else within it.
fn make_folder(output: &Path) -> Result<(PathBuf, bool)> {
    if let Some(folder) = beside(output)
        && fs::create_dir(&folder).is_ok()
    {
        if can_exchange(&folder, output) {
            return Ok((folder, true));
        }
        remove(&folder)?;
    }
    let folder = output.join(STAGE);
    fs::create_dir(&folder).context(&folder, "make the stage")?;
    Ok((folder, false))
}

/// Marks a new stage as this run's.
fn mark(folder: &Path) -> Result<PathBuf> {
    let made = tempfile::Builder::new().prefix(OWNER).tempfile_in(folder).context(folder, "mark the stage")?;
    made.into_temp_path().keep().map_err(|error| error.error).context(folder, "mark the stage")
}

/// Whether a stage may take the output folder's place without anybody noticing.
fn can_exchange(stage: &Path, output: &Path) -> bool {
    // A shell that stands in the folder would be left in one that is gone.
    let is_here = std::env::current_dir().is_ok_and(|here| here == output);
    // The new folder gets owner and permissions of the old one, or else stays where it is.
    let Ok(meta) = fs::metadata(output) else { return false };
    let same_owner = std::os::unix::fs::chown(stage, Some(meta.uid()), Some(meta.gid())).is_ok();
    let same_permissions = fs::set_permissions(stage, meta.permissions()).is_ok();
    // Mounts of one file system have one device number; only trying tells whether a rename crosses.
    let (from, to) = (stage.join(PROBE), output.join(PROBE));
    let same_mount = File::create(&from).is_ok() && fs::rename(&from, &to).is_ok();
    let _ = fs::remove_file(&from);
    let _ = fs::remove_file(&to);
    !is_here && same_owner && same_permissions && same_mount
}

fn entries(folder: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).context(folder, "read the folder")? {
        names.insert(show(Path::new(&entry.context(folder, "read the folder")?.file_name())));
    }
    Ok(names)
}

/// The top-level entries that belong to the export in this folder, by its manifest.
fn exported_entries(output: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if is_own_failed(&output.join(FAILED)) {
        names.insert(FAILED.to_owned());
    }
    let manifest = own_manifest(output);
    if let Some(files) = manifest.as_ref().and_then(|m| m["files"].as_array()) {
        names.insert(MANIFEST.into());
        let paths = files.iter().filter_map(|file| file["path"].as_str());
        names.extend(paths.filter_map(|p| p.split('/').next()).filter(|name| is_plain(name)).map(String::from));
    }
    names
}

/// Whether a folder holds what a failed gate leaves, and nothing else.
pub fn is_own_failed(folder: &Path) -> bool {
    const OWN: [&str; 2] = [STATS, super::quarantine::FOLDER];
    entries(folder).is_ok_and(|names| names.iter().all(|name| OWN.contains(&name.as_str())))
}

/// Removes a file or folder, if it is there.
fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path, "remove", &error)),
        _ => Ok(()),
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|handle| handle.sync_all()).context(folder, "sync")
}

/// Syncs every file and folder below `folder`, and itself.
pub(super) fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).context(folder, "read the folder")? {
        let path = entry.context(folder, "read the folder")?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path).and_then(|file| file.sync_all()).context(&path, "sync")?;
        }
    }
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(output: &Path, files: &[(&str, &str)]) {
        let stage = Stage::open(output).expect("stage");
        for (name, text) in files {
            fs::write(stage.folder().join(name), text).expect("write");
        }
        let listed: Vec<_> = files.iter().map(|(name, _)| serde_json::json!({ "path": name })).collect();
        fs::write(
            stage.folder().join(MANIFEST),
            serde_json::json!({ "generator": "colophon 0", "files": listed }).to_string(),
        )
        .expect("write");
        stage.commit().expect("commit");
    }

    fn names(folder: &Path) -> Vec<String> {
        entries(folder).expect("entries").into_iter().collect()
    }

    #[test]
    fn an_export_replaces_the_earlier_one_whole() {
        let root = tempfile::tempdir().expect("folder");
        let output = root.path().join("export");
        export(&output, &[("a.jsonl", "1"), ("b.jsonl", "1")]);
        export(&output, &[("a.jsonl", "2")]);
        assert_eq!(names(&output), ["a.jsonl", MANIFEST]);
        assert_eq!(names(root.path()), ["export"]);
        assert_eq!(fs::read(output.join("a.jsonl")).expect("read"), b"2");
    }

    #[test]
    fn a_stranger_s_files_stay() {
        let root = tempfile::tempdir().expect("folder");
        let output = root.path().join("export");
        export(&output, &[("a.jsonl", "1"), ("b.jsonl", "1")]);
        fs::write(output.join("notes.txt"), "mine").expect("write");
        export(&output, &[("a.jsonl", "2")]);
        assert_eq!(names(&output), ["a.jsonl", MANIFEST, "notes.txt"]);
        assert_eq!(names(root.path()), ["export"]);
    }

    #[test]
    fn an_abandoned_stage_leaves_no_trace() {
        let root = tempfile::tempdir().expect("folder");
        let output = root.path().join("export");
        drop(Stage::open(&output).expect("stage"));
        assert_eq!(names(root.path()), [""; 0]);
        export(&output, &[("a.jsonl", "1")]);
        drop(Stage::open(&output).expect("stage"));
        assert_eq!(names(&output), ["a.jsonl", MANIFEST]);
    }

    #[test]
    fn a_second_run_fails_at_once() {
        let root = tempfile::tempdir().expect("folder");
        let first = Stage::open(root.path()).expect("stage");
        assert_eq!(Stage::open(root.path()).err().expect("locked").status(), 3);
        drop(first);
        Stage::open(root.path()).expect("free again");
    }

    /// Where locks mean nothing, a second run takes the stage away from the first, which must not commit then, nor
    /// take it back.
    #[test]
    fn a_stage_that_was_taken_over_is_not_committed() {
        let root = tempfile::tempdir().expect("folder");
        let output = root.path().join("export");
        export(&output, &[("a.jsonl", "1")]);
        for is_failed in [false, true] {
            let first = Stage::open(&output).expect("stage");
            // What stands for a lock that the second run does not see.
            fs::remove_file(output.join(LOCK)).expect("remove");
            let second = Stage::open(&output).expect("stage");
            fs::write(second.folder().join("a.jsonl"), "2").expect("write");
            let error = if is_failed { first.commit_as_failed("") } else { first.commit() };
            assert_eq!(error.expect_err("taken over").status(), 3);
            assert!(second.folder().join("a.jsonl").exists());
            drop(second);
            assert_eq!(fs::read(output.join("a.jsonl")).expect("read"), b"1");
            assert_eq!(
                (names(root.path()), names(&output)),
                (vec!["export".into()], vec!["a.jsonl".into(), MANIFEST.into()])
            );
        }
    }

    #[test]
    fn the_next_run_finishes_a_commit_that_died_anywhere() {
        // Every number of moves that may have been done when the run died.
        for moved in 0..=3 {
            let root = tempfile::tempdir().expect("folder");
            let output = root.path().join("export");
            export(&output, &[("a.jsonl", "1"), ("b.jsonl", "1"), ("c.jsonl", "1")]);
            let stage = output.join(STAGE);
            fs::create_dir(&stage).expect("stage");
            fs::create_dir_all(output.join("parts/a")).expect("parts");
            let new = ["a.jsonl", "b.jsonl", MANIFEST];
            new.iter().for_each(|name| fs::write(stage.join(name), "2").expect("write"));
            let journal = Journal {
                names: new.map(String::from).to_vec(),
                removed: vec![MANIFEST.into(), "c.jsonl".into()],
                used_up: vec!["parts".into()],
            };
            fs::write(output.join(JOURNAL), serde_json::to_vec(&journal).expect("JSON")).expect("write");
            if moved > 0 {
                fs::remove_file(output.join(MANIFEST)).expect("remove");
                fs::remove_file(output.join("c.jsonl")).expect("remove");
            }
            for name in &new[..moved] {
                fs::rename(stage.join(name), output.join(name)).expect("move");
            }
            recover(&output).expect("recovers");
            assert_eq!(names(&output), ["a.jsonl", "b.jsonl", MANIFEST], "{moved} moves");
            assert!(new.iter().all(|name| fs::read(output.join(name)).expect("read") == b"2"));
        }
    }
}
