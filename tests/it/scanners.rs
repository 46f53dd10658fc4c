//! Every scanner gives the rows of the reference, on every input.

use crate::emulated::{FileScanner, gpu};
use crate::hostile;
use colophon::domain::reason::Reason;
use colophon::domain::row::{Rows, Verdict};
use colophon::domain::schema::{self, Field, FieldType, Schema};
use colophon::scan::cuda::{CudaScanner, LONGEST_LINE};
use colophon::scan::{self, ScanJob, Scanner, reference::Reference};
use std::sync::OnceLock;

fn default_schema() -> Schema {
    Schema::new(schema::default_fields(), schema::default_constants("2024-01-15")).expect("valid")
}

/// A schema with nested paths, a path within a captured value, and every type.
fn deep_schema() -> Schema {
    let field = |from: &str, to: &str, kind, required| Field { from: from.into(), to: to.into(), kind, required };
    let mut fields = vec![
        field("meta", "metadata.meta", FieldType::Any, false),
        field("meta.inner", "metadata.inner", FieldType::Boolean, false),
        field("meta.deep.inner", "metadata.deep", FieldType::Any, false),
        field("word_count", "metadata.n", FieldType::Integer, true),
        field("title", "title", FieldType::Any, false),
        field("title", "again", FieldType::String, false),
        field("k\"ey", "key", FieldType::Any, false),
    ];
    fields.push(field("text", "text", FieldType::String, true));
    Schema::new(fields, vec![]).expect("valid")
}

fn scan(scanner: &dyn Scanner, chunk: &[u8], schema: &Schema) -> Rows {
    let mut rows = Rows::default();
    scanner.scan(chunk, &ScanJob { schema, seed: 42, hash: true }, &mut rows).expect("CPU scanners do not fail");
    rows
}

/// Every scanner that is to give the rows of the reference. `COLOPHON_TEST_SANITIZER=address,undefined` (or
/// `thread`) leaves the kernels alone, watched by that sanitizer.
fn scanners() -> &'static [Box<dyn Scanner>] {
    static SCANNERS: OnceLock<Vec<Box<dyn Scanner>>> = OnceLock::new();
    SCANNERS.get_or_init(|| match std::env::var("COLOPHON_TEST_SANITIZER") {
        Ok(sanitizer) => vec![Box::new(FileScanner::new(Some(&sanitizer)))],
        Err(_) => {
            let mut scanners = scan::available();
            scanners.push(Box::new(CudaScanner::new(gpu(32 << 20))));
            scanners
        }
    })
}

/// How many of `all` cases to try: under ThreadSanitizer, which is slow, some.
fn cases(all: usize) -> usize {
    match std::env::var("COLOPHON_TEST_SANITIZER").as_deref() {
        Ok("thread") => all.div_ceil(40),
        _ => all,
    }
}

/// Compares all scanners on a chunk; gives the rows.
fn agree(chunk: &[u8], schema: &Schema) -> Rows {
    let expected = scan(&Reference, chunk, schema);
    for scanner in scanners() {
        let rows = scan(&**scanner, chunk, schema);
        for (i, (ours, theirs)) in rows.iter().zip(expected.iter()).enumerate() {
            let line = String::from_utf8_lossy(&chunk[theirs.0.start as usize..][..theirs.0.len as usize]);
            assert_eq!(ours, theirs, "{} differs at line {} of the chunk: {line:?}", scanner.name(), i + 1);
        }
        assert_eq!(rows.rows.len(), expected.rows.len(), "{} finds another number of lines", scanner.name());
    }
    expected
}

#[test]
fn agree_on_hostile_lines() {
    let (default, deep) = (default_schema(), deep_schema());
    let mut seen = std::collections::HashSet::new();
    for seed in 0..cases(60) as u64 {
        let chunk = hostile::chunk(seed, 400);
        for schema in [&default, &deep] {
            seen.extend(agree(&chunk, schema).rows.iter().map(|row| row.code));
        }
    }
    for reason in Reason::ALL {
        // No line of these tests is longer than 1 GiB.
        let is_rare = reason == Reason::TooLong || cases(60) < 60;
        assert!(seen.contains(&Verdict::Rejected(reason).code()) || is_rare, "no {reason}");
    }
}

#[test]
fn agree_on_every_length_and_alignment() {
    let schema = default_schema();
    let fillers = ["x", "é", "中", "😀", "\\n", "\\u4e2d", "\\ud83d\\ude00", " a", "\u{3000}", "\\u00e9"];
    for filler in fillers {
        let mut chunk = Vec::new();
        for n in (0..cases(200)).chain([253, 254, 255, 256, 257, 511, 512, 1023, 1024, 1025]) {
            chunk.extend(format!("{{\"text\":\"a{}\"}}\n", filler.repeat(n)).bytes());
        }
        agree(&chunk, &schema);
    }
}

/// An escape's backslash may be the last byte of a block and its letter the first of the next, after any number of
/// blocks without a stop.
#[test]
fn agree_on_escapes_across_blocks() {
    let schema = default_schema();
    let letters = ["n", "\"", "u0041", "ud83d", "u0000", "uxyz1", "x", "\u{1}", "é", ""];
    for letter in letters {
        let mut chunk = Vec::new();
        for backslashes in 1..=5 {
            for plain in (0..cases(140)).chain([190, 191, 192, 193]) {
                let (before, escape) = ("p".repeat(plain), "\\".repeat(backslashes));
                chunk.extend(format!("{{\"text\":\"{before}{escape}{letter}{}\"}}\n", "q".repeat(200)).bytes());
            }
        }
        agree(&chunk, &schema);
    }
}

#[test]
fn agree_around_the_window_of_long_texts() {
    let schema = default_schema();
    for filler in ["x", "é ", "中", "😀", "\u{3000}", "\\n", "\\u4e2d", "\\ud83d\\ude00", "\u{2028}x"] {
        let mut chunk = Vec::new();
        for size in [16_384usize, 32_768, 65_536] {
            for shift in 0..cases(140) {
                // The prefix moves what follows across the window's end byte by byte.
                let body = filler.repeat(size / filler.len() + 40);
                chunk.extend(format!("{{\"text\":\"{}{body}\"}}\n", "p".repeat(shift)).bytes());
            }
        }
        agree(&chunk, &schema);
    }
}

#[test]
fn agree_on_a_chunk_cut_anywhere() {
    let schema = default_schema();
    let line = "{\"text\": \"caf\\u00e9 \\ud83d\\ude00 中文\\n\", \"title\": \"t\", \"quality_prob\": 0.5}\n".repeat(2);
    for end in (0..=line.len()).rev().take(cases(line.len() + 1)) {
        agree(&line.as_bytes()[..end], &schema);
    }
}

/// A lane's, a warp's, a step's and a tile's bytes, and one more and one less; sequences and escapes across them.
#[test]
fn agree_around_what_the_kernels_look_at_together() {
    let schema = default_schema();
    let edges = [0usize, 4, 16, 64, 128, 256, 512, 2048, 16_384, 32_768];
    for edge in edges.into_iter().take(cases(edges.len() * 40) / 40) {
        for size in [edge.saturating_sub(1), edge, edge + 1] {
            // A chunk without a line feed, one that ends with it, and bad UTF-8 across the edge.
            agree(&vec![b'x'; size], &schema);
            agree(&[vec![b' '; size], vec![b'\n']].concat(), &schema);
            for sequence in [&b"\xf0\x9f\x98"[..], b"\xe2\x80", b"\xc2", b"\x80", "😀".as_bytes()] {
                agree(&[&vec![b'x'; size.saturating_sub(2)], sequence].concat(), &schema);
                agree(&[&vec![b'x'; size.saturating_sub(2)], sequence, b"\n{}\n"].concat(), &schema);
            }
        }
    }
    let mut chunk = Vec::new();
    for run in (1..12).chain([62, 63, 64, 65, 127, 128, 129, 255, 256]) {
        for shift in 0..cases(130) {
            // An even run leaves the quote alone; behind an odd one it is escaped, and the string goes on.
            let end = if run % 2 == 0 { "\"" } else { "\" x\"" };
            let text = format!("{}{}{end}", "p".repeat(shift), "\\".repeat(run));
            chunk.extend(format!("{{\"a\":\"{text},\"text\":\"{text}}}\n").bytes());
        }
    }
    agree(&chunk, &schema);
}

/// More tiles than a block of `sum_tiles` has threads, and more lines than a slot has room for.
#[test]
fn agree_on_very_many_lines() {
    let schema = default_schema();
    let long = format!("{{\"text\":\"{}\"}}\n", "lorem ipsum ".repeat(20));
    agree(long.repeat(cases(5 << 20).max(1) / long.len() + 1).as_bytes(), &schema);
    agree("x\n".repeat(cases(1 << 20)).as_bytes(), &schema);
}

/// Lines that are left to the host stand among others.
#[test]
fn agree_on_lines_that_are_long_for_a_warp() {
    let schema = default_schema();
    let mut chunk = Vec::new();
    for len in [-1i64, 0, 1, 5000] {
        let len = (i64::from(LONGEST_LINE) + len) as usize;
        let text = "lorem ipsum ".repeat(len / 12 + 1);
        chunk.extend(format!("{{\"text\":\"{}\"}}\n{{\"text\":\"short\"}}\n\n", &text[..len - 11]).bytes());
    }
    let rows = agree(&chunk, &schema);
    assert!(
        rows.rows.iter().any(|row| row.len == LONGEST_LINE) && rows.rows.iter().any(|row| row.len == LONGEST_LINE + 1)
    );
}

/// A text below an object that is mapped as a whole: what an earlier text of two had is in there too.
#[test]
fn agree_where_the_text_is_part_of_another_value() {
    let field = |from: &str, to: &str, kind, required| Field { from: from.into(), to: to.into(), kind, required };
    let fields = vec![
        field("a.text", "text", FieldType::String, true),
        field("a", "metadata.a", FieldType::Any, false),
        field("a.b.c", "metadata.c", FieldType::Any, false),
    ];
    let schema = Schema::new(fields, vec![]).expect("valid");
    let texts = ["fine", "\\ud800", "\\ud83d\\ude00", "\\udc00\\ud800", " ", "\\u0000"];
    let mut chunk = Vec::new();
    for first in texts {
        for second in texts {
            chunk.extend(format!("{{\"a\":{{\"text\":\"{first}\",\"text\":\"{second}\"}},\"id\":1}}\n").bytes());
            chunk.extend(format!("{{\"a\":{{\"text\":\"{first}\",\"b\":{{\"c\":\"{second}\"}}}}}}\n").bytes());
            chunk.extend(format!("{{\"a\":{{\"text\":\"{first}\"}},\"a\":{{\"text\":\"{second}\"}}}}\n").bytes());
        }
    }
    agree(&chunk, &schema);
}

#[test]
fn nesting_ends_at_1024_levels() {
    let schema = default_schema();
    let nested = |open: &str, close: &str, levels: usize| {
        // The document itself is the first level.
        format!("{{\"text\":\"x\",\"n\":{}{}}}", open.repeat(levels - 1), close.repeat(levels - 1))
    };
    for (levels, fits) in [(1023, true), (1024, true), (1025, false), (5000, false)] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let inner = if open == "[" { "" } else { "0" };
            let line =
                nested(open, close, levels).replacen(&format!("{open}{close}"), &format!("{open}{inner}{close}"), 1);
            let rows = agree(line.as_bytes(), &schema);
            assert_eq!(rows.rows[0].verdict() == Verdict::Document, fits, "{levels} levels of {open}");
        }
    }
}

/// Each line with what the contract says of it.
#[test]
fn every_reason() {
    use Reason::*;
    let schema = default_schema();
    let rejected: [(&[u8], Reason); 38] = [
        (b"{\"text\":\"a\0b\"}", NullByte),
        (b"\0", NullByte),
        (b"\xff\0", NullByte),
        (b"{\"text\":\"\xff\"}", InvalidUtf8),
        (b"{\"text\":\"\xed\xa0\x80\"}", InvalidUtf8),
        (b"{\"text\":\"\xc0\x80\"}", InvalidUtf8),
        (b"\xe2\x80", InvalidUtf8),
        (b"{\"text\":\"a\"", InvalidJson),
        (b"{\"text\":\"a\"} {}", InvalidJson),
        (b"{\"text\":\"a\",}", InvalidJson),
        (b"{'text':'a'}", InvalidJson),
        (b"{\"text\":\"a\tb\"}", InvalidJson),
        (b"{\"text\":\"a\\qb\"}", InvalidJson),
        (b"{\"text\":\"a\",\"n\":NaN}", InvalidJson),
        (b"{\"text\":\"a\",\"n\":-Infinity}", InvalidJson),
        (b"{\"text\":\"a\",\"n\":01}", InvalidJson),
        (b"{\"text\":\"a\",\"n\":1.}", InvalidJson),
        (b"\xef\xbb\xbf{\"text\":\"a\"}", InvalidJson),
        (b"[{\"text\":\"a\"}]", NotObject),
        (b"\"text\"", NotObject),
        (b"null", NotObject),
        (b"{}", MissingField),
        (b"{\"text\":null}", MissingField),
        (b"{\"text\":\"a\",\"text\":null}", MissingField),
        (b"{\"Text\":\"a\"}", MissingField),
        (b"{\"text\":7}", WrongType),
        (b"{\"text\":\"a\",\"title\":7}", WrongType),
        (b"{\"text\":\"a\",\"quality_prob\":\"0.9\"}", WrongType),
        (b"{\"text\":\"a\",\"word_count\":true}", WrongType),
        (b"{\"text\":\" \\ud800\"}", LoneSurrogate),
        (b"{\"text\":\"\\ude00\\ud83d\"}", LoneSurrogate),
        (b"{\"text\":\"a\",\"title\":\"\\udc00\"}", LoneSurrogate),
        (b"{\"text\":\"\\u0000\\ud800\"}", LoneSurrogate),
        (b"{\"text\":\"a\\u0000b\"}", NullByte),
        (b"{\"text\":\"\"}", EmptyText),
        (b"{\"text\":\" \\n\\u3000\"}", EmptyText),
        (b"{\"text\":\"\xe2\x80\xa8\\u001c\"}", EmptyText),
        (b"{\"text\":\"\xc2\x85\"}", EmptyText),
    ];
    for (line, reason) in rejected {
        let rows = agree(line, &schema);
        assert_eq!(rows.rows.len(), 1);
        let shown = String::from_utf8_lossy(line);
        assert_eq!(rows.rows[0].verdict(), Verdict::Rejected(reason), "{shown}");
        let detail = scan::detail::of(line, &ScanJob { schema: &schema, seed: 0, hash: true });
        assert!(!detail.is_empty(), "{shown}");
    }
    let sound: [&[u8]; 8] = [
        b"{\"text\":\"a\"}",
        b" {\"text\" : \"a\" }\t\r",
        b"{\"te\\u0078t\":\"a\"}",
        b"{\"text\":7,\"text\":\"a\"}",
        b"{\"text\":\"a\",\"title\":null}",
        b"{\"text\":\"a\",\"other\":\"\\ud800\"}",
        b"{\"text\":\"a\",\"title\":\"\\ud800\",\"title\":\"t\"}",
        b"{\"text\":\"\\ud83d\\ude00\",\"quality_prob\":-1.5E+300,\"n\":[{}]}",
    ];
    for line in sound {
        assert_eq!(agree(line, &schema).rows[0].verdict(), Verdict::Document, "{}", String::from_utf8_lossy(line));
    }
}

/// The figures of a few texts, from CPython and the xxhash package.
#[test]
fn measures_are_those_of_python() {
    let schema = default_schema();
    // [(len(t), len(t.split()), xxhash.xxh3_64_intdigest(t.encode(), seed=42)) for t in …]
    let digits = format!("\"{}\"", "0123456789".repeat(20));
    let lorem = format!("\"{}\"", "lorem ".repeat(400));
    let cases = [
        ("\"a\"", 1, 1, 5_495_374_321_939_846_900),
        ("\" Hello,\\n world \"", 15, 2, 5_321_001_709_671_543_329),
        ("\"caf\\u00e9 \\ud83d\\ude00\"", 6, 2, 7_499_169_965_085_610_264),
        ("\"\\u4e2d\\u6587\\u3000x\"", 4, 2, 8_374_688_177_559_195_524),
        ("\"xxxxxxxxxxxxxxxxx\"", 17, 1, 702_177_764_122_914_785),
        (&digits, 200, 1, 13_012_204_567_939_797_184),
        (&lorem, 2400, 400, 6_532_478_980_398_567_124u64),
    ];
    for (text, chars, words, hash) in cases {
        let rows = agree(format!("{{\"text\":{text}}}").as_bytes(), &schema);
        let row = rows.rows[0];
        assert_eq!((row.chars, row.words, row.hash), (chars, words, hash), "{text}");
    }
}

#[test]
fn a_scan_without_hash_gives_the_same_rows_but_for_the_hash() {
    let schema = default_schema();
    let chunk = hostile::chunk(7, 300);
    for scanner in scanners() {
        let with = scan(&**scanner, &chunk, &schema);
        let mut without = Rows::default();
        let job = ScanJob { schema: &schema, seed: 42, hash: false };
        scanner.scan(&chunk, &job, &mut without).expect("CPU scanners do not fail");
        for (with, without) in with.rows.iter().zip(&without.rows) {
            assert_eq!(*without, colophon::domain::row::Row { hash: 0, ..*with });
        }
    }
}
