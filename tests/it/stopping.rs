//! Runs that are stopped: politely by a signal, or by force at any moment.

use crate::corpus;
use crate::harness::{Dir, Finished, Running, SLOW, Snapshot, assert_same, skip};
use crate::oracle;
use rustix::process::Signal;
use std::fs;
use std::time::{Duration, Instant};

/// A folder with an export of a few documents, and much more input for the next one.
fn exported(mebibytes: usize) -> (Dir, Snapshot) {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(40));
    dir.export().run().status(0);
    dir.write("in/large.jsonl", corpus::large(mebibytes));
    let export = dir.snapshot("out");
    (dir, export)
}

/// Asks a slow run to stop when it writes; checks status, speed and words.
#[track_caller]
fn stop(dir: &Dir, args: &[&str], signal: Signal, status: i32) -> Finished {
    let start = || dir.export().args(SLOW).args(args).spawn();
    let run = Running::held_while_reading(start, "in/large.jsonl", |_| dir.is_writing());
    let asked = Instant::now();
    run.signal(signal);
    run.resume();
    let run = run.wait().status(status).says(&[if status == 130 { "SIGINT" } else { "SIGTERM" }]);
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?} to stop", asked.elapsed());
    run
}

#[test]
fn a_signal_leaves_the_earlier_export_and_nothing_else() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (dir, earlier) = exported(16);
        for args in [&[][..], &["--compress", "zstd"], &["--shard-size", "100k"]] {
            let run = stop(&dir, args, signal, status);
            assert_eq!(run.stdout, "");
            assert_same(&earlier, &dir.snapshot("out"), "the earlier export");
            assert_eq!(dir.names("."), ["in", "out"]);
        }
    }
}

#[test]
fn a_signal_leaves_nothing_where_nothing_was() {
    let (dir, _) = exported(16);
    fs::remove_dir_all(dir.path("out")).expect("remove");
    stop(&dir, &[], Signal::TERM, 143);
    assert_eq!(dir.names("."), ["in"]);
    // An empty folder that was there stays there.
    dir.folder("out");
    stop(&dir, &[], Signal::INT, 130);
    assert_eq!((dir.names("."), dir.names("out")), (vec!["in".into(), "out".into()], vec![]));
}

/// Files of others lie where they lay.
#[test]
fn a_signal_leaves_the_files_of_others() {
    let (dir, _) = exported(16);
    dir.write("out/notes.txt", "mine");
    let before = dir.snapshot("out");
    stop(&dir, &[], Signal::INT, 130);
    assert_same(&before, &dir.snapshot("out"), "the output folder");
}

#[test]
fn validation_and_statistics_can_be_stopped() {
    let (dir, _) = exported(0);
    dir.write("data/train.jsonl", corpus::large(16));
    let before = dir.snapshot("data");
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        for command in ["validate", "stats"] {
            let start = || dir.colophon([command, "data"]).args(SLOW).spawn();
            let run = Running::held_while_reading(start, "data/train.jsonl", |_| true);
            run.signal(signal);
            run.resume();
            let run = run.wait().status(status);
            assert!(run.took < Duration::from_secs(5), "{:?}", run.took);
            assert_same(&before, &dir.snapshot("data"), command);
        }
    }
}

/// Done-when 6: whenever it is killed, the output folder holds the earlier export or the new one, and
/// the next run finds nothing in its way and leaves nothing behind.
#[test]
fn killed_at_any_moment() {
    const KILLS: u32 = 20;
    let (dir, _) = exported(6);
    let export = |seed: u32| dir.export().args(["--seed", &seed.to_string(), "--shard-size", "1MiB", "--threads", "2"]);
    let mut time = export(0).run().status(0).took;
    let mut current = dir.snapshot("out");
    let mut unfinished = 0;
    for kill in 0..KILLS {
        let seed = 1 + kill;
        // From the start to a little behind the end, so that some runs die while they commit.
        let delay = time.mul_f64(f64::from(2 * kill + 1) / f64::from(2 * KILLS) * 1.1);
        let killed = export(seed).spawn().kill_after(delay);
        let left = dir.snapshot("out").visible();
        let next = export(seed).run().status(0);
        // The machine may have been busy before: the fastest run says how long it takes.
        time = time.min(next.took);
        let new = dir.snapshot("out");
        let expected = if left == new { &new } else { &current };
        assert_same(expected, &left, &format!("killed after {delay:?} of {time:?}: {}", killed.stderr));
        unfinished += u32::from(left != new);
        assert_eq!(dir.names("."), ["in", "out"], "{}", next.stderr);
        let hidden: Vec<_> = dir.names("out").into_iter().filter(|name| name.starts_with('.')).collect();
        assert!(hidden.is_empty(), "{hidden:?}");
        oracle::check_files(&dir, "out", &dir.json("out/manifest.json"));
        current = new;
    }
    assert!(unfinished >= KILLS / 4, "only {unfinished} of {KILLS} runs were killed before their end");
}

/// The same for the first export into a folder, and where the next run is one that fails.
#[test]
fn killed_before_there_was_an_export() {
    let (dir, _) = exported(6);
    fs::remove_dir_all(dir.path("out")).expect("remove");
    dir.export().args(["--threads", "2"]).run().status(0);
    let new = dir.snapshot("out");
    let time = dir.export().args(["--threads", "2"]).run().status(0).took;
    for kill in 0..6 {
        fs::remove_dir_all(dir.path("out")).expect("remove");
        let delay = time.mul_f64(f64::from(kill) / 5.0);
        let killed = dir.export().args(["--threads", "2"]).spawn().kill_after(delay);
        let left = dir.snapshot("out").visible();
        if left != new {
            assert_same(&dir.snapshot("nothing"), &left, &format!("killed after {delay:?}: {}", killed.stderr));
        }
        // A run that ends without an export removes what the killed one left, too.
        dir.write("in/bad.jsonl", "bad\n".repeat(100_000));
        dir.export().run().status(1);
        fs::remove_file(dir.path("in/bad.jsonl")).expect("remove");
        assert_eq!(dir.names("."), ["in", "out"]);
        assert_same(&left, &dir.snapshot("out").without("failed"), "what was left");
    }
}

/// Where files have to be moved one by one (here because of a file that is not the export's), a run can
/// die among the moves. Then there is no manifest, or one that holds; and the next run, even one that
/// comes to nothing itself, first finishes what was begun.
#[test]
fn killed_while_files_are_moved() {
    let (dir, _) = exported(1);
    dir.write("out/notes.txt", "mine");
    // Many files are many moves.
    let export = |seed: u32| dir.export().args(["--seed", &seed.to_string(), "--shard-size", "10k"]);
    let journal = dir.path("out/.colophon-commit.json");
    let mut among_moves = 0;
    for seed in 0..4 {
        export(100).run().status(0);
        let earlier = dir.snapshot("out");
        let mut run = export(seed).spawn();
        run.until_or_end(|| journal.exists());
        run.signal(Signal::KILL);
        let killed = run.wait();
        let left = dir.snapshot("out").visible();
        if dir.path("out/manifest.json").exists() && left != earlier {
            assert_eq!(dir.json("out/manifest.json")["configuration"]["seed"], seed);
        }
        let died_among_moves = journal.exists();
        among_moves += u32::from(died_among_moves);
        // The next run fails its gate.
        dir.write("in/bad.jsonl", "bad\n".repeat(1_000));
        export(100).run().status(1);
        fs::remove_file(dir.path("in/bad.jsonl")).expect("remove");
        let after = dir.snapshot("out").without("failed");
        export(seed).run().status(0);
        let new = dir.snapshot("out");
        let expected = if died_among_moves || left == new { &new } else { &earlier };
        assert_same(expected, &after, &format!("after a kill with seed {seed}: {}", killed.stderr));
        assert_eq!(dir.text("out/notes.txt"), "mine");
        assert_eq!(dir.names("."), ["in", "out"]);
    }
    assert!(among_moves > 0, "no run died among its moves");
}

/// A volume is not mounted at the same place in every container. What a killed run left can be finished
/// or forgotten there, but not half of it.
#[test]
fn killed_while_files_are_moved_and_then_found_elsewhere() {
    let (dir, _) = exported(1);
    let export = |place: &str, names: &str| {
        let output = format!("{place}/out");
        dir.colophon([
            "export",
            "--input-dir",
            "in",
            "--output-dir",
            &output,
            "--shard-size",
            "10k",
            "--split-names",
            names,
        ])
    };
    export("here", "a,b,c").run().status(0);
    dir.write("here/out/notes.txt", "mine");
    let mut run = export("here", "x,y,z").spawn();
    if !run.until_or_end(|| dir.path("here/out/.colophon-commit.json").exists()) {
        return skip("no moment was found to kill it");
    }
    run.signal(Signal::KILL);
    let _ = run.wait();
    fs::rename(dir.path("here"), dir.path("there")).expect("rename");
    dir.write("in/bad.jsonl", "bad\n".repeat(1_000));
    export("there", "a,b,c").run().status(1);
    fs::remove_dir_all(dir.path("there/out/failed")).expect("what failed");
    fs::remove_file(dir.path("there/out/notes.txt")).expect("the file of others");
    oracle::check_files(&dir, "there/out", &dir.json("there/out/manifest.json"));
}
