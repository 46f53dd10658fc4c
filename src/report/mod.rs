//! What people and machines get to read.

pub mod devices;
pub mod plan;
pub mod progress;
pub mod summary;
pub mod text;
