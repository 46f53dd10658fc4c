//! The stand-in of the Hub against Hugging Face's own client in Python: what can be believed of it.
//!
//! These need a Python with `huggingface_hub`, named by `COLOPHON_TEST_HUB_PYTHON`; `.ci/run` has one.

use super::hub_server::{Hub, READER, WRITER};
use crate::corpus;
use crate::harness::{Dir, assert_same, skip};
use std::process::Command;

/// Runs the Python client, if there is one; whether there was.
fn python(dir: &Dir, hub: &Hub, args: &[&str]) -> bool {
    let Some(python) = std::env::var_os("COLOPHON_TEST_HUB_PYTHON") else {
        skip("COLOPHON_TEST_HUB_PYTHON names no Python with huggingface_hub");
        return false;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/upload/hub_client.py");
    let output = Command::new(python)
        .args([script, hub.endpoint()])
        .args(args)
        .env("HF_HOME", dir.path("client"))
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .output()
        .expect("a Python");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    true
}

#[test]
fn the_stand_in_is_a_hub_to_the_python_client() {
    let (dir, hub) = (Dir::new(), Hub::start());
    python(&dir, &hub, &["prove", WRITER, READER]);
}

#[test]
fn the_python_client_gets_what_went_up() {
    let (dir, hub) = (Dir::new(), Hub::start());
    dir.write("in/a.jsonl", corpus::classified().concat());
    dir.export().run().status(0);
    let command = dir.colophon(["upload", "out", "hf://datasets/owner/set"]).env("HF_ENDPOINT", hub.endpoint());
    command.env("HF_TOKEN", WRITER).env("HF_HOME", dir.path("hf")).run().status(0);
    let got = dir.path("got");
    if python(&dir, &hub, &["download", READER, "owner/set", "main", got.to_str().expect("UTF-8")]) {
        // What the client keeps for itself is hidden, as is what the Hub puts into every dataset.
        assert_same(&dir.snapshot("out").visible(), &dir.snapshot("got").visible(), "what the client got");
    }
}
