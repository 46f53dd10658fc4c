//! Finding the shards, in their order.

use crate::domain::manifest;
use crate::error::{Context, Error, Result};
use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// How a file's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Encoding {
    /// The encoding of a file of JSON Lines by its name, or `None` if it is no such file.
    pub fn of(path: &Path) -> Option<Encoding> {
        let name = path.file_name()?.as_bytes();
        let (stem, encoding) = if let Some(stem) = name.strip_suffix(b".gz") {
            (stem, Encoding::Gzip)
        } else if let Some(stem) = name.strip_suffix(b".zst") {
            (stem, Encoding::Zstd)
        } else {
            (name, Encoding::Plain)
        };
        [&b".jsonl"[..], b".ndjson"]
            .iter()
            .any(|suffix| stem.len() > suffix.len() && stem.ends_with(suffix))
            .then_some(encoding)
    }
}

/// A file of the input.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Where it is.
    pub path: PathBuf,
    /// Its path below the input folder.
    pub name: PathBuf,
    /// How it is packed.
    pub encoding: Encoding,
    /// Bytes on disk when it was found.
    pub bytes: u64,
}

/// The shards of an input, ordered by the bytes of their names.
///
/// A folder is searched through; entries whose names start with a point are skipped, and so is
/// `except` (the output folder, where it lies within the input). Links are followed.
///
/// # Errors
/// If something cannot be read, or is not what it should be.
pub fn discover(input: &Path, except: Option<&Path>) -> Result<Vec<Shard>> {
    let mut search = Search { except: except.and_then(|path| fs::canonicalize(path).ok()), found: Vec::new() };
    match fs::metadata(input) {
        Ok(meta) if meta.is_dir() => search.folder(input, Path::new(""), &mut HashSet::new())?,
        Ok(meta) => search.named_file(input, &meta)?,
        Err(error) if is_glob(input) => search.glob(input, &error)?,
        Err(error) => return Err(Error::io(input, "read the input", &error)),
    }
    search.found.sort_by(|a, b| a.name.as_os_str().as_bytes().cmp(b.name.as_os_str().as_bytes()));
    // A glob may match a folder and the files in it.
    search.found.dedup_by(|a, b| a.name == b.name);
    Ok(search.found)
}

fn is_glob(path: &Path) -> bool {
    path.as_os_str().as_bytes().iter().any(|b| matches!(b, b'*' | b'?' | b'['))
}

/// Whether a folder is what an export left: among the input that is rarely meant.
fn is_export(folder: &Path) -> bool {
    fs::read(folder.join(manifest::FILE))
        .is_ok_and(|text| memchr::memmem::find(&text, b"\"generator\": \"colophon ").is_some())
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"."))
}

struct Search {
    except: Option<PathBuf>,
    found: Vec<Shard>,
}

impl Search {
    fn folder(&mut self, folder: &Path, name: &Path, above: &mut HashSet<(u64, u64)>) -> Result<()> {
        if self.except.is_some() && fs::canonicalize(folder).ok() == self.except {
            tracing::info!("{} is the output folder: not read as input", crate::error::show(folder));
            return Ok(());
        }
        if !name.as_os_str().is_empty() && is_export(folder) {
            tracing::warn!(
                "{} is an export of colophon, and is read as input like all else",
                crate::error::show(folder)
            );
        }
        let meta = fs::metadata(folder).context(folder, "read the folder")?;
        let identity = (meta.dev(), meta.ino());
        if !above.insert(identity) {
            return Err(Error::environment(folder, "a link leads back to a folder above it", "remove the link"));
        }
        for entry in fs::read_dir(folder).context(folder, "read the folder")? {
            let entry = entry.context(folder, "read the folder")?;
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            if !is_hidden(&path) {
                self.entry(&path, &name, above)?;
            }
        }
        above.remove(&identity);
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path, above: &mut HashSet<(u64, u64)>) -> Result<()> {
        let encoding = Encoding::of(path);
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            // A dead link matters only if it should have been a shard.
            Err(_) if encoding.is_none() => return Ok(()),
            Err(error) => return Err(Error::io(path, "read the shard", &error)),
        };
        if meta.is_dir() {
            return self.folder(path, name, above);
        }
        match encoding {
            Some(encoding) => self.shard(path, name, encoding, &meta),
            None => Ok(()),
        }
    }

    fn shard(&mut self, path: &Path, name: &Path, encoding: Encoding, meta: &fs::Metadata) -> Result<()> {
        if !meta.is_file() {
            return Err(Error::environment(path, "not a regular file", "move it out of the input"));
        }
        self.found.push(Shard { path: path.into(), name: name.into(), encoding, bytes: meta.len() });
        Ok(())
    }

    fn named_file(&mut self, path: &Path, meta: &fs::Metadata) -> Result<()> {
        let Some(encoding) = Encoding::of(path) else {
            return Err(Error::Usage(format!(
                "{} is not a shard by its name: .jsonl and .ndjson are read, each also with .gz or .zst",
                crate::error::show(path)
            )));
        };
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        self.shard(path, &name, encoding, meta)
    }

    /// Names of a glob's shards are those below its last folder without a wildcard.
    fn glob(&mut self, pattern: &Path, not_found: &std::io::Error) -> Result<()> {
        let text = pattern.to_str().ok_or_else(|| Error::io(pattern, "read the input", not_found))?;
        let bad = |e: &dyn std::fmt::Display| Error::Usage(format!("'{text}' is not a pattern: {e}"));
        let base: PathBuf = pattern.components().take_while(|c| !is_glob(Path::new(c))).collect();
        for path in glob::glob(text).map_err(|e| bad(&e))? {
            let path = path.map_err(|e| Error::io(e.path(), "read the input", e.error()))?;
            let name = path.strip_prefix(&base).unwrap_or(&path).to_owned();
            if name.components().any(|part| matches!(part, Component::ParentDir)) {
                return Err(bad(&"'..' may not follow a wildcard"));
            }
            if name.components().any(|part| is_hidden(Path::new(&part))) {
                continue;
            }
            self.entry(&path, &name, &mut HashSet::new())?;
        }
        Ok(())
    }
}
