//! The text of a document: decoded, counted and hashed on the way through.
//!
//! The string is copied block by block into a window that stays in the first-level cache, with its
//! escapes decoded. A full window (or the end) is counted and hashed. So a text of any length needs
//! the same small memory.

use super::escape::{encode_utf8, hex4, is_surrogate};
use super::walk::Bytes;
use super::{BLOCK, Simd, Stop};
use std::hash::Hasher;
use twox_hash::XxHash3_64;

/// Decoded bytes that are counted and hashed together.
const WINDOW: usize = 16 << 10;
/// Room behind the window for the block or the run of escapes that crosses its end.
const OVERRUN: usize = 2 * BLOCK;
/// Room behind that, as whole blocks are written and read there, and `wide_whitespace` reads two
/// bytes more.
const SLACK: usize = OVERRUN + 2 * BLOCK;

/// Stands for a lone surrogate; such a text is rejected, so only its presence matters.
const REPLACEMENT: u32 = 0xfffd;

/// Measures one text after the other.
pub struct Text {
    window: Box<[u8; WINDOW + SLACK]>,
    filled: usize,
    seed: u64,
    hash_wanted: bool,
    /// For texts longer than the window.
    hasher: Option<XxHash3_64>,
    /// What was measured of the last text.
    pub measured: Measured,
    /// Whether the character before the window's first is part of a word.
    in_word: bool,
}

/// What was found in a text.
#[derive(Clone, Copy, Default)]
pub struct Measured {
    /// XXH3-64.
    pub hash: u64,
    /// Code points.
    pub chars: u64,
    /// Words.
    pub words: u64,
    /// Whether it has U+0000.
    pub null: bool,
    /// Whether it has a lone surrogate.
    pub lone_surrogate: bool,
}

impl Text {
    pub fn new(seed: u64, hash_wanted: bool) -> Text {
        let window = Box::new([0; WINDOW + SLACK]);
        Text { window, filled: 0, seed, hash_wanted, hasher: None, measured: Measured::default(), in_word: false }
    }

    /// Measures the string whose first byte after the quote is at `at`; gives the place after its
    /// closing quote, or `None` if it is not a JSON string.
    ///
    /// # Safety
    /// The instruction set of `simd` must be enabled.
    #[inline(always)]
    pub unsafe fn measure<S: Simd>(&mut self, simd: S, bytes: &mut Bytes, mut at: usize) -> Option<usize> {
        self.filled = 0;
        self.hasher = None;
        self.measured = Measured::default();
        self.in_word = false;
        loop {
            if self.filled >= WINDOW {
                // SAFETY: as the caller's.
                unsafe { self.flush(simd) };
            }
            let (from, blocks) = bytes.blocks(at);
            let blocks = blocks.min(((WINDOW - self.filled) / BLOCK).max(1));
            // SAFETY: one block more can be read, and written in the slack.
            let part = unsafe { simd.unescape(from, self.window.as_mut_ptr().add(self.filled), blocks) };
            at += part.read;
            self.filled += part.written;
            match part.stop {
                Stop::None => {}
                Stop::Quote => break,
                Stop::UnicodeEscape => at = self.unicode_escapes(bytes, at)?,
                Stop::Invalid => return None,
            }
        }
        // SAFETY: as the caller's.
        unsafe { self.finish(simd) };
        Some(at + 1)
    }

    /// Decodes a run of `\uXXXX`.
    fn unicode_escapes(&mut self, bytes: &Bytes, mut at: usize) -> Option<usize> {
        // Escapes of scripts come in runs; a run may not outgrow the room for it.
        let limit = WINDOW + OVERRUN - 4;
        while self.filled < limit {
            let mut code = u32::from(hex4(bytes.get(at + 2)?)?);
            at += 6;
            if is_surrogate(code as u16) {
                match low_half(bytes, at).filter(|_| code < 0xdc00) {
                    Some(low) => {
                        code = 0x1_0000 + ((code - 0xd800) << 10) + (u32::from(low) - 0xdc00);
                        at += 6;
                    }
                    None => {
                        self.measured.lone_surrogate = true;
                        code = REPLACEMENT;
                    }
                }
            }
            self.measured.null |= code == 0;
            // SAFETY: `limit` leaves room for four bytes.
            self.filled += unsafe { encode_utf8(code, self.window.as_mut_ptr().add(self.filled)) };
            if bytes.get(at) != Some(*b"\\u") {
                break;
            }
        }
        Some(at)
    }

    /// Counts and hashes what is in the window, but for the last character if it is not ASCII: it
    /// may not be whole yet.
    #[cold]
    #[inline(always)]
    unsafe fn flush<S: Simd>(&mut self, simd: S) {
        let mut end = self.filled;
        while end > 0 && self.window[end - 1] & 0xc0 == 0x80 {
            end -= 1;
        }
        end -= usize::from(end > 0 && self.window[end - 1] >= 0xc0);
        // SAFETY: as the caller's.
        unsafe { self.count(simd, end) };
        if self.hash_wanted {
            let seed = self.seed;
            self.hasher.get_or_insert_with(|| XxHash3_64::with_seed(seed)).write(&self.window[..end]);
        }
        self.window.copy_within(end..self.filled, 0);
        self.filled -= end;
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(&mut self, simd: S) {
        // SAFETY: as the caller's.
        unsafe { self.count(simd, self.filled) };
        if self.hash_wanted {
            let rest = &self.window[..self.filled];
            self.measured.hash = match self.hasher.take() {
                None => XxHash3_64::oneshot_with_seed(self.seed, rest),
                Some(mut hasher) => {
                    hasher.write(rest);
                    hasher.finish()
                }
            };
        }
    }

    /// Counts characters and words in the window's first `len` bytes, which are whole characters.
    #[inline(always)]
    unsafe fn count<S: Simd>(&mut self, simd: S, len: usize) {
        let (mut chars, mut words) = (0, 0);
        // Bit 0: whether the byte before the block belongs to a word.
        let mut before = u64::from(self.in_word);
        // Bytes of the block that belong to a white-space character begun in the block before.
        let mut spill = 0;
        // Bit 0: whether the last byte that was counted belongs to a word.
        let mut last_word = before;
        let mut at = 0;
        while at < len {
            let valid = if len - at >= BLOCK { u64::MAX } else { (1 << (len - at)) - 1 };
            // SAFETY: the slack behind the window covers a block and two bytes.
            let block = unsafe { self.window.as_ptr().add(at) };
            // SAFETY: the same.
            let classes = unsafe { simd.classes(block) };
            let mut space = classes.whitespace;
            if classes.non_ascii & valid != 0 {
                // SAFETY: the same.
                let wide = unsafe { simd.wide_whitespace(block) };
                let (two, three) = (wide.two & valid, wide.three & valid);
                space |= spill | two | two << 1 | three | three << 1 | three << 2;
                spill = two >> 63 | three >> 63 | three >> 62;
            }
            let word = !space & valid;
            chars += u64::from((!classes.continuation & valid).count_ones());
            words += u64::from((word & !(word << 1 | before)).count_ones());
            before = word >> 63;
            last_word = word >> ((len - at).min(BLOCK) - 1);
            at += BLOCK;
        }
        self.measured.chars += chars;
        self.measured.words += words;
        self.in_word = last_word & 1 == 1;
    }
}

/// The low surrogate that is escaped at `at`, if one is.
fn low_half(bytes: &Bytes, at: usize) -> Option<u16> {
    if bytes.get(at)? != *b"\\u" {
        return None;
    }
    hex4(bytes.get(at + 2)?).filter(|unit| unit & 0xfc00 == 0xdc00)
}
