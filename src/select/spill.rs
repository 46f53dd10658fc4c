//! Large arrays: in memory up to a limit, in unlinked temporary files beyond it.

use crate::error::{Context, Error, Result};
use bytemuck::Pod;
use memmap2::MmapMut;
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where arrays go that are too large for memory. Clones share one limit.
#[derive(Clone)]
pub struct Spill {
    folder: Arc<Path>,
    limit: u64,
    held: Arc<AtomicU64>,
}

impl Spill {
    /// Holds up to `limit` bytes in memory, the rest in files in `folder`, which nobody sees and which
    /// disappear with the process.
    pub fn new(folder: &Path, limit: u64) -> Spill {
        Spill { folder: folder.into(), limit, held: Arc::default() }
    }

    /// An array of so many zeros.
    ///
    /// # Errors
    /// If there is neither memory nor room on disk.
    pub fn zeros<T: Pod>(&self, len: usize) -> Result<Buffer<T>> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| self.no_room(u64::MAX))?;
        let mut buffer = Buffer { map: None, len, held: None, of: PhantomData };
        if bytes == 0 {
            return Ok(buffer);
        }
        let before = self.held.fetch_add(bytes as u64, Ordering::Relaxed);
        if before.saturating_add(bytes as u64) <= self.limit {
            buffer.held = Some(Held { bytes: bytes as u64, of: Arc::clone(&self.held) });
            let map = MmapMut::map_anon(bytes).map_err(|_| self.no_room(bytes as u64))?;
            // Only advice: decisions are written all over the array, which large pages make quicker.
            let _ = map.advise(memmap2::Advice::HugePage);
            buffer.map = Some(map);
            return Ok(buffer);
        }
        self.held.fetch_sub(bytes as u64, Ordering::Relaxed);
        let file = tempfile::tempfile_in(&self.folder).context(&self.folder, "make a temporary file")?;
        reserve(&file, bytes as u64).context(&self.folder, "make room for a temporary file")?;
        // SAFETY: the file has no name, so nobody else can change or shorten it, and all of its bytes
        // were allocated, so no page can be missing for lack of room.
        buffer.map = Some(unsafe { MmapMut::map_mut(&file) }.context(&self.folder, "map a temporary file")?);
        Ok(buffer)
    }

    fn no_room(&self, bytes: u64) -> Error {
        Error::Environment {
            subject: "memory".into(),
            cause: format!("there are no {bytes} bytes to plan with"),
            remedy: "give a smaller --memory-limit, so that the plan goes to disk".into(),
        }
    }

    /// Where the files go.
    pub fn folder(&self) -> PathBuf {
        self.folder.to_path_buf()
    }
}

/// Gives a file its size with every block allocated: what is mapped must not run out of disk later.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let zeros = [0; 1 << 16];
            let mut rest = bytes;
            let mut to = file;
            while rest > 0 {
                let part = rest.min(zeros.len() as u64) as usize;
                to.write_all(&zeros[..part])?;
                rest -= part as u64;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// An array in memory or in a file.
pub struct Buffer<T> {
    map: Option<MmapMut>,
    len: usize,
    held: Option<Held>,
    of: PhantomData<T>,
}

/// Bytes that count towards the limit until this is dropped.
struct Held {
    bytes: u64,
    of: Arc<AtomicU64>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl<T> Buffer<T> {
    /// Whether it lies in a file.
    pub fn is_spilled(&self) -> bool {
        self.map.is_some() && self.held.is_none()
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // A map starts on a page, so it is aligned; and it has just so many bytes.
        self.map.as_ref().map_or(&[], |map| bytemuck::cast_slice(map))
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.map.as_mut().map_or(&mut [], |map| bytemuck::cast_slice_mut(map))
    }
}

impl<T> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer of {}{}", self.len, if self.is_spilled() { " in a file" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_arrays_lie_in_files_that_nobody_sees() {
        let folder = tempfile::tempdir().expect("folder");
        let spill = Spill::new(folder.path(), 1000);
        let mut small = spill.zeros::<u64>(100).expect("memory");
        let mut large = spill.zeros::<u64>(100_000).expect("file");
        assert_eq!((small.is_spilled(), large.is_spilled()), (false, true));
        for buffer in [&mut small, &mut large] {
            assert!(buffer.iter().all(|n| *n == 0));
            let last = buffer.len() - 1;
            buffer[last] = 7;
            assert_eq!(buffer[last], 7);
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
        assert!(spill.zeros::<u64>(50).expect("file").is_spilled(), "800 of 1,000 bytes are taken");
        drop(small);
        assert!(!spill.zeros::<u64>(50).expect("memory").is_spilled(), "they are free again");
        assert!(spill.zeros::<u64>(0).expect("nothing").is_empty());
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error_with_its_name() {
        let spill = Spill::new(Path::new("/nonexistent"), 0);
        let error = spill.zeros::<u64>(1).expect_err("no folder");
        assert!(error.status() == 3 && error.to_string().contains("/nonexistent"), "{error}");
    }
}
