//! What the scan keeps of each document.

use super::spill::{Buffer, Spill};
pub use crate::domain::leakage::Place;
use crate::domain::row::Row;
use crate::error::Result;
use bytemuck::{Pod, Zeroable};
use std::collections::HashMap;

/// The most different values that a field may have by which documents are balanced or stratified.
pub const MAX_VALUES: usize = 1 << 20;
/// Rows that are added together, if they come one by one.
const APPENDED: usize = 1 << 14;
/// Rows that are allocated together.
const SEGMENT: usize = 1 << 18;

/// A document that the filters admit. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct DocRow {
    /// XXH3-64 of the text.
    pub hash: u64,
    /// The hash that decides the split: the same, or that of `--split-key`.
    pub key: u64,
    /// Where the line starts, in bytes from its chunk's start.
    pub start: u32,
    /// Bytes of the line.
    pub len: u32,
    /// Code points of the text.
    pub chars: u32,
    /// Words of the text.
    pub words: u32,
    /// The value by which documents are balanced: an index into [`RowStore::values`].
    pub value: u32,
    /// The value within which splits are exact: an index into [`RowStore::strata`].
    pub stratum: u32,
}

impl DocRow {
    /// The row of a document, of whose values nothing is known yet.
    pub fn new(row: &Row, key: u64) -> DocRow {
        let Row { hash, start, len, chars, words, .. } = *row;
        DocRow { hash, key, start, len, chars, words, ..DocRow::default() }
    }
}

/// The rows of a chunk's documents, with the names of their values in the order of first occurrence.
#[derive(Debug, Default)]
pub struct ChunkRows {
    /// Index of the shard.
    pub shard: usize,
    /// Bytes (unpacked) of the shard before the chunk.
    pub offset: u64,
    /// The rows; their values are indices into the names here, if there are any.
    pub rows: Vec<DocRow>,
    /// Values by which documents are balanced.
    pub values: Names,
    /// Values within which splits are exact.
    pub strata: Names,
}

/// The different values of a field, numbered as they come.
#[derive(Debug, Default)]
pub struct Names {
    numbers: HashMap<Box<[u8]>, u32, foldhash::fast::RandomState>,
    names: Vec<Box<[u8]>>,
}

impl Names {
    /// The number of a value.
    pub fn number(&mut self, value: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(value.into(), number);
        self.names.push(value.into());
        number
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The values as text, by number.
    pub fn shown(&self) -> Vec<String> {
        self.names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }
}

/// Where a chunk's rows begin.
#[derive(Clone, Copy, Debug)]
struct ChunkPlace {
    first: u64,
    offset: u64,
    shard: usize,
}

/// All rows, in input order.
pub struct RowStore {
    spill: Spill,
    segments: Vec<Buffer<DocRow>>,
    len: usize,
    chunks: Vec<ChunkPlace>,
    /// Values by which documents are balanced.
    pub values: Names,
    /// Values within which splits are exact.
    pub strata: Names,
}

impl RowStore {
    /// No rows yet.
    pub fn new(spill: Spill) -> RowStore {
        let (values, strata) = (Names::default(), Names::default());
        RowStore { spill, segments: Vec::new(), len: 0, chunks: Vec::new(), values, strata }
    }

    /// Adds the rows of the next chunk; to be called for every chunk, also one without documents.
    ///
    /// # Errors
    /// If there is no room.
    pub fn push(&mut self, chunk: ChunkRows) -> Result<()> {
        let numbers = |names: &Names, of: &mut Names| names.names.iter().map(|n| of.number(n)).collect::<Vec<u32>>();
        let values = numbers(&chunk.values, &mut self.values);
        let strata = numbers(&chunk.strata, &mut self.strata);
        self.chunks.push(ChunkPlace { first: self.len as u64, offset: chunk.offset, shard: chunk.shard });
        for row in chunk.rows {
            if self.len == self.segments.len() * SEGMENT {
                self.segments.push(self.spill.zeros(SEGMENT)?);
            }
            // Without names the numbers stand for themselves.
            let value = values.get(row.value as usize).copied().unwrap_or(row.value);
            let stratum = strata.get(row.stratum as usize).copied().unwrap_or(row.stratum);
            self.segments[self.len / SEGMENT][self.len % SEGMENT] = DocRow { value, stratum, ..row };
            self.len += 1;
        }
        Ok(())
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A row.
    ///
    /// # Panics
    /// If there is none with this index.
    pub fn get(&self, index: usize) -> &DocRow {
        &self.segments[index / SEGMENT][index % SEGMENT]
    }

    /// The rows in pieces, each with the index of its first.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = (usize, &[DocRow])> {
        self.segments.iter().enumerate().map(|(i, segment)| {
            let first = i * SEGMENT;
            (first, &segment[..(self.len - first).min(SEGMENT)])
        })
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = &DocRow> {
        self.pieces().flat_map(|(_, rows)| rows)
    }

    /// Whether any of it lies in a file.
    pub fn is_spilled(&self) -> bool {
        self.segments.iter().any(Buffer::is_spilled)
    }

    /// The rows whose lines begin between two bytes (unpacked) of a shard.
    pub fn within(&self, shard: usize, bytes: std::ops::Range<u64>) -> Within<'_> {
        let [next, end] = [bytes.start, bytes.end].map(|offset| self.first_at(shard, offset));
        // The last chunk that begins at or before the row; those without rows begin where the next does.
        let chunk = self.chunks.partition_point(|chunk| chunk.first as usize <= next).saturating_sub(1);
        Within { rows: self, chunk, next, end }
    }

    /// The index of the first row that stands at a byte of a shard or behind it.
    fn first_at(&self, shard: usize, offset: u64) -> usize {
        let behind = self.chunks.partition_point(|chunk| (chunk.shard, chunk.offset) <= (shard, offset));
        let end = self.chunks.get(behind).map_or(self.len, |chunk| chunk.first as usize);
        let Some(chunk) = behind.checked_sub(1).map(|at| self.chunks[at]) else { return end };
        let (mut low, mut high) = (chunk.first as usize, end);
        // All rows of an earlier shard stand before the byte.
        while low < high {
            let middle = low + (high - low) / 2;
            let is_before = chunk.shard < shard || chunk.offset + u64::from(self.get(middle).start) < offset;
            (low, high) = if is_before { (middle + 1, high) } else { (low, middle) };
        }
        low
    }

    /// The indices of the rows of a shard.
    pub fn of_shard(&self, shard: usize) -> std::ops::Range<usize> {
        let first = |shard: usize| {
            let at = self.chunks.partition_point(|chunk| chunk.shard < shard);
            self.chunks.get(at).map_or(self.len, |chunk| chunk.first as usize)
        };
        first(shard)..first(shard + 1)
    }

    /// Where a document stands.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn place(&self, index: usize) -> Place {
        // The last chunk that begins at or before the row; those without rows begin where the next does.
        self.place_in(self.chunks.partition_point(|chunk| chunk.first as usize <= index) - 1, index)
    }

    /// Where a document stands that is in this chunk.
    fn place_in(&self, chunk: usize, index: usize) -> Place {
        let (chunk, row) = (self.chunks[chunk], self.get(index));
        let offset = chunk.offset + u64::from(row.start);
        Place { index: index as u64, shard: chunk.shard, offset, len: row.len as usize }
    }
}

/// Adds rows that come one by one, in input order, each with its place.
pub struct Appender<'a> {
    rows: &'a mut RowStore,
    chunk: ChunkRows,
}

impl<'a> Appender<'a> {
    /// Adds to these.
    pub fn new(rows: &'a mut RowStore) -> Appender<'a> {
        Appender { rows, chunk: ChunkRows::default() }
    }

    /// Adds a row of a document that stands so many bytes (unpacked) behind its shard's start.
    ///
    /// # Errors
    /// If there is no room.
    pub fn add(&mut self, shard: usize, offset: u64, row: DocRow) -> Result<()> {
        let start = offset.checked_sub(self.chunk.offset).and_then(|start| u32::try_from(start).ok());
        let is_near = shard == self.chunk.shard && (1..APPENDED).contains(&self.chunk.rows.len());
        let start = match start.filter(|_| is_near) {
            Some(start) => start,
            None => {
                self.push()?;
                (self.chunk.shard, self.chunk.offset) = (shard, offset);
                0
            }
        };
        self.chunk.rows.push(DocRow { start, ..row });
        Ok(())
    }

    /// Adds what is left.
    ///
    /// # Errors
    /// If there is no room.
    pub fn finish(mut self) -> Result<()> {
        self.push()
    }

    fn push(&mut self) -> Result<()> {
        let chunk = std::mem::take(&mut self.chunk);
        if chunk.rows.is_empty() { Ok(()) } else { self.rows.push(chunk) }
    }
}

/// Some rows that stand one behind the other, each with its place.
pub struct Within<'a> {
    rows: &'a RowStore,
    chunk: usize,
    next: usize,
    end: usize,
}

impl<'a> Iterator for Within<'a> {
    type Item = (Place, &'a DocRow);

    fn next(&mut self) -> Option<(Place, &'a DocRow)> {
        if self.next >= self.end {
            return None;
        }
        let chunks = &self.rows.chunks;
        while chunks.get(self.chunk + 1).is_some_and(|chunk| chunk.first as usize <= self.next) {
            self.chunk += 1;
        }
        let index = self.next;
        self.next += 1;
        Some((self.rows.place_in(self.chunk, index), self.rows.get(index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(shard: usize, offset: u64, names: &[&str]) -> ChunkRows {
        let mut chunk = ChunkRows { shard, offset, ..ChunkRows::default() };
        for (i, name) in names.iter().enumerate() {
            let value = chunk.values.number(name.as_bytes());
            chunk.rows.push(DocRow { start: 10 * i as u32, len: 9, value, ..DocRow::default() });
        }
        chunk
    }

    #[test]
    fn rows_are_found_by_place_and_places_by_row() {
        let folder = tempfile::tempdir().expect("folder");
        for limit in [0, u64::MAX] {
            let mut rows = RowStore::new(Spill::new(folder.path(), limit));
            for (shard, offset, names) in
                [(0, 3, &["a", "b"][..]), (0, 99, &[]), (1, 0, &["b"]), (1, 10, &["c", "a", "c"]), (2, 0, &[])]
            {
                rows.push(chunk(shard, offset, names)).expect("room");
            }
            assert_eq!(rows.is_spilled(), limit == 0);
            assert_eq!(rows.iter().map(|row| row.value).collect::<Vec<_>>(), [0, 1, 1, 2, 0, 2]);
            assert_eq!(rows.values.shown(), ["a", "b", "c"]);
            let within = |shard, bytes| rows.within(shard, bytes).map(|(place, _)| place.index).collect::<Vec<_>>();
            assert_eq!((within(0, 0..99), within(0, 3..13), within(0, 4..14)), (vec![0, 1], vec![0], vec![1]));
            assert_eq!((within(0, 14..99), within(0, 99..200), within(2, 0..9)), (vec![], vec![], vec![]));
            assert_eq!((within(1, 0..21), within(1, 1..u64::MAX)), (vec![2, 3, 4], vec![3, 4, 5]));
            for (place, row) in (0..3).flat_map(|shard| rows.within(shard, 0..u64::MAX)) {
                assert_eq!((place, row), (rows.place(place.index as usize), rows.get(place.index as usize)));
            }
            assert_eq!([0, 1, 2, 3].map(|shard| rows.of_shard(shard)), [0..2, 2..6, 6..6, 6..6]);
            assert_eq!(rows.place(1), Place { index: 1, shard: 0, offset: 13, len: 9 });
            assert_eq!(rows.place(2), Place { index: 2, shard: 1, offset: 0, len: 9 });
            assert_eq!(rows.place(5), Place { index: 5, shard: 1, offset: 30, len: 9 });
        }
    }

    #[test]
    fn rows_that_come_one_by_one_keep_their_places() {
        let folder = tempfile::tempdir().expect("folder");
        let mut rows = RowStore::new(Spill::new(folder.path(), u64::MAX));
        let far = u64::from(u32::MAX);
        let near = (0..APPENDED as u64 + 5).map(|i| (2, 3 * i));
        let places: Vec<(usize, u64)> = [(0, 7), (0, 8), (0, 8 + far), (0, 3 * far), (1, 3 * far), (1, 3 * far + 1)]
            .into_iter()
            .chain(near)
            .collect();
        let mut appender = Appender::new(&mut rows);
        for (i, (shard, offset)) in places.iter().enumerate() {
            appender.add(*shard, *offset, DocRow { hash: i as u64, ..DocRow::default() }).expect("room");
        }
        appender.finish().expect("room");
        let found = (0..rows.len()).map(|index| (rows.place(index), rows.get(index).hash));
        let found: Vec<_> = found.map(|(place, hash)| (place.index, hash, place.shard, place.offset)).collect();
        let expected = places.iter().enumerate().map(|(i, (shard, offset))| (i as u64, i as u64, *shard, *offset));
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_row_is_small() {
        assert_eq!(size_of::<DocRow>(), 40);
    }
}
