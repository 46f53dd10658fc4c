//! The split files, written while their SHA-256 is computed.
//!
//! A file takes its blocks in order, and so does its hash; but hashing one block, writing another and
//! compressing a third are jobs of their own, so that all workers can be busy with one file. Each file
//! has two lanes, hash and write; a lane does one job at a time.
//!
//! What is in a file depends on the lines alone: compression works on blocks of a fixed number of
//! bytes, cut without regard to chunks.

use crate::domain::manifest::hex;
use crate::domain::part::Block as ProvedBlock;
use crate::error::{Context, Result};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of lines that are compressed together, as a frame of its own.
const COMPRESSION_BLOCK: usize = 1 << 20;
/// Bytes of lines from which on a block that is proved by itself ends.
const PROVED_BLOCK: u64 = 4 << 20;

/// How the contents of split files are proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By the SHA-256 of the file.
    Whole,
    /// By that of each of its blocks, which are whole lines: a part's, which are read again to be put together with
    /// others. (Files that are packed are proved as a whole.)
    Blocks,
}

/// How the split files are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Zstandard, level 3.
    Zstd,
    /// gzip, level 6.
    Gzip,
}

impl Compression {
    /// What follows `.jsonl` in a file's name.
    pub fn suffix(compression: Option<Compression>) -> &'static str {
        match compression {
            None => "",
            Some(Compression::Zstd) => ".zst",
            Some(Compression::Gzip) => ".gz",
        }
    }

    /// A block as a frame (or member) of its own.
    fn pack(self, block: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Compression::Zstd => zstd::bulk::compress(block, 3),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
                encoder.write_all(block)?;
                encoder.finish()
            }
        }
    }
}

/// Lines for one split, as a worker put them together.
#[derive(Default)]
pub struct Lines {
    /// The lines, each with its line feed.
    pub bytes: Vec<u8>,
    /// Where each line ends in `bytes`.
    pub ends: Vec<usize>,
}

/// A finished file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Its name in the output folder.
    pub name: String,
    /// Index of its split.
    pub split: usize,
    /// Bytes on disk.
    pub bytes: u64,
    /// Lines.
    pub documents: u64,
    /// SHA-256 of the file, in hexadecimal; of what lies behind its last block, where it is proved by blocks.
    pub sha256: String,
    /// The file's blocks, where it is proved by them.
    pub blocks: Vec<ProvedBlock>,
}

/// All split files of an export.
pub struct Outputs {
    folder: PathBuf,
    compression: Option<Compression>,
    /// Bytes of lines after which a split goes on in another file.
    shard_size: Option<u64>,
    proof: Proof,
    state: Mutex<State>,
}

/// Stands for the file of a split that has none yet.
const NO_FILE: usize = usize::MAX;

struct State {
    files: Vec<OutputFile>,
    /// For each split, the index of the file that takes its lines.
    current: Vec<usize>,
    /// Whether blocks are compressed.
    pack: bool,
    /// Files with blocks that are not done.
    active: BTreeSet<usize>,
    /// Bytes in blocks that are not done.
    queued: usize,
    spare: Vec<Vec<u8>>,
}

struct OutputFile {
    split: usize,
    path: PathBuf,
    /// Whether no more lines will come.
    is_full: bool,
    documents: u64,
    /// Bytes of lines.
    line_bytes: u64,
    /// Lines that do not fill a compression block yet.
    pending: Vec<u8>,
    blocks: VecDeque<Block>,
    /// How many blocks were taken off the queue's front.
    gone: usize,
    hash: Lane<Prover>,
    write: Lane<Writer>,
}

/// A place in the queue of blocks, with what works on it; `None` while a worker has it.
struct Lane<T> {
    next: usize,
    tool: Option<T>,
}

/// Hashes a file as it grows.
struct Prover {
    proof: Proof,
    hash: Sha256,
    /// Bytes since the last block's end.
    bytes: u64,
    blocks: Vec<ProvedBlock>,
}

impl Prover {
    fn new(proof: Proof) -> Prover {
        Prover { proof, hash: Sha256::new(), bytes: 0, blocks: Vec::new() }
    }

    /// Adds bytes; without compression, whole lines.
    fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        if self.proof == Proof::Blocks && self.bytes >= PROVED_BLOCK {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        let sha256 = hex(&std::mem::take(&mut self.hash).finalize());
        self.blocks.push(ProvedBlock { bytes: std::mem::take(&mut self.bytes), sha256 });
    }

    /// The hash of what is in no block, and the blocks.
    fn finish(mut self) -> (String, Vec<ProvedBlock>) {
        if self.proof == Proof::Blocks && self.bytes > 0 {
            self.end_block();
        }
        (hex(&self.hash.finalize()), self.blocks)
    }
}

struct Writer {
    /// Closed as soon as all is written: there may be more files than may be open.
    file: Option<File>,
    written: u64,
}

struct Block {
    state: BlockState,
    /// Bytes that count as queued.
    size: usize,
    hashed: bool,
    written: bool,
}

enum BlockState {
    /// To be compressed.
    Raw(Vec<u8>),
    /// Being compressed.
    Taken,
    /// To be hashed and written.
    Ready(Part),
}

/// A part of a buffer that may serve several blocks.
#[derive(Clone)]
struct Part {
    buffer: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Part {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

/// Something that a worker can do for a file now.
pub struct Job {
    file: usize,
    block: usize,
    work: Work,
}

enum Work {
    Pack(Vec<u8>),
    Hash(Prover, Part),
    Write(Writer, Part),
}

impl Outputs {
    /// Files for `splits` splits in `folder`; each split has at least one, if need be an empty one.
    ///
    /// # Errors
    /// If a file cannot be made.
    pub fn create(
        folder: &Path,
        splits: usize,
        compression: Option<Compression>,
        shard_size: Option<u64>,
        proof: Proof,
    ) -> Result<Outputs> {
        let current = vec![NO_FILE; splits];
        let pack = compression.is_some();
        let state = State { files: Vec::new(), current, pack, active: BTreeSet::new(), queued: 0, spare: Vec::new() };
        let outputs = Outputs { folder: folder.into(), compression, shard_size, proof, state: Mutex::new(state) };
        {
            let mut state = outputs.lock();
            for split in 0..splits {
                outputs.next_file(&mut state, split)?;
            }
        }
        Ok(outputs)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A worker that panics ends the run; what the state is then does not matter.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that wait to be hashed and written.
    pub fn queued(&self) -> usize {
        self.lock().queued
    }

    /// An empty buffer, if possible one that was used before.
    pub fn buffer(&self) -> Vec<u8> {
        self.lock().spare.pop().unwrap_or_default()
    }

    /// Adds lines to a split's files. To be called in input order.
    ///
    /// # Errors
    /// If a further file cannot be made.
    pub fn append(&self, split: usize, lines: Lines) -> Result<()> {
        let bytes = Arc::new(lines.bytes);
        let (mut from, mut first) = (0, 0);
        let mut state = self.lock();
        while first < lines.ends.len() {
            let room = state.room(split, self.shard_size);
            let fitting = lines.ends[first..].partition_point(|end| *end - from <= room);
            // A line longer than a whole file gets one of its own.
            let take = if fitting == 0 && state.current_file(split).documents == 0 { 1 } else { fitting };
            if take == 0 {
                self.next_file(&mut state, split)?;
                continue;
            }
            let to = lines.ends[first + take - 1];
            state.push(split, &bytes, from..to, take as u64);
            (from, first) = (to, first + take);
        }
        state.reuse(bytes);
        Ok(())
    }

    fn next_file(&self, state: &mut State, split: usize) -> Result<()> {
        let path = self.folder.join(format!(".{split}-{}.part", state.files.len()));
        let file = File::create_new(&path).context(&path, "make the file")?;
        state.finish_pending(split);
        state.current[split] = state.files.len();
        state.files.push(OutputFile {
            split,
            path,
            is_full: false,
            documents: 0,
            line_bytes: 0,
            pending: Vec::new(),
            blocks: VecDeque::new(),
            gone: 0,
            hash: Lane { next: 0, tool: Some(Prover::new(self.proof)) },
            write: Lane { next: 0, tool: Some(Writer { file: Some(file), written: 0 }) },
        });
        Ok(())
    }

    /// No more lines will come: what is pending goes on its way.
    pub fn close(&self) {
        let mut state = self.lock();
        for split in 0..state.current.len() {
            state.finish_pending(split);
        }
    }

    /// The most urgent job there is, if any.
    pub fn pick(&self) -> Option<Job> {
        let mut state = self.lock();
        let State { files, active, .. } = &mut *state;
        active.iter().find_map(|&file| {
            let (block, work) = files[file].pick()?;
            Some(Job { file, block, work })
        })
    }

    /// Does a job.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn run(&self, job: Job) -> Result<()> {
        let Job { file, block, work } = job;
        match work {
            Work::Pack(raw) => {
                let compression = self.compression.expect("only then are blocks packed");
                let packed = compression.pack(&raw).context(&self.folder, "compress")?;
                let part = Part { range: 0..packed.len(), buffer: Arc::new(packed) };
                let mut state = self.lock();
                let at = block - state.files[file].gone;
                state.files[file].blocks[at].state = BlockState::Ready(part);
            }
            Work::Hash(mut hash, part) => {
                hash.update(part.bytes());
                let mut state = self.lock();
                state.files[file].hash.tool = Some(hash);
                state.done(file, block, part, |block| block.hashed = true);
            }
            Work::Write(mut writer, part) => {
                let result = writer.file.as_mut().map_or(Ok(()), |file| file.write_all(part.bytes()));
                let mut state = self.lock();
                result.context(&state.files[file].path, "write")?;
                writer.written += part.range.len() as u64;
                state.files[file].write.tool = Some(writer);
                state.done(file, block, part, |block| block.written = true);
            }
        }
        Ok(())
    }

    /// Gives the files their names, when all jobs are done, and says what they are.
    ///
    /// # Errors
    /// If a file cannot be renamed.
    ///
    /// # Panics
    /// If jobs are left.
    pub fn finish(self, split_names: &[String]) -> Result<Vec<FileRecord>> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let suffix = Compression::suffix(self.compression);
        let mut records = Vec::new();
        let mut all = state.files;
        for (split, split_name) in split_names.iter().enumerate() {
            let files: Vec<OutputFile> = all.extract_if(.., |file| file.split == split).collect();
            let number = files.len();
            for (index, file) in files.into_iter().enumerate() {
                let name = match self.shard_size {
                    None => format!("{split_name}.jsonl{suffix}"),
                    Some(_) => format!("{split_name}-{index:05}-of-{number:05}.jsonl{suffix}"),
                };
                let path = self.folder.join(&name);
                std::fs::rename(&file.path, &path).context(&path, "name the file")?;
                records.push(file.record(name));
            }
        }
        Ok(records)
    }
}

impl State {
    fn current_file(&mut self, split: usize) -> &mut OutputFile {
        let index = self.current[split];
        &mut self.files[index]
    }

    /// Bytes of lines that the split's file may still take.
    fn room(&mut self, split: usize, shard_size: Option<u64>) -> usize {
        let taken = self.current_file(split).line_bytes;
        shard_size.map_or(usize::MAX, |size| usize::try_from(size.saturating_sub(taken)).unwrap_or(usize::MAX))
    }

    fn push(&mut self, split: usize, bytes: &Arc<Vec<u8>>, range: Range<usize>, documents: u64) {
        let (pack, index) = (self.pack, self.current[split]);
        let file = self.current_file(split);
        file.documents += documents;
        file.line_bytes += range.len() as u64;
        let size = range.len();
        if !pack {
            file.blocks.push_back(Block::new(BlockState::Ready(Part { buffer: Arc::clone(bytes), range }), size));
            self.active.insert(index);
            self.queued += size;
            return;
        }
        // What is pending does not count: nothing can be done to make it less.
        let mut queued = 0;
        let mut rest = &bytes[range];
        while !rest.is_empty() {
            let fits = rest.len().min(COMPRESSION_BLOCK - file.pending.len());
            file.pending.extend_from_slice(&rest[..fits]);
            rest = &rest[fits..];
            if file.pending.len() == COMPRESSION_BLOCK {
                let block = std::mem::replace(&mut file.pending, Vec::with_capacity(COMPRESSION_BLOCK));
                file.blocks.push_back(Block::new(BlockState::Raw(block), COMPRESSION_BLOCK));
                queued += COMPRESSION_BLOCK;
            }
        }
        if queued > 0 {
            self.active.insert(index);
        }
        self.queued += queued;
    }

    fn finish_pending(&mut self, split: usize) {
        let (pack, index) = (self.pack, self.current[split]);
        let Some(file) = self.files.get_mut(index) else { return };
        // A packed file needs a frame even if there is nothing in it: no bytes are no packed data.
        let is_void = pack && file.gone == 0 && file.blocks.is_empty();
        if is_void || !file.pending.is_empty() {
            let block = std::mem::take(&mut file.pending);
            let size = block.len();
            file.blocks.push_back(Block::new(BlockState::Raw(block), size));
            self.active.insert(index);
            self.queued += size;
        }
        file.is_full = true;
        file.close_if_done();
    }

    /// Notes that a block was hashed or written, and lets go of those that are both.
    fn done(&mut self, file: usize, block: usize, part: Part, note: impl Fn(&mut Block)) {
        let output = &mut self.files[file];
        note(&mut output.blocks[block - output.gone]);
        while output.blocks.front().is_some_and(|block| block.hashed && block.written) {
            let block = output.blocks.pop_front();
            output.gone += 1;
            self.queued -= block.map_or(0, |block| block.size);
        }
        if output.blocks.is_empty() {
            self.active.remove(&file);
            output.close_if_done();
        }
        self.reuse(part.buffer);
    }

    /// Keeps a buffer for the next chunk, if nobody needs its contents any more.
    fn reuse(&mut self, bytes: Arc<Vec<u8>>) {
        const SPARE_BUFFERS: usize = 64;
        const SPARE_BYTES: usize = 4 << 20;
        if let Ok(mut buffer) = Arc::try_unwrap(bytes)
            && self.spare.len() < SPARE_BUFFERS
            && buffer.capacity() <= SPARE_BYTES
        {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

impl Block {
    fn new(state: BlockState, size: usize) -> Block {
        Block { state, size, hashed: false, written: false }
    }
}

impl OutputFile {
    fn pick(&mut self) -> Option<(usize, Work)> {
        if let Some(part) = self.ready(self.hash.next)
            && let Some(tool) = self.hash.tool.take()
        {
            self.hash.next += 1;
            return Some((self.hash.next - 1, Work::Hash(tool, part)));
        }
        if let Some(part) = self.ready(self.write.next)
            && let Some(tool) = self.write.tool.take()
        {
            self.write.next += 1;
            return Some((self.write.next - 1, Work::Write(tool, part)));
        }
        let at = self.blocks.iter().position(|block| matches!(block.state, BlockState::Raw(_)))?;
        match std::mem::replace(&mut self.blocks[at].state, BlockState::Taken) {
            BlockState::Raw(raw) => Some((self.gone + at, Work::Pack(raw))),
            _ => None,
        }
    }

    fn close_if_done(&mut self) {
        if self.is_full
            && self.blocks.is_empty()
            && let Some(writer) = &mut self.write.tool
        {
            writer.file = None;
        }
    }

    fn ready(&self, block: usize) -> Option<Part> {
        match &self.blocks.get(block - self.gone)?.state {
            BlockState::Ready(part) => Some(part.clone()),
            _ => None,
        }
    }

    fn record(self, name: String) -> FileRecord {
        assert!(self.blocks.is_empty() && self.pending.is_empty(), "all jobs are done");
        let (sha256, blocks) = self.hash.tool.expect("the lane is idle").finish();
        let written = self.write.tool.expect("the lane is idle").written;
        FileRecord { name, split: self.split, bytes: written, documents: self.documents, sha256, blocks }
    }
}
