//! The files of an export: which are there, how large they are, and what they hash to.

use super::Problems;
use crate::domain::manifest::{Manifest, hex};
use crate::error::{Context, Result, show};
use crate::pipeline::scheduler::Progress;
use crate::pipeline::stop::Stop;
use crate::write::part;
use crate::write::stage::{FAILED, MANIFEST, is_own_failed};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes that are hashed at a time.
const BLOCK: usize = 1 << 20;

/// What lies in the folder, beside what should.
pub struct Files {
    /// Files that are listed and there: their listed paths, with where they are.
    found: Vec<(String, PathBuf)>,
    /// Files that are listed and not there.
    pub missing: Problems,
    /// Files of another size.
    pub sizes: Problems,
    /// Files of another hash.
    pub hashes: Problems,
    /// Files that are not listed.
    pub stray: Problems,
    /// Whether workers' parts of another export lie there.
    pub has_parts: bool,
    /// Listed paths of files that are not as they should be.
    damaged: HashSet<String>,
    /// Bytes of what is there.
    bytes: u64,
}

impl Files {
    /// Looks for the manifest's files. Entries whose names start with a point are passed over, as in an input; so
    /// is what a failed run left, and what workers leave until it is merged.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn find(folder: &Path, manifest: &Manifest) -> Result<Files> {
        let mut lying = BTreeMap::new();
        walk(folder, Path::new(""), &mut lying)?;
        lying.remove(MANIFEST);
        let (mut missing, mut stray) = (Problems::default(), Problems::default());
        let (mut found, mut damaged) = (Vec::new(), HashSet::new());
        for file in &manifest.files {
            match lying.remove(&file.path) {
                Some(path) if path.is_file() => found.push((file.path.clone(), path)),
                other => {
                    let what = if other.is_some() { "is no file" } else { "is missing" };
                    missing.add(format!("{} {what}", file.path));
                    damaged.insert(file.path.clone());
                }
            }
        }
        for path in manifest.splits.iter().flat_map(|split| &split.files) {
            let is_listed = manifest.files.iter().any(|file| file.path == *path);
            missing.expect(is_listed, || format!("{path} is a split's, but not among the manifest's files"));
        }
        lying.into_keys().for_each(|path| stray.add(format!("{path} is not in the manifest")));
        let (sizes, hashes) = (Problems::default(), Problems::default());
        let has_parts = part::folder(folder).exists() && is_own(Path::new(part::FOLDER), &part::folder(folder));
        Ok(Files { found, missing, sizes, hashes, stray, has_parts, damaged, bytes: 0 })
    }

    /// Where a listed file is, if it is there.
    pub fn path(&self, listed: &str) -> Option<&Path> {
        self.found.iter().find(|(path, _)| path == listed).map(|(_, path)| path.as_path())
    }

    /// Whether a listed file is missing or differs.
    pub fn is_damaged(&self, listed: &str) -> bool {
        self.damaged.contains(listed)
    }

    /// Bytes of what is there.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Size and SHA-256 of each file that is there, several at once.
    ///
    /// # Errors
    /// If a file cannot be read, or the run was asked to stop.
    pub fn hash(
        &self,
        threads: usize,
        progress: &Progress,
        stop: &Stop,
        cancelled: &AtomicBool,
    ) -> Result<Vec<Hashed>> {
        let next = AtomicUsize::new(0);
        let hashed = Mutex::new(Vec::new());
        let work = || -> Result<()> {
            while let Some((listed, path)) = self.found.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (bytes, sha256) = hash(path, progress, stop, cancelled)?;
                let hashed = &mut *hashed.lock().unwrap_or_else(PoisonError::into_inner);
                hashed.push(Hashed { listed: listed.clone(), bytes, sha256 });
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            // Where a thread is refused, the others do its work.
            let spawn = |_| std::thread::Builder::new().name("hash".into()).spawn_scoped(scope, work).ok();
            let others: Vec<_> = (1..threads.min(self.found.len())).filter_map(spawn).collect();
            let mine = work();
            let join = |other: std::thread::ScopedJoinHandle<'_, _>| {
                other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            others.into_iter().map(join).fold(mine, Result::and)
        })?;
        Ok(hashed.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Holds sizes and hashes against the manifest.
    pub fn compare(&mut self, manifest: &Manifest, hashed: &[Hashed]) {
        for file in &manifest.files {
            let Some(found) = hashed.iter().find(|found| found.listed == file.path) else { continue };
            self.bytes += found.bytes;
            self.sizes.expect(found.bytes == file.bytes, || {
                format!("{} has {} bytes, the manifest says {}", file.path, found.bytes, file.bytes)
            });
            self.hashes.expect(found.sha256 == file.sha256, || {
                format!("{} has {}, the manifest says {}", file.path, found.sha256, file.sha256)
            });
            if (found.bytes, &found.sha256) != (file.bytes, &file.sha256) {
                self.damaged.insert(file.path.clone());
            }
        }
    }
}

/// A file that was read.
pub struct Hashed {
    /// Its path as the manifest has it.
    listed: String,
    bytes: u64,
    /// In hexadecimal.
    sha256: String,
}

fn hash(path: &Path, progress: &Progress, stop: &Stop, cancelled: &AtomicBool) -> Result<(u64, String)> {
    let mut file = File::open(path).context(path, "read")?;
    let (mut block, mut bytes, mut sha256) = (vec![0; BLOCK], 0, Sha256::new());
    loop {
        stop.check()?;
        let read = file.read(&mut block).context(path, "read")?;
        if read == 0 || cancelled.load(Ordering::Relaxed) {
            return Ok((bytes, hex(&sha256.finalize())));
        }
        sha256.update(&block[..read]);
        bytes += read as u64;
        progress.add(read as u64, 0, 0);
    }
}

/// Whether an entry, by its path below the export's folder, is one that is no part of the export, but colophon's.
fn is_own(below: &Path, path: &Path) -> bool {
    below == Path::new(FAILED) && is_own_failed(path) || below == Path::new(part::FOLDER) && part::is_of_workers(path)
}

/// Everything below a folder, by its path as a manifest would list it. A link to a folder is an entry of its own.
fn walk(folder: &Path, name: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).context(folder, "read the folder")? {
        let entry = entry.context(folder, "read the folder")?;
        let (path, below) = (entry.path(), name.join(entry.file_name()));
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if is_hidden || is_own(&below, &path) {
            continue;
        }
        if entry.file_type().context(&path, "read")?.is_dir() {
            walk(&path, &below, found)?;
        } else {
            found.insert(show(&below), path);
        }
    }
    Ok(())
}
