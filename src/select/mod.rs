//! Selection by plan: what needs the whole corpus.
//!
//! The scan leaves a [`DocRow`](rows::DocRow) of 40 bytes for each document that the filters admit; the plan
//! decides from the rows alone; the write follows the decisions, which stand in the order of the rows,
//! that is, of the input. Rows, decisions and what is sorted lie in memory up to a limit and in
//! unlinked temporary files beyond it ([`spill`]).
//!
//! Everything is decided by hashes, never by the order of the input (except which of several equal
//! texts is the first), so the plan is the same for any order of the shards.

pub mod exact;
pub mod order;
pub mod plan;
pub mod rows;
pub mod spill;
