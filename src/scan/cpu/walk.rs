//! The walk through a line's grammar.
//!
//! Strings are most of a line, and most of a string is plain: 64 bytes at a time are asked for the
//! few that are not. Between strings there are only some dozens of bytes, taken one by one. The walk
//! needs no line ends beforehand: a line feed is no valid byte anywhere within JSON as it stands in
//! a line, so every walk stops at it by itself.
//!
//! A line with a zero byte or with bytes that are not UTF-8 cannot be a document. Zero bytes stop
//! the walk as control characters do. UTF-8 is checked for the whole chunk at once; only where that
//! fails is each line checked. What made a walk fail is found out afterwards, as failing is rare.

use super::escape::{SIMPLE, hex4, is_surrogate};
use super::text::Text;
use super::{BLOCK, Simd};
use crate::domain::reason::{MAX_DEPTH, MAX_LINE_BYTES, Reason};
use crate::domain::row::{Row, Rows, Span, Verdict};
use crate::domain::schema::{Key, Schema, SourceTree};
use crate::domain::whitespace::is_blank;
use crate::scan::ScanJob;
use crate::scan::reference::lone_surrogate;

/// Scans a chunk into `rows`, which are empty.
///
/// # Safety
/// The instruction set of `simd` must be enabled in the caller, into which this is inlined.
#[inline(always)]
pub unsafe fn scan_chunk<S: Simd>(simd: S, chunk: &[u8], job: &ScanJob, rows: &mut Rows) {
    let all_utf8 = simdutf8::basic::from_utf8(chunk).is_ok();
    let mut walk = Walk::new(simd, chunk, job);
    let mut start = 0;
    while start < chunk.len() {
        let outcome = match unfit(chunk, start, all_utf8) {
            Some(unfit) => unfit,
            // SAFETY: as the caller's.
            None => unsafe { walk.line(start, rows) },
        };
        let end = match outcome {
            Outcome::Pushed { end } => end,
            Outcome::Failed => {
                let end = line_end(chunk, start);
                let verdict = why_not_json(&chunk[start..end]);
                rows.push_without_spans(Row::without_measures(start as u32, (end - start) as u32, verdict, 0));
                end
            }
        };
        start = end + 1;
    }
}

enum Outcome {
    /// The row is there, and the line ends at `end`.
    Pushed { end: usize },
    /// The line is not JSON; where it ends is not known.
    Failed,
}

/// Lines that need no walk: in a chunk that is not UTF-8 throughout, those that are not.
#[inline(always)]
fn unfit(chunk: &[u8], start: usize, all_utf8: bool) -> Option<Outcome> {
    if all_utf8 {
        return None;
    }
    let line = &chunk[start..line_end(chunk, start)];
    simdutf8::basic::from_utf8(line).is_err().then_some(Outcome::Failed)
}

fn line_end(chunk: &[u8], start: usize) -> usize {
    memchr::memchr(b'\n', &chunk[start..]).map_or(chunk.len(), |len| start + len)
}

#[cold]
fn why_not_json(line: &[u8]) -> Verdict {
    if memchr::memchr(0, line).is_some() {
        Verdict::Rejected(Reason::NullByte)
    } else if simdutf8::basic::from_utf8(line).is_err() {
        Verdict::Rejected(Reason::InvalidUtf8)
    } else if is_blank(line) {
        Verdict::Blank
    } else {
        Verdict::Rejected(Reason::InvalidJson)
    }
}

/// The bytes of a chunk, readable past their end, where there is nothing but line feeds.
pub struct Bytes<'a> {
    chunk: &'a [u8],
    tail: [u8; 2 * BLOCK + 2],
}

impl<'a> Bytes<'a> {
    fn new(chunk: &'a [u8]) -> Self {
        Bytes { chunk, tail: [b'\n'; 2 * BLOCK + 2] }
    }

    /// The byte at `at`.
    #[inline(always)]
    pub fn byte(&self, at: usize) -> u8 {
        self.chunk.get(at).copied().unwrap_or(b'\n')
    }

    /// The `N` bytes at `at`, if the chunk has them.
    #[inline(always)]
    pub fn get<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.chunk.get(at..at + N)?.try_into().ok()
    }

    /// 64 readable bytes, those from `at` on.
    #[inline(always)]
    pub fn block(&mut self, at: usize) -> *const u8 {
        if at + BLOCK <= self.chunk.len() { self.chunk[at..].as_ptr() } else { self.last_block(at) }
    }

    /// The bytes from `at` on, and how many blocks of them (at least one) can be read with 66 bytes behind the last.
    #[inline(always)]
    pub fn blocks(&mut self, at: usize) -> (*const u8, usize) {
        let blocks = self.chunk.len().saturating_sub(at + BLOCK + 2) / BLOCK;
        if blocks > 0 { (self.chunk[at..].as_ptr(), blocks) } else { (self.last_block(at), 1) }
    }

    #[cold]
    fn last_block(&mut self, at: usize) -> *const u8 {
        let rest = self.chunk.get(at..).unwrap_or_default();
        let len = rest.len().min(self.tail.len());
        self.tail[..len].copy_from_slice(&rest[..len]);
        self.tail[len..].fill(b'\n');
        self.tail.as_ptr()
    }
}

/// An array or object that is not closed yet.
#[derive(Clone, Copy, Default)]
struct Frame {
    /// Where it starts in the chunk.
    start: u32,
    /// Its place among the mapped paths, or [`NOWHERE`].
    node: u16,
    is_object: bool,
}

/// The node of values that are not on the way to a mapped one.
const NOWHERE: u16 = u16::MAX;

struct Walk<'a, S> {
    simd: S,
    bytes: Bytes<'a>,
    schema: &'a Schema,
    tree: &'a SourceTree,
    text_source: Option<u8>,
    text: Text,
    frames: Box<[Frame; MAX_DEPTH]>,
    /// Start of the line at hand.
    line_start: usize,
    /// Index of its first span.
    first_span: usize,
    /// Whether a text had a lone surrogate, or another string one that may be lone.
    saw_surrogate: bool,
}

impl<'a, S: Simd> Walk<'a, S> {
    fn new(simd: S, chunk: &'a [u8], job: &ScanJob<'a>) -> Self {
        Walk {
            simd,
            bytes: Bytes::new(chunk),
            schema: job.schema,
            tree: job.schema.tree(),
            text_source: Some(job.schema.text_source() as u8),
            text: Text::new(job.seed, job.hash),
            frames: Box::new([Frame::default(); MAX_DEPTH]),
            line_start: 0,
            first_span: 0,
            saw_surrogate: false,
        }
    }

    /// Walks through the line that starts at `start`.
    #[inline(always)]
    unsafe fn line(&mut self, start: usize, rows: &mut Rows) -> Outcome {
        self.line_start = start;
        self.first_span = rows.spans.len();
        self.saw_surrogate = false;
        rows.spans.resize(self.first_span + rows.sources, Span::default());
        let first = self.skip_white_space(start);
        // SAFETY: as the caller's.
        let Some(end) = (unsafe { self.value(first, rows) }).map(|end| self.skip_white_space(end)) else {
            rows.spans.truncate(self.first_span);
            return Outcome::Failed;
        };
        if self.bytes.byte(end) != b'\n' {
            rows.spans.truncate(self.first_span);
            return Outcome::Failed;
        }
        let is_object = self.bytes.byte(first) == b'{';
        let row = self.row(end, is_object, &rows.spans[self.first_span..]);
        if row.verdict() != Verdict::Document {
            rows.spans[self.first_span..].fill(Span::default());
        }
        rows.rows.push(row);
        Outcome::Pushed { end }
    }

    /// The row of a line that is JSON.
    #[inline(always)]
    fn row(&self, end: usize, is_object: bool, spans: &[Span]) -> Row {
        let (start, len) = (self.line_start as u32, (end - self.line_start) as u32);
        let measured = &self.text.measured;
        match self.fault(len, is_object, spans) {
            None => Row {
                hash: measured.hash,
                start,
                len,
                chars: measured.chars as u32,
                words: measured.words as u32,
                ..Row::default()
            },
            Some((reason, field)) => Row::without_measures(start, len, Verdict::Rejected(reason), field as u8),
        }
    }

    /// The first reason to reject a line that is JSON, with the field that it is about.
    #[inline(always)]
    fn fault(&self, len: u32, is_object: bool, spans: &[Span]) -> Option<(Reason, usize)> {
        if !is_object {
            return Some((Reason::NotObject, 0));
        }
        let text = self.schema.text_field();
        let span = |field| spans[self.schema.source_of(field)];
        if span(text).is_absent() {
            return Some((Reason::MissingField, text));
        }
        let mut wrong_type = None;
        for (field, spec) in self.schema.fields().iter().enumerate() {
            if span(field).is_absent() {
                if spec.required {
                    return Some((Reason::MissingField, field));
                }
            } else if wrong_type.is_none() && !spec.kind.accepts(self.raw(span(field))) {
                wrong_type = Some((Reason::WrongType, field));
            }
        }
        if wrong_type.is_some() {
            return wrong_type;
        }
        let measured = &self.text.measured;
        if self.saw_surrogate {
            let is_lone = |field: &usize| lone_surrogate(self.raw(span(*field))).is_some();
            if let Some(field) = (0..self.schema.fields().len()).find(is_lone) {
                return Some((Reason::LoneSurrogate, field));
            }
        }
        if measured.null {
            return Some((Reason::NullByte, text));
        }
        if measured.words == 0 {
            return Some((Reason::EmptyText, text));
        }
        (len as usize > MAX_LINE_BYTES).then_some((Reason::TooLong, 0))
    }

    fn raw(&self, span: Span) -> &[u8] {
        let start = self.line_start + span.start as usize;
        &self.bytes.chunk[start..start + span.len as usize]
    }

    #[inline(always)]
    fn skip_white_space(&self, mut at: usize) -> usize {
        while matches!(self.bytes.byte(at), b' ' | b'\t' | b'\r') {
            at += 1;
        }
        at
    }

    /// Walks through the value at `at` and all within it, to the place behind it.
    #[inline(always)]
    unsafe fn value(&mut self, mut at: usize, rows: &mut Rows) -> Option<usize> {
        let mut depth = 0;
        let mut node = SourceTree::ROOT;
        loop {
            let mut start = at;
            let mut is_null = false;
            match self.bytes.byte(at) {
                b'"' => {
                    // SAFETY: as the caller's.
                    at = unsafe { self.string_value(at + 1, node) }?;
                }
                open @ (b'{' | b'[') => {
                    let is_object = open == b'{';
                    *self.frames.get_mut(depth)? = Frame { start: start as u32, node, is_object };
                    at = self.skip_white_space(at + 1);
                    if self.bytes.byte(at) != if is_object { b'}' } else { b']' } {
                        depth += 1;
                        node = if is_object {
                            // SAFETY: as the caller's.
                            unsafe { self.key(&mut at, node, rows) }?
                        } else {
                            NOWHERE
                        };
                        continue;
                    }
                    at += 1;
                }
                b'-' | b'0'..=b'9' => at = self.number(at)?,
                b't' => at = self.literal(at, *b"true")?,
                b'f' => at = self.literal(at + 1, *b"alse")?,
                b'n' => {
                    at = self.literal(at, *b"null")?;
                    is_null = true;
                }
                _ => return None,
            }
            // The value is complete: note it, and close whatever closes behind it.
            loop {
                if !is_null {
                    self.note(node, start, at, rows);
                }
                is_null = false;
                if depth == 0 {
                    return Some(at);
                }
                at = self.skip_white_space(at);
                let frame = self.frames[depth - 1];
                match self.bytes.byte(at) {
                    b',' => {
                        at = self.skip_white_space(at + 1);
                        // SAFETY: as the caller's.
                        node = if frame.is_object { unsafe { self.key(&mut at, frame.node, rows) }? } else { NOWHERE };
                        break;
                    }
                    close @ (b'}' | b']') if (close == b'}') == frame.is_object => {
                        at += 1;
                        depth -= 1;
                        (node, start) = (frame.node, frame.start as usize);
                    }
                    _ => return None,
                }
            }
        }
    }

    /// Notes where a mapped value stands.
    #[inline(always)]
    fn note(&self, node: u16, start: usize, end: usize, rows: &mut Rows) {
        if node != NOWHERE
            && let Some(source) = self.tree.node(node).source
        {
            let span = Span { start: (start - self.line_start) as u32, len: (end - start) as u32 };
            rows.spans[self.first_span + usize::from(source)] = span;
        }
    }

    #[inline(always)]
    unsafe fn string_value(&mut self, at: usize, node: u16) -> Option<usize> {
        if node != NOWHERE && self.tree.node(node).source == self.text_source {
            // SAFETY: as the caller's.
            let end = unsafe { self.text.measure(self.simd, &mut self.bytes, at) };
            self.saw_surrogate |= self.text.measured.lone_surrogate;
            end
        } else {
            // SAFETY: as the caller's.
            unsafe { self.skip_string(at) }
        }
    }

    /// Walks through a key, its colon and the white space behind it, to the value; gives the
    /// value's node.
    #[inline(always)]
    unsafe fn key(&mut self, at: &mut usize, object: u16, rows: &mut Rows) -> Option<u16> {
        if self.bytes.byte(*at) != b'"' {
            return None;
        }
        let start = *at + 1;
        // SAFETY: as the caller's.
        let behind = unsafe { self.skip_string(start) }?;
        let colon = self.skip_white_space(behind);
        if self.bytes.byte(colon) != b':' {
            return None;
        }
        *at = self.skip_white_space(colon + 1);
        let node = if object == NOWHERE { None } else { self.child(object, start..behind - 1) };
        let Some(node) = node else { return Some(NOWHERE) };
        // Of duplicate keys the last counts, so whatever an earlier one held is void.
        for source in &self.tree.node(node).sources_within {
            rows.spans[self.first_span + usize::from(*source)] = Span::default();
        }
        Some(node)
    }

    #[inline(always)]
    fn child(&self, object: u16, key: std::ops::Range<usize>) -> Option<u16> {
        // The bytes behind a short key are cut off, not read on their own: one load and a mask.
        let head = match self.bytes.get(key.start) {
            Some(bytes) if key.len() < 8 => u64::from_le_bytes(bytes) & ((1 << (8 * key.len())) - 1),
            Some(bytes) => u64::from_le_bytes(bytes),
            None => Key::head(&self.bytes.chunk[key.clone()]),
        };
        let key = &self.bytes.chunk[key];
        for (wanted, child) in &self.tree.node(object).children {
            if wanted.is(key, head) {
                return Some(*child);
            }
        }
        if memchr::memchr(b'\\', key).is_none() { None } else { self.escaped_child(object, key) }
    }

    #[cold]
    fn escaped_child(&self, object: u16, key: &[u8]) -> Option<u16> {
        let quoted = [b"\"", key, b"\""].concat();
        let decoded: String = crate::scan::reference::Decoder::new(&quoted).collect::<Result<_, _>>().ok()?;
        self.tree.child(object, decoded.as_bytes())
    }

    /// The place behind the string whose first byte after the quote is at `at`.
    #[inline(always)]
    unsafe fn skip_string(&mut self, mut at: usize) -> Option<usize> {
        loop {
            let block = self.bytes.block(at);
            // SAFETY: the block has 64 bytes.
            let stops = unsafe { self.simd.string_stops(block) };
            if stops == 0 {
                at += BLOCK;
                continue;
            }
            at += stops.trailing_zeros() as usize;
            match self.bytes.byte(at) {
                b'"' => return Some(at + 1),
                b'\\' => at = self.skip_escape(at)?,
                _ => return None,
            }
        }
    }

    fn skip_escape(&mut self, at: usize) -> Option<usize> {
        let letter = self.bytes.byte(at + 1);
        if SIMPLE[usize::from(letter)] != 0 {
            return Some(at + 2);
        }
        if letter != b'u' {
            return None;
        }
        self.saw_surrogate |= is_surrogate(hex4(self.bytes.get(at + 2)?)?);
        Some(at + 6)
    }

    #[inline(always)]
    fn number(&self, mut at: usize) -> Option<usize> {
        at += usize::from(self.bytes.byte(at) == b'-');
        at = if self.bytes.byte(at) == b'0' { at + 1 } else { self.digits(at)? };
        if self.bytes.byte(at) == b'.' {
            at = self.digits(at + 1)?;
        }
        if matches!(self.bytes.byte(at), b'e' | b'E') {
            at += 1 + usize::from(matches!(self.bytes.byte(at + 1), b'+' | b'-'));
            at = self.digits(at)?;
        }
        Some(at)
    }

    #[inline(always)]
    fn digits(&self, start: usize) -> Option<usize> {
        let mut at = start;
        while self.bytes.byte(at).is_ascii_digit() {
            at += 1;
        }
        (at > start).then_some(at)
    }

    #[inline(always)]
    fn literal(&self, at: usize, word: [u8; 4]) -> Option<usize> {
        (self.bytes.get(at)? == word).then_some(at + 4)
    }
}
