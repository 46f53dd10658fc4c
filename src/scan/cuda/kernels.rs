//! The kernels of a device, and how a chunk goes through them.

use super::layout::{MARK_THREADS, ROW_THREADS, SUM_THREADS, TILE};
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// The compiled kernels: the driver makes machine code of them. `build.rs` proves that they are those of
/// `kernels/`.
const LINES: &str = include_str!("../../../kernels/lines.ptx");
const ROWS: &str = include_str!("../../../kernels/rows.ptx");

/// The kernels, loaded.
pub struct Kernels {
    mark_lines: CudaFunction,
    sum_tiles: CudaFunction,
    place_lines: CudaFunction,
    scan_rows: CudaFunction,
    /// Blocks of `scan_rows` that the device can hold at once.
    row_blocks: u32,
}

/// A chunk's place in device memory. Sizes are for the longest chunk that it can hold.
pub struct DeviceChunk {
    /// The bytes, with the padding.
    pub bytes: CudaSlice<u8>,
    /// A bit for each byte: line feeds.
    pub marks: CudaSlice<u64>,
    /// Lines of each tile.
    pub tile_lines: CudaSlice<u32>,
    /// Where lines end.
    pub ends: CudaSlice<u32>,
    /// One [`ChunkFacts`](super::layout::ChunkFacts).
    pub facts: CudaSlice<u32>,
    /// Rows, in 64-bit words.
    pub rows: CudaSlice<u64>,
    /// Spans, in 64-bit words.
    pub spans: CudaSlice<u64>,
}

/// Tiles of a chunk: one more than its bytes fill, as the last one looks behind the end.
pub fn tiles(len: usize) -> usize {
    len / TILE + 1
}

impl Kernels {
    /// Has the driver compile the kernels.
    pub fn load(context: &Arc<CudaContext>, multiprocessors: u32) -> Result<Kernels, DriverError> {
        let lines = context.load_module(Ptx::from_src(LINES))?;
        let rows = context.load_module(Ptx::from_src(ROWS))?;
        let scan_rows = rows.load_function("scan_rows")?;
        let blocks = scan_rows.occupancy_max_active_blocks_per_multiprocessor(ROW_THREADS, 0, None)?;
        Ok(Kernels {
            mark_lines: lines.load_function("mark_lines")?,
            sum_tiles: lines.load_function("sum_tiles")?,
            place_lines: lines.load_function("place_lines")?,
            scan_rows,
            row_blocks: (blocks * multiprocessors).max(1),
        })
    }

    /// Queues the scan of the first `len` of the chunk's bytes, with at most `capacity` lines.
    ///
    /// # Safety
    /// The chunk's memory must have room for `len` bytes and its padding, for [`tiles`], and for
    /// `capacity` ends, rows, and spans of the job; `job` must be what
    /// [`job_bytes`](super::layout::job_bytes) made; and nothing else may use the memory until the
    /// stream is done with it.
    pub unsafe fn launch(
        &self,
        stream: &Arc<CudaStream>,
        chunk: &mut DeviceChunk,
        len: usize,
        capacity: u32,
        job: &CudaSlice<u8>,
    ) -> Result<(), DriverError> {
        // SAFETY: as the caller's.
        unsafe { self.launch_with(stream, chunk, len, capacity, job, || Ok(())) }
    }

    /// As [`Kernels::launch`]; `between` is called behind each kernel.
    ///
    /// # Safety
    /// As there.
    pub unsafe fn launch_with(
        &self,
        stream: &Arc<CudaStream>,
        chunk: &mut DeviceChunk,
        len: usize,
        capacity: u32,
        job: &CudaSlice<u8>,
        mut between: impl FnMut() -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        stream.memset_zeros(&mut chunk.facts)?;
        let (bytes, tiles) = (len as u64, tiles(len) as u32);
        let grid = |blocks, threads| LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: 0,
        };
        let DeviceChunk { bytes: input, marks, tile_lines, ends, facts, rows, spans } = chunk;
        let mut mark = stream.launch_builder(&self.mark_lines);
        mark.arg(&*input).arg(&bytes).arg(&mut *marks).arg(&mut *tile_lines).arg(&mut *facts);
        // SAFETY: the arguments are those of the kernel, the caller vouches for the sizes.
        unsafe { mark.launch(grid(tiles, MARK_THREADS)) }?;
        between()?;
        let mut sum = stream.launch_builder(&self.sum_tiles);
        sum.arg(&*input).arg(&bytes).arg(&mut *tile_lines).arg(&tiles).arg(&mut *facts);
        // SAFETY: as above.
        unsafe { sum.launch(grid(1, SUM_THREADS)) }?;
        between()?;
        let mut place = stream.launch_builder(&self.place_lines);
        place.arg(&*input).arg(&bytes).arg(&*marks).arg(&*tile_lines).arg(&mut *ends).arg(&capacity).arg(&*facts);
        // SAFETY: as above.
        unsafe { place.launch(grid(tiles, MARK_THREADS)) }?;
        between()?;
        let mut scan = stream.launch_builder(&self.scan_rows);
        scan.arg(&*input).arg(&*ends).arg(&mut *facts).arg(&capacity).arg(job).arg(&mut *rows).arg(&mut *spans);
        // SAFETY: as above.
        unsafe { scan.launch(grid(self.row_blocks, ROW_THREADS)) }?;
        between()?;
        Ok(())
    }
}
