//! The commands that read a corpus: each puts the stages together and runs them on all cores.

pub mod engine;
pub mod export;
pub mod inspect;
mod scheduler;
pub mod stop;

pub use scheduler::Progress;
