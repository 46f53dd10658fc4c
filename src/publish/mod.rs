//! Puts a verified export where others can read it.
//!
//! What every target shares is here: which bytes go up ([`content`]), where to ([`target`]), when to try again
//! ([`retry`]), and what came of it ([`receipt`]). Each target has a module of its own and a feature of its name.

#[cfg(any(feature = "s3", feature = "hub"))]
pub mod address;
pub mod content;
pub mod discreet;
#[cfg(feature = "hub")]
pub mod hub;
pub mod options;
pub mod receipt;
pub mod retry;
#[cfg(any(feature = "s3", feature = "hub"))]
pub mod runtime;
#[cfg(feature = "s3")]
pub mod s3;
pub mod target;

use crate::error::Result;

/// What an upload needs from whoever runs it.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    /// Is told of bytes that have arrived.
    pub sent: &'a (dyn Fn(u64) + Sync),
    /// Is told of a file that is done with.
    pub done: &'a (dyn Fn() + Sync),
    /// Fails when the run was asked to stop.
    pub stop: &'a (dyn Fn() -> Result<()> + Sync),
}
