//! AVX2: two registers of 32 bytes a block.

use super::{Classes, Simd, WideWhitespace, walk};
use crate::domain::row::Rows;
use crate::scan::ScanJob;
use std::arch::x86_64::*;

/// Proof that the processor has AVX2 and the bit instructions that came with it.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// The proof, if the processor has it.
    pub fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        found.then_some(Avx2(()))
    }
}

pub fn scan(chunk: &[u8], job: &ScanJob, rows: &mut Rows) {
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn enabled(proof: Avx2, chunk: &[u8], job: &ScanJob, rows: &mut Rows) {
        // SAFETY: the instruction set is enabled here, so everything inlined here may use it.
        unsafe { walk::scan_chunk(proof, chunk, job, rows) }
    }
    let proof = Avx2::new().expect("offered only where it was found");
    // SAFETY: the proof.
    unsafe { enabled(proof, chunk, job, rows) }
}

/// A block, or an answer about each of its bytes: all bits set for yes.
#[derive(Clone, Copy)]
struct Bytes(__m256i, __m256i);

// No closures below: a closure is a function without the instruction set, and what it calls would
// stay a call.
impl Bytes {
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Bytes {
        // SAFETY: the caller vouches for 64 bytes and has AVX2 enabled.
        unsafe { Bytes(_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())) }
    }

    #[inline(always)]
    unsafe fn is(self, byte: u8) -> Bytes {
        // SAFETY: the caller has AVX2 enabled.
        unsafe {
            let wanted = _mm256_set1_epi8(byte as i8);
            Bytes(_mm256_cmpeq_epi8(self.0, wanted), _mm256_cmpeq_epi8(self.1, wanted))
        }
    }

    /// Bytes from `low` to `high`, both included.
    #[inline(always)]
    unsafe fn between(self, low: u8, high: u8) -> Bytes {
        // SAFETY: the caller has AVX2 enabled.
        unsafe {
            // Moved down by `low`, the wanted ones are those that the upper limit does not change.
            let (low, span) = (_mm256_set1_epi8(low as i8), _mm256_set1_epi8((high - low) as i8));
            let moved = Bytes(_mm256_sub_epi8(self.0, low), _mm256_sub_epi8(self.1, low));
            Bytes(
                _mm256_cmpeq_epi8(_mm256_min_epu8(moved.0, span), moved.0),
                _mm256_cmpeq_epi8(_mm256_min_epu8(moved.1, span), moved.1),
            )
        }
    }

    /// As signed bytes below `limit`.
    #[inline(always)]
    unsafe fn below_signed(self, limit: i8) -> Bytes {
        // SAFETY: the caller has AVX2 enabled.
        unsafe {
            let limit = _mm256_set1_epi8(limit);
            Bytes(_mm256_cmpgt_epi8(limit, self.0), _mm256_cmpgt_epi8(limit, self.1))
        }
    }

    #[inline(always)]
    unsafe fn or(self, other: Bytes) -> Bytes {
        // SAFETY: the caller has AVX2 enabled.
        unsafe { Bytes(_mm256_or_si256(self.0, other.0), _mm256_or_si256(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn and(self, other: Bytes) -> Bytes {
        // SAFETY: the caller has AVX2 enabled.
        unsafe { Bytes(_mm256_and_si256(self.0, other.0), _mm256_and_si256(self.1, other.1)) }
    }

    /// The high bit of each byte.
    #[inline(always)]
    unsafe fn mask(self) -> u64 {
        // SAFETY: the caller has AVX2 enabled.
        unsafe { u64::from(_mm256_movemask_epi8(self.0) as u32) | u64::from(_mm256_movemask_epi8(self.1) as u32) << 32 }
    }
}

impl Simd for Avx2 {
    #[inline(always)]
    unsafe fn string_stops(self, block: *const u8) -> u64 {
        // SAFETY: the caller vouches for the block, `self` for AVX2.
        unsafe {
            let bytes = Bytes::load(block);
            bytes.is(b'"').or(bytes.is(b'\\')).or(bytes.between(0, 0x1f)).mask()
        }
    }

    #[inline(always)]
    unsafe fn classes(self, block: *const u8) -> Classes {
        // SAFETY: the caller vouches for the block, `self` for AVX2.
        unsafe {
            let bytes = Bytes::load(block);
            Classes {
                whitespace: bytes.between(0x09, 0x0d).or(bytes.between(0x1c, 0x20)).mask(),
                non_ascii: bytes.mask(),
                // As signed bytes, 0x80 to 0xbf are those below -64.
                continuation: bytes.below_signed(-64).mask(),
            }
        }
    }

    #[inline(always)]
    unsafe fn wide_whitespace(self, block: *const u8) -> WideWhitespace {
        // SAFETY: the caller vouches for the block and two bytes more, `self` for AVX2.
        unsafe {
            let (first, second, third) = (Bytes::load(block), Bytes::load(block.add(1)), Bytes::load(block.add(2)));
            let (second_80, third_80) = (second.is(0x80), third.is(0x80));
            let general = third.between(0x80, 0x8a).or(third.between(0xa8, 0xa9)).or(third.is(0xaf));
            let after_e2 = second_80.and(general).or(second.is(0x81).and(third.is(0x9f)));
            WideWhitespace {
                two: first.is(0xc2).and(second.is(0x85).or(second.is(0xa0))).mask(),
                three: (first.is(0xe2).and(after_e2))
                    .or(first.is(0xe3).and(second_80).and(third_80))
                    .or(first.is(0xe1).and(second.is(0x9a)).and(third_80))
                    .mask(),
            }
        }
    }

    #[inline(always)]
    unsafe fn copy(self, from: *const u8, to: *mut u8) {
        // SAFETY: the caller vouches for 64 bytes at both, `self` for AVX2.
        unsafe {
            let bytes = Bytes::load(from);
            _mm256_storeu_si256(to.cast(), bytes.0);
            _mm256_storeu_si256(to.add(32).cast(), bytes.1);
        }
    }
}
