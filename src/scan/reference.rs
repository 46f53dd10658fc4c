//! The plain scanner: a byte at a time, with nothing clever, to be read beside the contract.
//!
//! It defines what a row is. It also explains rejected lines (`detail` in the quarantine's index)
//! and judges lines too long for a row, for both of which its speed is enough.

use super::{DeviceError, ScanJob, Scanner};
use crate::domain::reason::{MAX_DEPTH, MAX_LINE_BYTES, Reason};
use crate::domain::row::{Row, Rows, Span, Verdict};
use crate::domain::schema::{Field, Schema, SourceTree};
use crate::domain::whitespace::{is_blank, is_whitespace};
use std::hash::Hasher;
use std::ops::Range;
use twox_hash::XxHash3_64;

/// The plain scanner.
pub struct Reference;

impl Scanner for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn scan(&self, chunk: &[u8], job: &ScanJob, rows: &mut Rows) -> Result<(), DeviceError> {
        u32::try_from(chunk.len()).expect("chunks are at most 4 GiB");
        rows.clear(job.schema.tree().sources());
        let mut start = 0;
        while start < chunk.len() {
            let len = chunk[start..].iter().position(|b| *b == b'\n').unwrap_or(chunk.len() - start);
            push_row(rows, start, &chunk[start..start + len], job);
            start += len + 1;
        }
        Ok(())
    }
}

fn push_row(rows: &mut Rows, start: usize, line: &[u8], job: &ScanJob) {
    let (start, len) = (start as u32, line.len() as u32);
    match judge(line, job) {
        Judgement::Document { measures, values } => {
            let Measures { hash, chars, words } = measures;
            // A line within MAX_LINE_BYTES has counts that fit.
            rows.rows.push(Row { hash, start, len, chars: chars as u32, words: words as u32, ..Row::default() });
            rows.spans.extend(values.iter().map(|value| match value {
                Some(at) => Span { start: at.start as u32, len: at.len() as u32 },
                None => Span::default(),
            }));
        }
        Judgement::Blank => rows.push_without_spans(Row::without_measures(start, len, Verdict::Blank, 0)),
        Judgement::Rejected(rejection) => {
            let verdict = Verdict::Rejected(rejection.reason);
            rows.push_without_spans(Row::without_measures(start, len, verdict, rejection.field as u8));
        }
    }
}

/// What a line is, with all that can be said of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Judgement {
    /// White space alone.
    Blank,
    /// A sound document.
    Document {
        /// Of its text.
        measures: Measures,
        /// Where each source's value stands in the line.
        values: Vec<Option<Range<usize>>>,
    },
    /// A line for the quarantine.
    Rejected(Rejection),
}

/// Why a line is rejected.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The first reason that holds.
    pub reason: Reason,
    /// The field that it is about, or 0.
    pub field: usize,
    /// Which byte of the line (from 0) it is about, where there is one.
    pub at: Option<usize>,
    /// What was found, in words.
    pub detail: String,
}

/// The measures of a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Measures {
    /// XXH3-64 of the UTF-8 bytes.
    pub hash: u64,
    /// Code points.
    pub chars: u64,
    /// Runs without white space.
    pub words: u64,
}

/// Judges a line (without its line feed) of any length.
pub fn judge(line: &[u8], job: &ScanJob) -> Judgement {
    match examine(line, job) {
        Ok(judgement) => judgement,
        Err(rejection) => Judgement::Rejected(rejection),
    }
}

fn reject<T>(reason: Reason, field: usize, at: Option<usize>, detail: impl Into<String>) -> Result<T, Rejection> {
    Err(Rejection { reason, field, at, detail: detail.into() })
}

/// The reasons one after the other, in the order of the contract.
fn examine(line: &[u8], job: &ScanJob) -> Result<Judgement, Rejection> {
    if let Some(at) = line.iter().position(|b| *b == 0) {
        return reject(Reason::NullByte, 0, Some(at), "a zero byte");
    }
    if let Err(e) = std::str::from_utf8(line) {
        return reject(Reason::InvalidUtf8, 0, Some(e.valid_up_to()), "bytes that are not UTF-8");
    }
    if is_blank(line) {
        return Ok(Judgement::Blank);
    }
    let document = Parser { line, at: 0 }.document().map_err(|Syntax { at, what }| Rejection {
        reason: Reason::InvalidJson,
        field: 0,
        at: Some(at),
        detail: what.into(),
    })?;
    let Kind::Object(_) = document.kind else {
        return reject(
            Reason::NotObject,
            0,
            Some(document.at.start),
            format!("{} instead of an object", document.kind.name()),
        );
    };
    let values = find_values(line, &document, job.schema);
    check_presence(job.schema, &values)?;
    check_types(line, job.schema, &values)?;
    check_surrogates(line, job.schema, &values)?;
    let text = values[job.schema.text_source()].clone().expect("presence was checked");
    let (measures, null) = measure(&line[text.clone()], job);
    if let Some(at) = null {
        return reject(
            Reason::NullByte,
            job.schema.text_field(),
            Some(text.start + at),
            "an escaped U+0000 in the text",
        );
    }
    if measures.words == 0 {
        return reject(Reason::EmptyText, job.schema.text_field(), Some(text.start), "a text of white space alone");
    }
    if line.len() > MAX_LINE_BYTES {
        return reject(Reason::TooLong, 0, None, format!("{} bytes, more than {MAX_LINE_BYTES}", line.len()));
    }
    Ok(Judgement::Document { measures, values })
}

fn check_presence(schema: &Schema, values: &[Option<Range<usize>>]) -> Result<(), Rejection> {
    let text = schema.text_field();
    for field in std::iter::once(text).chain(0..schema.fields().len()) {
        if schema.fields()[field].required && values[schema.source_of(field)].is_none() {
            return reject(Reason::MissingField, field, None, format!("no '{}'", schema.fields()[field].from));
        }
    }
    Ok(())
}

fn check_types(line: &[u8], schema: &Schema, values: &[Option<Range<usize>>]) -> Result<(), Rejection> {
    for (field, Field { from, kind, .. }) in schema.fields().iter().enumerate() {
        if let Some(value) = &values[schema.source_of(field)]
            && !kind.accepts(&line[value.clone()])
        {
            let found = Kind::of(line[value.start]);
            return reject(
                Reason::WrongType,
                field,
                Some(value.start),
                format!("'{from}' is {found}, expected {kind}"),
            );
        }
    }
    Ok(())
}

fn check_surrogates(line: &[u8], schema: &Schema, values: &[Option<Range<usize>>]) -> Result<(), Rejection> {
    for (field, Field { from, .. }) in schema.fields().iter().enumerate() {
        if let Some(value) = &values[schema.source_of(field)]
            && let Some(at) = lone_surrogate(&line[value.clone()])
        {
            let detail = format!("'{from}' has a surrogate without its other half");
            return reject(Reason::LoneSurrogate, field, Some(value.start + at), detail);
        }
    }
    Ok(())
}

/// Where the first string with a lone surrogate stands within a (valid) value, if any does.
pub fn lone_surrogate(value: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < value.len() {
        if value[at] == b'"' {
            let end = at + string_len(&value[at..]);
            if Decoder::new(&value[at..end]).any(|c| c.is_err()) {
                return Some(at);
            }
            at = end;
        } else {
            at += 1;
        }
    }
    None
}

/// Bytes of the (valid) string that starts here, with its quotes.
fn string_len(raw: &[u8]) -> usize {
    let mut at = 1;
    while raw.get(at).is_some_and(|byte| *byte != b'"') {
        at += if raw[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(raw.len())
}

/// The place of each source's value in a line, if the line is JSON in UTF-8.
pub fn locate(line: &[u8], schema: &Schema) -> Option<Vec<Option<Range<usize>>>> {
    std::str::from_utf8(line).ok()?;
    let document = Parser { line, at: 0 }.document().ok()?;
    Some(find_values(line, &document, schema))
}

/// The member of this name as it stands in the line, `null` included, if the line is a JSON object
/// that has it; of several the last.
pub fn member<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    std::str::from_utf8(line).ok()?;
    let document = Parser { line, at: 0 }.document().ok()?;
    let Kind::Object(members) = document.kind else { return None };
    let is_wanted = |key: &Range<usize>| Decoder::new(&line[key.clone()]).eq(name.chars().map(Ok));
    members.iter().rev().find(|(key, _)| is_wanted(key)).map(|(_, value)| &line[value.at.clone()])
}

/// Measures a text, given as it stands in the line; also says where an escaped U+0000 is.
fn measure(raw: &[u8], job: &ScanJob) -> (Measures, Option<usize>) {
    let mut hasher = XxHash3_64::with_seed(job.seed);
    let mut measures = Measures::default();
    let mut null = None;
    let mut in_word = false;
    let mut decoder = Decoder::new(raw);
    loop {
        let at = decoder.at;
        let Some(c) = decoder.next() else { break };
        let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
        if c == '\0' && null.is_none() {
            null = Some(at);
        }
        measures.chars += 1;
        measures.words += u64::from(!in_word && !is_whitespace(c));
        in_word = !is_whitespace(c);
        if job.hash {
            hasher.write(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    measures.hash = if job.hash { hasher.finish() } else { 0 };
    (measures, null)
}

/// The characters of a (valid) JSON string; a lone surrogate is an `Err`.
///
/// A string that is not valid gives some characters or other, but no panic: a mapped shard can change
/// after it was scanned, which is found out only later.
pub struct Decoder<'a> {
    raw: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Decodes a string given with its quotes.
    pub fn new(raw: &'a [u8]) -> Self {
        Decoder { raw: &raw[..raw.len().saturating_sub(1)], at: 1 }
    }

    fn hex4(&self, at: usize) -> Option<u16> {
        let digits = self.raw.get(at..at + 4)?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    /// The code unit of an escape `\uXXXX` that starts here, if one does.
    fn unit(&self, at: usize) -> Option<u16> {
        if self.raw.get(at..at + 2)? == b"\\u" { self.hex4(at + 2) } else { None }
    }
}

impl Iterator for Decoder<'_> {
    /// A character, or the surrogate that has no other half.
    type Item = Result<char, u16>;

    fn next(&mut self) -> Option<Self::Item> {
        let byte = *self.raw.get(self.at)?;
        if byte != b'\\' {
            let len = match byte {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            let bytes = self.raw.get(self.at..self.at + len).and_then(|bytes| std::str::from_utf8(bytes).ok());
            let c = bytes.and_then(|c| c.chars().next());
            self.at += len;
            return Some(Ok(c.unwrap_or(char::REPLACEMENT_CHARACTER)));
        }
        if let Some(first) = self.unit(self.at) {
            let second = self.unit(self.at + 6);
            let pair = [first, second.unwrap_or(0)];
            let (used, c) = match char::decode_utf16(pair).next().expect("two units") {
                Ok(c) => (c.len_utf16(), Ok(c)),
                Err(lone) => (1, Err(lone.unpaired_surrogate())),
            };
            self.at += 6 * used;
            return Some(c);
        }
        let c = match self.raw.get(self.at + 1).copied().unwrap_or_default() {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            other => char::from(other),
        };
        self.at += 2;
        Some(Ok(c))
    }
}

/// A JSON value with its place in the line.
struct Node {
    at: Range<usize>,
    kind: Kind,
}

enum Kind {
    /// Keys (their place, with quotes) and values, in the order of the line.
    Object(Vec<(Range<usize>, Node)>),
    Array,
    String,
    Number,
    Boolean,
    Null,
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Kind::Object(_) => "an object",
            Kind::Array => "an array",
            Kind::String => "a string",
            Kind::Number => "a number",
            Kind::Boolean => "a boolean",
            Kind::Null => "null",
        }
    }

    /// The name of the kind of (valid) value that starts with this byte.
    fn of(first: u8) -> &'static str {
        match first {
            b'{' => "an object",
            b'[' => "an array",
            b'"' => "a string",
            b't' | b'f' => "a boolean",
            b'n' => "null",
            _ => "a number",
        }
    }
}

/// The place of each source's value; `null` counts as absent, of duplicate keys the last counts.
fn find_values(line: &[u8], document: &Node, schema: &Schema) -> Vec<Option<Range<usize>>> {
    let mut values = vec![None; schema.tree().sources()];
    find_below(line, document, schema.tree(), SourceTree::ROOT, &mut values);
    values
}

fn find_below(line: &[u8], value: &Node, tree: &SourceTree, node: u16, values: &mut [Option<Range<usize>>]) {
    if let Some(source) = tree.node(node).source
        && !matches!(value.kind, Kind::Null)
    {
        values[usize::from(source)] = Some(value.at.clone());
    }
    let Kind::Object(members) = &value.kind else { return };
    for (wanted, child) in &tree.node(node).children {
        let is_wanted = |key: &Range<usize>| {
            let mut decoded = Vec::new();
            for c in Decoder::new(&line[key.clone()]) {
                let Ok(c) = c else { return false };
                decoded.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            decoded == wanted.bytes()
        };
        if let Some((_, value)) = members.iter().rev().find(|(key, _)| is_wanted(key)) {
            find_below(line, value, tree, *child, values);
        }
    }
}

/// Why a line is not JSON: the byte where it went wrong and what would have been right.
struct Syntax {
    at: usize,
    what: &'static str,
}

/// A parser of RFC 8259, nothing more: it knows where values start and end.
struct Parser<'a> {
    line: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn document(mut self) -> Result<Node, Syntax> {
        let value = self.value(0)?;
        self.white_space();
        if self.at < self.line.len() { self.fail("more after the end of the value") } else { Ok(value) }
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, Syntax> {
        Err(Syntax { at: self.at, what })
    }

    fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, Syntax> {
        self.white_space();
        let start = self.at;
        let kind = match self.peek() {
            Some(b'{' | b'[') if depth == MAX_DEPTH => return self.fail("nested deeper than 1,024 levels"),
            Some(b'{') => self.object(depth + 1)?,
            Some(b'[') => self.array(depth + 1)?,
            Some(b'"') => self.string()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal(b"true", Kind::Boolean)?,
            Some(b'f') => self.literal(b"false", Kind::Boolean)?,
            Some(b'n') => self.literal(b"null", Kind::Null)?,
            Some(_) => return self.fail("expected a value"),
            None => return self.fail("the line ends where a value should stand"),
        };
        Ok(Node { at: start..self.at, kind })
    }

    fn object(&mut self, depth: usize) -> Result<Kind, Syntax> {
        self.at += 1;
        let mut members = Vec::new();
        self.white_space();
        if self.eat(b'}') {
            return Ok(Kind::Object(members));
        }
        loop {
            self.white_space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return self.fail("expected a key in quotes");
            }
            self.string()?;
            let key = start..self.at;
            self.white_space();
            if !self.eat(b':') {
                return self.fail("expected ':' after the key");
            }
            members.push((key, self.value(depth)?));
            self.white_space();
            if self.eat(b'}') {
                return Ok(Kind::Object(members));
            }
            if !self.eat(b',') {
                return self.fail("expected ',' or '}' after the value");
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Kind, Syntax> {
        self.at += 1;
        self.white_space();
        if self.eat(b']') {
            return Ok(Kind::Array);
        }
        loop {
            self.value(depth)?;
            self.white_space();
            if self.eat(b']') {
                return Ok(Kind::Array);
            }
            if !self.eat(b',') {
                return self.fail("expected ',' or ']' after the value");
            }
        }
    }

    fn string(&mut self) -> Result<Kind, Syntax> {
        self.at += 1;
        loop {
            match self.peek() {
                None => return self.fail("the line ends within a string"),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Kind::String);
                }
                Some(b'\\') => self.escape()?,
                Some(0..0x20) => return self.fail("a control character within a string; it must be escaped"),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<(), Syntax> {
        match self.line.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let digits = self.line.get(self.at + 2..self.at + 6);
                if !digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit)) {
                    return self.fail("\\u without four hexadecimal digits");
                }
                self.at += 6;
            }
            _ => return self.fail("an escape that JSON does not have"),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Kind, Syntax> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Kind::Number)
    }

    fn digits(&mut self) -> Result<(), Syntax> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { self.fail("expected a digit") } else { Ok(()) }
    }

    fn literal(&mut self, word: &[u8], kind: Kind) -> Result<Kind, Syntax> {
        if !self.line[self.at..].starts_with(word) {
            return self.fail("expected a value");
        }
        self.at += word.len();
        Ok(kind)
    }
}
