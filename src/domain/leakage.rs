//! Equal texts in different splits.

use serde::{Deserialize, Serialize};

/// Where a document stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its place among the documents that the filters admit, in input order.
    pub index: u64,
    /// Index of the shard.
    pub shard: usize,
    /// Bytes (unpacked) of the shard before the line.
    pub offset: u64,
    /// Bytes of the line.
    pub len: usize,
}

/// Equal texts in different splits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leakage {
    /// How many different texts stand in more than one split.
    pub texts: u64,
    /// Two documents with the first of them, each with its split.
    pub example: Option<[(Place, usize); 2]>,
}
