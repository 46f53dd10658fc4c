//! How fast each GPU is: the kernels one by one, pinned copies, and whether the rows are right.
//!
//! `cargo bench --bench gpu` measures on the demo's documents, repeated up to 256 MiB. The binary needs nothing but a
//! driver: it can be copied to a machine with a GPU and run there, with `--mib N` for another size, `--corpus FOLDER`
//! for the `.jsonl` files of a folder, and `--runs N`. It ends with status 1 if a row differs from the CPU's, and says
//! so where there is no GPU.

use colophon::domain::row::Rows;
use colophon::domain::schema::{Schema, default_constants, default_fields};
use colophon::scan::cuda::{self, measure};
use colophon::scan::{ScanJob, by_name};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let number = |name: &str, default: usize| option(name).map_or(default, |value| value.parse().expect("a number"));
    // `cargo test` and `cargo bench -- --test` only see whether it works.
    let is_test = !args.iter().any(|arg| arg == "--bench") && args.iter().any(|arg| arg == "--test");
    let size = if is_test { 1 } else { number("--mib", 256) } << 20;
    let found = cuda::probe();
    for unusable in &found.unusable {
        println!("not used: {unusable}");
    }
    if found.devices.is_empty() {
        return ExitCode::SUCCESS;
    }
    let chunk = corpus(option("--corpus").map(Path::new), size);
    let schema = Schema::new(default_fields(), default_constants("2024-01-15")).expect("valid");
    let job = ScanJob { schema: &schema, seed: 42, hash: true };
    let cpu = by_name(None).expect("there is always a CPU scanner");
    let mut expected = Rows::default();
    let start = Instant::now();
    cpu.scan(&chunk, &job, &mut expected).expect("CPU scanners do not fail");
    let cpu_rate = chunk.len() as f64 / start.elapsed().as_secs_f64();
    let (lines, mib) = (expected.rows.len(), chunk.len() >> 20);
    println!(
        "{mib} MiB, {lines} lines of {} bytes; {}: {:.2} GB/s a core",
        chunk.len() / lines,
        cpu.name(),
        cpu_rate / 1e9
    );
    let mut all_equal = true;
    for device in &found.devices {
        let (major, minor) = found.driver.unwrap_or_default();
        println!("\n{device}, driver for CUDA {major}.{minor}");
        let rates = match measure::measure(device, &chunk, &job, number("--runs", if is_test { 1 } else { 9 })) {
            Ok(rates) => rates,
            Err(error) => {
                println!("  failed: {error}");
                return ExitCode::FAILURE;
            }
        };
        let copy = rates.steps[0].1;
        println!("| step | GB/s of input | × pinned copy |\n| --- | ---: | ---: |");
        for (step, rate) in &rates.steps {
            println!("| {step} | {:.1} | {:.2} |", rate / 1e9, rate / copy);
        }
        println!("{:.3} bytes come back for each byte of input", rates.returned);
        let equal = rates.rows == expected;
        all_equal &= equal;
        println!("{} rows compared with the CPU's: {}", lines, if equal { "all equal" } else { "THEY DIFFER" });
    }
    if all_equal { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whole lines of about `size` bytes.
fn corpus(folder: Option<&Path>, size: usize) -> Vec<u8> {
    let mut once = Vec::new();
    match folder {
        Some(folder) => {
            let entries = std::fs::read_dir(folder).expect("a folder that can be read");
            let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
            paths.sort();
            for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "jsonl")) {
                once.extend(std::fs::read(path).expect("a shard"));
                if once.len() > size {
                    break;
                }
            }
        }
        None => {
            let files = colophon::demo::files().into_iter().filter(|file| file.path.starts_with("classified/"));
            files.for_each(|file| once.extend(file.bytes));
        }
    }
    let mut chunk = once.repeat(size.div_ceil(once.len().max(1)));
    let end = memchr::memrchr(b'\n', &chunk[..size]).expect("a line in this size");
    chunk.truncate(end + 1);
    chunk
}
