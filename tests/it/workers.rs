//! Several workers and a merge: whatever happens to them, the export is the one that a single run makes, byte for byte,
//! or there is none and the reason is clear.

use crate::corpus::{self, Packing, Shard};
use crate::harness::{DATE, Dir, Finished, Running, SLOW, Snapshot, TestCommand, assert_same, is_root, skip};
use crate::hostile::{self, Dice};
use crate::oracle::{self, Expected, Options};
use rustix::process::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the file of the first split is called until it is done.
const FIRST: &str = ".0-0.part";
const ALLOW_ALL: [&str; 2] = ["--max-reject-ratio", "1"];

/// The export of one worker's share to `out`.
fn worker<'a>(dir: &'a Dir, index: u32, of: u32, args: &[&str]) -> TestCommand<'a> {
    dir.export().args(args).args(["--worker", &format!("{index}/{of}")])
}

fn merge(dir: &Dir) -> TestCommand<'_> {
    dir.colophon(["merge", "--output-dir", "out"])
}

/// The same export by one run, to `one`.
fn by_one_run(dir: &Dir, args: &[&str]) -> Finished {
    let date = format!("metadata.curation_date={DATE}");
    dir.colophon(["export", "--input-dir", "in", "--output-dir", "one", "--set", &date]).args(args).run()
}

/// Has all workers do their shares, in an order and with chunks that the dice choose.
fn all_workers(dir: &Dir, of: u32, args: &[&str], dice: &mut Dice) {
    let mut left: Vec<u32> = (0..of).collect();
    while !left.is_empty() {
        let index = left.swap_remove(dice.below(left.len()));
        let chunk = dice.pick(&["1", "700", "64KiB", "1MiB"]);
        let threads = dice.pick(&["1", "2", "5"]);
        let run = worker(dir, index, of, args).args(["--chunk-size", chunk, "--threads", threads]).run();
        let _ = run.status(0);
    }
}

/// Checks that so many workers and a merge make the export in `one`.
#[track_caller]
fn assert_merged(dir: &Dir, one: &Snapshot, of: u32, args: &[&str], dice: &mut Dice) {
    all_workers(dir, of, args, dice);
    let threads = dice.pick(&["1", "2", "7"]);
    merge(dir).args(["--threads", threads]).run().status(0);
    assert_same(one, &dir.snapshot("out"), &format!("{of} workers, {args:?}"));
    fs::remove_dir_all(dir.path("out")).expect("remove");
}

/// Bytes of the file of this name in the folder of a part in the making; `None` if it is not there.
fn in_the_making(dir: &Dir, name: &str) -> Option<u64> {
    let parts = fs::read_dir(dir.path("out/parts")).ok()?.flatten();
    let hidden = parts.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b".0"));
    hidden.filter_map(|entry| Some(fs::metadata(entry.path().join(name)).ok()?.len())).max()
}

/// The first of two workers, at work on `in/a.jsonl`, which holds still.
#[track_caller]
fn held_at_work(dir: &Dir) -> Running {
    let start = || {
        // What one that was ended has left is not to be taken for this one's.
        let _ = fs::remove_dir_all(dir.path("out/parts"));
        worker(dir, 0, 2, &SLOW).spawn()
    };
    Running::held_while_reading(start, "in/a.jsonl", |_| in_the_making(dir, FIRST).is_some_and(|bytes| bytes > 0))
}

// ---- The same export

#[test]
fn merged_parts_are_the_export_of_one_run() {
    let dir = Dir::new();
    corpus::write(&dir, "in", &corpus::mixed());
    corpus::litter(&dir, "in");
    let mut dice = Dice::new(1);
    for (args, workers) in [
        (&[][..], &[1, 2, 3, 16][..]),
        (&["--shard-size", "20k", "--seed", "7"], &[2, 16]),
        (&["--shard-size", "100k", "--compress", "zstd"], &[1, 3]),
        (&["--compress", "gzip", "--no-card"], &[2, 3]),
        (&["--split-key", "domain", "--sample", "0.7", "--min-chars", "5", "--exclude-domains", "gaming"], &[3, 5]),
        (&["--split-names", "a,b-2,c", "--split-ratio", "0.5,0,0.5", "--license", "mit", "--tags", "x,y"], &[2]),
    ] {
        let args = [&ALLOW_ALL, args].concat();
        let _ = by_one_run(&dir, &args).status(0);
        let one = dir.snapshot("one");
        workers.iter().for_each(|of| assert_merged(&dir, &one, *of, &args, &mut dice));
        fs::remove_dir_all(dir.path("one")).expect("remove");
    }
    assert_eq!(dir.names("."), ["in"]);
}

/// The merged folder, held against the independent reading of the contract and by `verify`.
#[test]
fn a_merged_export_is_what_the_contract_says() {
    let (dir, shards) = (Dir::new(), corpus::mixed());
    corpus::write(&dir, "in", &shards);
    all_workers(&dir, 4, &ALLOW_ALL, &mut Dice::new(2));
    let run = merge(&dir).args(["--json"]).run().status(0);
    let options = Options::default();
    let expected = Expected::new(&shards, &options);
    expected.check(&dir, "out");
    assert_eq!(run.json()["ledger"], expected.ledger());
    dir.colophon(["verify", "out"]).run().status(0);
}

/// Blocks of compression and of proof are larger than what the other tests have.
#[test]
fn large_parts_are_put_together_as_well() {
    let dir = Dir::new();
    let lines = corpus::large(14);
    let (first, second) = lines.split_at(lines.len() / 3);
    dir.write("in/a.jsonl", first);
    dir.write("in/b.jsonl.zst", Packing::Zstd.pack(second));
    for args in [&[][..], &["--compress", "zstd", "--shard-size", "3MiB"]] {
        let _ = by_one_run(&dir, &[&ALLOW_ALL, args].concat()).status(0);
        let one = dir.snapshot("one");
        assert_merged(&dir, &one, 3, &[&ALLOW_ALL, args].concat(), &mut Dice::new(3));
        fs::remove_dir_all(dir.path("one")).expect("remove");
    }
}

#[test]
fn a_job_file_with_another_schema() {
    let dir = Dir::new();
    corpus::write(&dir, "in", &corpus::mixed());
    let job = concat!(
        "input-dir = 'in'\noutput-dir = 'OUT'\nmax-reject-ratio = 1\ndefault-constants = false\nsplit-key = 'url'\n",
        "[constants]\nmetadata.n = 7\nb = true\n'z.y' = 1.5\n[card]\ntask_categories = ['text-generation']\n",
        "[[filter]]\nfield = 'text'\nnot_in = ['x']\n",
        "[[field]]\nfrom = 'text'\nto = 'text'\ntype = 'string'\nrequired = true\n",
        "[[field]]\nfrom = 'title'\nto = 'title'\ntype = 'any'\n[[field]]\nfrom = 'url'\nto = 'a.url'\ntype = 'any'\n",
    );
    dir.write("one.toml", job.replace("OUT", "one"));
    dir.write("out.toml", format!("workers = 3\nthreads = 2\n{}", job.replace("OUT", "out")));
    dir.colophon(["export", "--job", "one.toml"]).run().status(0);
    for index in ["2", "0", "1"] {
        dir.colophon(["export", "--job", "out.toml"]).env("JOB_COMPLETION_INDEX", index).run().status(0);
    }
    dir.colophon(["merge", "--job", "out.toml"]).run().status(0);
    assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "with a job file");
}

/// More workers than lines, lines longer than shares, marks, missing line ends, nothing at all.
#[test]
fn tiny_inputs() {
    let mark = "\u{feff}";
    let long = corpus::document(&"long ".repeat(2000));
    let cases: [&[(&str, String)]; 9] = [
        &[("a.jsonl", String::new())],
        &[("a.jsonl", "\n".into())],
        &[("a.jsonl", mark.into())],
        &[("a.jsonl", mark.to_owned() + &corpus::documents(2))],
        &[("a.jsonl", corpus::documents(1).trim_end().into())],
        &[("a.jsonl", corpus::documents(3) + &long + &corpus::documents(2)), ("b.jsonl", "bad".into())],
        &[("a.jsonl.gz", corpus::documents(2)), ("b.jsonl.zst", String::new()), ("c.jsonl", corpus::documents(2))],
        &[("a.jsonl.gz", String::new()), ("b.jsonl", String::new()), ("c.jsonl.gz", "bad\n\nbad".into())],
        &[("a.jsonl", "\n\n \nbad\n\u{85}\nworse".into()), ("index.jsonl", "x\n".into()), ("z.jsonl", "y".into())],
    ];
    for (case, shards) in cases.iter().enumerate() {
        let dir = Dir::new();
        let shards: Vec<Shard> = shards.iter().map(|(name, lines)| Shard::new(name, lines.as_bytes())).collect();
        corpus::write(&dir, "in", &shards);
        let _ = by_one_run(&dir, &ALLOW_ALL).status(0);
        let one = dir.snapshot("one");
        for of in [1, 2, 7, 16] {
            assert_merged(&dir, &one, of, &ALLOW_ALL, &mut Dice::new(case as u64));
        }
    }
}

/// Rejected lines lie under their shard's name, of whichever bytes that is.
#[test]
fn shards_of_any_name_have_rejected_lines() {
    use std::os::unix::ffi::OsStrExt;
    let dir = Dir::new();
    for name in [&b"a\\b.jsonl"[..], b"c\nd.jsonl", b"\\x41.jsonl", b"\xFF\xFE.jsonl"] {
        dir.write(Path::new("in").join(std::ffi::OsStr::from_bytes(name)), corpus::documents(3) + "bad\nworse\n");
    }
    let _ = by_one_run(&dir, &ALLOW_ALL).status(0);
    let one = dir.snapshot("one");
    for of in [1, 3] {
        assert_merged(&dir, &one, of, &ALLOW_ALL, &mut Dice::new(of.into()));
    }
}

/// Hostile lines in shards of chance, shared among a number of workers of chance.
#[test]
fn hostile_inputs_of_chance() {
    for seed in 0..12 {
        let (dir, mut dice) = (Dir::new(), Dice::new(100 + seed));
        for shard in 0..1 + dice.below(4) {
            let suffix = dice.pick(&["jsonl", "jsonl", "ndjson", "jsonl.gz", "jsonl.zst"]);
            let lines = hostile::chunk(seed * 10 + shard as u64, dice.below(60));
            let shard = Shard::new(&format!("{shard}.{suffix}"), lines);
            corpus::write(&dir, "in", &[shard]);
        }
        let key = dice.pick(&["title", "domain", "url"]);
        let args = [&ALLOW_ALL[..], &["--split-key", key, "--no-card"][..dice.pick(&[0, 2, 3])]].concat();
        let _ = by_one_run(&dir, &args).status(0);
        let of = 1 + dice.below(9) as u32;
        assert_merged(&dir, &dir.snapshot("one"), of, &args, &mut dice);
    }
}

// ---- Gates

/// Texts that stand in two splits, in the shares of different workers and written differently.
fn leaking() -> Dir {
    let dir = Dir::new();
    let line = |i: usize, text: &str| format!("{{\"url\":\"u{i}\",\"text\":\"{text}\"}}\n");
    let shard = |from: usize| -> String {
        (from..from + 60).map(|i| line(i, ["same", "s\\u0061me", "other", &i.to_string()][i % 4])).collect()
    };
    dir.write("in/a.jsonl", shard(0));
    dir.write("in/b.jsonl.gz", Packing::Gzip.pack(shard(100).as_bytes()));
    dir.write("in/c.jsonl", shard(200));
    dir
}

#[test]
fn texts_in_two_splits_are_counted_over_all_parts() {
    let dir = leaking();
    let args = ["--split-key", "url", "--split-ratio", "0.5,0.25,0.25"];
    let _ = by_one_run(&dir, &args).status(0);
    assert_eq!(dir.json("one/dataset_stats.json")["leakage"], 2);
    let one = dir.snapshot("one");
    for of in [1, 2, 3, 16] {
        assert_merged(&dir, &one, of, &args, &mut Dice::new(of.into()));
    }
    // The memory limit sends the rows to disk.
    all_workers(&dir, 3, &args, &mut Dice::new(0));
    merge(&dir).args(["--memory-limit", "0"]).run().status(0);
    assert_same(&one, &dir.snapshot("out"), "with rows on disk");
}

/// A gate is for the whole to fail: status, words and what is left to look at are those of one run.
#[test]
fn a_failed_gate_is_that_of_one_run() {
    let dir = leaking();
    dir.write("in/bad.jsonl", "bad\n".repeat(5) + &corpus::documents(5));
    let leak = ["--max-reject-ratio", "1", "--split-key", "url", "--split-ratio", "0.5,0.25,0.25", "--forbid-leakage"];
    for args in [&[][..], &leak] {
        for (of, earlier) in [(1, false), (3, true)] {
            for folder in ["one", "out"] {
                let _ = fs::remove_dir_all(dir.path(folder));
                if earlier {
                    let sound = ["export", "--input-dir", "in/a.jsonl", "--output-dir", folder, "--no-card"];
                    dir.colophon(sound).run().status(0);
                }
            }
            let one = by_one_run(&dir, args).status(1);
            all_workers(&dir, of, args, &mut Dice::new(of.into()));
            let merged = merge(&dir).run().status(1);
            let error = |run: &Finished| run.stderr.lines().find(|l| l.starts_with("error")).map(String::from);
            let expected = error(&one).map(|error| error.replace("/one/", "/out/"));
            assert_eq!(error(&merged), expected, "{}", merged.stderr);
            // The parts are gone: nothing could be made of them but the same again.
            assert_same(&dir.snapshot("one"), &dir.snapshot("out"), &format!("{of} workers, {args:?}"));
            assert_eq!(dir.names("."), ["in", "one", "out"]);
        }
    }
}

#[test]
fn a_card_that_people_wrote_is_not_replaced() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(9));
    worker(&dir, 0, 1, &[]).run().status(0);
    dir.write("out/README.md", "mine");
    merge(&dir).run().status(2).says(&["README.md"]);
    fs::remove_file(dir.path("out/README.md")).expect("remove");
    merge(&dir).run().status(0);
}

// ---- Refusals

/// What the export will stumble over is said at once to whoever begins, and not when all have done their work.
#[test]
fn what_is_in_the_way_is_said_before_the_work() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(9));
    for (path, name) in [
        ("manifest.json", "manifest.json"),
        ("README.md", "README.md"),
        ("train.jsonl/mine", "train.jsonl"),
        ("test-00000-of-00002.jsonl.zst/mine", "test-00000-of-00002.jsonl.zst"),
        ("dataset_stats.json/mine", "dataset_stats.json"),
        ("lengths.svg/mine", "lengths.svg"),
    ] {
        dir.write(format!("out/{path}"), "mine");
        worker(&dir, 0, 2, &[]).run().status(2).says(&[name]);
        // This one needs a day, which it does not come to leave.
        let args = ["export", "--input-dir", "in", "--output-dir", "out", "--worker", "1/2"];
        dir.colophon(args).run().status(2).says(&[name]);
        dir.export().run().status(2).says(&[name]);
        assert_eq!(dir.names("out"), [name]);
        fs::remove_dir_all(dir.path("out")).expect("remove");
    }
    // What is in nobody's way.
    dir.write("out/README.md", "mine");
    dir.write("out/training.jsonl/mine", "mine");
    worker(&dir, 0, 1, &["--no-card"]).run().status(0);
    merge(&dir).run().status(0);
    assert_eq!(dir.text("out/README.md"), "mine");
}

/// What needs the whole corpus ends at once, and names the flag.
#[test]
fn what_a_worker_cannot_decide_is_refused() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(9));
    for (args, flag) in [
        (&["--dedup", "exact"][..], "--dedup exact"),
        (&["--max-documents", "3"], "--max-documents"),
        (&["--balance-by", "domain"], "--balance-by"),
        (&["--split-method", "exact"], "--split-method exact"),
    ] {
        worker(&dir, 0, 2, args).run().status(2).says(&[flag, "whole corpus"]);
    }
    for (share, part) in [("2/2", "1/2"), ("0/0", "at least one"), ("1", "I/N"), ("-1/2", "I/N")] {
        dir.export().args([&format!("--worker={share}")]).run().status(2).says(&[part]);
    }
    dir.export().args(["--workers", "2"]).run().status(2).says(&["JOB_COMPLETION_INDEX", "--worker"]);
    dir.export().env("COLOPHON_WORKERS", "2").env("JOB_COMPLETION_INDEX", "2").run().status(2).says(&["1/2"]);
    assert_eq!(dir.names("."), ["in"]);
}

#[test]
fn a_share_can_be_said_in_every_way() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(9));
    dir.export().env("COLOPHON_WORKER", "0/4").run().status(0);
    // An empty variable is none.
    let indexed = |index: &str| {
        let command = dir.export().env("COLOPHON_WORKER", "").env("COLOPHON_WORKERS", "4");
        let run = command.env("JOB_COMPLETION_INDEX", index).args(["--json"]).run().status(0);
        assert!(!run.stderr.contains("warning"), "{}", run.stderr);
        run
    };
    assert_eq!(indexed("1").json()["worker"], 1);
    assert_eq!(indexed("2").json()["workers"], 4);
    dir.export().args(["--worker", "3/4"]).run().status(0);
    // Without a number of workers the index means nothing.
    dir.colophon(["merge"]).env("COLOPHON_OUTPUT_DIR", "out").env("COLOPHON_WORKERS", "4").run().status(0);
    let merged = dir.snapshot("out");
    dir.export().env("JOB_COMPLETION_INDEX", "1").run().status(0);
    assert_same(&merged, &dir.snapshot("out"), "one run");
}

#[test]
fn nothing_to_merge() {
    let dir = Dir::new();
    merge(&dir).run().status(3).says(&["out", "no such folder"]);
    dir.colophon(["merge"]).run().status(2).says(&["--output-dir"]);
    dir.folder("out/parts");
    merge(&dir).run().status(3).says(&["out/parts", "no parts", "--worker"]);
    dir.write("in/a.jsonl", corpus::documents(9));
    dir.export().run().status(0);
    let export = dir.snapshot("out");
    merge(&dir).run().status(3).says(&["an export that is whole"]);
    assert_same(&export, &dir.snapshot("out"), "the export");
}

/// What a user keeps in a folder of that name would go with the parts.
#[test]
fn what_others_keep_among_the_parts_is_refused() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(9));
    for name in ["mine/thesis.txt", "00000-of-00001x/a", ".00001-of-00001.x/a", ".cache", "days"] {
        let path = format!("out/parts/{name}");
        dir.write(&path, "mine");
        let entry = Path::new(name).components().next().expect("a name").as_os_str();
        let named = format!("parts/{}", entry.display());
        let refused = |run: Finished| drop(run.status(2).says(&[&named, "move it elsewhere"]));
        refused(worker(&dir, 0, 1, &[]).run());
        // This one needs a day, which is kept there.
        refused(dir.colophon(["export", "--input-dir", "in", "--output-dir", "out", "--worker", "0/1"]).run());
        assert_eq!(dir.names("out/parts").len(), 1, "{name}");
        fs::rename(dir.path("out/parts"), dir.path("aside")).expect("rename");
        worker(&dir, 0, 1, &[]).run().status(0);
        fs::rename(dir.path("aside").join(entry), dir.path("out/parts").join(entry)).expect("rename");
        refused(merge(&dir).run());
        assert_eq!(dir.text(&path), "mine");
        fs::rename(dir.path("out/parts").join(entry), dir.path("aside").join(entry)).expect("rename");
        merge(&dir).run().status(0);
        for folder in ["out", "aside"] {
            fs::remove_dir_all(dir.path(folder)).expect("remove");
        }
    }
}

#[test]
fn missing_parts_are_named() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(90));
    dir.export().args(["--seed", "1"]).run().status(0);
    let earlier = dir.snapshot("out");
    for index in [0, 2, 4] {
        worker(&dir, index, 5, &[]).run().status(0);
    }
    merge(&dir).run().status(3).says(&["1/5, 3/5", "--worker 1/5"]);
    worker(&dir, 3, 5, &[]).run().status(0);
    merge(&dir).run().status(3).says(&["the part of worker 1/5 is missing"]);
    assert_same(&earlier, &dir.snapshot("out").without("parts"), "the earlier export");
    worker(&dir, 1, 5, &[]).run().status(0);
    let _ = by_one_run(&dir, &[]).status(0);
    merge(&dir).run().status(0);
    assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "when all are there");
}

/// Whatever file of a part is altered, cut off, made longer or removed: the merge names it, nothing else changes, and
/// the worker makes the part anew.
#[test]
fn an_altered_part_is_named() {
    let dir = leaking();
    dir.write("in/a.bad.jsonl", "bad\n".repeat(40) + &corpus::documents(5));
    let args = [&ALLOW_ALL[..], &["--split-key", "url", "--split-ratio", "0.5,0.25,0.25"]].concat();
    let _ = by_one_run(&dir, &args).status(0);
    all_workers(&dir, 2, &args, &mut Dice::new(0));
    let sound = dir.snapshot("out");
    let names: Vec<_> = sound.files().map(|(path, _)| path.to_owned()).collect();
    let altered: Vec<_> = names.iter().filter(|path| path.starts_with("parts/00000-of-00002")).collect();
    let files = ["part.json", "part.json.sha256", "inputs.json", "rows.bin", "train.jsonl", "quarantine/index.jsonl"];
    for file in files {
        assert!(altered.iter().any(|path| path.ends_with(file)), "{file} is not in {altered:?}");
    }
    type Change = (&'static str, fn(&mut Vec<u8>));
    let changes: [Change; 4] = [
        ("flipped", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("cut off", |bytes| bytes.truncate(bytes.len().saturating_sub(1))),
        ("longer", |bytes| bytes.extend(b"{}\n")),
        ("empty", Vec::clear),
    ];
    for file in altered {
        let path = Path::new("out").join(file);
        let bytes = dir.read(&path);
        for (what, change) in changes {
            let mut new = bytes.clone();
            change(&mut new);
            // What is behind the seal's hash says nothing.
            if new == bytes || file.ends_with("part.json.sha256") && ["cut off", "longer", "flipped"].contains(&what) {
                continue;
            }
            dir.write(&path, new);
            let before = dir.snapshot("out");
            let merged = merge(&dir).run();
            if merged.code() != Some(3) || !merged.stderr.contains("parts/00000-of-00002") {
                merged.fail(&format!("{} {what}", file.display()));
            }
            assert_same(&before, &dir.snapshot("out"), "a refusal changes nothing");
        }
        fs::remove_file(dir.path(&path)).expect("remove");
        merge(&dir).run().status(3).says(&["parts/00000-of-00002"]);
        worker(&dir, 0, 2, &args).run().status(0).says(&["made anew"]);
    }
    merge(&dir).run().status(0);
    assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "in the end");
}

#[test]
fn parts_of_other_configurations_are_named() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(90));
    worker(&dir, 0, 2, &["--seed", "1"]).run().status(0);
    worker(&dir, 1, 2, &["--seed", "2"]).run().status(0);
    merge(&dir).run().status(2).says(&["parts/00001-of-00002", "seed is 2 there, 1 here", "parts/00000-of-00002"]);
    // Parts of another number of workers.
    worker(&dir, 0, 3, &["--seed", "2"]).run().status(0);
    merge(&dir).run().status(2).says(&["parts of 2 workers", "of 3 workers"]);
    fs::remove_dir_all(dir.path("out/parts/00000-of-00003")).expect("remove");
    // The worker whose part is stale makes it anew.
    worker(&dir, 0, 2, &["--seed", "2"]).run().status(0).says(&["seed is 1 there, 2 here", "made anew"]);
    let _ = by_one_run(&dir, &["--seed", "2"]).status(0);
    let path = "out/parts/00001-of-00002/part.json";
    // Another version of the program.
    let part = dir.text(path);
    seal(&dir, path, &part.replace("\"colophon 0.", "\"colophon 99."));
    merge(&dir).run().status(2).says(&["parts/00001-of-00002", "colophon 99."]);
    // A part in another's place.
    seal(&dir, path, &part.replace("\"index\":1", "\"index\":0"));
    merge(&dir).run().status(3).says(&["parts/00001-of-00002"]);
    // What a later version may write.
    seal(&dir, path, "{\"maker\":{}}");
    merge(&dir).run().status(2).says(&["parts/00001-of-00002", "this version"]);
    seal(&dir, path, &part);
    merge(&dir).run().status(0);
    assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "in the end");
}

/// Writes a part's description so that only its words are wrong.
fn seal(dir: &Dir, path: &str, text: &str) {
    let hash: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    dir.write(path, text);
    dir.write(format!("{path}.sha256"), format!("{hash}  part.json\n"));
}

/// The input must not change from one worker to the next, and neither while one is at work.
#[test]
fn an_input_that_changed_is_named() {
    let dir = Dir::new();
    let write = |name: &str, count: usize| {
        dir.write(format!("in/{name}.jsonl"), corpus::documents(count));
        // Some file systems have coarse clocks.
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + count as u64);
        let file = fs::File::options().write(true).open(dir.path(format!("in/{name}.jsonl")));
        file.and_then(|file| file.set_modified(time)).expect("a time");
    };
    let changes: [(&dyn Fn(), &[&str]); 4] = [
        (&|| write("b", 31), &["b.jsonl has ", "bytes there"]),
        (&|| write("c", 1), &["c.jsonl is missing here"]),
        (&|| fs::remove_file(dir.path("in/b.jsonl")).expect("remove"), &["b.jsonl is missing there"]),
        (
            &|| {
                write("b", 31);
                dir.write("in/b.jsonl", corpus::documents(30));
            },
            &["b.jsonl was changed at another time"],
        ),
    ];
    for (change, words) in changes {
        let _ = fs::remove_dir_all(dir.path("in"));
        write("a", 60);
        write("b", 30);
        worker(&dir, 0, 2, &[]).run().status(0);
        change();
        worker(&dir, 1, 2, &[]).run().status(0);
        merge(&dir).run().status(2).says(words).says(&["parts/00001-of-00002", "another input"]);
        // The worker that saw the earlier input does its share of the present one.
        worker(&dir, 0, 2, &[]).run().status(0).says(&["another input", "made anew"]);
        let _ = by_one_run(&dir, &[]).status(0);
        merge(&dir).run().status(0);
        assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "in the end");
    }
}

/// Parts that an earlier run left must not be taken for those that are being made.
#[test]
fn parts_of_an_earlier_input_are_not_merged() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(60));
    let merge = |input: &str| merge(&dir).args(["--input-dir", input]).run();
    worker(&dir, 0, 1, &[]).run().status(0);
    dir.write("in/b.jsonl", corpus::documents(9));
    merge("in").status(3).says(&["another input", "b.jsonl is missing there", "wait"]);
    merge("in/*.jsonl").status(3).says(&["another input"]);
    // Half of them are made anew: a merge that waits for the others must not give up.
    fs::remove_dir_all(dir.path("out/parts")).expect("remove");
    worker(&dir, 0, 2, &[]).run().status(0);
    dir.write("in/c.jsonl", corpus::documents(9));
    worker(&dir, 1, 2, &[]).run().status(0);
    merge("in").status(3).says(&["parts/00000-of-0000", "another input", "wait"]);
    fs::remove_dir_all(dir.path("out/parts")).expect("remove");
    worker(&dir, 0, 1, &[]).run().status(0);
    merge("in/*.jsonl").status(0);
    worker(&dir, 0, 1, &[]).run().status(0);
    // Where the input is not, nothing can be said.
    merge("elsewhere").status(0).says(&["elsewhere is not here"]);
    worker(&dir, 0, 1, &[]).run().status(0);
    merge("in").status(0);
}

/// A shard that another worker reads changes while this one is at work: its share may be another one by now.
#[test]
fn an_input_that_changes_meanwhile_is_named() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::large(16));
    dir.write("in/b.jsonl", corpus::large(16));
    let run = held_at_work(&dir);
    dir.write("in/b.jsonl", corpus::documents(3));
    run.resume();
    run.wait().status(3).says(&["in/b.jsonl", "shrank"]);
    assert_eq!(dir.names("out/parts"), [""; 0]);
}

/// What is no part is made anew, whatever it is.
#[test]
fn a_link_or_a_file_in_the_place_of_a_part() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(60));
    let _ = by_one_run(&dir, &[]).status(0);
    for is_link in [true, false] {
        dir.folder("out/parts");
        match is_link {
            true => std::os::unix::fs::symlink("nowhere", dir.path("out/parts/00000-of-00001")).expect("a link"),
            false => drop(dir.write("out/parts/00000-of-00001", "mine")),
        }
        merge(&dir).run().status(3).says(&["parts/00000-of-00001"]);
        worker(&dir, 0, 1, &[]).run().status(0).says(&["made anew"]);
        merge(&dir).run().status(0);
        assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "in the end");
    }
}

/// While workers make the next export, the one that is there is whole.
#[test]
fn parts_beside_an_export_are_none_of_its_files() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(60));
    dir.export().run().status(0);
    worker(&dir, 0, 2, &[]).run().status(0);
    let run = dir.colophon(["verify", "out"]).run().status(0);
    assert!(run.stdout.contains("parts/, of an export that workers make"), "{}", run.stdout);
    dir.write("out/parts/mine.txt", "mine");
    let run = dir.colophon(["verify", "out"]).run().status(1);
    assert!(run.stdout.contains("parts/mine.txt is not in the manifest"), "{}", run.stdout);
}

/// A day that a power cut or a person made of nothing must not become that of the documents.
#[test]
fn a_day_that_is_none_is_refused() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(9));
    for day in ["", "\n", "2024-02-30", "24-1-5", "2024-1-015", "today\" x"] {
        dir.write("out/parts/day", day);
        let run = dir.colophon(["export", "--input-dir", "in", "--output-dir", "out", "--worker", "0/1"]).run();
        run.status(3).says(&["parts/day", "YYYY-MM-DD", "remove it"]);
        assert_eq!(dir.names("out/parts"), ["day"]);
    }
}

/// Workers may start on different days; all documents have that of the first.
#[test]
fn the_first_worker_s_day_counts() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(50));
    dir.write("out/parts/day", "2001-02-03\n");
    let export =
        |args: &[&str]| dir.colophon(["export", "--input-dir", "in", "--output-dir", "out"]).args(args).run().status(0);
    export(&["--worker", "0/2"]);
    export(&["--worker", "1/2"]);
    merge(&dir).run().status(0);
    let date = &dir.json("out/manifest.json")["configuration"]["constants"]["metadata.curation_date"];
    assert_eq!(*date, Value::from("2001-02-03"));
    // With it the parts are gone, and so is the day.
    export(&["--worker", "0/1"]);
    assert_ne!(dir.text("out/parts/day"), "2001-02-03\n");
    fs::remove_dir_all(dir.path("out/parts")).expect("remove");
    // A day that was said needs no other.
    worker(&dir, 0, 1, &[]).run().status(0);
    assert_eq!(dir.names("out/parts"), ["00000-of-00001"]);
}

/// The day stays when a worker stops, as another may have taken it for its own already.
#[test]
fn the_day_of_a_stopped_worker_counts() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::large(16));
    let export = |share: &str| {
        let args = ["export", "--input-dir", "in", "--output-dir", "out", "--worker", share];
        dir.colophon(args)
    };
    let run = Running::held_while_reading(
        || {
            let _ = fs::remove_dir_all(dir.path("out"));
            export("0/2").args(SLOW).spawn()
        },
        "in/a.jsonl",
        |_| in_the_making(&dir, FIRST).is_some_and(|bytes| bytes > 0),
    );
    run.signal(Signal::TERM);
    run.resume();
    run.wait().status(143);
    assert_eq!(dir.names("out/parts"), ["day"]);
    // It was long ago.
    dir.write("out/parts/day", "2001-02-03\n");
    export("0/2").run().status(0);
    export("1/2").run().status(0);
    merge(&dir).run().status(0);
    let date = &dir.json("out/manifest.json")["configuration"]["constants"]["metadata.curation_date"];
    assert_eq!(*date, Value::from("2001-02-03"));
    assert!(!dir.path("out/parts").exists());
}

// ---- At once

#[test]
fn two_processes_on_one_share_do_no_harm() {
    let dir = Dir::new();
    corpus::write(&dir, "in", &corpus::mixed());
    let _ = by_one_run(&dir, &ALLOW_ALL).status(0);
    for round in 0..4 {
        let mut shares: Vec<u32> = (0..9).map(|i| (i + round) % 3).collect();
        shares.extend([round % 3; 3]);
        let runs: Vec<Running> = shares
            .into_iter()
            .map(|index| worker(&dir, index, 3, &ALLOW_ALL).args(["--threads", "1"]).spawn())
            .collect();
        runs.into_iter().for_each(|run| drop(run.wait().status(0)));
        let parts = ["00000-of-00003", "00001-of-00003", "00002-of-00003"];
        assert_eq!(dir.names("out/parts"), parts, "round {round}");
        merge(&dir).run().status(0);
        assert_same(&dir.snapshot("one"), &dir.snapshot("out"), &format!("round {round}"));
    }
}

/// A process that was given up comes back when its share was done by another, and when all was merged.
#[test]
fn a_process_that_comes_back_does_no_harm() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::large(32));
    let _ = by_one_run(&dir, &[]).status(0);
    for is_merged in [false, true] {
        let late = held_at_work(&dir);
        worker(&dir, 0, 2, &[]).run().status(0);
        worker(&dir, 1, 2, &[]).run().status(0);
        if is_merged {
            merge(&dir).run().status(0);
        }
        late.resume();
        let late = late.wait();
        if is_merged {
            late.status(3);
        } else {
            late.status(0).says(&["Another process"]);
            merge(&dir).run().status(0);
        }
        assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "in the end");
    }
}

/// A part that comes while others are merged must not disappear with them.
#[test]
fn a_part_that_comes_while_others_are_merged_stays() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::large(16));
    let _ = by_one_run(&dir, &[]).status(0);
    let others = ["export --worker 0/3", "export --worker 1/2 --seed 5", "plan --worker 1/2"];
    let mut met = 0;
    for round in 0..30 {
        let other: Vec<&str> = others[round % others.len()].split(' ').collect();
        all_workers(&dir, 2, &[], &mut Dice::new(0));
        // Moved one by one, or in one exchange.
        if round % 4 < 2 {
            dir.write("out/notes.txt", "mine");
        }
        let mut run = merge(&dir).args(["--threads", "1"]).spawn();
        let is_writing = run.until_or_end(|| dir.is_writing());
        let has_far_to_go = || dir.is_writing() && !dir.path(".out.colophon-stage/manifest.json").exists();
        if !is_writing || !run.pause() || !has_far_to_go() {
            run.resume();
            let _ = run.wait();
            fs::remove_dir_all(dir.path("out")).expect("remove");
            continue; // it was too fast
        }
        let date = format!("metadata.curation_date={DATE}");
        dir.colophon(other).args(["--input-dir", "in", "--output-dir", "out", "--set", &date]).run().status(0);
        let before = dir.snapshot("out").visible();
        run.resume();
        let name = ["parts/00000-of-00003", "parts/00001-of-00002", "parts/plan-00001-of-00002"][round % 3];
        let run = run.wait().status(3).says(&[name]);
        // A part that was replaced may be found to be another one even when it is read.
        if !run.stderr.contains("is not what the worker wrote") || round % 3 != 1 {
            let _ = run.says(&["while the parts were merged", "merge again"]);
        }
        assert_same(&before, &dir.snapshot("out").visible(), "nothing was committed");
        fs::remove_dir_all(dir.path("out").join(name)).expect("remove");
        worker(&dir, 1, 2, &[]).run().status(0);
        merge(&dir).run().status(0);
        assert_same(&dir.snapshot("one"), &dir.snapshot("out").without("notes.txt"), "in the end");
        fs::remove_dir_all(dir.path("out")).expect("remove");
        met += 1;
        if met == 6 {
            break;
        }
    }
    assert!(met > 0, "no merge was met at work");
}

#[test]
fn a_second_merge_fails_at_once() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::large(16));
    worker(&dir, 0, 1, &[]).run().status(0);
    let mut run = merge(&dir).args(["--threads", "1"]).spawn();
    let is_writing = run.until_or_end(|| dir.is_writing());
    run.signal(Signal::STOP);
    // It is stopped at its next step, unless it was too fast.
    let second = merge(&dir).run().status(3);
    run.resume();
    run.wait().status(0);
    if is_writing && !second.stderr.contains("an export that is whole") {
        let _ = second.says(&["another run is writing to this folder"]);
    }
    dir.colophon(["verify", "out"]).run().status(0);
}

// ---- Whose parts they are

/// What a merge of parts that somebody else made does, as it may not remove them.
fn merge_of_foreign_parts(prepare: impl Fn(&Dir)) -> Option<(Dir, Snapshot, Running)> {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(60));
    if !is_root() || !dir.colophon(["--version"]).by_nobody().run().stdout.contains("colophon") {
        skip("nobody else can be asked to merge here");
        return None;
    }
    dir.export().args(["--seed", "1", "--no-card"]).run().status(0);
    let earlier = dir.snapshot("out");
    all_workers(&dir, 2, &["--no-card"], &mut Dice::new(0));
    // Everything is anybody's, and the parts are root's.
    let parts = [("out/parts/00000-of-00002", 0o755), ("out/parts/00001-of-00002", 0o755)];
    for (path, mode) in [(".", 0o777), ("out", 0o777), ("out/parts", 0o777)].into_iter().chain(parts) {
        fs::set_permissions(dir.path(path), Permissions::from_mode(mode)).expect("permissions");
    }
    prepare(&dir);
    let run = merge(&dir).by_nobody().spawn();
    Some((dir, earlier, run))
}

/// Where files are moved one by one, nothing is lost: what may not be removed is found out before.
#[test]
fn parts_that_may_not_be_removed_do_no_harm() {
    let prepare: [&dyn Fn(&Dir); 3] = [
        &|_| {},
        &|dir| {
            let parts = dir.path("out/parts");
            fs::set_permissions(parts, Permissions::from_mode(0o755)).expect("permissions");
        },
        // Only owners may take away what lies there, and the parts are not to be told from others before.
        &|dir| {
            for path in ["out/parts", "out/parts/00000-of-00002", "out/parts/00001-of-00002"] {
                fs::set_permissions(dir.path(path), Permissions::from_mode(0o777)).expect("permissions");
            }
            fs::set_permissions(dir.path("out"), Permissions::from_mode(0o1777)).expect("permissions");
        },
    ];
    for prepare in prepare {
        let foreign = merge_of_foreign_parts(|dir| {
            dir.write("out/notes.txt", "mine");
            prepare(dir);
        });
        let Some((dir, earlier, run)) = foreign else { return };
        let parts = dir.snapshot("out/parts");
        run.wait().status(3).says(&["out/parts"]);
        assert_same(&earlier, &dir.snapshot("out").without("parts").without("notes.txt").visible(), "the export");
        assert_same(&parts, &dir.snapshot("out/parts"), "the parts");
        assert!(!dir.path("out/.colophon-commit.json").exists());
        // Who may do it is not kept from it.
        merge(&dir).run().status(0);
        assert_eq!(dir.names("."), ["in", "out"]);
        assert!(!dir.path("out/parts").exists());
    }
}

/// Where folders change places, the export is there, and what is left of the old one is in nobody's way.
#[test]
fn parts_that_stay_behind_are_in_nobody_s_way() {
    let owned = |dir: &Dir| {
        let nobody = Some(65534);
        std::os::unix::fs::chown(dir.path("out"), nobody, nobody).expect("an owner");
    };
    let Some((dir, _, run)) = merge_of_foreign_parts(owned) else { return };
    run.wait().status(0).says(&["colophon-left", "remove it"]);
    assert!(!dir.path("out/parts").exists());
    dir.colophon(["verify", "out"]).run().status(0);
    let left = || dir.names(".").into_iter().filter(|name| name.starts_with(".colophon-left.")).count();
    assert_eq!((dir.names(".").len(), left()), (3, 1));
    dir.export().by_nobody().run().status(0);
    assert_eq!((dir.names(".").len(), left()), (3, 1));
}

// ---- Stopped

#[test]
fn a_signal_leaves_no_half_part_and_a_second_start_finishes() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::large(32));
    let _ = by_one_run(&dir, &[]).status(0);
    dir.export().args(["--seed", "1", "--max-documents", "9"]).run().status(0);
    let earlier = dir.snapshot("out");
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut run = worker(&dir, 1, 2, &SLOW).spawn();
        run.until(|| in_the_making(&dir, FIRST).is_some_and(|bytes| bytes > 0));
        let asked = Instant::now();
        run.signal(signal);
        run.wait().status(status);
        assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?} to stop", asked.elapsed());
        assert_eq!(dir.names("out/parts"), [""; 0]);
        assert_same(&earlier, &dir.snapshot("out").without("parts"), "the earlier export");
    }
    worker(&dir, 1, 2, &[]).run().status(0);
    worker(&dir, 0, 2, &[]).run().status(0);
    let ready = dir.snapshot("out");
    let mut stopped = 0;
    for _ in 0..20 {
        let mut run = merge(&dir).args(["--threads", "1"]).spawn();
        let is_met = run.until_or_end(|| dir.is_writing());
        run.signal(Signal::TERM);
        let asked = Instant::now();
        let run = run.wait();
        assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?} to stop", asked.elapsed());
        if run.code() == Some(0) {
            // The signal came too late. That must not happen each time.
            worker(&dir, 0, 2, &[]).run().status(0);
            worker(&dir, 1, 2, &[]).run().status(0);
            continue;
        }
        let _ = run.status(143).says(&["SIGTERM"]);
        stopped += u32::from(is_met);
        if stopped == 1 {
            assert_same(&ready.clone().without("parts"), &dir.snapshot("out").without("parts"), "what is there");
            assert_eq!(dir.names("out/parts"), ["00000-of-00002", "00001-of-00002"]);
            break;
        }
    }
    assert!(stopped > 0, "no merge was met at work");
    assert_eq!(dir.names("."), ["in", "one", "out"]);
    merge(&dir).run().status(0);
    assert_same(&dir.snapshot("one"), &dir.snapshot("out"), "after a second start");
}

/// What a killed worker left is taken away by the next on its share, when nobody can be at work on it any more.
#[test]
fn what_killed_workers_left_goes() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(50));
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    for (name, is_old) in [(".00000-of-00002.old", true), (".00000-of-00002.new", false), (".00001-of-00002.old", true)]
    {
        let path = dir.write(format!("out/parts/{name}/train.jsonl"), "x");
        for path in [path.as_path(), path.parent().expect("a folder")] {
            if is_old {
                fs::File::open(path).and_then(|file| file.set_modified(old)).expect("a time");
            }
        }
    }
    // One that only rejects lines is at work, too.
    dir.write("out/parts/.00000-of-00002.rejecting/quarantine/a.jsonl", "bad\n");
    for name in ["quarantine", ""] {
        let path = dir.path("out/parts/.00000-of-00002.rejecting").join(name);
        fs::File::open(path).and_then(|file| file.set_modified(old)).expect("a time");
    }
    worker(&dir, 0, 2, &[]).run().status(0);
    let rejecting = dir.path("out/parts/.00000-of-00002.rejecting");
    assert!(rejecting.exists());
    fs::remove_dir_all(rejecting).expect("remove");
    assert_eq!(dir.names("out/parts"), [".00000-of-00002.new", ".00001-of-00002.old", "00000-of-00002"]);
    worker(&dir, 1, 2, &[]).run().status(0);
    merge(&dir).run().status(0);
    oracle::check_files(&dir, "out", &dir.json("out/manifest.json"));
}

// ---- Killed

/// A merge that died when the export was there, but before everything else was gone, has nothing left to do.
#[test]
fn a_merge_that_died_behind_its_commit_was_done() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(50) + "bad");
    let args = ["--max-reject-ratio", "1"];
    worker(&dir, 0, 1, &args).run().status(0);
    let merged = merge(&dir).args(["--json"]).run().status(0).json();
    let export = dir.snapshot("out");
    dir.write("out/.colophon-used-up", "");
    let again = merge(&dir).args(["--json"]).run().status(0).says(&["killed when the export was done"]).json();
    for key in ["splits", "ledger", "rejects", "bytes", "leakage"] {
        assert_eq!(again[key], merged[key], "{key}");
    }
    assert_same(&export, &dir.snapshot("out"), "the export");
    merge(&dir).run().status(3).says(&["no parts"]);
    // What such a merge left says nothing of the next one.
    for args in [&[][..], &["--worker", "0/1"]] {
        dir.write("out/.colophon-used-up", "");
        dir.write("out/notes.txt", "mine");
        dir.export().args(["--max-reject-ratio", "1"]).args(args).run().status(0);
    }
    merge(&dir).run().status(0);
    assert_same(&export, &dir.snapshot("out").without("notes.txt"), "the export");
}

/// A merge that died when a gate had failed and the parts were gone fails again, by the same words.
#[test]
fn a_gate_that_failed_is_told_again() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(50));
    // Many files, which take their time to go.
    for shard in 0..700 {
        dir.write(format!("in/{shard}.jsonl"), "bad\n");
    }
    dir.export().args(["--sample", "0.5", "--max-reject-ratio", "1", "--no-card"]).run().status(0);
    worker(&dir, 0, 1, &["--no-card"]).run().status(0);
    fs::rename(dir.path("out"), dir.path("ready")).expect("rename");
    let restore = || {
        let _ = fs::remove_dir_all(dir.path("out"));
        copy(&dir, "ready", "out");
    };
    let error = |run: Finished| run.stderr.lines().find(|line| line.starts_with("error")).map(String::from);
    restore();
    let expected = error(merge(&dir).run().status(1));
    let failed = dir.snapshot("out");
    let mut met = 0;
    for _ in 0..40 {
        restore();
        let mut run = merge(&dir).spawn();
        let _ = run.until_or_end(|| !dir.path("out/parts").exists());
        run.signal(Signal::KILL);
        let _ = run.wait();
        let is_met = dir.path("out/.colophon-used-up").exists();
        if is_met {
            // It is the parts that count where there are some.
            assert!(!dir.path("out/parts").exists());
            let again = merge(&dir).run().status(1).says(&["killed when a gate had failed"]);
            assert_eq!(error(again), expected);
            assert_same(&failed, &dir.snapshot("out"), "what failed");
            merge(&dir).run().status(3).says(&["no parts"]);
            met += 1;
        }
        if met == 3 {
            break;
        }
    }
    assert!(met > 0, "no merge was met behind its failure");
    // What such a merge left says nothing of the next one.
    restore();
    dir.write("out/.colophon-used-up", "other words");
    assert_eq!(error(merge(&dir).run().status(1)), expected);
    assert_same(&failed, &dir.snapshot("out"), "what failed");
}

/// When to kill a process: at a moment of chance, or as soon as something can be seen of what it does.
fn kill(mut run: Running, dir: &Dir, dice: &mut Dice, time: Duration, signs: &[&dyn Fn() -> bool]) {
    match dice.below(signs.len() + 2) {
        sign if sign < signs.len() => {
            let _ = run.until_or_end(signs[sign]);
            run.signal(Signal::KILL);
            let _ = run.wait();
        }
        _ => drop(run.kill_after(time.mul_f64(dice.below(110) as f64 / 100.0))),
    }
    // Whatever happened, what has the name of a part is one.
    for name in dir.names("out").contains(&"parts".into()).then(|| dir.names("out/parts")).into_iter().flatten() {
        if !name.starts_with('.') {
            assert!(dir.path(format!("out/parts/{name}/part.json.sha256")).exists(), "half a part: {name}");
        }
    }
}

/// Workers and merges are killed at any moment and started again, alone and two at a time, over an earlier export and
/// beside files of others: what comes of it is the export of one run.
#[test]
fn killed_a_hundred_times() {
    const KILLS: usize = 120;
    const WORKERS: u32 = 3;
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(2000) + "bad\n\n" + &corpus::documents(500) + "bad");
    dir.write("in/b.jsonl.gz", Packing::Gzip.pack(corpus::documents(700).as_bytes()));
    dir.write("in/c.jsonl", corpus::classified().concat());
    let args = ["--threads", "2", "--shard-size", "100k", "--split-key", "url", "--chunk-size", "8k"];
    let _ = by_one_run(&dir, &args).status(0);
    let new = dir.snapshot("one");
    dir.export().args(["--sample", "0.1"]).run().status(0);
    fs::rename(dir.path("out"), dir.path("earlier")).expect("rename");
    let earlier = dir.snapshot("earlier");
    let mut dice = Dice::new(7);
    let (mut kills, mut unfinished, mut times) = (0, 0, [Duration::from_secs(1); 2]);
    while kills < KILLS {
        // Files of others keep folders from changing places: then each entry is moved.
        let has_strangers = dice.below(2) == 0;
        let _ = fs::remove_dir_all(dir.path("out"));
        copy(&dir, "earlier", "out");
        if has_strangers {
            dir.write("out/notes.txt", "mine");
        }
        let visible = || dir.snapshot("out").without("parts").without("notes.txt").visible();
        let first = dice.below(WORKERS as usize) as u32;
        for index in (0..WORKERS).map(|index| (index + first) % WORKERS) {
            let part = dir.path(format!("out/parts/0000{index}-of-00003"));
            for _ in 0..dice.below(3) {
                let is_begun = || in_the_making(&dir, FIRST).is_some();
                let is_writing = || in_the_making(&dir, FIRST).is_some_and(|bytes| bytes > 0);
                let is_written = || in_the_making(&dir, "part.json").is_some();
                let is_there = || part.exists();
                let run = worker(&dir, index, WORKERS, &args).spawn();
                kill(run, &dir, &mut dice, times[0], &[&is_begun, &is_writing, &is_written, &is_there]);
                kills += 1;
                unfinished += u32::from(!part.exists());
                assert_same(&earlier, &visible(), "a worker does not touch the earlier export");
            }
            let twin = (dice.below(3) == 0).then(|| worker(&dir, index, WORKERS, &args).spawn());
            let run = worker(&dir, index, WORKERS, &args).run().status(0);
            times[0] = times[0].min(run.took);
            drop(twin.map(|twin| twin.wait().status(0)));
        }
        for _ in 0..1 + dice.below(3) {
            let stage = dir.path(if has_strangers { "out/.colophon-stage" } else { ".out.colophon-stage" });
            let has = |name: &str| stage.join(name).exists();
            let is_begun = || stage.exists();
            let is_counted = || has("dataset_stats.json");
            let is_written = || has("manifest.json");
            let is_moving = || dir.path("out/.colophon-commit.json").exists();
            let is_removing = || !dir.path("out/parts").exists();
            let is_there = || dir.path("out/.colophon-used-up").exists();
            let signs: [&dyn Fn() -> bool; 6] =
                [&is_begun, &is_counted, &is_written, &is_moving, &is_removing, &is_there];
            kill(merge(&dir).args(["--threads", "2"]).spawn(), &dir, &mut dice, times[1], &signs);
            kills += 1;
            let left = visible();
            unfinished += u32::from(left != new);
            // Among the moves it is neither; the next run finishes them.
            if !has_strangers || !is_moving() {
                assert!(left == earlier || left == new, "neither the earlier export nor the new one");
            }
            if dir.path("out/parts").exists() && !is_moving() {
                assert_same(&earlier, &left, "parts stay until the commit");
            }
        }
        let run = merge(&dir).args(["--threads", "2"]).run();
        // A merge that was killed behind its very last step is one that was done.
        if run.code() != Some(3) || !run.stderr.contains("an export that is whole") {
            times[1] = times[1].min(run.status(0).took);
        }
        assert_same(&new, &visible(), &format!("after {kills} kills"));
        assert_eq!(dir.names("out/").contains(&"notes.txt".into()), has_strangers);
        let hidden: Vec<_> = dir.names("out").into_iter().filter(|name| name.starts_with('.')).collect();
        assert!(hidden.is_empty() && !dir.path("out/parts").exists(), "{hidden:?}");
        assert_eq!(dir.names("."), ["earlier", "in", "one", "out"]);
    }
    assert!(unfinished as usize >= kills / 4, "only {unfinished} of {kills} kills came before the end");
}

fn copy(dir: &Dir, from: &str, to: &str) {
    for (path, bytes) in dir.snapshot(from).files() {
        dir.write(Path::new(to).join(path), bytes);
    }
}
