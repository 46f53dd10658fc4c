//! The commands that read a corpus: each puts the stages together and runs them on all cores.

mod collect;
pub mod engine;
pub mod export;
pub mod inspect;
mod memory;
mod numbering;
pub mod plan;
mod scheduler;
pub mod stop;
mod texts;
pub mod verify;

pub use scheduler::Progress;
