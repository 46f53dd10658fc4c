//! A plain shard, mapped into memory.

use super::discover::Shard;
use super::sigbus::Watch;
use super::stamp::Stamp;
use crate::error::{Context, Error, Result};
use memmap2::Mmap;
use rustix::mm::Advice;
use std::fs::File;
use std::path::PathBuf;

/// A mapped file that knows whether it is still what it was when it was opened.
pub struct Mapping {
    path: PathBuf,
    file: File,
    opened: Stamp,
    // Dropped before the map: nothing is watched that is no longer ours.
    watch: Option<Watch>,
    map: Option<Mmap>,
}

impl Mapping {
    /// Maps a shard.
    pub fn open(shard: &Shard) -> Result<Mapping> {
        let path = shard.path.clone();
        let file = File::open(&path).context(&path, "open the shard")?;
        let opened = Stamp::of_shard(shard)?;
        opened.compare(&path, &file.metadata().context(&path, "read the shard")?)?;
        let map = if shard.bytes == 0 {
            None
        } else {
            // SAFETY: the map is read-only. That nobody changes the file meanwhile cannot be
            // enforced; a change is found by `check` after the bytes were used, and a run that finds
            // one writes nothing. Shrinking does not kill the process: see `sigbus`.
            Some(unsafe { Mmap::map(&file) }.context(&path, "map the shard")?)
        };
        let watch = map.as_ref().and_then(|map| Watch::new(map.as_ptr() as usize, map.len()));
        if let Some(map) = &map {
            // Only advice: a kernel without it reads a little slower.
            let _ = map.advise(memmap2::Advice::Sequential);
        }
        Ok(Mapping { path, file, opened, watch, map })
    }

    /// The shard's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// Brings a part into memory at once, instead of a page fault for each few pages.
    pub fn populate(&self, start: usize, len: usize) {
        const PAGE: usize = 4096;
        let Some(map) = &self.map else { return };
        let aligned = start & !(PAGE - 1);
        // SAFETY: the range lies within the map (its start rounded down to a page). Populating
        // changes no contents; if a page is gone, the call fails and the access to it is caught.
        let advised = unsafe {
            let at = map.as_ptr().add(aligned) as *mut _;
            rustix::mm::madvise(at, len + (start - aligned), Advice::LinuxPopulateRead)
        };
        // Only advice: kernels before 5.14 don't know it.
        let _ = advised;
    }

    /// Fails if the file changed since it was opened, or a page of it could not be read.
    pub fn check(&self) -> Result<()> {
        let now = self.file.metadata().context(&self.path, "read the shard")?;
        self.opened.compare(&self.path, &now)?;
        if self.watch.as_ref().is_some_and(Watch::was_hit) {
            return Err(Error::environment(&self.path, "a part of the shard could not be read", "check the disk"));
        }
        Ok(())
    }
}
