//! The demo: a small corpus, made by the program, the same on every machine.

mod corpus;

use crate::error::{Context, Error, Result};
use std::fs;
use std::path::Path;

pub use corpus::{DemoFile, files};

/// The date of the demo's export, fixed so that its bytes are always the same.
pub const DATE: &str = "2024-01-15";
/// The stages' folders; these and `export` are all that a demo's folder may hold.
const FOLDERS: [&str; 7] = ["raw", "extracted", "exact-deduped", "fuzzy-deduped", "filtered", "classified", "export"];

/// Writes the six stages below a folder.
///
/// # Errors
/// If the folder holds anything but an earlier demo, or cannot be written.
pub fn write(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).context(folder, "make the folder")?;
    for entry in fs::read_dir(folder).context(folder, "read the folder")? {
        let entry = entry.context(folder, "read the folder")?;
        if !FOLDERS.iter().any(|name| entry.file_name() == *name)
            && !entry.file_name().as_encoded_bytes().starts_with(b".")
        {
            let name = crate::error::show(Path::new(&entry.file_name()));
            let folder = crate::error::show(folder);
            return Err(Error::Usage(format!(
                "{folder} holds '{name}', which is not the demo's: choose a new or empty folder"
            )));
        }
    }
    for file in files() {
        let path = folder.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).context(parent, "make the folder")?;
        }
        fs::write(&path, &file.bytes).context(&path, "write")?;
    }
    Ok(())
}
