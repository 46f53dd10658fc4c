//! Keeping all cores busy with one corpus, in order.
//!
//! There is one queue, the cutter's, and several things a worker can do. In order of urgency: commit
//! the next chunk's result (in input order, one at a time); help with what committing left behind
//! (hash, write, compress); take a new chunk and process it. The farther a chunk has come the sooner
//! it is done with, so little is held in memory; and a result is mostly hashed and written by a core
//! that still has it in its cache.

use super::stop::Stop;
use crate::error::{Error, Result};
use crate::input::{Chunk, Cutter};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a waiting worker looks whether the run was asked to stop.
const GLANCE: Duration = Duration::from_millis(100);

/// What is to be done with chunks.
pub trait Work: Sync {
    /// What a worker keeps for itself from chunk to chunk.
    type Local: Send;
    /// What comes of a chunk.
    type Done: Send;

    /// A fresh worker's own.
    fn local(&self) -> Self::Local;

    /// Processes a chunk; any number at the same time, in any order.
    ///
    /// # Errors
    /// Ends the run.
    fn process(&self, local: &mut Self::Local, chunk: Chunk) -> Result<Self::Done>;

    /// Takes a chunk's result; one at a time, in input order.
    ///
    /// # Errors
    /// Ends the run.
    fn commit(&self, done: Self::Done) -> Result<()>;

    /// All chunks are committed.
    fn close(&self) {}

    /// Does a piece of what commits left behind; `false` if there is nothing to do now.
    ///
    /// # Errors
    /// Ends the run.
    fn help(&self) -> Result<bool> {
        Ok(false)
    }

    /// Whether so much was left behind that no new chunk should be taken.
    fn is_behind(&self) -> bool {
        false
    }
}

/// How far a run has come, for whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes (unpacked) of the input that were processed.
    pub bytes: AtomicU64,
    /// Documents found.
    pub documents: AtomicU64,
    /// Lines rejected.
    pub rejected: AtomicU64,
}

impl Progress {
    /// Notes a chunk.
    pub fn add(&self, bytes: u64, documents: u64, rejected: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.documents.fetch_add(documents, Ordering::Relaxed);
        self.rejected.fetch_add(rejected, Ordering::Relaxed);
    }
}

struct Board<D> {
    /// Results that wait for their turn.
    done: BTreeMap<u64, D>,
    /// The chunk whose result is next.
    next: u64,
    /// Chunks taken whose results are not committed.
    in_flight: usize,
    cutting: bool,
    committing: bool,
    exhausted: bool,
    closed: bool,
    finished: bool,
    /// Workers that are doing something.
    busy: usize,
    /// Goes up whenever something was done: what was not there before may be there now.
    events: u64,
    error: Option<Error>,
}

struct Scheduler<'a, W: Work> {
    work: &'a W,
    cutter: Mutex<Cutter>,
    board: Mutex<Board<W::Done>>,
    changed: Condvar,
    stop: &'a Stop,
    /// The most chunks in flight.
    window: usize,
}

/// Runs `work` over all chunks with so many workers; gives what the workers kept.
///
/// # Errors
/// The first failure of any stage, or that the run was asked to stop.
pub fn run<W: Work>(work: &W, cutter: Cutter, threads: usize, stop: &Stop) -> Result<Vec<W::Local>> {
    let board = Board {
        done: BTreeMap::new(),
        next: 0,
        in_flight: 0,
        cutting: false,
        committing: false,
        exhausted: false,
        closed: false,
        finished: false,
        busy: 0,
        events: 0,
        error: None,
    };
    let scheduler = Scheduler {
        work,
        cutter: Mutex::new(cutter),
        board: Mutex::new(board),
        changed: Condvar::new(),
        stop,
        window: 2 * threads + 2,
    };
    let locals = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1))
            .map(|i| {
                let builder = std::thread::Builder::new().name(format!("worker-{i}"));
                builder.spawn_scoped(scope, || scheduler.worker()).map_err(|e| Error::Environment {
                    subject: "threads".into(),
                    cause: format!("could not start worker {i}: {e}"),
                    remedy: "run with fewer --threads".into(),
                })
            })
            .collect::<Result<_>>()
            .inspect_err(|_| scheduler.lock().finished = true)?;
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        Ok::<_, Error>(workers.into_iter().map(join).collect())
    })?;
    let board = scheduler.board.into_inner().unwrap_or_else(PoisonError::into_inner);
    board.error.map_or(Ok(locals), Err)
}

/// What a worker does next.
enum Task<D> {
    Commit(D),
    Cut,
    Close,
}

impl<W: Work> Scheduler<'_, W> {
    fn lock(&self) -> MutexGuard<'_, Board<W::Done>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worker(&self) -> W::Local {
        // If a worker panics, the others must not wait for it.
        struct EndOthers<'a, 'b, W: Work>(&'a Scheduler<'b, W>);
        impl<W: Work> Drop for EndOthers<'_, '_, W> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.lock().finished = true;
                    self.0.changed.notify_all();
                }
            }
        }
        let _end_others = EndOthers(self);
        let mut local = self.work.local();
        while !self.lock().finished {
            if let Err(error) = self.stop.check().and_then(|()| self.step(&mut local)) {
                let mut board = self.lock();
                board.error.get_or_insert(error);
                board.finished = true;
                self.changed.notify_all();
            }
        }
        local
    }

    /// Does one thing, or waits.
    fn step(&self, local: &mut W::Local) -> Result<()> {
        let events = {
            let mut board = self.lock();
            if let Some(done) = board.take_commit() {
                drop(board);
                return self.perform(Task::Commit(done), local);
            }
            board.busy += 1;
            board.events
        };
        let helped = self.work.help();
        let mut board = self.lock();
        board.busy -= 1;
        if helped? {
            board.events += 1;
            self.changed.notify_all();
            return Ok(());
        }
        if board.events != events {
            return Ok(()); // something came up meanwhile
        }
        match board.take_other(self.window, || self.work.is_behind()) {
            Some(task) => {
                drop(board);
                self.perform(task, local)
            }
            None => {
                if board.closed && board.busy == 0 {
                    board.finished = true;
                    self.changed.notify_all();
                } else if !board.finished {
                    let waited = self.changed.wait_timeout(board, GLANCE);
                    drop(waited.unwrap_or_else(PoisonError::into_inner));
                }
                Ok(())
            }
        }
    }

    fn perform(&self, task: Task<W::Done>, local: &mut W::Local) -> Result<()> {
        let outcome = match task {
            Task::Commit(done) => self.work.commit(done).map(|()| Outcome::Committed),
            Task::Close => {
                self.work.close();
                Ok(Outcome::Closed)
            }
            Task::Cut => self.cut_and_process(local),
        }?;
        let mut board = self.lock();
        board.busy -= 1;
        board.events += 1;
        match outcome {
            Outcome::Committed => {
                board.committing = false;
                board.in_flight -= 1;
                board.next += 1;
            }
            Outcome::Closed => board.closed = true,
            Outcome::Exhausted => {}
            Outcome::Processed(sequence, done) => drop(board.done.insert(sequence, done)),
        }
        self.changed.notify_all();
        Ok(())
    }

    fn cut_and_process(&self, local: &mut W::Local) -> Result<Outcome<W::Done>> {
        let chunk = self.cutter.lock().unwrap_or_else(PoisonError::into_inner).next_chunk()?;
        {
            let mut board = self.lock();
            board.cutting = false;
            board.exhausted = chunk.is_none();
            board.in_flight += usize::from(chunk.is_some());
            board.events += 1;
            self.changed.notify_all();
        }
        let Some(chunk) = chunk else { return Ok(Outcome::Exhausted) };
        let sequence = chunk.sequence;
        Ok(Outcome::Processed(sequence, self.work.process(local, chunk)?))
    }
}

enum Outcome<D> {
    Committed,
    Closed,
    Exhausted,
    Processed(u64, D),
}

impl<D> Board<D> {
    /// The next result, if it is there and nobody is committing.
    fn take_commit(&mut self) -> Option<D> {
        if self.committing {
            return None;
        }
        let done = self.done.remove(&self.next)?;
        self.committing = true;
        self.busy += 1;
        Some(done)
    }

    fn take_other(&mut self, window: usize, is_behind: impl Fn() -> bool) -> Option<Task<D>> {
        if !self.exhausted {
            if self.cutting || self.in_flight >= window || is_behind() {
                return None;
            }
            self.cutting = true;
            self.busy += 1;
            return Some(Task::Cut);
        }
        if self.in_flight == 0 && !self.closed && !self.committing && self.busy == 0 {
            self.busy += 1;
            return Some(Task::Close);
        }
        None
    }
}
