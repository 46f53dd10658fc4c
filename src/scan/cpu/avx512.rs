//! AVX-512 with byte instructions: a block is one register, and comparisons give masks at once.

use super::{Classes, Simd, WideWhitespace, walk};
use crate::domain::row::Rows;
use crate::scan::ScanJob;
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 BW, with the bit instructions.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// The proof, if the processor has it.
    pub fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        found.then_some(Avx512(()))
    }
}

pub fn scan(chunk: &[u8], job: &ScanJob, rows: &mut Rows) {
    #[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2,lzcnt,popcnt")]
    fn enabled(proof: Avx512, chunk: &[u8], job: &ScanJob, rows: &mut Rows) {
        // SAFETY: the instruction set is enabled here, so everything inlined here may use it.
        unsafe { walk::scan_chunk(proof, chunk, job, rows) }
    }
    let proof = Avx512::new().expect("offered only where it was found");
    // SAFETY: the proof.
    unsafe { enabled(proof, chunk, job, rows) }
}

#[inline(always)]
unsafe fn load(at: *const u8) -> __m512i {
    // SAFETY: the caller vouches for 64 bytes and has AVX-512 enabled.
    unsafe { _mm512_loadu_si512(at.cast()) }
}

#[inline(always)]
unsafe fn equal(bytes: __m512i, byte: u8) -> u64 {
    // SAFETY: the caller has AVX-512 BW enabled.
    unsafe { _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8)) }
}

/// Bytes from `low` to `high`, both included.
#[inline(always)]
unsafe fn between(bytes: __m512i, low: u8, high: u8) -> u64 {
    // SAFETY: the caller has AVX-512 BW enabled.
    unsafe {
        let moved = _mm512_sub_epi8(bytes, _mm512_set1_epi8(low as i8));
        _mm512_cmple_epu8_mask(moved, _mm512_set1_epi8((high - low) as i8))
    }
}

impl Simd for Avx512 {
    #[inline(always)]
    unsafe fn string_stops(self, block: *const u8) -> u64 {
        // SAFETY: the caller vouches for the block, `self` for AVX-512 BW.
        unsafe {
            let bytes = load(block);
            equal(bytes, b'"') | equal(bytes, b'\\') | between(bytes, 0, 0x1f)
        }
    }

    #[inline(always)]
    unsafe fn classes(self, block: *const u8) -> Classes {
        // SAFETY: the caller vouches for the block, `self` for AVX-512 BW.
        unsafe {
            let bytes = load(block);
            Classes {
                whitespace: between(bytes, 0x09, 0x0d) | between(bytes, 0x1c, 0x20),
                non_ascii: _mm512_movepi8_mask(bytes),
                // As signed bytes, 0x80 to 0xbf are those below -64.
                continuation: _mm512_cmplt_epi8_mask(bytes, _mm512_set1_epi8(-64)),
            }
        }
    }

    #[inline(always)]
    unsafe fn wide_whitespace(self, block: *const u8) -> WideWhitespace {
        // SAFETY: the caller vouches for the block and two bytes more, `self` for AVX-512 BW.
        unsafe {
            let (first, second, third) = (load(block), load(block.add(1)), load(block.add(2)));
            let second_80 = equal(second, 0x80);
            let general = between(third, 0x80, 0x8a) | between(third, 0xa8, 0xa9) | equal(third, 0xaf);
            WideWhitespace {
                two: equal(first, 0xc2) & (equal(second, 0x85) | equal(second, 0xa0)),
                three: (equal(first, 0xe2)
                    & ((second_80 & general) | (equal(second, 0x81) & equal(third, 0x9f))))
                    | (equal(first, 0xe3) & second_80 & equal(third, 0x80))
                    | (equal(first, 0xe1) & equal(second, 0x9a) & equal(third, 0x80)),
            }
        }
    }

    #[inline(always)]
    unsafe fn copy(self, from: *const u8, to: *mut u8) {
        // SAFETY: the caller vouches for 64 bytes at both, `self` for AVX-512.
        unsafe { _mm512_storeu_si512(to.cast(), load(from)) }
    }
}
