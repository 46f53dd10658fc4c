//! What an upload consists of: the files that the manifest lists, and the manifest.
//!
//! A file is what it was when it was looked at first: whoever opens it later is told if it changed since. So what was
//! verified between the two looks is what goes up.

use crate::domain::manifest::{self, Manifest, hex};
use crate::error::{Context, Error, Result, show, unshow};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The manifest's name, here and at every target.
pub use crate::domain::manifest::FILE as MANIFEST;
/// Bytes that are hashed at a time.
const BLOCK: usize = 1 << 20;

/// The files of an export.
pub struct Content {
    /// What the manifest says.
    pub manifest: Manifest,
    /// The files in the manifest's order; the manifest is the last.
    pub files: Vec<ContentFile>,
}

/// A file that goes up.
#[derive(Clone)]
pub struct ContentFile {
    /// Its path below the export's folder, as the manifest lists it, with `/` between its parts.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes of it.
    pub bytes: u64,
    /// Documents, for a file of a split.
    pub documents: Option<u64>,
    /// SHA-256 of its bytes, in hexadecimal, as the manifest says.
    pub sha256: String,
    /// What it was when it was looked at first.
    identity: Identity,
}

/// What a file cannot keep when something changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// The time of the last change of anything, which no program can set.
    changed: (i64, i64),
}

impl Identity {
    fn of(meta: &Metadata) -> Identity {
        Identity {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Content {
    /// Looks at the files that a folder's manifest lists; nothing else in the folder is heeded.
    ///
    /// # Errors
    /// [`Error::Gate`] if the folder holds no sound export as far as names and sizes tell;
    /// [`Error::Environment`] if it cannot be read.
    pub fn of(folder: &Path) -> Result<Content> {
        let path = folder.join(MANIFEST);
        let (bytes, identity) = match read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(no_export(folder)),
            result => result.context(&path, "read")?,
        };
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|e| unsound(&path, &format!("damaged: {e}")))?;
        if manifest.format > manifest::FORMAT {
            return Err(Error::Usage(format!(
                "{}: made by a later version: use that, {}",
                show(&path),
                manifest.generator
            )));
        }
        let mut seen = HashSet::from([MANIFEST]);
        for file in &manifest.files {
            if !seen.insert(&file.path) {
                return Err(unsound(&path, &format!("it lists {} twice", file.path)));
            }
        }
        let mut files = manifest.files.iter().map(|file| look(folder, file)).collect::<Result<Vec<_>>>()?;
        if files.is_empty() {
            return Err(no_export(folder));
        }
        let (name, sha256) = (MANIFEST.into(), hex(&Sha256::digest(&bytes)));
        files.push(ContentFile { name, path, bytes: bytes.len() as u64, documents: None, sha256, identity });
        Ok(Content { manifest, files })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The manifest's file.
    pub fn manifest_file(&self) -> &ContentFile {
        self.files.last().expect("a content ends with its manifest")
    }

    /// All files but the manifest.
    pub fn data_files(&self) -> &[ContentFile] {
        &self.files[..self.files.len() - 1]
    }

    /// Fails if a file is not what it was.
    ///
    /// # Errors
    /// [`Error::Environment`], naming the file.
    pub fn check(&self) -> Result<()> {
        self.files.iter().try_for_each(ContentFile::check)
    }

    /// Fails if the export has no documents: one of nothing must not take the place of one of something.
    ///
    /// # Errors
    /// [`Error::Gate`].
    pub fn check_not_empty(&self) -> Result<()> {
        if self.manifest.splits.iter().any(|split| split.documents > 0) {
            return Ok(());
        }
        let folder = show(self.manifest_file().path.parent().unwrap_or(Path::new("")));
        Err(Error::Gate(format!(
            "{folder}: the export has no documents, so --delete removes nothing for it, and nothing was uploaded; if \
             it is to replace what is at the target, leave out --delete"
        )))
    }

    /// Fails if the manifest contradicts itself about the documents.
    fn check_account(&self) -> Result<()> {
        let wrong = |cause: String| Err(unsound(&self.manifest_file().path, &cause));
        let Manifest { splits, ledger, .. } = &self.manifest;
        let documents: HashMap<&str, u64> =
            self.data_files().iter().filter_map(|file| Some((file.name.as_str(), file.documents?))).collect();
        for split in splits {
            let mut sum = 0;
            for path in &split.files {
                match documents.get(path.as_str()) {
                    Some(documents) => sum += u128::from(*documents),
                    None => {
                        return wrong(format!("it has {path} in the split {}, but not among the files", split.name));
                    }
                }
            }
            if sum != u128::from(split.documents) {
                let (name, said) = (&split.name, split.documents);
                return wrong(format!("the split {name} has {said} documents, its files have {sum}"));
            }
        }
        let of_splits: u128 = splits.iter().map(|split| u128::from(split.documents)).sum();
        let of_files: u128 = documents.values().map(|documents| u128::from(*documents)).sum();
        let exported = u128::from(ledger.exported) + u128::from(ledger.repeats);
        if of_splits != of_files || of_splits != exported {
            return wrong(format!(
                "the ledger has {exported} exported documents, the splits {of_splits} and the files {of_files}"
            ));
        }
        match ledger.balances() {
            true => Ok(()),
            false => wrong(format!("the ledger does not balance: {ledger}")),
        }
    }

    /// Reads every file and holds its SHA-256 against the manifest, and the manifest's counts against each other: the
    /// least that has to be known of what goes up. `read` is told of the bytes as they are read.
    ///
    /// # Errors
    /// [`Error::Gate`] if a file or a count differs; if a file cannot be read; what `stop` gives.
    pub fn hash(
        &self,
        threads: usize,
        read: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<()> {
        self.check_account()?;
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(file) = self.files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let found = file.hash(read, stop)?;
                if found != file.sha256 {
                    let cause = format!("its SHA-256 is {found}, the manifest says {}", file.sha256);
                    return Err(unsound(&file.path, &cause));
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mine = work();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).fold(mine, Result::and)
        })
    }
}

impl ContentFile {
    /// Opens the file, if it is what it was.
    ///
    /// # Errors
    /// [`Error::Environment`], naming the file.
    pub fn open(&self) -> Result<File> {
        let file = File::open(&self.path).context(&self.path, "read")?;
        self.check_open(&file)?;
        Ok(file)
    }

    /// Fails if an open file is not what it was. Whoever has read from it knows by this that the bytes are those that
    /// were looked at first.
    ///
    /// # Errors
    /// [`Error::Environment`], naming the file.
    pub fn check_open(&self, file: &File) -> Result<()> {
        self.compare(&file.metadata().context(&self.path, "read")?)
    }

    /// Fails if the file at its path is not what it was.
    ///
    /// # Errors
    /// [`Error::Environment`], naming the file.
    pub fn check(&self) -> Result<()> {
        self.compare(&fs::metadata(&self.path).context(&self.path, "read")?)
    }

    fn compare(&self, meta: &Metadata) -> Result<()> {
        if Identity::of(meta) == self.identity {
            return Ok(());
        }
        Err(Error::environment(
            &self.path,
            "the file was changed after it was verified",
            "run again when nothing writes to the folder",
        ))
    }

    fn hash(&self, read: &(dyn Fn(u64) + Sync), stop: &(dyn Fn() -> Result<()> + Sync)) -> Result<String> {
        let mut file = self.open()?;
        let (mut block, mut sha256) = (vec![0; BLOCK], Sha256::new());
        loop {
            stop()?;
            match file.read(&mut block).context(&self.path, "read")? {
                0 => break,
                n => {
                    sha256.update(&block[..n]);
                    read(n as u64);
                }
            }
        }
        self.check_open(&file)?;
        Ok(hex(&sha256.finalize()))
    }
}

/// Reads what is at a target as the manifest: nothing, if it is not one of this program's.
pub fn earlier(bytes: &[u8]) -> Option<Manifest> {
    serde_json::from_slice::<Manifest>(bytes).ok().filter(|manifest| manifest::is_own(&manifest.generator))
}

/// A file's bytes with what it was before and after they were read.
fn read(path: &Path) -> std::io::Result<(Vec<u8>, Identity)> {
    let mut file = File::open(path)?;
    let identity = Identity::of(&file.metadata()?);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    match Identity::of(&file.metadata()?) == identity {
        true => Ok((bytes, identity)),
        false => Err(std::io::Error::other("it was changed while it was read; run again when nothing writes to it")),
    }
}

fn look(folder: &Path, listed: &manifest::OutputFile) -> Result<ContentFile> {
    let damaged = |what: &str| unsound(&folder.join(MANIFEST), &format!("it lists {:?}, {what}", listed.path));
    let below = unshow(&listed.path).ok_or_else(|| damaged("which is no path"))?;
    // A manifest that somebody else wrote must not make the program send what lies elsewhere.
    let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_plain || listed.path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(damaged("which is not below the folder"));
    }
    let is_sha256 = listed.sha256.len() == 64 && listed.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_sha256 {
        return Err(damaged("without a SHA-256"));
    }
    let path = folder.join(below);
    let meta = match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(unsound(&path, "it is missing")),
        meta => meta.context(&path, "read")?,
    };
    if !meta.is_file() {
        return Err(unsound(&path, "it is no file"));
    }
    if meta.len() != listed.bytes {
        let cause = format!("it has {} bytes, the manifest says {}", meta.len(), listed.bytes);
        return Err(unsound(&path, &cause));
    }
    Ok(ContentFile {
        name: listed.path.clone(),
        path,
        bytes: listed.bytes,
        documents: listed.documents,
        sha256: listed.sha256.clone(),
        identity: Identity::of(&meta),
    })
}

fn no_export(folder: &Path) -> Error {
    Error::Gate(format!("{}: no finished export lies here, so nothing was uploaded (nor deleted)", show(folder)))
}

fn unsound(path: &Path, cause: &str) -> Error {
    Error::Gate(format!("{}: {cause}; nothing was uploaded: export again", show(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An export of one file, as far as an upload looks at it.
    fn folder(listed: &str, content: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("train.jsonl"), content).expect("write");
        let manifest = serde_json::json!({
            "format": manifest::FORMAT,
            "generator": "colophon 0",
            "configuration": {},
            "inputs": [],
            "splits": [],
            "files": [{ "path": listed, "bytes": content.len(), "sha256": hex(&Sha256::digest(content)) }],
            "ledger": crate::domain::ledger::Ledger::default(),
        });
        fs::write(folder.path().join(MANIFEST), manifest.to_string()).expect("write");
        folder
    }

    const GO: &(dyn Fn() -> Result<()> + Sync) = &|| Ok(());

    #[test]
    fn the_manifest_comes_last_and_stray_files_do_not_come() {
        let folder = folder("train.jsonl", "x\n");
        fs::write(folder.path().join("secret.txt"), "x").expect("write");
        let content = Content::of(folder.path()).expect("sound");
        assert_eq!(content.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["train.jsonl", MANIFEST]);
        content.hash(2, &|_| (), GO).expect("as the manifest says");
        content.check().expect("unchanged");
    }

    #[test]
    fn a_change_is_noticed_even_if_size_and_time_stay() {
        let folder = folder("train.jsonl", "x\n");
        let content = Content::of(folder.path()).expect("sound");
        let path = folder.path().join("train.jsonl");
        let open = content.files[0].open().expect("unchanged");
        let modified = fs::metadata(&path).expect("meta").modified().expect("time");
        fs::write(&path, "y\n").expect("write");
        File::options().write(true).open(&path).expect("open").set_modified(modified).expect("set the time");
        for error in [content.check(), content.files[0].check_open(&open), content.files[0].open().map(|_| ())] {
            let error = error.expect_err("it changed");
            assert!(error.status() == 3 && error.to_string().contains("train.jsonl: the file was changed"), "{error}");
        }
        let error = Content::of(folder.path()).expect("sizes are right").hash(1, &|_| (), GO).expect_err("the hash");
        assert!(error.status() == 1 && error.to_string().contains("SHA-256"), "{error}");
    }

    /// The same with what a manifest says of its documents.
    fn counted(change: fn(&mut serde_json::Value)) -> (tempfile::TempDir, Content) {
        let folder = folder("train.jsonl", "x\n");
        let path = folder.path().join(MANIFEST);
        let mut manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).expect("read")).expect("a manifest");
        manifest["splits"] = serde_json::json!([{ "name": "train", "documents": 1, "files": ["train.jsonl"] }]);
        manifest["files"][0]["documents"] = 1.into();
        manifest["ledger"]["lines"] = 1.into();
        manifest["ledger"]["exported"] = 1.into();
        change(&mut manifest);
        fs::write(path, manifest.to_string()).expect("write");
        let content = Content::of(folder.path()).expect("sound by names and sizes");
        (folder, content)
    }

    #[test]
    fn counts_that_contradict_each_other_are_refused() {
        let (_folder, content) = counted(|_| ());
        content.hash(1, &|_| (), GO).expect("sound");
        content.check_not_empty().expect("a document");
        type Change = fn(&mut serde_json::Value);
        let changes: [(Change, &str); 7] = [
            (|m| m["splits"][0]["files"] = serde_json::json!(["train.jsonl", "gone.jsonl"]), "gone.jsonl"),
            (|m| m["splits"][0]["documents"] = 2.into(), "its files have 1"),
            (|m| m["splits"] = serde_json::json!([]), "the splits 0"),
            (|m| m["ledger"]["exported"] = 2.into(), "the ledger has 2"),
            (|m| m["ledger"]["repeats"] = u64::MAX.into(), "the ledger has 18446744073709551616"),
            (|m| m["ledger"]["blank"] = 1.into(), "does not balance"),
            (|m| m["ledger"]["blank"] = u64::MAX.into(), "does not balance"),
        ];
        for (change, part) in changes {
            let (_folder, content) = counted(change);
            let error = content.hash(1, &|_| (), GO).expect_err(part);
            assert!(error.status() == 1 && error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn what_has_no_documents_is_empty() {
        let folder = folder("train.jsonl", "");
        let content = Content::of(folder.path()).expect("sound");
        content.hash(1, &|_| (), GO).expect("sound");
        assert_eq!(content.check_not_empty().map_err(|error| error.status()), Err(1));
    }

    #[test]
    fn what_is_no_sound_export_is_refused() {
        let empty = tempfile::tempdir().expect("folder");
        assert_eq!(Content::of(empty.path()).err().map(|e| e.status()), Some(1));
        for listed in
            ["../train.jsonl", "/etc/passwd", "./train.jsonl", "a//b", "", "gone.jsonl", "a\\", "manifest.json"]
        {
            let folder = folder(listed, "x\n");
            assert_eq!(Content::of(folder.path()).err().map(|e| e.status()), Some(1), "{listed}");
        }
        let damaged = folder("train.jsonl", "x\n");
        fs::write(damaged.path().join("train.jsonl"), "longer\n").expect("write");
        assert_eq!(Content::of(damaged.path()).err().map(|e| e.status()), Some(1));
        fs::write(damaged.path().join(MANIFEST), "{").expect("write");
        assert_eq!(Content::of(damaged.path()).err().map(|e| e.status()), Some(1));
    }
}
