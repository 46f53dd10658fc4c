//! Splits with exact counts.
//!
//! Documents are ranked by hash; those of one hash are a group, which is never cut. Each stratum has
//! room in each split for its largest-remainder count.
//!
//! Groups of several documents go first, large ones before small ones, each to the split that its hash
//! falls to if there is room for all of it, else to the first that has it. Then single documents fill
//! what is left: in the order of their ranks the first split, the second, and so on. So where there are
//! single documents enough, as there nearly always are, every count is exact, however many groups
//! there are. Only a group larger than any room makes counts differ from what was asked; what it takes
//! too much is then missing in the other splits in proportion.

use super::order::{Entry, Ordered, index, key, value};
use crate::domain::apportion::largest_remainder;
use crate::domain::split::Splits;

/// Room that is left, by stratum and split.
struct Rooms<'a> {
    splits: &'a Splits,
    left: Vec<u64>,
    /// For each stratum, documents that have no split yet.
    waiting: Vec<u64>,
}

/// Gives each document its split: `assign` is called once for each, with its index and the split.
///
/// The entries have the hash that ranks as key and the stratum as value; `strata` are the documents of
/// each stratum.
pub fn assign(ordered: &Ordered, strata: &[u64], splits: &Splits, mut assign: impl FnMut(usize, usize)) {
    let mut rooms = Rooms::new(splits, strata);
    // By powers of two: a pass for each size that occurs takes no memory.
    let class = |group: &[Entry]| group.len().ilog2();
    let classes = ordered.groups().fold(0u64, |classes, group| classes | 1 << class(group));
    for size in (0..u64::BITS).rev().filter(|size| classes >> size & 1 == 1) {
        for group in ordered.groups().filter(|group| class(group) == size) {
            let split = if size > 0 { rooms.best_for(group) } else { rooms.first_for(group).unwrap_or(0) };
            rooms.put(group, split, &mut assign);
        }
    }
}

/// The documents of a group by stratum.
fn parts(group: &[Entry]) -> impl Iterator<Item = (usize, u64)> {
    group.chunk_by(|a, b| value(*a) == value(*b)).map(|part| (value(part[0]) as usize, part.len() as u64))
}

impl<'a> Rooms<'a> {
    fn new(splits: &'a Splits, strata: &[u64]) -> Rooms<'a> {
        let ratios: Vec<u64> = splits.ratios().iter().map(|ratio| ratio.units()).collect();
        let left: Vec<u64> = strata.iter().flat_map(|documents| largest_remainder(*documents, &ratios)).collect();
        Rooms { splits, left, waiting: strata.to_vec() }
    }

    fn count(&self) -> usize {
        self.splits.names().len()
    }

    /// By how many documents a group would exceed the room of a split.
    fn excess(&self, group: &[Entry], split: usize) -> u64 {
        parts(group).map(|(stratum, size)| size.saturating_sub(self.left[stratum * self.count() + split])).sum()
    }

    fn first_for(&self, group: &[Entry]) -> Option<usize> {
        (0..self.count()).find(|split| self.excess(group, *split) == 0)
    }

    /// The split that a group's hash falls to, if it fits there; else the first where it fits; else the
    /// one where it does least harm.
    fn best_for(&self, group: &[Entry]) -> usize {
        let by_hash = self.splits.of_hash(key(group[0]));
        if self.excess(group, by_hash) == 0 {
            return by_hash;
        }
        let ratio = |split: usize| self.splits.ratios()[split];
        let harm = |split: &usize| (self.excess(group, *split), std::cmp::Reverse(ratio(*split)), *split);
        self.first_for(group).or_else(|| (0..self.count()).min_by_key(harm)).unwrap_or(0)
    }

    fn put(&mut self, group: &[Entry], split: usize, assign: &mut impl FnMut(usize, usize)) {
        let count = self.count();
        for (stratum, size) in parts(group) {
            let rooms = &mut self.left[stratum * count..][..count];
            self.waiting[stratum] -= size;
            if size <= rooms[split] {
                rooms[split] -= size;
                continue;
            }
            // The split took too much, so the others have more room than there are documents: they get less.
            rooms[split] = 0;
            let less = largest_remainder(self.waiting[stratum], rooms);
            rooms.copy_from_slice(&less);
        }
        group.iter().for_each(|entry| assign(index(*entry), split));
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::{Means, entry, ordered};
    use super::super::rows::{ChunkRows, DocRow, RowStore};
    use super::super::spill::Spill;
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// The splits of documents given by hash and stratum.
    fn assigned(documents: &[(u64, u32)], splits: &Splits) -> Vec<usize> {
        let spill = Spill::new(&std::env::temp_dir(), u64::MAX);
        let mut rows = RowStore::new(spill.clone());
        let row = |&(key, stratum): &(u64, u32)| DocRow { key, stratum, ..DocRow::default() };
        rows.push(ChunkRows { rows: documents.iter().map(row).collect(), ..ChunkRows::default() }).expect("room");
        let means = Means { spill: &spill, threads: 1, check: &|| Ok(()) };
        let of = |i: usize, _: &DocRow| Some(entry(documents[i].0, documents[i].1, i));
        let ordered = ordered(&rows, &means, of).expect("room");
        let mut strata = vec![0; documents.iter().map(|d| d.1 as usize + 1).max().unwrap_or(0)];
        documents.iter().for_each(|d| strata[d.1 as usize] += 1);
        let mut found = vec![usize::MAX; documents.len()];
        assign(&ordered, &strata, splits, |index, split| {
            assert_eq!(std::mem::replace(&mut found[index], split), usize::MAX, "once each");
        });
        found
    }

    fn counts(found: &[usize], splits: usize) -> Vec<u64> {
        let mut counts = vec![0; splits];
        found.iter().for_each(|split| counts[*split] += 1);
        counts
    }

    fn seed_splits() -> Splits {
        Splits::parse("train,validation,test", "0.95,0.03,0.02").expect("valid")
    }

    /// Spreads small numbers over all hashes.
    fn mixed(n: u64) -> u64 {
        n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn copies_of_one_document_stay_together_and_the_rest_is_divided() {
        let splits = seed_splits();
        for (copies, others, expected) in [
            (10_000, 0, [10_000, 0, 0]),
            // 95 % of 10,100 are 9,595: the copies take more, and what is left has 303 : 202.
            (10_000, 100, [10_000, 60, 40]),
            // Here they fit.
            (10_000, 10_000, [19_000, 600, 400]),
        ] {
            let documents: Vec<(u64, u32)> =
                (0..copies).map(|_| (mixed(7), 0)).chain((0..others).map(|i| (mixed(i + 100), 0))).collect();
            let found = assigned(&documents, &splits);
            assert_eq!(counts(&found, 3), expected, "{copies} {others}");
            assert!(found[..copies as usize].iter().all(|split| *split == found[0]));
        }
    }

    #[test]
    fn without_copies_the_ranks_decide() {
        let documents: Vec<(u64, u32)> = (0..1000).map(|i| (mixed(i), 0)).collect();
        let found = assigned(&documents, &seed_splits());
        let mut by_rank: Vec<_> = documents.iter().zip(&found).map(|(d, split)| (d.0, *split)).collect();
        by_rank.sort_unstable();
        let expected = [vec![0; 950], vec![1; 30], vec![2; 20]].concat();
        assert_eq!(by_rank.into_iter().map(|(_, split)| split).collect::<Vec<_>>(), expected);
    }

    proptest! {
        /// Groups of up to four, in up to five strata, some in several of them.
        #[test]
        fn groups_stay_whole_and_counts_are_exact_where_they_can_be(
            groups in proptest::collection::vec((any::<u64>(), 1..5usize, 0..5u32, any::<bool>()), 0..80),
            singles in proptest::collection::vec((any::<u64>(), 0..5u32), 0..400),
        ) {
            let splits = seed_splits();
            let copies = groups.iter().flat_map(|&(hash, size, stratum, spans)| {
                (0..size).map(move |i| (hash, if spans { (stratum + i as u32) % 5 } else { stratum }))
            });
            let documents: Vec<(u64, u32)> = copies.chain(singles).collect();
            let found = assigned(&documents, &splits);
            let mut split_of = HashMap::new();
            for ((hash, _), split) in documents.iter().zip(&found) {
                prop_assert_eq!(split_of.entry(hash).or_insert(split), &split);
            }
            let ratios: Vec<u64> = splits.ratios().iter().map(|r| r.units()).collect();
            let within = |stratum: u32| documents.iter().zip(&found).filter(move |(d, _)| d.1 == stratum);
            let due = |stratum: u32| largest_remainder(within(stratum).count() as u64, &ratios);
            let is_grouped = |hash: u64| documents.iter().filter(|d| d.0 == hash).count() > 1;
            let grouped = |stratum: u32| within(stratum).filter(|(d, _)| is_grouped(d.0)).count() as u64;
            // Then each group finds room in the first split at least.
            if (0..5).all(|stratum| grouped(stratum) <= due(stratum)[0]) {
                for stratum in 0..5 {
                    let splits: Vec<usize> = within(stratum).map(|(_, split)| *split).collect();
                    prop_assert_eq!(counts(&splits, 3), due(stratum));
                }
            }
        }

        #[test]
        fn single_documents_have_exact_counts_in_every_stratum(
            documents in proptest::collection::hash_map(any::<u64>(), 0..4u32, 0..500),
        ) {
            let documents: Vec<(u64, u32)> = documents.into_iter().collect();
            let splits = Splits::parse("a,b,c,d", "0.5,0.25,0,0.25").expect("valid");
            let found = assigned(&documents, &splits);
            let ratios: Vec<u64> = splits.ratios().iter().map(|r| r.units()).collect();
            for stratum in 0..4 {
                let within: Vec<usize> =
                    documents.iter().zip(&found).filter(|(d, _)| d.1 == stratum).map(|(_, split)| *split).collect();
                prop_assert_eq!(counts(&within, 4), largest_remainder(within.len() as u64, &ratios));
            }
        }
    }
}
