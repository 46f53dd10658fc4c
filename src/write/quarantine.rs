//! The quarantine: every rejected line as it was, and an index that says where it stood and why.

use crate::domain::manifest::hex;
use crate::domain::reason::Reason;
use crate::error::{Context, Result, show};
use crate::input::{Encoding, Shard};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The folder's name.
pub const FOLDER: &str = "quarantine";
/// The index's name.
pub const INDEX: &str = "index.jsonl";
/// Where the lines of a shard of that name go; no shard's name ends so.
const INDEX_SHARD: &str = "index.jsonl.rejected";

/// One rejected line.
pub struct Reject<'a> {
    /// Line number in the shard, from 1.
    pub line: u64,
    /// Bytes (unpacked) before the line in the shard.
    pub offset: u64,
    /// The line without its line feed.
    pub bytes: &'a [u8],
    /// Why.
    pub reason: Reason,
    /// Why, in words.
    pub detail: String,
}

/// A line of the index.
#[derive(Serialize)]
struct Entry<'a> {
    file: &'a str,
    line: u64,
    offset: u64,
    length: u64,
    reason: Reason,
    detail: &'a str,
}

/// A file of the quarantine, finished.
pub struct QuarantineFile {
    /// Its path in the output folder.
    pub path: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

/// Takes rejected lines, in input order. Makes nothing before the first.
pub struct Quarantine {
    folder: PathBuf,
    index: Option<Hashing>,
    /// The file for the shard at hand.
    shard: Option<(usize, Packer)>,
    files: Vec<QuarantineFile>,
}

impl Quarantine {
    /// A quarantine below the folder `parent`.
    pub fn new(parent: &Path) -> Quarantine {
        Quarantine { folder: parent.join(FOLDER), index: None, shard: None, files: Vec::new() }
    }

    /// Adds a line of the shard with this index.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn add(&mut self, index: usize, shard: &Shard, reject: &Reject) -> Result<()> {
        if self.shard.as_ref().is_none_or(|(open, _)| *open != index) {
            self.end_shard()?;
            self.shard = Some((index, Packer::create(&self.folder, shard)?));
        }
        let entry = Entry {
            file: &show(&shard.name),
            line: reject.line,
            offset: reject.offset,
            length: reject.bytes.len() as u64,
            reason: reject.reason,
            detail: &reject.detail,
        };
        if self.index.is_none() {
            self.index = Some(Hashing::create(&self.folder.join(INDEX))?);
        }
        if let (Some(out), Some((_, lines))) = (&mut self.index, &mut self.shard) {
            serde_json::to_writer(&mut *out, &entry).map_err(io::Error::from).context(&self.folder, "write")?;
            out.write_all(b"\n").context(&self.folder, "write")?;
            lines.write(reject.bytes).and_then(|()| lines.write(b"\n")).context(&self.folder, "write")?;
        }
        Ok(())
    }

    fn end_shard(&mut self) -> Result<()> {
        if let Some((_, packer)) = self.shard.take() {
            let file = packer.finish().and_then(Hashing::finish).context(&self.folder, "write")?;
            self.files.push(self.named(file));
        }
        Ok(())
    }

    fn named(&self, (path, bytes, sha256): (PathBuf, u64, String)) -> QuarantineFile {
        let below = path.strip_prefix(&self.folder).unwrap_or(&path);
        QuarantineFile { path: show(&Path::new(FOLDER).join(below)), bytes, sha256 }
    }

    /// Finishes the files and lists them; there are none without rejects.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn finish(mut self) -> Result<Vec<QuarantineFile>> {
        self.end_shard()?;
        if let Some(index) = self.index.take() {
            let file = index.finish().context(&self.folder, "write")?;
            self.files.push(self.named(file));
        }
        Ok(self.files)
    }
}

/// Writes lines packed as their shard was, so that the name's suffix stays true.
enum Packer {
    Plain(Hashing),
    Gzip(flate2::write::GzEncoder<Hashing>),
    Zstd(zstd::stream::write::Encoder<'static, Hashing>),
}

impl Packer {
    fn create(folder: &Path, shard: &Shard) -> Result<Packer> {
        // A shard, or a folder of shards, may have the index's name.
        let path = match shard.name.strip_prefix(INDEX) {
            Ok(rest) if rest.as_os_str().is_empty() => folder.join(INDEX_SHARD),
            Ok(rest) => folder.join(INDEX_SHARD).join(rest),
            Err(_) => folder.join(&shard.name),
        };
        let file = Hashing::create(&path)?;
        Ok(match shard.encoding {
            Encoding::Plain => Packer::Plain(file),
            Encoding::Gzip => Packer::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::new(6))),
            Encoding::Zstd => Packer::Zstd(zstd::stream::write::Encoder::new(file, 3).context(&path, "write")?),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Packer::Plain(file) => file.write_all(bytes),
            Packer::Gzip(encoder) => encoder.write_all(bytes),
            Packer::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<Hashing> {
        match self {
            Packer::Plain(file) => Ok(file),
            Packer::Gzip(encoder) => encoder.finish(),
            Packer::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// A file that is hashed as it is written.
struct Hashing {
    path: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Hashing {
    fn create(path: &Path) -> Result<Hashing> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).context(folder, "make the folder")?;
        }
        let file = BufWriter::new(File::create_new(path).context(path, "make the file")?);
        Ok(Hashing { path: path.into(), file, hash: Sha256::new(), bytes: 0 })
    }

    fn finish(mut self) -> io::Result<(PathBuf, u64, String)> {
        self.file.flush()?;
        Ok((self.path, self.bytes, hex(&self.hash.finalize())))
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
