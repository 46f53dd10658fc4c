//! A worker's share of the input: one of so many contiguous parts, equal in bytes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The most workers.
const MOST: u32 = 100_000;

/// The `index`-th, from 0, of `of` shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    index: u32,
    of: u32,
}

impl Share {
    /// The share with this index, from 0, of so many.
    ///
    /// # Errors
    /// A sentence for the user, if there is no such share.
    pub fn new(index: u32, of: u32) -> Result<Share, String> {
        match (index, of) {
            (_, 0) => Err("there is at least one worker".into()),
            (_, of) if of > MOST => Err(format!("{MOST} workers are the most")),
            (index, of) if index >= of => {
                Err(format!("workers are counted from 0: the last of {of} is {}/{of}", of - 1))
            }
            (index, of) => Ok(Share { index, of }),
        }
    }

    /// Its place among the shares, from 0.
    pub fn index(self) -> u32 {
        self.index
    }

    /// How many shares there are.
    pub fn of(self) -> u32 {
        self.of
    }

    /// The share's bytes of an input of `total` bytes: from the first to before the second. What lies at the
    /// very end, where no bytes are, is the last share's; hence `None` for an end that is open.
    pub fn range(self, total: u64) -> (u64, Option<u64>) {
        let cut = |index: u32| (u128::from(total) * u128::from(index) / u128::from(self.of)) as u64;
        (cut(self.index), (self.index + 1 < self.of).then(|| cut(self.index + 1)))
    }
}

impl FromStr for Share {
    type Err = String;

    /// Reads `3/16`.
    fn from_str(text: &str) -> Result<Share, String> {
        let bad = || "write I/N, such as 0/4 for the first of four workers".to_owned();
        let (index, of) = text.split_once('/').ok_or_else(bad)?;
        Share::new(index.trim().parse().map_err(|_| bad())?, of.trim().parse().map_err(|_| bad())?)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_counted_from_zero() {
        assert_eq!("3/16".parse::<Share>().expect("a share").to_string(), "3/16");
        for (text, part) in [
            ("4/4", "the last of 4 is 3/4"),
            ("0/0", "at least one"),
            ("1", "I/N"),
            ("a/2", "I/N"),
            ("-1/2", "I/N"),
            ("0/100001", "most"),
        ] {
            let message = text.parse::<Share>().expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn shares_lie_side_by_side() {
        for total in [0, 1, 7, 1000, u64::MAX] {
            for of in [1, 2, 3, 16, 100_000] {
                let mut at = 0;
                for index in 0..of {
                    let (from, to) = Share::new(index, of).expect("a share").range(total);
                    assert_eq!(from, at);
                    assert_eq!(to.is_none(), index + 1 == of);
                    at = to.unwrap_or(total);
                }
                assert_eq!(at, total);
            }
        }
    }
}
