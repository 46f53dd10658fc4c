//! Input for the tests: sound and hostile lines, in shards of every kind.

use crate::harness::Dir;
use crate::hostile;
use colophon::demo;
use std::io::{Read, Write};
use std::path::Path;

/// How a shard's bytes are packed; its name says it too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    pub fn of(name: &Path) -> Packing {
        match name.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Packing::Gzip,
            Some("zst") => Packing::Zstd,
            _ => Packing::Plain,
        }
    }

    /// Packs with tools that are not the program's code.
    pub fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Packing::Plain => bytes.to_vec(),
            Packing::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("gzip in memory")
            }
            Packing::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("zstd in memory");
                // With it a damaged frame is noticed.
                encoder.include_checksum(true).expect("a checksum");
                encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("zstd in memory")
            }
        }
    }

    pub fn unpack(self, bytes: &[u8]) -> Vec<u8> {
        let mut unpacked = Vec::new();
        let read = match self {
            Packing::Plain => return bytes.to_vec(),
            Packing::Gzip => flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut unpacked),
            Packing::Zstd => zstd::stream::copy_decode(bytes, &mut unpacked).map(|()| unpacked.len()),
        };
        read.expect("packed data");
        unpacked
    }
}

/// A file of the input.
pub struct Shard {
    /// Path below the input folder.
    pub name: String,
    /// Its lines.
    pub lines: Vec<u8>,
    /// The file's bytes.
    pub file: Vec<u8>,
}

impl Shard {
    pub fn new(name: &str, lines: impl Into<Vec<u8>>) -> Shard {
        let lines = lines.into();
        let file = Packing::of(Path::new(name)).pack(&lines);
        Shard { name: name.into(), lines, file }
    }

    /// A shard whose file has several gzip members or Zstandard frames, as appending makes them.
    fn in_parts(name: &str, lines: Vec<u8>) -> Shard {
        let packing = Packing::of(Path::new(name));
        let file = lines.chunks(lines.len() / 3 + 1).flat_map(|part| packing.pack(part)).collect();
        Shard { name: name.into(), lines, file }
    }
}

/// Writes shards below a folder.
pub fn write(dir: &Dir, folder: &str, shards: &[Shard]) {
    dir.folder(folder);
    for shard in shards {
        dir.write(Path::new(folder).join(&shard.name), &shard.file);
    }
}

/// The demo's classified documents: 705 sound lines in three shards.
pub fn classified() -> Vec<Vec<u8>> {
    let files = demo::files().into_iter().filter(|file| file.path.starts_with("classified/"));
    files.map(|file| file.bytes).collect()
}

/// One sound line.
pub fn document(text: &str) -> String {
    format!("{{\"text\":{}}}\n", serde_json::Value::from(text))
}

/// So many short sound documents.
pub fn documents(count: usize) -> String {
    (0..count).map(|i| document(&format!("document {i}"))).collect()
}

/// Enough documents for a run that lasts: about so many MiB.
pub fn large(mebibytes: usize) -> Vec<u8> {
    let mut lines = Vec::with_capacity((mebibytes + 1) << 20);
    let filler = "The quick brown fox, \\u00e9\\n中文 jumps over it all. ".repeat(20);
    for i in 0.. {
        if lines.len() >= mebibytes << 20 {
            break;
        }
        lines.extend(format!("{{\"text\":\"{i} {filler}\",\"quality_prob\":0.{i},\"word_count\":{i}}}\n").bytes());
    }
    lines
}

/// Shards of every kind, in the order in which they are to be read: by the bytes of their paths.
/// Half of the hostile lines are rejected.
pub fn mixed() -> Vec<Shard> {
    let [first, second, third] = classified().try_into().expect("three shards");
    let crlf = |lines: &[u8]| String::from_utf8_lossy(lines).replace('\n', "\r\n").into_bytes();
    let deep =
        |levels: usize| format!("{{\"text\":\"deep\",\"n\":{}{}}}\n", "[".repeat(levels - 1), "]".repeat(levels - 1));
    let blank = "\n \n\t\r\n\u{2028}\n\u{b}\u{c}\u{1c}\n\u{3000}\u{85}\n";
    let mark = "\u{feff}";
    let shards = vec![
        Shard::new("Zero.jsonl", ""),
        Shard::new("a-b.jsonl", first),
        Shard::new("a.jsonl", [mark, &document("behind a mark"), mark, &document("a mark is no white space")].concat()),
        // A folder's name sorts with the slash behind it: after '-' and '.'.
        Shard::in_parts("a/b/part.jsonl.gz", second),
        Shard::in_parts("a/b/part.jsonl.zst", third),
        Shard::new("a/b/part.ndjson", hostile::chunk(1, 250)),
        Shard::new("blank.jsonl", blank),
        Shard::new("crlf.jsonl", crlf(documents(20).as_bytes())),
        Shard::new("deep.jsonl", [deep(1023), deep(1024), deep(1025), deep(3000)].concat()),
        Shard::new("hostile.jsonl.gz", hostile::chunk(2, 250)),
        Shard::new("hostile.ndjson.zst", [mark.as_bytes(), &hostile::chunk(3, 250)].concat()),
        Shard::new("index.jsonl", "named as the quarantine's index\n"),
        Shard::new("mark.jsonl", mark),
        Shard::new("no end.jsonl", document("a line without an end").trim_end()),
        Shard::new("white.jsonl.gz", "\n"),
        Shard::new("z/z.jsonl", documents(3) + "   "),
        Shard::new("Ünïcode/中.jsonl", documents(3) + "bad\n" + &documents(2)),
    ];
    assert!(shards.is_sorted_by(|a, b| a.name.as_bytes() < b.name.as_bytes()));
    shards
}

/// What lies about in input folders and is not to be read.
pub fn litter(dir: &Dir, folder: &str) {
    let bad = "not to be read\n";
    for name in [
        ".hidden.jsonl",
        ".git/x.jsonl",
        "a/.cache/deep/x.jsonl",
        "notes.txt",
        "x.json",
        "jsonl",
        "x.jsonl.bz2",
        ".jsonl",
    ] {
        dir.write(Path::new(folder).join(name), bad);
    }
}
