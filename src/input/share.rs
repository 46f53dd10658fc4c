//! Cutting the input into shares: what of each shard is one worker's.
//!
//! Shards lie behind one another on a line of bytes (as they are on disk), which is cut into equal shares. A line
//! belongs to the share in which it begins. A packed shard, into which nobody can jump, is one piece, and belongs
//! to the share in which its middle lies; so a share has at most the size of the largest packed shard more
//! than its due.

use super::discover::{Encoding, Shard};
use crate::domain::share::Share;
use std::ops::Range;

/// A part of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the shard.
    pub shard: usize,
    /// Bytes of the file. The piece has the lines that begin there; of a packed shard it is all or nothing.
    pub range: Range<u64>,
}

/// All of every shard.
pub fn whole(shards: &[Shard]) -> Vec<Piece> {
    shards.iter().enumerate().map(|(shard, of)| Piece { shard, range: 0..of.bytes }).collect()
}

/// What a share has of the shards, in order.
pub fn pieces(shards: &[Shard], share: Share) -> Vec<Piece> {
    let (from, to) = share.range(shards.iter().map(|shard| shard.bytes).sum());
    let mut pieces = Vec::new();
    let mut before = 0;
    for (index, shard) in shards.iter().enumerate() {
        // Within the shard; an open end is behind everything.
        let start = from.saturating_sub(before);
        let end = to.map_or(u64::MAX, |to| to.saturating_sub(before));
        let range = match shard.encoding {
            // An empty shard has no lines, and is nobody's.
            Encoding::Plain => start.min(shard.bytes)..end.min(shard.bytes),
            Encoding::Gzip | Encoding::Zstd => {
                let middle = before + shard.bytes / 2;
                let is_ours = from <= middle && to.is_none_or(|to| middle < to);
                0..if is_ours { shard.bytes } else { 0 }
            }
        };
        // A packed file without any bytes is damaged, which whoever opens it has to say.
        let is_packed_void = shard.bytes == 0 && shard.encoding != Encoding::Plain;
        let is_ours = from <= before && to.is_none_or(|to| before < to);
        if !range.is_empty() || is_packed_void && is_ours {
            pieces.push(Piece { shard: index, range });
        }
        before += shard.bytes;
    }
    pieces
}

/// Bytes (on disk) of some pieces.
pub fn bytes(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.range.end - piece.range.start).sum()
}

/// The first line of a plain shard that begins at or behind a byte: the byte at which it begins.
pub(super) fn line_start(bytes: &[u8], at: u64) -> usize {
    match usize::try_from(at) {
        Ok(0) => 0,
        Ok(at) if at < bytes.len() => {
            // It may begin just here, if a line ends just before.
            let end = memchr::memchr(b'\n', &bytes[at - 1..]);
            end.map_or(bytes.len(), |end| at + end)
        }
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shard(name: &str, bytes: u64) -> Shard {
        let encoding = Encoding::of(name.as_ref()).expect("a shard");
        Shard { path: name.into(), name: name.into(), encoding, bytes }
    }

    #[test]
    fn lines_begin_behind_line_ends() {
        let starts: Vec<usize> = (0..9).map(|at| line_start(b"ab\n\ncd", at)).collect();
        assert_eq!(starts, [0, 3, 3, 3, 4, 6, 6, 6, 6]);
        assert_eq!(line_start(b"", 0), 0);
        assert_eq!(line_start(b"\n", 1), 1);
    }

    #[test]
    fn a_packed_shard_goes_where_its_middle_lies() {
        let shards = [shard("a.jsonl", 10), shard("b.jsonl.gz", 20), shard("c.jsonl.zst", 10)];
        let of = |index| pieces(&shards, Share::new(index, 4).expect("a share"));
        assert_eq!(of(0), [Piece { shard: 0, range: 0..10 }]);
        assert_eq!(of(1), []);
        assert_eq!(of(2), [Piece { shard: 1, range: 0..20 }]);
        assert_eq!(of(3), [Piece { shard: 2, range: 0..10 }]);
    }

    proptest! {
        /// Every byte of every plain shard is one share's, in order; every packed shard is one share's as a whole.
        #[test]
        fn shares_have_everything_once(sizes in proptest::collection::vec((0..3usize, 0..50u64), 0..20), of in 1..40u32) {
            let names = ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst"];
            let shards: Vec<Shard> = sizes.iter().map(|&(kind, bytes)| shard(names[kind], bytes)).collect();
            let all: Vec<Piece> =
                (0..of).flat_map(|index| pieces(&shards, Share::new(index, of).expect("a share"))).collect();
            let mut joined: Vec<Piece> = Vec::new();
            for piece in all {
                match joined.last_mut().filter(|last| last.shard == piece.shard) {
                    Some(last) => {
                        prop_assert_eq!(shards[last.shard].encoding, Encoding::Plain);
                        prop_assert_eq!(last.range.end, piece.range.start);
                        last.range.end = piece.range.end;
                    }
                    None => joined.push(piece),
                }
            }
            let mut expected = whole(&shards);
            expected.retain(|piece| !piece.range.is_empty() || shards[piece.shard].encoding != Encoding::Plain);
            prop_assert_eq!(joined, expected);
        }

        /// So has every line, however the bytes are cut.
        #[test]
        fn cuts_fall_between_lines(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'x')], 0..40), cuts in proptest::collection::vec(0..50u64, 0..6)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let starts: Vec<usize> = cuts.iter().map(|cut| line_start(&bytes, *cut)).collect();
            prop_assert!(starts.is_sorted());
            prop_assert!(starts.iter().all(|&s| s == 0 || s == bytes.len() || bytes[s - 1] == b'\n'));
        }
    }
}
