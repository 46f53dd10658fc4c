//! Where options come from and what they mean: flags, the environment, the job file, the schema.

use crate::corpus;
use crate::harness::{DATE, Dir, Finished, assert_same};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A folder with a few hundred documents, so that seeds and ratios can be told apart.
fn with_documents() -> Dir {
    let dir = Dir::new();
    dir.write("in/a.jsonl", corpus::documents(300));
    dir
}

/// A folder with one shard.
fn with_lines(lines: &str) -> Dir {
    let dir = Dir::new();
    dir.write("in/a.jsonl", lines);
    dir
}

/// The one exported line.
#[track_caller]
fn exported(dir: &Dir, job: &str, args: &[&str]) -> String {
    dir.write("job.toml", job);
    dir.colophon(["export", "--job", "job.toml"]).args(args).run().status(0);
    ["train", "validation", "test"].map(|split| dir.text(format!("out/{split}.jsonl"))).concat()
}

const FOLDERS: &str = "input-dir = 'in'\noutput-dir = 'out'\n";

#[test]
fn set_adds_and_replaces_constants() {
    let dir = with_lines(&corpus::document("x"));
    let args = [
        "--set",
        "metadata.source=wiki=pedia",
        "--set",
        "metadata.licence=CC \"BY\"",
        "--set",
        "note=",
        "--set",
        "n=7",
    ];
    dir.export().args(args).run().status(0);
    let expected = concat!(
        r#"{"text":"x","metadata":{"source":"wiki=pedia","curation_pipeline":"colophon-"#,
        env!("CARGO_PKG_VERSION"),
        r#"","curation_date":"2024-01-15","licence":"CC \"BY\""},"note":"","n":"7"}"#,
        "\n"
    );
    assert_eq!(dir.text("out/train.jsonl") + &dir.text("out/validation.jsonl") + &dir.text("out/test.jsonl"), expected);
}

#[test]
fn the_date_is_today_in_utc() {
    let dir = with_lines(&corpus::document("x"));
    let today = || jiff::Timestamp::now().strftime("\"curation_date\":\"%Y-%m-%d\"").to_string();
    let before = today();
    let line = exported(&dir, FOLDERS, &[]);
    // Midnight may have passed.
    assert!(line.contains(&before) || line.contains(&today()), "{line}");
}

#[test]
fn a_job_file_defines_the_schema() {
    let document = json!({
        "body": { "main": "text", "lang": "de" }, "ids": [1, { "a": null }], "n": -3, "ok": false, "f": 1.5, "nothing": null,
    });
    let dir = with_lines(&(document.to_string() + "\n"));
    let job = r#"
        input-dir = "in"
        output-dir = "out"
        default-constants = false

        [[field]]
        from = "ids"
        to = "ids"

        [[field]]
        from = "body.main"
        to = "text"
        type = "string"
        required = true

        [[field]]
        from = "body.lang"
        to = "metadata.language.code"
        type = "string"

        [[field]]
        from = "n"
        to = "metadata.n"
        type = "integer"
        required = true

        [[field]]
        from = "ok"
        to = "metadata.language.sure"
        type = "boolean"

        [[field]]
        from = "f"
        to = "metadata.f"
        type = "number"

        [[field]]
        from = "nothing"
        to = "metadata.nothing"

        [constants]
        metadata.run = { number = 5, sound = true, tags = ["a", "b"] }
        "metadata.source" = "jobs"
    "#;
    let expected = concat!(
        r#"{"ids":[1,{"a":null}],"text":"text","metadata":{"language":{"code":"de","sure":false},"n":-3,"f":1.5,"#,
        r#""run":{"number":5,"sound":true,"tags":["a","b"]},"source":"jobs"}}"#,
        "\n"
    );
    assert_eq!(exported(&dir, job, &[]), expected);
}

/// Section 3: the line is in the schema's order, and the constants are part of the schema. (`metadata`
/// stands where the first field in it does.)
#[test]
fn constants_keep_the_order_of_the_job_file() {
    let dir = with_lines(&corpus::document("x"));
    let job =
        format!("{FOLDERS}default-constants = false\n[constants]\nz = 1\nmetadata.y = 2\nmetadata.b = 3\na = 4\n");
    assert_eq!(exported(&dir, &job, &[]), "{\"text\":\"x\",\"metadata\":{\"y\":2,\"b\":3},\"z\":1,\"a\":4}\n");
}

/// Each line breaks one rule of a schema of one's own.
#[test]
fn a_schema_of_one_s_own_rejects_what_it_does_not_allow() {
    let lines = [
        r#"{"text":"x","n":1.0,"b":true,"a":1}"#,
        r#"{"text":"x","n":1,"b":"true"}"#,
        r#"{"text":"x","b":true}"#,
        r#"{"text":"x","n":null}"#,
        r#"{"text":"x","n":1,"a":"\udc00"}"#,
        r#"{"n":1}"#,
        r#"{"text":"x","n":7,"b":false,"a":{"deep":"\ud83d\ude00"}}"#,
    ];
    let dir = with_lines(&lines.join("\n"));
    let field = |name: &str, kind: &str, required: bool| {
        format!("[[field]]\nfrom = '{name}'\nto = '{name}'\ntype = '{kind}'\nrequired = {required}\n")
    };
    let fields = [
        field("n", "integer", true),
        field("text", "string", true),
        field("b", "boolean", false),
        field("a", "any", false),
    ];
    let job = format!("{FOLDERS}default-constants = false\nmax-reject-ratio = 1\n{}", fields.concat());
    assert_eq!(
        exported(&dir, &job, &[]),
        r#"{"n":7,"text":"x","b":false,"a":{"deep":"\ud83d\ude00"},"metadata":{}}"#.to_owned() + "\n"
    );
    let index = dir.text("out/quarantine/index.jsonl");
    let reasons: Vec<_> =
        index.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["reason"].clone()).collect();
    let expected = ["wrong_type", "wrong_type", "missing_field", "missing_field", "lone_surrogate", "missing_field"];
    assert_eq!(reasons, expected);
}

/// Every option of `export` as a flag, in the environment, and in a job file.
#[test]
fn flags_environment_and_job_file_say_the_same() {
    let dir = with_documents();
    dir.write("in/bad.jsonl", "bad\n");
    let options = [
        ("format", "jsonl"),
        ("split-ratio", "0.5,0.25,0.25"),
        ("split-names", "train,b,c"),
        ("split-method", "exact"),
        ("split-key", "text"),
        ("stratify-by", "domain"),
        ("min-quality", "-1.5"),
        ("min-words", "1"),
        ("max-words", "1000"),
        ("min-chars", "2"),
        ("max-chars", "5000"),
        ("domains", "x,y"),
        ("exclude-domains", "z"),
        ("dedup", "exact"),
        ("balance-by", "domain"),
        ("balance", "temperature=2"),
        ("max-documents", "200"),
        ("repeat-up-to", "3"),
        ("forbid-leakage", "true"),
        ("memory-limit", "1MiB"),
        ("seed", "7"),
        ("set", "metadata.curation_date=2020-02-02"),
        ("max-reject-ratio", "0.1"),
        ("shard-size", "4KiB"),
        ("compress", "gzip"),
        ("threads", "3"),
        ("device", "cpu"),
        ("scanner", "portable"),
        ("chunk-size", "1k"),
        ("input-dir", "in"),
    ];
    let variable = |name: &str| format!("COLOPHON_{}", name.replace('-', "_").to_uppercase());
    let flag = |(name, value): &(&str, &str)| match *value {
        "true" => format!("--{name}"),
        value => format!("--{name}={value}"),
    };
    let flags = options.iter().map(flag);
    let by_flags = dir.colophon(["export", "--output-dir", "flags"]).args(flags).run().status(0);
    let command = dir.colophon(["export", "--output-dir", "environment"]);
    let by_environment =
        options.iter().fold(command, |command, (name, value)| command.env(&variable(name), value)).run().status(0);
    let job = options.iter().map(|(name, value)| match name {
        // Numbers and truth values as they are.
        name if value.parse::<f64>().is_ok() || *value == "true" => format!("{name} = {value}\n"),
        &"set" => format!("{name} = ['{value}']\n"),
        _ => format!("{name} = '{value}'\n"),
    });
    dir.write("job.toml", job.collect::<String>() + "output-dir = 'job'\n");
    let by_job = dir.colophon(["export", "--job", "job.toml"]).run().status(0);
    let by_variable =
        dir.colophon(["export"]).env("COLOPHON_JOB", "job.toml").env("COLOPHON_OUTPUT_DIR", "job-2").run().status(0);
    for run in [by_flags, by_environment, by_job, by_variable] {
        if !run.stdout.contains("scanner portable") || run.stderr.contains("the environment variable") {
            run.fail("not what was asked for");
        }
    }
    let expected = dir.snapshot("flags");
    assert!(expected.files().any(|(path, _)| path.to_string_lossy().starts_with("train-00000-of-000")));
    for output in ["environment", "job", "job-2"] {
        assert_same(&expected, &dir.snapshot(output), output);
    }
    let configuration = &dir.json("flags/manifest.json")["configuration"];
    let in_manifest = |(name, value): &(&str, &str)| {
        let found = &configuration[name.replace('-', "_")];
        let text = found.as_str().map_or_else(|| found.to_string(), String::from);
        text == *value
            || matches!(found, Value::Array(parts) if parts.iter().flat_map(Value::as_str).eq(value.split(',')))
    };
    // How to run is no part of it, nor where from; the constants stand apart, and sizes in bytes.
    let elsewhere = ["memory-limit", "threads", "device", "scanner", "chunk-size", "input-dir", "set", "shard-size"];
    let missing: Vec<_> = options.iter().filter(|o| !elsewhere.contains(&o.0) && !in_manifest(o)).collect();
    assert!(missing.is_empty(), "{missing:?} {configuration:?}");
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let dir = with_documents();
    dir.write(
        "job.toml",
        format!("{FOLDERS}seed = 1\nsplit-ratio = [0.5, 0.25, 0.25]\nset = ['metadata.source=file']\n"),
    );
    let seed = |flag: Option<&str>, variable: Option<&str>, job: bool| {
        let mut command = dir.colophon(["export", "--input-dir", "in", "--output-dir", "out"]);
        if let Some(flag) = flag {
            command = command.args(["--seed", flag, "--set", &format!("metadata.source={flag}")]);
        }
        if let Some(variable) = variable {
            command = command.env("COLOPHON_SEED", variable).env("COLOPHON_SET", format!("metadata.source={variable}"));
        }
        command.args(if job { &["--job", "job.toml"][..] } else { &[] }).run().status(0);
        let configuration = &dir.json("out/manifest.json")["configuration"];
        (
            configuration["seed"].clone(),
            configuration["constants"]["metadata.source"].clone(),
            configuration["split_ratio"][0].clone(),
        )
    };
    let found = |seed: u64, source: &str, ratio: &str| (Value::from(seed), Value::from(source), Value::from(ratio));
    assert_eq!(seed(None, None, false), found(42, "unknown", "0.95"));
    assert_eq!(seed(None, None, true), found(1, "file", "0.5"));
    assert_eq!(seed(None, Some("2"), true), found(2, "2", "0.5"));
    assert_eq!(seed(Some("3"), Some("2"), true), found(3, "3", "0.5"));
    assert_eq!(seed(Some("3"), None, true), found(3, "3", "0.5"));
    assert_eq!(seed(Some("3"), Some("2"), false), found(3, "3", "0.95"));
}

#[test]
fn the_json_flag_has_a_variable_too() {
    let dir = with_documents();
    let run = |command: crate::harness::TestCommand<'_>| command.run().status(0).json()["ledger"]["exported"].clone();
    assert_eq!(run(dir.export().args(["--json"])), 300);
    assert_eq!(run(dir.export().env("COLOPHON_JSON", "1")), 300);
    assert!(dir.export().env("COLOPHON_JSON", "0").run().status(0).stdout.contains("Ledger: 300 lines"));
    let quiet = dir.export().args(["--quiet"]).run().status(0);
    assert_eq!(quiet.stderr, "");
}

/// What is on in the job file is switched off by the environment, and what is on there by a flag; and the other way round.
#[test]
fn a_switch_is_switched_off_wherever_it_can_be_switched_on() {
    let dir = with_documents();
    type IsOn = fn(&Dir, &Finished) -> bool;
    let switches: [(&str, IsOn); 4] = [
        ("no-card", |dir, _| !dir.path("out/README.md").exists()),
        ("forbid-leakage", |dir, _| dir.json("out/manifest.json")["configuration"]["forbid_leakage"] == true),
        ("json", |_, run| run.stdout.starts_with('{')),
        ("quiet", |_, run| run.stderr.is_empty()),
    ];
    for (name, is_on) in switches {
        let variable = format!("COLOPHON_{}", name.replace('-', "_").to_uppercase());
        let run = |flag: &str, value: &str, file: &str| {
            dir.write("job.toml", format!("{FOLDERS}{file}\n"));
            let flag = if flag.is_empty() { String::new() } else { format!("--{name}{flag}") };
            let flag = [flag].into_iter().filter(|flag| !flag.is_empty());
            let command = dir.colophon(["export", "--job", "job.toml"]).args(flag).env(&variable, value);
            let run = command.run().status(0);
            is_on(&dir, &run)
        };
        let (on, off) = (format!("{name} = true"), format!("{name} = false"));
        for (flag, value, file, expected) in [
            ("", "", "", false),
            ("", "", &on, true),
            ("", "false", &on, false),
            ("", "0", &on, false),
            ("", "no", &on, false),
            ("", "", &off, false),
            ("", "1", &off, true),
            ("", "true", "", true),
            ("=false", "1", &on, false),
            ("", "0", &off, false),
            ("=true", "0", &off, true),
        ] {
            assert_eq!(run(flag, value, file), expected, "{name}{flag} {variable}={value} {file}");
        }
        dir.write("job.toml", format!("{FOLDERS}{off}\n"));
        let command = dir.colophon(["export", &format!("--{name}"), "--job", "job.toml"]).env(&variable, "0");
        assert!(is_on(&dir, &command.run().status(0)), "--{name} alone");
    }
}

/// A typing error in a switch must not switch it on, nor off.
#[test]
fn a_switch_is_on_or_off() {
    let dir = with_documents();
    let mut seen = std::collections::BTreeSet::new();
    for command in ["export", "merge", "plan", "validate", "stats", "verify", "upload", "run", "summary", "demo"] {
        let help = dir.colophon([command, "--help"]).run().status(0).stdout;
        for line in help.lines().filter(|line| line.contains("[=<BOOL>]")) {
            let name = line.split("--").nth(1).and_then(|rest| rest.split('[').next()).expect("a name");
            let variable = format!("COLOPHON_{}", name.replace('-', "_").to_uppercase());
            // What a command needs beside its options comes later.
            dir.colophon([command]).env(&variable, "maybe").run().status(2).says(&[name, "maybe"]);
            dir.colophon([command, &format!("--{name}=maybe")]).run().status(2).says(&[name, "maybe"]);
            seen.insert(name.to_owned());
        }
    }
    let expected = [
        "delete",
        "dry-run",
        "forbid-leakage",
        "from-parts",
        "json",
        "no-card",
        "no-verify",
        "path-style",
        "private",
        "public",
        "quiet",
        "verbose",
    ];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    // Short ones go together as before.
    dir.colophon(["summary", "-qv", "none"]).run().status(3).says(&["none"]);
    dir.colophon(["-q", "export", "--json", "--input-dir", "in", "--output-dir", "out"]).run().status(0);
}

/// A misspelt variable would otherwise change nothing without a word.
#[test]
fn a_variable_that_nobody_knows_is_named() {
    with_documents().export().env("COLOPHON_SEDE", "7").run().status(0).says(&["COLOPHON_SEDE"]);
}

/// Each ends with status 2 and a message that names what is wrong, and makes nothing.
#[test]
fn mistakes_in_options_are_named() {
    let dir = with_documents();
    let cases: [(&[&str], &[&str]); 19] = [
        (&["--split-ratio", "0.5,0.5"], &["3 split names"]),
        (&["--split-ratio", "0.9,0.05,0.04"], &["0.9,0.05,0.04", "less than 1"]),
        (&["--split-ratio", "0.9,0.1,0.1"], &["more than 1"]),
        (&["--split-ratio", "0.9,0.1,x"], &["'x'"]),
        (&["--split-names", "a,a,b"], &["'a'", "twice"]),
        (&["--split-names", "a,../b,c"], &["'../b'"]),
        (&["--max-reject-ratio", "1.5"], &["--max-reject-ratio", "'1.5'"]),
        (&["--max-reject-ratio", "NaN"], &["--max-reject-ratio"]),
        (&["--shard-size", "0"], &["--shard-size"]),
        (&["--shard-size", "12 parsecs"], &["--shard-size 12 parsecs"]),
        (&["--chunk-size", "0"], &["--chunk-size"]),
        (&["--threads", "0"], &["--threads"]),
        (&["--seed=-1"], &["--seed", "-1"]),
        (&["--set", "novalue"], &["novalue", "PATH=VALUE"]),
        (&["--set", "text=x"], &["'text'"]),
        (&["--set", "metadata..x=y"], &["'metadata..x'"]),
        (&["--scanner", "abacus"], &["'abacus'", "reference"]),
        (&["--format", "parquet"], &["parquet", "jsonl"]),
        (&["--sede", "7"], &["--sede", "--seed"]),
    ];
    for (args, parts) in cases {
        dir.export().args(args).run().status(2).says(parts);
        assert!(!dir.path("out").exists(), "{args:?}");
    }
    dir.colophon(["export", "--input-dir", "in"]).run().status(2).says(&["--output-dir"]);
    dir.colophon(["export", "--output-dir", "out"]).run().status(2).says(&["--input-dir"]);
    dir.colophon(["exprot"]).run().status(2).says(&["exprot", "export"]);
    dir.colophon([""; 0]).run().status(2).says(&["Usage"]);
}

/// A job file's mistakes are reported with the file, the line where there is one, and the cause.
#[test]
fn mistakes_in_a_job_file_are_named() {
    let dir = with_documents();
    let cases: [(&str, &[&str]); 15] = [
        ("[constants]\ndedup = 'exact'", &["line 3", "'dedup'", "above the first table", "--set dedup="]),
        ("[constants]\nsummary.data-dir = 'x'", &["line 3", "'summary'"]),
        ("sede = 7", &["'sede'", "'seed'"]),
        ("input_dir = 'in'", &["'input_dir'", "'input-dir'"]),
        ("shards-size = '1MiB'", &["'shards-size'", "'shard-size'"]),
        ("[[fields]]\nfrom = 'text'", &["'fields'", "'field'"]),
        ("[[field]]\nfrom = 'text'\nto = 'text'\ntipe = 'string'", &["line 5", "tipe", "type"]),
        ("seed = ", &["line 2"]),
        ("seed = 1\nseed = 2", &["line 3", "seed"]),
        ("seed = 'x'", &["line 2: seed: ", "string", "u64"]),
        ("threads = 'x'", &["line 2: threads: ", "string"]),
        ("device = 'tpu'", &["line 2", "tpu"]),
        ("compress = 'rar'", &["line 2", "rar"]),
        ("[[field]]\nfrom = 'text'\nto = 'text'\ntype = 'strnig'", &["strnig"]),
        ("split-ratio = [0.5, 0.4]\nsplit-names = 'a,b'", &["0.5,0.4"]),
    ];
    let mut wrong = Vec::new();
    for (lines, parts) in cases {
        dir.write("job.toml", format!("# A job.\n{lines}\n"));
        let run = dir.export().args(["--job", "job.toml"]).run().status(2);
        // The ratios are only seen to be wrong when file and flags are one.
        let parts = parts.iter().chain(["job.toml"].iter().filter(|_| !lines.starts_with("split")));
        wrong.extend(
            parts
                .filter(|part| !run.stderr.contains(**part))
                .map(|part| format!("{lines:?} without {part:?}: {}", run.stderr)),
        );
        assert!(!dir.path("out").exists(), "{lines}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    dir.export().args(["--job", "none.toml"]).run().status(2).says(&["none.toml", "No such file"]);
    dir.write("job.toml", b"seed = \xff");
    dir.export().args(["--job", "job.toml"]).run().says(&["job.toml", "UTF-8"]);
}

/// A container's log has an object a line, also where the command line is wrong.
#[test]
fn mistakes_on_the_command_line_are_json_where_that_is_asked_for() {
    let dir = Dir::new();
    let says = |args: &[&str], format: &str| {
        let run = dir.colophon(args).env("COLOPHON_LOG_FORMAT", format).run().status(2);
        assert_eq!(run.stdout, "");
        run.stderr
    };
    for (args, format) in [
        (&["export", "--sede", "7", "--log-format", "json"][..], ""),
        (&["--log-format=json", "export", "--sede", "7"], "text"),
        (&["export", "--sede", "7"], "json"),
        (&["export", "--threads", "--sede"], "json"),
    ] {
        let line: Value = serde_json::from_str(&says(args, format)).expect("one JSON object");
        assert_eq!((&line["level"], &line["status"]), (&json!("ERROR"), &json!(2)));
        let message = line["message"].as_str().expect("a message");
        assert!(message.contains("--sede") && message.contains("Usage: colophon export"), "{message}");
    }
    for (args, format) in
        [(&["export", "--sede", "7"][..], ""), (&["export", "--sede", "7", "--log-format", "text"], "json")]
    {
        assert!(says(args, format).starts_with("error: unexpected argument '--sede'"));
    }
    // What is no option there asks for nothing.
    for args in [&["export", "--", "--log-format", "json"][..], &["export", "--log-format", "--sede"]] {
        assert!(says(args, "").starts_with("error: "));
    }
    // An argument need not be text.
    let run = dir.colophon(["--sede".as_ref(), OsStr::from_bytes(b"\xff")]).run().status(2);
    run.says(&["unexpected argument '--sede'"]);
    let help = dir.colophon(["export", "--help", "--log-format", "json"]).run().status(0);
    assert!(help.stdout.contains("Usage: colophon export") && help.stderr.is_empty());
}

/// Section 1: every flag can stand in a job file, those that are not about the export alone too.
#[test]
fn a_job_file_can_say_how_to_log() {
    let dir = with_documents();
    let run = |job: &str| -> Finished {
        dir.write("job.toml", format!("{FOLDERS}{job}\n"));
        dir.colophon(["export", "--job", "job.toml"]).run().status(0)
    };
    assert_eq!(run("json = true").json()["ledger"]["exported"], 300);
    assert_eq!(run("quiet = true").stderr, "");
    assert!(run("log-format = 'json'").stderr.starts_with('{'));
}

#[test]
fn messages_for_containers_are_json() {
    let dir = with_lines("bad\n");
    let run = dir.export().args(["--log-format", "json"]).run().status(1);
    let messages: Vec<Value> =
        run.stderr.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect();
    let last = messages.last().expect("a message");
    assert_eq!((&last["level"], &last["status"]), (&json!("ERROR"), &json!(1)), "{last}");
    assert!(last["message"].as_str().is_some_and(|text| text.contains("rejected")), "{last}");
    let date = format!("metadata.curation_date={DATE}");
    let args = ["export", "--input-dir", "none", "--output-dir", "out", "--log-format", "json", "--set", &date];
    assert!(dir.colophon(args).run().status(3).stderr.contains("\"status\":3"));
}
