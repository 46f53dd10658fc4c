//! Cutting shards into chunks of whole lines.

use super::discover::{Encoding, Shard};
use super::mapped::Mapping;
use super::share::{self, Piece};
use super::streamed::Stream;
use crate::error::Result;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// The mark that some programs put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Whole lines of one shard; the last line of a shard may lack its line feed.
pub struct Chunk {
    /// Place among all chunks of the run, from 0.
    pub sequence: u64,
    /// Index of the shard.
    pub shard: usize,
    /// Bytes (unpacked) of the shard before this chunk.
    pub offset: u64,
    bytes: ChunkBytes,
}

enum ChunkBytes {
    Mapped(Arc<Mapping>, Range<usize>),
    Owned(Vec<u8>),
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            ChunkBytes::Mapped(mapping, range) => &mapping.bytes()[range.clone()],
            ChunkBytes::Owned(bytes) => bytes,
        }
    }
}

impl Chunk {
    /// Brings the bytes into memory.
    pub fn populate(&self) {
        if let ChunkBytes::Mapped(mapping, range) = &self.bytes {
            mapping.populate(range.start, range.len());
        }
    }

    /// Whether the chunk is one line that has more bytes than a row can count. (Chunks of several
    /// lines are far smaller: see [`Cutter::new`].)
    pub fn is_too_long_for_rows(&self) -> bool {
        u32::try_from(self.len()).is_err()
    }

    /// To be called when the bytes have been used: fails if they may have changed meanwhile.
    ///
    /// # Errors
    /// If the shard is no longer what it was when it was opened.
    pub fn check(&self) -> Result<()> {
        match &self.bytes {
            ChunkBytes::Mapped(mapping, _) => mapping.check(),
            ChunkBytes::Owned(_) => Ok(()),
        }
    }
}

/// Gives out the chunks of the shards, or of pieces of them, one after the other.
pub struct Cutter {
    shards: Arc<[Shard]>,
    pieces: std::vec::IntoIter<Piece>,
    size: usize,
    sequence: u64,
    open: Option<Open>,
}

/// The shard that is being cut.
struct Open {
    shard: usize,
    /// Unpacked bytes that were given out, or lie before the piece.
    offset: u64,
    source: Source,
}

enum Source {
    /// With the end of the piece.
    Mapped(Arc<Mapping>, usize),
    Streamed(Stream),
}

impl Cutter {
    /// Cuts shards into chunks of at most `size` bytes, or half as much again from a compressed
    /// shard; more only for a line that is longer. `size` is to be at most 1 GiB.
    pub fn new(shards: Arc<[Shard]>, size: usize) -> Cutter {
        let pieces = share::whole(&shards);
        Cutter::of_pieces(shards, pieces, size)
    }

    /// The same for pieces of the shards, in order.
    pub fn of_pieces(shards: Arc<[Shard]>, pieces: Vec<Piece>, size: usize) -> Cutter {
        Cutter { shards, pieces: pieces.into_iter(), size: size.max(1), sequence: 0, open: None }
    }

    /// Bytes of a chunk: see [`Cutter::new`].
    pub fn size(&self) -> usize {
        self.size
    }

    /// The next chunk, or `None` after the last. Chunks are never empty.
    ///
    /// # Errors
    /// If a shard cannot be read.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(piece) = self.pieces.next() else { return Ok(None) };
                self.open = Some(Open::new(&self.shards[piece.shard], &piece)?);
                continue;
            };
            match open.next_bytes(self.size)? {
                Some((offset, bytes)) => {
                    let sequence = self.sequence;
                    self.sequence += 1;
                    return Ok(Some(Chunk { sequence, shard: open.shard, offset, bytes }));
                }
                None => self.open = None,
            }
        }
    }
}

impl Open {
    fn new(shard: &Shard, piece: &Piece) -> Result<Open> {
        let (source, offset) = match shard.encoding {
            Encoding::Plain => {
                let mapping = Mapping::open(shard)?;
                let bytes = mapping.bytes();
                let [start, end] = [piece.range.start, piece.range.end].map(|at| share::line_start(bytes, at));
                let has_mark = start == 0 && bytes.starts_with(BYTE_ORDER_MARK);
                let start = if has_mark { BYTE_ORDER_MARK.len() } else { start };
                // A mark may be all that the piece has.
                (Source::Mapped(Arc::new(mapping), end.max(start)), start as u64)
            }
            Encoding::Gzip | Encoding::Zstd => (Source::Streamed(Stream::open(shard)?), 0),
        };
        Ok(Open { shard: piece.shard, offset, source })
    }

    /// The next chunk's offset and bytes.
    fn next_bytes(&mut self, size: usize) -> Result<Option<(u64, ChunkBytes)>> {
        let (bytes, len) = match &mut self.source {
            Source::Mapped(mapping, end) => {
                let start = self.offset as usize;
                let end = start + cut(&mapping.bytes()[start..*end], size);
                (ChunkBytes::Mapped(Arc::clone(mapping), start..end), end - start)
            }
            Source::Streamed(stream) => {
                let mut bytes = stream.next_lines(size)?;
                if self.offset == 0 && bytes.starts_with(BYTE_ORDER_MARK) {
                    bytes.drain(..BYTE_ORDER_MARK.len());
                    self.offset = BYTE_ORDER_MARK.len() as u64;
                }
                let len = bytes.len();
                (ChunkBytes::Owned(bytes), len)
            }
        };
        let offset = self.offset;
        self.offset += len as u64;
        Ok((len > 0).then_some((offset, bytes)))
    }
}

/// How many of the bytes make the next chunk: whole lines, at most `size` bytes of them, or one
/// line that is longer.
fn cut(bytes: &[u8], size: usize) -> usize {
    if bytes.len() <= size {
        return bytes.len();
    }
    match memchr::memrchr(b'\n', &bytes[..size]) {
        Some(last) => last + 1,
        None => memchr::memchr(b'\n', &bytes[size..]).map_or(bytes.len(), |more| size + more + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn cuts_at_line_ends() {
        for (bytes, size, len) in [
            ("", 4, 0),
            ("ab", 4, 2),
            ("a\nb\nc", 4, 4),
            ("a\nbcdef", 4, 2),
            ("abcdef\ng", 4, 7),
            ("abcd\nef", 4, 5),
            ("abc\ndef", 4, 4),
            ("abcdef", 4, 6),
            ("\n\n\n", 1, 1),
        ] {
            assert_eq!(cut(bytes.as_bytes(), size), len, "{bytes:?}");
        }
    }
}
