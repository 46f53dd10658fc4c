//! Exact counts of lengths, from which minimum, maximum and percentiles come.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Values below this have a counter each; longer ones are rare and live in a map. A document of
/// that many code points has at least as many bytes, so the map stays small beside the corpus.
const DENSE: usize = 1 << 16;

/// How often each value occurred. Exact; adding histograms gives the same as counting in any order.
/// Written as the values that occurred, each with its count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<(u64, u64)>", from = "Vec<(u64, u64)>")]
pub struct Histogram {
    dense: Vec<u64>,
    sparse: BTreeMap<u64, u64>,
    count: u64,
    sum: u128,
}

impl Histogram {
    /// Counts one value.
    pub fn add(&mut self, value: u64) {
        self.add_times(value, 1);
    }

    /// Counts a value so many times.
    fn add_times(&mut self, value: u64, times: u64) {
        self.count += times;
        self.sum += u128::from(value) * u128::from(times);
        match usize::try_from(value).ok().filter(|&v| v < DENSE) {
            Some(at) => {
                if at >= self.dense.len() {
                    self.dense.resize((at + 1).next_power_of_two(), 0);
                }
                self.dense[at] += times;
            }
            None => *self.sparse.entry(value).or_default() += times,
        }
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Histogram) {
        self.count += other.count;
        self.sum += other.sum;
        if other.dense.len() > self.dense.len() {
            self.dense.resize(other.dense.len(), 0);
        }
        for (mine, theirs) in self.dense.iter_mut().zip(&other.dense) {
            *mine += theirs;
        }
        for (&value, &times) in &other.sparse {
            *self.sparse.entry(value).or_default() += times;
        }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn sum(&self) -> u128 {
        self.sum
    }

    /// Each value that occurred with its count, from the smallest.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        let dense = self.dense.iter().enumerate().filter(|(_, n)| **n > 0).map(|(v, n)| (v as u64, *n));
        dense.chain(self.sparse.iter().map(|(v, n)| (*v, *n)))
    }

    /// The smallest value, if there is any.
    pub fn min(&self) -> Option<u64> {
        self.iter().next().map(|(value, _)| value)
    }

    /// The largest value, if there is any.
    pub fn max(&self) -> Option<u64> {
        let dense = || self.dense.iter().rposition(|n| *n > 0).map(|v| v as u64);
        self.sparse.keys().next_back().copied().or_else(dense)
    }

    /// The nearest-rank percentile: the smallest value that at least `percent` % of the values do
    /// not exceed.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = (u128::from(self.count) * u128::from(percent)).div_ceil(100).max(1);
        let mut seen = 0;
        self.iter()
            .find(|(_, times)| {
                seen += u128::from(*times);
                seen >= rank
            })
            .map(|(value, _)| value)
    }
}

impl From<Histogram> for Vec<(u64, u64)> {
    fn from(histogram: Histogram) -> Vec<(u64, u64)> {
        histogram.iter().collect()
    }
}

impl From<Vec<(u64, u64)>> for Histogram {
    fn from(counts: Vec<(u64, u64)>) -> Histogram {
        let mut histogram = Histogram::default();
        counts.into_iter().for_each(|(value, times)| histogram.add_times(value, times));
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank_percentiles() {
        let mut h = Histogram::default();
        assert_eq!((h.min(), h.max(), h.percentile(50)), (None, None, None));
        for v in [15, 20, 35, 40, 1_000_000] {
            h.add(v);
        }
        let percentiles = [1, 20, 30, 40, 50, 80, 81, 100].map(|p| h.percentile(p).expect("values"));
        assert_eq!(percentiles, [15, 15, 20, 20, 35, 40, 1_000_000, 1_000_000]);
        assert_eq!((h.min(), h.max(), h.sum()), (Some(15), Some(1_000_000), 1_000_110));
    }

    #[test]
    fn merging_is_counting() {
        let values = [0, 1, 65_535, 65_536, 7, 7, u64::MAX];
        let mut whole = Histogram::default();
        let (mut a, mut b) = (Histogram::default(), Histogram::default());
        for (i, v) in values.into_iter().enumerate() {
            whole.add(v);
            if i % 2 == 0 { a.add(v) } else { b.add(v) }
        }
        a.merge(&b);
        assert!(a.iter().eq(whole.iter()));
        assert_eq!((a.sum(), a.count()), (whole.sum(), whole.count()));
        let text = serde_json::to_string(&whole).expect("JSON");
        assert_eq!(serde_json::from_str::<Histogram>(&text).expect("a histogram"), whole);
    }
}
