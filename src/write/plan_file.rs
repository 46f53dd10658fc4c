//! The file of a plan.
//!
//! Its first line has the SHA-256 of the header, which is the plan's name among plans, and the header's length; the
//! second is the header, in JSON; the rest is the blocks of rows that the header lists, each with its SHA-256. So whoever
//! follows a part of the plan reads and proves that part alone. The file is written beside its place, synced and renamed.

use crate::domain::manifest::hex;
use crate::domain::planned::{Header, PlanRow, RowBlock};
use crate::error::{Context, Error, Result, show};
use crate::write::place::resolve;
use sha2::{Digest, Sha256};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::NamedTempFile;

/// What the file begins with.
const MAGIC: &[u8] = b"colophon plan ";
/// Bytes of a SHA-256 in hexadecimal.
const SHA256: usize = 64;
/// The longest first line.
const FIRST_LINE: u64 = 128;
/// What a killed run left and nothing was written to for so long is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(3600);
/// What marks a draft: it is named after the plan, this, and some letters or digits of chance.
const DRAFT: &str = ".colophon-draft-";
/// How many of them.
const CHANCE: usize = 6;

/// A plan on its way to its file. Without [`Draft::save`] nothing is left of it.
pub struct Draft {
    path: PathBuf,
    file: NamedTempFile,
}

impl Draft {
    /// Makes room beside the file's place. A link stays one: its target becomes the plan.
    ///
    /// # Errors
    /// [`Error::Usage`] if what is there is no plan; [`Error::Environment`] if nothing can be written there.
    pub fn open(path: &Path) -> Result<Draft> {
        refuse_strangers(path)?;
        let target = path.is_symlink().then(|| resolve(path)).transpose().context(path, "follow the link")?;
        let path = target.as_deref().unwrap_or(path);
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let Some(name) = path.file_name() else {
            return Err(Error::Usage(format!("{} is no name for a file", show(path))));
        };
        fs::create_dir_all(folder).context(folder, "make the folder")?;
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(DRAFT);
        let mut builder = tempfile::Builder::new();
        // Whoever follows the plan may be another user.
        let builder = builder.prefix(&prefix).rand_bytes(CHANCE).permissions(Permissions::from_mode(0o666));
        let file = builder.tempfile_in(folder).context(folder, "make a file")?;
        remove_abandoned(folder, &prefix, file.path())?;
        Ok(Draft { path: path.into(), file })
    }

    /// The folder in which it will lie.
    pub fn folder(&self) -> &Path {
        self.file.path().parent().unwrap_or(Path::new("."))
    }

    /// Writes the plan, with the blocks' rows in order, and gives the file its name. The result is its size in bytes.
    ///
    /// # Errors
    /// If the file system fails; or what comes instead of a block.
    pub fn save(self, header: &Header, blocks: impl Iterator<Item = Result<Vec<u8>>>) -> Result<u64> {
        let Draft { path, file } = self;
        let header = serde_json::to_vec(header).map_err(io::Error::from).context(&path, "write")?;
        let mut to = BufWriter::new(file.as_file());
        let mut write = |bytes: &[u8]| to.write_all(bytes).context(&path, "write");
        write(MAGIC)?;
        write(format!("{} {}\n", hex(&Sha256::digest(&header)), header.len()).as_bytes())?;
        write(&header)?;
        write(b"\n")?;
        for block in blocks {
            write(&block?)?;
        }
        to.flush().context(&path, "write")?;
        drop(to);
        file.as_file().sync_all().context(&path, "sync")?;
        let bytes = file.as_file().metadata().context(&path, "read")?.len();
        let folder = file.path().parent().unwrap_or(Path::new(".")).to_owned();
        refuse_strangers(&path)?;
        file.persist(&path).map_err(|error| Error::io(&path, "put the plan in place", &error.error))?;
        File::open(&folder).and_then(|handle| handle.sync_all()).context(&folder, "sync")?;
        Ok(bytes)
    }
}

/// Fails if there is anything that a plan must not replace.
fn refuse_strangers(path: &Path) -> Result<()> {
    match is_replaceable(path) {
        Ok(true) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(false) => Err(Error::Usage(format!(
            "{} is there and is no plan, and the plan would replace it: move it elsewhere, or choose another name",
            show(path)
        ))),
        Err(error) => Err(Error::io(path, "read", &error)),
    }
}

/// Whether it is a plan, or an empty file: that was made to be written to.
fn is_replaceable(path: &Path) -> io::Result<bool> {
    let Some(file) = open_file(path)? else { return Ok(false) };
    let mut start = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut start)?;
    Ok(start.is_empty() || start == MAGIC)
}

/// Opens it to read, if it is a file: opening a pipe would wait for who writes to it, and opening a device may do anything.
fn open_file(path: &Path) -> io::Result<Option<File>> {
    fs::metadata(path)?.is_file().then(|| File::open(path)).transpose()
}

/// Takes away the drafts that killed runs left beside the file's place, and nothing else.
fn remove_abandoned(folder: &Path, prefix: &OsString, own: &Path) -> Result<()> {
    // The file server's clock decides, which is the same for all files.
    let now = fs::metadata(own).and_then(|meta| meta.modified()).context(own, "read")?;
    for entry in fs::read_dir(folder).context(folder, "read the folder")? {
        let entry = entry.context(folder, "read the folder")?;
        let name = entry.file_name();
        if !is_draft_name(&name, prefix) || own.file_name() == Some(&*name) {
            continue;
        }
        // Of the entry itself, not of what it may point to.
        let Ok(meta) = entry.metadata() else { continue };
        let is_old = meta.modified().is_ok_and(|changed| changed + ABANDONED < now);
        if is_old && meta.is_file() && is_replaceable(&entry.path()).unwrap_or(false) {
            // Somebody else may be doing the same.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn is_draft_name(name: &OsStr, prefix: &OsStr) -> bool {
    let chance = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
    chance.is_some_and(|chance| chance.len() == CHANCE && chance.iter().all(u8::is_ascii_alphanumeric))
}

/// A plan that was saved.
pub struct PlanFile {
    path: PathBuf,
    file: File,
    /// What it says of itself.
    pub header: Header,
    digest: String,
    /// Where each block begins.
    offsets: Vec<u64>,
}

impl PlanFile {
    /// Opens it, and proves what it says of itself.
    ///
    /// # Errors
    /// [`Error::Environment`] if it is not there, cannot be read, or is not what was written; [`Error::Usage`] if it is
    /// no plan, or not one of this version.
    pub fn open(path: &Path) -> Result<PlanFile> {
        let file = match open_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let remedy = "run colophon plan --save FILE, or wait until it is done";
                return Err(Error::environment(path, "there is no plan", remedy));
            }
            file => file.context(path, "read the plan")?.ok_or_else(|| no_plan(path))?,
        };
        let bytes = file.metadata().context(path, "read the plan")?.len();
        let (digest, start, len) = first_line(path, &file)?;
        if start.checked_add(len).is_none_or(|end| end >= bytes) {
            return Err(damaged(path));
        }
        let mut header = vec![0; len as usize];
        read_at(path, &file, start, &mut header)?;
        if hex(&Sha256::digest(&header)) != digest {
            return Err(damaged(path));
        }
        let header: Header = serde_json::from_slice(&header).map_err(|error| {
            let path = show(path);
            Error::Usage(format!(
                "{path} is not as this version of colophon writes it ({error}): make the plan anew with this version"
            ))
        })?;
        let mut end = start + len + 1;
        let mut offsets = Vec::with_capacity(header.blocks.len());
        for block in &header.blocks {
            offsets.push(end);
            end = end.saturating_add(bytes_of(block));
        }
        if end != bytes {
            return Err(damaged(path));
        }
        Ok(PlanFile { path: path.into(), file, header, digest, offsets })
    }

    /// SHA-256 of what it says of itself, and thereby of all of it, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The rows of a block, by its place among all.
    ///
    /// # Errors
    /// If it cannot be read, or is not what was written.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn read(&self, block: usize) -> Result<Vec<PlanRow>> {
        let of = &self.header.blocks[block];
        // The file has so many bytes, so they are no more than there can be.
        let mut bytes = vec![0; bytes_of(of) as usize];
        read_at(&self.path, &self.file, self.offsets[block], &mut bytes)?;
        if hex(&Sha256::digest(&bytes)) != of.sha256 {
            return Err(damaged(&self.path));
        }
        Ok(bytes.chunks_exact(size_of::<PlanRow>()).map(bytemuck::pod_read_unaligned).collect())
    }

    /// The error for a plan that is not what was written.
    pub fn damaged(&self) -> Error {
        damaged(&self.path)
    }
}

fn bytes_of(block: &RowBlock) -> u64 {
    (block.rows as u64).saturating_mul(size_of::<PlanRow>() as u64)
}

/// The header's SHA-256, where it begins, and its length.
fn first_line(path: &Path, file: &File) -> Result<(String, u64, u64)> {
    let mut line = Vec::new();
    file.take(FIRST_LINE).read_to_end(&mut line).context(path, "read the plan")?;
    if !line.starts_with(MAGIC) {
        return Err(if MAGIC.starts_with(&line) { damaged(path) } else { no_plan(path) });
    }
    let parse = || {
        let end = memchr::memchr(b'\n', &line)?;
        let text = std::str::from_utf8(&line[MAGIC.len()..end]).ok()?;
        let (digest, len) = text.split_once(' ').filter(|(digest, _)| digest.len() == SHA256)?;
        Some((digest.to_owned(), end as u64 + 1, len.parse().ok()?))
    };
    parse().ok_or_else(|| damaged(path))
}

fn read_at(path: &Path, file: &File, offset: u64, to: &mut [u8]) -> Result<()> {
    match file.read_exact_at(to, offset) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(damaged(path)),
        read => read.context(path, "read the plan"),
    }
}

fn no_plan(path: &Path) -> Error {
    Error::Usage(format!("{} is no plan: colophon plan --save FILE makes one", show(path)))
}

fn damaged(path: &Path) -> Error {
    Error::environment(path, "the plan is not what colophon wrote", "make it anew with colophon plan --save FILE")
}
