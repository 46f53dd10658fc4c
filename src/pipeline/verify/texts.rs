//! Texts that stand in two splits.
//!
//! Equal hashes are found first, over sorted lists of eight bytes a document. What they point at is read again and
//! compared by SHA-256, so that two texts that only hash alike are not taken for one.

use super::files::Files;
use super::recount::{Recount, shards};
use super::{Problems, Verification};
use crate::domain::origin::decoded;
use crate::domain::row::{Rows, Verdict};
use crate::error::{Result, show};
use crate::input::{Chunk, Cutter, Shard};
use crate::pipeline::numbering::LineNumbers;
use crate::pipeline::scheduler::{self, Work};
use crate::scan::ScanJob;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// A text's SHA-256.
type Text = [u8; 32];

/// What was found.
#[derive(Default)]
pub struct Leakage {
    /// Texts that stand in more than one split.
    pub texts: u64,
    /// Where.
    pub problems: Problems,
}

/// Finds the texts that stand in more than one split.
///
/// # Errors
/// If the files cannot be read.
pub fn in_two_splits(of: &Verification, files: &Files, recount: &Recount) -> Result<Leakage> {
    let suspects = shared(&recount.hashes);
    if suspects.is_empty() {
        return Ok(Leakage::default());
    }
    // By text, the first place in each split.
    let mut places: BTreeMap<Text, BTreeMap<usize, String>> = BTreeMap::new();
    for (split, listed) in of.manifest.splits.iter().enumerate() {
        let Some(shards) = shards(listed, files) else { continue };
        let work = Compare { recount, shards: &shards, suspects: &suspects, ordered: Mutex::default() };
        let cutter = Cutter::new(Arc::clone(&shards), of.run.chunk_size);
        scheduler::run(&work, cutter, of.engine, of.run.threads, of.stop)?;
        let found = work.ordered.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (text, place) in found.texts {
            places.entry(text).or_default().entry(split).or_insert(place);
        }
    }
    let mut leakage = Leakage::default();
    let mut shared: Vec<_> = places.into_values().filter(|splits| splits.len() > 1).collect();
    shared.sort();
    for splits in shared {
        leakage.texts += 1;
        let places: Vec<_> = splits.into_values().collect();
        leakage.problems.add(format!("one text: {}", places.join("; ")));
    }
    Ok(leakage)
}

/// Hashes that occur in more than one of the sorted lists.
fn shared(splits: &[Vec<u64>]) -> HashSet<u64> {
    let mut by_length: Vec<_> = splits.iter().collect();
    by_length.sort_by_key(|split| split.len());
    let mut shared = HashSet::new();
    for (i, few) in by_length.iter().enumerate() {
        for many in &by_length[i + 1..] {
            shared.extend(few.iter().filter(|hash| many.binary_search(hash).is_ok()));
        }
    }
    shared
}

struct Compare<'a> {
    recount: &'a Recount,
    shards: &'a [Shard],
    suspects: &'a HashSet<u64>,
    ordered: Mutex<Found>,
}

/// What was found, in input order.
#[derive(Default)]
struct Found {
    numbers: LineNumbers,
    /// Texts with their places.
    texts: Vec<(Text, String)>,
}

struct Done {
    shard: usize,
    lines: u64,
    texts: Vec<(u64, Text)>,
}

impl Work for Compare<'_> {
    type Local = ();
    type Done = Done;

    fn local(&self) {}

    fn job(&self) -> ScanJob<'_> {
        ScanJob { schema: &self.recount.schema, seed: 0, hash: true }
    }

    fn process(&self, (): &mut (), chunk: Chunk, rows: &Rows) -> Result<Done> {
        let mut done = Done { shard: chunk.shard, lines: rows.rows.len().max(1) as u64, texts: Vec::new() };
        for (number, (row, spans)) in rows.iter().enumerate() {
            if row.verdict() == Verdict::Document && self.suspects.contains(&row.hash) {
                let text = decoded(spans[self.recount.schema.text_source()].of(row.line(&chunk)));
                done.texts.push((number as u64, Sha256::digest(text).into()));
            }
        }
        chunk.check()?;
        Ok(done)
    }

    fn commit(&self, done: Done) -> Result<()> {
        let found = &mut *self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        let before = found.numbers.before(done.shard, done.lines);
        let file = show(&self.shards[done.shard].name);
        let place = |line: u64| format!("{file}, line {}", before + line + 1);
        found.texts.extend(done.texts.into_iter().map(|(line, text)| (text, place(line))));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::shared;
    use std::collections::HashSet;

    #[test]
    fn hashes_of_two_lists() {
        assert_eq!(shared(&[vec![1, 2, 2, 3], vec![2, 5], vec![], vec![3, 5]]), HashSet::from([2, 3, 5]));
        assert_eq!(shared(&[vec![1, 1, 2]]), HashSet::new());
    }
}
