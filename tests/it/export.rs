//! What an export writes: every line, every count and every byte, compared with a second reading of
//! the contract; and the same bytes however it is run.

use crate::corpus::{self, Packing, Shard};
use crate::harness::{DATE, Dir, assert_same};
use crate::oracle::{self, Expected, Options};
use colophon::scan;
use serde_json::{Value, json};
use std::path::Path;

/// Hostile lines are rejected by the hundred.
const ALLOW_ALL: [&str; 2] = ["--max-reject-ratio", "1"];

/// A folder with the mixed corpus as input.
fn mixed() -> (Dir, Vec<Shard>) {
    let (dir, shards) = (Dir::new(), corpus::mixed());
    corpus::write(&dir, "in", &shards);
    corpus::litter(&dir, "in");
    (dir, shards)
}

#[test]
fn an_export_is_what_the_contract_says() {
    let (dir, shards) = mixed();
    dir.export().args(ALLOW_ALL).run().status(0);
    let options = Options::default();
    let expected = Expected::new(&shards, &options);
    let reasons = expected.reasons();
    // Of the reasons, only a line of more than 1 GiB is missing.
    assert_eq!(reasons.len(), 8, "{reasons:?}");
    expected.check(&dir, "out");
    let files = [
        "README.md",
        "croissant.json",
        "dataset_stats.json",
        "domains.svg",
        "lengths.svg",
        "manifest.json",
        "quality.svg",
        "quarantine",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ];
    assert_eq!(dir.names("out"), files);
    // Neither stage nor lock is left.
    assert_eq!(dir.names("."), ["in", "out"]);
}

#[test]
fn other_seeds_and_splits_are_what_the_contract_says() {
    let (dir, shards) = mixed();
    let splits = vec![("a", 7), ("b-2", 0), ("c", 50), ("d_x.y", 42), ("e", 1)];
    let options = Options { seed: 18_446_744_073_709_551_615, splits };
    let args = [
        "--seed",
        "18446744073709551615",
        "--split-names",
        "a,b-2,c,d_x.y,e",
        "--split-ratio",
        "0.07,0,.50,0.420,0.01",
    ];
    dir.export().args(ALLOW_ALL).args(args).run().status(0);
    Expected::new(&shards, &options).check(&dir, "out");
    assert_eq!(dir.read("out/b-2.jsonl"), b"", "a split without a share");
}

/// Without a bad line there is no quarantine, and nothing of the demo's 705 documents is lost.
#[test]
fn sound_documents_all_arrive() {
    let dir = Dir::new();
    let shards: Vec<_> = corpus::classified()
        .into_iter()
        .enumerate()
        .map(|(i, lines)| Shard::new(&format!("{i}.jsonl"), lines))
        .collect();
    corpus::write(&dir, "in", &shards);
    dir.export().args(["--max-reject-ratio", "0"]).run().status(0);
    let options = Options::default();
    let expected = Expected::new(&shards, &options);
    expected.check(&dir, "out");
    assert_eq!(expected.ledger()["exported"], 705);
    assert!(!dir.path("out/quarantine").exists());
    let sum: usize =
        ["train", "validation", "test"].map(|s| dir.text(format!("out/{s}.jsonl")).lines().count()).iter().sum();
    assert_eq!(sum, 705);
}

/// The mapping once more, by values, and with the field names spelt out.
#[test]
fn values_arrive_under_their_new_names() {
    let dir = Dir::new();
    let lines = corpus::classified().concat();
    dir.write("in/a.jsonl", &lines);
    dir.export().args(["--split-ratio", "1", "--split-names", "all"]).run().status(0);
    let parse = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    let input = String::from_utf8(lines).expect("UTF-8");
    let output = dir.text("out/all.jsonl");
    assert_eq!(input.lines().count(), output.lines().count());
    for (from, to) in input.lines().zip(output.lines()) {
        let (from, to) = (parse(from), parse(to));
        let mut metadata = json!({});
        let names = [
            ("title", "title"),
            ("url", "source_url"),
            ("domain", "domain"),
            ("quality_prob", "quality_score"),
            ("word_count", "word_count"),
        ];
        for (old, new) in names.iter().filter(|(old, _)| !from[old].is_null()) {
            metadata[new] = from[old].clone();
        }
        metadata["source"] = "unknown".into();
        metadata["curation_pipeline"] = concat!("colophon-", env!("CARGO_PKG_VERSION")).into();
        metadata["curation_date"] = DATE.into();
        // As text, so that the order of the keys counts.
        assert_eq!(to.to_string(), json!({ "text": from["text"], "metadata": metadata }).to_string());
    }
}

/// Values that any parser between input and output would have changed.
#[test]
fn values_are_copied_byte_for_byte() {
    let dir = Dir::new();
    let input = concat!(
        r#" { "id" : "007", "word_count" : 12345678901234567890123456789.50, "quality_prob":1.0E-00400 ,"#,
        r#""text":"first", "title" : "\u00e9\/\u0041é\ud83d\ude00" , "url":null, "te\u0078t" : "\u0061\t\"\u2028"}  "#,
        "\r\n",
    );
    dir.write("in/a.jsonl", input);
    dir.export().args(["--split-ratio", "1", "--split-names", "all"]).run().status(0);
    let expected = concat!(
        r#"{"text":"\u0061\t\"\u2028","metadata":{"title":"\u00e9\/\u0041é\ud83d\ude00","quality_score":1.0E-00400,"#,
        r#""word_count":12345678901234567890123456789.50,"source":"unknown","curation_pipeline":"colophon-"#,
        env!("CARGO_PKG_VERSION"),
        "\",\"curation_date\":\"2024-01-15\"}}\n",
    );
    assert_eq!(dir.text("out/all.jsonl"), expected);
}

/// Done-when 4: threads, chunk sizes and scanners change how a run goes, not what it writes.
#[test]
fn threads_chunk_sizes_and_scanners_change_no_byte() {
    let (dir, _) = mixed();
    dir.export().args(ALLOW_ALL).args(["--scanner", "reference", "--threads", "1"]).run().status(0);
    let expected = dir.snapshot("out");
    let scanners = scan::available();
    assert!(scanners.len() >= 2, "nothing to compare the reference with");
    for scanner in scanners.iter().map(|scanner| scanner.name()) {
        for threads in ["1", "2", "7"] {
            for chunk_size in ["1", "64", "4096", "1MiB"] {
                let args = ["--scanner", scanner, "--threads", threads, "--chunk-size", chunk_size];
                dir.export().args(ALLOW_ALL).args(args).run().status(0);
                assert_same(&expected, &dir.snapshot("out"), &args.join(" "));
            }
        }
    }
    // A second run of the first configuration, into another folder: no trace of when or where.
    let other = format!("metadata.curation_date={DATE}");
    let args = ["export", "--input-dir", "in", "--output-dir", "elsewhere/other", "--set", &other];
    dir.colophon(args).args(ALLOW_ALL).run().status(0);
    assert_same(&expected, &dir.snapshot("elsewhere/other"), "another output folder");
}

/// Every layout of the split files holds the same lines, and is the same for any way of running.
#[test]
fn layouts_hold_the_same_lines() {
    let (dir, shards) = mixed();
    let options = Options::default();
    let expected = Expected::new(&shards, &options);
    let layouts: [&[&str]; 6] = [
        &["--shard-size", "20000"],
        &["--compress", "zstd"],
        &["--compress", "gzip"],
        &["--compress", "gzip", "--shard-size", "64KiB"],
        &["--compress", "zstd", "--shard-size", "9k"],
        &["--shard-size", "1GiB"],
    ];
    for layout in layouts {
        let run = |how: [&str; 4]| {
            dir.export().args(ALLOW_ALL).args(layout).args(how).run().status(0);
            dir.snapshot("out")
        };
        let one = run(["--threads", "1", "--chunk-size", "1MiB"]);
        expected.check(&dir, "out");
        for how in [["--threads", "7", "--chunk-size", "64"], ["--threads", "2", "--chunk-size", "4096"]] {
            assert_same(&one, &run(how), &format!("{layout:?} {how:?}"));
        }
        check_names(&dir, layout);
    }
}

/// Split files are named by their number and suffix, and there are no others.
fn check_names(dir: &Dir, layout: &[&str]) {
    let value_of = |flag| layout.iter().position(|arg| *arg == flag).map(|at| layout[at + 1]);
    let suffix = match value_of("--compress") {
        None => "",
        Some("gzip") => ".gz",
        Some(_) => ".zst",
    };
    let mut all = Vec::new();
    for split in ["train", "validation", "test"] {
        let files = oracle::split_files(dir, "out", split);
        let of = files.len();
        let names = (0..of).map(|i| match value_of("--shard-size") {
            None => format!("{split}.jsonl{suffix}"),
            Some(_) => format!("{split}-{i:05}-of-{of:05}.jsonl{suffix}"),
        });
        assert_eq!(files, names.collect::<Vec<_>>(), "{layout:?}");
        all.extend(files);
    }
    all.sort();
    let there = dir.names("out").into_iter().filter(|name| name.contains(".jsonl"));
    assert_eq!(there.collect::<Vec<_>>(), all, "{layout:?}");
}

#[test]
fn shards_are_filled_up_to_their_size() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::classified().concat());
    dir.export().run().status(0);
    let whole = dir.read("out/train.jsonl");
    let longest = whole.split_inclusive(|b| *b == b'\n').map(<[u8]>::len).max().expect("lines");
    // Below the longest line, at it, one above, and roomy.
    for size in [1, longest / 2, longest - 1, longest, longest + 1, 100_000] {
        dir.export().args(["--shard-size", &size.to_string()]).run().status(0);
        let files = oracle::split_files(&dir, "out", "train");
        let files: Vec<_> = files.iter().map(|file| dir.read(Path::new("out").join(file))).collect();
        assert!(files.concat() == whole, "the shards of {size} bytes, put together");
        let lines = |file: &[u8]| file.iter().filter(|b| **b == b'\n').count();
        for (file, next) in files.iter().zip(files.iter().skip(1).map(Some).chain([None])) {
            // Only a line longer than that has a file of its own.
            assert!(file.len() <= size || lines(file) == 1, "{} bytes in a file of {size}", file.len());
            let first_of_next =
                next.and_then(|next| next.split_inclusive(|b| *b == b'\n').next()).map_or(usize::MAX, <[u8]>::len);
            assert!(
                file.len().saturating_add(first_of_next) > size,
                "a file of {size} bytes has room for the next line"
            );
        }
    }
}

/// Whatever a shard is packed as and cut into, its documents and the places of its rejects are the same.
#[test]
fn packing_the_input_changes_nothing_but_names() {
    let lines = [corpus::classified().concat(), crate::hostile::chunk(9, 300)].concat();
    let outcome = |name: &str| {
        let dir = Dir::new();
        corpus::write(&dir, "in", &[Shard::new(name, lines.clone())]);
        dir.export().args(ALLOW_ALL).args(["--chunk-size", "3000"]).run().status(0);
        let index = dir.text("out/quarantine/index.jsonl").replace(name, "NAME");
        let quarantined = dir.read(Path::new("out/quarantine").join(name));
        let quarantined = Packing::of(Path::new(name)).unpack(&quarantined);
        let stats = dir.text("out/dataset_stats.json");
        (index, quarantined, stats, ["train", "validation", "test"].map(|split| dir.read(format!("out/{split}.jsonl"))))
    };
    let plain = outcome("a.jsonl");
    for name in ["a.jsonl.gz", "a.jsonl.zst", "a.ndjson", "a.ndjson.gz", "a.ndjson.zst"] {
        assert!(outcome(name) == plain, "{name}");
    }
}

/// Lines around the chunk size in length, long and short in turn: each is read once and whole.
#[test]
fn lines_around_the_chunk_size() {
    // All lengths from 0: spaces (blank), rubbish (rejected), and documents, which need 11 bytes.
    let line = |length: usize, kind: usize| match kind {
        0 => " ".repeat(length),
        1 => "x".repeat(length),
        _ if length < 12 => String::new(),
        _ => format!("{{\"text\":\"{}\"}}", "d".repeat(length - 11)),
    };
    let lines: String = (0..=140).flat_map(|n| (0..3).map(move |kind| line((n * 37) % 141, kind) + "\n")).collect();
    let large =
        |chunk: usize| (chunk - 2..=chunk + 2).map(|n| line(n, 2) + "\n" + &line(n - 1, 1) + "\n").collect::<String>();
    let lines = lines + &large(4096) + &large(8192) + &line(5000, 2);
    let shards = ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst"].map(|name| Shard::new(name, lines.clone()));
    let dir = Dir::new();
    corpus::write(&dir, "in", &shards);
    let options = Options::default();
    let expected = Expected::new(&shards, &options);
    for chunk_size in ["1", "2", "63", "64", "65", "100", "4095", "4096", "4097"] {
        dir.export().args(ALLOW_ALL).args(["--chunk-size", chunk_size]).run().status(0);
        expected.check(&dir, "out");
    }
}

/// A packed line that is longer than many chunks, with lines before and behind it.
#[test]
fn a_packed_line_longer_than_many_chunks() {
    let lines = corpus::documents(5) + &corpus::document(&"中文 x\u{1}".repeat(150_000)) + &corpus::documents(5);
    let shards = ["a.jsonl.gz", "b.jsonl.zst"].map(|name| Shard::new(name, lines.clone()));
    let dir = Dir::new();
    corpus::write(&dir, "in", &shards);
    for chunk_size in ["64", "4096", "100000"] {
        dir.export().args(["--chunk-size", chunk_size]).run().status(0);
        Expected::new(&shards, &Options::default()).check(&dir, "out");
    }
}

/// A packed split without a document is still a file that any tool can unpack.
#[test]
fn a_packed_split_without_documents_can_be_read() {
    for (method, suffix) in [("gzip", ".gz"), ("zstd", ".zst")] {
        let dir = Dir::new();
        dir.write("in/a.jsonl", corpus::documents(5));
        dir.export().args(["--compress", method, "--split-ratio", "1,0,0"]).run().status(0);
        assert!(!dir.read(format!("out/test.jsonl{suffix}")).is_empty(), "a file of 0 bytes is no {method} file");
        dir.colophon(["validate", "out"]).run().status(0);
        dir.colophon(["stats", "out"]).run().status(0);
    }
}

/// A folder, a file and a glob with the same shards give the same lines.
#[test]
fn input_is_a_folder_a_file_or_a_glob() {
    let dir = Dir::new();
    for name in ["a.jsonl", "b/c.jsonl", "b/d/e.ndjson", "b/d/f.jsonl.gz"] {
        corpus::write(&dir, "in", &[Shard::new(name, corpus::document(name))]);
    }
    corpus::litter(&dir, "in");
    let texts = |input: &str| {
        let args =
            ["export", "--input-dir", input, "--output-dir", "out", "--split-ratio", "1", "--split-names", "all"];
        dir.colophon(args).run().status(0);
        let text =
            |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["text"].as_str().expect("text").to_owned();
        dir.text("out/all.jsonl").lines().map(text).collect::<Vec<_>>()
    };
    let all = ["a.jsonl", "b/c.jsonl", "b/d/e.ndjson", "b/d/f.jsonl.gz"];
    assert_eq!(texts("in"), all);
    assert_eq!(texts("in/"), all);
    assert_eq!(texts("in/b/d/f.jsonl.gz"), ["b/d/f.jsonl.gz"]);
    assert_eq!(texts("in/*.jsonl"), ["a.jsonl"]);
    assert_eq!(texts("in/b/?.jsonl"), ["b/c.jsonl"]);
    assert_eq!(texts("in/**/*.jsonl"), ["a.jsonl", "b/c.jsonl"]);
    // Folders that match are searched through, as an input folder is.
    assert_eq!(texts("in/*"), all);
    assert_eq!(texts("in/[b]/*"), all[1..]);
}

/// A pattern that matches a folder and what is in it reads every shard once.
#[test]
fn a_glob_reads_no_shard_twice() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::document("a"));
    dir.write("in/b/c/d.jsonl", corpus::document("d"));
    let args = ["export", "--input-dir", "in/**/*", "--output-dir", "out", "--json"];
    let run = dir.colophon(args).run().status(0);
    assert_eq!(run.json()["ledger"]["exported"], 2, "documents of two shards: {}", dir.text("out/train.jsonl"));
}

/// The order of shards is that of their paths' bytes, whatever order the file system has.
#[test]
fn shards_come_in_the_order_of_their_paths() {
    let dir = Dir::new();
    let names =
        ["B.jsonl", "a-1.jsonl", "a.jsonl", "a/10.jsonl", "a/9.jsonl", "a0.jsonl", "b.jsonl", "é.jsonl", "中.jsonl"];
    for name in names.iter().rev() {
        dir.write(Path::new("in").join(name), corpus::document(name));
    }
    dir.export().args(["--split-ratio", "1", "--split-names", "all", "--threads", "7"]).run().status(0);
    let found = dir.text("out/all.jsonl");
    let expected: Vec<_> = names.iter().map(|name| format!("{{\"text\":\"{name}\"")).collect();
    assert!(found.lines().zip(&expected).all(|(line, start)| line.starts_with(start)), "{found}");
}

/// Rejected lines of shards that are named as the quarantine's own index.
#[test]
fn a_folder_named_as_the_index_is_no_obstacle() {
    let dir = Dir::new();
    dir.write("in/index.jsonl/part.jsonl", "bad\n");
    dir.export().args(ALLOW_ALL).run().status(0);
    let manifest = dir.json("out/manifest.json");
    oracle::check_files(&dir, "out", &manifest);
}
