//! `verify`: a sound export passes, and each fault crosses the item that it is a fault of.

use crate::corpus;
use crate::harness::Dir;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::os::unix::fs::symlink;

/// A finished export of the demo's documents.
fn exported(args: &[&str]) -> Dir {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::classified().concat());
    dir.export().args(args).run().status(0);
    dir
}

/// The items that are crossed, after a check of the status.
#[track_caller]
fn crossed(dir: &Dir) -> Vec<String> {
    let run = dir.colophon(["--json", "verify", "out"]).run();
    let report = run.json();
    let items = report["items"].as_array().expect("items");
    let of = |outcome: &str| {
        let items = items.iter().filter(|item| item["outcome"] == outcome);
        items.map(|item| item["item"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    let failed = of("failed");
    assert_eq!(report["passed"], failed.is_empty() && of("not_checked").is_empty());
    assert_eq!(items.len(), 12);
    run.status(i32::from(!failed.is_empty()));
    failed
}

/// The first problem of an item.
#[track_caller]
fn problem(dir: &Dir, item: &str) -> String {
    let report = dir.colophon(["--json", "verify", "out"]).run().json();
    let items = report["items"].as_array().expect("items");
    let item = items.iter().find(|found| found["item"] == item).expect("the item");
    item["first_problems"][0].as_str().unwrap_or_default().to_owned()
}

/// Changes a JSON file.
fn change(dir: &Dir, name: &str, change: impl FnOnce(&mut Value)) {
    let mut value = dir.json(name);
    change(&mut value);
    dir.write(name, serde_json::to_vec_pretty(&value).expect("JSON"));
}

/// Writes into the manifest what the files now are: a forger's work.
fn sign(dir: &Dir) {
    let entry = |file: &mut Value| {
        let bytes = dir.read(format!("out/{}", file["path"].as_str().expect("a path")));
        file["bytes"] = bytes.len().into();
        file["sha256"] = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
        if !file["documents"].is_null() {
            file["documents"] = bytes.iter().filter(|byte| **byte == b'\n').count().into();
        }
    };
    change(dir, "out/manifest.json", |manifest| {
        manifest["files"].as_array_mut().expect("files").iter_mut().for_each(entry)
    });
}

#[test]
fn a_sound_export_is_ticked_line_by_line() {
    let dir = exported(&[]);
    let expected = concat!(
        "✓ The export is complete (colophon ",
        env!("CARGO_PKG_VERSION"),
        ")\n✓ Every file is there (9 files)\n"
    );
    let run = dir.colophon(["verify", "out"]).run().status(0);
    assert!(run.stdout.starts_with(expected) && run.stdout.ends_with("\nVERIFIED\n"), "{}", run.stdout);
    assert_eq!(run.stdout.lines().filter(|line| line.starts_with("✓ ")).count(), 12, "{}", run.stdout);
    for args in [
        &["--shard-size", "100k"][..],
        &["--compress", "zstd"],
        &["--compress", "gzip", "--shard-size", "100k"],
        &["--no-card", "--split-names", "a-b", "--split-ratio", "1"],
        &["--set", "metadata.licence=CC \"BY\"", "--split-ratio", "1,0,0"],
    ] {
        assert_eq!(crossed(&exported(args)), [""; 0], "{args:?}");
    }
}

#[test]
fn an_export_with_rejects_or_without_documents_passes() {
    let dir = Dir::new();
    let shards = corpus::mixed();
    corpus::write(&dir, "in", &shards);
    dir.export().args(["--max-reject-ratio", "1"]).run().status(0);
    assert_eq!(crossed(&dir), [""; 0]);
    // The quarantine is a part of it.
    let index = dir.text("out/quarantine/index.jsonl");
    let shorter: String = index.split_inclusive('\n').skip(1).collect();
    dir.write("out/quarantine/index.jsonl", shorter);
    sign(&dir);
    assert_eq!(crossed(&dir), ["ledger"]);
    let dir = Dir::new();
    dir.write("in/a.jsonl", "\n");
    dir.export().run().status(0);
    assert_eq!(crossed(&dir), [""; 0]);
}

#[test]
fn schemas_of_every_kind_pass() {
    let dir = Dir::new();
    let line = json!({ "text": "a text", "meta": { "domain": "d" }, "n": 5, "x": null, "list": [1, { "a": "b" }] });
    dir.write("in/a.jsonl", format!("{line}\n"));
    let text = "[[field]]\nfrom = 'text'\nto = 'text'\ntype = 'string'\nrequired = true\n";
    let field = |from: &str, to: &str| format!("[[field]]\nfrom = '{from}'\nto = '{to}'\n");
    let jobs = [
        format!("default-constants = false\n{text}{}", field("meta", "metadata")),
        format!("default-constants = false\n{text}"),
        format!("{text}{}{}", field("n", "a.b.c"), field("x", "metadata?")),
        format!("{text}{}[constants]\nmetadata.f = 0.1\nmetadata.l = [1, 'x']\nb = true\n", field("list", "l")),
    ];
    for job in jobs {
        dir.write("job.toml", &job);
        dir.colophon(["export", "--input-dir", "in", "--output-dir", "out", "--job", "job.toml"]).run().status(0);
        assert_eq!(crossed(&dir), [""; 0], "{job}");
    }
}

#[test]
fn a_flipped_byte() {
    let dir = exported(&[]);
    let mut bytes = dir.read("out/train.jsonl");
    // In the middle of a word: the line stays a document.
    let at = bytes.windows(4).position(|window| window.iter().all(u8::is_ascii_lowercase)).expect("a word") + 500;
    let at = (at..).find(|at| bytes[*at].is_ascii_lowercase() && bytes[at + 1].is_ascii_lowercase()).expect("a letter");
    bytes[at] ^= 1;
    dir.write("out/train.jsonl", &bytes);
    assert_eq!(crossed(&dir).first().map(String::as_str), Some("sha256"));
    assert!(!crossed(&dir).contains(&"sizes".to_owned()));
    assert!(problem(&dir, "sha256").starts_with("train.jsonl has "), "{}", problem(&dir, "sha256"));
    // In a packed file nothing behind it can be read.
    for (suffix, method) in [("zst", "zstd"), ("gz", "gzip")] {
        let dir = exported(&["--compress", method]);
        let name = format!("out/train.jsonl.{suffix}");
        let mut bytes = dir.read(&name);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        dir.write(&name, &bytes);
        let crossed = crossed(&dir);
        assert!(crossed.starts_with(&["sha256".into()]) && !crossed.contains(&"sizes".into()), "{crossed:?}");
    }
}

#[test]
fn a_missing_file() {
    for name in ["test.jsonl", "lengths.svg", "README.md"] {
        let dir = exported(&[]);
        std::fs::remove_file(dir.path(format!("out/{name}"))).expect("removed");
        assert_eq!(crossed(&dir), ["files"], "{name}");
        assert_eq!(problem(&dir, "files"), format!("{name} is missing"));
    }
    let dir = exported(&[]);
    std::fs::remove_file(dir.path("out/test.jsonl")).expect("removed");
    let text = dir.colophon(["verify", "out"]).run().status(1).stdout;
    assert!(text.contains("✗ Every file is there\n    test.jsonl is missing\n"), "{text}");
    assert!(text.contains("- No text stands in two splits (not checked)\n"), "{text}");
    assert!(text.ends_with("NOT VERIFIED: 1 of 12 items failed\n"), "{text}");
    let dir = exported(&[]);
    std::fs::remove_file(dir.path("out/dataset_stats.json")).expect("removed");
    assert_eq!(crossed(&dir), ["files", "statistics"]);
}

#[test]
fn a_removed_line() {
    let dir = exported(&[]);
    let shorter: String = dir.text("out/train.jsonl").split_inclusive('\n').skip(1).collect();
    dir.write("out/train.jsonl", shorter);
    assert_eq!(crossed(&dir), ["sizes", "sha256", "counts", "statistics"]);
    let counts = problem(&dir, "counts");
    sign(&dir);
    assert_eq!(crossed(&dir), ["counts", "statistics"]);
    assert!(counts.starts_with("train has ") && counts.contains(", the manifest says "), "{counts}");
}

#[test]
fn a_changed_statistic() {
    let dir = exported(&[]);
    change(&dir, "out/dataset_stats.json", |stats| stats["splits"]["train"]["chars"]["p50"] = 7.into());
    sign(&dir);
    assert_eq!(crossed(&dir), ["statistics"]);
    assert!(
        problem(&dir, "statistics").starts_with("splits.train.chars.p50 is 7, "),
        "{}",
        problem(&dir, "statistics")
    );
    change(&dir, "out/dataset_stats.json", |stats| stats["domain_distribution"]["nowhere"] = 1.into());
    assert_eq!(crossed(&dir)[..2], ["sizes", "sha256"]);
    dir.write("out/dataset_stats.json", "{");
    sign(&dir);
    assert_eq!(crossed(&dir), ["statistics"]);
}

#[test]
fn a_text_in_two_splits() {
    let dir = exported(&[]);
    let train = dir.text("out/train.jsonl");
    // The same text, written otherwise: its first letter as an escape.
    let line = train.lines().find(|line| line[9..].starts_with(|c: char| c.is_ascii_alphabetic())).expect("a line");
    let copy = format!("{}\\u{:04x}{}", &line[..9], u32::from(line.as_bytes()[9]), &line[10..]);
    let test = dir.text("out/test.jsonl");
    let others = test.split_inclusive('\n').skip(1);
    dir.write("out/test.jsonl", others.fold(copy + "\n", |text, line| text + line));
    let found = crossed(&dir);
    assert!(found.contains(&"leakage".into()), "{found:?}");
    let place = train.lines().position(|other| other == line).expect("its place") + 1;
    assert_eq!(problem(&dir, "leakage"), format!("one text: train.jsonl, line {place}; test.jsonl, line 1"));
    // A forger who puts all else right is found all the same.
    dir.colophon(["stats", "out"]).run().status(0);
    sign(&dir);
    assert_eq!(crossed(&dir), ["statistics", "leakage"]);
    assert_eq!(problem(&dir, "statistics"), "leakage is 0, 1 was counted");
    change(&dir, "out/dataset_stats.json", |stats| stats["leakage"] = 1.into());
    sign(&dir);
    assert_eq!(crossed(&dir), ["leakage"]);
}

/// Where the split follows another field, texts may stand in two splits, as long as that is said.
#[test]
fn a_split_key_may_part_texts() {
    let dir = Dir::new();
    let lines: Vec<_> =
        (0..200).map(|i| json!({ "text": format!("text {}", i % 20), "domain": i.to_string() })).collect();
    dir.write("in/a.jsonl", lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    dir.export().args(["--split-key", "domain", "--split-ratio", "0.4,0.3,0.3"]).run().status(0);
    let leakage = dir.json("out/dataset_stats.json")["leakage"].as_u64().expect("a number");
    assert!(leakage > 10);
    assert_eq!(crossed(&dir), [""; 0]);
    let text = dir.colophon(["verify", "out"]).run().status(0).stdout;
    assert!(text.contains(&format!("(but for {leakage} that the split key parts")), "{text}");
    change(&dir, "out/dataset_stats.json", |stats| stats["leakage"] = 1.into());
    sign(&dir);
    assert_eq!(crossed(&dir), ["statistics", "leakage"]);
}

/// What selection leaves behind is an export like any other.
#[test]
fn selected_exports_pass() {
    for args in [
        &["--split-method", "exact", "--stratify-by", "domain", "--dedup", "exact"][..],
        &["--balance-by", "domain", "--balance", "equal", "--repeat-up-to", "3"],
        &["--min-quality", "0.7", "--sample", "0.5"],
    ] {
        assert_eq!(crossed(&exported(args)), [""; 0], "{args:?}");
    }
}

#[test]
fn a_stray_file() {
    let dir = exported(&[]);
    dir.write("out/more/extra.jsonl", "{}\n");
    assert_eq!(crossed(&dir), ["stray"]);
    assert_eq!(problem(&dir, "stray"), "more/extra.jsonl is not in the manifest");
    let dir = exported(&[]);
    symlink("/", dir.path("out/root")).expect("a link");
    assert_eq!(crossed(&dir), ["stray"]);
    // Hidden entries are nobody's data; the Hub and its tools leave some.
    let dir = exported(&[]);
    dir.write("out/.gitattributes", "*.jsonl filter=lfs\n");
    dir.write("out/.cache/huggingface/x", "");
    assert_eq!(crossed(&dir), [""; 0]);
}

#[test]
fn lines_that_are_no_documents() {
    for (line, item) in [
        ("not JSON", "json"),
        ("", "json"),
        ("[1]", "json"),
        (r#"{"metadata":{}}"#, "text"),
        (r#"{"text":"  ","metadata":{}}"#, "text"),
        (r#"{"text":"\u0000","metadata":{}}"#, "text"),
        (r#"{"text":5,"metadata":{}}"#, "text"),
        (r#"{"text":"x"}"#, "fields"),
        (r#"{"text":"x","metadata":{}}"#, "fields"),
        (r#"{"text":"x","metadata":{"title":7}}"#, "fields"),
    ] {
        let dir = exported(&[]);
        let test = dir.text("out/test.jsonl");
        let replaced: String = test.split_inclusive('\n').skip(1).collect();
        dir.write("out/test.jsonl", replaced + line + "\n");
        let found = crossed(&dir);
        let of_lines: Vec<_> =
            found.iter().filter(|item| ["json", "text", "fields"].contains(&item.as_str())).collect();
        assert_eq!(of_lines, [item], "{line}");
        let number = test.lines().count();
        assert!(problem(&dir, item).starts_with(&format!("test.jsonl, line {number}: ")), "{}", problem(&dir, item));
    }
}

#[test]
fn a_ledger_that_does_not_balance() {
    let dir = exported(&[]);
    change(&dir, "out/manifest.json", |manifest| manifest["ledger"]["lines"] = 5.into());
    assert_eq!(crossed(&dir), ["statistics", "ledger"]);
    let dir = exported(&[]);
    change(&dir, "out/manifest.json", |manifest| manifest["inputs"][0]["lines"] = 5.into());
    assert_eq!(crossed(&dir), ["ledger"]);
}

#[test]
fn folders_that_are_no_exports() {
    let dir = exported(&[]);
    dir.colophon(["verify", "nowhere"]).run().status(3).says(&["nowhere"]);
    dir.colophon(["verify", "in/a.jsonl"]).run().status(2).says(&["the folder of an export"]);
    let run = dir.colophon(["verify", "in"]).run().status(1);
    assert!(
        run.stdout.starts_with("✗ The export is complete\n    no manifest.json of colophon in in\n"),
        "{}",
        run.stdout
    );
    change(&dir, "out/manifest.json", |manifest| manifest["format"] = 99.into());
    dir.colophon(["verify", "out"]).run().status(2).says(&["format 99"]);
    dir.write("out/manifest.json", "{\"generator\":\"colophon 1\"");
    assert_eq!(crossed(&dir), ["complete"]);
}

/// A manifest is a stranger's word: it must not lead anywhere.
#[test]
fn a_manifest_leads_nowhere_else() {
    let dir = exported(&[]);
    for path in ["../in/a.jsonl", "/etc/passwd", "", "."] {
        change(&dir, "out/manifest.json", |manifest| manifest["files"][0]["path"] = path.into());
        let found = crossed(&dir);
        assert!(found.starts_with(&["files".into(), "stray".into()]), "{path}: {found:?}");
    }
}

#[test]
fn the_result_is_the_same_for_any_way_of_running() {
    let dir = exported(&[]);
    dir.write("out/test.jsonl", "x\n\n{}\n".repeat(20));
    let expected = dir.colophon(["verify", "out", "--threads", "1"]).run().status(1).stdout;
    assert!(expected.contains("    ... and "), "{expected}");
    for args in [["--threads", "7", "--chunk-size", "5"], ["--threads", "2", "--scanner", "reference"]] {
        dir.colophon(["verify", "out"]).args(args).run().status(1).prints(&expected);
    }
}
