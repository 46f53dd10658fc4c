//! Putting the export together: lines, split files, quarantine, and the stage from which all of it
//! appears at once.

pub mod line;
pub mod output;
pub mod part;
pub mod place;
pub mod plan_file;
pub mod quarantine;
pub mod stage;
