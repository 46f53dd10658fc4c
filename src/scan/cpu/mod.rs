//! The SIMD scanner, one algorithm over several instruction sets.
//!
//! [`walk`] goes through a line's grammar once, [`text`] decodes, counts and hashes the text on the
//! way. Both are generic over [`Simd`]: questions about 64 bytes at a time, answered as 64-bit
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
pub const BLOCK: usize = 64;

/// What an instruction set has to answer about a block of 64 bytes. Bit i of a mask is byte i.
///
/// # Safety
/// Every method reads its block (`wide_whitespace` two bytes more), so the pointer must be valid
/// for that; and it may only be called where the instruction set is enabled.
pub trait Simd: Copy + Send + Sync + 'static {
    /// Bytes that end the plain run of a JSON string: `"`, `\` and everything below 0x20.
    unsafe fn string_stops(self, block: *const u8) -> u64;

    /// What counting characters and words needs to know of each byte.
    unsafe fn classes(self, block: *const u8) -> Classes;

    /// Where white space outside ASCII starts, for a block of UTF-8.
    unsafe fn wide_whitespace(self, block: *const u8) -> WideWhitespace;

    /// Copies a block.
    unsafe fn copy(self, from: *const u8, to: *mut u8);
}

/// Bytes of a block by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes {
    /// ASCII white space.
    pub whitespace: u64,
    /// Bytes from 0x80 on.
    pub non_ascii: u64,
    /// UTF-8 continuation bytes, 0x80 to 0xBF.
    pub continuation: u64,
}

/// First bytes of white-space characters outside ASCII, by the character's length in UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WideWhitespace {
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
