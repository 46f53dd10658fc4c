//! A compressed shard, read as a stream.

use super::discover::{Encoding, Shard};
use super::stamp::Stamp;
use crate::error::{Context, Error, Result};
use flate2::bufread::GzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes read from the file at a time.
const READ: usize = 256 << 10;
/// The largest window that a Zstandard frame may ask for: 2 GiB, all that the format's tools make.
const ZSTD_WINDOW_LOG: u32 = 31;

/// The bytes of a file, unpacked.
///
/// # Errors
/// If it cannot be opened.
pub fn unpacked(path: &Path, encoding: Encoding) -> io::Result<Box<dyn Read + Send>> {
    let packed = BufReader::with_capacity(READ, File::open(path)?);
    Ok(match encoding {
        Encoding::Plain => Box::new(packed),
        Encoding::Gzip => Box::new(GzipMembers { member: Some(GzDecoder::new(packed)) }),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

/// The members of a gzip file, one after the other. Zeros behind the last one are padding, as tapes
/// and block stores leave it, and no damage; `gzip` takes them so, too.
struct GzipMembers {
    /// `None` at the end.
    member: Option<GzDecoder<BufReader<File>>>,
}

impl Read for GzipMembers {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(to)?;
            if read > 0 || to.is_empty() {
                return Ok(read);
            }
            self.member = self.member.take().map(GzDecoder::into_inner).map(next_member).transpose()?.flatten();
        }
        Ok(0)
    }
}

fn next_member(mut packed: BufReader<File>) -> io::Result<Option<GzDecoder<BufReader<File>>>> {
    loop {
        let bytes = packed.fill_buf()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        match (zeros, bytes.len()) {
            (_, 0) => return Ok(None),
            (zeros, len) if zeros < len => {
                packed.consume(zeros);
                return Ok(Some(GzDecoder::new(packed)));
            }
            (zeros, _) => packed.consume(zeros),
        }
    }
}

/// The unpacked bytes of a shard, one part after the other.
pub struct Stream {
    path: PathBuf,
    opened: Stamp,
    decoder: Box<dyn Read + Send>,
    /// Unpacked bytes behind the last line end that was given out.
    rest: Vec<u8>,
    ended: bool,
}

impl Stream {
    /// Opens a packed shard.
    pub fn open(shard: &Shard) -> Result<Stream> {
        let path = shard.path.clone();
        let opened = Stamp::of_shard(shard)?;
        let decoder = unpacked(&path, shard.encoding).context(&path, "open the shard")?;
        Ok(Stream { path, opened, decoder, rest: Vec::new(), ended: false })
    }

    /// The next whole lines, about `size` bytes of them, or one line if it is longer; empty at the end.
    pub fn next_lines(&mut self, size: usize) -> Result<Vec<u8>> {
        let mut part = std::mem::take(&mut self.rest);
        let mut searched = 0;
        loop {
            let wanted = size.saturating_sub(part.len()).max(size / 2).max(1);
            self.read(&mut part, wanted)?;
            if part.len() < size && !self.ended {
                continue;
            }
            // The last line end; but where a line is longer than a chunk, its own.
            let unsearched = &part[searched..];
            let end =
                if searched == 0 { memchr::memrchr(b'\n', unsearched) } else { memchr::memchr(b'\n', unsearched) };
            if let Some(end) = end {
                self.rest = part.split_off(searched + end + 1);
                return Ok(part);
            }
            if self.ended {
                return Ok(part);
            }
            searched = part.len();
        }
    }

    fn read(&mut self, part: &mut Vec<u8>, wanted: usize) -> Result<()> {
        part.reserve(wanted);
        let read = self.decoder.by_ref().take(wanted as u64).read_to_end(part);
        if !matches!(read, Ok(read) if read == wanted) {
            // At the end, or at what looks like damage: is it still the file that was opened?
            self.opened.check(&self.path)?;
        }
        self.ended = read.map_err(|e| self.broken(&e))? < wanted;
        Ok(())
    }

    fn broken(&self, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::environment(
                &self.path,
                "the compressed data end too early",
                "the file is cut off: copy it again",
            ),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::Other => Error::environment(
                &self.path,
                format!("the compressed data are damaged: {error}"),
                "copy the file again",
            ),
            _ => Error::io(&self.path, "read the shard", error),
        }
    }
}
