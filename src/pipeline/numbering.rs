//! The numbers of lines in their shards, for what is found in chunks.

/// Counts the lines of each shard, chunk by chunk in input order.
#[derive(Debug, Default)]
pub struct LineNumbers {
    shard: usize,
    counted: u64,
}

impl LineNumbers {
    /// How many lines of its shard stand before a chunk, which has so many itself.
    pub fn before(&mut self, shard: usize, lines: u64) -> u64 {
        if self.shard != shard {
            *self = LineNumbers { shard, counted: 0 };
        }
        let before = self.counted;
        self.counted += lines;
        before
    }
}
