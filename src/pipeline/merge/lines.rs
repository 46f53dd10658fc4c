//! The lines of all parts, put into the export's files.
//!
//! Blocks are read and checked in any order, as many at a time as there are threads; they are added to the files in
//! input order, and hashing, compressing and writing goes on as in any export ([`Outputs`]). So the files are
//! cut and packed as those of one machine are.

use crate::domain::part::{Block, Kind, Part};
use crate::error::{Error, Result};
use crate::pipeline::scheduler::Progress;
use crate::pipeline::stop::Stop;
use crate::write::output::{Lines, Outputs};
use crate::write::part::{self, BlockFile};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that may wait to be hashed and written before no new block is read, for each thread.
const BACKLOG: usize = 8 << 20;
/// How often a waiting thread looks whether the run was asked to stop.
const GLANCE: Duration = Duration::from_millis(100);

/// A block of a part's lines.
struct Place<'a> {
    path: PathBuf,
    file_bytes: u64,
    offset: u64,
    split: usize,
    block: &'a Block,
}

struct Board {
    /// The block that is read next, and the one that is added next.
    next_read: usize,
    next_added: usize,
    /// Blocks that were read and wait for their turn.
    read: BTreeMap<usize, Lines>,
    adding: bool,
    closed: bool,
    finished: bool,
    /// Threads that are doing something.
    busy: usize,
    /// Goes up whenever something was done: what was not there before may be there now.
    events: u64,
    error: Option<Error>,
}

struct Copy<'a> {
    places: Vec<Place<'a>>,
    outputs: &'a Outputs,
    progress: &'a Progress,
    stop: &'a Stop,
    threads: usize,
    board: Mutex<Board>,
    changed: Condvar,
}

/// Adds the lines of all parts to the files, and hashes and writes them.
///
/// # Errors
/// If a part is not what its worker wrote, a file cannot be written, or the run was asked to stop.
pub fn copy(
    output: &Path,
    parts: &[Part],
    outputs: &Outputs,
    threads: usize,
    progress: &Progress,
    stop: &Stop,
) -> Result<()> {
    let board = Board {
        next_read: 0,
        next_added: 0,
        read: BTreeMap::new(),
        adding: false,
        closed: false,
        finished: false,
        busy: 0,
        events: 0,
        error: None,
    };
    let places = places(output, parts);
    let (board, changed) = (Mutex::new(board), Condvar::new());
    let copy = Copy { places, outputs, progress, stop, threads, board, changed };
    std::thread::scope(|scope| {
        for i in 0..threads {
            let builder = std::thread::Builder::new().name(format!("merge-{i}"));
            if let Err(error) = builder.spawn_scoped(scope, || copy.work()) {
                copy.fail(Error::Environment {
                    subject: "threads".into(),
                    cause: format!("could not start thread {i}: {error}"),
                    remedy: "run with fewer --threads".into(),
                });
                break;
            }
        }
    });
    let board = copy.board.into_inner().unwrap_or_else(PoisonError::into_inner);
    board.error.map_or(Ok(()), Err)
}

/// All blocks in input order.
fn places<'a>(output: &Path, parts: &'a [Part]) -> Vec<Place<'a>> {
    let mut places = Vec::new();
    for part in parts {
        let folder = part::of_share(output, Kind::Export, part.maker.share);
        for (split, file) in part.splits.iter().enumerate() {
            let mut offset = 0;
            for block in &file.blocks {
                places.push(Place { path: folder.join(&file.path), file_bytes: file.bytes, offset, split, block });
                offset += block.bytes;
            }
        }
    }
    places
}

impl Copy<'_> {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: Error) {
        let mut board = self.lock();
        board.error.get_or_insert(error);
        board.finished = true;
        self.changed.notify_all();
    }

    fn work(&self) {
        // If a thread panics, the others must not wait for it.
        struct EndOthers<'a, 'b>(&'a Copy<'b>);
        impl Drop for EndOthers<'_, '_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.lock().finished = true;
                    self.0.changed.notify_all();
                }
            }
        }
        let _end_others = EndOthers(self);
        while !self.lock().finished {
            if let Err(error) = self.stop.check().and_then(|()| self.step()) {
                self.fail(error);
            }
        }
    }

    /// Does one thing, or waits. The farther a block has come the sooner it is done with.
    fn step(&self) -> Result<()> {
        let mut board = self.lock();
        let next = board.next_added;
        if !board.adding
            && let Some(lines) = board.read.remove(&next)
        {
            board.adding = true;
            board.busy += 1;
            drop(board);
            self.outputs.append(self.places[next].split, lines)?;
            return self.done(|board| {
                board.adding = false;
                board.next_added += 1;
            });
        }
        board.busy += 1;
        let events = board.events;
        drop(board);
        if let Some(job) = self.outputs.pick() {
            self.outputs.run(job)?;
            return self.done(|_| {});
        }
        let mut board = self.lock();
        if board.events != events {
            board.busy -= 1;
            return Ok(()); // something came up meanwhile
        }
        if self.may_read(&board) {
            let at = board.next_read;
            board.next_read += 1;
            drop(board);
            let lines = self.read(at)?;
            return self.done(|board| drop(board.read.insert(at, lines)));
        }
        if board.next_added == self.places.len() && !board.closed {
            board.closed = true;
            drop(board);
            self.outputs.close();
            return self.done(|_| {});
        }
        board.busy -= 1;
        if board.closed && board.busy == 0 {
            board.finished = true;
            self.changed.notify_all();
        } else {
            drop(self.changed.wait_timeout(board, GLANCE).unwrap_or_else(PoisonError::into_inner));
        }
        Ok(())
    }

    fn done(&self, note: impl FnOnce(&mut Board)) -> Result<()> {
        let mut board = self.lock();
        note(&mut board);
        board.busy -= 1;
        board.events += 1;
        self.changed.notify_all();
        Ok(())
    }

    fn may_read(&self, board: &Board) -> bool {
        let ahead = board.next_read - board.next_added;
        board.next_read < self.places.len()
            && ahead < self.threads + 1
            && self.outputs.queued() <= BACKLOG * self.threads
    }

    fn read(&self, at: usize) -> Result<Lines> {
        let Place { path, file_bytes, offset, block, .. } = &self.places[at];
        let mut bytes = self.outputs.buffer();
        BlockFile::open(path.clone(), *file_bytes)?.read(*offset, block, &mut bytes)?;
        let ends: Vec<usize> = memchr::memchr_iter(b'\n', &bytes).map(|end| end + 1).collect();
        self.progress.add(block.bytes, ends.len() as u64, 0);
        Ok(Lines { bytes, ends })
    }
}
