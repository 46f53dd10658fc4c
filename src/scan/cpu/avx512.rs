//! AVX-512 with byte instructions and VBMI2: a block is one register, comparisons give masks at once,
//! and escapes are decoded without a branch. (Processors with an AVX-512 that lacks these use AVX2.)

use super::escape::SIMPLE;
use super::{BLOCK, Classes, Simd, Stop, Unescaped, WideWhitespace, walk};
use crate::domain::row::Rows;
use crate::scan::ScanJob;
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 with BW, VBMI and VBMI2, and the bit instructions.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// The proof, if the processor has it.
    pub fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        found.then_some(Avx512(()))
    }
}

pub fn scan(chunk: &[u8], job: &ScanJob, rows: &mut Rows) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
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
                three: (equal(first, 0xe2) & ((second_80 & general) | (equal(second, 0x81) & equal(third, 0x9f))))
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

    /// No block waits for what is in the one before but for a carry and the number of bytes written: the next
    /// block's address is known beforehand, and that a text goes on is what the processor expects.
    #[inline(always)]
    unsafe fn unescape(self, from: *const u8, to: *mut u8, blocks: usize) -> Unescaped {
        let (mut written, mut carry) = (0, 0);
        for done in 0..blocks {
            // SAFETY: the caller vouches for the blocks and for what is written, `self` for AVX-512.
            unsafe {
                let block = from.add(done * BLOCK);
                let bytes = load(block);
                let (escapes, escaped) = escapes(equal(bytes, b'\\'), carry);
                // What each byte stands for if it is escaped; 0 if it cannot be.
                let meanings = _mm512_permutex2var_epi8(load(SIMPLE.as_ptr()), bytes, load(SIMPLE.as_ptr().add(BLOCK)));
                let unknown = _mm512_testn_epi8_mask(meanings, meanings) | _mm512_movepi8_mask(bytes);
                let decoded = _mm512_mask_blend_epi8(escaped, bytes, meanings);
                // A stop is an unescaped quote or control character, or a letter that no backslash may stand before.
                let ends = equal(bytes, b'"') | between(bytes, 0, 0x1f);
                let stops = (ends & !escaped) | (escaped & unknown);
                if stops == 0 {
                    _mm512_storeu_si512(to.add(written).cast(), _mm512_maskz_compress_epi8(!escapes, decoded));
                    written += (!escapes).count_ones() as usize;
                    carry = escapes >> 63;
                    continue;
                }
                let at = stops.trailing_zeros();
                let keep = _bzhi_u64(!escapes, at);
                _mm512_storeu_si512(to.add(written).cast(), _mm512_maskz_compress_epi8(keep, decoded));
                // Before the letter its backslash is read again, which may be the last byte of the block before.
                let back = (escaped >> at & 1) as usize;
                let read = done * BLOCK + at as usize - back;
                let stop = Stop::at(*from.add(read), *from.add(read + 1));
                return Unescaped { read, written: written + keep.count_ones() as usize, stop };
            }
        }
        // A backslash at the very end waits for its letter.
        Unescaped { read: blocks * BLOCK - carry as usize, written, stop: Stop::None }
    }
}

/// The backslashes that begin an escape, and the bytes that they escape; `carry` is 1 if the block's first byte is
/// escaped by the last one of the block before, else 0.
///
/// In a run of backslashes every second one is escaped. Subtraction finds the parity of all runs at
/// once: a borrow runs from each run's start to its end (the algorithm is simdjson's).
#[inline(always)]
fn escapes(backslashes: u64, carry: u64) -> (u64, u64) {
    const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    let may_begin = backslashes & !carry;
    let codes = ((may_begin << 1 | ODD).wrapping_sub(may_begin)) ^ ODD;
    (codes & backslashes, codes ^ (backslashes | carry))
}

#[cfg(test)]
mod tests {
    use super::escapes;

    #[test]
    fn every_second_backslash_of_a_run_is_escaped() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Runs of all lengths: a random word, made denser or thinner.
            let word = [state, state & state >> 7, state | state >> 9, u64::MAX][(state >> 33) as usize % 4];
            let carry = state >> 13 & 1;
            let (mut begin, mut escaped, mut inside) = (0, 0, carry == 1);
            for bit in 0..64 {
                if inside {
                    escaped |= 1 << bit;
                    inside = false;
                } else if word >> bit & 1 == 1 {
                    begin |= 1 << bit;
                    inside = true;
                }
            }
            assert_eq!(escapes(word, carry), (begin, escaped), "{word:064b} after {carry}");
        }
    }
}
