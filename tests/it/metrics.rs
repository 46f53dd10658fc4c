//! What a container's surroundings get to know of a run: log lines for machines, figures for Prometheus.

use crate::corpus;
use crate::harness::{Dir, Finished, Running, SLOW};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// The values of a page by name and labels. Fails where the page is not in Prometheus's text format.
#[track_caller]
fn values(page: &str) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    let (mut family, mut has_help) = (String::new(), false);
    assert!(page.ends_with('\n'), "cut off: {page}");
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().expect("a name").into();
            has_help = true;
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert!(has_help && name == family && ["gauge", "counter"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert_eq!(name.split('{').next(), Some(family.as_str()), "{line}");
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(values.insert(name.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    values
}

/// A corpus of good lines and rejected ones of two kinds.
fn with_rejects() -> Dir {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(50) + "no JSON\nno JSON\n[]\n\n");
    dir
}

#[track_caller]
fn assert_values(values: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        assert_eq!(values.get(&format!("colophon_{name}")), Some(value), "{name}: {values:#?}");
    }
}

#[test]
fn the_file_says_at_the_end_what_the_ledger_says() {
    let dir = with_rejects();
    let run = dir.export().args(["--max-reject-ratio", "1", "--metrics-file", "m/colophon.prom", "--json"]);
    dir.folder("m");
    let ledger = run.run().status(0).json()["ledger"].clone();
    let values = values(&dir.text("m/colophon.prom"));
    let bytes = dir.read("in/a.jsonl").len() as f64;
    assert_values(
        &values,
        &[
            ("running", 0.0),
            ("exit_status", 0.0),
            ("expected_bytes", bytes),
            ("processed_bytes_total{device=\"cpu\"}", bytes),
            ("processed_bytes_total{device=\"gpu\"}", 0.0),
            ("documents_total", 50.0),
            ("rejected_lines_total{reason=\"invalid_json\"}", 2.0),
            ("rejected_lines_total{reason=\"not_object\"}", 1.0),
            ("rejected_lines_total{reason=\"too_long\"}", 0.0),
            ("ledger_lines{fate=\"blank\"}", 1.0),
            ("ledger_lines{fate=\"exported\"}", 50.0),
        ],
    );
    assert!(values.contains_key(concat!(
        "colophon_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\",command=\"export\"}"
    )));
    let fates: f64 = values.iter().filter(|(name, _)| name.contains("ledger_lines")).map(|(_, lines)| lines).sum();
    assert_eq!(Some(fates), ledger["lines"].as_f64());
    // Collectors run as somebody else; and nothing else is left there.
    let mode = fs::metadata(dir.path("m/colophon.prom")).expect("the file").permissions().mode();
    assert_eq!(mode & 0o444, 0o444, "{mode:o}");
    assert_eq!(dir.names("m"), ["colophon.prom"]);
}

#[test]
fn a_failed_gate_and_a_refused_option_are_in_the_file() {
    let dir = with_rejects();
    dir.export().args(["--metrics-file", "m.prom"]).run().status(1);
    let failed = values(&dir.text("m.prom"));
    assert_values(&failed, &[("exit_status", 1.0), ("rejected_lines_total{reason=\"invalid_json\"}", 2.0)]);
    assert!(!failed.keys().any(|name| name.contains("ledger")), "{failed:?}");
    dir.export().args(["--split-ratio", "0.5", "--metrics-file", "m.prom"]).run().status(2);
    assert_values(&values(&dir.text("m.prom")), &[("exit_status", 2.0), ("running", 0.0)]);
}

/// Whatever ends a run before it began: the page of an earlier one does not stand for it.
#[test]
fn what_fails_early_is_in_the_file_too() {
    let dir = with_rejects();
    let sound = || {
        dir.export().args(["--max-reject-ratio", "1", "--metrics-file", "m.prom"]).run().status(0);
        assert_values(&values(&dir.text("m.prom")), &[("exit_status", 0.0)]);
    };
    dir.write("bad.toml", "sede = 7\n");
    dir.write("broken.toml", "seed = \n");
    dir.write("own.toml", "metrics-file = 'm.prom'\nsede = 7\n");
    for (args, file) in [
        (&["--job", "bad.toml"][..], "m.prom"),
        (&["--job", "broken.toml"], "m.prom"),
        (&["--job", "gone.toml"], "m.prom"),
        (&["--job", "own.toml"], ""),
        (&["--sede", "7"], "m.prom"),
    ] {
        sound();
        dir.export().args(args).env("COLOPHON_METRICS_FILE", file).run().status(2);
        let page = dir.text("m.prom");
        assert_values(&values(&page), &[("exit_status", 2.0), ("running", 0.0), ("documents_total", 0.0)]);
        assert!(page.contains("command=\"export\""), "{page}");
    }
    sound();
    dir.export().args(["--sede", "--metrics-file=m.prom"]).run().status(2);
    assert_values(&values(&dir.text("m.prom")), &[("exit_status", 2.0)]);
}

/// Where the command line is wrong, a file is written only if it is sure that it was asked for.
#[test]
fn a_broken_command_line_names_no_file_by_mistake() {
    let dir = with_rejects();
    dir.write("notes.txt", "mine");
    for args in [
        &["export", "--metrics-file", "--input-dir", "x"][..],
        &["export", "--", "--metrics-file", "notes.txt"],
        &["export", "--metrics-file", "--", "notes.txt"],
        &["export", "--sede", "--", "--metrics-file=notes.txt"],
    ] {
        dir.colophon(args).run().status(2);
        assert_eq!((dir.text("notes.txt"), dir.names(".")), ("mine".into(), vec!["in".into(), "notes.txt".into()]));
    }
    // What stands before is meant, whatever the rest.
    dir.colophon(["export", "--metrics-file", "m.prom", "--", "x"]).run().status(2);
    assert_values(&values(&dir.text("m.prom")), &[("exit_status", 2.0)]);
}

/// A merge scans no line, but has the rejected ones to tell of, whatever comes of it.
#[test]
fn a_merge_counts_rejects_too() {
    let dir = with_rejects();
    for (ratio, status) in [("1", 0), ("0", 1)] {
        for share in ["0/2", "1/2"] {
            dir.export().args(["--max-reject-ratio", ratio, "--worker", share]).run().status(0);
        }
        dir.colophon(["merge", "--output-dir", "out", "--metrics-file", "m.prom"]).run().status(status);
        let expected = [
            ("rejected_lines_total{reason=\"invalid_json\"}", 2.0),
            ("rejected_lines_total{reason=\"not_object\"}", 1.0),
            ("exit_status", f64::from(status)),
        ];
        assert_values(&values(&dir.text("m.prom")), &expected);
    }
}

#[test]
fn validation_and_statistics_count_rejects_too() {
    let dir = with_rejects();
    fs::rename(dir.path("in/a.jsonl"), dir.path("in/train.jsonl")).expect("rename");
    for (command, status) in [("validate", 1), ("stats", 1)] {
        dir.colophon([command, "in", "--metrics-file", "m.prom"]).run().status(status);
        let expected = [
            ("rejected_lines_total{reason=\"invalid_json\"}", 2.0),
            ("rejected_lines_total{reason=\"not_object\"}", 1.0),
            ("exit_status", f64::from(status)),
        ];
        assert_values(&values(&dir.text("m.prom")), &expected);
    }
}

/// Counters only grow while a process lives, also where one command follows another.
#[test]
fn several_commands_in_one_process_add_up() {
    let dir = Dir::new();
    dir.colophon(["demo", "demo", "--metrics-file", "m.prom"]).run().status(0);
    let size = |name: &str| dir.read(name).len() as f64;
    let exported: f64 =
        ["train", "validation", "test"].iter().map(|split| size(&format!("demo/export/{split}.jsonl"))).sum();
    let read: f64 = dir.names("demo/classified").iter().map(|name| size(&format!("demo/classified/{name}"))).sum();
    assert_values(
        &values(&dir.text("m.prom")),
        &[
            ("processed_bytes_total{device=\"cpu\"}", read + exported),
            ("expected_bytes", read + exported),
            ("documents_total", 2.0 * 705.0),
            ("ledger_lines{fate=\"exported\"}", 705.0),
        ],
    );
}

/// A run that is at work on so much input, and holds still.
#[track_caller]
fn at_work(dir: &Dir, mebibytes: usize, args: &[&str]) -> Running {
    dir.write("in/large.jsonl", corpus::large(mebibytes));
    let start = || dir.export().args(SLOW).args(args).spawn();
    Running::held_while_reading(start, "in/large.jsonl", |_| dir.is_writing())
}

#[test]
fn a_run_that_is_stopped_says_so() {
    let dir = Dir::new();
    let run = at_work(&dir, 16, &["--metrics-file", "m.prom"]);
    let meanwhile = values(&dir.text("m.prom"));
    assert_values(&meanwhile, &[("running", 1.0)]);
    assert!(!meanwhile.contains_key("colophon_exit_status"), "{meanwhile:?}");
    run.signal(Signal::TERM);
    run.resume();
    let _ = run.wait().status(143);
    assert_values(&values(&dir.text("m.prom")), &[("running", 0.0), ("exit_status", 143.0)]);
    assert_eq!(dir.names("."), ["in", "m.prom"]);
}

/// The address that a run serves at, as its log says.
fn address(run: &mut Running) -> String {
    let (log, marker) = (run.stderr(), "http://");
    let rest = &log[log.find(marker).expect("an address") + marker.len()..];
    rest.split('/').next().expect("an address").to_owned()
}

#[test]
fn the_endpoint_answers_while_the_run_is_at_work() {
    let dir = Dir::new();
    let mut run = at_work(&dir, 64, &["--metrics-addr", "127.0.0.1:0"]);
    let address = address(&mut run);
    run.resume();
    let mut connection = TcpStream::connect(&address).expect("a connection");
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("asked");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer");
    let (head, page) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", page.len())), "{head}");
    assert_values(&values(page), &[("running", 1.0)]);
    // A second run cannot have the same address.
    let args = ["export", "--input-dir", "in", "--output-dir", "other", "--metrics-addr", &address];
    dir.colophon(args).run().status(3).says(&["--metrics-addr", "could not listen", "a free port"]);
    assert!(!dir.path("other").exists());
    run.signal(Signal::TERM);
    let _ = run.wait().status(143);
}

#[test]
fn where_the_figures_go_can_be_said_in_every_way() {
    let dir = with_rejects();
    let loose = |run: crate::harness::TestCommand<'_>| run.args(["--max-reject-ratio", "1"]).run().status(0);
    loose(dir.export().env("COLOPHON_METRICS_FILE", "env.prom"));
    dir.write("job.toml", "metrics-file = 'job.prom'\nmetrics-addr = '127.0.0.1:0'\n");
    loose(dir.export().args(["--job", "job.toml"])).says(&["http://127.0.0.1:"]);
    for page in ["env.prom", "job.prom"] {
        assert_values(&values(&dir.text(page)), &[("exit_status", 0.0)]);
    }
    dir.export().args(["--metrics-addr", "nowhere"]).run().status(2).says(&["--metrics-addr"]);
    dir.export().args(["--metrics-file", "missing/m.prom"]).run().status(3).says(&["missing/m.prom", "figures"]);
}

/// The lines of a log, each of which has to be a JSON object.
#[track_caller]
fn log(run: &Finished) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    run.stderr.lines().map(line).collect()
}

#[test]
fn a_log_for_machines_ends_with_the_ledger() {
    let dir = with_rejects();
    let json = ["--log-format", "json"];
    let run = dir.export().args(json).args(["--max-reject-ratio", "1"]).run().status(0);
    let last = log(&run).pop().expect("a line");
    for (key, value) in [("status", 0), ("lines", 54), ("blank", 1), ("rejected", 3), ("exported", 50), ("repeats", 0)]
    {
        assert_eq!(last[key], value, "{key}: {last}");
    }
    for key in ["timestamp", "level", "message", "filtered", "duplicates", "sampled_out"] {
        assert!(!last[key].is_null(), "{key}: {last}");
    }
    // So is the result, if wanted.
    let run = dir.export().args(json).args(["--max-reject-ratio", "1", "--json"]).run().status(0);
    assert_eq!((run.stdout.lines().count(), run.json()["ledger"]["lines"].as_u64()), (1, Some(54)), "{}", run.stdout);
    // One that fails ends with its status.
    let run = dir.export().args(json).run().status(1);
    let last = log(&run).pop().expect("a line");
    assert_eq!((&last["status"], &last["level"]), (&1.into(), &"ERROR".into()), "{last}");
}

#[test]
fn a_log_for_machines_has_progress() {
    let dir = Dir::new();
    let run = at_work(&dir, 16, &["--log-format", "json"]);
    // Progress is due every five seconds; a run that holds still meanwhile need not be long.
    std::thread::sleep(Duration::from_secs(6));
    run.resume();
    let run = run.wait().status(0);
    let log = log(&run);
    let progress = log.iter().find(|line| line["bytes_per_second"].is_u64()).unwrap_or_else(|| run.fail("no progress"));
    for key in ["bytes", "documents", "rejected", "gpu_bytes", "total_bytes"] {
        assert!(progress[key].is_u64(), "{key}: {progress}");
    }
}
