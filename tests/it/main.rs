//! All integration tests, one binary.

mod hostile;
mod scanners;
