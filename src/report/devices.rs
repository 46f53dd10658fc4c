//! What this machine can scan with, measured.

use crate::demo;
use crate::domain::row::Rows;
use crate::domain::schema::{Schema, default_constants, default_fields};
use crate::scan::{ScanJob, Scanner, available};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// How long each scanner is measured.
const TIME: Duration = Duration::from_millis(150);

/// A scanner with its rate.
pub struct Found {
    name: &'static str,
    /// Bytes a second on one core.
    rate: f64,
}

/// Measures every scanner on the demo's documents.
///
/// # Panics
/// If a CPU scanner fails, which none can.
pub fn measure() -> Vec<Found> {
    let chunk: Vec<u8> =
        demo::files().into_iter().filter(|f| f.path.starts_with("classified/")).flat_map(|f| f.bytes).collect();
    available().iter().map(|scanner| Found { name: scanner.name(), rate: rate(&**scanner, &chunk) }).collect()
}

fn rate(scanner: &dyn Scanner, chunk: &[u8]) -> f64 {
    let schema = Schema::new(default_fields(), default_constants(demo::DATE)).expect("the default schema is sound");
    let mut rows = Rows::default();
    let start = Instant::now();
    let mut bytes = 0;
    while bytes == 0 || start.elapsed() < TIME {
        let job = ScanJob { schema: &schema, seed: 42, hash: true };
        scanner.scan(chunk, &job, &mut rows).expect("CPU scanners do not fail");
        bytes += chunk.len();
    }
    bytes as f64 / start.elapsed().as_secs_f64()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The table for people.
pub fn table(found: &[Found]) -> String {
    let mut text = format!("CPU: {}, {} cores for this process\n", std::env::consts::ARCH, cores());
    for (i, Found { name, rate }) in found.iter().enumerate() {
        let note = if i == 0 { "  <- used by default" } else { "" };
        let _ = writeln!(text, "  {name:<10} {:>8.2} GB/s a core{note}", rate / 1e9);
    }
    text.push_str("GPU: not used; this version scans on the CPU alone\n");
    text
}

/// The table for machines.
pub fn to_json(found: &[Found]) -> Value {
    let scanners: Vec<Value> =
        found.iter().map(|f| json!({ "scanner": f.name, "bytes_per_second_per_core": f.rate as u64 })).collect();
    json!({ "arch": std::env::consts::ARCH, "cores": cores(), "scanners": scanners, "gpus": [] })
}
