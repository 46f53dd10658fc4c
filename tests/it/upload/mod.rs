//! Uploads to real servers on loopback.

mod hub;
mod hub_client;
mod hub_server;
mod proxy;
mod s3;
mod suite;

use crate::corpus;
use crate::harness::Dir;
use proxy::{Action, Fault};
use s3::{BUCKET, PREFIX, S3Server, SECRET};
use suite::{Server, Trouble, assert_discreet, assert_published, conformance, exported};

conformance!(s3_without_list, S3Server::plain());
conformance!(s3_with_list, S3Server::listing());

/// Wrong credentials, a bucket that is not there: what a server really says.
#[test]
fn refusals_are_explained() {
    let (server, dir) = (S3Server::plain(), exported());
    let wrong = "wrongwrongwrongwrongwrongwrongwrongwrong";
    let upload = || server.upload_to(&dir, &server.target());
    let run = server.environment(upload(), wrong).args(["--verbose"]).run().status(3);
    let run = run.says(&[&format!("s3://{BUCKET}/{PREFIX}"), "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"]);
    assert!(!run.stderr.contains(wrong), "a secret was printed");
    let elsewhere = server.upload_to(&dir, "s3://elsewhere/x");
    let run = server.environment(elsewhere, SECRET).run().status(3);
    assert_discreet(&server, &run.says(&["s3://elsewhere/x", "NoSuchBucket", "create the bucket"]));
    let nothing = server.environment(upload(), "").env("AWS_ACCESS_KEY_ID", "").run().status(3);
    assert_discreet(&server, &nothing.says(&["there are no credentials", "AWS_PROFILE"]));
    assert_eq!(server.published().len(), 0);
}

/// What cannot be sent in a request is refused, by the name of what it comes from and not by its value.
#[test]
fn what_no_request_can_hold_is_refused() {
    let (server, dir) = (S3Server::plain(), exported());
    for (variable, value) in [
        ("AWS_ACCESS_KEY_ID", "AKIASECRETIVE\n"),
        ("AWS_SECRET_ACCESS_KEY", "SECRETIVE \n"),
        ("AWS_SESSION_TOKEN", "a\r\nSECRETIVE"),
        ("AWS_REGION", "us-SECRETIVE\n"),
        ("AWS_REGION", "us SECRETIVE"),
        ("AWS_ENDPOINT_URL_S3", "http://me:SECRETIVE@localhost"),
    ] {
        let run = server.upload(&dir).args(["--verbose", "--no-verify"]).env(variable, value).run().status(2);
        assert!(!run.says(&[variable]).stderr.contains("SECRETIVE"), "{variable} was printed");
    }
    let run = server.upload(&dir).env("COLOPHON_REGION", "us-SECRETIVE\n").run().status(2).says(&["--region"]);
    assert!(!run.stderr.contains("SECRETIVE"), "the region was printed");
    for url in ["http://me:SECRETIVE@localhost", "http://127.0.0.1:99999", "http://[::1", "http://?x"] {
        // Before the folder is looked at.
        let command = dir.colophon(["upload", "out", "s3://b/x", "--endpoint-url", url, "--path-style"]);
        let run = server.environment(command, SECRET).run().status(2).says(&["--endpoint-url"]);
        assert!(!run.stderr.contains("SECRETIVE"), "a password was printed");
    }
    assert_eq!(server.proxy().seen("", ""), 0);
}

/// A server that is not there is tried for a while.
#[test]
fn a_server_that_is_not_there() {
    let (server, dir) = (S3Server::plain(), exported());
    let upload = dir.colophon(["upload", "out", &server.target(), "--endpoint-url", "http://127.0.0.1:9"]);
    let run = server.environment(upload, SECRET).env("AWS_MAX_ATTEMPTS", "2").run().status(3);
    run.says(&[&server.target(), "could not list the target", "check the network and --endpoint-url"]);
}

/// A bucket in another region is found there.
#[test]
fn the_region_is_found() {
    let (server, dir) = (S3Server::plain(), exported());
    let answer = |headers: &str| Action::Answer {
        status: 301,
        headers: format!("content-type: application/xml\r\n{headers}"),
        body: "<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>".into(),
    };
    let redirect = |times| Fault {
        method: "GET",
        part: "list-type=2".into(),
        after: 0,
        times,
        action: answer("x-amz-bucket-region: eu-west-1\r\n"),
    };
    server.proxy().inject(redirect(1));
    server.upload(&dir).run().status(0).says(&["is in eu-west-1"]);
    assert_published(&server, &dir);
    server.proxy().inject(redirect(1));
    server.upload(&dir).args(["--region", "us-east-1"]).run().status(3).says(&["say --region eu-west-1"]);
}

/// What another program put there is neither replaced nor removed.
#[test]
fn the_objects_of_others_stay() {
    let (server, dir) = (S3Server::listing(), exported());
    std::fs::create_dir_all(server.file("")).expect("a folder");
    std::fs::write(server.file("theirs.txt"), "theirs").expect("write");
    server.upload(&dir).args(["--delete"]).run().status(0);
    assert_eq!(server.published().get("theirs.txt").map(Vec::as_slice), Some(&b"theirs"[..]));
    std::fs::write(server.file("manifest.json"), "{\"name\": \"an extension\"}").expect("write");
    server.upload(&dir).args(["--delete"]).run().status(2).says(&["manifest.json", "not a manifest of colophon's"]);
    assert_eq!(server.published().get("manifest.json").map(Vec::len), Some(24));
}

/// A manifest that lists the one that was kept aside does not make it go before the end.
#[test]
fn a_kept_manifest_is_no_file_to_remove() {
    let (server, dir) = (S3Server::listing(), exported());
    server.upload(&dir).run().status(0);
    let path = server.file("manifest.json");
    let bytes = std::fs::read(&path).expect("a manifest");
    let mut manifest: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    let files = manifest["files"].as_array_mut().expect("files");
    for name in [".colophon/replaced-manifest.json", "old.jsonl"] {
        let mut listed = files[0].clone();
        listed["path"] = name.into();
        files.push(listed);
        std::fs::create_dir_all(server.file(".colophon")).expect("a folder");
        std::fs::write(server.file(name), &bytes).expect("write");
    }
    std::fs::write(&path, manifest.to_string()).expect("write");
    let receipt = server.upload(&dir).args(["--delete", "--json"]).run().status(0).json();
    let deleted: Vec<_> = receipt["deleted"].as_array().into_iter().flatten().map(|entry| &entry["path"]).collect();
    assert_eq!(deleted, ["old.jsonl"]);
    assert!(!server.file(".colophon/replaced-manifest.json").exists());
    assert_published(&server, &dir);
}

/// Who may not look at the manifest cannot replace what it lists; who may not list can, as long as it is readable.
#[test]
fn a_manifest_that_cannot_be_read_is_not_taken_for_absent() {
    let (server, dir) = (S3Server::plain(), exported());
    server.upload(&dir).run().status(0);
    let before = server.published();
    dir.export().args(["--seed", "7"]).run().status(0);
    let always = |method, part: &str, action| {
        server.proxy().inject(Fault { method, part: part.into(), after: 0, times: usize::MAX, action });
    };
    let forbidden = || server.answer(Trouble::Forbidden);
    let endless = || Action::Answer {
        status: 200,
        headers: "content-type: application/xml\r\n".into(),
        body: "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>\
               </ListBucketResult>"
            .into(),
    };
    for (list, method, part, trouble, says) in [
        (forbidden(), "HEAD", "/manifest.json", Trouble::Forbidden, "allow s3:GetObject on it, and s3:ListBucket"),
        (forbidden(), "GET", "/manifest.json", Trouble::Forbidden, "allow s3:GetObject on it, and s3:ListBucket"),
        (forbidden(), "GET", "/replaced-manifest.json", Trouble::Forbidden, "s3:GetObject"),
        (forbidden(), "HEAD", "/manifest.json", Trouble::Broken, "500"),
        (forbidden(), "HEAD", "/train.jsonl", Trouble::Broken, "500"),
        (endless(), "HEAD", "/manifest.json", Trouble::Forbidden, "allow s3:GetObject on it"),
        (endless(), "HEAD", "/train.jsonl", Trouble::Forbidden, "allow s3:GetObject on it"),
    ] {
        server.proxy().reset();
        always("GET", "list-type=2", list);
        always(method, part, server.answer(trouble));
        let run = server.upload(&dir).args(["--delete"]).env("AWS_MAX_ATTEMPTS", "2").run().status(3);
        run.says(&[part.trim_start_matches('/'), says]);
        assert_eq!(["PUT", "POST", "DELETE"].map(|method| server.proxy().seen(method, "")), [0; 3]);
        assert!(server.published() == before);
    }
    // So Amazon answers who may not list: that there is no such file is not said.
    server.proxy().reset();
    always("GET", "list-type=2", forbidden());
    always("HEAD", ".jsonl", forbidden());
    server.upload(&dir).run().status(0);
    assert_published(&server, &dir);
    assert!(server.proxy().seen("DELETE", "/manifest.json") == 1, "the manifest stood beside files being replaced");
}

/// Parts of what the file was before are removed, not taken up.
#[test]
fn parts_of_another_content_are_removed() {
    let (server, dir) = (S3Server::listing(), exported());
    let hang = Action::Delay(std::time::Duration::from_secs(30));
    let fault = Fault { method: "PUT", part: "partNumber".into(), after: 1, times: usize::MAX, action: hang };
    server.proxy().inject(fault);
    let mut run = server.upload(&dir).args(["--concurrency", "1"]).spawn();
    run.until(|| server.proxy().seen("PUT", "partNumber") == 2);
    run.signal(rustix::process::Signal::KILL);
    run.wait();
    assert_eq!(server.open(), 1);
    server.proxy().reset();
    dir.export().args(["--seed", "7"]).run().status(0);
    let run = server.upload(&dir).run().status(0);
    assert!(!run.stderr.contains("Taking up"), "{}", run.stderr);
    assert_eq!(server.open(), 0);
    assert_published(&server, &dir);
}

/// While files are replaced no manifest stands beside them; what the earlier one listed is remembered over a kill.
#[test]
fn an_earlier_manifest_does_not_stand_beside_new_files() {
    let (server, dir) = (S3Server::listing(), exported());
    server.upload(&dir).run().status(0);
    dir.export().args(["--shard-size", "4MiB"]).run().status(0);
    let hang = Action::Delay(std::time::Duration::from_secs(30));
    let fault = Fault { method: "PUT", part: "/train-".into(), after: 1, times: usize::MAX, action: hang };
    server.proxy().inject(fault);
    let mut run = server.upload(&dir).args(["--concurrency", "1", "--delete"]).spawn();
    run.until(|| server.proxy().seen("PUT", "/train-") == 2);
    run.signal(rustix::process::Signal::KILL);
    run.wait();
    let left = server.published();
    assert!(left.contains_key("train.jsonl") && !left.contains_key("manifest.json"), "{:?}", left.keys());
    server.proxy().reset();
    let receipt = server.upload(&dir).args(["--delete", "--json"]).run().status(0).json();
    let deleted: Vec<_> = receipt["deleted"].as_array().into_iter().flatten().map(|entry| &entry["path"]).collect();
    assert!(deleted.iter().any(|path| *path == "train.jsonl"), "{deleted:?}");
    assert_published(&server, &dir);
    assert!(!server.file(".colophon/replaced-manifest.json").exists());
}

/// `upload` that is killed while it sends the first file after so many whose names begin so.
fn killed_while_sending(server: &S3Server, dir: &Dir, part: &str, after: usize) {
    let hang = Action::Delay(std::time::Duration::from_secs(30));
    let fault = Fault { method: "PUT", part: part.into(), after, times: usize::MAX, action: hang };
    server.proxy().inject(fault);
    let mut run = server.upload(dir).args(["--concurrency", "1"]).spawn();
    run.until(|| server.proxy().seen("PUT", part) == after + 1);
    run.signal(rustix::process::Signal::KILL);
    run.wait();
    server.proxy().reset();
}

/// The names of the split `train` at the target.
fn trained(server: &S3Server) -> Vec<String> {
    server.published().into_keys().filter(|name| name.starts_with("train")).collect()
}

/// What a killed upload left goes with the next one, though no manifest at the target lists it; so do the leavings of
/// several. What others keep under such a name stays.
#[test]
fn what_killed_uploads_left_is_removed() {
    for server in [S3Server::plain(), S3Server::listing()] {
        let dir = exported();
        for size in ["4MiB", "2MiB"] {
            dir.export().args(["--shard-size", size]).run().status(0);
            killed_while_sending(&server, &dir, "/train-", 2);
        }
        let left = trained(&server);
        assert_eq!(left.len(), 4, "{left:?}");
        // Both uploads meant to write this one, and did not come to it.
        let names = dir.names("out");
        let last = names.iter().rfind(|name| name.starts_with("train-")).expect("a shard");
        std::fs::write(server.file(last), "theirs").expect("write");
        dir.export().run().status(0);
        // They are not forgotten over an upload that leaves them alone.
        server.upload(&dir).run().status(0);
        let left_alone: Vec<_> = trained(&server).into_iter().filter(|name| left.contains(name)).collect();
        assert_eq!(left_alone, left);
        let dry = server.upload(&dir).args(["--delete", "--dry-run", "--json"]).run().status(0).json();
        let paths = |receipt: &serde_json::Value| -> Vec<String> {
            let entries = receipt["deleted"].as_array().expect("a list");
            entries.iter().map(|entry| entry["path"].as_str().expect("a path").to_owned()).collect()
        };
        assert_eq!((paths(&dry), trained(&server).len()), (left.clone(), 6));
        let receipt = server.upload(&dir).args(["--delete", "--json"]).run().status(0).json();
        assert_eq!(paths(&receipt), left);
        assert_eq!(std::fs::read(server.file(last)).expect("a file"), b"theirs");
        std::fs::remove_file(server.file(last)).expect("remove");
        assert_published(&server, &dir);
        assert!(!server.file(".colophon/intent.json").exists());
        // And an earlier manifest is not taken away for what it does not list.
        let others = exported();
        others.export().args(["--shard-size", "4MiB"]).run().status(0);
        killed_while_sending(&server, &others, "/train-", 1);
        assert_eq!(trained(&server).len(), 2);
        server.upload(&dir).args(["--delete"]).run().status(0);
        assert_eq!(server.proxy().seen("DELETE", "/manifest.json"), 0);
        assert_published(&server, &dir);
    }
}

/// Parts go as well, also where no upload in parts follows, and without `--delete`: nobody but the one who pays for
/// them sees them.
#[test]
fn parts_of_files_that_are_no_more_are_removed() {
    let (server, dir) = (S3Server::listing(), exported());
    killed_while_sending(&server, &dir, "partNumber", 1);
    assert_eq!(server.open(), 1);
    dir.export().args(["--shard-size", "4MiB"]).run().status(0);
    server.upload(&dir).run().status(0);
    assert_eq!(server.open(), 0);
    assert_published(&server, &dir);
}

/// Whether all files but one and the manifest are there: what was still on its way would be in another upload's way.
fn have_arrived(server: &S3Server, dir: &Dir, but: &str) -> bool {
    let published = server.published();
    let names = dir.names("out").into_iter();
    let mut names = names.filter(|name| !name.starts_with('.') && name != but && name != "manifest.json");
    names.all(|name| published.get(&name) == Some(&dir.read(format!("out/{name}"))))
}

/// Of two uploads at once the one that began first gives way, before it removes or publishes anything.
#[test]
fn two_uploads_at_once_publish_no_half() {
    let (server, dir) = (S3Server::plain(), exported());
    let delay = Action::Delay(std::time::Duration::from_secs(3));
    server.proxy().inject(Fault { method: "PUT", part: "/test.jsonl".into(), after: 0, times: 1, action: delay });
    let mut first = server.upload(&dir).args(["--delete"]).spawn();
    first.until(|| server.proxy().seen("PUT", "/test.jsonl") == 1 && have_arrived(&server, &dir, "test.jsonl"));
    let other = exported();
    other.export().args(["--seed", "7"]).run().status(0);
    server.upload(&other).args(["--delete"]).run().status(0);
    first.wait().status(3).says(&["another upload", "run again"]);
    assert_published(&server, &other);
}

/// The same if the second has nothing to send but the manifest, which the first has taken away.
#[test]
fn an_upload_that_only_publishes_is_seen_by_others() {
    let (server, dir) = (S3Server::plain(), exported());
    server.upload(&dir).run().status(0);
    let other = exported();
    other.export().args(["--shard-size", "4MiB"]).run().status(0);
    let delay = Action::Delay(std::time::Duration::from_secs(4));
    let part = "/test-00000-of-00001.jsonl";
    server.proxy().inject(Fault { method: "PUT", part: part.into(), after: 0, times: 1, action: delay });
    let mut first = server.upload(&other).args(["--delete"]).spawn();
    first.until(|| server.proxy().seen("PUT", part) == 1 && have_arrived(&server, &other, &part[1..]));
    server.upload(&dir).run().status(0);
    first.wait().status(3).says(&["another upload", "run again"]);
    let published = server.published();
    for name in dir.names("out") {
        assert!(published.get(&name) == Some(&dir.read(format!("out/{name}"))), "{name}");
    }
}

/// What an upload that ended has left is nobody's to remove, whatever was killed before it.
#[test]
fn what_ended_uploads_left_is_not_removed() {
    let (server, dir) = (S3Server::plain(), exported());
    dir.export().args(["--shard-size", "4MiB"]).run().status(0);
    killed_while_sending(&server, &dir, "/train-", 1);
    let left = trained(&server);
    dir.export().run().status(0);
    server.upload(&dir).run().status(0);
    dir.export().args(["--compress", "gzip"]).run().status(0);
    server.upload(&dir).run().status(0);
    server.upload(&dir).args(["--delete"]).run().status(0);
    let names = trained(&server);
    assert!(names.contains(&"train.jsonl".to_owned()) && !left.iter().any(|name| names.contains(name)), "{names:?}");
}

/// Another program's object under the name is not replaced.
#[test]
fn a_list_of_others_is_not_replaced() {
    let (server, dir) = (S3Server::plain(), exported());
    server.upload(&dir).run().status(0);
    let list = server.file(".colophon/intent.json");
    std::fs::create_dir_all(list.parent().expect("a folder")).expect("make");
    std::fs::write(&list, r#"{"mine":true}"#).expect("write");
    server.upload(&dir).run().status(2).says(&[".colophon/intent.json", "another prefix"]);
    assert_eq!(std::fs::read(&list).expect("there"), br#"{"mine":true}"#);
}

/// What is on in the job file can be switched off.
#[test]
fn a_job_file_s_delete_is_switched_off() {
    let (server, dir) = (S3Server::plain(), exported());
    server.upload(&dir).run().status(0);
    dir.export().args(["--shard-size", "4MiB"]).run().status(0);
    let endpoint = format!("http://{}", server.proxy().address);
    let target = server.target();
    dir.write(
        "job.toml",
        format!(
            "output-dir = 'out'\n[upload]\ntarget = '{target}'\nendpoint-url = '{endpoint}'\npath-style = true\n\
             delete = true\ndry-run = true\nno-verify = true\n"
        ),
    );
    let upload = |args: &[&str]| {
        let command = dir.colophon([&["upload", "--job", "job.toml"], args].concat()).env("COLOPHON_DRY_RUN", "0");
        server.environment(command, SECRET)
    };
    upload(&[]).env("COLOPHON_DELETE", "false").run().status(0).says(&["Uploading"]);
    assert!(server.published().contains_key("train.jsonl"));
    upload(&["--delete=false"]).env("COLOPHON_DELETE", "1").run().status(0);
    assert!(server.published().contains_key("train.jsonl"));
    upload(&["--no-verify=false"]).run().status(0).says(&["Verifying"]);
}

/// What a server says is shown in a line, without what it was sent and without what a terminal obeys.
#[test]
fn what_a_server_repeats_is_fit_to_be_printed() {
    let (server, dir) = (S3Server::plain(), exported());
    let token = "SESSIONTOKENTHATNOBODYMAYSEE/+==";
    let said = format!(
        "Denied&#x9b;2J to {SECRET}, with\nAuthorization: AWS4-HMAC-SHA256 Credential=x, Signature=SIGNATUREOFTHIS \
         X-Amz-Security-Token: {token} at https://me:PASSWORDOFME@host/x?X-Amz-Signature=PRESIGNATURE \u{202e}{}",
        "and so on ".repeat(100_000)
    );
    let body = format!("<Error><Code>Odd&#x85;{SECRET}{}</Code><Message>{said}</Message></Error>", "x".repeat(9999));
    let answer = Action::Answer { status: 400, headers: "content-type: application/xml\r\n".into(), body };
    server.proxy().inject(Fault { method: "GET", part: "list-type=2".into(), after: 0, times: 1, action: answer });
    let run = server.upload(&dir).args(["--verbose"]).env("AWS_SESSION_TOKEN", token).run().status(3);
    let run = run.says(&["400 Odd", "Denied 2J to ***, with Authorization:", "Credential=x"]);
    for secret in [SECRET, token, "SIGNATUREOFTHIS", "PASSWORDOFME", "PRESIGNATURE"] {
        assert!(!run.stderr.contains(secret), "{secret}: {}", run.stderr);
    }
    assert!(!run.stderr.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{}", run.stderr);
    assert!(run.stderr.lines().all(|line| line.len() < 1000), "{}", run.stderr.len());
}

/// Credentials that are not there, not to be had or out of date: what, why, what to do, and whether to try again.
#[test]
fn credentials_that_cannot_be_had_are_explained() {
    let (server, dir) = (S3Server::plain(), exported());
    let profile = |process: &str| format!("[profile p]\ncredential_process = {process}\n");
    let keys = |end: &str| {
        format!(
            "echo '{{\"Version\": 1, \"AccessKeyId\": \"{}\", \"SecretAccessKey\": \"{SECRET}\", \
             \"SessionToken\": \"\", \"Expiration\": \"{end}\"}}'\n",
            s3::KEY
        )
    };
    dir.write("fail.sh", "echo oh no >&2; echo password=hunter22hunter22 >&2; exit 3\n");
    dir.write("old.sh", keys("2001-02-03T04:05:06Z"));
    dir.write("odd.sh", "echo '{\"SecretAccessKey\": \"hunter22hunter22\"'\n");
    for (name, config, status, says) in [
        ("p", profile("sh fail.sh"), 3, &["credential_process", "oh no", "by hand"][..]),
        ("p", profile("sh odd.sh"), 3, &["credential_process", "could not parse", "by hand"]),
        ("p", profile("sh old.sh"), 3, &["out of date", "renew them"]),
        ("p", profile("sh gone.sh"), 3, &["credential_process", "gone.sh"]),
        ("gone", profile("sh fail.sh"), 2, &["AWS_PROFILE", "'gone'", "AWS_CONFIG_FILE"]),
        ("p", "[profile p]\nregion = x\n".into(), 2, &["AWS_PROFILE", "'p'"]),
        ("p", "[profile p\nregion = x\n".into(), 2, &["could not parse", "/config (AWS_CONFIG_FILE)"]),
        ("p", "[profile p]\nsource_profile = q\nrole_arn = x\n".into(), 2, &["AWS_PROFILE", "'p'"]),
        ("", String::new(), 3, &["there are no credentials", "AWS_PROFILE"]),
    ] {
        dir.write("config", config);
        let upload = server.upload(&dir).args(["--no-verify", "--verbose"]).env("AWS_ACCESS_KEY_ID", "");
        let upload = upload.env("AWS_SECRET_ACCESS_KEY", "").env("AWS_CONFIG_FILE", dir.path("config"));
        let run = upload.env("AWS_PROFILE", name).run().status(status).says(&["error: "]).says(says);
        assert!(!run.stderr.contains("hunter22"), "{}", run.stderr);
        assert_eq!(run.stderr.lines().filter(|line| line.contains("error")).count(), 1, "{}", run.stderr);
    }
    assert_eq!(server.proxy().seen("", ""), 0);
    // A machine that gives no role is no reason to speak of roles alone.
    let refusal = Action::Answer { status: 403, headers: String::new(), body: String::new() };
    let part = "/latest/api/token".into();
    server.proxy().inject(Fault { method: "PUT", part, after: 0, times: usize::MAX, action: refusal });
    let upload =
        server.upload(&dir).args(["--no-verify"]).env("AWS_ACCESS_KEY_ID", "").env("AWS_SECRET_ACCESS_KEY", "");
    let metadata = format!("http://{}", server.proxy().address);
    let upload = upload.env("AWS_EC2_METADATA_DISABLED", "false").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata);
    upload.run().status(3).says(&["there are no credentials", "AWS_SECRET_ACCESS_KEY"]);
    let expired = |code: &str| Action::Answer {
        status: 400,
        headers: "content-type: application/xml\r\n".into(),
        body: format!("<Error><Code>{code}</Code><Message>The provided token has expired.</Message></Error>"),
    };
    for (code, says) in [("ExpiredToken", "renew them"), ("InvalidToken", "AWS_SESSION_TOKEN")] {
        let action = expired(code);
        server.proxy().inject(Fault { method: "GET", part: "list-type=2".into(), after: 0, times: 1, action });
        server.upload(&dir).args(["--no-verify"]).run().status(3).says(&[&server.target(), code, says]);
    }
    // One that works.
    dir.write("new.sh", keys("2101-02-03T04:05:06Z"));
    dir.write("config", profile("sh new.sh"));
    let upload = server.upload(&dir).env("AWS_ACCESS_KEY_ID", "").env("AWS_SECRET_ACCESS_KEY", "");
    upload.env("AWS_CONFIG_FILE", dir.path("config")).env("AWS_PROFILE", "p").run().status(0);
    assert_published(&server, &dir);
}

/// At the defaults an upload needs little memory, whatever the size of its files.
#[test]
fn memory_is_bounded() {
    let (server, dir) = (S3Server::plain(), Dir::new());
    dir.write("in/large.jsonl", crate::corpus::large(300));
    dir.export().run().status(0);
    let endpoint = format!("http://{}", server.proxy().address);
    let upload = dir.colophon(["upload", "out", &server.target(), "--endpoint-url", &endpoint, "--path-style"]);
    // Of anonymous memory: pages of mapped files are the kernel's to drop.
    let run = server.environment(upload, SECRET).args(["--no-verify"]).after("ulimit -d 262144").run().status(0);
    assert_discreet(&server, &run);
    assert_published(&server, &dir);
}

/// `run` does all steps as the job file says, and each once.
#[test]
fn a_job_file_from_export_to_summary() {
    let (server, dir) = (S3Server::plain(), Dir::new());
    dir.colophon(["demo", "demo"]).run().status(0);
    let job = |more: &str| {
        let target = server.target();
        let endpoint = format!("http://{}", server.proxy().address);
        format!(
            "input-dir = 'demo/classified'\noutput-dir = 'out'\n[constants]\nmetadata.curation_date = '2024-01-15'\n\
             [upload]\ntarget = '{target}'\nendpoint-url = '{endpoint}'\npath-style = true\n{more}\n\
             [summary]\ndata-dir = 'demo'\n"
        )
    };
    dir.write("job.toml", job(""));
    let run = |args: &[&str]| server.environment(dir.colophon(args), SECRET).run();
    let text = run(&["run", "job.toml"]).status(0);
    assert_eq!(text.stdout.matches("VERIFIED").count(), 1);
    for part in ["Ledger: 705 lines", "manifest.json", "Uploaded to s3://"] {
        assert!(text.stdout.contains(part), "{part:?} is missing in\n{}", text.stdout);
    }
    let summary = run(&["summary", "demo"]).status(0).stdout;
    assert!(text.stdout.ends_with(&summary), "the summary is missing in\n{}", text.stdout);
    assert_published(&server, &dir);
    let json = run(&["run", "job.toml", "--json"]).status(0).json();
    assert_eq!(json["upload"]["sent"], serde_json::json!([]));
    assert_eq!(json["verify"]["passed"], true);
    assert!(json["export"]["ledger"].is_object() && !json["summary"].is_null());
    // Nothing begins if a later step is badly configured.
    std::fs::remove_dir_all(dir.path("out")).expect("remove");
    for (more, says) in
        [("part-size = '1MiB'", "--part-size"), ("regoin = 'x'", "regoin"), ("dry-run = true", "dry-run")]
    {
        dir.write("job.toml", job(more));
        run(&["run", "job.toml"]).status(2).says(&[says]);
        assert!(!dir.path("out").exists());
    }
    dir.write("job.toml", job(""));
    run(&["run", "job.toml", "--dry-run"]).status(2).says(&["dry-run", "colophon plan"]);
    assert!(!dir.path("out").exists());
    dir.write("job.toml", job(""));
    let without = server.environment(dir.colophon(["run", "job.toml"]), SECRET).env("AWS_ACCESS_KEY_ID", "");
    without.env("AWS_SECRET_ACCESS_KEY", "").run().status(3).says(&["there are no credentials"]);
    assert!(!dir.path("out").exists());
    dir.write("job.toml", job("").replace("'demo'", "'nowhere'"));
    run(&["run", "job.toml"]).status(3).says(&["nowhere", "data-dir"]);
    dir.write("job.toml", "workers = 3\n".to_owned() + &job(""));
    let worker = dir.colophon(["run", "job.toml"]).env("JOB_COMPLETION_INDEX", "1");
    server.environment(worker, SECRET).run().status(2).says(&["workers"]);
    assert!(!dir.path("out").exists());
}

/// As everywhere, a flag beats the environment, which beats the file.
#[test]
fn a_job_is_changed_by_flags_and_the_environment() {
    let (server, dir) = (S3Server::plain(), Dir::new());
    dir.write("in/a.jsonl", corpus::documents(20));
    dir.write("job.toml", "input-dir = 'in'\noutput-dir = 'file'\nseed = 1\n[upload]\ntarget = 's3://nowhere/x'\n");
    let endpoint = format!("http://{}", server.proxy().address);
    let run = || {
        let args = ["run", "job.toml", "--seed", "3", "--path-style", "--endpoint-url", &endpoint];
        let command = dir.colophon(args).env("COLOPHON_SEED", "2").env("COLOPHON_OUTPUT_DIR", "out");
        server.environment(command.env("COLOPHON_TARGET", server.target()), SECRET)
    };
    run().env("COLOPHON_DRY_RUN", "1").run().status(2).says(&["dry-run"]);
    assert_eq!(server.published().len(), 0);
    let _ = run().run().status(0);
    assert_published(&server, &dir);
    assert_eq!(dir.json("out/manifest.json")["configuration"]["seed"], 3);
    assert!(!dir.path("file").exists());
}

/// What the steps before came to is said although a later one failed.
#[test]
fn a_job_that_fails_says_how_far_it_came() {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(20));
    dir.write(
        "job.toml",
        "input-dir = 'in'\noutput-dir = 'out'\n[upload]\ntarget = 's3://b/x'\nendpoint-url = 'http://127.0.0.1:9'\nregion = 'x'\n",
    );
    let server = S3Server::plain();
    let run = |more: &[&str]| {
        let command = dir.colophon([&["run", "job.toml"], more].concat()).env("AWS_MAX_ATTEMPTS", "1");
        server.environment(command, SECRET).run().status(3)
    };
    assert!(run(&[]).stdout.contains("Ledger: 20 lines"));
    assert_eq!(run(&["--json"]).json()["export"]["ledger"]["exported"], 20);
}

#[test]
fn usage_is_explained() {
    let dir = Dir::new();
    dir.folder("out");
    for (args, says) in [
        (&["upload", "out", "bucket/x"][..], "s3://BUCKET/PREFIX"),
        (&["upload", "out"], "target is missing"),
        (&["upload", "out", "s3://b/x", "--part-size", "1"], "--part-size"),
        (&["upload", "out", "s3://b/x", "--concurrency", "0"], "--concurrency"),
    ] {
        dir.colophon(args).run().status(2).says(&[says]);
    }
}
