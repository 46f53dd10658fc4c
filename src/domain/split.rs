//! Which split a document goes to.

use super::decimal::Fraction;
use std::str::FromStr;

/// The most splits there can be: a split's number must fit a byte with room to spare.
pub const MAX_SPLITS: usize = 64;

/// Names and ratios of the splits, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splits {
    names: Vec<String>,
    ratios: Vec<Fraction>,
    /// For each split but the last: how many of the 2^64 hashes fall to it or to one before it.
    thresholds: Vec<u128>,
}

impl Splits {
    /// Splits with these names and ratios.
    ///
    /// # Errors
    /// A sentence for the user, if there are not as many names as ratios, a name is unfit for a file
    /// name or given twice, or the ratios do not add up to exactly 1.
    pub fn new(names: Vec<String>, ratios: Vec<Fraction>) -> Result<Splits, String> {
        if names.len() != ratios.len() {
            return Err(format!(
                "there are {} split names ({}) but {} ratios: give one ratio for each name",
                names.len(),
                names.join(","),
                ratios.len()
            ));
        }
        if names.is_empty() || names.len() > MAX_SPLITS {
            return Err(format!("give from 1 to {MAX_SPLITS} splits, not {}", names.len()));
        }
        for (i, name) in names.iter().enumerate() {
            check_name(name)?;
            if names[..i].contains(name) {
                return Err(format!("the split name '{name}' is given twice"));
            }
        }
        let mut thresholds = Vec::new();
        let mut sum = Fraction::ZERO;
        for &ratio in &ratios {
            sum = sum.checked_add(ratio).ok_or_else(|| not_one(&ratios, "more"))?;
            thresholds.push(sum.threshold());
        }
        if sum != Fraction::ONE {
            return Err(not_one(&ratios, "less"));
        }
        Ok(Splits { names, ratios, thresholds })
    }

    /// Reads lists as they stand on the command line: `train,validation,test` and `0.95,0.03,0.02`.
    ///
    /// # Errors
    /// As [`Splits::new`], and if a ratio is not a decimal number from 0 to 1.
    pub fn parse(names: &str, ratios: &str) -> Result<Splits, String> {
        let names = names.split(',').map(|n| n.trim().to_owned()).collect();
        let ratios = ratios.split(',').map(Fraction::from_str).collect::<Result<_, _>>()?;
        Splits::new(names, ratios)
    }

    /// The names, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The ratios, in the order of the names.
    pub fn ratios(&self) -> &[Fraction] {
        &self.ratios
    }

    /// The split of a document with this hash: the first whose cumulative ratio × 2^64 is above it.
    pub fn of_hash(&self, hash: u64) -> usize {
        // The last threshold is 2^64, which no hash reaches, so there is always one.
        self.thresholds.iter().take_while(|&&t| t <= u128::from(hash)).count()
    }
}

fn not_one(ratios: &[Fraction], how: &str) -> String {
    let list: Vec<String> = ratios.iter().map(ToString::to_string).collect();
    format!("the split ratios {} add up to {how} than 1", list.join(","))
}

/// A split's name becomes a file name and a key, so it has to be plain.
fn check_name(name: &str) -> Result<(), String> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.');
    if name.is_empty() || name.len() > 100 || !plain || name.starts_with(['.', '-']) {
        return Err(format!(
            "'{name}' cannot name a split: use up to 100 ASCII letters, digits, '_', '-' and '.', not starting with '.' or '-'"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "train,validation,test";

    #[test]
    fn boundaries_belong_to_the_next_split() {
        let splits = Splits::parse("a,b", "0.5,0.5").expect("valid");
        assert_eq!(splits.of_hash(0), 0);
        assert_eq!(splits.of_hash((1 << 63) - 1), 0);
        assert_eq!(splits.of_hash(1 << 63), 1);
        assert_eq!(splits.of_hash(u64::MAX), 1);
    }

    #[test]
    fn a_split_of_ratio_zero_gets_nothing() {
        let splits = Splits::parse(NAMES, "0,1,0").expect("valid");
        for hash in [0, 1, u64::MAX / 2, u64::MAX] {
            assert_eq!(splits.of_hash(hash), 1);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (names, ratios, part) in [
            (NAMES, "0.9,0.1", "3 split names"),
            (NAMES, "0.9,0.1,0.1", "more than 1"),
            (NAMES, "0.9,0.05,0.04", "less than 1"),
            (NAMES, "0.9,x,0.1", "'x'"),
            ("a,a", "0.5,0.5", "twice"),
            ("a,../b", "0.5,0.5", "'../b'"),
            ("a,", "0.5,0.5", "''"),
        ] {
            let message = Splits::parse(names, ratios).expect_err(ratios);
            assert!(message.contains(part), "{message}");
        }
    }
}
