//! Parts: what workers leave in the output folder until all are there and become one export.
//!
//! `parts/00003-of-00016/` is the part of worker 3 of 16. It is prepared in a hidden folder beside it, whose name is
//! nobody else's, synced, and gets its name in one rename: it is there complete or not at all, and two processes
//! at work on one share do not meet before that. Nothing here relies on locks, which not every shared volume
//! has. Parts of a plan lie beside those of an export, as `plan-00003-of-00016/`.

use super::stage::sync_tree;
use crate::domain::manifest::hex;
use crate::domain::part::{AnyPart, Block, FoundShard, Kind, ProvedFile};
use crate::domain::share::Share;
use crate::error::{Context, Error, Result, show, unshow};
use bytemuck::Pod;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// The folder's name.
pub const FOLDER: &str = "parts";
/// Where a part says what it is.
const ABOUT: &str = "part.json";
/// The hash of that.
const SEAL: &str = "part.json.sha256";
/// The list of the input's shards as the worker found them.
const INPUTS: &str = "inputs.json";
/// Rows of documents.
pub const ROWS: &str = "rows.bin";
/// The values that rows have numbers of.
pub const NAMES: &str = "names.json";
/// The day on which the first worker started.
const DAY: &str = "day";
/// What a killed worker left and nothing was written to for so long is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(3600);
/// How often a step is tried that another process can get in the way of.
const TRIES: usize = 100;

/// The folder with the parts of an export.
pub fn folder(output: &Path) -> PathBuf {
    output.join(FOLDER)
}

/// The folder of a share's part.
pub fn of_share(output: &Path, kind: Kind, share: Share) -> PathBuf {
    folder(output).join(name(kind, share))
}

fn prefix(kind: Kind) -> &'static str {
    match kind {
        Kind::Export => "",
        Kind::Plan => "plan-",
    }
}

fn name(kind: Kind, share: Share) -> String {
    format!("{}{:05}-of-{:05}", prefix(kind), share.index(), share.of())
}

/// The share whose part a folder of this name is, and what it is a part of.
fn share_of(name: &str) -> Option<(Kind, Share)> {
    let kind = if name.starts_with(prefix(Kind::Plan)) { Kind::Plan } else { Kind::Export };
    let (index, of) = name.strip_prefix(prefix(kind))?.split_once("-of-")?;
    let share = Share::new(index.parse().ok()?, of.parse().ok()?).ok()?;
    (self::name(kind, share) == name).then_some((kind, share))
}

/// Whether an entry of the folder with the parts can be there because of a worker.
fn is_own(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let is_known = |name: &str| name == DAY || share_of(name).is_some();
    let hidden = name.strip_prefix('.').and_then(|rest| rest.split_once('.'));
    is_known(name) || hidden.is_some_and(|(of, _)| is_known(of))
}

/// An entry of the folder with the parts that no worker left there, if there is one.
fn stranger(parts: &Path) -> io::Result<Option<PathBuf>> {
    let mut strangers = Vec::new();
    for entry in fs::read_dir(parts)? {
        let entry = entry?;
        if !is_own(&entry.file_name()) {
            strangers.push(entry.path());
        }
    }
    // The same one each time.
    Ok(strangers.into_iter().min())
}

/// Whether a folder holds what workers leave, and nothing else.
pub fn is_of_workers(parts: &Path) -> bool {
    stranger(parts).is_ok_and(|stranger| stranger.is_none())
}

/// Fails if what lies among the parts is not all colophon's: it would disappear with them.
///
/// # Errors
/// [`Error::Usage`], naming an entry; [`Error::Environment`] if the folder cannot be read.
pub fn refuse_strangers(output: &Path) -> Result<()> {
    let parts = folder(output);
    match stranger(&parts) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(&parts, "read the folder", &error)),
        Ok(None) => Ok(()),
        Ok(Some(path)) => Err(Error::Usage(format!(
            "{} is not colophon's, and the folder around it is removed with the parts of workers: move it elsewhere, \
             or choose another output folder",
            show(&path)
        ))),
    }
}

/// A part in the making. Without [`PartStage::publish`] nothing is left of it.
pub struct PartStage {
    output: PathBuf,
    kind: Kind,
    share: Share,
    folder: TempDir,
}

impl PartStage {
    /// A folder for a part, of this process alone, with nothing in it but the list of the input.
    ///
    /// # Errors
    /// If the output folder cannot be written.
    pub fn open(output: &Path, kind: Kind, share: Share, inputs: &[u8]) -> Result<PartStage> {
        fs::create_dir_all(output).context(output, "make the output folder")?;
        let output = fs::canonicalize(output).context(output, "find the output folder")?;
        let folder = hidden(&output, &name(kind, share))?;
        remove_abandoned(folder.path(), &name(kind, share))?;
        let path = folder.path().join(INPUTS);
        fs::write(&path, inputs).context(&path, "write")?;
        Ok(PartStage { output, kind, share, folder })
    }

    /// The folder to write into.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Gives the part its name. `false` if meanwhile another process left the same part, which then stays.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn publish<P: AnyPart>(self, part: &P) -> Result<bool> {
        let text = serde_json::to_vec(part).map_err(io::Error::from).context(self.folder(), "write")?;
        let seal = format!("{}  {ABOUT}\n", hex(&Sha256::digest(&text)));
        for (name, text) in [(ABOUT, &text[..]), (SEAL, seal.as_bytes())] {
            let path = self.folder().join(name);
            fs::write(&path, text).context(&path, "write")?;
        }
        sync_tree(self.folder())?;
        let target = of_share(&self.output, self.kind, self.share);
        for _ in 0..TRIES {
            match fs::rename(self.folder(), &target) {
                Ok(()) => {
                    let parts = folder(&self.output);
                    File::open(&parts).and_then(|handle| handle.sync_all()).context(&parts, "sync")?;
                    return Ok(true);
                }
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(Error::io(&target, "put the part in place", &error)),
            }
            match read::<P>(&self.output, self.share) {
                Ok(Some(other)) if other.maker() == part.maker() => return Ok(false),
                _ => displace(&self.output, self.kind, self.share)?,
            }
        }
        Err(Error::environment(&target, "other processes replace the part all the time", "let one job work here"))
    }
}

fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(error.kind(), DirectoryNotEmpty | AlreadyExists | NotADirectory)
}

/// A hidden folder among the parts, of a name that nobody else has.
fn hidden(output: &Path, name: &str) -> Result<TempDir> {
    let parts = folder(output);
    let prefix = format!(".{name}.");
    let mut tries = 0;
    loop {
        fs::create_dir_all(&parts).context(&parts, "make the folder")?;
        let mut builder = tempfile::Builder::new();
        // Whoever merges may be another user of the same group.
        match builder.prefix(&prefix).permissions(Permissions::from_mode(0o777)).tempdir_in(&parts) {
            // A merge may have taken the folder away just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
            made => return made.context(&parts, "make a folder"),
        }
    }
}

/// Takes away what processes at work on this share left when they were killed.
fn remove_abandoned(own: &Path, name: &str) -> Result<()> {
    let Some(parts) = own.parent() else { return Ok(()) };
    // The file server's clock decides, which is the same for all files.
    let now = fs::metadata(own).and_then(|meta| meta.modified()).context(own, "read the folder")?;
    for entry in fs::read_dir(parts).context(parts, "read the folder")? {
        let path = entry.context(parts, "read the folder")?.path();
        let is_of_share = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!(".{name}.")));
        if is_of_share && path != own && newest(&path).is_some_and(|at| at + ABANDONED < now) {
            // Somebody else may be doing the same.
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

/// When anything in a folder, or in those below, was last changed.
fn newest(path: &Path) -> Option<SystemTime> {
    let meta = fs::symlink_metadata(path).ok()?;
    let entries = meta.is_dir().then(|| fs::read_dir(path).ok()).flatten();
    let below = entries.into_iter().flatten().flatten().filter_map(|entry| newest(&entry.path()));
    below.chain(meta.modified().ok()).max()
}

/// Removes a part: first its name, then the rest.
///
/// # Errors
/// If the file system fails.
pub fn displace(output: &Path, kind: Kind, share: Share) -> Result<()> {
    let path = of_share(output, kind, share);
    let aside = hidden(output, &name(kind, share))?;
    match fs::rename(&path, aside.path().join("old")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(&path, "remove", &error)),
        _ => aside.close().context(&path, "remove"),
    }
}

/// The shares whose parts of a kind are there, in order.
///
/// # Errors
/// If the folder cannot be read.
pub fn shares(output: &Path, kind: Kind) -> Result<Vec<Share>> {
    let parts = folder(output);
    let mut shares = Vec::new();
    match fs::read_dir(&parts) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        entries => {
            for entry in entries.context(&parts, "read the folder")? {
                let entry = entry.context(&parts, "read the folder")?;
                let found = entry.file_name().to_str().and_then(share_of);
                shares.extend(found.filter(|(of, _)| *of == kind).map(|(_, share)| share));
            }
        }
    }
    shares.sort_by_key(|share| (share.of(), share.index()));
    Ok(shares)
}

/// What a share's part says of itself, if it is there.
///
/// # Errors
/// [`Error::Environment`] if it cannot be read, or is not what the worker wrote.
pub fn read<P: AnyPart>(output: &Path, share: Share) -> Result<Option<P>> {
    Ok(read_sealed(output, share)?.map(|(part, _)| part))
}

/// The same, with what tells this part from any other that may take its place.
///
/// # Errors
/// As for [`read`].
pub fn read_sealed<P: AnyPart>(output: &Path, share: Share) -> Result<Option<(P, Sealed)>> {
    let folder = of_share(output, P::KIND, share);
    // A link that leads nowhere is there, and is no part.
    if matches!(fs::symlink_metadata(&folder), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let (path, seal) = (folder.join(ABOUT), folder.join(SEAL));
    let text = fs::read(&path).context(&path, "read the part")?;
    let seal = fs::read(&seal).context(&seal, "read the part")?;
    let sha256 = hex(&Sha256::digest(&text));
    if !seal.starts_with(sha256.as_bytes()) {
        return Err(damaged(&path));
    }
    let part: P = serde_json::from_slice(&text).map_err(|error| {
        Error::Usage(format!(
            "{} is not as this version of colophon writes it ({error}): run all workers again with this version",
            show(&path)
        ))
    })?;
    if part.maker().share != share {
        return Err(damaged(&path));
    }
    Ok(Some((part, Sealed { kind: P::KIND, share, seal: Some(seal) })))
}

/// A part that was seen.
#[derive(PartialEq, Eq)]
pub struct Sealed {
    kind: Kind,
    share: Share,
    /// The hash of what it says of itself, if it can be read.
    seal: Option<Vec<u8>>,
}

/// The parts of a kind that are there, whether or not they are as they should be.
///
/// # Errors
/// If the folder cannot be read.
pub fn sealed(output: &Path, kind: Kind) -> Result<Vec<Sealed>> {
    let seal = |share: Share| fs::read(of_share(output, kind, share).join(SEAL)).ok();
    Ok(shares(output, kind)?.into_iter().map(|share| Sealed { kind, share, seal: seal(share) }).collect())
}

/// Fails unless the parts that are there are those that were seen.
///
/// # Errors
/// [`Error::Environment`], naming a part that came, went or is another one now.
pub fn check_unchanged(output: &Path, seen: &[Sealed]) -> Result<()> {
    refuse_strangers(output)?;
    let mut now = sealed(output, Kind::Export)?;
    now.extend(sealed(output, Kind::Plan)?);
    let gone = seen.iter().find(|part| !now.contains(part));
    match gone.or_else(|| now.iter().find(|part| !seen.contains(part))) {
        None => Ok(()),
        Some(Sealed { kind, share, .. }) => Err(Error::environment(
            &of_share(output, *kind, *share),
            "a worker changed it while the parts were merged",
            "merge again when no worker is at work",
        )),
    }
}

/// The list of the input's shards that a part was made from.
///
/// # Errors
/// If it cannot be read, or is not what the worker wrote.
pub fn inputs<P: AnyPart>(output: &Path, part: &P) -> Result<Vec<FoundShard>> {
    let path = of_share(output, P::KIND, part.maker().share).join(INPUTS);
    let text = fs::read(&path).context(&path, "read the part")?;
    if hex(&Sha256::digest(&text)) != part.maker().input {
        return Err(damaged(&path));
    }
    serde_json::from_slice(&text).map_err(|_| damaged(&path))
}

/// Fails if a file of a part is not what the worker wrote. `check` is asked every now and then.
///
/// # Errors
/// [`Error::Environment`], naming the file; or what `check` says.
pub fn check_file(folder: &Path, file: &ProvedFile, check: impl Fn() -> Result<()>) -> Result<()> {
    // Names of the quarantine are those of shards, of whichever bytes.
    let below = unshow(&file.path).ok_or_else(|| damaged(&folder.join(ABOUT)))?;
    let path = folder.join(below);
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut from = File::open(&path).context(&path, "read the part")?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        check()?;
        match from.read(&mut buffer).context(&path, "read the part")? {
            0 => break,
            read => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
    if bytes == file.bytes && hex(&hash.finalize()) == file.sha256 { Ok(()) } else { Err(damaged(&path)) }
}

/// A file of a part in the making, with the proof of it.
pub struct ProvedWriter {
    path: PathBuf,
    to: BufWriter<File>,
    hash: Sha256,
    file: ProvedFile,
}

impl ProvedWriter {
    /// Makes the file of this name.
    ///
    /// # Errors
    /// If the file system fails, or it is there already.
    pub fn create(folder: &Path, name: &str) -> Result<ProvedWriter> {
        let path = folder.join(name);
        let to = BufWriter::new(File::create_new(&path).context(&path, "make the file")?);
        let file = ProvedFile { path: name.into(), bytes: 0, sha256: String::new() };
        Ok(ProvedWriter { path, to, hash: Sha256::new(), file })
    }

    /// Adds some bytes.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).context(&self.path, "write")?;
        self.hash.update(bytes);
        self.file.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn finish(mut self) -> Result<ProvedFile> {
        self.to.flush().context(&self.path, "write")?;
        Ok(ProvedFile { sha256: hex(&self.hash.finalize()), ..self.file })
    }
}

/// Gives the records of a file, in order, to `each`. What is left at its end that is no whole record is passed over:
/// whoever asks has proved the file.
///
/// # Errors
/// If it cannot be read; or what `each` says.
pub fn read_records<R: Pod>(path: &Path, mut each: impl FnMut(R) -> Result<()>) -> Result<()> {
    let mut from = BufReader::new(File::open(path).context(path, "read the part")?);
    let mut record = vec![0; size_of::<R>()];
    loop {
        match from.read_exact(&mut record) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read.context(path, "read the part")?,
        }
        each(bytemuck::pod_read_unaligned(&record))?;
    }
}

/// A file of lines that is read in blocks.
pub struct BlockFile {
    path: PathBuf,
    file: File,
}

impl BlockFile {
    /// Opens it.
    ///
    /// # Errors
    /// If it cannot be read, or has not as many bytes as it should.
    pub fn open(path: PathBuf, bytes: u64) -> Result<BlockFile> {
        let file = File::open(&path).context(&path, "read the part")?;
        let found = file.metadata().context(&path, "read the part")?.len();
        if found == bytes { Ok(BlockFile { path, file }) } else { Err(damaged(&path)) }
    }

    /// Reads the block at `offset` into `to`, whose contents go.
    ///
    /// # Errors
    /// If it cannot be read, or is not what the worker wrote.
    pub fn read(&self, offset: u64, block: &Block, to: &mut Vec<u8>) -> Result<()> {
        to.clear();
        to.resize(usize::try_from(block.bytes).unwrap_or(usize::MAX), 0);
        match self.file.read_exact_at(to, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged(&self.path)),
            read => read.context(&self.path, "read the part")?,
        }
        if hex(&Sha256::digest(&to)) == block.sha256 { Ok(()) } else { Err(damaged(&self.path)) }
    }
}

/// The error for a file of a part that is not what the worker wrote.
pub fn damaged(path: &Path) -> Error {
    let worker = path.ancestors().find_map(|folder| share_of(&folder.file_name()?.to_string_lossy()));
    let remedy = match worker {
        Some((kind, share)) => {
            format!("run colophon {} --worker {share} again: it makes the part anew", kind.command())
        }
        None => "run the worker again: it makes the part anew".into(),
    };
    Error::environment(path, "the part is not what the worker wrote", remedy)
}

/// The day on which the first worker of an export started: that of the documents, unless somebody said another, so
/// that it does not matter when each worker starts. If none has started yet, that is `today`.
///
/// It stays when a worker stops, also as the only thing: another may have read it a moment ago and have nothing to
/// show for it yet, and two that took different days for theirs could not be merged.
///
/// # Errors
/// If the output folder cannot be read or written.
pub fn day(output: &Path, today: &str) -> Result<String> {
    refuse_strangers(output)?;
    let path = folder(output).join(DAY);
    for _ in 0..TRIES {
        match fs::read_to_string(&path) {
            Ok(day) if is_day(day.trim_end()) => return Ok(day.trim_end().to_owned()),
            Ok(_) => {
                let remedy = "remove it, and run all workers again";
                return Err(Error::environment(&path, "it does not say a day (YYYY-MM-DD)", remedy));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(&path, "read", &error)),
        }
        // Written beside and given its name whole; whoever is first wins.
        let beside = hidden(output, DAY)?;
        let draft = beside.path().join(DAY);
        fs::write(&draft, format!("{today}\n")).context(&draft, "write")?;
        // Its name must not outlive a power cut without what it says.
        File::open(&draft).and_then(|file| file.sync_all()).context(&draft, "sync")?;
        match fs::hard_link(&draft, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // Not every file system has links; a rename makes the file whole, too, and all who come later read it.
            Err(_) => fs::rename(&draft, &path).context(&path, "write")?,
        }
    }
    Err(Error::environment(&path, "it comes and goes", "let one job work here"))
}

/// Whether this is a day as `YYYY-MM-DD`.
fn is_day(text: &str) -> bool {
    text.len() == "YYYY-MM-DD".len() && jiff::civil::Date::strptime("%Y-%m-%d", text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_share() {
        let share = Share::new(3, 16).expect("a share");
        for (kind, name) in [(Kind::Export, "00003-of-00016"), (Kind::Plan, "plan-00003-of-00016")] {
            assert_eq!(self::name(kind, share), name);
            assert_eq!(share_of(name), Some((kind, share)));
        }
        for other in
            ["3-of-16", "00016-of-00016", ".00003-of-00016.x", "day", "00003-of-00016x", "plan-3-of-16", "plan"]
        {
            assert_eq!(share_of(other), None, "{other}");
        }
    }

    #[test]
    fn the_first_day_counts() {
        let root = tempfile::tempdir().expect("folder");
        assert_eq!(day(root.path(), "2024-01-15").expect("a day"), "2024-01-15");
        assert_eq!(day(root.path(), "2024-01-16").expect("a day"), "2024-01-15");
        assert_eq!(fs::read_dir(folder(root.path())).expect("folder").count(), 1);
    }
}
