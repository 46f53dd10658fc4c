//! Which GPUs there are, and why those that cannot be used cannot.
//!
//! Nothing here may end the program: a machine without a GPU, without a driver, or with a broken one is a
//! machine that scans on its CPU.

use super::device::{Device, SLOT_BYTES, SLOTS};
use super::{Unusable, said};
use crate::domain::row::Rows;
use crate::domain::schema::{Schema, default_constants, default_fields};
use crate::scan::{DeviceError, ScanJob, Scanner, reference::Reference};
use cudarc::driver::{CudaContext, DriverError, sys};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The oldest driver that can load the kernels: CUDA 12.0, R525.
const DRIVER: i32 = 12_000;

/// What the driver offers that is used here. It is looked for beforehand, as a call of something that is
/// not there panics.
const SYMBOLS: [&str; 30] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemHostAlloc",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuLaunchKernel",
];

/// What was found.
#[derive(Default)]
pub struct Found {
    /// The CUDA version of the driver, such as (12, 8).
    pub driver: Option<(i32, i32)>,
    /// Devices that can be used.
    pub devices: Vec<Arc<Device>>,
    /// Why there is none, or why some are not used: each a sentence.
    pub unusable: Vec<Unusable>,
}

impl Found {
    /// All reasons in one line.
    pub fn why_not(&self) -> String {
        let reasons: Vec<String> = self.unusable.iter().map(ToString::to_string).collect();
        reasons.join("; ")
    }
}

/// Looks for GPUs and opens those that can be used.
pub fn probe() -> Found {
    let mut found = Found::default();
    match guarded(|| driver(&mut found.driver)) {
        Err(unusable) => found.unusable.push(unusable),
        Ok(count) => {
            // Opening one takes some tenths of a second, of which little is this process's own work.
            let opened: Vec<_> = std::thread::scope(|scope| {
                let opening: Vec<_> =
                    (0..count).map(|ordinal| scope.spawn(move || guarded(|| open(ordinal)))).collect();
                opening.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
            });
            for device in opened {
                match device {
                    Ok(Ok(device)) => found.devices.push(device),
                    Ok(Err(unusable)) => found.unusable.push(unusable),
                    Err(_) => found.unusable.push(Unusable::Driver("opening a GPU panicked".into())),
                }
            }
        }
    }
    found
}

/// Takes a panic of the library for an answer. The symbols are looked for beforehand, so none is expected.
fn guarded<T>(act: impl FnOnce() -> Result<T, Unusable>) -> Result<T, Unusable> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        Err(Unusable::Driver(said.unwrap_or_else(|| "a call of the driver panicked".into())))
    })
}

/// Checks the driver; gives the number of devices.
fn driver(found: &mut Option<(i32, i32)>) -> Result<usize, Unusable> {
    // SAFETY: loading libcuda runs its initialisers, as using it does.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unusable::NoDriver);
    }
    // SAFETY: the library is there.
    let library = unsafe { sys::culib() };
    // SAFETY: the symbol is not called, only looked for.
    let is_missing = |name: &&&str| unsafe { library.get::<*const ()>(name.as_bytes()) }.is_err();
    if let Some(symbol) = SYMBOLS.iter().find(is_missing) {
        return Err(Unusable::MissingSymbol(symbol));
    }
    let mut version = 0;
    // SAFETY: the call may be made at any time, and writes one integer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    *found = Some((version / 1000, version % 1000 / 10));
    if version < DRIVER {
        return Err(Unusable::OldDriver { major: version / 1000, minor: version % 1000 / 10 });
    }
    match CudaContext::device_count() {
        Ok(0) | Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Err(Unusable::NoDevice),
        Ok(count) => Ok(count.unsigned_abs() as usize),
        Err(error) => Err(error.into()),
    }
}

fn open(ordinal: usize) -> Result<Arc<Device>, Unusable> {
    let device = Device::open(ordinal, SLOTS, SLOT_BYTES)?;
    self_test(&device)?;
    Ok(device)
}

/// Has a device scan lines of which the reference knows what they are.
fn self_test(device: &Arc<Device>) -> Result<(), Unusable> {
    let schema = Schema::new(default_fields(), default_constants("2024-01-15")).expect("the default schema is sound");
    let job = ScanJob { schema: &schema, seed: 42, hash: true };
    let chunk = known_lines();
    let scanner = super::CudaScanner::new(Arc::clone(device));
    let (mut ours, mut expected) = (Rows::default(), Rows::default());
    let failed = |error: DeviceError| Unusable::FailsTest { device: device.to_string(), cause: error.cause };
    scanner.scan(&chunk, &job, &mut ours).map_err(failed)?;
    Reference.scan(&chunk, &job, &mut expected).map_err(failed)?;
    if ours == expected {
        return Ok(());
    }
    Err(Unusable::FailsTest { device: device.to_string(), cause: "it gave wrong rows".into() })
}

/// Documents with texts of all lengths that are hashed in another way, and lines that are none.
fn known_lines() -> Vec<u8> {
    let text = "lorem \\u00e9\\ud83d\\ude00\\n ipsum \\\"dolor\\\" 中文\u{3000}é ";
    let mut lines = b"\n[1]\n{\"text\": \"\xff\"}\n{\"text\": 1}\n{\"text\": \"\\ud800\"}\n{\"text\"}\n".to_vec();
    for times in [0, 1, 2, 3, 5, 9, 40, 200] {
        let line = format!("{{\"title\": \"t\", \"text\": \"a{}\", \"quality_prob\": 0.5}}\n", text.repeat(times));
        lines.extend_from_slice(line.as_bytes());
    }
    lines
}

impl From<DriverError> for Unusable {
    fn from(error: DriverError) -> Unusable {
        Unusable::Driver(said(&error))
    }
}
