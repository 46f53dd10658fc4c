//! Which documents are exported, to which split, how often; and `plan`, which says so beforehand.

use crate::corpus::{self, Packing};
use crate::harness::{Dir, Mount, Running, SLOW, assert_same};
use proptest::prelude::*;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A document with a text and what else there is.
fn document(text: &str, others: &[(&str, Value)]) -> String {
    let mut object = json!({ "text": text });
    others.iter().for_each(|(key, value)| object[*key] = value.clone());
    object.to_string() + "\n"
}

/// So many documents with domains a to d (and some without), the larger ones rarer; each text once.
fn varied(count: usize) -> String {
    let domain = |i: usize| ["a", "a", "a", "a", "b", "b", "c", "a", "d", ""][i * 7 % 10];
    let line = |i: usize| {
        let text = format!("document {i} {}", "word ".repeat(i % 13));
        match domain(i) {
            "" => document(&text, &[("url", json!(format!("u{}", i % 50)))]),
            domain => document(
                &text,
                &[
                    ("domain", json!(domain)),
                    ("quality_prob", json!(i as f64 / count as f64)),
                    ("url", json!(format!("u{}", i % 50))),
                ],
            ),
        }
    };
    (0..count).map(line).collect()
}

/// An exported line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    split: String,
    text: String,
    domain: Option<String>,
    url: Option<String>,
}

/// All lines of an export.
#[track_caller]
fn lines(dir: &Dir, output: &str) -> Vec<Line> {
    let manifest = dir.json(Path::new(output).join("manifest.json"));
    let names = manifest["splits"].as_array().expect("splits").iter();
    let names = names.map(|split| split["name"].as_str().expect("a name").to_owned());
    let of_split = |split: String| {
        let text = String::from_utf8(crate::oracle::split_lines(dir, output, &split)).expect("UTF-8");
        let line = move |line: &str| {
            let document: Value = serde_json::from_str(line).expect("JSON");
            let text = |value: &Value| value.as_str().map(String::from);
            Line {
                split: split.clone(),
                text: text(&document["text"]).expect("text"),
                domain: text(&document["metadata"]["domain"]),
                url: text(&document["metadata"]["source_url"]),
            }
        };
        text.lines().map(line).collect::<Vec<_>>()
    };
    names.flat_map(of_split).collect()
}

fn texts(dir: &Dir, output: &str) -> Vec<String> {
    lines(dir, output).into_iter().map(|line| line.text).collect()
}

/// The split of each text; a text in two splits fails the test.
#[track_caller]
fn split_of(lines: &[Line]) -> BTreeMap<&str, &str> {
    let mut splits = BTreeMap::new();
    for line in lines {
        let known = splits.insert(line.text.as_str(), line.split.as_str());
        assert!(known.is_none_or(|known| known == line.split), "{} stands in two splits", line.text);
    }
    splits
}

fn counts<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, u64> {
    keys.fold(BTreeMap::new(), |mut counts, key| {
        *counts.entry(key).or_default() += 1;
        counts
    })
}

#[track_caller]
fn ledger(dir: &Dir, output: &str) -> BTreeMap<String, u64> {
    let ledger = dir.json(Path::new(output).join("dataset_stats.json"))["ledger"].clone();
    let ledger: BTreeMap<String, u64> = serde_json::from_value(ledger).expect("a ledger");
    let parts = ["blank", "rejected", "filtered", "duplicates", "sampled_out", "exported"];
    assert_eq!(ledger["lines"], parts.iter().map(|part| ledger[*part]).sum::<u64>(), "{ledger:?}");
    ledger
}

fn with(lines: &str) -> Dir {
    let dir = Dir::new();
    dir.write("in/a.jsonl", lines);
    dir
}

/// The figure that a plan has for what an export did.
#[track_caller]
fn check_plan(dir: &Dir, args: &[&str]) {
    let before = dir.snapshot(".");
    let plan = dir.colophon(["--json", "plan", "--input-dir", "in"]).args(args).run();
    assert_same(&before, &dir.snapshot("."), "a plan writes nothing");
    if plan.code() != Some(0) {
        plan.fail("no plan");
    }
    let plan = plan.json();
    let stats = dir.json("out/dataset_stats.json");
    assert_eq!(plan["ledger"], stats["ledger"], "{args:?}");
    assert_eq!(plan["leakage"], stats["leakage"], "{args:?}");
    for (name, split) in stats["splits"].as_object().expect("splits") {
        let planned = &plan["splits"][name];
        let lines = planned["documents"].as_u64().expect("documents") + planned["repeats"].as_u64().expect("repeats");
        let found = (&split["count"], &split["total_chars"], &split["counted_words"]);
        assert_eq!((&json!(lines), &planned["chars"], &planned["words"]), found, "{name} {args:?}");
    }
}

// ---- filters ----

#[test]
fn filters_keep_what_was_asked_for() {
    let dir = with(
        &[
            document("one", &[("domain", json!("a")), ("quality_prob", json!(0.5))]),
            document("two words", &[("domain", json!("b")), ("quality_prob", json!(0.49))]),
            document("and three words", &[("domain", json!("unknown")), ("quality_prob", json!(1))]),
            document("nothing known here", &[]),
            document("é中", &[("domain", json!("a,b")), ("quality_prob", json!(-1))]),
        ]
        .concat(),
    );
    let (one, two, three, nothing, wide) = ("one", "two words", "and three words", "nothing known here", "é中");
    let cases: [(&[&str], &[&str]); 12] = [
        (&["--min-quality", "0.5"], &[one, three, nothing]),
        (&["--min-quality", "-1"], &[one, two, three, nothing, wide]),
        (&["--min-words", "2"], &[two, three, nothing]),
        (&["--max-words", "1"], &[one, wide]),
        (&["--min-words", "2", "--max-words", "2"], &[two]),
        (&["--min-chars", "3"], &[one, two, three, nothing]),
        (&["--max-chars", "3"], &[one, wide]),
        (&["--domains", "a,b"], &[one, two, nothing]),
        (&["--exclude-domains", "a"], &[two, three, nothing, wide]),
        (&["--exclude-domains", "unknown"], &[one, two, wide]),
        (&["--domains", "a,b", "--exclude-domains", "b,unknown"], &[one]),
        (&["--domains", "a", "--min-quality", "0.6"], &[nothing]),
    ];
    for (args, expected) in cases {
        dir.export().args(args).run().status(0);
        let found: BTreeSet<String> = texts(&dir, "out").into_iter().collect();
        assert_eq!(found, expected.iter().map(|t| (*t).to_owned()).collect(), "{args:?}");
        assert_eq!(ledger(&dir, "out")["filtered"], 5 - expected.len() as u64, "{args:?}");
        check_plan(&dir, args);
    }
    dir.export().args(["--min-quality", "0.5"]).run().says(&["--min-quality: 1 documents", "required = true"]);
    dir.export().args(["--domains", "a"]).run().says(&["--domains: 1 documents", "--exclude-domains unknown"]);
}

#[test]
fn a_job_file_filters_by_any_mapped_field() {
    let dir = with(
        &[
            document("one", &[("n", json!(1)), ("tag", json!("x\"y")), ("meta", json!({ "site": "s1" }))]),
            document("two", &[("n", json!(2.5)), ("tag", json!("z")), ("meta", json!({ "site": "s2" }))]),
            document("three", &[("n", json!("3")), ("tag", json!(true)), ("meta", json!("none"))]),
            document("four", &[]),
        ]
        .concat(),
    );
    let fields = ["n", "tag", "meta"].map(|name| format!("[[field]]\nfrom = '{name}'\nto = 'm.{name}'\n")).concat();
    let job = "[[field]]\nfrom = 'text'\nto = 'text'\ntype = 'string'\nrequired = true\n".to_owned() + &fields;
    for (filters, expected) in [
        ("field = 'n'\nmin = 2", "two three four"),
        ("field = 'm.n'\nmin = 1\nmax = 2.4", "one three four"),
        ("field = 'n'\nmin = 0\nrequired = true", "one two"),
        ("field = 'n'\nrequired = true", "one two three"),
        ("field = 'n'\nin = [1, '3']", "one three four"),
        ("field = 'n'\nin = [1.0]\nrequired = true", "one"),
        ("field = 'n'\nnot_in = [1]", "two three four"),
        ("field = 'tag'\nin = ['x\"y', true]", "one three four"),
        ("field = 'tag'\nnot_in = ['z']\nrequired = true", "one three"),
        ("field = 'meta.site'\nin = ['s2']\nrequired = true", "two"),
        ("field = 'n'\nmin = 2\n[[filter]]\nfield = 'tag'\nin = ['z']", "two four"),
    ] {
        dir.write("job.toml", format!("{job}\n[[filter]]\n{filters}\n"));
        dir.export().args(["--job", "job.toml"]).run().status(0);
        let found: BTreeSet<String> = texts(&dir, "out").into_iter().collect();
        assert_eq!(found, expected.split(' ').map(String::from).collect(), "{filters}");
    }
    let shown = &dir.json("out/manifest.json")["configuration"]["filters"];
    let first = json!({ "field": "n", "min": 2, "required": false });
    assert_eq!(*shown, json!([first, { "field": "tag", "in": ["z"], "required": false }]));
}

// ---- exact duplicates ----

/// The same text however it is escaped, in shards of every kind; the first in input order stays.
#[test]
fn of_equal_texts_the_first_stays() {
    let dir = Dir::new();
    let line = |text: &str, url: &str| format!("{{\"text\":\"{text}\",\"url\":\"{url}\"}}\n");
    let shards = [
        ("a.jsonl", [line("x", "1"), line("y", "2"), line("\\u0078", "3")].concat()),
        ("b.jsonl.gz", [line("z", "4"), line("x", "5"), line("\\u007a", "6"), line("z ", "7")].concat()),
        ("c.jsonl.zst", [line("z", "8"), line("w", "9"), line("\\u0079", "10"), line("w", "11")].concat()),
        ("d.jsonl", [line("w", "12"), line("v", "13")].concat()),
    ];
    for (name, lines) in &shards {
        dir.write(Path::new("in").join(name), Packing::of(Path::new(name)).pack(lines.as_bytes()));
    }
    for chunk in ["512KiB", "1"] {
        dir.export().args(["--dedup", "exact", "--chunk-size", chunk]).run().status(0);
        let urls: BTreeSet<String> = lines(&dir, "out").into_iter().filter_map(|line| line.url).collect();
        assert_eq!(urls, ["1", "2", "4", "7", "9", "13"].map(String::from).into(), "{chunk}");
        assert_eq!(ledger(&dir, "out")["duplicates"], 7);
        check_plan(&dir, &["--dedup", "exact"]);
    }
    // What a filter leaves out is nobody's duplicate.
    dir.write("job.toml", "[[filter]]\nfield = 'url'\nnot_in = ['1', '4']\n");
    dir.export().args(["--dedup", "exact", "--job", "job.toml"]).run().status(0);
    let urls: BTreeSet<String> = lines(&dir, "out").into_iter().filter_map(|line| line.url).collect();
    assert_eq!(urls, ["2", "3", "6", "7", "9", "13"].map(String::from).into());
}

/// Two texts made to have the same XXH3-64 under this seed.
const COLLIDING: (&str, [&str; 2]) =
    ("3612290442942540736", ["y%c\u{3c0}\u{28d9}\u{4ca}\u{b485}t,c", "g<Z|6|O0zfu$6M5}"]);

#[test]
fn different_texts_of_one_hash_are_no_duplicates() {
    let (seed, [one, other]) = COLLIDING;
    let hash = |text: &str| twox_hash::XxHash3_64::oneshot_with_seed(seed.parse().expect("a number"), text.as_bytes());
    assert_eq!(hash(one), hash(other));
    for shard in ["a.jsonl", "a.jsonl.zst"] {
        let dir = Dir::new();
        let lines = [one, other, other, one].map(|text| document(text, &[])).concat();
        dir.write(Path::new("in").join(shard), Packing::of(Path::new(shard)).pack(lines.as_bytes()));
        dir.export().args(["--dedup", "exact", "--seed", seed]).run().status(0);
        assert_eq!(texts(&dir, "out").into_iter().collect::<BTreeSet<_>>(), [one, other].map(String::from).into());
        assert_eq!((ledger(&dir, "out")["duplicates"], texts(&dir, "out").len()), (2, 2));
        // Nor does one of them leak into the other's split.
        let keyed = [document(one, &[("url", json!("u1"))]), document(other, &[("url", json!("u8"))])].concat();
        dir.write(Path::new("in").join(shard), Packing::of(Path::new(shard)).pack(keyed.as_bytes()));
        let args = ["--split-key", "url", "--split-ratio", "0.5,0.5,0", "--seed", seed];
        dir.export().args(args).run().status(0);
        assert_eq!(counts(lines_of(&dir).iter().map(|line| line.split.clone())).len(), 2, "not in two splits");
        assert_eq!(dir.json("out/dataset_stats.json")["leakage"], 0);
    }
}

fn lines_of(dir: &Dir) -> Vec<Line> {
    lines(dir, "out")
}

// ---- samples ----

#[test]
fn a_sample_is_decided_by_seed_and_text_alone() {
    let dir = with(&varied(2000));
    let sample = |args: &[&str]| -> BTreeSet<String> {
        dir.export().args(["--sample", "0.3"]).args(args).run().status(0);
        texts(&dir, "out").into_iter().collect()
    };
    let first = sample(&[]);
    assert!((480..720).contains(&first.len()), "{} of 2000", first.len());
    assert_eq!(ledger(&dir, "out")["sampled_out"], 2000 - first.len() as u64);
    let chance = colophon::domain::chance::Chance::new(42);
    let is_in = |text: &str| {
        let hash = twox_hash::XxHash3_64::oneshot_with_seed(42, text.as_bytes());
        (chance.of(hash) as f64) < 0.3 * 2f64.powi(64)
    };
    assert!(first.iter().all(|text| is_in(text)));
    // The same where a plan is made, for other reasons.
    assert_eq!(sample(&["--dedup", "exact"]), first);
    assert_ne!(sample(&["--seed", "7"]), first);
    dir.export().args(["--sample", "1"]).run().status(0);
    assert_eq!(texts(&dir, "out").len(), 2000);
    check_plan(&dir, &["--sample", "1"]);
}

#[test]
fn so_many_documents_and_no_more() {
    let dir = with(&(varied(500) + &varied(100)));
    let mut before = BTreeSet::new();
    for most in [1, 7, 250, 599, 600] {
        dir.export().args(["--max-documents", &most.to_string()]).run().status(0);
        let found = texts(&dir, "out");
        assert_eq!(found.len(), most);
        let found: BTreeSet<String> = found.into_iter().collect();
        assert!(found.is_superset(&before), "those of a smaller number are among those of a larger one");
        before = found;
        check_plan(&dir, &["--max-documents", &most.to_string()]);
    }
    let run = dir.export().args(["--max-documents", "601"]).run().status(0);
    run.says(&["--max-documents 601", "only 600 documents"]);
}

// ---- balance ----

#[test]
fn balanced_shares_are_within_one_document_of_their_targets() {
    let dir = with(&varied(3000));
    // a 1500, b 600, c 300, d 300, unknown 300
    let found = [("a", 1500), ("b", 600), ("c", 300), ("d", 300), ("unknown", 300)];
    let weights = |of: &dyn Fn(&str, f64) -> f64| found.map(|(name, n)| of(name, f64::from(n)));
    let cases: [(&str, [f64; 5]); 5] = [
        ("equal", weights(&|_, _| 1.0)),
        ("temperature=1", weights(&|_, n| n)),
        ("temperature=2", weights(&|_, n| n.sqrt())),
        ("temperature=0.5", weights(&|_, n| n * n)),
        (
            "weights=a:2,b:0.5,*:1.25",
            weights(&|name, _| match name {
                "a" => 2.0,
                "b" => 0.5,
                _ => 1.25,
            }),
        ),
    ];
    for (mode, weights) in cases {
        for extra in [
            &[][..],
            &["--split-method", "exact"],
            &["--max-documents", "501"],
            &["--split-method", "exact", "--stratify-by", "url"],
        ] {
            let args = [&["--balance-by", "domain", "--balance", mode], extra].concat();
            dir.export().args(&args).run().status(0);
            let by_domain = counts(lines_of(&dir).into_iter().map(|l| l.domain.unwrap_or("unknown".into())));
            let total: u64 = by_domain.values().sum();
            let sum: f64 = weights.iter().sum();
            for ((name, n), weight) in found.iter().zip(weights) {
                let (target, taken) = (total as f64 * weight / sum, by_domain.get(*name).copied().unwrap_or(0));
                assert!((taken as f64 - target).abs() < 1.0 && taken <= *n as u64, "{args:?} {name}: {taken} {target}");
            }
            let largest = found.iter().zip(weights).map(|((_, n), w)| (f64::from(*n) * sum / w + 1e-6) as u64).min();
            let expected = if extra.contains(&"501") { 501 } else { largest.expect("values") };
            assert_eq!(total, expected, "{args:?}");
            check_plan(&dir, &args);
        }
    }
}

#[test]
fn what_is_too_small_is_repeated_in_train_alone() {
    let dir = with(&varied(3000));
    for (repeats, method) in [("2", "hash"), ("3", "hash"), ("3", "exact"), ("50", "exact"), ("50", "hash")] {
        let args = ["--balance-by", "metadata.domain", "--repeat-up-to", repeats, "--split-method", method];
        let args = [&args[..], &["--split-ratio", "0.8,0.1,0.1"]].concat();
        dir.export().args(&args).run().status(0);
        let lines = lines_of(&dir);
        let by_text = counts(lines.iter().map(|line| line.text.clone()));
        let splits = split_of(&lines);
        let most = by_text.values().max().copied().expect("lines");
        assert!(most <= repeats.parse().expect("a number"), "{args:?}: {most} times");
        assert!(most > 1 && by_text.iter().all(|(text, times)| *times == 1 || splits[text.as_str()] == "train"));
        let by_domain = counts(lines.iter().map(|line| line.domain.clone()));
        let (least, most) = (by_domain.values().min().copied(), by_domain.values().max().copied());
        assert!(most.expect("lines") - least.expect("lines") <= 1, "{args:?}: {by_domain:?}");
        let ledger = ledger(&dir, "out");
        assert_eq!(ledger["repeats"], (lines.len() - by_text.len()) as u64);
        assert_eq!(ledger["exported"], by_text.len() as u64);
        assert!(lines.len() > 1500, "more than without repeats: {}", lines.len());
        check_plan(&dir, &args);
        // Copies of a value differ by one at most.
        for domain in by_domain.keys() {
            let train = lines.iter().filter(|line| line.domain == *domain && line.split == "train");
            let times = counts(train.map(|line| line.text.clone()));
            let range = (times.values().min().expect("train"), times.values().max().expect("train"));
            assert!(range.1 - range.0 <= 1, "{domain:?}: {range:?}");
        }
    }
    dir.colophon(["validate", "out"]).run().status(0);
    let before = dir.json("out/dataset_stats.json");
    dir.colophon(["stats", "out"]).run().status(0);
    assert_eq!(dir.json("out/dataset_stats.json"), before);
}

// ---- splits ----

/// Section 5: largest remainders, also within each value.
fn due(documents: u64, hundredths: &[u64]) -> Vec<u64> {
    let mut shares: Vec<u64> = hundredths.iter().map(|h| documents * h / 100).collect();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(documents * hundredths[*i] % 100), *i));
    let left = documents - shares.iter().sum::<u64>();
    order.iter().take(left as usize).for_each(|i| shares[*i] += 1);
    shares
}

#[test]
fn exact_counts_are_those_of_the_largest_remainder() {
    for count in [1, 2, 10, 33, 997] {
        let dir = with(&varied(count));
        let by_split = || {
            let counts = counts(lines_of(&dir).into_iter().map(|line| line.split));
            ["train", "validation", "test"].map(|name| counts.get(name).copied().unwrap_or(0))
        };
        dir.export().args(["--split-method", "exact"]).run().status(0);
        assert_eq!(by_split().to_vec(), due(count as u64, &[95, 3, 2]));
        let args = ["--split-method", "exact", "--stratify-by", "domain", "--split-ratio", "0.5,0.25,0.25"];
        dir.export().args(args).run().status(0);
        let lines = lines_of(&dir);
        for domain in lines.iter().map(|line| line.domain.clone()).collect::<BTreeSet<_>>() {
            let of_domain: Vec<&Line> = lines.iter().filter(|line| line.domain == domain).collect();
            let found = counts(of_domain.iter().map(|line| line.split.as_str()));
            let found = ["train", "validation", "test"].map(|name| found.get(name).copied().unwrap_or(0));
            assert_eq!(found.to_vec(), due(of_domain.len() as u64, &[50, 25, 25]), "{domain:?} of {count}");
        }
        check_plan(&dir, &args);
    }
}

/// Ranked by hash: those of the lowest hashes are the first split's.
#[test]
fn exact_splits_follow_the_rank() {
    let dir = with(&varied(1000));
    dir.export().args(["--split-method", "exact", "--seed", "3"]).run().status(0);
    let lines = lines_of(&dir);
    let hash = |text: &str| twox_hash::XxHash3_64::oneshot_with_seed(3, text.as_bytes());
    let mut ranked: Vec<_> = lines.iter().map(|line| (hash(&line.text), line.split.as_str())).collect();
    ranked.sort_unstable();
    let order = ranked.iter().map(|(_, split)| *split).collect::<Vec<_>>();
    assert_eq!(order, [vec!["train"; 950], vec!["validation"; 30], vec!["test"; 20]].concat());
}

#[test]
fn copies_of_a_document_stand_in_one_split_under_every_method() {
    let copies = document("the same\u{e9}", &[("domain", json!("d")), ("url", json!("u"))]).repeat(9_000)
        + &"{\"text\":\"the same\\u00e9\",\"domain\":\"e\",\"url\":\"u\"}\n".repeat(1_000);
    let dir = with(&(copies + &varied(500)));
    let methods: [&[&str]; 10] = [
        &[],
        &["--split-key", "url"],
        &["--split-method", "exact"],
        &["--split-method", "exact", "--stratify-by", "domain"],
        &["--split-method", "exact", "--stratify-by", "domain", "--split-key", "url"],
        &["--sample", "0.999"],
        &["--max-documents", "10400"],
        &["--balance-by", "domain"],
        &["--balance-by", "domain", "--repeat-up-to", "3"],
        &["--balance-by", "domain", "--repeat-up-to", "3", "--split-method", "exact", "--stratify-by", "domain"],
    ];
    for (args, ratio) in methods.iter().flat_map(|args| [(args, "0.95,0.03,0.02"), (args, "0.2,0.5,0.3")]) {
        dir.export().args(*args).args(["--split-ratio", ratio, "--forbid-leakage"]).run().status(0);
        let lines = lines_of(&dir);
        let splits = split_of(&lines);
        let same = lines.iter().filter(|line| line.text == "the same\u{e9}").count();
        assert!(same > 0 || args.contains(&"--sample"), "{args:?}");
        for (text, times) in counts(lines.iter().map(|line| line.text.as_str())) {
            assert!(times == 1 || text == "the same\u{e9}" || splits[text] == "train", "{text} {args:?}");
        }
    }
}

#[test]
fn a_key_keeps_its_group_together_and_what_leaks_is_counted() {
    let grouped = |i: usize| document(&format!("text {}", i / 2), &[("url", json!(format!("site {}", i % 40)))]);
    let lone = document("without a site", &[]);
    let dir = with(&((0..400).map(grouped).collect::<String>() + &lone));
    let args = ["--split-key", "url", "--split-ratio", "0.5,0.3,0.2"];
    for extra in [&[][..], &["--max-documents", "1000"], &["--split-method", "exact"]] {
        let args = [&args[..], extra].concat();
        let run = dir.export().args(&args).run().status(0);
        run.says(&["--split-key url: 1 documents do not have it"]);
        let lines = lines_of(&dir);
        let mut by_site = BTreeMap::new();
        let mut by_text: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for line in &lines {
            let site = by_site.entry(line.url.clone()).or_insert_with(|| line.split.clone());
            assert_eq!(*site, line.split, "{args:?}");
            by_text.entry(&line.text).or_default().insert(&line.split);
        }
        let leaks = by_text.values().filter(|splits| splits.len() > 1).count();
        assert!(leaks > 0, "nothing to count");
        assert_eq!(dir.json("out/dataset_stats.json")["leakage"], leaks, "{args:?}");
        check_plan(&dir, &args);
        let before = dir.snapshot("out");
        let run = dir.export().args(&args).args(["--forbid-leakage"]).run().status(1);
        run.says(&[&format!("{leaks} texts stand in more than one split"), "a.jsonl at byte", "--dedup exact"]);
        assert_eq!(dir.json("out/failed/dataset_stats.json")["leakage"], leaks);
        std::fs::remove_dir_all(dir.path("out/failed")).expect("what failed");
        assert_same(&before, &dir.snapshot("out"), "the earlier export");
        let plan = dir.colophon(["plan", "--input-dir", "in", "--forbid-leakage"]).args(&args).run().status(1);
        plan.says(&["the export would fail", &format!("{leaks} texts")]);
        dir.export().args(&args).args(["--forbid-leakage", "--dedup", "exact"]).run().status(0);
        assert_eq!(dir.json("out/dataset_stats.json")["leakage"], 0);
    }
    // Where each hash decides, anyone can check it.
    dir.export().args(args).run().status(0);
    for line in lines_of(&dir) {
        let key = line.url.as_ref().unwrap_or(&line.text);
        let part = twox_hash::XxHash3_64::oneshot_with_seed(42, key.as_bytes()) as f64 / 2f64.powi(64);
        let expected = if part < 0.5 {
            "train"
        } else if part < 0.8 {
            "validation"
        } else {
            "test"
        };
        assert_eq!(line.split, expected);
    }
}

// ---- what does not change ----

/// Each way to select, in combinations that are allowed.
fn combination() -> impl Strategy<Value = Vec<String>> {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let one_of =
        move |lists: &[&[&str]]| proptest::sample::select(lists.iter().map(|list| words(list)).collect::<Vec<_>>());
    let filter = one_of(&[
        &[],
        &["--min-quality", "0.3"],
        &["--exclude-domains", "b"],
        &["--min-words", "4", "--max-chars", "60"],
    ]);
    let dedup = one_of(&[&[], &["--dedup", "exact"]]);
    let take = one_of(&[
        &[],
        &["--sample", "0.5"],
        &["--max-documents", "100"],
        &["--balance-by", "domain"],
        &["--balance-by", "domain", "--balance", "temperature=3", "--repeat-up-to", "4"],
        &["--balance-by", "domain", "--balance", "weights=a:1,b:2,*:0.5", "--max-documents", "90"],
        &["--balance-by", "domain", "--repeat-up-to", "7", "--max-documents", "400"],
    ]);
    let split = one_of(&[
        &[],
        &["--split-method", "exact"],
        &["--split-method", "exact", "--stratify-by", "domain"],
        &["--split-key", "url"],
        &["--split-method", "exact", "--split-key", "url"],
    ]);
    let ratio = one_of(&[&[], &["--split-ratio", "0.4,0.35,0.25"], &["--split-ratio", "1,0,0"]]);
    (filter, dedup, take, split, ratio).prop_map(|(a, b, c, d, e)| [a, b, c, d, e].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// The ledger balances; a plan foretells the export; the bytes are the same for any threads, chunks and
    /// memory; the order of the shards changes no split and no choice.
    #[test]
    fn any_combination_of_options(args in combination(), seed in 0..1000u32) {
        let dir = Dir::new();
        let seed = seed.to_string();
        // Some texts occur several times, under other domains too.
        let shards = [varied(300), varied(40), corpus::documents(60), corpus::documents(30)];
        for (i, shard) in shards.iter().enumerate() {
            dir.write(format!("in/{i}.jsonl"), shard);
            dir.write(format!("other/{}.jsonl", 9 - i), shard);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["--seed", &seed]).collect();
        dir.export().args(&args).run().status(0);
        let lines = lines_of(&dir);
        let found = ledger(&dir, "out");
        prop_assert_eq!(found["exported"] + found["repeats"], lines.len() as u64);
        check_plan(&dir, &args);
        let keyed = args.contains(&"--split-key") && !args.contains(&"--dedup");
        if !keyed {
            split_of(&lines);
            prop_assert_eq!(&dir.json("out/dataset_stats.json")["leakage"], 0);
        }
        let before = dir.snapshot("out");
        let other = ["--threads", "7", "--chunk-size", "100", "--memory-limit", "1KiB"];
        dir.export().args(&args).args(other).run().status(0);
        assert_same(&before, &dir.snapshot("out"), "other threads, chunks and memory");
        let run = dir.colophon(["export", "--input-dir", "other", "--output-dir", "shuffled"]).args(&args).run();
        run.status(0);
        // Of equal texts the order decides which one stays, and with it its domain and its key.
        let has = |option: &str| args.contains(&option);
        let (takes_first, balances) = (has("--dedup") || has("--max-documents"), has("--balance-by"));
        let depends = takes_first && (balances || has("--stratify-by"))
            || has("--split-key") && (takes_first || balances);
        if !depends {
            let plain = |lines: Vec<Line>| counts(lines.into_iter().map(|line| (line.split, line.text)));
            prop_assert_eq!(plain(lines), plain(super::selection::lines(&dir, "shuffled")));
        }
    }
}

#[test]
fn documents_that_come_later_move_none() {
    let dir = with(&varied(500));
    dir.export().run().status(0);
    let before = lines_of(&dir);
    dir.write("in/0.jsonl", corpus::documents(500));
    dir.write("in/b.jsonl", varied(900));
    dir.export().run().status(0);
    let after = lines_of(&dir);
    let after = split_of(&after);
    assert!(before.iter().all(|line| after[line.text.as_str()] == line.split));
    // Another seed divides them anew.
    dir.export().args(["--seed", "43"]).run().status(0);
    let other = lines_of(&dir);
    let other = split_of(&other);
    let moved = before.iter().filter(|line| other[line.text.as_str()] != line.split).count();
    assert!((20..100).contains(&moved), "{moved} of 500 where about 48 are to be expected");
}

// ---- bad input ----

/// Each ends with status 2 and says what to change, before anything is made.
#[test]
fn mistakes_are_named_before_any_work() {
    let dir = with(&varied(10));
    let exact = ["--split-method", "exact"];
    let cases: [(&[&str], &[&str]); 26] = [
        (&["--sample", "0"], &["--sample 0", "above 0"]),
        (&["--sample", "1.5"], &["--sample", "'1.5'"]),
        (&["--sample", "-0.5"], &["--sample", "'-0.5'"]),
        (&["--sample", "x"], &["--sample", "'x'"]),
        (&["--sample", "0.5", "--max-documents", "3"], &["--sample and --max-documents"]),
        (&["--sample", "0.5", "--balance-by", "domain"], &["--sample and --balance-by"]),
        (&["--max-documents", "0"], &["--max-documents 0"]),
        (&["--max-documents=-1"], &["--max-documents", "-1"]),
        (&["--min-quality", "good"], &["--min-quality", "'good'"]),
        (&["--min-quality", "NaN"], &["--min-quality", "'NaN'"]),
        (&["--min-words", "5", "--max-words", "4"], &["--min-words and --max-words"]),
        (&["--min-chars", "x"], &["--min-chars", "x"]),
        (&["--dedup", "fuzzy"], &["--dedup", "fuzzy", "exact"]),
        (&["--balance-by", "domian"], &["--balance-by domian", "did you mean 'domain'?"]),
        (&["--balance-by", "metadata.source"], &["--balance-by metadata.source", "constant"]),
        (&["--balance", "equal"], &["--balance needs --balance-by"]),
        (&["--balance-by", "domain", "--balance", "fair"], &["--balance", "'fair'", "temperature=T"]),
        (&["--balance-by", "domain", "--balance", "temperature=0"], &["--balance", "'0'"]),
        (&["--balance-by", "domain", "--balance", "weights=a"], &["--balance", "weights=a:2,b:0.5"]),
        (&["--balance-by", "domain", "--balance", "weights=a:0"], &["--balance", "above 0"]),
        (&["--repeat-up-to", "2"], &["--repeat-up-to needs --balance-by"]),
        (&["--balance-by", "domain", "--repeat-up-to", "0"], &["--repeat-up-to 0"]),
        (&["--balance-by", "domain", "--repeat-up-to", "2", "--split-names", "a,b,c"], &["--repeat-up-to", "'train'"]),
        (&["--stratify-by", "domain"], &["--stratify-by needs --split-method exact"]),
        (&["--split-key", "sight"], &["--split-key sight", "no such field"]),
        (&["--memory-limit", "much"], &["--memory-limit much"]),
    ];
    for (args, parts) in cases {
        dir.export().args(args).run().status(2).says(parts);
        dir.colophon(["plan", "--input-dir", "in"]).args(args).run().status(2).says(parts);
        assert!(!dir.path("out").exists(), "{args:?}");
    }
    dir.export().args(exact).args(["--stratify-by", "topic"]).run().status(2).says(&["--stratify-by topic"]);
    dir.export().args(exact).args(["--split-ratio", "0.9,0.05,0.04"]).run().status(2).says(&["less than 1"]);
    for (filter, parts) in [
        ("field = 'topic'", &["[[filter]] topic", "no such field"][..]),
        ("field = 'domain'", &["[[filter]] domain", "give min, max, in, not_in"]),
        ("field = 'domain'\nmin = 1", &["[[filter]] domain", "it is a string"]),
        ("field = 'domain'\nin = []", &["[[filter]] domain", "in is an empty list"]),
        ("field = 'domain'\nin = [[1]]", &["[[filter]] domain", "in has [1]"]),
        ("field = 'word_count'\nmin = 2\nmax = 1", &["[[filter]] word_count", "min and max"]),
        ("field = 'domain'\nmni = 1", &["job.toml", "mni"]),
        ("feild = 'domain'", &["job.toml", "feild"]),
    ] {
        dir.write("job.toml", format!("[[filter]]\n{filter}\n"));
        dir.export().args(["--job", "job.toml"]).run().status(2).says(parts);
        assert!(!dir.path("out").exists(), "{filter}");
    }
    // A schema without the fields that the flags look at.
    dir.write("job.toml", "[[field]]\nfrom = 'text'\nto = 'text'\ntype = 'string'\nrequired = true\n");
    for flag in [["--min-quality", "1"], ["--domains", "a"]] {
        dir.export().args(["--job", "job.toml"]).args(flag).run().status(2).says(&[flag[0], "no field of the schema"]);
    }
    dir.export().args(["--set", "metadata.domain=x"]).run().status(2);
}

/// What only the data can tell.
#[test]
fn what_the_data_do_not_allow_is_said() {
    let dir = with(&varied(100));
    let balanced = |mode: &str| dir.export().args(["--balance-by", "domain", "--balance", mode]).run();
    let run = balanced("weights=a:1,b:2").status(1);
    run.says(&["no weight for 'c', 'd', 'unknown'", "*:1", "*:0"]);
    assert!(!dir.path("out").exists());
    balanced("weights=a:1,e:2,*:1").status(0).says(&["'e'", "no document has"]);
    let run = balanced("weights=a:1,*:0").status(0);
    assert!(!run.stderr.contains("warning: --balance"), "{}", run.stderr);
    assert!(lines_of(&dir).iter().all(|line| line.domain.as_deref() == Some("a")));
    let most = dir.export().args(["--balance-by", "domain", "--max-documents", "60"]).run().status(0);
    most.says(&["--max-documents 60", "no more than 50", "--repeat-up-to"]);
    // Five values of which the smallest has ten documents.
    assert_eq!(lines_of(&dir).len(), 50);
    dir.export().args(["--split-ratio", "0.999,0.001,0"]).run().status(0).says(&["'test' got no document"]);
    let exact = dir.export().args(["--split-method", "exact", "--split-ratio", "0.999,0.001,0"]).run().status(0);
    exact.says(&["'validation' got no document", "'test' got no document"]);
}

/// One document, and none, under every method.
#[test]
fn one_document_and_none() {
    for count in [0, 1] {
        let dir = with(&varied(count));
        for args in [
            &["--split-method", "exact"][..],
            &["--split-method", "exact", "--stratify-by", "domain"],
            &["--dedup", "exact"],
            &["--max-documents", "5"],
            &["--sample", "1"],
            &["--split-key", "url"],
            &["--balance-by", "domain", "--repeat-up-to", "2"],
            &["--balance-by", "domain", "--balance", "temperature=2", "--split-method", "exact"],
            &["--min-words", "1"],
        ] {
            let run = dir.export().args(args).run().status(0);
            run.says(&[if count == 0 { "no document was exported" } else { "got no document" }]);
            assert_eq!(ledger(&dir, "out")["exported"], count as u64, "{args:?}");
            check_plan(&dir, args);
        }
    }
}

// ---- the environment ----

#[test]
fn a_plan_too_large_for_memory_goes_to_disk() {
    let dir = with(&varied(1000));
    let args = ["--dedup", "exact", "--split-method", "exact", "--balance-by", "domain"];
    dir.export().args(args).run().status(0);
    let before = dir.snapshot("out");
    let run = dir.export().args(args).args(["--memory-limit", "1MiB"]).run().status(0);
    run.says(&["temporary files"]);
    assert_same(&before, &dir.snapshot("out"), "on disk");
    assert_eq!(dir.names("."), ["in", "out"]);
    let Some(_mount) = Mount::new(&["-t", "tmpfs", "-o", "size=3m", "tmpfs"], dir.folder("disk")) else { return };
    let small =
        |output: &str| dir.colophon(["export", "--input-dir", "in", "--memory-limit", "1KiB", "--output-dir", output]);
    small("disk/out").args(args).run().status(3).says(&["temporary file", "No space left on device"]);
    assert_eq!(dir.names("disk"), [""; 0]);
}

fn is_planned(run: &mut Running) -> bool {
    run.stderr().contains("The plan is made")
}

/// Rows and lines belong together only as long as the shard is the same: another text is noticed even if the
/// file's time is what it was, and another value by the file's time.
#[test]
fn a_shard_that_changes_between_scan_and_write_is_named() {
    let (text, value) = (["document 77 ", "document 78 "], ["\"u27\"", "\"u28\""]);
    for (name, [from, to], keeps_time) in [
        ("in/a.jsonl", text, true),
        ("in/a.jsonl", value, false),
        ("in/a.jsonl.gz", text, true),
        ("in/a.jsonl.gz", value, false),
    ] {
        let dir = Dir::new();
        let pack = |lines: &str| Packing::of(Path::new(name)).pack(lines.as_bytes());
        let path = dir.write(name, pack(&varied(100)));
        let time = std::fs::metadata(&path).and_then(|meta| meta.modified()).expect("a time");
        dir.write("in/b.jsonl", corpus::large(12));
        let start = || dir.export().args(["--dedup", "exact"]).args(SLOW).spawn();
        let run = Running::held_while_reading(start, "in/b.jsonl", |run| !is_planned(run));
        dir.write(name, pack(&varied(100).replacen(from, to, 1)));
        if keeps_time {
            std::fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(time)).expect("a file");
        }
        run.resume();
        run.wait().status(3).says(&[name]);
        assert_eq!(dir.names("."), ["in"]);
    }
}

#[test]
fn a_plan_can_be_stopped() {
    let dir = with("");
    dir.write("in/b.jsonl", corpus::large(24));
    for command in [&["export", "--output-dir", "out"][..], &["plan"]] {
        let args = [command, &["--input-dir", "in", "--split-method", "exact"]].concat();
        let start = || dir.colophon(&args).args(SLOW).spawn();
        let run = Running::held_while_reading(start, "in/b.jsonl", |run| !is_planned(run));
        run.signal(Signal::TERM);
        run.resume();
        assert_eq!(run.wait().code(), Some(143));
    }
    assert_eq!(dir.names("."), ["in"]);
}

// ---- the plan's report ----

#[test]
fn a_plan_is_for_people_and_for_machines() {
    let dir = with(&(varied(1000) + "bad\n\n"));
    let args =
        ["plan", "--input-dir", "in", "--balance-by", "domain", "--repeat-up-to", "2", "--split-method", "exact"];
    let run = dir.colophon(args).run().status(0);
    for part in [
        "Ledger: 1002 lines = 1 blank + 1 rejected + 0 filtered",
        "rejected, invalid_json: 1",
        "  split       documents  repeats",
        "95.00 %",
        "  domain   found  documents  repeats",
        "  unknown    100",
        "The total is ",
        "Texts in more than one split: 0",
    ] {
        assert!(run.stdout.contains(part), "{part}\n{}", run.stdout);
    }
    let plan = dir.colophon(["--json"]).args(args).run().status(0).json();
    assert_eq!(plan["field"], "domain");
    assert_eq!(plan["values"]["a"]["found"], 500);
    assert_eq!(plan["values"]["a"]["asked"], 0.2);
    let value = |name: &str, key: &str| plan["values"][name][key].as_u64().expect("a number");
    assert_eq!(value("b", "documents") + value("b", "repeats"), value("b", "target"));
    assert_eq!(plan["limit"]["total"].as_u64().map(|total| total / 5), plan["limit"]["capacity"].as_u64());
    let splits = plan["splits"].as_object().expect("splits");
    assert!(splits.values().all(|split| split["difference"] == 0.0 && split["due"] == split["documents"]), "{plan}");
    // By hash there is no exact number.
    let plan = dir.colophon(["--json", "plan", "--input-dir", "in"]).run().status(0).json();
    assert_eq!(
        (&plan["splits"]["train"]["due"], &plan["values"], &plan["limit"]),
        (&Value::Null, &json!({}), &Value::Null)
    );
    let train = &plan["splits"]["train"];
    let off = train["documents"].as_f64().expect("documents") - 950.0;
    assert!((train["difference"].as_f64().expect("a number") - off).abs() < 1e-9);
    // A gate that the export would not pass.
    let run = dir.colophon(["plan", "--input-dir", "in", "--max-reject-ratio", "0"]).run().status(1);
    run.says(&["the export would fail", "1 of 1001 lines rejected"]);
    // An output folder that lies in the input is not read, as in an export.
    dir.write("in/out/x.jsonl", varied(5));
    let run = dir.colophon(["--json", "plan", "--input-dir", "in", "--output-dir", "in/out"]).run().status(0);
    assert_eq!(run.json()["ledger"]["lines"], 1002);
}
