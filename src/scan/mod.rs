//! Scanners: from the bytes of a chunk to one row a line.
//!
//! Every scanner gives the same rows, to the bit, on every input. [`reference::Reference`] is the one that is
//! obviously right; all others are tested against it. Malformed data are rows like any other: an
//! error means that the device failed.

pub mod cpu;
pub mod cuda;
pub mod detail;
pub mod engine;
pub mod reference;

use crate::domain::row::Rows;
use crate::domain::schema::Schema;
use crate::error::Error;

/// What is wanted of a scan.
#[derive(Clone, Copy, Debug)]
pub struct ScanJob<'a> {
    /// Which values to find.
    pub schema: &'a Schema,
    /// Seed of the text's hash.
    pub seed: u64,
    /// Whether the hash is wanted; without it, [`Row::hash`](crate::domain::row::Row::hash) is 0.
    pub hash: bool,
}

/// A device failed. (What is wrong with the data is in the rows.)
#[derive(Debug, thiserror::Error)]
#[error("{device} failed: {cause}")]
pub struct DeviceError {
    /// The scanner's name.
    pub device: String,
    /// What the device or its driver said.
    pub cause: String,
}

impl From<DeviceError> for Error {
    fn from(error: DeviceError) -> Error {
        Error::Environment { subject: error.device, cause: error.cause, remedy: String::new() }
    }
}

/// Something that scans chunks.
pub trait Scanner: Send + Sync {
    /// The name by which a user can force it.
    fn name(&self) -> &'static str;

    /// Replaces `rows` by those of the lines of `chunk`. A chunk is any number of lines; the last
    /// line feed may be missing.
    ///
    /// # Errors
    /// If the device failed; `rows` is then unspecified.
    ///
    /// # Panics
    /// If `chunk` is longer than 4 GiB: rows count in 32 bits.
    fn scan(&self, chunk: &[u8], job: &ScanJob, rows: &mut Rows) -> Result<(), DeviceError>;
}

/// Every scanner that this machine can run, the preferred one first, the reference last.
pub fn available() -> Vec<Box<dyn Scanner>> {
    let mut scanners = cpu::available();
    scanners.push(Box::new(reference::Reference));
    scanners
}

/// The scanner with this name, or the preferred one.
///
/// # Errors
/// A sentence for the user, naming the scanners there are.
pub fn by_name(name: Option<&str>) -> Result<Box<dyn Scanner>, String> {
    let mut scanners = available();
    match name {
        None | Some("auto") => Ok(scanners.swap_remove(0)),
        Some(name) => {
            let names: Vec<_> = scanners.iter().map(|s| s.name()).collect();
            let Some(at) = names.iter().position(|n| *n == name) else {
                return Err(format!("no scanner '{name}' on this machine; there are: {}", names.join(", ")));
            };
            Ok(scanners.swap_remove(at))
        }
    }
}
