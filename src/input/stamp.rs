//! Whether a shard is still what it was.

use super::discover::Shard;
use crate::error::{Context, Error, Result};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Size and time of change of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of an open file.
    pub fn of(meta: &Metadata) -> Stamp {
        Stamp { bytes: meta.len(), changed: (meta.mtime(), meta.mtime_nsec()) }
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When it was changed: seconds and nanoseconds since 1970.
    pub fn changed(&self) -> (i64, i64) {
        self.changed
    }

    /// The stamp of a shard that is about to be opened.
    ///
    /// # Errors
    /// If it is not the size any more with which it was found.
    pub fn of_shard(shard: &Shard) -> Result<Stamp> {
        let stamp = Stamp::of(&std::fs::metadata(&shard.path).context(&shard.path, "read the shard")?);
        if stamp.bytes == shard.bytes { Ok(stamp) } else { Err(changed(&shard.path, shard.bytes, stamp.bytes)) }
    }

    /// Fails if the file at `path` is not that of the stamp any more.
    ///
    /// # Errors
    /// [`Error::Environment`], naming the file.
    pub fn check(&self, path: &Path) -> Result<()> {
        self.compare(path, &std::fs::metadata(path).context(path, "read the shard")?)
    }

    /// The same for a file that is open.
    ///
    /// # Errors
    /// [`Error::Environment`], naming the file.
    pub fn compare(&self, path: &Path, now: &Metadata) -> Result<()> {
        let now = Stamp::of(now);
        if now == *self { Ok(()) } else { Err(changed(path, self.bytes, now.bytes)) }
    }
}

fn changed(path: &Path, before: u64, now: u64) -> Error {
    let how = if now < before { "shrank" } else { "changed" };
    let cause = format!("the shard {how} while it was read ({before} bytes before, {now} now)");
    Error::environment(path, cause, "run again when nothing writes to it")
}
