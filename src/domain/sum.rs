//! Exact sums of JSON numbers.
//!
//! Word counts are nearly always small integers. But a sum must not depend on the order in which
//! threads or machines add, nor fail on `1.5`, `1e300` or a number of a hundred digits; so what does
//! not fit the fast path is added exactly, as big integers in units of 2^-1074 (the smallest
//! `f64`), and rounded once at the end.

use num_bigint::{BigInt, ParseBigIntError};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

/// Fractional bits of the smallest positive `f64`.
const UNIT_BITS: u64 = 1074;

/// A sum that is the same for any order of additions. Written as decimal digits, with nothing rounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Digits", try_from = "Digits")]
pub struct ExactSum {
    /// Integers that fit; 2^64 documents of i64 values cannot overflow it.
    integers: i128,
    /// Integers that don't.
    large: BigInt,
    /// Everything written with a fraction or an exponent, in units of 2^-1074.
    fractions: Option<BigInt>,
}

impl ExactSum {
    /// Adds a number in its JSON notation. Numbers with a fraction or an exponent count as the
    /// nearest `f64`, as in Python; those beyond `f64`'s range count as its largest.
    /// What is not a number adds nothing.
    pub fn add(&mut self, json: &[u8]) {
        // Nearly all there is: a few digits.
        if json.len() <= 18 && !json.is_empty() && json.iter().all(u8::is_ascii_digit) {
            let number = json.iter().fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0'));
            self.integers += i128::from(number);
            return;
        }
        let Ok(text) = std::str::from_utf8(json) else { return };
        if let Ok(integer) = text.parse::<i64>() {
            self.integers += i128::from(integer);
        } else if let Ok(integer) = text.parse::<BigInt>() {
            self.large += integer;
        } else if let Ok(number) = text.parse::<f64>() {
            *self.fractions.get_or_insert_default() += in_units(number.clamp(f64::MIN, f64::MAX));
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        self.integers += other.integers;
        self.large += &other.large;
        if let Some(fractions) = &other.fractions {
            *self.fractions.get_or_insert_default() += fractions;
        }
    }

    /// The sum as a JSON number: an integer if only integers were added, else the nearest `f64`.
    pub fn to_json(&self) -> Value {
        let whole = BigInt::from(self.integers) + &self.large;
        match &self.fractions {
            None => whole.to_string().parse::<Number>().map_or(Value::Null, Value::Number),
            Some(fractions) => Value::from(nearest_f64(&((whole << UNIT_BITS) + fractions))),
        }
    }
}

/// An [`ExactSum`] as it is written.
#[derive(Serialize, Deserialize)]
struct Digits {
    whole: String,
    /// In units of 2^-1074.
    fractions: Option<String>,
}

impl From<ExactSum> for Digits {
    fn from(sum: ExactSum) -> Digits {
        let whole = BigInt::from(sum.integers) + sum.large;
        Digits { whole: whole.to_string(), fractions: sum.fractions.map(|fractions| fractions.to_string()) }
    }
}

impl TryFrom<Digits> for ExactSum {
    type Error = ParseBigIntError;

    fn try_from(digits: Digits) -> Result<ExactSum, ParseBigIntError> {
        let fractions = digits.fractions.map(|digits| digits.parse()).transpose()?;
        Ok(ExactSum { integers: 0, large: digits.whole.parse()?, fractions })
    }
}

/// A finite `f64` as a whole number of units.
fn in_units(number: f64) -> BigInt {
    let bits = number.to_bits();
    let exponent = (bits >> 52) & 0x7ff;
    let fraction = bits & ((1 << 52) - 1);
    // A subnormal number is fraction × 2^-1074; a normal one (2^52 + fraction) × 2^(exponent - 1075).
    let (mantissa, shift) = if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
    let magnitude = BigInt::from(mantissa) << shift;
    if number.is_sign_negative() { -magnitude } else { magnitude }
}

/// The `f64` nearest to a number of units, ties to even, clamped to the finite range.
fn nearest_f64(units: &BigInt) -> f64 {
    let magnitude = units.magnitude();
    // 64 leading bits, the last of them sticky, hold all that rounding to 53 bits needs to know.
    let surplus = magnitude.bits().saturating_sub(64);
    let sticky = surplus > 0 && magnitude.trailing_zeros().is_some_and(|zeros| zeros < surplus);
    let lead = u64::try_from(magnitude >> surplus).unwrap_or(u64::MAX) | u64::from(sticky);
    let scale = surplus as i64 - UNIT_BITS as i64;
    // Two steps, as 2^scale alone may be below the smallest f64. Results are subnormal only where
    // surplus is 0 and lead is small, hence exact: nothing is rounded twice.
    let half = scale / 2;
    let value = (lead as f64) * 2f64.powi(half as i32) * 2f64.powi((scale - half) as i32);
    let value = value.min(f64::MAX);
    if units.sign() == num_bigint::Sign::Minus { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(numbers: &[&str]) -> Value {
        let mut sum = ExactSum::default();
        numbers.iter().for_each(|n| sum.add(n.as_bytes()));
        sum.to_json()
    }

    #[test]
    fn integers_stay_integers_of_any_size() {
        assert_eq!(sum(&["1", "2", "-5"]).to_string(), "-2");
        assert_eq!(sum(&["18446744073709551615", "1"]).to_string(), sum(&["18446744073709551616"]).to_string());
        assert_eq!(sum(&[]).to_string(), "0");
    }

    #[test]
    fn fractions_are_added_exactly() {
        // math.fsum([0.1] * 10) == 1.0, where adding one by one gives 0.9999999999999999.
        assert_eq!(sum(&["0.1"; 10]).to_string(), "1.0");
        assert_eq!(sum(&["1e300", "1.5", "-1e300"]).to_string(), "1.5");
        assert_eq!(sum(&["1.0", "2"]).to_string(), "3.0");
        assert_eq!(sum(&["5e-324", "5e-324"]), Value::from(1e-323));
    }

    #[test]
    fn a_single_number_comes_back() {
        for number in [0.1, 1e-310, f64::MIN_POSITIVE, f64::MAX, -123.456, 2f64.powi(60) + 4096.0, 0.0] {
            let mut exact = ExactSum::default();
            exact.add(format!("{number:e}").as_bytes());
            exact.add(format!("{number:e}").as_bytes());
            let half = exact.to_json().as_f64().map(|v| v / 2.0);
            assert!(half == Some(number) || number == f64::MAX, "{number} {half:?}");
        }
        assert_eq!(sum(&["1e999"]), Value::from(f64::MAX));
    }

    #[test]
    fn a_sum_is_written_and_read_exactly() {
        for numbers in [&["1", "-2"][..], &["0.1", "1e300", "5e-324"], &["1e-300", "-7", "99999999999999999999"], &[]] {
            let mut sum = ExactSum::default();
            numbers.iter().for_each(|n| sum.add(n.as_bytes()));
            let text = serde_json::to_string(&sum).expect("JSON");
            let mut read: ExactSum = serde_json::from_str(&text).expect("a sum");
            assert_eq!(read.to_json().to_string(), sum.to_json().to_string());
            read.add(b"0.1");
            sum.add(b"0.1");
            assert_eq!(read.to_json(), sum.to_json());
        }
        assert!(serde_json::from_str::<ExactSum>(r#"{"whole":"1x","fractions":null}"#).is_err());
    }

    #[test]
    fn what_is_not_a_number_adds_nothing() {
        assert_eq!(sum(&["\"7\"", "true", "[1]", ""]).to_string(), "0");
    }
}
