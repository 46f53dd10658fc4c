//! A document's random number: a function of the job's seed and the document's hash alone.

/// "expand 32-byte k", as ChaCha's definition has it.
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
/// ChaCha8 has eight rounds: column rounds and diagonal rounds by turns.
const DOUBLE_ROUNDS: usize = 4;

/// The random numbers of one seed.
///
/// Each document takes the first 64 bits of a stream of its own. Libraries prepare streams to be read at
/// length, which takes several times as long as the one block that is needed here.
#[derive(Clone, Debug)]
pub struct Chance {
    seed: u64,
}

impl Chance {
    /// The numbers for this seed: ChaCha8 whose key is the seed, little-endian, filled up with zeros.
    pub fn new(seed: u64) -> Chance {
        Chance { seed }
    }

    /// The number for this hash: the first 64 bits, little-endian, of the stream (the nonce) that it
    /// names, at block 0. So the same text always draws the same number, in any order, anywhere.
    pub fn of(&self, hash: u64) -> u64 {
        let [low, high] = [self.seed as u32, (self.seed >> 32) as u32];
        let start = [CONSTANTS, [low, high, 0, 0], [0; 4], [0, 0, hash as u32, (hash >> 32) as u32]];
        let mut rows = start;
        for _ in 0..DOUBLE_ROUNDS {
            round(&mut rows);
            // The diagonals become columns.
            rows[1].rotate_left(1);
            rows[2].rotate_left(2);
            rows[3].rotate_left(3);
            round(&mut rows);
            rows[1].rotate_right(1);
            rows[2].rotate_right(2);
            rows[3].rotate_right(3);
        }
        let word = |i: usize| u64::from(rows[0][i].wrapping_add(start[0][i]));
        word(0) | word(1) << 32
    }
}

/// A quarter round in each of the four columns. (D. J. Bernstein: ChaCha, a variant of Salsa20.)
#[inline(always)]
fn round([a, b, c, d]: &mut [[u32; 4]; 4]) {
    step(a, b, d, 16);
    step(c, d, b, 12);
    step(a, b, d, 8);
    step(c, d, b, 7);
}

#[inline(always)]
fn step(sum: &mut [u32; 4], addend: &[u32; 4], turned: &mut [u32; 4], turn: u32) {
    for ((sum, addend), turned) in sum.iter_mut().zip(addend).zip(turned) {
        *sum = sum.wrapping_add(*addend);
        *turned = (*turned ^ *sum).rotate_left(turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    fn by_library(seed: u64, stream: u64) -> u64 {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(stream);
        rng.next_u64()
    }

    #[test]
    fn block_0_of_the_key_and_nonce_of_zeros() {
        // draft-strombergson-chacha-test-vectors, TC1, 8 rounds, 256 bits.
        assert_eq!(Chance::new(0).of(0).to_le_bytes(), [0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6]);
    }

    proptest! {
        #[test]
        fn the_numbers_are_those_of_chacha8(seed: u64, hash: u64) {
            prop_assert_eq!(Chance::new(seed).of(hash), by_library(seed, hash));
        }
    }
}
