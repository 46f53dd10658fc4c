//! Exact decimal fractions, for ratios and gates: `0.95` means 95/100, not the nearest binary number.

use std::fmt;

/// Digits after the point that are kept exactly.
const DIGITS: u32 = 18;
const ONE: u64 = 10u64.pow(DIGITS);

/// A number from 0 to 1 with up to 18 digits after the point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fraction {
    /// In units of 10^-18.
    units: u64,
}

impl Fraction {
    /// 0.
    pub const ZERO: Fraction = Fraction { units: 0 };
    /// 1.
    pub const ONE: Fraction = Fraction { units: ONE };

    /// The fraction in units of 10^-18: a whole number to weigh with.
    pub fn units(self) -> u64 {
        self.units
    }

    /// The nearest `f64`, for showing.
    pub fn to_f64(self) -> f64 {
        self.units as f64 / ONE as f64
    }

    /// The sum, or `None` above 1.
    pub fn checked_add(self, other: Fraction) -> Option<Fraction> {
        let units = self.units + other.units;
        (units <= ONE).then_some(Fraction { units })
    }

    /// How many 64-bit numbers `h` have h / 2^64 below this fraction: the smallest integer that is
    /// at least fraction × 2^64. (At most 2^64, hence the wider type.)
    pub fn threshold(self) -> u128 {
        (u128::from(self.units) << 64).div_ceil(u128::from(ONE))
    }

    /// Whether part / whole is above this fraction, exactly. `0 / 0` counts as 0.
    pub fn is_exceeded_by(self, part: u64, whole: u64) -> bool {
        u128::from(part) * u128::from(ONE) > u128::from(self.units) * u128::from(whole)
    }
}

impl std::str::FromStr for Fraction {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("'{s}' is not a number from 0 to 1 with at most {DIGITS} decimals, such as 0.95");
        let (whole, part) = s.trim().split_once('.').unwrap_or((s.trim(), ""));
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if whole.len() + part.len() == 0 || !digits(whole) || !digits(part) || part.len() > DIGITS as usize {
            return Err(bad());
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
        let units: u64 = format!("{part:0<width$}", width = DIGITS as usize).parse().map_err(|_| bad())?;
        match whole {
            0 => Ok(Fraction { units }),
            1 if units == 0 => Ok(Fraction::ONE),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:018}", self.units % ONE);
        let digits = digits.trim_end_matches('0');
        let whole = self.units / ONE;
        if digits.is_empty() { write!(f, "{whole}") } else { write!(f, "{whole}.{digits}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fraction(s: &str) -> Fraction {
        s.parse().expect(s)
    }

    #[test]
    fn reads_and_writes() {
        for (text, back) in [("0.95", "0.95"), ("1", "1"), ("1.0", "1"), (".5", "0.5"), ("0", "0"), ("00.030", "0.03")]
        {
            assert_eq!(fraction(text).to_string(), back);
        }
        for bad in ["", ".", "1.1", "-0.5", "0.1e1", "2", "NaN", "0,5", "0.1234567890123456789"] {
            assert!(bad.parse::<Fraction>().is_err(), "{bad}");
        }
    }

    #[test]
    fn thresholds_are_exact() {
        assert_eq!(fraction("0").threshold(), 0);
        assert_eq!(fraction("0.5").threshold(), 1 << 63);
        assert_eq!(fraction("1").threshold(), 1 << 64);
        // 0.95 × 2^64 = 17524406870024074035.2
        assert_eq!(fraction("0.95").threshold(), 17_524_406_870_024_074_036);
    }

    #[test]
    fn a_gate_of_zero_allows_none_and_an_exact_hit_passes() {
        assert!(fraction("0").is_exceeded_by(1, 1_000_000));
        assert!(!fraction("0").is_exceeded_by(0, 0));
        assert!(!fraction("0.01").is_exceeded_by(1, 100));
        assert!(fraction("0.01").is_exceeded_by(2, 199));
    }
}
