//! The GPU scanner: the kernels of `kernels/` on NVIDIA GPUs, through the driver's API.
//!
//! A GPU is slow to ask and fast to answer, so chunks go there by the batch, in slots. No thread
//! waits for it: whoever works on a run fills a slot when one is free, and looks now and then whether one
//! is done. So a GPU takes what it can eat, and the cores do the rest.
//!
//! The driver's library is loaded when the program runs; where it is missing, there are no GPUs.

mod device;
mod kernels;
pub mod layout;
pub mod measure;
mod probe;
mod slot;

pub use device::{Device, DeviceJob, Done, Filling, LONGEST_LINE, Lost, SLOT_BYTES, SLOTS};
pub use probe::{Found, probe};

use super::{DeviceError, ScanJob, Scanner, cpu};
use crate::domain::row::Rows;
use cudarc::driver::DriverError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Why a GPU, or every GPU, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// There is no libcuda.
    #[error("no NVIDIA driver (libcuda.so.1) was found")]
    NoDriver,
    /// libcuda lacks something.
    #[error("the NVIDIA driver lacks {0}: it is too old, or broken")]
    MissingSymbol(&'static str),
    /// The driver is older than the kernels.
    #[error("the NVIDIA driver supports CUDA {major}.{minor}; 12.0 (R525) or later is needed")]
    OldDriver {
        /// CUDA version of the driver.
        major: i32,
        /// CUDA version of the driver.
        minor: i32,
    },
    /// The driver is there, but no GPU.
    #[error("the NVIDIA driver is there, but it offers no GPU")]
    NoDevice,
    /// The GPU is older than the kernels.
    #[error("{name} has compute capability {}.{}; 8.0 or later is needed", capability.0, capability.1)]
    TooOld {
        /// The GPU.
        name: String,
        /// Its compute capability.
        capability: (i32, i32),
    },
    /// The GPU failed to scan known lines, or gave wrong rows for them.
    #[error("{device} failed its self-test: {cause}")]
    FailsTest {
        /// The GPU.
        device: String,
        /// What happened.
        cause: String,
    },
    /// A call failed.
    #[error("the NVIDIA driver said: {0}")]
    Driver(String),
}

/// What the driver said, in words if it has any.
fn said(error: &DriverError) -> String {
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
    let name = error.error_name().map(|name| name.to_string_lossy().into_owned());
    match (name, text) {
        (Ok(name), Ok(text)) => format!("{text} ({name})"),
        _ => format!("error {:?}", error.0),
    }
}

/// A GPU as a scanner like any other: one chunk at a time, and wait. For tests and benchmarks.
pub struct CudaScanner {
    device: Arc<Device>,
    cpu: Box<dyn Scanner>,
    /// Held during a scan: the device gives back whatever is done, to whoever asks.
    one_at_a_time: Mutex<()>,
}

impl CudaScanner {
    /// A scanner on this device.
    ///
    /// # Panics
    /// Never: there is always a CPU scanner.
    pub fn new(device: Arc<Device>) -> CudaScanner {
        CudaScanner { device, cpu: cpu::available().swap_remove(0), one_at_a_time: Mutex::new(()) }
    }
}

impl Scanner for CudaScanner {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn scan(&self, chunk: &[u8], job: &ScanJob, rows: &mut Rows) -> Result<(), DeviceError> {
        /// How long to wait before looking again.
        const PAUSE: Duration = Duration::from_micros(50);
        let _alone = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |lost: Lost| lost.error;
        rows.clear(job.schema.tree().sources());
        if chunk.is_empty() {
            return Ok(());
        }
        let Some(device_job) = self.device.job(job)? else { return self.cpu.scan(chunk, job, rows) };
        let lost = || DeviceError { device: self.device.to_string(), cause: "it failed before".into() };
        let mut filling = loop {
            match self.device.fill() {
                Some(filling) => break filling,
                None if self.device.is_lost() => return Err(lost()),
                None => std::thread::sleep(PAUSE),
            }
        };
        let fits = filling.add(0, chunk);
        filling.launch(&device_job).map_err(failed)?;
        if !fits {
            return self.cpu.scan(chunk, job, rows);
        }
        loop {
            match self.device.poll(&device_job, job, &*self.cpu).map_err(failed)? {
                Done::Nothing => std::thread::sleep(PAUSE),
                Done::TooManyLines(_) => return self.cpu.scan(chunk, job, rows),
                Done::Rows(mut scanned) => {
                    *rows = scanned.pop().map(|(_, rows)| rows).unwrap_or_default();
                    return Ok(());
                }
            }
        }
    }
}
