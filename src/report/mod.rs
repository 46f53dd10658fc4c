//! What people and machines get to read.

pub mod card;
pub mod croissant;
pub mod dataset;
pub mod devices;
mod markdown;
pub mod plan;
mod plot;
pub mod progress;
mod recipe;
pub mod summary;
pub mod text;
pub mod upload;
mod yaml;
