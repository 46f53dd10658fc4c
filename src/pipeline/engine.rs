//! What a run scans with, as its options say.

use crate::config::{Device, RunConfig};
use crate::error::{Error, Result};
use crate::scan::engine::Engine;
use crate::scan::{self, cuda};

/// The engine for a run over so many bytes of input.
///
/// # Errors
/// [`Error::Usage`] if a scanner was asked for that is not there; [`Error::Environment`] if a GPU was.
pub fn engine(run: &RunConfig, input_bytes: u64) -> Result<Engine> {
    let cpu = scan::by_name(run.scanner.as_deref()).map_err(Error::Usage)?;
    let is_worth = input_bytes / run.threads as u64 >= run.gpu_from;
    match run.device {
        Device::Auto if is_worth => Ok(Engine::of_both(cpu)),
        Device::Auto | Device::Cpu => Ok(Engine::of_cores(cpu)),
        Device::Cuda => {
            let found = cuda::probe();
            if found.devices.is_empty() {
                return Err(Error::Environment {
                    subject: "--device cuda".into(),
                    cause: found.why_not(),
                    remedy: "use --device auto or cpu, which scan without a GPU".into(),
                });
            }
            for unusable in &found.unusable {
                tracing::warn!("{unusable}");
            }
            Ok(Engine::of_gpus(cpu, found.devices))
        }
    }
}
