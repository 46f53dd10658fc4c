//! The asynchronous runtime, which lives while an upload does and nowhere else.

use super::Host;
use crate::error::{Error, Result};
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

/// How often it is asked whether the run is to stop.
const GLANCE: Duration = Duration::from_millis(50);
/// How long what is left to do after a stop or a failure may take.
pub const GRACE: Duration = Duration::from_secs(3);
/// Threads that do the work; what they wait for is the network.
const THREADS: usize = 2;

/// Runs `work` to its end, or until the run is asked to stop; `work` is then dropped where it waits.
///
/// # Errors
/// What `work` gives; [`Error::Stopped`]; if the operating system has no threads.
pub fn run<T>(host: Host<'_>, work: impl Future<Output = Result<T>>) -> Result<T> {
    run_to_end(stoppable(host, work))
}

/// Runs `work` to its end, which must come soon after the run was asked to stop; what of it can wait for the network
/// has to be [`stoppable`].
///
/// # Errors
/// What `work` gives; if the operating system has no threads.
pub fn run_to_end<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = runtime.map_err(|error| Error::Environment {
        subject: "threads".into(),
        cause: format!("could not start the network's: {error}"),
        remedy: "check the limits of this process".into(),
    })?;
    let result = runtime.block_on(work);
    // A name that is being looked up cannot be called off; nobody waits for it.
    runtime.shutdown_background();
    result
}

/// Runs `work`, unless the run is asked to stop before its end.
///
/// # Errors
/// What `work` gives; [`Error::Stopped`].
pub async fn stoppable<T>(host: Host<'_>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = pin!(work);
    loop {
        (host.stop)()?;
        if let Ok(result) = tokio::time::timeout(GLANCE, work.as_mut()).await {
            return result;
        }
    }
}
