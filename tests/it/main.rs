//! All integration tests, one binary.

mod card;
mod corpus;
mod cuda;
mod emulated;
mod export;
mod faults;
mod harness;
mod hostile;
mod metrics;
mod options;
mod oracle;
mod plans;
mod reports;
mod scanners;
mod selection;
mod stopping;
#[cfg(all(feature = "s3", feature = "hub"))]
mod upload;
mod verify;
mod workers;
