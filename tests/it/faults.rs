//! Bad input and a bad environment: each ends with the documented status and a message that names the
//! file and the cause, and none harms the earlier export.

use crate::corpus::{self, Packing, Shard};
use crate::harness::{Dir, Mount, Running, SLOW, Snapshot, TestCommand, assert_same, is_root, skip};
use crate::oracle::{Expected, Options};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

/// A folder with an export of a few documents, and what that export is.
fn exported() -> (Dir, Snapshot) {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(40));
    dir.export().run().status(0);
    let export = dir.snapshot("out");
    (dir, export)
}

/// Checks that a run ends with status 3 and these words, and leaves the earlier export alone.
#[track_caller]
fn fails(dir: &Dir, earlier: &Snapshot, command: TestCommand<'_>, parts: &[&str]) {
    let names = dir.names(".");
    command.run().status(3).says(parts);
    assert_same(earlier, &dir.snapshot("out"), "the earlier export");
    assert_eq!(dir.names("."), names, "something is left beside the output");
}

// ---- No input, empty input

#[test]
fn no_shards_is_a_mistake_of_usage() {
    let dir = Dir::new();
    dir.folder("in/sub");
    dir.write("in/notes.txt", "x");
    dir.write("in/.hidden.jsonl", corpus::documents(1));
    dir.export().run().status(2).says(&["in", ".jsonl"]);
    dir.colophon(["export", "--input-dir", "in/*.jsonl", "--output-dir", "out"]).run().status(2).says(&["in/*.jsonl"]);
    dir.colophon(["export", "--input-dir", "in/notes.txt", "--output-dir", "out"])
        .run()
        .status(2)
        .says(&["in/notes.txt"]);
    assert_eq!(dir.names("."), ["in"]);
}

#[test]
fn a_missing_input_is_named() {
    let dir = Dir::new();
    dir.export().run().status(3).says(&["in: ", "No such file"]);
    dir.colophon(["export", "--input-dir", "gone/a.jsonl", "--output-dir", "out"])
        .run()
        .status(3)
        .says(&["gone/a.jsonl"]);
    dir.colophon(["validate", "gone.jsonl"]).run().status(3).says(&["gone.jsonl"]);
    dir.colophon(["stats", "gone"]).run().status(3).says(&["gone"]);
    dir.colophon(["summary", "gone"]).run().status(3).says(&["gone"]);
    assert_eq!(dir.names("."), [""; 0]);
}

#[test]
fn empty_files_make_an_empty_export() {
    let dir = Dir::new();
    let shards = [
        ("a.jsonl", ""),
        ("b.jsonl", "\u{feff}"),
        ("c.jsonl", "\n"),
        ("d.jsonl.gz", ""),
        ("e.jsonl.zst", ""),
        ("f.ndjson", " \r\n\t"),
    ];
    let shards = shards.map(|(name, lines)| Shard::new(name, lines));
    corpus::write(&dir, "in", &shards);
    dir.export().args(["--max-reject-ratio", "0"]).run().status(0).says(&["empty"]);
    Expected::new(&shards, &Options::default()).check(&dir, "out");
    assert_eq!(dir.read("out/train.jsonl"), b"");
    dir.colophon(["validate", "out"]).run().status(0);
    dir.colophon(["stats", "out"]).run().status(0);
}

// ---- What cannot be read

#[test]
fn what_cannot_be_read_is_named() {
    let (dir, earlier) = exported();
    dir.write("in/locked/b.jsonl", corpus::documents(1));
    let lock =
        |name: &str, mode: u32| fs::set_permissions(dir.path(name), fs::Permissions::from_mode(mode)).expect("chmod");
    // Root reads everything: the program runs as somebody else, who needs to write the output all the same.
    lock("out", 0o777);
    lock(".", 0o777);
    if is_root() && !dir.colophon(["--version"]).after("true").by_nobody().run().stdout.contains("colophon") {
        return skip("another user cannot run the program where it lies");
    }
    lock("in/locked", 0o000);
    fails(&dir, &earlier, dir.export().by_nobody(), &["in/locked", "Permission denied"]);
    lock("in/locked", 0o755);
    lock("in/locked/b.jsonl", 0o000);
    fails(&dir, &earlier, dir.export().by_nobody(), &["in/locked/b.jsonl", "Permission denied"]);
    lock("in/locked/b.jsonl", 0o644);
    lock("out", 0o555);
    fails(&dir, &earlier, dir.export().by_nobody(), &["out", "Permission denied"]);
    // Else the folder could not be removed.
    lock("out", 0o755);
}

#[test]
fn what_is_no_file_is_named() {
    let (dir, earlier) = exported();
    let pipe = dir.path("in/pipe.jsonl");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o644.into(), 0).expect("a pipe");
    fails(&dir, &earlier, dir.export(), &["in/pipe.jsonl", "not a regular file"]);
    // A folder may be called what it likes.
    fs::remove_file(pipe).expect("remove");
    dir.write("in/folder.jsonl/b.jsonl", corpus::documents(2));
    assert_eq!(dir.export().args(["--json"]).run().status(0).json()["ledger"]["exported"], 42);
}

#[test]
fn a_shard_that_was_cut_off_is_named() {
    let (dir, earlier) = exported();
    let lines = corpus::classified().concat();
    for name in ["in/b.jsonl.gz", "in/b.jsonl.zst"] {
        let packed = Packing::of(Path::new(name)).pack(&lines);
        // In the header, in the first block, in the middle, in the checksum.
        for length in [1, 3, 9, 11, 100, packed.len() / 2, packed.len() - 9, packed.len() - 5, packed.len() - 1] {
            dir.write(name, &packed[..length]);
            fails(&dir, &earlier, dir.export(), &[name, "too early", "cut off"]);
        }
        dir.colophon(["validate", name]).run().status(3).says(&[name]);
        fs::remove_file(dir.path(name)).expect("remove");
    }
}

#[test]
fn a_damaged_shard_is_named() {
    let (dir, earlier) = exported();
    let lines = corpus::classified().concat();
    for name in ["in/b.jsonl.gz", "in/b.jsonl.zst"] {
        let packed = Packing::of(Path::new(name)).pack(&lines);
        let mut flipped = packed.clone();
        flipped[packed.len() / 2] ^= 0x10;
        let mut checksum = packed.clone();
        checksum[packed.len() - if name.ends_with(".gz") { 8 } else { 1 }] ^= 1;
        let followed = [&packed[..], b"rubbish behind the end"].concat();
        for (what, bytes) in [
            ("flipped", &flipped[..]),
            ("checksum", &checksum),
            ("rubbish", b"this is no packed file at all"),
            ("followed", &followed),
        ] {
            dir.write(name, bytes);
            let run = dir.export().run().status(3).says(&[name]);
            // Nothing is missing from these: to copy the file again "because it is cut off" helps nobody.
            if !run.stderr.contains("damaged") {
                run.fail(&format!("{what}: not called damaged"));
            }
            assert_same(&earlier, &dir.snapshot("out"), what);
        }
        fs::remove_file(dir.path(name)).expect("remove");
    }
}

/// `gzip` itself reads past zeros behind the last member, which tapes and block devices leave.
#[test]
fn zeros_behind_a_gzip_member_are_no_damage() {
    let dir = Dir::new();
    let packed = Packing::Gzip.pack(corpus::documents(9).as_bytes());
    dir.write("in/a.jsonl.gz", [packed, vec![0; 512]].concat());
    assert_eq!(dir.export().args(["--json"]).run().status(0).json()["ledger"]["exported"], 9);
}

// ---- Shards that change while they are read

/// Stops a run in its middle, changes the shard, and lets it go on.
#[track_caller]
fn change_while_read(change: impl Fn(&File), parts: &[&str]) {
    let (dir, earlier) = exported();
    dir.write("in/large.jsonl", corpus::large(24));
    let run = Running::held_while_reading(|| dir.export().args(SLOW).spawn(), "in/large.jsonl", |_| true);
    change(&File::options().write(true).open(dir.path("in/large.jsonl")).expect("the shard"));
    run.resume();
    let run = run.wait();
    assert_eq!(run.signal(), None, "it was killed: {}", run.stderr);
    run.status(3).says(&["in/large.jsonl", "while it was read"]).says(parts);
    assert_same(&earlier, &dir.snapshot("out"), "the earlier export");
    assert_eq!(dir.names("."), ["in", "out"]);
}

#[test]
fn a_shard_that_shrinks_while_it_is_read_is_named() {
    // To nothing, within a page, and by one byte.
    for length in [0, (4 << 20) + 100, (24 << 20) - 1] {
        change_while_read(|file| file.set_len(length).expect("truncate"), &["shrank"]);
    }
}

#[test]
fn a_shard_that_shrinks_and_grows_again_is_named() {
    change_while_read(
        |file| {
            file.set_len(1000).expect("truncate");
            file.set_len(25 << 20).expect("grow");
        },
        &[],
    );
}

#[test]
fn a_shard_that_is_written_to_while_it_is_read_is_named() {
    change_while_read(|mut file| file.write_all(b"{\"text\":\"another").expect("write"), &["changed"]);
    change_while_read(|file| file.set_len(30 << 20).expect("grow"), &["changed"]);
}

/// A scanner looks at some bytes more than once. What it found out the first time may not hold the second
/// time, if somebody writes to the shard: that must neither end the program nor lead it astray.
#[test]
fn no_scanner_falls_over_a_shard_that_changes_under_it() {
    const BYTES: &[u8] = b"\"\"\"\\{}[]:,\n\n u0x\x00\xff";
    let (dir, _) = exported();
    let lines = [corpus::large(6), crate::hostile::chunk(11, 4000)].concat();
    let shard = dir.write("in/b.jsonl", &lines);
    let file = File::options().write(true).open(shard).expect("the shard");
    let mut dice = crate::hostile::Dice::new(5);
    let mut wrong = Vec::new();
    for scanner in colophon::scan::available().iter().map(|scanner| scanner.name()) {
        for _ in 0..8 {
            // One chunk: that it changed is only looked at behind it.
            let args = ["--scanner", scanner, "--max-reject-ratio", "1", "--chunk-size", "64MiB"];
            let mut run = dir.export().args(args).spawn();
            while run.is_running() {
                for _ in 0..50 {
                    file.write_all_at(&[dice.pick(BYTES)], dice.below(lines.len()) as u64).expect("write");
                }
            }
            let run = run.wait();
            // Where the run was over before the first change, all was well.
            if !matches!(run.code(), Some(0 | 3)) {
                wrong.push(format!("{scanner}: {:?}, signal {:?}: {}", run.code(), run.signal(), run.stderr));
            }
        }
        file.write_all_at(&lines, 0).expect("write");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Between the search for shards and a shard's turn hours may pass.
#[test]
fn a_shard_that_shrinks_before_its_turn_is_named() {
    for name in ["in/z.jsonl", "in/z.jsonl.gz"] {
        let (dir, earlier) = exported();
        dir.write("in/large.jsonl", corpus::large(12));
        let pack = |count| Packing::of(Path::new(name)).pack(corpus::documents(count).as_bytes());
        dir.write(name, pack(100));
        let run = Running::held_while_reading(|| dir.export().args(SLOW).spawn(), "in/large.jsonl", |_| true);
        dir.write(name, pack(50));
        run.resume();
        run.wait().status(3).says(&[name]);
        assert_same(&earlier, &dir.snapshot("out"), "the earlier export");
    }
}

/// A packed shard that loses its end between two of its members is still readable, but not whole.
#[test]
fn a_packed_shard_that_shrinks_while_it_is_read_is_named() {
    let (dir, earlier) = exported();
    let mut dice = crate::hostile::Dice::new(1);
    // Digits by chance do not pack well: the file has to be longer than what is read ahead.
    let mut part = || -> Vec<u8> {
        let digits = |dice: &mut crate::hostile::Dice| {
            (0..5000).map(|_| dice.pick(b"0123456789abcdef") as char).collect::<String>()
        };
        Packing::Gzip.pack((0..40).map(|_| corpus::document(&digits(&mut dice))).collect::<String>().as_bytes())
    };
    let parts: Vec<_> = (0..80).map(|_| part()).collect();
    let shard = dir.write("in/b.jsonl.gz", parts.concat());
    let run = Running::held_while_reading(|| dir.export().args(SLOW).spawn(), "in/b.jsonl.gz", |_| true);
    let shorter = parts[..60].iter().map(Vec::len).sum::<usize>();
    File::options().write(true).open(shard).and_then(|file| file.set_len(shorter as u64)).expect("truncate");
    run.resume();
    run.wait().status(3).says(&["in/b.jsonl.gz", "shrank"]);
    assert_same(&earlier, &dir.snapshot("out"), "the earlier export");
}

/// Where validation reads a shard that shrinks, it fails too, and says why.
#[test]
fn validation_survives_a_shard_that_shrinks() {
    let dir = Dir::new();
    let large = dir.write("large.jsonl", corpus::large(24));
    let start = || dir.colophon(["validate", "large.jsonl"]).args(SLOW).spawn();
    let run = Running::held_while_reading(start, "large.jsonl", |_| true);
    File::options().write(true).open(large).and_then(|file| file.set_len(100)).expect("truncate");
    run.resume();
    run.wait().status(3).says(&["large.jsonl", "shrank"]);
}

// ---- The output

#[test]
fn a_full_disk_leaves_the_earlier_export() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(40));
    dir.folder("disk");
    let Some(_mount) = Mount::new(&["-t", "tmpfs", "-o", "size=3m", "tmpfs"], dir.path("disk")) else { return };
    let export = || dir.colophon(["export", "--input-dir", "in"]);
    // In a folder on the disk, and on the whole of it.
    for output in ["disk/out", "disk"] {
        export().args(["--output-dir", output]).run().status(0);
        let earlier = dir.snapshot("disk");
        dir.write("in/b.jsonl", corpus::large(6));
        for layout in [&[][..], &["--shard-size", "100k"], &["--threads", "1"]] {
            let run = export().args(["--output-dir", output]).args(layout).run();
            run.status(3).says(&["disk/", "No space left on device", "free some space"]);
            assert_same(&earlier, &dir.snapshot("disk"), "the disk");
        }
        // Rejected lines fill a disk as well as sound ones.
        dir.write("in/b.jsonl", "rubbish\n".repeat(600_000));
        export()
            .args(["--output-dir", output, "--max-reject-ratio", "1"])
            .run()
            .status(3)
            .says(&["quarantine", "No space left"]);
        assert_same(&earlier, &dir.snapshot("disk"), "the disk");
        fs::remove_file(dir.path("in/b.jsonl")).expect("remove");
        fs::remove_dir_all(dir.path("disk/out")).expect("remove");
        dir.folder("disk/out");
    }
}

/// A disk can be full at any file or folder that is made, to the last one. (Here it has no more inodes.)
#[test]
fn a_disk_that_is_full_at_any_moment_leaves_the_earlier_export() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(40) + "bad\n");
    dir.folder("disk");
    // The output is the whole disk, a folder on it, and one in which others have a file.
    for (output, others) in [("disk", None), ("disk/out", None), ("disk/out", Some("disk/out/notes.txt"))] {
        let export = || {
            let args = ["export", "--input-dir", "in", "--output-dir", output, "--max-reject-ratio", "1"];
            dir.colophon(args)
        };
        let mut statuses = std::collections::BTreeSet::new();
        for inodes in 8..30 {
            let options = format!("nr_inodes={inodes},size=10m");
            let Some(_mount) = Mount::new(&["-t", "tmpfs", "-o", &options, "tmpfs"], dir.path("disk")) else { return };
            if export().run().code() != Some(0) || others.is_some_and(|name| fs::write(dir.path(name), "mine").is_err())
            {
                continue;
            }
            let before = dir.snapshot("disk");
            let run = export().args(["--split-names", "a,b,c", "--seed", "1"]).run();
            statuses.insert(run.code());
            match run.code() {
                Some(0) => assert!(dir.path(output).join("a.jsonl").exists()),
                Some(3) => assert_same(
                    &before,
                    &dir.snapshot("disk"),
                    &format!("{output} with {inodes} inodes: {}", run.stderr),
                ),
                _ => run.fail("neither done nor refused"),
            }
        }
        assert_eq!(statuses.into_iter().collect::<Vec<_>>(), [Some(0), Some(3)], "{output}");
    }
}

/// The same where nothing can be mounted: the kernel refuses to write beyond a size.
#[test]
fn a_write_that_fails_leaves_the_earlier_export() {
    let (dir, earlier) = exported();
    dir.write("in/b.jsonl", corpus::large(3));
    // Without the trap the signal that goes with it would end the program.
    let limited = || dir.export().after("trap '' XFSZ; ulimit -f 1000");
    fails(&dir, &earlier, limited(), &[".colophon-stage", "File too large"]);
    fails(
        &dir,
        &earlier,
        limited().args(["--compress", "gzip", "--split-ratio", "0,0,1"]).after("trap '' XFSZ; ulimit -f 20"),
        &["File too large"],
    );
}

#[test]
fn an_output_folder_within_the_input_is_not_read() {
    let dir = Dir::new();
    dir.write("data/a.jsonl", corpus::documents(30) + "bad\n");
    dir.write("data/sub/b.jsonl", corpus::documents(10));
    let args = ["export", "--input-dir", "data", "--output-dir", "data/sub/out", "--json", "--max-reject-ratio", "0.1"];
    let first = dir.colophon(args).run().status(0).json();
    assert_eq!(first["ledger"]["lines"], 41);
    let export = dir.snapshot("data/sub/out");
    for how in [&[][..], &["--threads", "7"]] {
        let again = dir.colophon(args).args(how).run().status(0).json();
        assert_eq!(again["ledger"], first["ledger"]);
        assert_same(&export, &dir.snapshot("data/sub/out"), "a second export");
    }
    // By another name of the same folder.
    symlink("data/sub", dir.path("link")).expect("a link");
    let args = ["export", "--input-dir", "data", "--output-dir", "link/out", "--json", "--max-reject-ratio", "0.1"];
    assert_eq!(dir.colophon(args).run().status(0).json()["ledger"], first["ledger"]);
    assert_eq!(dir.names("data/sub"), ["b.jsonl", "out"]);
}

#[test]
fn an_export_does_not_replace_what_it_reads() {
    let dir = Dir::new();
    dir.write("data/in/a.jsonl", corpus::documents(30));
    symlink("data/in", dir.path("link")).expect("a link");
    let before = dir.snapshot(".");
    let cases = [
        ("data/in", "data/in"),
        ("data/in", "data/../data/in/"),
        ("link", "data/in"),
        ("data/in", "link"),
        // The shard lies in the output folder.
        ("data/in", "data"),
        ("data/in/a.jsonl", "data/in"),
        ("data/*/*.jsonl", "data"),
        ("link/a.jsonl", "data"),
    ];
    for (input, output) in cases {
        let run = dir.colophon(["export", "--input-dir", input, "--output-dir", output]).run().status(2);
        if !run.stderr.contains("would replace what it reads") {
            run.fail(&format!("{input} to {output}"));
        }
        assert_same(&before, &dir.snapshot("."), &format!("{input} to {output}"));
    }
}

#[test]
fn an_output_that_is_no_folder_is_named() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(3));
    dir.write("file", "mine");
    symlink("nowhere", dir.path("dead")).expect("a link");
    for output in ["file", "file/below", "dead"] {
        dir.colophon(["export", "--input-dir", "in", "--output-dir", output]).run().status(3).says(&[output]);
    }
    assert_eq!(dir.text("file"), "mine");
    assert_eq!(dir.names("."), ["dead", "file", "in"]);
}

#[test]
fn an_output_folder_may_be_a_link() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(30));
    dir.folder("real");
    symlink("real", dir.path("out")).expect("a link");
    for _ in 0..2 {
        dir.export().args(["--no-card"]).run().status(0);
        assert!(dir.path("out").is_symlink());
        assert_eq!(
            dir.names("real"),
            ["dataset_stats.json", "manifest.json", "test.jsonl", "train.jsonl", "validation.jsonl"]
        );
        assert_eq!(dir.names("."), ["in", "out", "real"]);
    }
}

#[test]
fn files_of_others_in_the_output_stay() {
    let (dir, earlier) = exported();
    let theirs = [
        ("notes.txt", "mine"),
        (".hidden", "mine"),
        ("plots/a.svg", "mine"),
        ("old.jsonl", "mine"),
        ("quarantine-notes", "mine"),
    ];
    for (name, text) in theirs {
        dir.write(Path::new("out").join(name), text);
    }
    // What an earlier export had and this one has not disappears all the same.
    dir.export().args(["--split-names", "a,b,c"]).run().status(0);
    assert!(!dir.path("out/train.jsonl").exists() && dir.path("out/a.jsonl").exists());
    dir.write("in/b.jsonl", "bad\n".repeat(50));
    dir.export().run().status(1);
    assert!(dir.path("out/a.jsonl").exists() && dir.path("out/failed").exists());
    dir.export().args(["--max-reject-ratio", "1"]).run().status(0);
    assert!(dir.path("out/quarantine").exists() && !dir.path("out/failed").exists());
    fs::remove_file(dir.path("in/b.jsonl")).expect("remove");
    dir.export().run().status(0);
    let mut found = dir.snapshot("out");
    for (name, text) in theirs {
        assert_eq!(dir.text(Path::new("out").join(name)), text);
        found = found.without(name.split('/').next().expect("a name"));
    }
    assert_same(&earlier, &found, "the export among the files of others");
    assert_eq!(dir.names("."), ["in", "out"]);
}

/// What the seed's own script left behind is replaced, though no manifest lists it.
#[test]
fn an_export_takes_the_place_of_files_with_its_names() {
    let (dir, earlier) = exported();
    fs::remove_file(dir.path("out/manifest.json")).expect("remove");
    dir.write("out/train.jsonl", "stale\n");
    dir.export().run().status(0);
    assert_same(&earlier, &dir.snapshot("out"), "the export");
}

/// Somebody's folder where a file of the export belongs: nothing is done rather than half of it.
#[test]
fn a_folder_of_others_where_a_file_belongs_stops_the_export() {
    let (dir, _) = exported();
    dir.write("out/b.jsonl/notes.txt", "mine");
    let before = dir.snapshot("out");
    let run = || dir.export().args(["--split-names", "a,b,c"]).run();
    let first = run();
    assert_same(&before, &dir.snapshot("out"), "the earlier export and the folder of others");
    first.status(2).says(&["out/b.jsonl"]);
    run().status(2);
    assert_same(&before, &dir.snapshot("out"), "the earlier export, again");
    // Out of the way, it is no obstacle.
    fs::rename(dir.path("out/b.jsonl"), dir.path("out/b")).expect("rename");
    run().status(0);
    assert_eq!(dir.text("out/b/notes.txt"), "mine");
}

#[test]
fn the_output_folder_keeps_its_permissions() {
    let (dir, _) = exported();
    for mode in [0o750, 0o2775, 0o700] {
        fs::set_permissions(dir.path("out"), fs::Permissions::from_mode(mode)).expect("chmod");
        dir.export().run().status(0);
        assert_eq!(fs::metadata(dir.path("out")).expect("the output").permissions().mode() & 0o7777, mode);
    }
}

/// A volume of its own cannot change places with another folder.
#[test]
fn an_output_folder_may_be_a_mount_point() {
    let (dir, export) = exported();
    dir.folder("volume");
    let Some(_mount) = Mount::new(&["-t", "tmpfs", "-o", "size=3m", "tmpfs"], dir.path("volume")) else { return };
    check_volume(&dir, &export);
}

/// As a container sees a part of a volume: a mount point on the same file system as its parent.
#[test]
fn an_output_folder_may_be_a_bind_mount() {
    let (dir, export) = exported();
    let source = dir.folder("source");
    dir.folder("volume");
    let source = source.to_str().expect("a plain path");
    let Some(_mount) = Mount::new(&["--bind", source], dir.path("volume")) else { return };
    check_volume(&dir, &export);
}

#[track_caller]
fn check_volume(dir: &Dir, export: &Snapshot) {
    let names = dir.names(".");
    let command = || {
        dir.colophon([
            "export",
            "--input-dir",
            "in",
            "--output-dir",
            "volume",
            "--set",
            "metadata.curation_date=2024-01-15",
        ])
    };
    for _ in 0..2 {
        command().run().status(0);
        assert_same(export, &dir.snapshot("volume"), "an export on a volume");
        assert_eq!(dir.names("."), names, "something is left beside the volume");
    }
    command().args(["--split-names", "a,b,c"]).run().status(0);
    assert!(!dir.path("volume/train.jsonl").exists() && dir.path("volume/a.jsonl").exists());
    command().args(["--shard-size", "500"]).run().status(0);
    command().run().status(0);
    assert_same(export, &dir.snapshot("volume"), "an export on a volume, after others");
    dir.write("in/bad.jsonl", "bad\n".repeat(9));
    command().run().status(1);
    assert_same(export, &dir.snapshot("volume").without("failed"), "an export on a volume, after a failure");
}

/// Often only the output folder itself belongs to whoever exports.
#[test]
fn the_folder_around_the_output_need_not_be_writable() {
    let (dir, export) = exported();
    let chmod =
        |name: &str, mode: u32| fs::set_permissions(dir.path(name), fs::Permissions::from_mode(mode)).expect("chmod");
    dir.folder("closed/out");
    chmod("closed/out", 0o777);
    chmod("closed", 0o555);
    if is_root() && !dir.colophon(["--version"]).by_nobody().run().stdout.contains("colophon") {
        return skip("another user cannot run the program where it lies");
    }
    let command = || {
        dir.colophon([
            "export",
            "--input-dir",
            "in",
            "--output-dir",
            "closed/out",
            "--set",
            "metadata.curation_date=2024-01-15",
        ])
    };
    for _ in 0..2 {
        command().by_nobody().run().status(0);
        assert_same(&export, &dir.snapshot("closed/out"), "an export in a closed folder");
    }
    assert_eq!(dir.names("closed"), ["out"]);
    chmod("closed", 0o755);
}

/// Files in a folder such as /tmp can be replaced by their owner alone. A run that finds that out when all
/// else is done must not leave a trap for the next one.
#[test]
fn a_commit_that_is_refused_harms_nothing() {
    if !is_root() {
        return skip("it takes two users");
    }
    let (dir, _) = exported();
    let chmod =
        |name: &str, mode: u32| fs::set_permissions(dir.path(name), fs::Permissions::from_mode(mode)).expect("chmod");
    dir.folder("closed/out");
    chmod("closed/out", 0o1777);
    let export = || dir.colophon(["export", "--input-dir", "in", "--output-dir", "closed/out"]);
    export().run().status(0);
    let earlier = dir.snapshot("closed/out");
    chmod("closed", 0o555);
    if !dir.colophon(["--version"]).by_nobody().run().stdout.contains("colophon") {
        return skip("another user cannot run the program where it lies");
    }
    export().args(["--split-names", "a,b,c"]).by_nobody().run().status(3).says(&["closed/out", "not permitted"]);
    assert_same(&earlier, &dir.snapshot("closed/out").visible(), "the earlier export");
    // The next run comes to nothing, too: all is still as it was.
    dir.write("in/bad.jsonl", "bad\n".repeat(99));
    export().run().status(1);
    assert_same(&earlier, &dir.snapshot("closed/out").visible().without("failed"), "the earlier export");
    fs::remove_file(dir.path("in/bad.jsonl")).expect("remove");
    export().run().status(0);
    assert_same(&earlier, &dir.snapshot("closed/out"), "the next export");
    chmod("closed", 0o755);
}

/// A corpus of terabytes has more shards than a process may have open files.
#[test]
fn many_shards_need_few_open_files() {
    let dir = Dir::new();
    for i in 0..100 {
        dir.write(format!("in/{i}.jsonl"), corpus::documents(10));
    }
    for layout in [&["--shard-size", "2000"][..], &["--shard-size", "2000", "--compress", "zstd"]] {
        dir.export().args(layout).after("ulimit -n 40").run().status(0);
    }
}

#[test]
fn two_runs_on_one_output_folder_do_not_mix() {
    let (dir, earlier) = exported();
    dir.write("in/large.jsonl", corpus::large(12));
    let mut first = dir.export().args(SLOW).spawn();
    first.until(|| dir.is_writing());
    // It holds still while the second one tries.
    assert!(first.pause(), "it ended before it could be stopped");
    symlink("out", dir.path("link")).expect("a link");
    let absolute = dir.path("out").into_os_string();
    for output in [OsStr::new("out"), "link".as_ref(), "in/../out/.".as_ref(), &absolute] {
        let args = ["export", "--input-dir", "in", "--output-dir"];
        let second = dir.colophon(args).args([output]).run().status(3).says(&["out: another run"]);
        assert!(second.took < Duration::from_secs(5), "not at once: {:?}", second.took);
        assert_same(&earlier, &dir.snapshot("out").visible(), "the earlier export");
    }
    first.resume();
    first.wait().status(0);
    assert_ne!(dir.read("out/train.jsonl").len(), 0);
    dir.colophon(["validate", "out"]).run().status(0);
    // The lock has gone with the first.
    dir.export().run().status(0);
    assert_eq!(dir.names("."), ["in", "link", "out"]);
}

// ---- Names and links

#[test]
fn names_need_not_be_utf_8() {
    let dir = Dir::new();
    let name = |bytes: &'static [u8]| OsStr::from_bytes(bytes);
    let shard = Path::new(name(b"f\xf6lder")).join(name(b"\xff.jsonl"));
    dir.write(Path::new("in").join(&shard), corpus::documents(20) + "bad\n");
    dir.write(Path::new("in").join(name(b"p\xe4cked.jsonl.gz")), Packing::Gzip.pack(b"worse\n"));
    dir.folder(name(b"\xe0ut"));
    let args = |output: &'static [u8]| {
        [name(b"export"), name(b"--input-dir"), name(b"in"), name(b"--output-dir"), name(output)]
    };
    let run = dir.colophon(args(b"\xe0ut/\xfe")).args(["--max-reject-ratio", "1", "--json"]).run().status(0);
    assert_eq!(run.json()["ledger"]["exported"], 20);
    let output = Path::new(name(b"\xe0ut")).join(name(b"\xfe"));
    assert_eq!(dir.read(output.join("quarantine").join(&shard)), b"bad\n");
    let index = dir.text(output.join("quarantine/index.jsonl"));
    assert!(
        index.contains(r#""file":"f\\xF6lder/\\xFF.jsonl","line":21"#)
            && index.contains(r#""file":"p\\xE4cked.jsonl.gz","line":1"#),
        "{index}"
    );
    let manifest = dir.json(output.join("manifest.json"));
    assert_eq!(manifest["inputs"][0]["path"], r"f\xF6lder/\xFF.jsonl");
    dir.colophon([name(b"validate"), output.as_os_str()]).run().status(0);
    // Again over the earlier one, with a job file, and with the folders from the environment.
    dir.write(name(b"j\xf6b.toml"), "max-reject-ratio = 1\n");
    dir.colophon(args(b"\xe0ut/\xfe")).args([name(b"--job"), name(b"j\xf6b.toml")]).run().status(0);
    let by_environment = dir.colophon(["export", "--max-reject-ratio", "1"]).env("COLOPHON_INPUT_DIR", "in");
    by_environment.env("COLOPHON_OUTPUT_DIR", name(b"\xe0ut/\xfe")).run().status(0);
    // And in a message.
    dir.write(Path::new("in").join(name(b"p\xe4cked.jsonl.gz")), "rubbish");
    dir.colophon(args(b"\xe0ut/\xfe")).run().status(3).says(&[r"in/p\xE4cked.jsonl.gz"]);
    assert_eq!(fs::read_dir(dir.path(name(b"\xe0ut"))).expect("a folder").count(), 1);
}

#[test]
fn links_are_followed() {
    let dir = Dir::new();
    dir.write("elsewhere/a.jsonl", corpus::document("a"));
    dir.write("elsewhere/folder/b.jsonl", corpus::document("b"));
    dir.write("elsewhere/named-otherwise", corpus::document("c"));
    dir.folder("in");
    let link = |to: &str, name: &str| symlink(to, dir.path(name)).expect("a link");
    link("../elsewhere/a.jsonl", "in/1.jsonl");
    link("../elsewhere/folder", "in/2");
    link("../elsewhere/named-otherwise", "in/3.jsonl");
    // Twice is twice: whoever links a shard wants it there.
    link("../elsewhere/folder", "in/4");
    // A dead link that would be no shard does not matter.
    link("nowhere.txt", "in/dead.txt");
    link("in", "in-link");
    for input in ["in", "in-link"] {
        let args =
            ["export", "--input-dir", input, "--output-dir", "out", "--split-ratio", "1", "--split-names", "all"];
        dir.colophon(args).run().status(0);
        let texts: Vec<_> = dir.text("out/all.jsonl").lines().map(|line| line[..11].to_owned()).collect();
        assert_eq!(texts, ["a", "b", "c", "b"].map(|text| format!("{{\"text\":\"{text}\"")));
        let inputs = dir.json("out/manifest.json")["inputs"].as_array().cloned().unwrap_or_default();
        let paths: Vec<_> = inputs.iter().map(|input| input["path"].as_str().unwrap_or_default()).collect();
        assert_eq!(paths, ["1.jsonl", "2/b.jsonl", "3.jsonl", "4/b.jsonl"]);
    }
}

#[test]
fn dead_links_and_loops_are_named() {
    let (dir, earlier) = exported();
    let link = |to: &str, name: &str| symlink(to, dir.path(name)).expect("a link");
    let unlink = |name: &str| fs::remove_file(dir.path(name)).expect("remove");
    link("nowhere.jsonl", "in/dead.jsonl");
    fails(&dir, &earlier, dir.export(), &["in/dead.jsonl", "No such file"]);
    unlink("in/dead.jsonl");
    link("self.jsonl", "in/self.jsonl");
    fails(&dir, &earlier, dir.export(), &["in/self.jsonl", "symbolic link"]);
    unlink("in/self.jsonl");
    dir.write("in/deep/er/b.jsonl", corpus::documents(1));
    link("..", "in/deep/er/loop");
    fails(&dir, &earlier, dir.export(), &["in/deep/er/loop", "leads back"]);
    unlink("in/deep/er/loop");
    link("../../..", "in/deep/er/loop");
    fails(&dir, &earlier, dir.export(), &["in/deep/er/loop"]);
    unlink("in/deep/er/loop");
    // A link to the output folder is the output folder.
    link("../out", "in/deep/result");
    assert_eq!(dir.export().args(["--json"]).run().status(0).json()["ledger"]["exported"], 41);
}

/// A folder of curated data in which somebody once put an export.
#[test]
fn an_export_among_the_input_is_pointed_out() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(40));
    dir.colophon(["export", "--input-dir", "in", "--output-dir", "in/out"]).run().status(0);
    let report = dir.export().args(["--json"]).run().status(0).says(&["in/out is an export of colophon"]).json();
    assert_eq!(report["ledger"]["exported"], 80);
    let direct = dir.colophon(["export", "--input-dir", "in/out", "--output-dir", "again"]).run().status(0);
    assert!(!direct.stderr.contains("is an export"), "asked for by name: {}", direct.stderr);
}

// ---- Devices and whoever reads the results

#[test]
fn a_gpu_that_is_not_there_is_no_reason_to_begin() {
    let (dir, earlier) = exported();
    if dir.colophon(["devices", "--json"]).run().status(0).json()["gpus"] != serde_json::json!([]) {
        return skip("there is a GPU here");
    }
    fails(&dir, &earlier, dir.export().args(["--device", "cuda"]), &["cuda"]);
    fails(&dir, &earlier, dir.colophon(["validate", "out", "--device", "cuda"]), &["cuda"]);
    for device in ["auto", "cpu"] {
        dir.export().args(["--device", device]).run().status(0);
        assert_same(&earlier, &dir.snapshot("out"), device);
    }
}

/// The writing end of a pipe that nobody reads any more.
fn closed_pipe() -> std::io::PipeWriter {
    let (_, writer) = std::io::pipe().expect("a pipe");
    writer
}

/// `colophon … | head -1` is no failure.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let (dir, earlier) = exported();
    fs::remove_dir_all(dir.path("out")).expect("remove");
    dir.export().stdout(closed_pipe()).run().status(0);
    assert_same(&earlier, &dir.snapshot("out"), "the export");
    for args in [
        &["validate", "out"][..],
        &["stats", "out"],
        &["stats", "out", "--json"],
        &["summary", "."],
        &["demo"],
        &["--help"],
        &["export", "--help"],
    ] {
        dir.colophon(args).stdout(closed_pipe()).run().status(0);
    }
    // A bad export is bad, whoever listens.
    dir.write("out/train.jsonl", "bad\n");
    dir.colophon(["validate", "out"]).stdout(closed_pipe()).run().status(1);
}

/// `colophon … 2>&1 | head -1`: messages that nobody reads are no failure either.
#[test]
fn messages_that_nobody_reads_are_no_failure() {
    let (dir, earlier) = exported();
    fs::remove_dir_all(dir.path("out")).expect("remove");
    for format in ["text", "json"] {
        dir.export().args(["--log-format", format]).stderr(closed_pipe()).run().status(0);
        assert_same(&earlier, &dir.snapshot("out"), "the export");
    }
    dir.colophon(["validate", "gone"]).stderr(closed_pipe()).run().status(3);
}

/// A result that could not be written down is lost, and that is a failure.
#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let (dir, _) = exported();
    let Ok(full) = File::options().write(true).open("/dev/full") else { return skip("there is no /dev/full here") };
    dir.colophon(["validate", "out"]).stdout(full).run().status(3).says(&["standard output", "No space left"]);
}

// ---- Long lines

/// Writes a line with a text of so many bytes between two short ones, without holding it in memory.
fn write_long_line(path: &Path, text_bytes: usize) {
    let mut file = std::io::BufWriter::new(File::create(path).expect("a shard"));
    write_long(&mut file, text_bytes).and_then(|()| file.flush()).expect("a long line");
}

fn write_long(out: &mut impl Write, text_bytes: usize) -> std::io::Result<()> {
    let block = vec![b'x'; 1 << 20];
    out.write_all(b"{\"text\":\"before\"}\n{\"text\":\"")?;
    for _ in 0..text_bytes >> 20 {
        out.write_all(&block)?;
    }
    out.write_all(&block[..text_bytes & ((1 << 20) - 1)])?;
    out.write_all(b"\"}\n{\"text\":\"after one\"}\n{\"text\":\"after two\"}\n")
}

/// The bytes of a line around its text.
const AROUND: usize = "{\"text\":\"\"}".len();
const GIB: usize = 1 << 30;

#[test]
fn a_line_of_200_mib() {
    let dir = Dir::new();
    dir.folder("in");
    let size = 200 << 20;
    write_long_line(&dir.path("in/a.jsonl"), size - AROUND);
    let args = ["--split-ratio", "1", "--split-names", "all", "--json", "--chunk-size", "1MiB"];
    let report = dir.export().args(args).run().status(0).json();
    assert_eq!((&report["ledger"]["lines"], &report["ledger"]["exported"]), (&4.into(), &4.into()));
    let stats = dir.json("out/dataset_stats.json");
    assert_eq!(stats["text_length_stats"]["max"], size - AROUND);
    let (input, output) = (dir.read("in/a.jsonl"), dir.read("out/all.jsonl"));
    let line = |bytes: &[u8]| bytes.split(|b| *b == b'\n').nth(1).map(<[u8]>::to_vec).expect("a second line");
    let (long_in, long_out) = (line(&input), line(&output));
    // All but the closing brace, and then the metadata.
    assert!(
        long_out.starts_with(&long_in[..size - 1]) && long_out[size - 1..].starts_with(b",\"metadata\":{"),
        "the line is not whole"
    );
    assert_eq!(output.split(|b| *b == b'\n').count(), 5);
}

#[test]
fn a_bad_line_of_200_mib() {
    let dir = Dir::new();
    dir.folder("in");
    let size = 200 << 20;
    write_long_line(&dir.path("in/a.jsonl"), size - AROUND);
    // The second last byte of the long line is its closing quote.
    let end = fs::metadata(dir.path("in/a.jsonl")).expect("a shard").len()
        - "}\n{\"text\":\"after one\"}\n{\"text\":\"after two\"}\n".len() as u64;
    let file = File::options().write(true).open(dir.path("in/a.jsonl")).expect("the shard");
    file.write_all_at(b"x", end - 1).expect("write");
    let report = dir.export().args(["--max-reject-ratio", "1", "--json"]).run().status(0).json();
    assert_eq!((&report["ledger"]["lines"], &report["ledger"]["rejected"]), (&4.into(), &1.into()));
    let index = dir.text("out/quarantine/index.jsonl");
    assert!(
        index.starts_with(&format!(
            "{{\"file\":\"a.jsonl\",\"line\":2,\"offset\":18,\"length\":{size},\"reason\":\"invalid_json\""
        )),
        "{index}"
    );
    assert_eq!(fs::metadata(dir.path("out/quarantine/a.jsonl")).expect("the quarantine").len(), size as u64 + 1);
}

/// What becomes of a shard with a long line: lines, exported, and the index of the quarantine.
fn outcome_of(dir: &Dir) -> (u64, u64, String) {
    let run = dir.export().args(["--max-reject-ratio", "1", "--json"]).run().status(0);
    let ledger = &run.json()["ledger"];
    let index = fs::read_to_string(dir.path("out/quarantine/index.jsonl")).unwrap_or_default();
    (ledger["lines"].as_u64().unwrap_or(0), ledger["exported"].as_u64().unwrap_or(0), index)
}

#[test]
#[ignore = "needs several GiB of disk and memory, and half a minute"]
fn a_line_of_1_gib_fits_and_one_byte_more_does_not() {
    let dir = Dir::new();
    dir.folder("in");
    for (size, exported) in [(GIB, 4), (GIB + 1, 3)] {
        write_long_line(&dir.path("in/a.jsonl"), size - AROUND);
        let (lines, found, index) = outcome_of(&dir);
        assert_eq!((lines, found), (4, exported), "{index}");
        let start =
            format!("{{\"file\":\"a.jsonl\",\"line\":2,\"offset\":18,\"length\":{size},\"reason\":\"too_long\"");
        assert!(if exported == 4 { index.is_empty() } else { index.starts_with(&start) }, "{index}");
    }
    assert_eq!(fs::metadata(dir.path("out/quarantine/a.jsonl")).expect("the quarantine").len(), GIB as u64 + 2);
}

/// The other reasons come first, even for a line of that length. (A hole in a file reads as zeros.)
#[test]
#[ignore = "needs several GiB of disk, and half a minute"]
fn a_line_of_zeros_longer_than_1_gib() {
    let dir = Dir::new();
    let file = File::create(dir.folder("in").join("a.jsonl")).expect("a shard");
    file.set_len(GIB as u64 + 5).expect("a hole");
    let (lines, exported, index) = outcome_of(&dir);
    assert_eq!((lines, exported), (1, 0));
    assert!(index.contains("\"reason\":\"null_byte\"") && index.contains("\"length\":1073741829"), "{index}");
}

/// Lines around a long one are lines of their own, in packed shards too.
#[test]
#[ignore = "needs 9 GiB of memory, and a minute"]
fn packed_lines_behind_one_of_1_gib() {
    for (size, exported) in [(GIB, 4), (GIB + 1, 3), (4 * GIB + 9, 3)] {
        let dir = Dir::new();
        let file = File::create(dir.folder("in").join("a.jsonl.zst")).expect("a shard");
        let mut encoder = zstd::stream::write::Encoder::new(file, 1).expect("zstd");
        write_long(&mut encoder, size - AROUND).and_then(|()| encoder.finish().map(drop)).expect("a packed line");
        let (lines, found, index) = outcome_of(&dir);
        assert_eq!((lines, found), (4, exported), "a line of {size} bytes: {index}");
    }
}
