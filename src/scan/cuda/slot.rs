//! A slot: memory on both sides for one batch of chunks, and what is on its way there and back.
//!
//! A slot goes round: chunks are copied into its pinned memory; the device copies them over, scans them,
//! and says how many lines there are; so many rows are copied back; the host takes them and the slot is
//! free again. Each step is queued on the slot's own stream, so that the copies of one slot and the
//! kernels of another overlap, and nobody ever waits for the whole device.

use super::device::LONGEST_LINE;
use super::kernels::{DeviceChunk, Kernels, tiles};
use super::layout::{ChunkFacts, DEFERRED, PADDING, ROW_WORDS, SPAN_WORDS, TILE};
use crate::domain::reason::Reason;
use crate::domain::row::{Row, Rows, Span};
use crate::scan::{ScanJob, Scanner};
use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DriverError, PinnedHostSlice, sys};
use std::sync::Arc;

/// Bytes of a line, on average, below which there is no room for a batch's rows: such short lines are
/// faster on the CPU.
const SHORT_LINE: usize = 128;
/// Spans for which there is room, for each line.
const SPANS_PER_LINE: usize = 8;

/// The highest code that a verdict has.
const MOST_CODE: u8 = 1 + Reason::ALL.len() as u8;

/// Pinned host memory.
///
/// The library's own type waits for copies that it knows of; here it is the slot that knows. Its memory is
/// only touched while no copy is under way: while the slot is filled, and after its event has come.
struct Pinned<T> {
    start: *mut T,
    memory: PinnedHostSlice<T>,
}

// SAFETY: the memory belongs to this value alone, wherever it is.
unsafe impl<T: Send> Send for Pinned<T> {}

impl<T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits> Pinned<T> {
    fn new(context: &Arc<CudaContext>, len: usize) -> Result<Pinned<T>, DriverError> {
        // Not write-combined: reading that is slow, and the CPU may have to scan what is in a slot.
        // SAFETY: integers of any bits are valid; and nothing is read before it was written.
        let mut memory = unsafe { context.alloc_pinned_with_flags(len, sys::CU_MEMHOSTALLOC_PORTABLE) }?;
        Ok(Pinned { start: memory.as_mut_ptr()?, memory })
    }

    fn slice(&self, len: usize) -> &[T] {
        assert!(len <= self.memory.len(), "within the memory");
        // SAFETY: within the memory; no copy is under way, see `Pinned`.
        unsafe { std::slice::from_raw_parts(self.start, len) }
    }

    fn slice_mut(&mut self, len: usize) -> &mut [T] {
        assert!(len <= self.memory.len(), "within the memory");
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start, len) }
    }
}

/// One of the chunks in a slot.
struct Piece {
    ticket: u64,
    start: usize,
    len: usize,
}

/// How far a slot has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The kernels are at work; the facts come next.
    Scanning,
    /// So many rows come back.
    Fetching { lines: usize },
}

/// See the module.
pub struct Slot {
    stream: Arc<CudaStream>,
    /// Comes when what was queued last is done.
    event: CudaEvent,
    bytes: Pinned<u8>,
    facts: Pinned<u32>,
    rows: Pinned<u64>,
    spans: Pinned<u64>,
    device: DeviceChunk,
    /// Bytes of chunks that fit.
    capacity: usize,
    pieces: Vec<Piece>,
    filled: usize,
    phase: Phase,
    /// Lines for which there is room, in the job at hand.
    line_capacity: usize,
}

impl Slot {
    /// A slot for so many bytes of chunks.
    pub fn new(context: &Arc<CudaContext>, capacity: usize) -> Result<Slot, DriverError> {
        let stream = context.new_stream()?;
        let lines = capacity / SHORT_LINE + 1;
        let tiles = tiles(capacity);
        let (rows, spans) = (lines * ROW_WORDS, lines * SPANS_PER_LINE * SPAN_WORDS);
        // SAFETY: each kernel writes what the next ones read, and the bytes are copied over before.
        let device = unsafe {
            DeviceChunk {
                bytes: stream.alloc(capacity + PADDING)?,
                marks: stream.alloc(tiles * TILE / 64)?,
                tile_lines: stream.alloc(tiles)?,
                ends: stream.alloc(lines)?,
                facts: stream.alloc(size_of::<ChunkFacts>() / 4)?,
                rows: stream.alloc(rows)?,
                spans: stream.alloc(spans)?,
            }
        };
        Ok(Slot {
            event: context.new_event(Some(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING))?,
            bytes: Pinned::new(context, capacity + PADDING)?,
            facts: Pinned::new(context, size_of::<ChunkFacts>() / 4)?,
            rows: Pinned::new(context, rows)?,
            spans: Pinned::new(context, spans)?,
            stream,
            device,
            capacity,
            pieces: Vec::new(),
            filled: 0,
            phase: Phase::Scanning,
            line_capacity: 0,
        })
    }

    /// Copies a chunk in, if there is room. `ticket` comes back with its rows.
    pub fn add(&mut self, ticket: u64, chunk: &[u8]) -> bool {
        // The last chunk of a shard may lack its line feed; here another chunk follows.
        let feed = usize::from(chunk.last().is_some_and(|last| *last != b'\n'));
        let end = self.filled + chunk.len() + feed;
        if end > self.capacity {
            return false;
        }
        let place = &mut self.bytes.slice_mut(end)[self.filled..];
        place[..chunk.len()].copy_from_slice(chunk);
        place[chunk.len()..].fill(b'\n');
        self.pieces.push(Piece { ticket, start: self.filled, len: chunk.len() });
        self.filled = end;
        true
    }

    /// Bytes that it still has room for.
    pub fn room(&self) -> usize {
        self.capacity - self.filled
    }

    /// Whether no chunk was added.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The tickets of the chunks in it.
    pub fn tickets(&self) -> impl Iterator<Item = u64> {
        self.pieces.iter().map(|piece| piece.ticket)
    }

    /// Forgets the chunks.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.filled = 0;
    }

    /// Sends the chunks to the device and has them scanned.
    pub fn launch(&mut self, kernels: &Kernels, job: &CudaSlice<u8>, sources: usize) -> Result<(), DriverError> {
        let len = self.filled;
        self.bytes.slice_mut(len + PADDING)[len..].fill(b'\n');
        self.line_capacity = (self.capacity / SHORT_LINE + 1) * SPANS_PER_LINE / sources.max(SPANS_PER_LINE);
        self.phase = Phase::Scanning;
        let Slot { stream, device, bytes, facts, .. } = self;
        stream.memcpy_htod(bytes.slice(len + PADDING), &mut device.bytes.slice_mut(..len + PADDING))?;
        // SAFETY: `add` keeps to the capacity, and everything has the size for that; the lines and their
        // spans were just counted. Until the event comes, nobody touches the slot.
        unsafe { kernels.launch(stream, device, len, self.line_capacity as u32, job) }?;
        let words = size_of::<ChunkFacts>() / 4;
        stream.memcpy_dtoh(&device.facts, facts.slice_mut(words))?;
        self.event.record(stream)
    }

    /// Goes on if the device is done with what was queued; `true` once the rows are here.
    pub fn advance(&mut self, sources: usize) -> Result<bool, DriverError> {
        if !self.event.try_is_complete()? {
            return Ok(false);
        }
        if let Phase::Fetching { .. } = self.phase {
            return Ok(true);
        }
        let lines = self.facts().lines as usize;
        self.phase = Phase::Fetching { lines };
        if lines > self.line_capacity {
            return Ok(true); // nothing to fetch
        }
        let (rows, spans) = (lines * ROW_WORDS, lines * sources * SPAN_WORDS);
        let Slot { stream, device, rows: host_rows, spans: host_spans, .. } = self;
        if lines > 0 {
            stream.memcpy_dtoh(&device.rows.slice(..rows), host_rows.slice_mut(rows))?;
            stream.memcpy_dtoh(&device.spans.slice(..spans), host_spans.slice_mut(spans))?;
        }
        self.event.record(stream)?;
        Ok(false)
    }

    /// Whether what was queued is done.
    pub fn is_done(&self) -> Result<bool, DriverError> {
        self.event.try_is_complete()
    }

    fn facts(&self) -> ChunkFacts {
        bytemuck::cast_slice(self.facts.slice(size_of::<ChunkFacts>() / 4))[0]
    }

    /// The rows of each chunk, with its ticket; `None` if there are more lines than room. Lines that the device left
    /// out are scanned by `cpu`.
    ///
    /// # Errors
    /// If the rows cannot be: a device that is broken must not lead the host astray.
    pub fn take(&self, cpu: &dyn Scanner, job: &ScanJob) -> Result<Option<Vec<(u64, Rows)>>, Impossible> {
        let sources = job.schema.tree().sources();
        let Phase::Fetching { lines } = self.phase else { unreachable!("the rows are here") };
        let bytes = self.bytes.slice(self.filled);
        let chunk = |piece: &Piece| &bytes[piece.start..piece.start + piece.len];
        if lines > self.line_capacity {
            return Ok(None);
        }
        let rows: &[Row] = bytemuck::cast_slice(self.rows.slice(lines * ROW_WORDS));
        let spans: &[Span] = bytemuck::cast_slice(self.spans.slice(lines * sources * SPAN_WORDS));
        self.check(rows, spans, job)?;
        let mut first = 0;
        let mut taken = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            let end = piece.start + piece.len;
            let count = rows[first..].partition_point(|row| (row.start as usize) < end);
            let mut own = Rows {
                rows: rows[first..first + count].to_vec(),
                spans: spans[first * sources..(first + count) * sources].to_vec(),
                sources,
            };
            for row in &mut own.rows {
                row.start -= piece.start as u32;
            }
            scan_deferred(&mut own, chunk(piece), cpu, job);
            taken.push((piece.ticket, own));
            first += count;
        }
        Ok(Some(taken))
    }

    /// Checks everything in rows by which the host goes: lines that follow one another and end where lines and chunks
    /// do, known codes and fields, spans within their lines.
    fn check(&self, rows: &[Row], spans: &[Span], job: &ScanJob) -> Result<(), Impossible> {
        let bytes = self.bytes.slice(self.filled);
        let fields = job.schema.fields().len();
        let mut pieces = self.pieces.iter().map(|piece| piece.start + piece.len).peekable();
        let mut next = 0;
        for (row, spans) in rows.iter().zip(spans.chunks_exact(job.schema.tree().sources())) {
            let end = next + row.len as usize;
            let is_known = row.code <= MOST_CODE || (row.code == DEFERRED && row.len > LONGEST_LINE);
            let is_within = |span: &Span| u64::from(span.start) + u64::from(span.len) <= row.len.into();
            let is_line = row.start as usize == next && bytes.get(end) == Some(&b'\n');
            // The end of a chunk is that of a line, with its line feed or (at a shard's end) without.
            let crosses = pieces.next_if(|piece| *piece <= end + 1).is_some_and(|piece| piece < end);
            if !is_known || !is_line || crosses || usize::from(row.field) >= fields || !spans.iter().all(is_within) {
                return Err(Impossible);
            }
            next = end + 1;
        }
        if next == self.filled { Ok(()) } else { Err(Impossible) }
    }
}

/// The device gave rows that no chunk has.
#[derive(Debug, thiserror::Error)]
#[error("it gave rows that cannot be")]
pub struct Impossible;

fn scanned(cpu: &dyn Scanner, chunk: &[u8], job: &ScanJob) -> Rows {
    let mut rows = Rows::default();
    cpu.scan(chunk, job, &mut rows).expect("CPU scanners do not fail");
    rows
}

/// Fills in the rows that the device left out.
fn scan_deferred(rows: &mut Rows, chunk: &[u8], cpu: &dyn Scanner, job: &ScanJob) {
    let sources = rows.sources;
    for (index, row) in rows.rows.iter_mut().enumerate().filter(|(_, row)| row.code == DEFERRED) {
        let alone = scanned(cpu, row.line(chunk), job);
        *row = Row { start: row.start, ..alone.rows[0] };
        rows.spans[index * sources..(index + 1) * sources].copy_from_slice(&alone.spans);
    }
}
