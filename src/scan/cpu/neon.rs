//! NEON: four registers of 16 bytes a block.

use super::{Classes, Simd, WideWhitespace, walk};
use crate::domain::row::Rows;
use crate::scan::ScanJob;
use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

/// Proof that the processor has NEON.
#[derive(Clone, Copy)]
pub struct Neon(());

impl Neon {
    /// The proof, if the processor has it.
    pub fn new() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

pub fn scan(chunk: &[u8], job: &ScanJob, rows: &mut Rows) {
    #[target_feature(enable = "neon")]
    fn enabled(proof: Neon, chunk: &[u8], job: &ScanJob, rows: &mut Rows) {
        // SAFETY: the instruction set is enabled here, so everything inlined here may use it.
        unsafe { walk::scan_chunk(proof, chunk, job, rows) }
    }
    let proof = Neon::new().expect("offered only where it was found");
    // SAFETY: the proof.
    unsafe { enabled(proof, chunk, job, rows) }
}

/// Bit i of a byte, for the eight bytes of a half register, twice.
const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];

/// Asks the four quarters, starting `offset` bytes into the block, and gathers the answers: each
/// lane keeps the bit of its place, and three rounds of pairwise addition join eight lanes to a byte.
///
/// # Safety
/// 64 bytes from `block + offset` on must be readable, and NEON enabled.
#[inline(always)]
unsafe fn mask(block: *const u8, offset: usize, question: impl Fn(uint8x16_t) -> uint8x16_t) -> u64 {
    // SAFETY: the caller vouches for both.
    unsafe {
        let bits = vld1q_u8(BITS.as_ptr());
        let quarter = |i: usize| vandq_u8(question(vld1q_u8(block.add(offset + 16 * i))), bits);
        let low = vpaddq_u8(quarter(0), quarter(1));
        let high = vpaddq_u8(quarter(2), quarter(3));
        let joined = vpaddq_u8(low, high);
        let joined = vpaddq_u8(joined, joined);
        vgetq_lane_u64::<0>(vreinterpretq_u64_u8(joined))
    }
}

#[inline(always)]
unsafe fn equal(bytes: uint8x16_t, byte: u8) -> uint8x16_t {
    // SAFETY: the caller has NEON enabled.
    unsafe { vceqq_u8(bytes, vdupq_n_u8(byte)) }
}

/// Bytes from `low` to `high`, both included.
#[inline(always)]
unsafe fn between(bytes: uint8x16_t, low: u8, high: u8) -> uint8x16_t {
    // SAFETY: the caller has NEON enabled.
    unsafe { vcleq_u8(vsubq_u8(bytes, vdupq_n_u8(low)), vdupq_n_u8(high - low)) }
}

#[inline(always)]
unsafe fn or(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
    // SAFETY: the caller has NEON enabled.
    unsafe { vorrq_u8(a, b) }
}

impl Simd for Neon {
    #[inline(always)]
    unsafe fn string_stops(self, block: *const u8) -> u64 {
        // SAFETY: the caller vouches for the block, `self` for NEON.
        unsafe { mask(block, 0, |b| or(or(equal(b, b'"'), equal(b, b'\\')), between(b, 0, 0x1f))) }
    }

    #[inline(always)]
    unsafe fn classes(self, block: *const u8) -> Classes {
        // SAFETY: the caller vouches for the block, `self` for NEON.
        unsafe {
            Classes {
                whitespace: mask(block, 0, |b| or(between(b, 0x09, 0x0d), between(b, 0x1c, 0x20))),
                non_ascii: mask(block, 0, |b| between(b, 0x80, 0xff)),
                continuation: mask(block, 0, |b| between(b, 0x80, 0xbf)),
            }
        }
    }

    #[inline(always)]
    unsafe fn wide_whitespace(self, block: *const u8) -> WideWhitespace {
        // SAFETY: the caller vouches for the block and two bytes more, `self` for NEON.
        unsafe {
            let is = |offset, byte| mask(block, offset, |b| equal(b, byte));
            let general = mask(block, 2, |b| or(or(between(b, 0x80, 0x8a), between(b, 0xa8, 0xa9)), equal(b, 0xaf)));
            let second_80 = is(1, 0x80);
            WideWhitespace {
                two: is(0, 0xc2) & (is(1, 0x85) | is(1, 0xa0)),
                three: (is(0, 0xe2) & ((second_80 & general) | (is(1, 0x81) & is(2, 0x9f))))
                    | (is(0, 0xe3) & second_80 & is(2, 0x80))
                    | (is(0, 0xe1) & is(1, 0x9a) & is(2, 0x80)),
            }
        }
    }

    #[inline(always)]
    unsafe fn copy(self, from: *const u8, to: *mut u8) {
        // SAFETY: the caller vouches for 64 bytes at both, `self` for NEON.
        unsafe {
            let bytes = vld1q_u8_x4(from);
            vst1q_u8_x4(to, bytes);
        }
    }
}
