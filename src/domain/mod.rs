//! The words of the program: rows, reasons, schemas, splits, statistics, the ledger, the manifest.
//!
//! Everything here is pure: no files, no threads, no clocks. Whatever must come out the same on
//! every machine is decided with integers.

pub mod about;
pub mod apportion;
pub mod balance;
pub mod chance;
pub mod decimal;
pub mod filter;
pub mod histogram;
pub mod leakage;
pub mod ledger;
pub mod manifest;
pub mod origin;
pub mod part;
pub mod planned;
pub mod reason;
pub mod row;
pub mod schema;
pub mod selection;
pub mod share;
pub mod split;
pub mod stats;
pub mod sum;
pub mod whitespace;
