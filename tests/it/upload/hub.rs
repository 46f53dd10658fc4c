//! `upload` to the Hub, or to what stands in for it: whole, once, and only as long as nothing is wrong.

use super::hub_server::{Commit, Hub, NARROW, OWNER, READER, Stored, Trouble, WRITER, XET_TOKEN};
use crate::corpus;
use crate::harness::{Dir, Finished, TestCommand, is_root, skip};
use hyper::Method;
use rustix::process::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::time::Duration;

/// The dataset of most tests.
const SET: &str = "hf://datasets/owner/set";

/// An export of the demo's documents, of which the splits are large files to the stand-in.
fn exported() -> Dir {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::classified().concat());
    dir.export().run().status(0);
    dir
}

/// An export of text that cannot be packed, of about so many MiB.
fn exported_random(mebibytes: usize) -> Dir {
    let dir = Dir::new();
    let mut hash = Sha256::digest(b"random");
    let mut lines = String::new();
    while lines.len() < mebibytes << 20 {
        let mut text = String::new();
        for _ in 0..100 {
            hash = Sha256::digest(hash);
            hash.iter().for_each(|byte| write!(text, "{byte:02x}").expect("memory"));
        }
        lines += &corpus::document(&text);
    }
    dir.write("in/a.jsonl", lines);
    dir.export().run().status(0);
    dir
}

/// `upload` with everything that could give a secret away.
fn upload<'a>(dir: &'a Dir, hub: &Hub, target: &str, args: &[&str]) -> TestCommand<'a> {
    let command = dir.colophon(["--verbose", "upload", "out", target]).args(args);
    let command = command.env("HF_ENDPOINT", hub.endpoint()).env("HF_TOKEN", WRITER).env("HF_HOME", dir.path("hf"));
    command.env("HF_XET_CLIENT_RETRY_BASE_DELAY", "20ms")
}

/// Runs to the end, which has to come with this status and without a word of any secret.
#[track_caller]
fn run(command: TestCommand<'_>, status: i32) -> Finished {
    let finished = command.run();
    check_secrets(&finished);
    finished.status(status)
}

#[track_caller]
fn check_secrets(finished: &Finished) {
    for secret in [WRITER, READER, NARROW, XET_TOKEN] {
        if finished.stdout.contains(secret) || finished.stderr.contains(secret) {
            finished.fail("a secret was printed");
        }
    }
}

/// Paths in a receipt.
fn paths(receipt: &Value, what: &str) -> Vec<String> {
    let entries = receipt[what].as_array().expect("entries");
    entries.iter().map(|entry| entry["path"].as_str().expect("a path").to_owned()).collect()
}

/// Checks that a commit has the export in `out`, byte for byte.
#[track_caller]
fn assert_published(dir: &Dir, hub: &Hub, commit: &Commit) {
    for (path, bytes) in dir.snapshot("out").files() {
        let path = path.to_str().expect("UTF-8");
        if path.starts_with("quarantine") {
            continue;
        }
        let stored = commit.files.get(path).unwrap_or_else(|| panic!("{path} is not on the Hub"));
        assert!(hub.content(stored) == bytes, "{path} is not what it was");
    }
}

/// Checks that no commit ever showed a part of an export.
#[track_caller]
fn assert_never_half(hub: &Hub, name: &str) {
    for commit in hub.history(name, "main") {
        let Some(manifest) = commit.files.get("manifest.json") else {
            assert!(!commit.files.contains_key("train.jsonl"), "files without a manifest");
            continue;
        };
        let Ok(manifest) = serde_json::from_slice::<Value>(&hub.content(manifest)) else { continue };
        for file in manifest["files"].as_array().expect("files") {
            let stored = commit.files.get(file["path"].as_str().expect("a path")).expect("what the manifest lists");
            let hash = Sha256::digest(hub.content(stored));
            let hash = hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
            assert_eq!(file["sha256"], hash.as_str());
        }
    }
}

/// Requests that change something.
fn changes(hub: &Hub) -> Vec<String> {
    let asked = hub.asked();
    let changing = asked.iter().filter(|asked| asked.method != "GET" && !asked.path.contains("/preupload/"));
    changing.map(|asked| format!("{} {}", asked.method, asked.path)).collect()
}

#[test]
fn a_new_dataset_is_private_and_whole_and_the_second_upload_moves_nothing() {
    let (dir, hub) = (exported(), Hub::start());
    let receipt = run(upload(&dir, &hub, SET, &["--json", "--message", "First light"]), 0).json();
    assert_eq!(hub.private("set"), Some(true));
    let history = hub.history("set", "main");
    let [commit] = &history[..] else { panic!("{} commits", history.len()) };
    assert_eq!(commit.message, "First light");
    assert_published(&dir, &hub, commit);
    assert!(matches!(commit.files["train.jsonl"], Stored::Large { .. }), "a large file");
    assert!(matches!(commit.files["manifest.json"], Stored::Regular(_)), "a small file");
    assert_eq!(receipt["target"], SET);
    assert_eq!(receipt["commit"], commit.oid.as_str());
    assert_eq!(receipt["url"], format!("{}/datasets/{OWNER}/set", hub.endpoint()));
    assert!(paths(&receipt, "sent").contains(&"train.jsonl".to_owned()) && paths(&receipt, "skipped").is_empty());
    assert!(receipt["bytes_sent"].as_u64().expect("bytes") > 0);

    hub.asked();
    let second = run(upload(&dir, &hub, SET, &["--json"]), 0).json();
    assert_eq!(hub.history("set", "main").len(), 1);
    assert_eq!(changes(&hub), Vec::<String>::new());
    assert_eq!((second["bytes_sent"].as_u64(), &second["commit"]), (Some(0), &receipt["commit"]));
    assert_eq!((paths(&second, "skipped"), paths(&second, "sent").len()), (paths(&receipt, "sent"), 0));
}

#[test]
fn only_what_changed_is_sent_and_removed_only_if_asked() {
    let (dir, hub) = (exported(), Hub::start());
    run(upload(&dir, &hub, SET, &[]), 0);
    hub.push("set", &[("notes.txt", "somebody's own")]);
    // The same documents in other files.
    dir.export().args(["--shard-size", "1MiB", "--compress", "zstd"]).run().status(0);
    let old = hub.history("set", "main")[1].files.clone();
    let receipt = run(upload(&dir, &hub, SET, &["--json", "--dry-run", "--delete"]), 0).json();
    assert!(receipt["dry_run"] == true && receipt["commit"].is_null());
    assert_eq!(hub.history("set", "main").len(), 2);
    let gone = paths(&receipt, "deleted");
    assert!(gone.contains(&"train.jsonl".to_owned()) && !gone.contains(&"notes.txt".to_owned()), "{gone:?}");
    let deleted = paths(&run(upload(&dir, &hub, SET, &["--json", "--delete"]), 0).json(), "deleted");
    assert_eq!(deleted, gone);
    let history = hub.history("set", "main");
    assert_published(&dir, &hub, &history[2]);
    for path in old.keys() {
        assert_eq!(history[2].files.contains_key(path), !gone.contains(path), "{path}");
    }
    assert_never_half(&hub, "set");
}

#[test]
fn without_delete_nothing_is_removed() {
    let (dir, hub) = (exported(), Hub::start());
    run(upload(&dir, &hub, SET, &[]), 0);
    dir.export().args(["--compress", "zstd"]).run().status(0);
    run(upload(&dir, &hub, SET, &[]), 0);
    let history = hub.history("set", "main");
    assert!(history[0].files.keys().all(|path| history[1].files.contains_key(path)));
    assert_published(&dir, &hub, &history[1]);
}

#[test]
fn a_branch_is_made_and_the_main_one_stays() {
    let (dir, hub) = (exported(), Hub::start());
    let receipt = run(upload(&dir, &hub, "hf://datasets/owner/set@next/one", &["--json", "--public"]), 0).json();
    assert_eq!((hub.private("set"), receipt["revision"].as_str()), (Some(false), Some("next/one")));
    assert_published(&dir, &hub, hub.history("set", "next/one").last().expect("a commit"));
    assert!(hub.history("set", "main").is_empty());
    run(upload(&dir, &hub, SET, &[]), 0).says(&["is public: everybody can read"]);
}

#[test]
fn a_dry_run_changes_nothing() {
    let (dir, hub) = (exported(), Hub::start());
    let receipt = run(upload(&dir, &hub, SET, &["--json", "--dry-run"]), 0).json();
    assert_eq!((hub.private("set"), changes(&hub)), (None, Vec::new()));
    assert!(paths(&receipt, "sent").contains(&"manifest.json".to_owned()));
    assert!(!dir.path("hf").exists());
}

/// The requests of an upload: how each begins, and whether it is the Xet store's.
const REQUESTS: [(Method, &str); 9] = [
    (Method::GET, "/api/whoami-v2"),
    (Method::POST, "/api/repos/create"),
    (Method::GET, "/set/revision/"),
    (Method::GET, "/set/tree/"),
    (Method::POST, "/set/preupload/"),
    (Method::GET, "/set/xet-write-token/"),
    (Method::POST, "/set/commit/"),
    (Method::POST, "/xorb"),
    (Method::POST, "/shards"),
];

#[test]
fn what_passes_is_waited_for() {
    let dir = exported();
    let troubles = [
        Trouble::Status(429, &[("retry-after", "1")], "{\"error\":\"slow down\"}"),
        Trouble::Status(503, &[], "<html>"),
        Trouble::Status(500, &[], ""),
        Trouble::HangUp,
        Trouble::DoAndHangUp,
        Trouble::Late(Duration::from_millis(300)),
    ];
    std::thread::scope(|scope| {
        for trouble in troubles {
            let dir = &dir;
            scope.spawn(move || {
                for (n, (method, path)) in REQUESTS.into_iter().enumerate() {
                    let hub = Hub::start();
                    hub.trouble(method, path, 0, 2, trouble.clone());
                    let cache = dir.path(format!("hf-{n}-{}", hub.endpoint().rsplit(':').next().expect("a port")));
                    let receipt = run(upload(dir, &hub, SET, &["--json"]).env("HF_HOME", cache), 0).json();
                    let history = hub.history("set", "main");
                    assert_eq!(history.len(), 1, "one commit, whatever happens to {path}");
                    assert_eq!(receipt["commit"], history[0].oid.as_str());
                    assert_published(dir, &hub, &history[0]);
                }
            });
        }
    });
}

#[test]
fn the_hub_is_waited_for_as_long_as_it_asks() {
    let (dir, hub) = (exported(), Hub::start());
    hub.trouble(Method::POST, "/preupload/", 0, 1, Trouble::Status(429, &[("retry-after", "3")], ""));
    let finished = run(upload(&dir, &hub, SET, &["--json"]), 0);
    assert!(finished.took >= Duration::from_secs(3), "{:?}", finished.took);
    assert_eq!(finished.json()["retries"], 1);
    // Nobody waits for an hour, but says so.
    hub.make("busy", &[]);
    hub.trouble(
        Method::GET,
        "/busy/tree/",
        0,
        100,
        Trouble::Status(429, &[("retry-after", "3600")], "{\"error\":\"quota\"}"),
    );
    run(upload(&dir, &hub, "hf://datasets/owner/busy", &[]), 3).says(&["hf://datasets/owner/busy", "429", "quota"]);
}

#[test]
fn what_does_not_pass_ends_with_cause_and_remedy_and_nothing_published() {
    let dir = exported();
    let endless = |status, text| Trouble::Status(status, &[], text);
    for (method, path, trouble, says) in [
        (Method::GET, "/whoami-v2", endless(401, ""), &["401", "check the token", "settings/tokens"][..]),
        (
            Method::POST,
            "/repos/create",
            endless(403, "{\"error\":\"not yours\"}"),
            &["create the dataset", "not yours"],
        ),
        (Method::GET, "/set/tree/", endless(404, ""), &["list its files", "404"]),
        (Method::GET, "/set/xet-write-token/", endless(403, ""), &["403", "right to write"]),
        (Method::POST, "/set/preupload/", endless(400, "{\"error\":\"no\"}"), &["400, no"]),
        (Method::POST, "/set/commit/", endless(413, ""), &["413", "--shard-size"]),
        (Method::POST, "/set/commit/", endless(400, "{\"error\":\"bad card\"}"), &["commit", "bad card"]),
        (Method::POST, "/xorb", endless(401, ""), &["store for large files"]),
    ] {
        let hub = Hub::start();
        hub.trouble(method, path, 0, usize::MAX, trouble);
        run(upload(&dir, &hub, SET, &[]), 3)
            .says(&["hf://datasets/owner/set"][..usize::from(path != "/whoami-v2")])
            .says(says);
        assert!(hub.history("set", "main").is_empty(), "{path}");
    }
}

/// What the Hub says is shown in a line, without what it was sent and without what a terminal obeys.
#[test]
fn what_the_hub_repeats_is_fit_to_be_printed() {
    let dir = exported();
    let said = format!("\\u001b[2JNo\\nto Authorization: Bearer {WRITER} or {WRITER}: {}", "on and on ".repeat(1000));
    let body: &'static str = Box::leak(format!("{{\"error\":\"{said}\"}}").into_boxed_str());
    let header: &'static str =
        Box::leak(format!("of {WRITER} at https://me:PASSWORDOFME@host/x?sig=x").into_boxed_str());
    let headers: &'static [(&str, &str)] = Box::leak(Box::new([("x-error-message", header)]));
    for (headers, body, says) in
        [(&[][..], body, "No to Authorization: *** ***"), (headers, "", "of *** at https://***@")]
    {
        for path in ["/whoami-v2", "/set/tree/"] {
            let hub = Hub::start();
            hub.trouble(Method::GET, path, 0, usize::MAX, Trouble::Status(400, headers, body));
            let finished = run(upload(&dir, &hub, SET, &[]), 3).says(&[says]);
            assert!(!finished.stderr.contains("PASSWORDOFME"), "{}", finished.stderr);
            assert!(!finished.stderr.contains(|c: char| c.is_control() && c != '\n'), "{}", finished.stderr);
            assert!(finished.stderr.lines().all(|line| line.len() < 1000), "{}", finished.stderr.len());
        }
    }
}

/// What no message is made of is not read to its end either.
#[test]
fn a_long_refusal_is_not_repeated() {
    let (dir, hub) = (exported(), Hub::start());
    let body: &'static str = Box::leak(format!("{{\"error\":\"{}\"}}", "on and on ".repeat(2 << 20)).into_boxed_str());
    hub.trouble(Method::GET, "/set/tree/", 0, usize::MAX, Trouble::Status(400, &[], body));
    let finished = run(upload(&dir, &hub, SET, &[]), 3).says(&["400"]);
    assert!(finished.stderr.lines().all(|line| line.len() < 1000), "{}", finished.stderr.len());
}

#[test]
fn a_server_that_stays_away_is_named() {
    let dir = exported();
    let command = dir.colophon(["upload", "out", SET]).env("HF_ENDPOINT", "http://127.0.0.1:9").env("HF_TOKEN", WRITER);
    run(command.env("HF_HOME", dir.path("hf")), 3).says(&["http://127.0.0.1:9", "no connection", "HF_ENDPOINT"]);
}

#[test]
fn who_may_not_write_is_told_before_anything_moves() {
    let (dir, hub) = (exported(), Hub::start());
    hub.make("set", &[]);
    for (token, says) in [(READER, "may only read"), (NARROW, "403"), ("hf_unknown", "401"), ("hf_\u{7}", "no token")] {
        run(upload(&dir, &hub, SET, &[]).env("HF_TOKEN", token), 3).says(&[says, "settings/tokens"]);
    }
    assert_eq!(changes(&hub), Vec::<String>::new());
    // Somebody else's.
    run(upload(&dir, &hub, "hf://datasets/other/set", &[]), 3).says(&["hf://datasets/other/set", "create the dataset"]);
}

#[test]
fn the_token_is_found_where_the_hubs_clients_look() {
    let (dir, hub) = (exported(), Hub::start());
    let without =
        |home: &str| upload(&dir, &hub, SET, &["--dry-run"]).env("HF_TOKEN", "").env("HF_HOME", dir.path(home));
    let missing = run(without("hf"), 3).says(&["there is no token", "HF_TOKEN_PATH"]);
    assert!(!missing.stderr.contains("Verifying"), "{}", missing.stderr);
    dir.write("hf/token", format!("{WRITER}\n"));
    run(without("hf"), 0);
    dir.write("secret", WRITER);
    run(without("elsewhere").env("HF_TOKEN_PATH", dir.path("secret")), 0);
    run(without("hf").env("HF_TOKEN_PATH", dir.path("gone")), 3).says(&["gone: could not read the token"]);
    dir.write("empty", "\n");
    run(without("hf").env("HF_TOKEN_PATH", dir.path("empty")), 3).says(&["empty: there is no token in it"]);
    for (text, says) in [
        (format!("{WRITER}\n{WRITER}\n"), "more than one line"),
        (format!("HF_TOKEN={WRITER} x"), "a space in it"),
        ("\u{7}".into(), "no token"),
        ("x".repeat(1 << 20), "longer than any token"),
    ] {
        let path = dir.write("odd", &text);
        run(without("hf").env("HF_TOKEN_PATH", path), 3).says(&["HF_TOKEN_PATH: ", "odd", says, "settings/tokens"]);
        if text.len() < 1000 && text != "\u{7}" {
            run(upload(&dir, &hub, SET, &["--dry-run"]).env("HF_TOKEN", text), 3).says(&["HF_TOKEN: ", says]);
        }
    }
    run(without("hf").env("HF_TOKEN_PATH", dir.folder("folder")), 3).says(&["HF_TOKEN_PATH: ", "read the token"]);
    run(without("hf").env("HF_TOKEN_PATH", "/dev/zero"), 3).says(&["/dev/zero", "longer than any token"]);
    // Line ends of any system behind it.
    for end in ["\n", "\r\n", "\n\n"] {
        let path = dir.write("ended", format!("{WRITER}{end}"));
        run(without("elsewhere").env("HF_TOKEN_PATH", path), 0);
        run(upload(&dir, &hub, SET, &["--dry-run"]).env("HF_TOKEN", format!("{WRITER}{end}")), 0);
    }
    run(without("hf").env("HF_HUB_OFFLINE", "1"), 2).says(&["HF_HUB_OFFLINE"]);
    run(without("hf").env("HF_ENDPOINT", "huggingface.co"), 2).says(&["HF_ENDPOINT"]);
    let address = hub.endpoint().replace("://", &format!("://somebody:{WRITER}@"));
    run(without("hf").env("HF_ENDPOINT", address), 2).says(&["HF_ENDPOINT", "password"]);
}

#[test]
fn the_manifest_of_another_program_stays() {
    let (dir, hub) = (exported(), Hub::start());
    hub.make("set", &[]);
    for foreign in ["{\"name\": \"an extension\"}", "not even JSON"] {
        hub.push("set", &[("manifest.json", foreign)]);
        let before = hub.history("set", "main").len();
        for args in [&[][..], &["--delete"], &["--dry-run"]] {
            run(upload(&dir, &hub, SET, args), 2).says(&["manifest.json is not a manifest of colophon's"]);
        }
        assert_eq!(hub.history("set", "main").len(), before);
    }
}

#[test]
fn what_others_commit_meanwhile_is_not_overwritten() {
    let (dir, hub) = (exported(), Hub::start());
    hub.make("set", &[]);
    hub.trouble(Method::POST, "/set/commit/", 0, 1, Trouble::Overtaken("README.md", "mine"));
    run(upload(&dir, &hub, SET, &[]), 3).says(&["somebody else changed the dataset", "nothing was overwritten"]);
    let history = hub.history("set", "main");
    assert!(history.len() == 2 && hub.content(&history[1].files["README.md"]) == b"mine");
    assert!(!history[1].files.contains_key("manifest.json"));
    // Once that has been looked at, the next run replaces it; of large files nothing is sent again.
    hub.asked();
    run(upload(&dir, &hub, SET, &[]), 0);
    assert_published(&dir, &hub, &hub.history("set", "main")[2]);
    assert_eq!(hub.bytes_to_store(), 0);
}

#[test]
fn what_others_do_to_other_files_is_kept() {
    let (dir, hub) = (exported(), Hub::start());
    hub.make("set", &[]);
    hub.trouble(Method::POST, "/set/commit/", 0, 2, Trouble::Overtaken("notes.txt", "mine"));
    hub.trouble(
        Method::POST,
        "/set/commit/",
        0,
        1,
        Trouble::Status(409, &[], "{\"error\":\"another commit is under way\"}"),
    );
    run(upload(&dir, &hub, SET, &[]), 0);
    let history = hub.history("set", "main");
    let last = history.last().expect("a commit");
    assert_published(&dir, &hub, last);
    assert_eq!(hub.content(&last.files["notes.txt"]), b"mine");
    assert_never_half(&hub, "set");
}

#[test]
fn a_file_that_changes_after_it_was_verified_is_not_published() {
    for (file, during) in [("train.jsonl", "/whoami-v2"), ("README.md", "/whoami-v2"), ("README.md", "/shards")] {
        let (dir, hub) = (exported(), Hub::start());
        let method = if during == "/shards" { Method::POST } else { Method::GET };
        hub.trouble(method, during, 0, 1, Trouble::Late(Duration::from_secs(1)));
        let mut running = upload(&dir, &hub, SET, &[]).spawn();
        let mut seen = Vec::new();
        while !seen.iter().any(|path: &String| path.contains(during)) {
            assert!(running.is_running(), "it ended too early");
            seen.extend(hub.asked().into_iter().map(|asked| asked.path));
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut bytes = dir.read(format!("out/{file}"));
        bytes[0] ^= 1;
        dir.write(format!("out/{file}"), bytes);
        let finished = running.wait();
        check_secrets(&finished);
        finished.status(3).says(&[file, "changed"]);
        assert!(hub.history("set", "main").is_empty());
    }
}

#[test]
fn an_unsound_folder_stays_here() {
    let (dir, hub) = (exported(), Hub::start());
    let mut bytes = dir.read("out/train.jsonl");
    bytes[1] ^= 1;
    dir.write("out/train.jsonl", bytes);
    run(upload(&dir, &hub, SET, &["--delete"]), 1);
    run(upload(&dir, &hub, SET, &["--delete", "--no-verify"]), 1).says(&["train.jsonl"]);
    assert!(hub.asked().is_empty(), "no word to the Hub");
}

#[test]
fn a_large_file_is_never_put_into_git() {
    let (dir, hub) = (exported_random(12), Hub::start());
    hub.takes_no_large_files();
    run(upload(&dir, &hub, SET, &[]), 3).says(&[
        "hf://datasets/owner/set: train.jsonl",
        "too large for git",
        ".gitattributes",
    ]);
    assert!(hub.history("set", "main").is_empty());
    // Small ones are, if the Hub wants them there.
    let dir = exported();
    run(upload(&dir, &hub, SET, &[]), 0);
    assert_eq!(hub.bytes_to_store(), 0);
    assert_published(&dir, &hub, &hub.history("set", "main")[0]);
}

/// `upload` that sends small blocks and notes at once which have arrived.
fn upload_in_blocks<'a>(dir: &'a Dir, hub: &Hub) -> TestCommand<'a> {
    let command = upload(dir, hub, SET, &["--no-verify"]).env("HF_XET_MAX_XORB_BYTES", "1000000");
    command.env("HF_XET_DATA_SESSION_XORB_METADATA_FLUSH_MAX_COUNT", "1")
}

#[test]
fn an_upload_that_was_killed_is_taken_up() {
    let (dir, hub) = (exported_random(16), Hub::start());
    hub.trouble(Method::POST, "/xorb", 0, usize::MAX, Trouble::Late(Duration::from_millis(100)));
    let mut running = upload_in_blocks(&dir, &hub).spawn();
    running.until(|| hub.bytes_to_store() >= 8 << 20);
    running.signal(Signal::KILL);
    running.wait();
    assert!(hub.history("set", "main").is_empty());
    let first = hub.bytes_to_store();
    hub.asked();
    let finished = run(upload_in_blocks(&dir, &hub), 0);
    // What was under way when it was killed is sent again, and no more.
    let second = hub.bytes_to_store();
    if first + second > (16 << 20) + 4_000_000 {
        finished.fail(&format!("{first} bytes were sent before the kill, and {second} after it"));
    }
    assert_published(&dir, &hub, &hub.history("set", "main")[0]);
}

#[test]
fn a_signal_ends_it_soon() {
    let dir = exported_random(16);
    for (method, path) in [(Method::POST, "/xorb"), (Method::POST, "/commit/"), (Method::GET, "/tree/")] {
        for trouble in [Trouble::Late(Duration::from_secs(60)), Trouble::Status(503, &[("retry-after", "60")], "")] {
            let hub = Hub::start();
            hub.trouble(method.clone(), path, 0, usize::MAX, trouble);
            let mut running = upload_in_blocks(&dir, &hub).spawn();
            let is_there = || hub.has_been_asked(path);
            running.until(is_there);
            let asked = std::time::Instant::now();
            running.signal(Signal::TERM);
            let finished = running.wait();
            assert!(asked.elapsed() < Duration::from_secs(5), "{path}: {:?}", asked.elapsed());
            check_secrets(&finished);
            finished.status(143);
            assert!(hub.history("set", "main").is_empty());
        }
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_named_or_done_without() {
    if !is_root() {
        return skip("only root can run the program as somebody else");
    }
    let (dir, hub) = (exported(), Hub::start());
    let command = |dir| upload(dir, &hub, SET, &[]).by_nobody();
    run(command(&dir), 3).says(&["HF_HOME", "cannot be written", "hf/xet"]);
    assert!(hub.history("set", "main").is_empty());
    let home = command(&dir).env("HF_HOME", "").env("XDG_CACHE_HOME", "").env("HOME", dir.path("nobody's"));
    run(home, 0).says(&["an upload that is killed will begin anew"]);
    assert_published(&dir, &hub, &hub.history("set", "main")[0]);
}

#[test]
fn many_files_are_asked_about_in_batches() {
    let (dir, hub) = (Dir::new(), Hub::start());
    dir.write("in/a.jsonl", corpus::documents(3));
    dir.export().run().status(0);
    // An export of many files, as far as an upload looks at it.
    let mut manifest = dir.json("out/manifest.json");
    let files = manifest["files"].as_array_mut().expect("files");
    for n in 0..600 {
        let text = format!("{n}\n");
        let hash = Sha256::digest(&text).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        files.push(serde_json::json!({ "path": format!("many/{n}"), "bytes": text.len(), "sha256": hash }));
        dir.write(format!("out/many/{n}"), text);
    }
    dir.write("out/manifest.json", manifest.to_string());
    run(upload(&dir, &hub, SET, &["--no-verify"]), 0);
    let asked = hub.asked();
    assert_eq!(asked.iter().filter(|asked| asked.path.contains("/preupload/")).count(), 3);
    assert_published(&dir, &hub, &hub.history("set", "main")[0]);
    run(upload(&dir, &hub, SET, &["--no-verify"]), 0);
    assert_eq!(changes(&hub), Vec::<String>::new());
}

#[test]
fn what_is_reported_to_the_store_is_content_alone() {
    let (dir, hub) = (exported(), Hub::start());
    run(upload(&dir, &hub, SET, &[]), 0);
    let asked = hub.asked();
    assert!(asked.iter().all(|asked| !asked.path.contains("telemetry")), "{asked:?}");
}
