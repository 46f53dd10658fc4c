//! Where a value of a document comes from, for whatever looks at values: statistics, filters, splits.

use super::row::Span;
use super::schema::{FieldType, Schema};
use crate::scan::reference::{Decoder, member};
use std::borrow::Cow;

/// Stands for the value of a document that has none.
pub const UNKNOWN: &str = "unknown";

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A source of the schema, by its index.
    Source(usize),
    /// A member, by its path, of an object that is mapped as a whole.
    Within(usize, Vec<String>),
    /// The same for all documents, as JSON.
    Constant(Vec<u8>),
    /// No document has it.
    Nowhere,
}

impl Origin {
    /// What is written to this path of the output.
    pub fn of_output(schema: &Schema, path: &str) -> Origin {
        match (schema.source_to(path), schema.constants().iter().find(|c| c.to == path)) {
            (Some(source), _) => Origin::Source(source),
            (None, Some(constant)) => Origin::Constant(constant.value.to_string().into_bytes()),
            (None, None) => Self::within(path, |path| schema.source_to(path)).unwrap_or(Origin::Nowhere),
        }
    }

    /// The value of a mapped field that a user names, by its path in the input or (if there is none
    /// such) in the output, with its type. `None` if no field has that name.
    pub fn of_field(schema: &Schema, name: &str) -> Option<(Origin, FieldType)> {
        let fields = || schema.fields().iter().enumerate();
        let from = |name: &str| fields().find(|(_, f)| f.from == name).map(|(i, _)| schema.source_of(i));
        let to = |name: &str| fields().find(|(_, f)| f.to == name).map(|(i, _)| schema.source_of(i));
        let kind = |name: &str| fields().find(|(_, f)| f.from == name || f.to == name).map(|(_, f)| f.kind);
        if let Some(source) = from(name).or_else(|| to(name)) {
            return Some((Origin::Source(source), kind(name)?));
        }
        let within = Self::within(name, from).or_else(|| Self::within(name, to))?;
        Some((within, FieldType::Any))
    }

    /// For `metadata.domain`, where `metadata` itself is mapped.
    fn within(path: &str, source: impl Fn(&str) -> Option<usize>) -> Option<Origin> {
        let steps: Vec<&str> = path.split('.').collect();
        (1..steps.len()).find_map(|len| {
            let rest = steps[len..].iter().map(ToString::to_string).collect();
            Some(Origin::Within(source(&steps[..len].join("."))?, rest))
        })
    }

    /// The value as it stands in the line; `null` counts as absent.
    pub fn value<'a>(&'a self, line: &'a [u8], spans: &[Span]) -> Option<&'a [u8]> {
        match self {
            Origin::Source(source) => Some(spans[*source]).filter(|s| !s.is_absent()).map(|s| s.of(line)),
            Origin::Within(source, steps) => {
                let whole = Some(spans[*source]).filter(|s| !s.is_absent()).map(|s| s.of(line))?;
                let value = steps.iter().try_fold(whole, |value, step| member(value, step))?;
                Some(value).filter(|value| *value != b"null")
            }
            Origin::Constant(json) => Some(json),
            Origin::Nowhere => None,
        }
    }
}

/// What a value of a document is called: a string decoded, anything else as it stands in the line.
pub fn decoded(json: &[u8]) -> Cow<'_, [u8]> {
    match json {
        [b'"', plain @ .., b'"'] if !plain.contains(&b'\\') => plain.into(),
        [b'"', ..] => {
            let text: String = Decoder::new(json).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
            text.into_bytes().into()
        }
        _ => json.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::schema::{Field, default_constants, default_fields};

    #[test]
    fn fields_are_found_by_either_of_their_names_and_within_objects() {
        let mut fields = default_fields();
        fields.push(Field { from: "meta".into(), to: "m".into(), kind: FieldType::Any, required: false });
        let schema = Schema::new(fields, default_constants("2024-01-15")).expect("valid");
        let of = |name| Origin::of_field(&schema, name);
        assert_eq!(of("domain"), Some((Origin::Source(3), FieldType::String)));
        assert_eq!(of("metadata.domain"), of("domain"));
        assert_eq!(of("quality_prob"), Some((Origin::Source(4), FieldType::Number)));
        let within = Some((Origin::Within(6, vec!["site".into(), "id".into()]), FieldType::Any));
        assert_eq!((of("meta.site.id"), of("m.site.id")), (within.clone(), within));
        assert_eq!((of("metadata.source"), of("metadata"), of("nothing")), (None, None, None));
    }

    #[test]
    fn names_of_values() {
        for (json, name) in [(r#""ab""#, "ab"), (r#""a\u0062""#, "ab"), ("1.0", "1.0"), ("true", "true")] {
            assert_eq!(decoded(json.as_bytes()).as_ref(), name.as_bytes());
        }
    }
}
