//! Filters: which documents are wanted at all, by what can be seen of each alone.

use super::origin::{Origin, decoded};
use super::row::{Row, Span};
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::HashSet;

/// A condition on one value of a document.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The flag or field, for messages.
    pub name: String,
    /// What is looked at.
    pub subject: Subject,
    /// What it has to be.
    pub rule: Rule,
}

/// What a filter looks at.
#[derive(Clone, Debug)]
pub enum Subject {
    /// The text's length in code points.
    Chars,
    /// The text's words, counted.
    Words,
    /// A value of the document.
    Field(Origin),
}

/// What a value has to be; every part that is given has to hold.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// A number of at least this.
    pub min: Option<Number>,
    /// A number of at most this.
    pub max: Option<Number>,
    /// One of these.
    pub among: Option<Members>,
    /// None of these.
    pub not_among: Option<Members>,
    /// Whether a document without the value is refused.
    pub required: bool,
}

/// What a filter says of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is wanted.
    Admitted,
    /// It is not.
    Refused,
    /// It lacks the value (or it is no number where one is compared), and is kept for that.
    Undecided,
}

impl Filter {
    /// Looks at a document.
    pub fn admission(&self, row: &Row, line: &[u8], spans: &[Span]) -> Admission {
        let holds = match &self.subject {
            Subject::Chars => self.rule.holds_for_number(Number::from(u64::from(row.chars))),
            Subject::Words => self.rule.holds_for_number(Number::from(u64::from(row.words))),
            Subject::Field(origin) => match origin.value(line, spans).map(|json| self.rule.holds_for(json)) {
                Some(Some(holds)) => holds,
                Some(None) | None if self.rule.required => false,
                Some(None) | None => return Admission::Undecided,
            },
        };
        if holds { Admission::Admitted } else { Admission::Refused }
    }
}

impl Rule {
    fn holds_for_number(&self, number: Number) -> bool {
        self.min.is_none_or(|min| number.compare(min) != Ordering::Less)
            && self.max.is_none_or(|max| number.compare(max) != Ordering::Greater)
    }

    /// `None` if a number is compared and the value is none.
    fn holds_for(&self, json: &[u8]) -> Option<bool> {
        let in_bounds = match (self.min, self.max) {
            (None, None) => true,
            _ => self.holds_for_number(Number::of(json)?),
        };
        let is_member = |members: &Members| members.contain(json);
        Some(in_bounds && self.among.as_ref().is_none_or(is_member) && !self.not_among.as_ref().is_some_and(is_member))
    }
}

/// A set of JSON strings, numbers and truth values.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// Strings decoded, truth values as they are written; they cannot be confused, as it is asked for one or the other.
    strings: HashSet<Box<[u8]>, foldhash::fast::RandomState>,
    numbers: Vec<Number>,
    truths: Vec<bool>,
}

impl Members {
    /// The set of these values.
    ///
    /// # Errors
    /// The value that is neither string, number nor truth value.
    pub fn new(values: &[Value]) -> Result<Members, Value> {
        let mut members = Members::default();
        for value in values {
            match value {
                Value::String(text) => drop(members.strings.insert(text.as_bytes().into())),
                Value::Bool(truth) => members.truths.push(*truth),
                Value::Number(number) => {
                    members.numbers.push(Number::of(number.to_string().as_bytes()).ok_or(value.clone())?);
                }
                other => return Err(other.clone()),
            }
        }
        Ok(members)
    }

    fn contain(&self, json: &[u8]) -> bool {
        match json {
            [b'"', ..] => self.strings.contains(&*decoded(json)),
            b"true" => self.truths.contains(&true),
            b"false" => self.truths.contains(&false),
            _ => {
                Number::of(json).is_some_and(|number| self.numbers.iter().any(|n| n.compare(number) == Ordering::Equal))
            }
        }
    }
}

/// A JSON number for comparing: integers are compared exactly, anything else as the nearest `f64`, as in
/// Python.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    integer: Option<i128>,
    float: f64,
}

impl From<u64> for Number {
    fn from(number: u64) -> Number {
        Number { integer: Some(number.into()), float: number as f64 }
    }
}

impl Number {
    /// Reads a number in its JSON notation; `None` if it is none.
    pub fn of(json: &[u8]) -> Option<Number> {
        if !json.first().is_some_and(|b| *b == b'-' || b.is_ascii_digit()) {
            return None;
        }
        let text = std::str::from_utf8(json).ok()?;
        let float: f64 = text.parse().ok().filter(|f: &f64| !f.is_nan())?;
        Some(Number { integer: text.parse().ok(), float })
    }

    fn compare(self, other: Number) -> Ordering {
        match (self.integer, other.integer) {
            (Some(a), Some(b)) => a.cmp(&b),
            // Neither is NaN.
            _ => self.float.partial_cmp(&other.float).unwrap_or(Ordering::Equal),
        }
    }

    /// Whether no number can be at least `self` and at most `max`.
    pub fn is_above(self, max: Number) -> bool {
        self.compare(max) == Ordering::Greater
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn number(json: &str) -> Number {
        Number::of(json.as_bytes()).expect(json)
    }

    fn rule(min: Option<&str>, max: Option<&str>) -> Rule {
        Rule { min: min.map(number), max: max.map(number), ..Rule::default() }
    }

    #[test]
    fn numbers_compare_as_python_compares_them() {
        for (a, b, order) in [
            ("0.8", "0.80", Ordering::Equal),
            ("8e-1", "0.8", Ordering::Equal),
            ("0.79999999999999999999", "0.8", Ordering::Equal),
            ("0.799", "0.8", Ordering::Less),
            ("9007199254740993", "9007199254740992", Ordering::Greater),
            ("1", "1.0", Ordering::Equal),
            ("-1", "0", Ordering::Less),
            ("1e999", "1e308", Ordering::Greater),
        ] {
            assert_eq!(number(a).compare(number(b)), order, "{a} {b}");
        }
        for other in ["\"1\"", "true", "null", "[1]", "{}", "", "-"] {
            assert_eq!(Number::of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn bounds_are_part_of_what_is_admitted() {
        let rule = rule(Some("0.5"), Some("1"));
        for (json, holds) in [
            ("0.5", Some(true)),
            ("1.0", Some(true)),
            ("0.49", Some(false)),
            ("1.01", Some(false)),
            ("\"0.7\"", None),
            ("true", None),
        ] {
            assert_eq!(rule.holds_for(json.as_bytes()), holds, "{json}");
        }
    }

    #[test]
    fn members_are_told_apart_by_type() {
        let members = Members::new(&[json!("a"), json!("1"), json!(2), json!(true)]).expect("valid");
        for (json, is_member) in [
            ("\"a\"", true),
            ("\"\\u0061\"", true),
            ("\"b\"", false),
            ("1", false),
            ("2", true),
            ("2.0", true),
            ("\"2\"", false),
            ("true", true),
            ("\"true\"", false),
            ("false", false),
            ("[2]", false),
        ] {
            assert_eq!(members.contain(json.as_bytes()), is_member, "{json}");
        }
        assert_eq!(Members::new(&[json!([1])]).expect_err("a list"), json!([1]));
    }

    #[test]
    fn without_the_value_only_a_required_one_refuses() {
        let filter = |required| Filter {
            name: "x".into(),
            subject: Subject::Field(Origin::Source(0)),
            rule: Rule { required, ..rule(Some("1"), None) },
        };
        let (line, absent, present) = (b"\"x\"", [Span::default()], [Span { start: 0, len: 3 }]);
        for spans in [absent, present] {
            assert_eq!(filter(false).admission(&Row::default(), line, &spans), Admission::Undecided);
            assert_eq!(filter(true).admission(&Row::default(), line, &spans), Admission::Refused);
        }
    }
}
