//! What this machine can scan with, measured.

use crate::demo;
use crate::domain::row::Rows;
use crate::domain::schema::{Schema, default_constants, default_fields};
use crate::scan::cuda::{self, CudaScanner, Device};
use crate::scan::{ScanJob, Scanner, available};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long each scanner is measured.
const TIME: Duration = Duration::from_millis(150);

/// Everything that can scan here.
pub struct Devices {
    /// CPU scanners, the preferred one first, each with bytes a second on one core.
    scanners: Vec<(&'static str, f64)>,
    /// GPUs, each with bytes a second, copies included; or why it failed.
    gpus: Vec<(Arc<Device>, Result<f64, String>)>,
    /// CUDA version of the driver, if there is one.
    driver: Option<(i32, i32)>,
    /// Why there are no GPUs, or why some are not used.
    unusable: Vec<String>,
}

/// Measures every scanner on the demo's documents.
pub fn measure() -> Devices {
    let chunk: Vec<u8> =
        demo::files().into_iter().filter(|f| f.path.starts_with("classified/")).flat_map(|f| f.bytes).collect();
    let on_core = |scanner: &dyn Scanner| rate(scanner, &chunk).unwrap_or(0.0);
    let scanners = available().iter().map(|scanner| (scanner.name(), on_core(&**scanner))).collect();
    let found = cuda::probe();
    // A GPU is given as much at once as in a run.
    let batch = chunk.repeat((cuda::SLOT_BYTES / chunk.len()).max(1));
    let on_gpu = |device: Arc<Device>| {
        let rate = rate(&CudaScanner::new(Arc::clone(&device)), &batch);
        (device, rate)
    };
    Devices {
        scanners,
        gpus: found.devices.into_iter().map(on_gpu).collect(),
        driver: found.driver,
        unusable: found.unusable.iter().map(ToString::to_string).collect(),
    }
}

fn rate(scanner: &dyn Scanner, chunk: &[u8]) -> Result<f64, String> {
    let schema = Schema::new(default_fields(), default_constants(demo::DATE)).expect("the default schema is sound");
    let job = ScanJob { schema: &schema, seed: 42, hash: true };
    let mut rows = Rows::default();
    let start = Instant::now();
    let mut bytes = 0;
    while bytes == 0 || start.elapsed() < TIME {
        scanner.scan(chunk, &job, &mut rows).map_err(|error| error.to_string())?;
        bytes += chunk.len();
    }
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The table for people.
pub fn table(devices: &Devices) -> String {
    let mut text = format!("CPU: {}, {} cores for this process\n", std::env::consts::ARCH, cores());
    for (i, (name, rate)) in devices.scanners.iter().enumerate() {
        let note = if i == 0 { "  <- used by default" } else { "" };
        let _ = writeln!(text, "  {name:<10} {:>8.2} GB/s a core{note}", rate / 1e9);
    }
    for (device, rate) in &devices.gpus {
        let (major, minor) = devices.driver.unwrap_or_default();
        let memory = device.memory as f64 / f64::from(1 << 30);
        let _ = writeln!(text, "{device}: {memory:.1} GiB, driver for CUDA {major}.{minor}");
        let _ = match rate {
            Ok(rate) => writeln!(text, "  {:<10} {:>8.2} GB/s, one batch at a time", "cuda", rate / 1e9),
            Err(error) => writeln!(text, "  cuda       not used: {error}"),
        };
    }
    for reason in &devices.unusable {
        let _ = writeln!(text, "GPU: not used: {reason}");
    }
    let used = match devices.gpus.iter().any(|(_, rate)| rate.is_ok()) {
        true => "the cores; for large inputs (1 GiB a thread or more) the GPU as well",
        false => "the cores",
    };
    let _ = writeln!(text, "--device auto scans with {used}");
    text
}

/// The table for machines.
pub fn to_json(devices: &Devices) -> Value {
    let scanner = |(name, rate): &(_, f64)| json!({ "scanner": name, "bytes_per_second_per_core": *rate as u64 });
    let gpu = |(device, rate): &(Arc<Device>, Result<f64, String>)| {
        let mut gpu = json!({ "ordinal": device.ordinal, "name": device.name, "memory_bytes": device.memory });
        match rate {
            Ok(rate) => gpu["bytes_per_second"] = json!(*rate as u64),
            Err(error) => gpu["not_used"] = json!(error),
        }
        gpu
    };
    json!({
        "arch": std::env::consts::ARCH,
        "cores": cores(),
        "scanners": devices.scanners.iter().map(scanner).collect::<Vec<_>>(),
        "cuda_driver": devices.driver.map(|(major, minor)| format!("{major}.{minor}")),
        "gpus": devices.gpus.iter().map(gpu).collect::<Vec<_>>(),
        "gpus_not_used": devices.unusable,
    })
}
