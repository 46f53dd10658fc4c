//! Chance for the demo corpus: integers only, so that every machine throws the same numbers.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Names this corpus; another key would make another one.
const KEY: [u8; 32] = *b"colophon demo corpus, edition 1.";

/// A stream of random numbers. Streams with different numbers are independent of each other.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream with this number, from its start.
    pub fn new(stream: u64) -> Self {
        let mut rng = ChaCha8Rng::from_seed(KEY);
        rng.set_stream(stream);
        Dice(rng)
    }

    /// A number from 0 to `end - 1`. (Taking the high half of the product favours none of them by more
    /// than `end` in 2³², which no reader of a demo will notice.)
    pub fn below(&mut self, end: usize) -> usize {
        debug_assert!(end > 0 && u32::try_from(end).is_ok());
        ((u64::from(self.0.next_u32()) * end as u64) >> 32) as usize
    }

    /// A number from `first` to `last`, both included.
    pub fn between(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last - first + 1)
    }

    /// True in `percent` of a hundred throws.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, all equally likely.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// The place of one of `items`, each as likely as its weight says.
    pub fn weighted<T>(&mut self, items: &[T], weight: impl Fn(&T) -> usize) -> usize {
        let mut left = self.below(items.iter().map(&weight).sum());
        for (place, item) in items.iter().enumerate() {
            match left.checked_sub(weight(item)) {
                Some(rest) => left = rest,
                None => return place,
            }
        }
        unreachable!("the number drawn is below the sum of the weights")
    }

    /// Puts `items` into a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
