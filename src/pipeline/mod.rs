//! The commands that work on a corpus: each puts the stages together and runs them.

mod collect;
pub mod conclude;
pub mod engine;
pub mod export;
mod found;
pub mod inspect;
mod memory;
pub mod merge;
mod numbering;
mod parts;
pub mod plan;
mod scheduler;
pub mod stop;
mod texts;
pub mod upload;
pub mod verify;
pub mod worker;

pub use scheduler::{Counted, Progress};
