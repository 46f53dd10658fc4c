//! The input as it was when a run began: what several runs have to agree on, and what must not change meanwhile.

use crate::domain::manifest::hex;
use crate::domain::part::FoundShard;
use crate::error::{Context, Result, show};
use crate::input::{Shard, Stamp};
use sha2::{Digest, Sha256};
use std::io;
use std::path::Path;

/// The shards of an input, each with what it was known by.
pub struct Found {
    /// The shards, in order.
    pub shards: Vec<FoundShard>,
    stamps: Vec<Stamp>,
}

impl Found {
    /// The shards as they are now.
    ///
    /// # Errors
    /// If one is not the size any more with which it was found.
    pub fn of(shards: &[Shard]) -> Result<Found> {
        let stamps = shards.iter().map(Stamp::of_shard).collect::<Result<Vec<_>>>()?;
        let found = |(shard, stamp): (&Shard, &Stamp)| FoundShard {
            path: show(&shard.name),
            bytes: stamp.bytes(),
            changed: stamp.changed(),
        };
        Ok(Found { shards: shards.iter().zip(&stamps).map(found).collect(), stamps })
    }

    /// Fails if a shard is not any more what it was.
    ///
    /// # Errors
    /// [`Error::Environment`](crate::error::Error::Environment), naming the shard.
    pub fn check(&self, shards: &[Shard]) -> Result<()> {
        shards.iter().zip(&self.stamps).try_for_each(|(shard, stamp)| stamp.check(&shard.path))
    }

    /// The list as it lies in a part, and its SHA-256 in hexadecimal. `output` is named if that fails.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn list(&self, output: &Path) -> Result<(Vec<u8>, String)> {
        let list = serde_json::to_vec(&self.shards).map_err(io::Error::from).context(output, "list the input")?;
        let digest = hex(&Sha256::digest(&list));
        Ok((list, digest))
    }
}
