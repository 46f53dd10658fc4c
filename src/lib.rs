//! colophon: the last step of a training corpus.

pub mod domain;
pub mod scan;
