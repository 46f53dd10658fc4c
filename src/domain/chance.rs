//! A document's random number: a function of the job's seed and the document's hash alone.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The random numbers of one seed.
#[derive(Debug)]
pub struct Chance(ChaCha8Rng);

impl Chance {
    /// The numbers for this seed: ChaCha8 whose key is the seed, little-endian, filled up with zeros.
    pub fn new(seed: u64) -> Chance {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Chance(ChaCha8Rng::from_seed(key))
    }

    /// The number for this hash: the first 64 bits, little-endian, of the stream (the nonce) that it
    /// names, at block 0. So the same text always draws the same number, in any order, anywhere.
    pub fn of(&self, hash: u64) -> u64 {
        let mut stream = self.0.clone();
        stream.set_stream(hash);
        stream.set_word_pos(0);
        stream.next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One block of ChaCha8 by its definition (D. J. Bernstein: ChaCha, a variant of Salsa20).
    fn block(seed: u64, stream: u64) -> u64 {
        let mut input = [0u32; 16];
        input[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
        (input[4], input[5]) = (seed as u32, (seed >> 32) as u32);
        (input[14], input[15]) = (stream as u32, (stream >> 32) as u32);
        let mut x = input;
        let mut quarter = |a: usize, b: usize, c: usize, d: usize| {
            for (p, q, r, turn) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
                x[p] = x[p].wrapping_add(x[q]);
                x[r] = (x[r] ^ x[p]).rotate_left(turn);
            }
        };
        for _ in 0..4 {
            for i in 0..4 {
                quarter(i, 4 + i, 8 + i, 12 + i);
            }
            for i in 0..4 {
                quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4);
            }
        }
        u64::from(x[0].wrapping_add(input[0])) | u64::from(x[1].wrapping_add(input[1])) << 32
    }

    #[test]
    fn the_numbers_are_those_of_the_definition() {
        for seed in [0, 1, 42, u64::MAX] {
            let chance = Chance::new(seed);
            for hash in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
                assert_eq!(chance.of(hash), block(seed, hash), "{seed} {hash}");
                assert_eq!(chance.of(hash), block(seed, hash), "once more: {seed} {hash}");
            }
        }
    }
}
