//! SIGINT and SIGTERM: a polite request, answered between two chunks.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether, and by which signal, the run was asked to stop.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Listens to SIGINT and SIGTERM.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn on_signals() -> Result<Stop> {
        let stop = Stop::default();
        for signal in [libc::SIGINT, libc::SIGTERM] {
            let registered = signal_hook::flag::register_usize(signal, Arc::clone(&stop.0), signal as usize);
            registered.map_err(|error| Error::Environment {
                subject: "signals".into(),
                cause: format!("could not listen: {error}"),
                remedy: String::new(),
            })?;
        }
        Ok(stop)
    }

    /// An error if the run was asked to stop.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn check(&self) -> Result<()> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Error::Stopped(signal as i32)),
        }
    }
}
