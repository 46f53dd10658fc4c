//! The demo: a small corpus, made by the program, the same on every machine.

mod corpus;

use crate::error::{Context, Error, Result};
use std::fs;
use std::path::Path;

pub use corpus::{DemoFile, files};

/// The date of the demo's export, fixed so that its bytes are always the same.
pub const DATE: &str = "2024-01-15";
/// Marks a folder as a demo's, which the next demo may write over. The stages have the names that a
/// real pipeline's have, so names alone prove nothing.
const MARKER: &str = ".colophon-demo";

/// Writes the six stages below a folder.
///
/// # Errors
/// If the folder holds anything but an earlier demo, or cannot be written.
pub fn write(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).context(folder, "make the folder")?;
    let marker = folder.join(MARKER);
    let strangers = fs::read_dir(folder).context(folder, "read the folder")?;
    // The root of a new volume has a folder of its file system's own.
    let stranger = strangers
        .map(|entry| entry.map(|entry| entry.file_name()))
        .find(|name| !name.as_ref().is_ok_and(|name| name == "lost+found"));
    if let (Some(name), false) = (stranger, marker.exists()) {
        let name = crate::error::show(Path::new(&name.context(folder, "read the folder")?));
        let folder = crate::error::show(folder);
        return Err(Error::Usage(format!("{folder} holds '{name}' and is no earlier demo's: choose a new folder")));
    }
    fs::write(&marker, "This folder is written by colophon demo.\n").context(&marker, "write")?;
    for file in files() {
        let path = folder.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).context(parent, "make the folder")?;
        }
        fs::write(&path, &file.bytes).context(&path, "write")?;
    }
    Ok(())
}
