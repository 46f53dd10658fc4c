//! Runs with a GPU: the same output, and an end as documented for everything that can go wrong.
//!
//! The program is the one that users run; below it is the stand-in driver with the emulated kernels.

use crate::corpus::{self, Shard};
use crate::emulated::standin;
use crate::harness::{Dir, Finished, Snapshot, TestCommand, assert_same};
use crate::hostile;
use std::path::Path;

/// Fixed options and the stand-in for a command.
fn with_standin<'a>(command: TestCommand<'a>, library: &Path, env: &[(&str, &str)]) -> TestCommand<'a> {
    let command = command.env("LD_LIBRARY_PATH", library);
    env.iter().fold(command, |command, (name, value)| command.env(name, value))
}

/// A folder with shards of all kinds, and the export that the CPU makes of them.
fn exported() -> (Dir, Snapshot) {
    let dir = Dir::new();
    let mut shards = vec![
        Shard::new("a.jsonl", ""),
        Shard::new("b.jsonl", hostile::chunk(1, 3000)),
        Shard::new("c.jsonl.gz", hostile::chunk(2, 500)),
        // No line feed at the end, and another shard behind it.
        Shard::new("d.jsonl", corpus::documents(3).trim_end()),
        Shard::new("e.jsonl.zst", corpus::documents(200)),
    ];
    shards.extend(corpus::mixed());
    corpus::write(&dir, "in", &shards);
    dir.export().args(["--max-reject-ratio", "1", "--device", "cpu"]).run().status(0);
    let export = dir.snapshot("out");
    (dir, export)
}

/// An export to the same place with these options.
fn export<'a>(dir: &'a Dir, args: &[&str]) -> TestCommand<'a> {
    dir.export().args(["--max-reject-ratio", "1", "--json"]).args(args)
}

#[test]
fn the_output_is_the_same_on_every_device() {
    let (dir, expected) = exported();
    let library = standin(None);
    let validation = |device: &str| {
        let command = dir.colophon(["validate", "out", "--json", "--device", device]);
        with_standin(command, &library, &[]).run().stdout
    };
    let (validated, counted) = (validation("cpu"), dir.colophon(["stats", "out"]).run().stdout);
    let orders = ["lazy", "eager", "1", "2", "3"];
    for (order, threads) in orders.into_iter().zip(["1", "2", "3", "7", "2"]) {
        for chunk_size in ["1", "4KiB", "1MiB", "64MiB"] {
            let args = ["--device", "cuda", "--threads", threads, "--chunk-size", chunk_size];
            let env = [("STANDIN_ORDER", order), ("STANDIN_SEED", threads)];
            let report = with_standin(export(&dir, &args), &library, &env).run().status(0).json();
            assert!(report["gpu_bytes"].as_u64() > Some(100_000), "{report}");
            assert_same(&expected, &dir.snapshot("out"), &format!("{args:?} {env:?}"));
        }
    }
    assert_eq!(validation("cuda"), validated);
    let stats = dir.colophon(["stats", "out", "--device", "cuda"]);
    assert_eq!(with_standin(stats, &library, &[]).run().stdout, counted);
    let more: [&[&str]; 4] = [
        &["--compress", "zstd"],
        &["--shard-size", "100k"],
        &["--split-method", "exact", "--dedup", "exact", "--stratify-by", "domain"],
        &["--min-words", "20", "--sample", "0.5"],
    ];
    for args in more {
        export(&dir, args).args(["--device", "cpu"]).run().status(0);
        let expected = dir.snapshot("out");
        with_standin(export(&dir, args), &library, &[]).args(["--device", "cuda"]).run().status(0);
        assert_same(&expected, &dir.snapshot("out"), &format!("{args:?}"));
    }
}

#[test]
fn several_gpus_share_the_work() {
    let (dir, expected) = exported();
    let env = [("STANDIN_DEVICES", "3")];
    for device in ["cuda", "auto"] {
        let args = ["--device", device, "--gpu-from", "0", "--chunk-size", "16KiB"];
        with_standin(export(&dir, &args), &standin(None), &env).run().status(0);
        assert_same(&expected, &dir.snapshot("out"), device);
    }
    let devices = dir.colophon(["devices", "--json"]);
    let report = with_standin(devices, &standin(None), &env).run().status(0).json();
    assert_eq!(report["gpus"].as_array().map(Vec::len), Some(3));
}

/// Faults that are there from the start, with what is said of them.
const UNUSABLE: [(&str, &str, &str); 9] = [
    ("STANDIN_DEVICES", "0", "offers no GPU"),
    ("STANDIN_DRIVER", "11080", "supports CUDA 11.8; 12.0 (R525)"),
    ("STANDIN_CAPABILITY", "7.5", "compute capability 7.5; 8.0"),
    ("STANDIN_MEMORY", "1000000", "CUDA_ERROR_OUT_OF_MEMORY"),
    ("STANDIN_FAIL", "cuInit:*:999", "CUDA_ERROR_UNKNOWN"),
    ("STANDIN_FAIL", "cuModuleLoadData:1:218", "CUDA_ERROR_INVALID_PTX"),
    ("STANDIN_FAIL", "cuMemHostAlloc:3:2", "CUDA_ERROR_OUT_OF_MEMORY"),
    ("STANDIN_FAIL", "kernel:2:700", "CUDA_ERROR_ILLEGAL_ADDRESS"),
    ("STANDIN_FLIP", "*", "failed its self-test"),
];

#[test]
fn a_gpu_that_cannot_be_used_is_named_and_done_without() {
    let (dir, expected) = exported();
    let whole = standin(None);
    let broken = standin(Some("cuEventQuery"));
    let nowhere = dir.folder("nowhere");
    let mut faults = Vec::new();
    for (name, value, said) in UNUSABLE {
        faults.push((&*whole, vec![(name, value)], said));
    }
    faults.push((&broken, vec![], "lacks cuEventQuery"));
    if !crate::emulated::has_gpu() {
        faults.push((&nowhere, vec![], "no NVIDIA driver"));
    }
    for (library, env, said) in faults {
        let run = |args: &[&str]| with_standin(export(&dir, args), library, &env).run();
        run(&["--device", "cuda"]).status(3).says(&["--device cuda", said]);
        assert_same(&expected, &dir.snapshot("out"), said);
        run(&["--device", "auto", "--gpu-from", "0"]).status(0);
        assert_same(&expected, &dir.snapshot("out"), said);
        let devices = with_standin(dir.colophon(["devices"]), library, &env).run().status(0);
        assert!(devices.stdout.contains(said) && devices.stdout.contains("not used"), "{}", devices.stdout);
    }
    assert_eq!(dir.names("."), ["in", "nowhere", "out"]);
}

/// Faults behind the self-test, which launches 4 kernels, and copies twice there and three times back.
const LOST: [&str; 9] = [
    "cuMemcpyHtoDAsync_v2:3:700",
    "cuLaunchKernel:5:719",
    "cuLaunchKernel:6:719",
    "cuLaunchKernel:9:719:sticky",
    "cuMemcpyHtoDAsync_v2:4:700",
    "cuMemcpyDtoHAsync_v2:5:1",
    "kernel:7:700",
    "copy:8:214",
    "cuEventRecord:4:719:lost",
];

/// A run in which a GPU takes part. Where cores go on meanwhile, they may be done before it is open, on a busy machine
/// above all: then it is run again.
fn in_time(run: impl Fn() -> Finished, takes_part: impl Fn(&Finished) -> bool) -> Finished {
    for _ in 0..30 {
        let run = run();
        if takes_part(&run) {
            return run;
        }
    }
    panic!("the GPU never took part");
}

#[test]
fn a_gpu_that_fails_in_the_middle_gives_its_work_back() {
    let (dir, _) = exported();
    dir.write("in/large.jsonl", corpus::large(24));
    export(&dir, &["--device", "cpu"]).run().status(0);
    let expected = dir.snapshot("out");
    let library = standin(None);
    for fault in LOST {
        let env = [("STANDIN_FAIL", fault)];
        let run = |args: &[&str]| with_standin(export(&dir, args), &library, &env).run();
        run(&["--device", "cuda"]).status(3).says(&["GPU 0 (colophon emulator)", "CUDA_ERROR"]);
        assert_same(&expected, &dir.snapshot("out"), fault);
        let run = in_time(
            || run(&["--device", "auto", "--gpu-from", "0", "--scanner", "reference", "--threads", "2"]).status(0),
            |run| run.stderr.contains("the run goes on without it"),
        );
        assert_eq!(run.stderr.matches("goes on without it").count(), 1, "{}", run.stderr);
        assert_same(&expected, &dir.snapshot("out"), fault);
    }
    assert_eq!(dir.names("."), ["in", "out"]);
}

/// One of several fails; the others, and what they delivered meanwhile, stay.
#[test]
fn the_other_gpus_go_on() {
    let (dir, _) = exported();
    dir.write("in/large.jsonl", corpus::large(24));
    export(&dir, &["--device", "cpu"]).run().status(0);
    let expected = dir.snapshot("out");
    let args = ["--device", "auto", "--gpu-from", "0", "--scanner", "reference", "--chunk-size", "256KiB"];
    for count in (40..140).step_by(20) {
        let fault = format!("cuEventQuery:{count}:719:lost");
        let env = [("STANDIN_DEVICES", "3"), ("STANDIN_FAIL", &*fault)];
        with_standin(export(&dir, &args), &standin(None), &env).run().status(0);
        assert_same(&expected, &dir.snapshot("out"), &fault);
    }
}

#[test]
fn lines_too_short_for_a_gpu_are_left_to_the_cores() {
    let dir = Dir::new();
    // Two chunks, each of more lines than a slot has room for.
    dir.write("in/a.jsonl", "{\"text\":\"a b\"}\n".repeat(2 * ((8 << 20) / 15)));
    export(&dir, &["--device", "cpu"]).run().status(0);
    let expected = dir.snapshot("out");
    for args in [["--device", "cuda"], ["--device", "auto"]] {
        let run = with_standin(export(&dir, &args), &standin(None), &[])
            .args(["--gpu-from", "0", "--threads", "1", "--chunk-size", "8MiB"])
            .run();
        let run = run.status(0);
        assert_eq!(run.json()["gpu_bytes"], 0);
        assert_same(&expected, &dir.snapshot("out"), args[1]);
    }
}

#[test]
fn cores_and_gpu_share_a_run() {
    let (dir, _) = exported();
    dir.write("in/large.jsonl", corpus::large(24));
    export(&dir, &["--device", "cpu"]).run().status(0);
    let expected = dir.snapshot("out");
    let bytes: u64 = expected.files().map(|(_, bytes)| bytes.len() as u64).sum();
    let args = ["--device", "auto", "--gpu-from", "0", "--scanner", "reference", "--threads", "2"];
    let on_gpu = |run: &Finished| run.json()["gpu_bytes"].as_u64().expect("a number");
    let run = in_time(|| with_standin(export(&dir, &args), &standin(None), &[]).run().status(0), |run| on_gpu(run) > 0);
    assert!(on_gpu(&run) < bytes, "{} of about {bytes} bytes", on_gpu(&run));
    assert_same(&expected, &dir.snapshot("out"), "shared");
}

#[test]
fn a_schema_that_is_too_large_for_a_warp_is_scanned_on_the_cpu() {
    let (dir, _) = exported();
    let fields: Vec<String> = (0..40)
        .map(|i| format!("[[field]]\nfrom = \"f{i}\"\nto = \"metadata.f{i}\"\n"))
        .chain(["[[field]]\nfrom = \"text\"\nto = \"text\"\ntype = \"string\"\nrequired = true\n".into()])
        .collect();
    dir.write("job.toml", fields.concat());
    let args = ["--job", "job.toml", "--device", "cuda"];
    let run = with_standin(export(&dir, &args), &standin(None), &[]).run().status(0).says(&["more than 32 fields"]);
    assert_eq!(run.json()["gpu_bytes"], 0);
}
