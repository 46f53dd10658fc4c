//! The commands that work on a corpus: each puts the stages together and runs them.

mod collect;
pub mod engine;
pub mod export;
pub mod inspect;
mod memory;
pub mod plan;
mod scheduler;
pub mod stop;
mod texts;
pub mod upload;
pub mod verify;

pub use scheduler::{Counted, Progress};
