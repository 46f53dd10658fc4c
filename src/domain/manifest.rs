//! The manifest: what an export consists of and what it was made from.
//!
//! It holds nothing that could differ between two runs of the same configuration on the same input:
//! no times, no machine, no paths outside the two folders.

use super::ledger::Ledger;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The manifest's name, in an export and wherever one is published.
pub const FILE: &str = "manifest.json";
/// What this program writes as a manifest's generator.
pub const GENERATOR: &str = concat!("colophon ", env!("CARGO_PKG_VERSION"));

/// Whether a manifest's generator is this program, in any version.
pub fn is_own(generator: &str) -> bool {
    generator.starts_with("colophon ")
}

/// The manifest's format; to be raised when its meaning changes.
pub const FORMAT: u32 = 1;

/// `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// `colophon` and its version.
    pub generator: String,
    /// What shaped the output, as the program understood it.
    pub configuration: Map<String, Value>,
    /// The shards that were read, in order.
    pub inputs: Vec<InputFile>,
    /// The splits, in order, each with its files.
    pub splits: Vec<SplitFiles>,
    /// Every file of the export but this one.
    pub files: Vec<OutputFile>,
    /// What became of every line.
    pub ledger: Ledger,
}

/// A shard of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// Path below the input folder.
    pub path: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// Lines.
    pub lines: u64,
    /// Lines in quarantine.
    pub rejected: u64,
}

/// A split.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitFiles {
    /// Its name.
    pub name: String,
    /// Documents.
    pub documents: u64,
    /// Paths of its files, in order.
    pub files: Vec<String>,
}

/// A file of the export.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Path below the output folder.
    pub path: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// Documents, for a file of a split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<u64>,
    /// SHA-256 of the bytes on disk, in hexadecimal.
    pub sha256: String,
}

/// Bytes in lower-case hexadecimal, as the manifest has hashes.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
