//! What people and machines get to read: ledger, gate, validation, statistics, summary, demo.

use crate::corpus::{self, Shard};
use crate::harness::{Dir, Finished, assert_same};
use crate::oracle::{Expected, Options};
use serde_json::{Value, json};

/// A folder with so many sound and so many bad lines, and some blank ones.
fn with_rejects(sound: usize, bad: usize) -> Dir {
    let dir = Dir::new();
    dir.write("in/a.jsonl", format!("\n \n{}{}\n", corpus::documents(sound), "bad\n".repeat(bad)));
    dir
}

// ---- The ledger

/// A new volume's root is no reason not to write there; anything of a user's is.
#[test]
fn the_demo_takes_an_empty_volume_and_no_folder_of_others() {
    let dir = Dir::new();
    dir.folder("demo/lost+found");
    dir.colophon(["demo", "demo"]).run().status(0);
    dir.write("mine/notes.txt", "x");
    dir.colophon(["demo", "mine"]).run().status(2).says(&["mine holds 'notes.txt'"]);
}

#[test]
fn the_ledger_balances_everywhere() {
    let dir = Dir::new();
    corpus::write(&dir, "in", &corpus::mixed());
    let run = dir.export().args(["--json", "--max-reject-ratio", "1"]).run().status(0);
    let report = run.json();
    let ledger = &report["ledger"];
    let number = |key: &str| ledger[key].as_u64().unwrap_or_else(|| run.fail(&format!("no {key}")));
    let parts = ["blank", "rejected", "filtered", "duplicates", "sampled_out", "exported"];
    assert_eq!(number("lines"), parts.iter().map(|key| number(key)).sum::<u64>());
    assert!(number("blank") > 0 && number("rejected") > 0 && number("exported") > 700);
    let stats = dir.json("out/dataset_stats.json");
    assert_eq!(&stats["ledger"], ledger);
    assert_eq!(&dir.json("out/manifest.json")["ledger"], ledger);
    assert_eq!(report["rejects"], stats["rejects"]);
    let rejects: u64 = stats["rejects"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    assert_eq!(rejects, number("rejected"));
    for split in ["train", "validation", "test"] {
        assert_eq!(report["splits"][split], stats["splits"][split]["count"]);
        assert_eq!(stats["splits"][split]["count"], dir.text(format!("out/{split}.jsonl")).lines().count());
    }
}

#[test]
fn the_ledger_is_printed() {
    let run = with_rejects(99, 1).export().run().status(0);
    let expected =
        "Ledger: 103 lines = 3 blank + 1 rejected + 0 filtered + 0 duplicates + 0 sampled out + 99 exported\n";
    assert!(run.stdout.contains(expected), "{}", run.stdout);
    assert!(run.stdout.contains("invalid_json: 1"), "{}", run.stdout);
}

// ---- The gate

/// Of all lines that are not blank, exactly the allowed share may be rejected, and not one more.
#[test]
fn the_gate_is_exact() {
    for (sound, bad, ratio, status) in [
        (99, 1, None, 0),
        (98, 1, None, 1),
        (196, 4, Some("0.02"), 0),
        (195, 4, Some("0.02"), 1),
        (2, 1, Some("0.333333333333333333"), 1),
        (3, 1, Some("0.25"), 0),
        (1000, 1, Some("0"), 1),
        (10, 0, Some("0"), 0),
        (0, 3, Some("1"), 0),
        (0, 3, Some("0.999999999999999999"), 1),
    ] {
        let dir = with_rejects(sound, bad);
        let args: Vec<&str> = ratio.into_iter().flat_map(|ratio| ["--max-reject-ratio", ratio]).collect();
        let run = dir.export().args(args).run();
        if run.code() != Some(status) {
            run.fail(&format!("{bad} bad lines among {} with {ratio:?} should give {status}", sound + bad));
        }
    }
}

#[test]
fn a_failed_gate_leaves_the_earlier_export_and_something_to_look_at() {
    let dir = with_rejects(50, 0);
    dir.export().run().status(0);
    let earlier = dir.snapshot("out");
    dir.write("in/sub/b.jsonl", "bad\nworse\n");
    let run = dir.export().run().status(1).says(&["2 of 52", "--max-reject-ratio", "invalid_json 2", "out/failed"]);
    assert_eq!(run.stdout, "");
    assert_same(&earlier, &dir.snapshot("out").without("failed"), "the earlier export");
    check_failed(&dir, &[("sub/b.jsonl", "bad\nworse\n", 1)], 50);
    // The next failure replaces it.
    dir.write("in/sub/b.jsonl", corpus::documents(1) + "worst\n");
    dir.export().run().status(1).says(&["1 of 52"]);
    assert_same(&earlier, &dir.snapshot("out").without("failed"), "the earlier export, again");
    check_failed(&dir, &[("sub/b.jsonl", "worst\n", 2)], 51);
    // The next good export removes it, and is as if nothing had been.
    dir.write("in/sub/b.jsonl", "");
    dir.export().run().status(0);
    assert!(!dir.path("out/failed").exists());
    assert_eq!(dir.names("."), ["in", "out"]);
    Expected::new(&[Shard::new("a.jsonl", dir.read("in/a.jsonl")), Shard::new("sub/b.jsonl", "")], &Options::default())
        .check(&dir, "out");
}

/// Checks `failed/`: the quarantine, the statistics, and nothing else.
#[track_caller]
fn check_failed(dir: &Dir, rejects: &[(&str, &str, u64)], exported: u64) {
    assert_eq!(dir.names("out/failed"), ["dataset_stats.json", "quarantine"]);
    let mut files = vec!["index.jsonl".to_owned()];
    let index = dir.text("out/failed/quarantine/index.jsonl");
    for (name, bytes, line) in rejects {
        assert_eq!(dir.text(format!("out/failed/quarantine/{name}")), *bytes);
        assert!(index.starts_with(&format!("{{\"file\":\"{name}\",\"line\":{line},")), "{index}");
        files.push((*name).to_owned());
    }
    let found = dir.snapshot("out/failed/quarantine");
    assert_eq!(found.files().map(|(path, _)| path.to_string_lossy().into_owned()).collect::<Vec<_>>(), files);
    let stats = dir.json("out/failed/dataset_stats.json");
    assert_eq!(stats["ledger"]["exported"], exported);
    assert_eq!(stats["ledger"]["rejected"], index.lines().count());
}

#[test]
fn a_gate_that_fails_first_leaves_only_what_failed() {
    let dir = with_rejects(1, 1);
    dir.export().run().status(1);
    assert_eq!(dir.names("."), ["in", "out"]);
    assert_eq!(dir.names("out"), ["failed"]);
    // Nobody can mistake it for an export.
    dir.colophon(["validate", "out"]).run().status(1);
    dir.export().args(["--max-reject-ratio", "0.5"]).run().status(0);
    assert!(!dir.path("out/failed").exists());
}

// ---- Validation

/// The workshop's report, to the character. What Python says was found by running its step 5.
#[test]
fn validation_reports_as_the_workshop_does() {
    let dir = Dir::new();
    let line = |text: &str| format!("{{\"text\": {text}, \"metadata\": {{}}}}\n");
    dir.write(
        "data/train.jsonl",
        line("\"ab\"") + &line("\"a\\u4e2d\\ud83d\\ude00\"") + &line("\"12345\\n78\\u0085\""),
    );
    dir.write("data/validation.jsonl", line("\"ab\"") + &line("\"abc\""));
    dir.write("data/test.jsonl", "");
    let expected = "\
--- train ---
Documents: 3
Errors: 0
Avg text length: 5 chars
Min: 2, Max: 9

--- validation ---
Documents: 2
Errors: 0
Avg text length: 2 chars
Min: 2, Max: 3

--- test ---
Documents: 0
Errors: 0

ALL SPLITS PASSED VALIDATION
";
    // 14 / 3 is 4.67; 2.5 is rounded to the even 2.
    dir.colophon(["validate", "data"]).run().status(0).prints(expected);
}

#[test]
fn validation_names_what_is_wrong() {
    let dir = Dir::new();
    let bad = [
        "{\"text\": \"sound\", \"metadata\": {}}",
        "{\"text\": \"cut off",
        "{\"metadata\": {}}",
        "{\"text\": \" \\n\\u3000\", \"metadata\": {}}",
        "{\"text\": 7, \"metadata\": {}}",
        "{\"text\": \"a\\u0000b\"}",
        "{\"text\": \"no metadata\"}",
    ];
    dir.write("data/train.jsonl", bad.join("\n"));
    let types = ["null", "\"\"", "[1]", "{\"a\": 1}", "true", "1.5", "[ ]", "{}", "0", "-0.0", "false", "-1e5"];
    let line = |value: &&str| format!("{{\"text\": {value}, \"metadata\": {{}}}}\n");
    dir.write("data/test.jsonl", types[2..6].iter().map(line).collect::<String>());
    let expected = "\
--- train ---
Documents: 7
Errors: 7
  ! Line 2: Invalid JSON
  ! Line 3: Missing \"text\" field
  ! Line 4: Empty text
  ! Line 5: text is int, expected str
  ! Line 6: Contains null bytes
  ... and 2 more
Avg text length: 6 chars
Min: 3, Max: 11

--- validation --- FILE NOT FOUND
--- test ---
Documents: 4
Errors: 4
  ! Line 1: text is list, expected str
  ! Line 2: text is dict, expected str
  ! Line 3: text is bool, expected str
  ! Line 4: text is float, expected str

VALIDATION FAILED - see errors above
";
    dir.colophon(["validate", "data"]).run().status(1).prints(expected);
    // Values that Python takes for false are empty texts to it, whatever their type.
    dir.write("one/train.jsonl", types.iter().map(line).collect::<String>());
    let report = dir.colophon(["validate", "one/train.jsonl", "--json"]).run().status(1).json();
    let five = [
        "Empty text",
        "Empty text",
        "text is list, expected str",
        "text is dict, expected str",
        "text is bool, expected str",
    ];
    let first: Vec<_> = (1..).zip(five).map(|(n, error)| format!("Line {n}: {error}")).collect();
    assert_eq!(report["splits"][0]["first_errors"], json!(first));
    dir.write("one/train.jsonl", types[5..].iter().map(line).collect::<String>());
    let report = dir.colophon(["validate", "one/train.jsonl", "--json"]).run().status(1).json();
    let five = ["text is float, expected str", "Empty text", "Empty text", "Empty text", "Empty text"];
    let first: Vec<_> = (1..).zip(five).map(|(n, error)| format!("Line {n}: {error}")).collect();
    assert_eq!(report["splits"][0]["first_errors"], json!(first));
    assert_eq!(report["splits"][0]["errors"], 7);
}

/// A raw zero byte is no JSON to Python, so the workshop's report calls it that.
#[test]
fn validation_of_a_raw_zero_byte_is_that_of_the_workshop() {
    let dir = Dir::new();
    dir.write("a.jsonl", "{\"text\":\"a\0b\",\"metadata\":{}}\n");
    let expected = "\
--- a ---
Documents: 1
Errors: 1
  ! Line 1: Invalid JSON

VALIDATION FAILED - see errors above
";
    dir.colophon(["validate", "a.jsonl"]).run().status(1).prints(expected);
}

/// The first errors are those of the first lines, however the work is cut up.
#[test]
fn validation_is_the_same_for_any_number_of_threads() {
    let dir = Dir::new();
    dir.write("data/train.jsonl", crate::hostile::chunk(5, 2000));
    let report = |args: [&str; 4]| dir.colophon(["validate", "data"]).args(args).run().status(1).stdout;
    let expected = report(["--threads", "1", "--chunk-size", "1MiB"]);
    assert!(expected.contains("  ... and "), "{expected}");
    for args in [
        ["--threads", "7", "--chunk-size", "64"],
        ["--threads", "2", "--chunk-size", "4096"],
        ["--threads", "7", "--scanner", "reference"],
    ] {
        assert_eq!(report(args), expected, "{args:?}");
    }
}

/// An export passes in every layout; one that was tampered with does not.
#[test]
fn validation_knows_the_files_of_an_export() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::classified().concat());
    for layout in
        [&[][..], &["--shard-size", "50k"], &["--compress", "zstd"], &["--compress", "gzip", "--shard-size", "50k"]]
    {
        dir.export().args(layout).run().status(0);
        let report = dir.colophon(["validate", "out", "--json"]).run().status(0).json();
        assert_eq!(report["passed"], true);
        let splits: Vec<_> =
            report["splits"].as_array().into_iter().flatten().map(|s| (&s["split"], &s["documents"])).collect();
        let stats = dir.json("out/dataset_stats.json");
        let expected: Vec<_> =
            ["train", "validation", "test"].map(|name| (json!(name), stats["splits"][name]["count"].clone())).into();
        assert_eq!(splits, expected.iter().map(|(name, count)| (name, count)).collect::<Vec<_>>());
    }
    let file = crate::oracle::split_files(&dir, "out", "validation").remove(0);
    std::fs::remove_file(dir.path("out").join(file)).expect("remove");
    let run = dir.colophon(["validate", "out"]).run().status(1);
    assert!(run.stdout.contains("--- validation --- FILE NOT FOUND\n"), "{}", run.stdout);
    assert!(run.stdout.ends_with("\nVALIDATION FAILED - see errors above\n"), "{}", run.stdout);
}

/// Of a manifest that was cut off, the advice is to export again; so that has to work.
#[test]
fn a_damaged_manifest_is_named() {
    let dir = with_rejects(9, 0);
    dir.export().run().status(0);
    let manifest = dir.text("out/manifest.json");
    for text in [&manifest[..manifest.len() / 2], "", "{\"generator\":\"colophon 0.1.0\"}"] {
        dir.write("out/manifest.json", text);
        for command in ["validate", "stats"] {
            dir.colophon([command, "out"]).run().status(1).says(&["out/manifest.json", "export again"]);
        }
    }
    dir.export().run().status(0);
    assert_eq!(dir.text("out/manifest.json"), manifest);
}

/// Other programs have manifests, too: one of theirs is not read, and not replaced.
#[test]
fn a_manifest_of_another_program_is_left_alone() {
    let dir = with_rejects(9, 0);
    dir.export().run().status(0);
    for text in ["[]", "{\"files\":[]}", "null", "{\"generator\":\"webpack\",\"files\":[\"train.jsonl\"]}"] {
        dir.write("out/manifest.json", text);
        let before = dir.snapshot("out");
        dir.colophon(["validate", "out"]).run().status(0).says(&["out/manifest.json"]);
        dir.export().run().status(2).says(&["out", "manifest.json"]);
        assert_same(&before, &dir.snapshot("out"), text);
    }
}

#[test]
fn validation_takes_files_and_folders_without_splits() {
    let dir = Dir::new();
    let sound = "{\"text\":\"x\",\"metadata\":{}}\n";
    dir.write("data/one.jsonl", sound);
    dir.write("data/sub/two.ndjson", sound.repeat(2));
    let report = |args: &[&str]| {
        let report = dir.colophon(["validate", "--json"]).args(args).run().status(0).json();
        let splits = report["splits"].as_array().cloned().unwrap_or_default();
        splits.iter().map(|split| format!("{} {}", split["split"], split["documents"])).collect::<Vec<_>>()
    };
    assert_eq!(report(&["data"]), ["\"one.jsonl\" 1", "\"sub/two.ndjson\" 2"]);
    assert_eq!(report(&["data/sub/two.ndjson", "data/one.jsonl"]), ["\"two\" 2", "\"one\" 1"]);
    dir.colophon(["validate", "nothing"]).run().status(3).says(&["nothing"]);
    dir.folder("empty");
    dir.colophon(["validate", "empty"]).run().status(2).says(&["empty"]);
}

// ---- Statistics

#[test]
fn statistics_of_a_finished_export_do_not_change() {
    let dir = Dir::new();
    let shards = corpus::mixed();
    corpus::write(&dir, "in", &shards);
    for layout in
        [&[][..], &["--shard-size", "50k"], &["--compress", "zstd"], &["--compress", "gzip", "--shard-size", "50k"]]
    {
        dir.export().args(["--max-reject-ratio", "1"]).args(layout).run().status(0);
        let before = dir.snapshot("out");
        let run = dir.colophon(["stats", "out", "--threads", "7", "--chunk-size", "100"]).run().status(0);
        assert_same(&before, &dir.snapshot("out"), &format!("{layout:?}"));
        // What is printed is what is written.
        run.prints(&dir.text("out/dataset_stats.json"));
    }
}

/// Files that no export made, as the workshop's step 6 counts them.
#[test]
fn statistics_of_any_splits() {
    let dir = Dir::new();
    let lines = [
        json!({ "text": "two words", "metadata": { "domain": "a", "quality_score": 0.8, "word_count": 2 } }),
        json!({ "text": "中文\u{3000}x", "metadata": { "domain": "é", "quality_score": 0.79999, "word_count": 5 } }),
        json!({ "text": "three", "metadata": { "quality_score": 0.6 } }),
        json!({ "text": "four", "metadata": { "domain": "a", "quality_score": 0.5999 } }),
        json!({ "text": "five" }),
    ];
    dir.write("data/train.jsonl", lines.map(|line| line.to_string() + "\n").concat());
    dir.write("data/test.jsonl", "");
    let stats = dir.colophon(["stats", "data"]).run().status(0).json();
    assert_eq!(stats, dir.json("data/dataset_stats.json"));
    assert_eq!(stats["total_documents"], 5);
    let train = &stats["splits"]["train"];
    assert_eq!(train["count"], 5);
    assert_eq!(train["avg_text_length"], (9 + 4 + 5 + 4 + 4) as f64 / 5.0);
    assert_eq!(
        (&train["total_chars"], &train["total_words"], &train["counted_words"]),
        (&json!(26), &json!(7), &json!(7))
    );
    assert_eq!(stats["splits"]["test"]["avg_text_length"], 0);
    assert_eq!(
        stats["splits"].as_object().map(|splits| splits.keys().cloned().collect::<Vec<_>>()),
        Some(vec!["train".into(), "test".into()])
    );
    assert_eq!(stats["domain_distribution"], json!({ "a": 2, "é": 1, "unknown": 2 }));
    assert_eq!(stats["quality_distribution"], json!({ "high": 1, "medium": 2, "low": 2 }));
    dir.colophon(["stats", "none"]).run().status(3).says(&["none"]);
}

/// A quality is a number, however it is written.
#[test]
fn qualities_are_compared_as_numbers() {
    let classes = [
        (
            "high",
            vec!["0.8", "8e-1", "80E-2", "0.80", "1", "1e400", "0.8000000000000000444", "0.79999999999999999", "0.9"],
        ),
        (
            "medium",
            vec![
                "0.79999999999999993",
                "0.7999999",
                "0.6",
                "6e-1",
                "600e-3",
                "0.60000000000000001",
                "0.59999999999999998",
            ],
        ),
        (
            "low",
            vec![
                "0.59999999999999992",
                "0.5999",
                "0",
                "-0.0",
                "-0.9",
                "-8e-1",
                "0.08e0",
                "1e-400",
                "0.0000000000000000008",
                "5.9e-1",
            ],
        ),
    ];
    let line = |quality: &&str| format!("{{\"text\":\"x\",\"metadata\":{{\"quality_score\":{quality}}}}}\n");
    let dir = Dir::new();
    for (class, qualities) in classes {
        for quality in &qualities {
            dir.write("data/train.jsonl", line(quality));
            let stats = dir.colophon(["stats", "data"]).run().status(0).json();
            assert_eq!(stats["quality_distribution"][class], 1, "{quality} is {class}");
        }
    }
}

// ---- Summary and demo

const TABLE: &str = "\
======================================================================
TECHPULSE MEDIA - DATA CURATION PIPELINE SUMMARY
======================================================================
Stage                      Documents  Reduction
----------------------------------------------------------------------
01 - Download                  1,000              Raw web documents
02 - Extract                     945      -5.5%   After text extraction + lang ID
03a - Exact Dedup                920      -2.6%   After hash-based dedup
03b - Fuzzy Dedup                800     -13.0%   After MinHash LSH dedup
04 - Filter                      705     -11.9%   After quality filtering
05 - Classify                    705      -0.0%   After domain classification
06 - Export                      705      -0.0%   Final curated dataset
----------------------------------------------------------------------
Pipeline complete. Dataset ready for LLM training.
";

/// The first command of a new user.
#[test]
fn the_demo_runs_anywhere() {
    let dir = Dir::new();
    let run = dir.colophon(["demo"]).run().status(0);
    check_demo(&run);
    dir.colophon(["summary", "colophon-demo"]).run().status(0).prints(TABLE);
    dir.colophon(["validate", "colophon-demo/export"]).run().status(0);
    let stages =
        [".colophon-demo", "classified", "exact-deduped", "export", "extracted", "filtered", "fuzzy-deduped", "raw"];
    assert_eq!(dir.names("colophon-demo"), stages);
    // The same again, in the same place and in another: the same bytes.
    let first = dir.snapshot("colophon-demo");
    check_demo(&dir.colophon(["demo"]).run().status(0));
    check_demo(&dir.colophon(["demo", "some/where"]).env("COLOPHON_THREADS", "1").run().status(0));
    assert_same(&first, &dir.snapshot("colophon-demo"), "the demo, again");
    assert_same(&first, &dir.snapshot("some/where"), "the demo elsewhere");
}

#[track_caller]
fn check_demo(run: &Finished) {
    if !run.stdout.contains("ALL SPLITS PASSED VALIDATION\n") || !run.stdout.ends_with(TABLE) {
        run.fail("not the demo's end");
    }
    let count = |split: &str| {
        let (_, after) =
            run.stdout.split_once(&format!("--- {split} ---\nDocuments: ")).unwrap_or_else(|| run.fail(split));
        after.lines().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_else(|| run.fail(split))
    };
    let [train, validation, test] = ["train", "validation", "test"].map(count);
    assert_eq!(train + validation + test, 705);
    // The workshop has ~670, ~21 and ~14.
    assert!(
        (650..690).contains(&train) && (10..35).contains(&validation) && (5..28).contains(&test),
        "{train} {validation} {test}"
    );
}

#[test]
fn the_demo_keeps_out_of_folders_that_are_not_its_own() {
    let dir = Dir::new();
    dir.write("mine/thesis.txt", "precious");
    let before = dir.snapshot(".");
    dir.colophon(["demo", "mine"]).run().status(2).says(&["mine", "'thesis.txt'"]);
    assert_same(&before, &dir.snapshot("."), "somebody's folder");
    dir.write("file", "x");
    dir.colophon(["demo", "file"]).run().status(3).says(&["file"]);
}

/// A folder of one's own that has only some of the stages, in more than one form.
#[test]
fn the_summary_counts_what_is_there() {
    let dir = Dir::new();
    let shards = |names: &[&str]| names.iter().map(|name| Shard::new(name, corpus::documents(500))).collect::<Vec<_>>();
    corpus::write(&dir, "data/raw/wikipedia", &shards(&["a.jsonl", "b.jsonl.gz", "c.jsonl.zst"]));
    corpus::write(&dir, "data/filtered", &shards(&["a.jsonl", "sub/not-counted.jsonl"]));
    // Without its last line feed a line is a line; hidden files are none.
    dir.write("data/filtered/b.jsonl", corpus::documents(2).trim_end());
    dir.write("data/filtered/.c.jsonl", corpus::documents(2));
    let report = dir.colophon(["summary", "data", "--json"]).run().status(0).json();
    let documents: Vec<Value> =
        report.as_array().into_iter().flatten().map(|stage| stage["documents"].clone()).collect();
    assert_eq!(documents, [1500, 0, 0, 0, 502, 0, 0].map(Value::from));
    dir.colophon(["summary", "nowhere"]).run().status(3).says(&["nowhere"]);
}

#[test]
fn devices_lists_every_scanner() {
    let dir = Dir::new();
    let report = dir.colophon(["devices", "--json"]).run().status(0).json();
    let listed: Vec<_> = report["scanners"].as_array().into_iter().flatten().map(|s| s["scanner"].clone()).collect();
    let names: Vec<_> = colophon::scan::available().iter().map(|scanner| Value::from(scanner.name())).collect();
    assert_eq!(listed, names);
    let text = dir.colophon(["devices"]).run().status(0).stdout;
    assert!(names.iter().all(|name| text.contains(name.as_str().unwrap_or("?"))) && text.contains("GB/s"), "{text}");
}
