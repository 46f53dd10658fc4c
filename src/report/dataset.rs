//! A dataset that is about to be published: all that its card and its metadata are made from.

use crate::domain::about::{About, is_day};
use crate::domain::manifest::{Manifest, OutputFile, SplitFiles};
use crate::domain::schema::{FieldType, Output, Schema};
use crate::domain::stats::{Described, Stats};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// What is known of a dataset when its files are written.
pub struct Dataset<'a> {
    /// What people say of it.
    pub about: &'a About,
    /// What its lines are made of.
    pub schema: &'a Schema,
    /// What was counted.
    pub stats: &'a Stats,
    /// What the statistics were counted by.
    pub described: &'a Described,
    /// Its files so far, and where it comes from.
    pub manifest: &'a Manifest,
}

impl Dataset<'_> {
    /// Each split with its number and its files.
    pub fn splits(&self) -> impl Iterator<Item = (usize, &SplitFiles, Vec<&OutputFile>)> {
        let file = |path: &String| self.manifest.files.iter().find(|file| file.path == *path);
        let files = move |split: &SplitFiles| split.files.iter().filter_map(file).collect();
        self.manifest.splits.iter().enumerate().map(move |(number, split)| (number, split, files(split)))
    }

    /// The day of the publication, `YYYY-MM-DD`; unless somebody said it, that of the curation, if the documents
    /// bear one.
    pub fn date(&self) -> Option<&str> {
        if let Some(date) = &self.about.date_published {
            return Some(date);
        }
        let constant = self.schema.constants().iter().find(|constant| constant.to == "metadata.curation_date")?;
        constant.value.as_str().filter(|date| is_day(date))
    }
}

/// A split's files as one path: its only file, or a pattern that fits its shards and no other's.
pub fn pattern(split: &SplitFiles) -> String {
    match split.files.as_slice() {
        [only] => only.clone(),
        [first, ..] if split.files.len() <= 100_000 => {
            // Shards have five digits as long as they suffice.
            first.replacen("-00000-of-", "-?????-of-", 1)
        }
        [first, ..] => first.replacen("-00000-of-", "-*-of-", 1),
        [] => String::new(),
    }
}

/// What exported lines have at a place: a value, or an object of further places.
pub struct Column {
    /// The key.
    pub name: String,
    /// What stands there.
    pub kind: ColumnKind,
}

/// What stands at a place of an exported line.
pub enum ColumnKind {
    /// An object.
    Object(Vec<Column>),
    /// A mapped value, with the field's index.
    Field(FieldType, usize),
    /// The same value in all documents.
    Constant(Value),
}

/// What exported lines are made of, in order.
pub fn columns(schema: &Schema) -> Vec<Column> {
    of_outputs(schema, schema.outputs())
}

fn of_outputs(schema: &Schema, outputs: &[Output]) -> Vec<Column> {
    outputs.iter().filter_map(|output| column(schema, output)).collect()
}

fn column(schema: &Schema, output: &Output) -> Option<Column> {
    let name = |key: &[u8]| serde_json::from_slice::<String>(key.strip_suffix(b":")?).ok();
    Some(match output {
        Output::Object { key, pieces } => {
            Column { name: name(key)?, kind: ColumnKind::Object(of_outputs(schema, pieces)) }
        }
        Output::Field { key, field, .. } => {
            Column { name: name(key)?, kind: ColumnKind::Field(schema.fields()[*field].kind, *field) }
        }
        Output::Constant { json } => {
            let member: Map<String, Value> = serde_json::from_slice(&[b"{", &json[..], b"}"].concat()).ok()?;
            let (name, value) = member.into_iter().next()?;
            Column { name, kind: ColumnKind::Constant(value) }
        }
    })
}

/// The splits' names as `datasets` allows them: letters, digits, `_`, and points between; not `all`, which stands
/// for every split there. Different names stay different.
pub fn hub_names(names: &[&str]) -> Vec<String> {
    let mut taken = HashSet::new();
    let allowed = |name: &str| {
        let name: String = name.chars().map(|c| if c == '-' { '_' } else { c }).collect();
        let name = name.split('.').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
        if name == "all" { "all_".into() } else { name }
    };
    // Names that may stay have the first choice.
    taken.extend(names.iter().filter(|name| allowed(name) == **name).map(ToString::to_string));
    let mut choose = |name: &&str| {
        let mut new = allowed(name);
        if new != **name {
            while !taken.insert(new.clone()) {
                new.push('_');
            }
        }
        new
    };
    names.iter().map(&mut choose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_names_fit_and_stay_apart() {
        let names = hub_names(&["train", "a-b", "a_b", "a.b", "x..y.", "all", "all_"]);
        assert_eq!(names, ["train", "a_b_", "a_b", "a.b", "x.y", "all__", "all_"]);
    }

    #[test]
    fn a_pattern_fits_the_shards() {
        let split = |files: &[&str]| SplitFiles {
            name: "a".into(),
            documents: 0,
            files: files.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(pattern(&split(&["a.jsonl.zst"])), "a.jsonl.zst");
        let shards = ["a-00000-of-00002.jsonl", "a-00001-of-00002.jsonl"];
        assert_eq!(pattern(&split(&shards)), "a-?????-of-00002.jsonl");
        assert_eq!(pattern(&split(&["a-00000-of-00001.jsonl"])), "a-00000-of-00001.jsonl");
    }
}
