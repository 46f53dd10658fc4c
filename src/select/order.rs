//! Putting documents into an order, on all cores and in place.

use super::rows::{DocRow, RowStore};
use super::spill::{Buffer, Spill};
use crate::error::{Error, Result};

/// Bits of an entry for a document's index: more than 17 million million documents.
const INDEX_BITS: u32 = 44;
/// Slices below this are not worth a thread.
const SERIAL: usize = 1 << 16;

/// A document in an order: a key, a value of a field, and the document's index, by which entries are
/// compared in this order.
pub type Entry = u128;

/// Puts an entry together. `value` is below [`MAX_VALUES`](super::rows::MAX_VALUES).
pub fn entry(key: u64, value: u32, index: usize) -> Entry {
    u128::from(key) << 64 | u128::from(value) << INDEX_BITS | index as u128
}

/// The key of an entry.
pub fn key(entry: Entry) -> u64 {
    (entry >> 64) as u64
}

/// The value of an entry.
pub fn value(entry: Entry) -> u32 {
    (entry as u64 >> INDEX_BITS) as u32
}

/// The index of an entry's document.
pub fn index(entry: Entry) -> usize {
    (entry as u64 & ((1 << INDEX_BITS) - 1)) as usize
}

/// How to work: where large arrays go, with how many threads, and whether to go on.
pub struct Means<'a> {
    /// Where large arrays go.
    pub spill: &'a Spill,
    /// Worker threads.
    pub threads: usize,
    /// Asked every now and then; an error ends the work.
    pub check: &'a (dyn Fn() -> Result<()> + Sync),
}

/// Entries of some of the documents, in order.
pub struct Ordered {
    buffer: Buffer<Entry>,
    len: usize,
}

impl Ordered {
    /// The entries.
    pub fn entries(&self) -> &[Entry] {
        &self.buffer[..self.len]
    }

    /// Puts entries of one key into the order of their documents' hashes, so that values and indices, which
    /// depend on the order of the input, decide between equal texts alone.
    pub fn order_ties_by_hash(&mut self, rows: &RowStore) {
        for tied in self.buffer[..self.len].chunk_by_mut(|a, b| key(*a) == key(*b)) {
            if tied.len() > 1 {
                tied.sort_unstable_by_key(|entry| (rows.get(index(*entry)).hash, *entry));
            }
        }
    }

    /// The entries of each key, in order.
    pub fn groups(&self) -> impl Iterator<Item = &[Entry]> {
        self.entries().chunk_by(|a, b| key(*a) == key(*b))
    }
}

/// The entries that `of` makes of the documents (of those for which it makes any), in order.
///
/// # Errors
/// If there is no room, or the work is to end.
///
/// # Panics
/// If there are more documents than an entry can tell apart.
pub fn ordered(
    rows: &RowStore,
    means: &Means<'_>,
    of: impl Fn(usize, &DocRow) -> Option<Entry> + Sync,
) -> Result<Ordered> {
    let mut entries = collected(rows, means, of)?;
    let Ordered { buffer, len } = &mut entries;
    sort(&mut buffer[..*len], means.threads, means)?;
    Ok(entries)
}

/// All but the `first` of the entries that `of` makes of the documents, in any order. Which those are is
/// decided by their keys and, where these are equal, by their documents' hashes, then by indices.
///
/// # Errors
/// As [`ordered`].
///
/// # Panics
/// As [`ordered`].
pub fn all_but(
    first: usize,
    rows: &RowStore,
    means: &Means<'_>,
    of: impl Fn(usize, &DocRow) -> Option<Entry> + Sync,
) -> Result<Ordered> {
    let Ordered { mut buffer, len } = collected(rows, means, of)?;
    let first = first.min(len);
    let rank = |entry: &Entry| (key(*entry), rows.get(index(*entry)).hash, *entry);
    if first < len {
        // The hash is looked at only where the keys are equal: it lies elsewhere in memory.
        let by_rank = |a: &Entry, b: &Entry| key(*a).cmp(&key(*b)).then_with(|| rank(a).cmp(&rank(b)));
        buffer[..len].select_nth_unstable_by(first, by_rank);
    }
    buffer.copy_within(first..len, 0);
    Ok(Ordered { buffer, len: len - first })
}

/// The entries in the order of the documents.
fn collected(
    rows: &RowStore,
    means: &Means<'_>,
    of: impl Fn(usize, &DocRow) -> Option<Entry> + Sync,
) -> Result<Ordered> {
    assert!(rows.len() < 1 << INDEX_BITS, "no machine holds so many rows");
    let mut buffer = means.spill.zeros::<Entry>(rows.len())?;
    let len = fill(rows, means, &mut buffer, of)?;
    (means.check)()?;
    Ok(Ordered { buffer, len })
}

/// Some of the rows, with the place for their entries.
struct Part<'a> {
    first: usize,
    rows: &'a [DocRow],
    to: &'a mut [Entry],
}

/// Fills the buffer part by part; then closes the gaps.
fn fill(
    rows: &RowStore,
    means: &Means<'_>,
    buffer: &mut [Entry],
    of: impl Fn(usize, &DocRow) -> Option<Entry> + Sync,
) -> Result<usize> {
    let mut parts = Vec::new();
    let mut rest = &mut *buffer;
    for (first, rows) in rows.pieces() {
        let (to, behind) = rest.split_at_mut(rows.len());
        rest = behind;
        parts.push(Part { first, rows, to });
    }
    let firsts: Vec<usize> = parts.iter().map(|part| part.first).collect();
    let fill_part = |part: Part<'_>| -> Result<usize> {
        (means.check)()?;
        let entries = part.rows.iter().enumerate().filter_map(|(i, row)| of(part.first + i, row));
        Ok(part.to.iter_mut().zip(entries).map(|(to, entry)| *to = entry).count())
    };
    let counts = in_parallel(parts, means.threads, fill_part)?;
    let mut len = 0;
    for (first, count) in firsts.into_iter().zip(counts) {
        if first != len {
            buffer.copy_within(first..first + count, len);
        }
        len += count;
    }
    Ok(len)
}

/// Does something with each item; the results are in the order of the items.
///
/// # Errors
/// One of the failures, if there is any.
pub fn in_parallel<I: Send, O: Send>(
    items: Vec<I>,
    threads: usize,
    work: impl Fn(I) -> Result<O> + Sync,
) -> Result<Vec<O>> {
    if threads <= 1 || items.len() <= 1 {
        return items.into_iter().map(work).collect();
    }
    let queue = std::sync::Mutex::new(items.into_iter().enumerate());
    let worker = || -> Result<Vec<(usize, O)>> {
        let mut done = Vec::new();
        loop {
            let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            let Some((i, item)) = next else { return Ok(done) };
            done.push((i, work(item)?));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut done = Vec::new();
        for worker in workers {
            done.append(&mut worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<_, Error>(done)
    })?;
    done.sort_unstable_by_key(|(i, _)| *i);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

/// Sorts in place: a selection of the middle parts the slice in two, which two halves of the threads sort.
fn sort(entries: &mut [Entry], threads: usize, means: &Means<'_>) -> Result<()> {
    (means.check)()?;
    if threads <= 1 || entries.len() < SERIAL {
        entries.sort_unstable();
        return Ok(());
    }
    let middle = entries.len() * (threads / 2) / threads;
    let (before, _, after) = entries.select_nth_unstable(middle);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| sort(before, threads / 2, means));
        let second = sort(after, threads - threads / 2, means);
        let first = first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        first.and(second)
    })
}

#[cfg(test)]
mod tests {
    use super::super::rows::ChunkRows;
    use super::*;

    fn store(count: usize, limit: u64) -> RowStore {
        let mut rows = RowStore::new(Spill::new(&std::env::temp_dir(), limit));
        let row =
            |i: usize| DocRow { hash: (i as u64 % 1000).wrapping_mul(0x9e37_79b9_7f4a_7c15), ..DocRow::default() };
        rows.push(ChunkRows { rows: (0..count).map(row).collect(), ..ChunkRows::default() }).expect("room");
        rows
    }

    #[test]
    fn entries_keep_what_they_are_made_of() {
        let made = entry(u64::MAX - 1, (1 << 20) - 1, (1 << 44) - 1);
        assert_eq!((key(made), value(made), index(made)), (u64::MAX - 1, (1 << 20) - 1, (1 << 44) - 1));
    }

    #[test]
    fn the_order_is_the_same_for_any_threads_and_memory() {
        // Three segments, the last not full.
        let count = (1 << 19) + 12_345;
        let made = |i: usize, row: &DocRow| (!i.is_multiple_of(3)).then(|| entry(row.hash, 0, i));
        let rows = store(count, u64::MAX);
        let mut expected: Vec<Entry> = rows.iter().enumerate().filter_map(|(i, row)| made(i, row)).collect();
        expected.sort_unstable();
        for (threads, limit) in [(1, u64::MAX), (2, 0), (7, u64::MAX)] {
            let rows = store(count, limit);
            let spill = Spill::new(&std::env::temp_dir(), limit);
            let means = Means { spill: &spill, threads, check: &|| Ok(()) };
            assert!(ordered(&rows, &means, made).expect("room").entries() == expected, "{threads} threads");
        }
    }

    /// Different texts may draw the same number; then neither place in the input nor value decides.
    #[test]
    fn of_equal_keys_the_hash_decides() {
        let rows = store(1000, u64::MAX);
        let spill = Spill::new(&std::env::temp_dir(), u64::MAX);
        let means = Means { spill: &spill, threads: 1, check: &|| Ok(()) };
        let of = |i: usize, row: &DocRow| Some(entry(row.hash % 2, (i % 7) as u32, i));
        let hashes = |entries: &[Entry]| entries.iter().map(|e| rows.get(index(*e)).hash).collect::<Vec<_>>();
        let mut picks = ordered(&rows, &means, of).expect("room");
        picks.order_ties_by_hash(&rows);
        let mut expected: Vec<u64> = rows.iter().map(|row| row.hash).collect();
        expected.sort_by_key(|hash| (hash % 2, *hash));
        assert_eq!(hashes(picks.entries()), expected);
        let mut rest = hashes(all_but(300, &rows, &means, of).expect("room").entries());
        rest.sort_by_key(|hash| (hash % 2, *hash));
        assert_eq!(rest, expected[300..]);
        assert!(all_but(1000, &rows, &means, of).expect("room").entries().is_empty());
    }

    #[test]
    fn a_request_to_stop_ends_the_work() {
        let rows = store(10, u64::MAX);
        let spill = Spill::new(&std::env::temp_dir(), u64::MAX);
        let means = Means { spill: &spill, threads: 2, check: &|| Err(Error::Stopped(15)) };
        let stopped = ordered(&rows, &means, |i, _| Some(entry(0, 0, i)));
        assert_eq!(stopped.err().expect("stopped").status(), 143);
    }
}
