//! Balancing: how many documents each value of a field gets.

use std::fmt;
use std::str::FromStr;

/// Weights are whole numbers of millionths.
const UNIT: u64 = 1_000_000;
const DECIMALS: usize = 6;
/// The largest weight that can be given.
const MAX_WEIGHT: u64 = 1_000_000;
/// Bits of the largest weight that comes of a temperature: with a million values and as many documents
/// as a machine can hold, sums and products still fit 128 bits.
const WEIGHT_BITS: i32 = 48;
/// Temperatures that are of any use.
const TEMPERATURES: std::ops::RangeInclusive<f64> = 0.1..=1000.0;
/// Stands for all values that have no weight of their own.
const OTHERS: &str = "*";

/// How the shares of the values are found.
#[derive(Clone, Debug, PartialEq)]
pub enum Balance {
    /// The same for every value.
    Equal,
    /// ∝ n^(1/T), with n the documents of the value: 1 leaves the shares as they are, large temperatures
    /// come near to equal ones.
    Temperature(f64),
    /// ∝ the weight of the value.
    Weights(Weights),
}

/// Weights as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Values with their weights in millionths.
    of: Vec<(String, u64)>,
    /// Weight of all other values, if given.
    others: Option<u64>,
}

/// Why the shares of a corpus cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithoutWeight(
    /// The indices of the values that have no weight.
    pub Vec<usize>,
);

impl Balance {
    /// The weight of each value, given with the number of its documents (which is never 0), as whole
    /// numbers to be compared with each other.
    ///
    /// # Errors
    /// If values have no weight.
    pub fn weights(&self, values: &[(&str, u64)]) -> Result<Vec<u64>, WithoutWeight> {
        match self {
            Balance::Equal => Ok(vec![1; values.len()]),
            Balance::Temperature(temperature) => Ok(tempered(values.iter().map(|v| v.1), *temperature)),
            Balance::Weights(weights) => {
                let of: Vec<Option<u64>> = values.iter().map(|(name, _)| weights.weight(name)).collect();
                let without: Vec<usize> = (0..of.len()).filter(|&i| of[i].is_none()).collect();
                if without.is_empty() { Ok(of.into_iter().flatten().collect()) } else { Err(WithoutWeight(without)) }
            }
        }
    }

    /// The values that are named in the weights.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        let of = if let Balance::Weights(weights) = self { &weights.of[..] } else { &[] };
        of.iter().map(|(name, _)| name.as_str())
    }
}

/// n^(1/T) for each n, scaled to whole numbers. `libm` computes with IEEE operations alone, so that every
/// machine comes to the same weights; the scale is a power of two, so that T = 1 leaves each n as it is.
fn tempered(counts: impl Iterator<Item = u64>, temperature: f64) -> Vec<u64> {
    let powers: Vec<f64> = counts.map(|n| libm::pow(n as f64, 1.0 / temperature)).collect();
    let largest = powers.iter().copied().fold(1.0, f64::max);
    let scale = libm::exp2(f64::from(WEIGHT_BITS - 1 - libm::ilogb(largest)));
    powers.iter().map(|power| ((power * scale).round() as u64).max(1)).collect()
}

impl Weights {
    fn weight(&self, value: &str) -> Option<u64> {
        self.of.iter().find(|(name, _)| name == value).map(|(_, weight)| *weight).or(self.others)
    }

    /// Weights from pairs of value and decimal number; `*` stands for all other values.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Weights, String> {
        let mut weights = Weights { of: Vec::new(), others: None };
        for (value, number) in pairs {
            let weight = millionths(number).ok_or_else(|| {
                format!("the weight '{number}' of '{value}' is not a number from 0 to {MAX_WEIGHT} with at most {DECIMALS} decimals")
            })?;
            let known =
                if value == OTHERS { weights.others.is_some() } else { weights.of.iter().any(|w| w.0 == value) };
            if known {
                return Err(format!("'{value}' has two weights"));
            }
            if value == OTHERS { weights.others = Some(weight) } else { weights.of.push((value.into(), weight)) }
        }
        if weights.of.iter().map(|w| w.1).chain(weights.others).all(|weight| weight == 0) {
            return Err("no weight is above 0: nothing would be left".into());
        }
        Ok(weights)
    }
}

fn millionths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_plain =
        !text.is_empty() && text != "." && [whole, part].iter().all(|t| t.bytes().all(|b| b.is_ascii_digit()));
    let part = part.trim_end_matches('0');
    if !is_plain || part.len() > DECIMALS {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let weight = whole.checked_mul(UNIT)?.checked_add(format!("{part:0<DECIMALS$}").parse().ok()?)?;
    (weight <= MAX_WEIGHT * UNIT).then_some(weight)
}

impl FromStr for Balance {
    type Err = String;

    /// Reads `equal`, `temperature=2` or `weights=a:2,b:0.5,*:1`.
    fn from_str(text: &str) -> Result<Balance, String> {
        match text.split_once('=').map_or((text, ""), |(mode, rest)| (mode.trim(), rest)) {
            ("equal", "") => Ok(Balance::Equal),
            ("temperature", number) => match number.trim().parse() {
                Ok(temperature) if TEMPERATURES.contains(&temperature) => Ok(Balance::Temperature(temperature)),
                _ => {
                    let (first, last) = (TEMPERATURES.start(), TEMPERATURES.end());
                    Err(format!("the temperature '{number}' is not a number from {first} to {last}"))
                }
            },
            ("weights", list) => {
                let pair = |part: &'_ str| -> Result<(String, String), String> {
                    // A value may have colons, a number not.
                    let (value, number) = part
                        .rsplit_once(':')
                        .ok_or_else(|| format!("'{part}' is not a value with its weight: write weights=a:2,b:0.5"))?;
                    Ok((value.trim().into(), number.trim().into()))
                };
                let pairs = list.split(',').map(pair).collect::<Result<Vec<_>, _>>()?;
                Weights::new(pairs.iter().map(|(value, number)| (&**value, &**number))).map(Balance::Weights)
            }
            _ => Err(format!("'{text}' is none of equal, temperature=T, weights=VALUE:W,VALUE:W")),
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Balance::Equal => f.write_str("equal"),
            Balance::Temperature(temperature) => write!(f, "temperature={temperature}"),
            Balance::Weights(weights) => {
                let others = weights.others.map(|weight| (OTHERS, weight));
                let all = weights.of.iter().map(|(name, weight)| (name.as_str(), *weight)).chain(others);
                let shown: Vec<String> = all.map(|(name, w)| format!("{name}:{}", w as f64 / UNIT as f64)).collect();
                write!(f, "weights={}", shown.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(text: &str) -> Balance {
        text.parse().expect(text)
    }

    #[test]
    fn reads_and_writes() {
        for (text, back) in [
            ("equal", "equal"),
            ("temperature=2", "temperature=2"),
            ("temperature=1.50", "temperature=1.5"),
            ("weights=a:2,b:0.50", "weights=a:2,b:0.5"),
            ("weights=a:b:.25, c : 1.000000,*:0", "weights=a:b:0.25,c:1,*:0"),
        ] {
            assert_eq!(balance(text).to_string(), back);
        }
        for (bad, part) in [
            ("", "none of equal"),
            ("equal=1", "none of equal"),
            ("temperature", "''"),
            ("temperature=0", "'0'"),
            ("temperature=NaN", "'NaN'"),
            ("temperature=inf", "'inf'"),
            ("temperature=-1", "'-1'"),
            ("weights=", "''"),
            ("weights=a", "'a'"),
            ("weights=a:x", "'x'"),
            ("weights=a:-1", "'-1'"),
            ("weights=a:1.0000001", "1.0000001"),
            ("weights=a:1000001", "1000001"),
            ("weights=a:1,a:2", "two weights"),
            ("weights=a:0,*:0", "above 0"),
        ] {
            let message = bad.parse::<Balance>().expect_err(bad);
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_temperature_of_one_leaves_the_shares_as_they_are() {
        let counts = [("a", 3), ("b", 700_000_001), ("c", 1), ("d", 6)];
        let weights = balance("temperature=1").weights(&counts).expect("weights");
        assert!(weights.iter().zip(&counts).all(|(w, (_, n))| weights[2] * n == *w), "{weights:?}");
    }

    #[test]
    fn a_temperature_of_two_takes_the_root() {
        let weights = balance("temperature=2").weights(&[("a", 1), ("b", 100), ("c", 10_000)]).expect("weights");
        assert_eq!((weights[1], weights[2]), (10 * weights[0], 100 * weights[0]));
        let many = balance("temperature=0.1").weights(&[("a", 1), ("b", 1 << 40)]).expect("weights");
        assert!(many[0] == 1 && many[1] < 1 << WEIGHT_BITS);
    }

    #[test]
    fn weights_are_for_all_values_or_name_those_without() {
        let values = [("a", 1), ("x", 1), ("b", 1), ("y", 1)];
        assert_eq!(balance("weights=a:2,b:0.5,*:1").weights(&values), Ok(vec![2 * UNIT, UNIT, UNIT / 2, UNIT]));
        assert_eq!(balance("weights=a:2,b:0.5").weights(&values), Err(WithoutWeight(vec![1, 3])));
        assert!(balance("weights=a:2,c:1").named().eq(["a", "c"]));
    }
}
