//! What can end a run early, and the exit status that says so.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Everything that ends a command without its result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data failed a gate: a retry gives the same. Status 1.
    #[error("{0}")]
    Gate(String),
    /// Wrong usage or configuration: a retry gives the same. Status 2.
    #[error("{0}")]
    Usage(String),
    /// The environment failed (I/O, device, network): a retry may help. Status 3.
    #[error("{subject}: {cause}{}", remedy_part(.remedy))]
    Environment {
        /// The file, device or service.
        subject: String,
        /// What happened to it.
        cause: String,
        /// What to do about it; may be empty.
        remedy: String,
    },
    /// A signal asked to stop. Status 128 + its number.
    #[error("stopped by {}; nothing half-done can be taken for whole", signal_name(*.0))]
    Stopped(i32),
}

fn remedy_part(remedy: &str) -> String {
    if remedy.is_empty() { String::new() } else { format!(" ({remedy})") }
}

fn signal_name(signal: i32) -> &'static str {
    if signal == libc::SIGINT { "SIGINT" } else { "SIGTERM" }
}

/// A result of anything that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An I/O operation on a path that failed. `doing` completes "could not …".
    pub fn io(path: &Path, doing: &str, error: &io::Error) -> Error {
        Error::Environment {
            subject: show(path),
            cause: format!("could not {doing}: {}", plain(error)),
            remedy: remedy(error).into(),
        }
    }

    /// Something about a path, with what to do.
    pub fn environment(path: &Path, cause: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Environment { subject: show(path), cause: cause.into(), remedy: remedy.into() }
    }

    /// The exit status, part of the program's interface: Jobs decide by it whether to retry.
    pub fn status(&self) -> u8 {
        match self {
            Error::Gate(_) => 1,
            Error::Usage(_) => 2,
            Error::Environment { .. } => 3,
            // SIGINT is 2, SIGTERM 15: 130 and 143.
            Error::Stopped(signal) => 128 + *signal as u8,
        }
    }
}

/// The operating system's words without the number that std appends.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "check who may read and write there",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space and run again",
        io::ErrorKind::ReadOnlyFilesystem => "choose a folder that can be written",
        _ => "",
    }
}

/// A path for people and for JSON: bytes that are not UTF-8, control characters and backslashes as
/// `\xNN`, so that no two paths look the same and none does something to a terminal.
pub fn show(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().utf8_chunks().fold(String::new(), |mut shown, chunk| {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                let mut bytes = [0; 4];
                shown.extend(c.encode_utf8(&mut bytes).bytes().map(escaped));
            } else {
                shown.push(c);
            }
        }
        shown.extend(chunk.invalid().iter().copied().map(escaped));
        shown
    })
}

/// The path that [`show`] made this of; `None` if it made it of none.
pub fn unshow(shown: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut parts = shown.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.strip_prefix('x')?.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(OsString::from_vec(bytes).into())
}

fn escaped(byte: u8) -> String {
    format!("\\x{byte:02X}")
}

/// Adds the path and the intention to I/O errors.
pub trait Context<T> {
    /// `doing` completes "could not …".
    ///
    /// # Errors
    /// The same failure, as [`Error::Environment`].
    fn context(self, path: &Path, doing: &str) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, path: &Path, doing: &str) -> Result<T> {
        self.map_err(|error| Error::io(path, doing, &error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_shown_path_leads_back() {
        for bytes in [&b"a/b.jsonl"[..], b"\xFF\xFEx", "ü\n\\x41".as_bytes(), b"", b"\\"] {
            let path = Path::new(OsStr::from_bytes(bytes));
            assert_eq!(unshow(&show(path)).as_deref(), Some(path));
        }
        for bad in ["a\\", "\\x4", "\\y41", "\\xG0", "\\xü"] {
            assert_eq!(unshow(bad), None, "{bad}");
        }
    }
}
