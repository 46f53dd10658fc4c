//! Keeping all cores busy with one corpus, in order.
//!
//! There is one queue, the cutter's, and several things a worker can do. In order of urgency: commit
//! the next chunk's result (in input order, one at a time); help with what committing left behind
//! (hash, write, compress); process a chunk that a GPU has scanned; fill a GPU's batch with new chunks;
//! take a new chunk, scan it and process it. The farther a chunk has come the sooner it is done with, so
//! little is held in memory; and a result is mostly hashed and written by a core that still has it in its
//! cache. A GPU that fails gives its chunks back, and the cores scan them.

use super::stop::Stop;
use crate::domain::ledger::Rejects;
use crate::domain::reason::Reason;
use crate::domain::row::Rows;
use crate::error::{Error, Result};
use crate::input::{Chunk, Cutter};
use crate::scan::ScanJob;
use crate::scan::cuda::Lost;
use crate::scan::engine::{Batch, Engine, Session};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a waiting worker looks whether the run was asked to stop.
const GLANCE: Duration = Duration::from_millis(100);
/// How often it looks whether a GPU is done.
const GPU_GLANCE: Duration = Duration::from_micros(100);

/// What is to be done with chunks.
pub trait Work: Sync {
    /// What a worker keeps for itself from chunk to chunk.
    type Local: Send;
    /// What comes of a chunk.
    type Done: Send;

    /// A fresh worker's own.
    fn local(&self) -> Self::Local;

    /// What to scan for.
    fn job(&self) -> ScanJob<'_>;

    /// Where to note what GPUs scanned, if anywhere.
    fn progress(&self) -> Option<&Progress> {
        None
    }

    /// Processes a chunk with its rows; any number at the same time, in any order. A chunk that is too long
    /// for rows comes without.
    ///
    /// # Errors
    /// Ends the run.
    fn process(&self, local: &mut Self::Local, chunk: Chunk, rows: &Rows) -> Result<Self::Done>;

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
    /// Documents found, or files done with.
    pub documents: AtomicU64,
    /// Lines rejected.
    pub rejected: AtomicU64,
    /// Of the bytes, those that GPUs scanned.
    pub gpu_bytes: AtomicU64,
    /// Lines rejected for each reason, in the order of [`Reason::ALL`].
    pub rejects: [AtomicU64; Reason::ALL.len()],
    /// What `documents` counts.
    pub counted: Counted,
}

/// What is counted beside the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counted {
    /// Documents.
    #[default]
    Documents,
    /// Files.
    Files,
}

impl Progress {
    /// That of files.
    pub fn of_files() -> Progress {
        Progress { counted: Counted::Files, ..Progress::default() }
    }

    /// Notes a chunk.
    pub fn add(&self, bytes: u64, documents: u64, rejected: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.documents.fetch_add(documents, Ordering::Relaxed);
        self.rejected.fetch_add(rejected, Ordering::Relaxed);
    }

    /// Notes why a line was rejected.
    pub fn reject(&self, reason: Reason) {
        self.rejects[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes lines that others have rejected, whose number and reasons nobody has noted yet.
    pub fn reject_all(&self, rejects: &Rejects) {
        for (reason, lines) in rejects.iter() {
            self.rejected.fetch_add(lines, Ordering::Relaxed);
            self.rejects[reason as usize].fetch_add(lines, Ordering::Relaxed);
        }
    }
}

struct Board<D> {
    /// Results that wait for their turn.
    done: BTreeMap<u64, D>,
    /// The chunk whose result is next.
    next: u64,
    /// Chunks taken whose results are not committed.
    in_flight: usize,
    /// Chunks that are on a GPU.
    away: HashMap<u64, Chunk>,
    /// Chunks that are back, with their rows.
    scanned: BTreeMap<u64, (Chunk, Rows)>,
    /// Chunks for the cores: a GPU had no room for them, or lost them.
    left: BTreeMap<u64, Chunk>,
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
    session: Session<'a>,
    /// Bytes of a chunk.
    chunk_size: usize,
    /// The most chunks in flight, but for those on GPUs.
    window: usize,
}

/// A worker's own.
struct Own<L> {
    local: L,
    rows: Rows,
}

/// Runs `work` over all chunks with so many workers; gives what the workers kept.
///
/// # Errors
/// The first failure of any stage, or that the run was asked to stop.
pub fn run<W: Work>(work: &W, cutter: Cutter, engine: &Engine, threads: usize, stop: &Stop) -> Result<Vec<W::Local>> {
    let board = Board {
        done: BTreeMap::new(),
        next: 0,
        in_flight: 0,
        away: HashMap::new(),
        scanned: BTreeMap::new(),
        left: BTreeMap::new(),
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
        session: engine.session(work.job()),
        chunk_size: cutter.size(),
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
enum Task<'s, D> {
    Commit(D),
    Process(Chunk, Rows),
    Scan(Chunk),
    Fill(Batch<'s>),
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
        let mut own = Own { local: self.work.local(), rows: Rows::default() };
        while !self.lock().finished {
            if let Err(error) = self.stop.check().and_then(|()| self.step(&mut own)) {
                let mut board = self.lock();
                board.error.get_or_insert(error);
                board.finished = true;
                self.changed.notify_all();
            }
        }
        own.local
    }

    /// Does one thing, or waits.
    fn step(&self, own: &mut Own<W::Local>) -> Result<()> {
        self.session.prepare()?;
        let (events, is_away) = {
            let mut board = self.lock();
            if let Some(done) = board.take_commit() {
                drop(board);
                return self.perform(Task::Commit(done), own);
            }
            board.busy += 1;
            (board.events, !board.away.is_empty())
        };
        let helped = self.work.help().and_then(|helped| Ok(if is_away { self.poll()? || helped } else { helped }));
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
        match self.take_other(&mut board) {
            Some(task) => {
                board.busy += 1;
                drop(board);
                self.perform(task, own)
            }
            None => {
                self.wait(board);
                Ok(())
            }
        }
    }

    fn wait(&self, mut board: MutexGuard<'_, Board<W::Done>>) {
        if board.closed && board.busy == 0 {
            board.finished = true;
            self.changed.notify_all();
        } else if !board.finished {
            let glance = if board.away.is_empty() { GLANCE } else { GPU_GLANCE };
            drop(self.changed.wait_timeout(board, glance).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// What there is to do but for committing and helping.
    fn take_other(&self, board: &mut Board<W::Done>) -> Option<Task<'_, W::Done>> {
        if !self.work.is_behind() {
            if let Some((_, (chunk, rows))) = board.scanned.pop_first() {
                return Some(Task::Process(chunk, rows));
            }
            if let Some((_, chunk)) = board.left.pop_first() {
                return Some(Task::Scan(chunk));
            }
            if let Some(task) = self.take_new(board) {
                return Some(task);
            }
        }
        let is_done = board.exhausted && board.in_flight == 0;
        (is_done && !board.closed && !board.committing && board.busy == 0).then_some(Task::Close)
    }

    /// New chunks, for a GPU if one has room.
    fn take_new(&self, board: &mut Board<W::Done>) -> Option<Task<'_, W::Done>> {
        if board.exhausted || board.cutting {
            return None;
        }
        if board.in_flight < self.window + self.session.batched_chunks(self.chunk_size)
            && let Some(batch) = self.session.batch()
        {
            return Some(Task::Fill(batch));
        }
        let at_home = board.in_flight - board.away.len();
        if at_home >= self.window || !self.session.cores_scan() {
            return None;
        }
        board.cutting = true;
        Some(Task::Cut)
    }

    fn perform(&self, task: Task<W::Done>, own: &mut Own<W::Local>) -> Result<()> {
        let outcome = match task {
            Task::Commit(done) => self.work.commit(done).map(|()| Outcome::Committed),
            Task::Close => {
                self.work.close();
                Ok(Outcome::Closed)
            }
            Task::Process(chunk, rows) => self.process(chunk, &rows, &mut own.local),
            Task::Scan(chunk) => self.scan(chunk, own),
            Task::Fill(batch) => self.fill(batch).map(|()| Outcome::Filled),
            Task::Cut => match self.cut()? {
                Some(chunk) => self.scan(chunk, own),
                None => Ok(Outcome::Exhausted),
            },
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
            Outcome::Exhausted | Outcome::Filled => {}
            Outcome::Processed(sequence, done) => drop(board.done.insert(sequence, done)),
        }
        self.changed.notify_all();
        Ok(())
    }

    /// The next chunk.
    fn cut(&self) -> Result<Option<Chunk>> {
        let chunk = self.cutter.lock().unwrap_or_else(PoisonError::into_inner).next_chunk()?;
        let mut board = self.lock();
        board.cutting = false;
        board.exhausted |= chunk.is_none();
        board.in_flight += usize::from(chunk.is_some());
        board.events += 1;
        self.changed.notify_all();
        Ok(chunk)
    }

    fn scan(&self, chunk: Chunk, own: &mut Own<W::Local>) -> Result<Outcome<W::Done>> {
        chunk.populate();
        if chunk.is_too_long_for_rows() {
            own.rows.clear(self.work.job().schema.tree().sources());
        } else {
            self.session.scan(&chunk, &mut own.rows)?;
        }
        self.process(chunk, &own.rows, &mut own.local)
    }

    fn process(&self, chunk: Chunk, rows: &Rows, local: &mut W::Local) -> Result<Outcome<W::Done>> {
        let sequence = chunk.sequence;
        Ok(Outcome::Processed(sequence, self.work.process(local, chunk, rows)?))
    }

    /// Fills a GPU's batch with chunks, and sends it off.
    fn fill(&self, mut batch: Batch) -> Result<()> {
        while batch.has_room(self.chunk_size) && !self.work.is_behind() {
            let Some(chunk) = self.cut()? else { break };
            chunk.populate();
            let fits = batch.add(chunk.sequence, &chunk);
            let mut board = self.lock();
            if fits {
                board.away.insert(chunk.sequence, chunk);
            } else {
                board.left.insert(chunk.sequence, chunk);
                break;
            }
        }
        batch.launch().or_else(|lost| self.give_up(lost))
    }

    /// Takes in what GPUs are done with; whether there was anything.
    fn poll(&self) -> Result<bool> {
        let polled = self.session.poll();
        let is_any = !polled.rows.is_empty() || !polled.left.is_empty() || !polled.lost.is_empty();
        {
            let mut board = self.lock();
            for (ticket, rows) in polled.rows {
                if let Some(chunk) = board.away.remove(&ticket) {
                    self.session.note_gpu_bytes(chunk.len());
                    if let Some(progress) = self.work.progress() {
                        progress.gpu_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    }
                    board.scanned.insert(ticket, (chunk, rows));
                }
            }
            board.leave(&polled.left);
        }
        polled.lost.into_iter().try_for_each(|lost| self.give_up(lost))?;
        Ok(is_any)
    }

    /// A GPU has failed: the cores scan what it had.
    fn give_up(&self, lost: Lost) -> Result<()> {
        if self.session.needs_gpus() {
            return Err(lost.error.into());
        }
        if lost.is_news {
            tracing::warn!("{}; the run goes on without it", lost.error);
        }
        let mut board = self.lock();
        board.leave(&lost.tickets);
        board.events += 1;
        self.changed.notify_all();
        Ok(())
    }
}

enum Outcome<D> {
    Committed,
    Closed,
    Exhausted,
    Filled,
    Processed(u64, D),
}

impl<D> Board<D> {
    /// Leaves chunks that were on a GPU to the cores.
    fn leave(&mut self, tickets: &[u64]) {
        for ticket in tickets {
            if let Some(chunk) = self.away.remove(ticket) {
                self.left.insert(*ticket, chunk);
            }
        }
    }

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
}
