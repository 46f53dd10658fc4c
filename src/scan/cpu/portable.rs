//! Any processor: eight bytes at a time in a 64-bit integer.

use super::{Classes, Simd, WideWhitespace, walk};
use crate::domain::row::Rows;
use crate::scan::ScanJob;

/// No instruction set in particular.
#[derive(Clone, Copy)]
pub struct Portable;

pub fn scan(chunk: &[u8], job: &ScanJob, rows: &mut Rows) {
    // SAFETY: the methods of `Portable` use no instructions beyond the target's own.
    unsafe { walk::scan_chunk(Portable, chunk, job, rows) }
}

const LOW_7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const HIGH: u64 = !LOW_7;

/// `byte` in each of the eight places.
const fn splat(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

/// The high bit of each byte that is 0; exact, without carries between bytes.
fn zeros(word: u64) -> u64 {
    !(((word & LOW_7) + LOW_7) | word) & HIGH
}

fn equal(word: u64, byte: u8) -> u64 {
    zeros(word ^ splat(byte))
}

/// The high bit of each byte that is below `limit` (at most 0x80).
fn below(word: u64, limit: u8) -> u64 {
    // A byte below 0x80 reaches 0x80 by adding 0x80 - limit exactly if it is not below limit.
    !((word & LOW_7) + splat(0x80 - limit)) & !word & HIGH
}

/// The eight high bits, gathered into a byte.
fn gather(high_bits: u64) -> u64 {
    ((high_bits >> 7).wrapping_mul(0x0102_0408_1020_4080)) >> 56
}

/// Asks eight words of eight bytes, starting `offset` bytes into the block.
///
/// # Safety
/// 64 bytes from `block + offset` on must be readable.
#[inline(always)]
unsafe fn mask(block: *const u8, offset: usize, question: impl Fn(u64) -> u64) -> u64 {
    (0..8).fold(0, |mask, i| {
        // SAFETY: the caller vouches for 64 bytes.
        let bytes = unsafe { block.add(offset + 8 * i).cast::<[u8; 8]>().read_unaligned() };
        mask | gather(question(u64::from_le_bytes(bytes))) << (8 * i)
    })
}

impl Simd for Portable {
    #[inline(always)]
    unsafe fn string_stops(self, block: *const u8) -> u64 {
        // SAFETY: the caller vouches for the block.
        unsafe { mask(block, 0, |w| equal(w, b'"') | equal(w, b'\\') | below(w, 0x20)) }
    }

    #[inline(always)]
    unsafe fn classes(self, block: *const u8) -> Classes {
        // SAFETY: the caller vouches for the block.
        unsafe {
            Classes {
                whitespace: mask(block, 0, |w| (below(w, 0x0e) & !below(w, 0x09)) | (below(w, 0x21) & !below(w, 0x1c))),
                non_ascii: mask(block, 0, |w| w & HIGH),
                continuation: mask(block, 0, |w| w & HIGH & !(w << 1)),
            }
        }
    }

    #[inline(always)]
    unsafe fn wide_whitespace(self, block: *const u8) -> WideWhitespace {
        // SAFETY: the caller vouches for the block and two bytes more.
        let is = |offset, byte| unsafe { mask(block, offset, |w| equal(w, byte)) };
        // SAFETY: as above. 0x80 to 0x8a are those whose lower seven bits are below 0x0b.
        let en_quad_to_hair = unsafe { mask(block, 2, |w| w & HIGH & below(w & LOW_7, 0x0b)) };
        let general = is(2, 0xa8) | is(2, 0xa9) | is(2, 0xaf) | en_quad_to_hair;
        WideWhitespace {
            two: is(0, 0xc2) & (is(1, 0x85) | is(1, 0xa0)),
            three: (is(0, 0xe2) & ((is(1, 0x80) & general) | (is(1, 0x81) & is(2, 0x9f))))
                | (is(0, 0xe3) & is(1, 0x80) & is(2, 0x80))
                | (is(0, 0xe1) & is(1, 0x9a) & is(2, 0x80)),
        }
    }

    #[inline(always)]
    unsafe fn copy(self, from: *const u8, to: *mut u8) {
        // SAFETY: the caller vouches for 64 bytes at both.
        unsafe { to.cast::<[u8; 64]>().write_unaligned(from.cast::<[u8; 64]>().read_unaligned()) }
    }
}
