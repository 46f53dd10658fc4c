//! The SIMD scanner, one algorithm over several instruction sets.
//!
//! `walk` goes through a line's grammar once, `text` decodes, counts and hashes the text on the
//! way. Both are generic over `Simd`: questions about 64 bytes at a time, answered as 64-bit
//! masks. Each instruction set is a thin file, and a value of its type is the proof that the
//! processor has it.

mod escape;
mod portable;
mod text;
mod walk;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::{DeviceError, ScanJob, Scanner};
use crate::domain::row::Rows;

/// Bytes that are looked at together: one bit each in a mask.
const BLOCK: usize = 64;

/// What an instruction set has to answer about a block of 64 bytes. Bit i of a mask is byte i.
///
/// # Safety
/// Every method reads its block (`wide_whitespace` two bytes more, `unescape` so many blocks as it is told,
/// one more and two bytes), so the pointer must be valid for that; and it may only be called where the
/// instruction set is enabled.
trait Simd: Copy + Send + Sync + 'static {
    /// Bytes that end the plain run of a JSON string: `"`, `\` and everything below 0x20.
    unsafe fn string_stops(self, block: *const u8) -> u64;

    /// What counting characters and words needs to know of each byte.
    unsafe fn classes(self, block: *const u8) -> Classes;

    /// Where white space outside ASCII starts, for a block of UTF-8.
    unsafe fn wide_whitespace(self, block: *const u8) -> WideWhitespace;

    /// Copies a block.
    unsafe fn copy(self, from: *const u8, to: *mut u8);

    /// Decodes at least one and at most `blocks` blocks of a string (at least 1 is to be asked for), or what stands
    /// before something that needs more thought. One block more must be writable at `to`.
    ///
    /// What stands here does one block.
    ///
    /// Escapes of one letter are many in real text (a line feed every forty bytes or so), and finding
    /// the next stop by asking again from behind the escape would wait for a load, a comparison and
    /// a mask each time. So the block is asked once; the rest behind an escape is copied again to
    /// where it belongs, one byte earlier, while the mask at hand already says where the next stop is.
    #[inline(always)]
    unsafe fn unescape(self, block: *const u8, mut to: *mut u8, _blocks: usize) -> Unescaped {
        let start = to;
        // SAFETY: the block has 64 bytes, and so has `to`.
        let mut stops = unsafe {
            self.copy(block, to);
            self.string_stops(block)
        };
        // Bytes of the block that are decoded.
        let mut base = 0;
        while stops != 0 {
            let stop = stops.trailing_zeros() as usize;
            // SAFETY: what is decoded takes no more room than the block; a stop is one of its 64
            // bytes, and 66 more can be read.
            let (byte, letter) = unsafe {
                to = to.add(stop - base);
                (*block.add(stop), *block.add(stop + 1))
            };
            let simple = escape::SIMPLE[usize::from(letter)];
            if byte != b'\\' || simple == 0 {
                // SAFETY: both point into what was written.
                let written = unsafe { to.offset_from(start) } as usize;
                return Unescaped { read: stop, written, stop: Stop::at(byte, letter) };
            }
            base = stop + 2;
            // SAFETY: two blocks and two bytes can be read; `to` is within the first of two blocks.
            unsafe {
                *to = simple;
                to = to.add(1);
                self.copy(block.add(base), to);
            }
            // The escaped letter may be a quote or a backslash: that is no stop.
            stops = if base < BLOCK { stops & (u64::MAX << base) } else { 0 };
        }
        // An escape may reach one byte into the next block.
        // SAFETY: as above.
        let written = unsafe { to.offset_from(start) } as usize + BLOCK.saturating_sub(base);
        Unescaped { read: base.max(BLOCK), written, stop: Stop::None }
    }
}

/// What was decoded of a string.
#[derive(Clone, Copy)]
struct Unescaped {
    /// Bytes of the string.
    pub read: usize,
    /// Bytes that they stand for.
    pub written: usize,
    /// What comes next.
    pub stop: Stop,
}

/// What ended the decoding of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Its end.
    None,
    /// The string's closing quote.
    Quote,
    /// An escape of the form `\uXXXX`.
    UnicodeEscape,
    /// Something that no JSON string has.
    Invalid,
}

impl Stop {
    /// The stop at a byte, which is followed by `letter`.
    #[inline(always)]
    fn at(byte: u8, letter: u8) -> Stop {
        match (byte, letter) {
            (b'"', _) => Stop::Quote,
            (b'\\', b'u') => Stop::UnicodeEscape,
            _ => Stop::Invalid,
        }
    }
}

/// Bytes of a block by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Classes {
    /// ASCII white space.
    pub whitespace: u64,
    /// Bytes from 0x80 on.
    pub non_ascii: u64,
    /// UTF-8 continuation bytes, 0x80 to 0xBF.
    pub continuation: u64,
}

/// First bytes of white-space characters outside ASCII, by the character's length in UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WideWhitespace {
    /// U+0085 and U+00A0.
    pub two: u64,
    /// U+1680, U+2000 to U+200A, U+2028, U+2029, U+202F, U+205F, U+3000.
    pub three: u64,
}

/// A scanner for one instruction set.
struct CpuScanner {
    name: &'static str,
    scan: fn(&[u8], &ScanJob, &mut Rows),
}

impl Scanner for CpuScanner {
    fn name(&self) -> &'static str {
        self.name
    }

    fn scan(&self, chunk: &[u8], job: &ScanJob, rows: &mut Rows) -> Result<(), DeviceError> {
        u32::try_from(chunk.len()).expect("chunks are at most 4 GiB");
        rows.clear(job.schema.tree().sources());
        (self.scan)(chunk, job, rows);
        Ok(())
    }
}

/// The scanners for this processor, the widest instruction set first.
pub fn available() -> Vec<Box<dyn Scanner>> {
    let mut found: Vec<Box<dyn Scanner>> = Vec::new();
    let mut add = |name, scan| found.push(Box::new(CpuScanner { name, scan }));
    #[cfg(target_arch = "x86_64")]
    {
        if avx512::Avx512::new().is_some() {
            add("avx512", avx512::scan);
        }
        if avx2::Avx2::new().is_some() {
            add("avx2", avx2::scan);
        }
    }
    #[cfg(target_arch = "aarch64")]
    if neon::Neon::new().is_some() {
        add("neon", neon::scan);
    }
    add("portable", portable::scan);
    found
}
