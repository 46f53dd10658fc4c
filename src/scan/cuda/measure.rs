//! How fast a device is, part by part: for the benchmark.

use super::device::Device;
use super::kernels::{DeviceChunk, tiles};
use super::layout::{ChunkFacts, PADDING, ROW_WORDS, SPAN_WORDS, TILE, job_bytes};
use crate::domain::row::{Row, Rows, Span};
use crate::scan::ScanJob;
use cudarc::driver::{CudaEvent, CudaStream, DriverError, sys};
use std::sync::Arc;

/// Rates of one device on one chunk, in bytes of the chunk a second, each the median of some runs.
pub struct Rates {
    /// Each step, and how fast it is.
    pub steps: Vec<(&'static str, f64)>,
    /// Bytes that come back for each byte of the chunk.
    pub returned: f64,
    /// The rows, to be compared.
    pub rows: Rows,
}

/// What is measured, in the order of the work.
const STEPS: [&str; 7] =
    ["pinned host to device", "mark_lines", "sum_tiles", "place_lines", "scan_rows", "rows back", "all kernels"];

/// Measures copies and kernels on a chunk of up to 1 GiB; lines of any length are left to the device.
///
/// # Errors
/// If the device fails, or has too little memory.
///
/// # Panics
/// If the schema is too large for the kernels.
pub fn measure(device: &Arc<Device>, chunk: &[u8], job: &ScanJob, runs: usize) -> Result<Rates, DriverError> {
    let context = device.context();
    let stream = context.new_stream()?;
    let job_bytes = job_bytes(job, u32::MAX).expect("a schema that fits the kernels");
    let device_job = stream.clone_htod(&job_bytes)?;
    let lines = memchr::memchr_iter(b'\n', chunk).count() + 1;
    let sources = job.schema.tree().sources();
    // SAFETY: integers of any bits are valid, and all is written before it is read.
    let mut host = unsafe { context.alloc_pinned_with_flags::<u8>(chunk.len() + PADDING, 0) }?;
    let (bytes, padding) = host.as_mut_slice()?.split_at_mut(chunk.len());
    bytes.copy_from_slice(chunk);
    padding.fill(b'\n');
    let words = lines * (ROW_WORDS + sources * SPAN_WORDS);
    // SAFETY: as above.
    let mut back = unsafe { context.alloc_pinned_with_flags::<u64>(words, 0) }?;
    let tiles = tiles(chunk.len());
    // SAFETY: each kernel writes what the next ones read, and the bytes are copied over before.
    let mut memory = unsafe {
        DeviceChunk {
            bytes: stream.alloc(chunk.len() + PADDING)?,
            marks: stream.alloc(tiles * TILE / 64)?,
            tile_lines: stream.alloc(tiles)?,
            ends: stream.alloc(lines)?,
            facts: stream.alloc(size_of::<ChunkFacts>() / 4)?,
            rows: stream.alloc(lines * ROW_WORDS)?,
            spans: stream.alloc(lines * sources * SPAN_WORDS)?,
        }
    };
    let mut times = vec![Vec::new(); STEPS.len()];
    // The first run warms up.
    for run in 0..=runs {
        let event = || context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let mut marks: Vec<CudaEvent> = (0..STEPS.len()).map(|_| event()).collect::<Result<_, _>>()?;
        let mut note = marks.iter_mut();
        let mut note = |stream: &Arc<CudaStream>| note.next().map_or(Ok(()), |event| event.record(stream));
        note(&stream)?;
        stream.memcpy_htod(&host, &mut memory.bytes)?;
        note(&stream)?;
        // SAFETY: everything was made for this chunk, and the stream is waited for below.
        unsafe {
            device.kernels().launch_with(&stream, &mut memory, chunk.len(), lines as u32, &device_job, || note(&stream))
        }?;
        let (rows, spans) = back.as_mut_slice()?.split_at_mut(lines * ROW_WORDS);
        stream.memcpy_dtoh(&memory.rows, rows)?;
        stream.memcpy_dtoh(&memory.spans, spans)?;
        note(&stream)?;
        stream.synchronize()?;
        let between = |a: usize, b: usize| marks[a].elapsed_ms(&marks[b]);
        for (step, times) in times.iter_mut().enumerate().take(6) {
            times.push(between(step, step + 1)?);
        }
        times[6].push(between(1, 5)?);
        if run == 0 {
            times.iter_mut().for_each(Vec::clear);
        }
    }
    let rate = |times: &mut Vec<f32>| {
        times.sort_by(f32::total_cmp);
        chunk.len() as f64 / (f64::from(times[times.len() / 2]) / 1e3)
    };
    let steps = STEPS.into_iter().zip(times.iter_mut().map(rate)).collect();
    let words = back.as_slice()?;
    let facts: Vec<u32> = stream.clone_dtoh(&memory.facts)?;
    stream.synchronize()?;
    let found = facts[0] as usize;
    let rows = Rows {
        rows: bytemuck::cast_slice::<u64, Row>(&words[..found * ROW_WORDS]).to_vec(),
        spans: bytemuck::cast_slice::<u64, Span>(&words[lines * ROW_WORDS..][..found * sources * SPAN_WORDS]).to_vec(),
        sources,
    };
    Ok(Rates { steps, returned: (found * (32 + 8 * sources)) as f64 / chunk.len() as f64, rows })
}
