//! What an upload has to do, whatever the target: one suite for all of them.

use super::proxy::{Action, Fault, Proxy};
use crate::corpus;
use crate::harness::{Dir, Finished, TestCommand};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A server to which exports are uploaded, with a proxy before it.
pub trait Server {
    fn proxy(&self) -> &Proxy;
    /// As it is written on the command line.
    fn target(&self) -> String;
    /// `colophon upload out` to the target, with all that has to be said for it.
    fn upload<'a>(&self, dir: &'a Dir) -> TestCommand<'a>;
    /// What must never be printed.
    fn secrets(&self) -> Vec<&'static str>;
    /// What a reader sees.
    fn published(&self) -> BTreeMap<String, Vec<u8>>;
    /// Requests that carry the content of the largest file.
    fn content_requests(&self) -> (&'static str, String);
    /// The request that makes the export visible.
    fn last_request(&self) -> (&'static str, String);
    /// The first request of all.
    fn first_request(&self) -> (&'static str, String);
    /// How the server says that something is wrong.
    fn answer(&self, trouble: Trouble) -> Action;
    /// Whether an upload that was killed is taken up where it was.
    fn takes_up(&self) -> bool;
    /// What interrupted uploads have left at the server.
    fn leftovers(&self) -> usize;
}

/// What can be wrong with a server.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    Forbidden,
    Absent,
    Conflict,
    Precondition,
    TooMany,
    Broken,
    Busy,
    Clock,
}

/// A folder with an export that has one file of several parts.
pub fn exported() -> Dir {
    let dir = Dir::new();
    dir.write("in/large.jsonl", corpus::large(14));
    dir.write("in/small.jsonl", corpus::documents(40));
    dir.export().run().status(0);
    dir
}

/// Checks that a reader sees exactly the export.
#[track_caller]
pub fn assert_published(server: &dyn Server, dir: &Dir) {
    let expected: BTreeMap<String, Vec<u8>> = (dir.snapshot("out").files())
        .map(|(path, bytes)| (path.to_string_lossy().into_owned(), bytes.to_vec()))
        .collect();
    let found = server.published();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{name} differs");
    }
}

/// Checks that a reader who waits for the manifest still waits.
#[track_caller]
fn assert_unpublished(server: &dyn Server) {
    assert!(!server.published().contains_key("manifest.json"), "half an export is visible");
}

/// Checks that nothing secret is in what was printed.
#[track_caller]
pub fn assert_discreet(server: &dyn Server, run: &Finished) {
    for secret in server.secrets() {
        if run.stdout.contains(secret) || run.stderr.contains(secret) {
            run.fail("a secret was printed");
        }
    }
}

fn fault(of: (&'static str, String), times: usize, action: Action) -> Fault {
    Fault { method: of.0, part: of.1, after: 0, times, action }
}

/// The paths of a receipt's list, in order.
fn paths(list: &Value) -> Vec<&str> {
    let mut paths: Vec<&str> =
        list.as_array().into_iter().flatten().filter_map(|entry| entry["path"].as_str()).collect();
    paths.sort_unstable();
    paths
}

/// Uploads, and uploads again: nothing moves the second time.
pub fn twice(server: &dyn Server) {
    let dir = exported();
    dir.write("out/.hidden", "not in the manifest");
    let first = server.upload(&dir).args(["--json"]).run().status(0);
    let receipt = first.json();
    std::fs::remove_file(dir.path("out/.hidden")).expect("remove");
    assert_published(server, &dir);
    assert_eq!(receipt["target"], server.target());
    assert_eq!(receipt["skipped"].as_array().map(Vec::len), Some(0));
    let bytes: u64 = receipt["sent"].as_array().expect("a list").iter().filter_map(|e| e["bytes"].as_u64()).sum();
    assert_eq!(receipt["bytes_sent"], bytes);
    assert_eq!(server.leftovers(), 0);
    server.proxy().reset();
    let second = server.upload(&dir).args(["--json"]).run().status(0).json();
    assert_eq!((&second["sent"], &second["bytes_sent"]), (&serde_json::json!([]), &0.into()));
    assert_eq!(paths(&second["skipped"]), paths(&receipt["sent"]));
    let (method, part) = server.content_requests();
    assert_eq!(server.proxy().seen(method, &part), 0, "content was sent again");
    assert_published(server, &dir);
}

/// A second export replaces the first: what changed is sent, what is gone goes only with `--delete`.
pub fn replaced(server: &dyn Server) {
    let dir = exported();
    server.upload(&dir).run().status(0);
    let earlier = server.published();
    dir.write("in/small.jsonl", corpus::documents(30));
    dir.export().args(["--shard-size", "4MiB"]).run().status(0);
    let json = server.upload(&dir).args(["--dry-run", "--delete", "--json"]).run().status(0).json();
    assert_eq!(json["dry_run"], true);
    assert!(json["deleted"].as_array().is_some_and(|deleted| deleted.iter().any(|e| e["path"] == "train.jsonl")));
    assert!(server.published() == earlier, "a dry run changed something");
    // Without `--delete` they would stay, and nobody would know of them any more.
    let stays = server.upload(&dir).args(["--dry-run"]).run().status(0);
    stays.says(&["of the earlier export would stay", "--delete"]);
    let json = server.upload(&dir).args(["--delete", "--json"]).run().status(0).json();
    assert!(json["deleted"].as_array().is_some_and(|deleted| deleted.iter().any(|e| e["path"] == "train.jsonl")));
    assert_published(server, &dir);
}

/// An empty or unsound folder never changes anything.
pub fn unsound(server: &dyn Server) {
    let dir = exported();
    server.upload(&dir).run().status(0);
    let before = server.published();
    let sound = dir.read("out/test.jsonl");
    let mut flipped = sound.clone();
    flipped[10] ^= 1;
    dir.write("out/test.jsonl", flipped);
    for args in [&["--delete"][..], &["--delete", "--no-verify"]] {
        server.upload(&dir).args(args).run().status(1);
        assert!(server.published() == before);
    }
    dir.write("out/test.jsonl", sound);
    let manifest = dir.read("out/manifest.json");
    let mut changed: Value = serde_json::from_slice(&manifest).expect("a manifest");
    changed["ledger"]["exported"] = 0.into();
    dir.write("out/manifest.json", changed.to_string());
    for args in [&["--no-verify"][..], &["--delete", "--no-verify"]] {
        server.upload(&dir).args(args).run().status(1).says(&["manifest.json", "nothing was uploaded"]);
        assert!(server.published() == before);
    }
    // A sound export of nothing.
    let empty = Dir::new();
    empty.write("in/empty.jsonl", "");
    empty.export().run().status(0);
    for args in [&["--delete"][..], &["--delete", "--no-verify"], &["--delete", "--dry-run"]] {
        server.upload(&empty).args(args).run().status(1).says(&["no documents", "leave out --delete"]);
        assert!(server.published() == before);
    }
    std::fs::remove_dir_all(dir.path("out")).expect("remove");
    server.upload(&dir).args(["--delete"]).run().status(2).says(&["out", "folder of an export"]);
    dir.folder("out");
    server.upload(&dir).args(["--delete"]).run().status(1).says(&["no finished export"]);
    assert!(server.published() == before);
}

/// What passes is waited out.
pub fn passing(server: &dyn Server) {
    let dir = exported();
    let proxy = server.proxy();
    let content = || server.content_requests();
    for trouble in [Trouble::TooMany, Trouble::Broken, Trouble::Busy, Trouble::Conflict] {
        proxy.inject(fault(content(), 1, server.answer(trouble)));
    }
    proxy.inject(fault(content(), 1, Action::Cut(200_000)));
    proxy.inject(fault(content(), 1, Action::Corrupt));
    proxy.inject(fault(content(), 1, Action::LoseAnswer));
    proxy.inject(fault(content(), 1, Action::Delay(Duration::from_secs(1))));
    proxy.inject(fault(server.first_request(), 2, server.answer(Trouble::Busy)));
    proxy.inject(fault(server.last_request(), 1, Action::LoseAnswer));
    let run = server.upload(&dir).args(["--verbose", "--json"]).run().status(0);
    assert_discreet(server, &run);
    assert!(run.json()["retries"].as_u64() >= Some(9), "{}", run.json()["retries"]);
    assert!(run.took >= Duration::from_secs(1), "Retry-After was not heeded");
    assert_published(server, &dir);
    assert_eq!(server.leftovers(), 0);
}

/// What does not pass ends with status 3, what happened, and what to do; nothing half-published is visible.
pub fn lasting(server: &dyn Server) {
    let dir = exported();
    let always = usize::MAX;
    let troubles = [
        (server.first_request(), Trouble::Clock, "clock"),
        (server.first_request(), Trouble::Absent, "404"),
        (server.content_requests(), Trouble::Forbidden, "allow"),
        (server.content_requests(), Trouble::Busy, "busy"),
        (server.content_requests(), Trouble::Broken, "500"),
        (server.last_request(), Trouble::Precondition, "another upload"),
        (server.last_request(), Trouble::Forbidden, "manifest.json"),
    ];
    for (request, trouble, says) in troubles {
        server.proxy().reset();
        server.proxy().inject(fault(request, always, server.answer(trouble)));
        let run = server.upload(&dir).args(["--verbose"]).env("AWS_MAX_ATTEMPTS", "3").run().status(3);
        let run = run.says(&["error: ", says]);
        assert_discreet(server, &run);
        assert_unpublished(server);
    }
    server.proxy().reset();
    server.upload(&dir).run().status(0);
    assert_published(server, &dir);
    assert_eq!(server.leftovers(), 0);
}

/// A second upload ends what a killed one began.
pub fn killed(server: &dyn Server) {
    let dir = exported();
    let (method, part) = server.content_requests();
    // The third and later ones hang, so that it is killed in the middle.
    let hang = Action::Delay(Duration::from_secs(30));
    server.proxy().inject(Fault { after: 2, ..fault((method, part.clone()), usize::MAX, hang) });
    let mut run = server.upload(&dir).args(["--concurrency", "1"]).spawn();
    run.until(|| server.proxy().answered(method, &part) == 2 && server.proxy().seen(method, &part) == 3);
    run.signal(Signal::KILL);
    run.wait();
    assert_unpublished(server);
    server.proxy().reset();
    let run = server.upload(&dir).run().status(0);
    assert_published(server, &dir);
    if server.takes_up() {
        let run = run.says(&["Taking up"]);
        assert!(server.proxy().seen(method, &part) <= 2, "what had arrived was sent again\n{}", run.stderr);
        assert_eq!(server.leftovers(), 0);
    }
}

/// A signal ends an upload soon, with its status; the next upload ends what was begun.
pub fn stopped(server: &dyn Server) {
    let dir = exported();
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        server.proxy().reset();
        let request = server.content_requests();
        let hang = Action::Delay(Duration::from_secs(30));
        server.proxy().inject(Fault { after: 1, ..fault(request.clone(), usize::MAX, hang) });
        let mut run = server.upload(&dir).args(["--concurrency", "2"]).spawn();
        run.until(|| server.proxy().seen(request.0, &request.1) >= 2);
        let asked = Instant::now();
        run.signal(signal);
        let run = run.wait().status(status);
        assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?} to stop", asked.elapsed());
        assert_eq!(run.stdout, "");
        assert_unpublished(server);
        if !server.takes_up() {
            assert_eq!(server.leftovers(), 0, "parts that nobody finds again were left");
        }
    }
    server.proxy().reset();
    server.upload(&dir).run().status(0);
    assert_published(server, &dir);
    assert_eq!(server.leftovers(), 0);
}

/// A file that is changed after it was verified does not go up as what it was.
pub fn changed(server: &dyn Server) {
    let dir = exported();
    let request = server.first_request();
    server.proxy().inject(fault(request.clone(), 1, Action::Delay(Duration::from_secs(2))));
    let mut run = server.upload(&dir).spawn();
    run.until(|| server.proxy().seen(request.0, &request.1) == 1);
    let mut bytes = dir.read("out/train.jsonl");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    dir.write("out/train.jsonl", bytes);
    run.wait().status(3).says(&["train.jsonl", "changed after it was verified", "run again"]);
    assert_unpublished(server);
}

/// The suite for a server.
macro_rules! conformance {
    ($name:ident, $server:expr) => {
        mod $name {
            use super::*;

            conformance!(@ $server; twice replaced unsound passing lasting killed stopped changed);
        }
    };
    (@ $server:expr; $($test:ident)*) => {
        $(
            #[test]
            fn $test() {
                suite::$test(&$server);
            }
        )*
    };
}
pub(super) use conformance;
