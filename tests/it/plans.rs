//! Plans that are saved, made by workers or not, and exports that follow them: whoever looked for the documents and whoever
//! writes them, the export is the one that a single run makes, byte for byte, or the reason why not is clear.

use crate::corpus::{self, Packing, Shard};
use crate::harness::{DATE, Dir, Finished, Running, SLOW, Snapshot, TestCommand, assert_same};
use crate::hostile::{self, Dice};
use rustix::process::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

const ALLOW_ALL: [&str; 2] = ["--max-reject-ratio", "1"];
const CHUNKS: [&str; 5] = ["1", "700", "5k", "64KiB", "1MiB"];

/// What a worker leaves of a plan for its share.
fn plan_worker<'a>(dir: &'a Dir, index: u32, of: u32, args: &[&str]) -> TestCommand<'a> {
    let worker = format!("{index}/{of}");
    dir.colophon(["plan", "--input-dir", "in", "--output-dir", "out", "--worker", &worker]).args(args)
}

/// The plan of all parts, to `the.plan`.
fn plan_of_parts<'a>(dir: &'a Dir, args: &[&str]) -> TestCommand<'a> {
    let command = ["plan", "--input-dir", "in", "--output-dir", "out", "--from-parts", "--save", "the.plan"];
    dir.colophon(command).args(args)
}

/// The plan of one scan, to a file.
fn plan_of_one<'a>(dir: &'a Dir, file: &str, args: &[&str]) -> TestCommand<'a> {
    dir.colophon(["plan", "--input-dir", "in", "--output-dir", "out", "--save", file]).args(args)
}

/// The export of one worker's share, by `the.plan`.
fn worker<'a>(dir: &'a Dir, index: u32, of: u32, args: &[&str]) -> TestCommand<'a> {
    dir.export().args(args).args(["--plan", "the.plan", "--worker", &format!("{index}/{of}")])
}

fn merge(dir: &Dir) -> TestCommand<'_> {
    dir.colophon(["merge", "--output-dir", "out"])
}

/// The same export by one run without a plan that was saved, to `one`.
fn by_one_run(dir: &Dir, args: &[&str]) -> Finished {
    let date = format!("metadata.curation_date={DATE}");
    dir.colophon(["export", "--input-dir", "in", "--output-dir", "one", "--set", &date]).args(args).run()
}

/// Has all workers do their shares, in an order and with chunks that the dice choose.
fn all<'a>(of: u32, dice: &mut Dice, each: impl Fn(u32) -> TestCommand<'a>) {
    let mut left: Vec<u32> = (0..of).collect();
    while !left.is_empty() {
        let index = left.swap_remove(dice.below(left.len()));
        let (chunk, threads) = (dice.pick(&CHUNKS), dice.pick(&["1", "2", "5"]));
        let _ = each(index).args(["--chunk-size", chunk, "--threads", threads]).run().status(0);
    }
}

/// Checks that so many workers, planning and exporting, make the plan `one.plan` and the export `one`.
#[track_caller]
fn assert_planned_and_merged(dir: &Dir, one: &Snapshot, of: u32, args: &[&str], dice: &mut Dice) {
    all(of, dice, |index| plan_worker(dir, index, of, args));
    let _ = plan_of_parts(dir, args).run();
    assert!(dir.read("the.plan") == dir.read("one.plan"), "{of} workers plan something else: {args:?}");
    // Who exports need not be those who planned.
    let exporters = if dice.below(3) == 0 { 1 + dice.below(9) as u32 } else { of };
    all(exporters, dice, |index| worker(dir, index, exporters, args));
    merge(dir).run().status(0);
    assert_same(one, &dir.snapshot("out"), &format!("{of} workers plan, {exporters} export, {args:?}"));
    fs::remove_dir_all(dir.path("out")).expect("remove");
}

/// Shards of every kind, with texts that stand in several of them.
fn varied() -> Dir {
    let dir = Dir::new();
    corpus::write(&dir, "in", &corpus::mixed());
    let classified = corpus::classified().concat();
    let lines: Vec<&[u8]> = classified.split_inclusive(|byte| *byte == b'\n').collect();
    let of = |every: usize| lines.iter().step_by(every).copied().collect::<Vec<_>>().concat();
    // The same texts, of other sites and escaped in other ways.
    let other = |lines: Vec<u8>| String::from_utf8(lines).expect("UTF-8").replace("https://", "https://mirror.");
    corpus::write(
        &dir,
        "in",
        &[Shard::new("0.jsonl.gz", of(7)), Shard::new("zz.jsonl", other(of(5)).replace(" the ", " \\u0074he "))],
    );
    corpus::litter(&dir, "in");
    dir
}

// ---- The same export

#[test]
fn what_needs_the_whole_corpus_runs_over_workers() {
    let dir = varied();
    let mut dice = Dice::new(1);
    let cases: [&[&str]; 8] = [
        &["--split-method", "exact"],
        &["--split-method", "exact", "--stratify-by", "domain", "--seed", "7"],
        &["--dedup", "exact"],
        &["--max-documents", "300", "--compress", "gzip"],
        &["--balance-by", "domain", "--balance", "temperature=2", "--repeat-up-to", "3", "--shard-size", "100k"],
        &["--dedup", "exact", "--split-method", "exact", "--split-key", "url", "--min-words", "20"],
        &["--split-method", "exact", "--split-key", "url", "--compress", "zstd", "--no-card"],
        &["--balance-by", "domain", "--max-documents", "90", "--split-method", "exact", "--stratify-by", "domain"],
    ];
    for args in cases {
        let args = [&ALLOW_ALL, args].concat();
        let _ = by_one_run(&dir, &args).status(0);
        let one = dir.snapshot("one");
        let _ = plan_of_one(&dir, "one.plan", &args).run();
        for of in [1, 2, 3, 16] {
            assert_planned_and_merged(&dir, &one, of, &args, &mut dice);
        }
        fs::remove_dir_all(dir.path("one")).expect("remove");
    }
    assert_eq!(dir.names("."), ["in", "one.plan", "the.plan"]);
}

/// Whoever looked, whatever the lines: the same plan, to the byte, and the same export.
#[test]
fn hostile_inputs_of_chance() {
    for seed in 0..12 {
        let (dir, mut dice) = (Dir::new(), Dice::new(200 + seed));
        for shard in 0..1 + dice.below(4) {
            let suffix = dice.pick(&["jsonl", "jsonl", "ndjson", "jsonl.gz", "jsonl.zst"]);
            // The second half is the first again.
            let lines = hostile::chunk(seed * 10 + shard as u64 / 2, dice.below(60));
            corpus::write(&dir, "in", &[Shard::new(&format!("{shard}.{suffix}"), lines)]);
        }
        let field = dice.pick(&["title", "domain", "url"]);
        let choices: [&[&str]; 5] = [
            &["--split-method", "exact", "--stratify-by", field],
            &["--dedup", "exact", "--split-key", field],
            &["--balance-by", field, "--repeat-up-to", "2"],
            &["--max-documents", "20", "--split-key", field],
            &["--sample", "0.5", "--split-key", field],
        ];
        let args = [&ALLOW_ALL, choices[dice.below(choices.len())]].concat();
        let _ = by_one_run(&dir, &args).status(0);
        let _ = plan_of_one(&dir, "one.plan", &args).run();
        let of = 1 + dice.below(9) as u32;
        assert_planned_and_merged(&dir, &dir.snapshot("one"), of, &args, &mut dice);
    }
}

#[test]
fn nothing_to_plan_for() {
    let marked = "\u{feff}{\"text\":\"x\"}";
    let cases = [
        (vec![("a.jsonl", "")], ["--dedup", "exact", "--min-words", "1"]),
        (vec![("a.jsonl", "bad\n\n"), ("b.jsonl.gz", "")], ["--split-method", "exact", "--min-words", "1"]),
        (vec![("a.jsonl", "{\"text\":\"x\"}\n")], ["--max-documents", "3", "--min-words", "9"]),
        // Nearly nothing: the document begins behind the share that its shard's mark begins in.
        (vec![("a.jsonl.gz", "\u{feff}"), ("b.jsonl", marked)], ["--balance-by", "domain", "--min-words", "1"]),
    ];
    for (case, (shards, args)) in cases.into_iter().enumerate() {
        let dir = Dir::new();
        let shards: Vec<Shard> = shards.iter().map(|(name, lines)| Shard::new(name, lines.as_bytes())).collect();
        corpus::write(&dir, "in", &shards);
        let args = [&ALLOW_ALL[..], &args].concat();
        let _ = by_one_run(&dir, &args).status(0);
        let _ = plan_of_one(&dir, "one.plan", &args).run().status(0);
        for of in [1, 3, 16] {
            assert_planned_and_merged(&dir, &dir.snapshot("one"), of, &args, &mut Dice::new(case as u64));
        }
    }
}

/// More documents than a block of the plan has.
#[test]
fn a_worker_reads_its_part_of_a_large_plan() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(150_000));
    dir.write("in/b.jsonl.gz", Packing::Gzip.pack(corpus::documents(70_000).as_bytes()));
    dir.write("in/c.jsonl", corpus::documents(70_000));
    let args = ["--dedup", "exact", "--split-method", "exact"];
    let _ = by_one_run(&dir, &args).status(0);
    plan_of_one(&dir, "the.plan", &args).run().status(0);
    let (header, rows_at) = header(&dir);
    let blocks = header["blocks"].as_array().expect("blocks");
    let shards: Vec<_> = blocks.iter().map(|block| (block["shard"].as_u64(), block["rows"].as_u64())).collect();
    let expected = [(0, 65_536), (0, 65_536), (0, 18_928), (1, 65_536), (1, 4_464), (2, 65_536), (2, 4_464)];
    assert_eq!(shards, expected.map(|(shard, rows)| (Some(shard), Some(rows))));
    // The first worker of three has no use for what is damaged at the end.
    let sound = dir.read("the.plan");
    assert_eq!(sound.len(), rows_at + 24 * 290_000);
    let mut damaged = sound.clone();
    *damaged.last_mut().expect("rows") ^= 1;
    dir.write("the.plan", &damaged);
    worker(&dir, 2, 3, &args).run().status(3).says(&["the.plan", "is not what colophon wrote"]);
    worker(&dir, 0, 3, &args).args(["--memory-limit", "0"]).run().status(0);
    dir.write("the.plan", &sound);
    for index in [1, 2] {
        worker(&dir, index, 3, &args).run().status(0);
    }
    merge(&dir).run().status(0);
    assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "three workers");
}

/// The arrays lie in files, which are beside the plan: a container may have no room elsewhere.
#[test]
fn plans_beyond_the_memory_limit() {
    let dir = varied();
    let args = [&ALLOW_ALL[..], &["--dedup", "exact", "--balance-by", "domain", "--memory-limit", "0"]].concat();
    let _ = by_one_run(&dir, &args).status(0);
    plan_of_one(&dir, "one.plan", &args).env("TMPDIR", "/nonexistent").run().status(0);
    all(3, &mut Dice::new(3), |index| plan_worker(&dir, index, 3, &args).env("TMPDIR", "/nonexistent"));
    plan_of_parts(&dir, &args).env("TMPDIR", "/nonexistent").run().status(0);
    assert!(dir.read("the.plan") == dir.read("one.plan"));
    all(2, &mut Dice::new(4), |index| worker(&dir, index, 2, &args).env("TMPDIR", "/nonexistent"));
    merge(&dir).run().status(0);
    assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "with all arrays in files");
    assert_eq!(dir.names("."), ["in", "one", "one.plan", "out", "the.plan"]);
}

// ---- One machine

/// A plan that was saved is followed without a second look, whichever way it is named.
#[test]
fn one_machine_follows_a_plan_that_was_saved() {
    let dir = varied();
    let selection = ["--dedup", "exact", "--split-method", "exact", "--split-key", "url"];
    let args = [&ALLOW_ALL[..], &selection].concat();
    let _ = by_one_run(&dir, &args).status(0);
    let one = dir.snapshot("one");
    let shown = dir.colophon(["plan", "--json", "--input-dir", "in"]).args(&args).run().status(0).json();
    assert_eq!(shown["saved"], Value::Null);
    let mut saved = plan_of_one(&dir, "deep/the.plan", &args).args(["--json"]).run().status(0).json();
    assert_eq!(saved["saved"].take(), "deep/the.plan");
    assert_eq!(saved, shown);
    assert_eq!(dir.names("deep"), ["the.plan"]);
    let plan = dir.read("deep/the.plan");
    dir.export().args(&args).args(["--plan", "deep/the.plan"]).run().status(0).says(&["The plan is read"]);
    assert_same(&one, &dir.snapshot("out"), "by a flag");
    dir.export().args(&args).env("COLOPHON_PLAN", "deep/the.plan").run().status(0).says(&["The plan is read"]);
    assert_same(&one, &dir.snapshot("out"), "by a variable");
    // With a job file it is said once for both commands.
    let job = format!(
        "input-dir = 'in'\noutput-dir = 'out'\nplan = 'job.plan'\nset = ['metadata.curation_date={DATE}']\n\
         max-reject-ratio = 1\ndedup = 'exact'\nsplit-method = 'exact'\nsplit-key = 'url'\n"
    );
    dir.write("job.toml", job);
    dir.colophon(["plan", "--job", "job.toml"]).run().status(0);
    assert!(!dir.path("job.plan").exists(), "a plan is saved where that was asked for");
    dir.colophon(["plan", "--job", "job.toml", "--save"]).run().status(0);
    assert!(plan == dir.read("job.plan"));
    dir.colophon(["run", "job.toml"]).run().status(0).says(&["The plan is read"]);
    assert_same(&one, &dir.snapshot("out"), "by a job file");
    // An earlier plan is replaced, by the same one.
    dir.colophon(["plan", "--job", "job.toml", "--save"]).run().status(0);
    assert!(plan == dir.read("job.plan"));
}

/// What decides nothing may differ between the plan and the export.
#[test]
fn what_is_written_may_be_said_later() {
    let dir = varied();
    let selection = ["--balance-by", "domain", "--repeat-up-to", "2"];
    let _ = plan_of_one(&dir, "the.plan", &selection).run().status(1);
    let args =
        [&selection[..], &ALLOW_ALL, &["--shard-size", "50k", "--compress", "zstd", "--license", "mit"]].concat();
    let _ = by_one_run(&dir, &args).status(0);
    dir.export().args(&args).args(["--plan", "the.plan"]).run().status(0);
    assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "by the plan");
}

// ---- Gates

/// Texts in two splits, and rejected lines: the plan says so and is saved; the merge fails as one run does.
#[test]
fn gates_are_asked_of_the_whole() {
    let dir = varied();
    let leak = ["--split-method", "exact", "--split-key", "url", "--split-ratio", "0.5,0.25,0.25"];
    for gate in [&["--max-reject-ratio", "1", "--forbid-leakage"][..], &["--max-reject-ratio", "0.01"]] {
        let args = [&leak[..], gate].concat();
        let one = by_one_run(&dir, &args).status(1);
        for index in [0, 1] {
            plan_worker(&dir, index, 2, &args).run().status(0);
        }
        plan_of_parts(&dir, &args).run().status(1).says(&["the export would fail"]);
        for index in [1, 0] {
            worker(&dir, index, 2, &args).run().status(0);
        }
        let merged = merge(&dir).run().status(1);
        let error = |run: &Finished| run.stderr.lines().find(|l| l.starts_with("error")).map(String::from);
        assert_eq!(error(&merged), error(&one).map(|error| error.replace("one/", "out/")));
        assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "what is left to look at");
    }
}

// ---- Refusals

#[test]
fn what_contradicts_is_refused() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(9));
    let plan =
        |args: &[&str]| dir.colophon(["plan", "--input-dir", "in", "--dedup", "exact"]).args(args).run().status(2);
    plan(&["--worker", "0/2"]).says(&["--output-dir"]);
    plan(&["--output-dir", "out", "--worker", "0/2", "--save", "x"]).says(&["--save", "--from-parts"]);
    plan(&["--output-dir", "out", "--worker", "0/2", "--from-parts"]).says(&["--from-parts", "--worker 0/2"]);
    plan(&["--from-parts", "--save", "x"]).says(&["--output-dir"]);
    plan(&["--save"]).says(&["--save FILE", "--plan"]);
    plan(&["--workers", "2"]).says(&["JOB_COMPLETION_INDEX"]);
    plan(&["--save", "x", "--plan", "y"]).says(&["--save x", "--plan y", "two files", "--save alone"]);
    let run = dir.export().args(["--worker", "1/2", "--dedup", "exact"]).run().status(2);
    run.says(&[
        "--dedup exact",
        "plan --worker 1/2",
        "plan --from-parts --save FILE",
        "export --worker 1/2 --plan FILE",
    ]);
    assert_eq!(dir.names("."), ["in"]);
}

/// A plan must replace neither a shard nor anything else.
#[test]
fn a_plan_replaces_nothing_but_plans() {
    let dir = Dir::new();
    let shard = dir.write("in/a.jsonl", corpus::documents(9));
    dir.folder("folder");
    for path in ["in/a.jsonl", "folder"] {
        plan_of_one(&dir, path, &[]).run().status(2).says(&[path, "is no plan", "another name"]);
    }
    assert_eq!(fs::read_to_string(shard).expect("a shard"), corpus::documents(9));
    plan_of_one(&dir, "in/a.jsonl/x", &[]).run().status(3).says(&["in/a.jsonl"]);
    assert_eq!((dir.names("."), dir.names("in")), (vec!["folder".into(), "in".into()], vec!["a.jsonl".into()]));
    dir.write("the.plan", "");
    plan_of_one(&dir, "the.plan", &[]).run().status(0);
    dir.export().args(["--plan", "the.plan"]).run().status(0);
}

/// One file may have two names, and both options name the plan.
#[test]
fn the_same_plan_may_be_named_twice() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(9));
    let job = format!("input-dir = 'in'\noutput-dir = 'out'\nplan = '{}'\n", dir.path("the.plan").display());
    dir.write("job.toml", job);
    let plan = || dir.colophon(["plan", "--job", "job.toml"]);
    plan().args(["--save", "in/../the.plan"]).run().status(0);
    plan().args(["--save", "the.plan"]).run().status(0);
    plan().args(["--save", "another.plan"]).run().status(2).says(&["another.plan", "two files"]);
    assert_eq!(dir.names("."), ["in", "job.toml", "the.plan"]);
}

/// The export is replaced as a whole and has nothing but what it says it has, so no plan may lie in it, whatever the
/// folder is called and whether or not it is there.
#[test]
fn no_plan_lies_in_the_output_folder() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(9));
    symlink("out", dir.path("link")).expect("a link");
    symlink("out/train.jsonl", dir.path("link.plan")).expect("a link");
    let absolute = dir.path("out/x.plan");
    let absolute = absolute.to_str().expect("UTF-8");
    let within = ["out/x.plan", "out/parts/x.plan", "out/train.jsonl", "in/../out/x", "link/x", "link.plan", absolute];
    let refused = |paths: &[&str]| {
        for path in paths {
            let says = [path, "output folder", "save it beside"];
            plan_of_one(&dir, path, &[]).run().status(2).says(&says);
            let from_parts = ["plan", "--input-dir", "in", "--output-dir", "out", "--from-parts", "--save", path];
            dir.colophon(from_parts).run().status(2).says(&says);
            dir.export().args(["--plan", path]).run().status(2).says(&says);
            dir.export().args(["--plan", path, "--worker", "0/2"]).run().status(2).says(&says);
        }
    };
    refused(&within);
    refused(&["out"]);
    assert_eq!(dir.names("."), ["in", "link", "link.plan"]);
    // As much so when a plan lies there that was made without saying where the export will be.
    dir.export().run().status(0);
    let exported = dir.snapshot("out");
    refused(&within);
    assert_same(&exported, &dir.snapshot("out"), "what was exported");
    dir.colophon(["plan", "--input-dir", "in", "--save", "out/x.plan"]).run().status(0);
    dir.export().args(["--plan", "out/x.plan"]).run().status(2).says(&["out/x.plan", "output folder"]);
    // Beside it is outside, also where the names begin alike.
    plan_of_one(&dir, "out.plan", &[]).run().status(0);
    dir.export().args(["--plan", "out.plan"]).run().status(0);
}

/// Neither is opened, as that would wait for a writer or do who knows what.
#[test]
fn a_pipe_is_no_plan() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(9));
    let pipe = dir.path("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o644.into(), 0).expect("a pipe");
    for path in ["pipe", "/dev/zero"] {
        plan_of_one(&dir, path, &[]).run().status(2).says(&[path, "is no plan"]);
        dir.export().args(["--plan", path]).run().status(2).says(&[path, "is no plan"]);
    }
    assert_eq!(dir.names("."), ["in", "pipe"]);
}

/// Whoever put a link there wants the plan to lie where it leads, be anything there or not.
#[test]
fn a_link_to_a_plan_stays_a_link() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(9));
    dir.folder("far");
    symlink("far/a.plan", dir.path("near")).expect("a link");
    symlink("near", dir.path("the.plan")).expect("a link");
    for _ in ["made", "replaced"] {
        plan_of_one(&dir, "the.plan", &[]).run().status(0);
        assert_eq!(fs::read_link(dir.path("the.plan")).expect("a link").to_str(), Some("near"));
        assert_eq!(fs::read_link(dir.path("near")).expect("a link").to_str(), Some("far/a.plan"));
        assert_eq!(dir.names("far"), ["a.plan"]);
    }
    dir.export().args(["--plan", "the.plan"]).run().status(0);
    // What is no plan is not replaced through a link either.
    symlink("in/a.jsonl", dir.path("wrong")).expect("a link");
    plan_of_one(&dir, "wrong", &[]).run().status(2).says(&["wrong", "is no plan"]);
    symlink("round", dir.path("round")).expect("a link");
    plan_of_one(&dir, "round", &[]).run().status(3).says(&["round"]);
    assert_eq!(dir.names("."), ["far", "in", "near", "out", "round", "the.plan", "wrong"]);
    assert_eq!(dir.text("in/a.jsonl"), corpus::documents(9));
}

/// What `the.plan` says of itself, and where its rows begin.
fn header(dir: &Dir) -> (Value, usize) {
    let plan = dir.read("the.plan");
    let lines: Vec<&[u8]> = plan.splitn(3, |byte| *byte == b'\n').collect();
    (serde_json::from_slice(lines[1]).expect("JSON"), lines[0].len() + lines[1].len() + 2)
}

/// Writes `the.plan` with another header, so that only its words are wrong.
fn with_header(dir: &Dir, header: &Value) {
    let (_, rows_at) = self::header(dir);
    let rows = dir.read("the.plan").split_off(rows_at);
    let text = header.to_string();
    let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    dir.write("the.plan", [format!("colophon plan {hash} {}\n{text}\n", text.len()).as_bytes(), &rows].concat());
}

#[test]
fn a_damaged_plan_is_named() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(60));
    let args = ["--split-method", "exact"];
    dir.export().args(["--seed", "1"]).run().status(0);
    let earlier = dir.snapshot("out");
    let refused = |status: i32, words: &[&str]| {
        for share in [&[][..], &["--worker", "0/1"]] {
            let run = dir.export().args(args).args(["--plan", "the.plan"]).args(share).run();
            run.status(status).says(&["the.plan"]).says(words);
            assert_same(&earlier, &dir.snapshot("out").without("parts"), "a refusal changes nothing");
        }
    };
    refused(3, &["there is no plan", "wait until it is done"]);
    plan_of_one(&dir, "the.plan", &args).run().status(0);
    let sound = dir.read("the.plan");
    let (_, rows_at) = header(&dir);
    // In the first line's hash and length, in the header, in the rows.
    for at in [20, rows_at / 2, rows_at + 1, rows_at + 24 * 30 + 23, sound.len() - 1] {
        let mut flipped = sound.clone();
        flipped[at] ^= 1;
        dir.write("the.plan", flipped);
        refused(3, &["is not what colophon wrote", "plan --save"]);
    }
    for len in [0, 5, 14, 40, 81, rows_at / 2, rows_at - 1, rows_at, rows_at + 7, sound.len() - 24, sound.len() - 1] {
        dir.write("the.plan", &sound[..len]);
        refused(3, &["is not what colophon wrote"]);
    }
    dir.write("the.plan", [&sound[..], b"x"].concat());
    refused(3, &["is not what colophon wrote"]);
    dir.write("the.plan", corpus::documents(9));
    refused(2, &["is no plan", "plan --save"]);
    fs::remove_file(dir.path("the.plan")).expect("remove");
    dir.folder("the.plan");
    refused(2, &["is no plan"]);
    fs::remove_dir(dir.path("the.plan")).expect("remove");
    dir.write("the.plan", sound);
    dir.export().args(args).args(["--plan", "the.plan"]).run().status(0);
    let _ = by_one_run(&dir, &args).status(0);
    assert_same(&dir.snapshot("one"), &dir.snapshot("out").without("parts"), "in the end");
}

#[test]
fn a_plan_of_something_else_is_named() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(60));
    plan_of_one(&dir, "the.plan", &["--split-method", "exact", "--seed", "1"]).run().status(0);
    let export = |args: &[&str], status: i32| {
        let run = dir.export().args(["--split-method", "exact", "--plan", "the.plan"]).args(args).run();
        run.status(status).says(&["the.plan", "make it anew"])
    };
    for share in [&[][..], &["--worker", "1/2"]] {
        export(share, 2).says(&["seed is 1 there, 42 here"]);
        export(&[share, &["--seed", "1", "--split-ratio", "0.9,0.05,0.05"]].concat(), 2).says(&["split_ratio"]);
        export(&[share, &["--seed", "1", "--min-words", "2"]].concat(), 2)
            .says(&["min_words is not set there, 2 here"]);
    }
    // Another version.
    let (sound, _) = header(&dir);
    let mut other = sound.clone();
    other["generator"] = "colophon 99.0.0".into();
    with_header(&dir, &other);
    export(&["--seed", "1"], 2).says(&["was made by colophon 99.0.0"]);
    with_header(&dir, &serde_json::json!({ "format": 2 }));
    let run = dir.export().args(["--split-method", "exact", "--plan", "the.plan"]).run();
    run.status(2).says(&["the.plan", "this version"]);
    // Another input: whoever makes the plan may be making it anew, so a Job tries again.
    plan_of_one(&dir, "the.plan", &["--split-method", "exact", "--seed", "1"]).run().status(0);
    dir.write("in/b.jsonl", corpus::documents(3));
    export(&["--seed", "1"], 3).says(&["another input", "b.jsonl is missing there", "wait"]);
    export(&["--seed", "1", "--worker", "0/2"], 3).says(&["another input"]);
    fs::remove_file(dir.path("in/b.jsonl")).expect("remove");
    dir.export().args(["--split-method", "exact", "--plan", "the.plan", "--seed", "1"]).run().status(0);
    dir.write("in/a.jsonl", corpus::documents(61));
    export(&["--seed", "1"], 3).says(&["a.jsonl has ", "bytes there"]);
}

/// A plan of other documents that looks right: none of its decisions is taken for another document's.
#[test]
fn decisions_belong_to_documents() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(60));
    plan_of_one(&dir, "the.plan", &["--dedup", "exact"]).run().status(0);
    dir.write("in/a.jsonl", corpus::documents(60).replace("document 17", "document 7x"));
    let mut forged = header(&dir).0;
    plan_of_one(&dir, "other.plan", &["--dedup", "exact"]).run().status(0);
    let sound = dir.read("the.plan");
    dir.write("the.plan", dir.read("other.plan"));
    forged["input"] = header(&dir).0["input"].take();
    dir.write("the.plan", sound);
    with_header(&dir, &forged);
    for share in [&[][..], &["--worker", "0/1"]] {
        let run = dir.export().args(["--dedup", "exact", "--plan", "the.plan"]).args(share).run();
        run.status(3).says(&["in/a.jsonl", "changed between the scan and the write"]);
    }
}

#[test]
fn missing_and_foreign_plan_parts_are_named() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(90));
    let args = ["--dedup", "exact"];
    plan_of_parts(&dir, &args).run().status(3).says(&["out", "no such folder"]);
    dir.export().run().status(0);
    plan_of_parts(&dir, &args).run().status(3).says(&["out/parts", "no plan parts", "plan --worker I/N"]);
    for index in [0, 2] {
        plan_worker(&dir, index, 4, &args).run().status(0);
    }
    plan_of_parts(&dir, &args).run().status(3).says(&["plan parts of the workers 1/4, 3/4", "plan --worker 1/4"]);
    plan_worker(&dir, 1, 4, &args).run().status(0);
    plan_of_parts(&dir, &args).run().status(3).says(&["the plan part of worker 3/4 is missing"]);
    // Parts of an export are none of a plan, and the other way round.
    dir.export().args(["--worker", "3/4"]).run().status(0);
    plan_of_parts(&dir, &args).run().status(3).says(&["the plan part of worker 3/4 is missing"]);
    merge(&dir).run().status(3).says(&["the parts of the workers 0/4, 1/4, 2/4"]);
    // Of other configurations.
    plan_worker(&dir, 3, 4, &["--dedup", "exact", "--seed", "5"]).run().status(0);
    plan_of_parts(&dir, &args).run().status(2).says(&["plan-00003-of-00004", "seed is 5 there, 42 here", "stale"]);
    plan_worker(&dir, 3, 4, &args).run().status(0).says(&["seed is 5 there, 42 here", "made anew"]);
    plan_of_parts(&dir, &["--seed", "5"]).run().status(2).says(&["plan-00000-of-00004", "42 there, 5 here"]);
    // Of another input.
    dir.write("in/b.jsonl", corpus::documents(3));
    plan_of_parts(&dir, &args).run().status(3).says(&["another input", "b.jsonl is missing there", "wait"]);
    fs::remove_file(dir.path("in/b.jsonl")).expect("remove");
    // Of other numbers of workers.
    plan_worker(&dir, 0, 2, &args).run().status(0);
    plan_of_parts(&dir, &args).run().status(2).says(&["plan parts of 2 workers", "of 4 workers"]);
    assert!(!dir.path("the.plan").exists());
    // What a worker left of a plan is in no export's way.
    dir.colophon(["verify", "out"]).run().status(0);
    fs::remove_dir_all(dir.path("out/parts/plan-00000-of-00002")).expect("remove");
    plan_of_parts(&dir, &args).run().status(0);
}

#[test]
fn an_altered_plan_part_is_named() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(90));
    let args = ["--split-method", "exact", "--stratify-by", "domain"];
    all(2, &mut Dice::new(0), |index| plan_worker(&dir, index, 2, &args));
    plan_of_parts(&dir, &args).run().status(0);
    let plan = dir.read("the.plan");
    let folder = "out/parts/plan-00001-of-00002";
    assert_eq!(dir.names(folder), ["inputs.json", "names.json", "part.json", "part.json.sha256", "rows.bin"]);
    for file in dir.names(folder) {
        let path = format!("{folder}/{file}");
        let bytes = dir.read(&path);
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 3] ^= 1;
        for altered in [flipped, bytes[..bytes.len() / 2].to_vec()] {
            dir.write(&path, altered);
            // The list of the input is one for all, and is read from the first.
            let run = plan_of_parts(&dir, &args).run().status(3).says(&["plan-00001-of-00002"]);
            let _ = run.says(&["plan --worker 1/2 again"]);
            plan_worker(&dir, 1, 2, &args).run().status(0).says(&["made anew"]);
        }
        plan_worker(&dir, 1, 2, &args).run().status(0).says(&["there already"]);
    }
    plan_of_parts(&dir, &args).run().status(0);
    assert!(plan == dir.read("the.plan"));
}

/// Parts that followed a plan and parts that did not are not of one export.
#[test]
fn parts_by_other_plans_do_not_merge() {
    let dir = varied();
    let args = [&ALLOW_ALL[..], &["--sample", "0.5", "--split-key", "url"]].concat();
    let _ = plan_of_one(&dir, "the.plan", &args).run();
    dir.export().args(&args).args(["--worker", "0/2"]).run().status(0);
    worker(&dir, 1, 2, &args).run().status(0);
    merge(&dir).run().status(2).says(&["parts/00001-of-00002", "by another plan", "stale"]);
    worker(&dir, 0, 2, &args).run().status(0).says(&["by another plan", "made anew"]);
    merge(&dir).run().status(0);
    let _ = by_one_run(&dir, &args).status(0);
    assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "in the end");
}

// ---- Stopped, killed, at once

/// Whether a plan part of the first of two workers is in the making.
fn is_in_the_making(dir: &Dir) -> bool {
    let parts = fs::read_dir(dir.path("out/parts")).into_iter().flatten().flatten();
    { parts }.any(|entry| entry.file_name().as_encoded_bytes().starts_with(b".plan-00000-of-00002."))
}

#[test]
fn a_plan_worker_that_was_killed_is_started_again() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::large(24));
    dir.write("in/b.jsonl.gz", Packing::Gzip.pack(corpus::documents(500).as_bytes()));
    let args = ["--dedup", "exact", "--split-method", "exact"];
    let _ = by_one_run(&dir, &args).status(0);
    plan_of_one(&dir, "one.plan", &args).run().status(0);
    let slow = [&args[..], &SLOW].concat();
    for (signal, status) in [(Signal::KILL, None), (Signal::TERM, Some(143)), (Signal::INT, Some(130))] {
        let mut run = plan_worker(&dir, 0, 2, &slow).spawn();
        run.until(|| is_in_the_making(&dir));
        run.signal(signal);
        assert_eq!(run.wait().code(), status);
        assert!(!dir.path("out/parts/plan-00000-of-00002").exists(), "half a part");
        // Only who is killed leaves anything.
        assert_eq!(is_in_the_making(&dir), status.is_none());
        fs::remove_dir_all(dir.path("out")).expect("remove");
    }
    // A plan that is asked to stop leaves no file; the last one stays.
    all(2, &mut Dice::new(1), |index| plan_worker(&dir, index, 2, &args));
    dir.write("the.plan", dir.read("one.plan"));
    let mut run = plan_of_one(&dir, "the.plan", &slow).spawn();
    run.until(|| dir.names(".").iter().any(|name| name.starts_with(".the.plan.colophon-draft-")));
    run.signal(Signal::TERM);
    run.wait().status(143);
    assert!(dir.read("the.plan") == dir.read("one.plan"));
    assert_eq!(dir.names("."), ["in", "one", "one.plan", "out", "the.plan"]);
    plan_of_parts(&dir, &args).run().status(0);
    assert!(dir.read("the.plan") == dir.read("one.plan"));
    all(2, &mut Dice::new(2), |index| worker(&dir, index, 2, &args));
    merge(&dir).run().status(0);
    assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "in the end");
}

/// What a killed run left beside the plan goes when it is old, and nobody else's hidden files do.
#[test]
fn what_a_killed_plan_left_goes() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(9));
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    let plan = "colophon plan 01ab";
    let written = |name: &str, text: &str| {
        let path = dir.write(name, text);
        fs::File::options().write(true).open(path).and_then(|file| file.set_modified(old)).expect("a time");
    };
    let abandoned = [".the.plan.colophon-draft-a1B2c3", ".the.plan.colophon-draft-000000"];
    written(abandoned[0], plan);
    written(abandoned[1], "");
    let mut kept = vec![".the.plan.colophon-draft-newnew", ".the.plan.colophon-draft-folder"];
    dir.write(kept[0], plan);
    dir.folder(kept[1]);
    for (name, text) in [
        (".the.plan.colophon-draft-others", "mine"),
        (".the.plan.colophon-draft-a1B2c", plan),
        (".the.plan.colophon-draft-a1B2c3x", plan),
        (".the.plan.colophon-draft-a1B.c3", plan),
        (".other.plan.colophon-draft-a1B2c3", plan),
        (".the.plan.swp", ""),
        (".the.plan.a1B2c3", plan),
        (".the.plan.local", "SECRET=1"),
    ] {
        written(name, text);
        kept.push(name);
    }
    plan_of_one(&dir, "the.plan", &[]).run().status(0);
    kept.extend(["in", "the.plan"]);
    kept.sort_unstable();
    assert_eq!(dir.names("."), kept);
}

#[test]
fn two_processes_on_one_share_do_no_harm() {
    let dir = varied();
    let args = [&ALLOW_ALL[..], &["--dedup", "exact"]].concat();
    let _ = by_one_run(&dir, &args).status(0);
    let _ = plan_of_one(&dir, "one.plan", &args).run();
    let together = |commands: Vec<TestCommand<'_>>| {
        let runs: Vec<Running> = commands.into_iter().map(TestCommand::spawn).collect();
        runs.into_iter().for_each(|run| drop(run.wait().status(0)));
    };
    for round in 0..3 {
        let shares = || (0..9).map(|i| (i + round) % 3);
        together(shares().map(|index| plan_worker(&dir, index, 3, &args)).collect());
        let parts = ["plan-00000-of-00003", "plan-00001-of-00003", "plan-00002-of-00003"];
        assert_eq!(dir.names("out/parts"), parts, "round {round}");
        together((0..3).map(|_| plan_of_parts(&dir, &args)).collect());
        assert!(dir.read("the.plan") == dir.read("one.plan"));
        together(shares().map(|index| worker(&dir, index, 3, &args)).collect());
        merge(&dir).run().status(0);
        assert_same(&dir.snapshot("one"), &dir.snapshot("out"), &format!("round {round}"));
    }
}

/// In an Indexed Job, with one job file for all that is run.
#[test]
fn one_job_file_for_planning_exporting_and_merging() {
    let dir = varied();
    let job = format!(
        "input-dir = 'in'\noutput-dir = 'OUT'\nset = ['metadata.curation_date={DATE}']\nmax-reject-ratio = 1\n\
         split-method = 'exact'\nstratify-by = 'domain'\nmax-documents = 200\n"
    );
    dir.write("one.toml", job.replace("OUT", "one"));
    dir.write("out.toml", "workers = 3\nplan = 'the.plan'\n".to_owned() + &job.replace("OUT", "out"));
    dir.colophon(["export", "--job", "one.toml"]).run().status(0);
    let indexed = |command: &str| {
        for index in ["1", "0", "2"] {
            dir.colophon([command, "--job", "out.toml"]).env("JOB_COMPLETION_INDEX", index).run().status(0);
        }
    };
    dir.colophon(["export", "--job", "out.toml", "--worker", "0/3"]).run().status(3).says(&["there is no plan"]);
    indexed("plan");
    let run = dir.colophon(["plan", "--job", "out.toml"]).env("COLOPHON_FROM_PARTS", "1");
    let _ = run.env("COLOPHON_SAVE", "the.plan").run().status(0);
    indexed("export");
    dir.colophon(["merge", "--job", "out.toml"]).run().status(0);
    assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "with a job file");
}
