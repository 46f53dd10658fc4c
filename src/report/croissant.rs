//! Croissant metadata: the dataset's files and fields for machines, in the vocabulary of MLCommons
//! (<https://docs.mlcommons.org/croissant/docs/croissant-spec.html>, version 1.0).
//!
//! Every file is listed with its SHA-256; every split is a record set, read from its file or its shards.

use super::dataset::{Column, ColumnKind, Dataset, columns};
use crate::domain::manifest::{OutputFile, SplitFiles};
use crate::domain::schema::FieldType;
use serde_json::{Map, Value, json};

/// The name of the file.
pub const FILE: &str = "croissant.json";

/// `croissant.json`.
pub fn croissant(dataset: &Dataset) -> Value {
    let about = dataset.about;
    let columns = columns(dataset.schema);
    let mut value = json!({
        "@context": context(),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": about.name(),
        "description": about.description.as_deref().unwrap_or("Documents for training language models."),
        "license": about.license(),
        "version": about.version(),
        "citeAs": citation(dataset),
    });
    let mut set = |key: &str, given: Option<Value>| given.map(|given| value[key] = given);
    set("url", about.homepage.clone().map(Value::from));
    set("creator", about.creator.as_ref().map(|name| json!({ "@type": "sc:Organization", "name": name })));
    set("datePublished", dataset.date().map(Value::from));
    set("inLanguage", (!about.language.is_empty()).then(|| json!(about.language)));
    set("keywords", (!about.tags.is_empty()).then(|| json!(about.tags)));
    set("distribution", Some(distribution(dataset)));
    let sets = dataset.splits().map(|(number, split, _)| record_set(dataset, number, split, &columns));
    set("recordSet", Some(sets.collect()));
    value
}

/// BibTeX that names the dataset, unless somebody said better.
pub fn citation(dataset: &Dataset) -> String {
    if let Some(citation) = &dataset.about.citation {
        return citation.clone();
    }
    let plain =
        |text: &str| text.chars().filter(|c| !matches!(c, '{' | '}' | '\\') && !c.is_control()).collect::<String>();
    let word: String = dataset.about.name().chars().filter(char::is_ascii_alphanumeric).collect();
    let key = if word.is_empty() { "dataset".into() } else { word.to_ascii_lowercase() };
    let mut lines = vec![format!("@misc{{{key},\n  title = {{{}}}", plain(dataset.about.name()))];
    lines.extend(dataset.about.creator.as_ref().map(|creator| format!("  author = {{{}}}", plain(creator))));
    lines.extend(dataset.date().map(|date| format!("  year = {{{}}}", &date[..4])));
    lines.extend(dataset.about.homepage.as_ref().map(|url| format!("  url = {{{}}}", plain(url))));
    lines.join(",\n") + "\n}"
}

/// Names of splits have no `/`, so that these differ from each other and from the record sets'.
fn file_id(path: &str) -> String {
    format!("files/{path}")
}

fn shards_id(split: &SplitFiles) -> String {
    format!("shards/{}", split.name)
}

fn distribution(dataset: &Dataset) -> Value {
    let mut distribution = Vec::new();
    for (_, split, files) in dataset.splits() {
        distribution.extend(files.iter().map(|file| file_object(file)));
        if split.files.len() > 1 {
            distribution.push(json!({
                "@type": "cr:FileSet",
                "@id": shards_id(split),
                "name": split.name,
                "description": format!("All {} shards of the split {}.", split.files.len(), split.name),
                "encodingFormat": "application/jsonlines",
                "includes": split.files,
            }));
        }
    }
    distribution.into()
}

fn file_object(file: &OutputFile) -> Value {
    json!({
        "@type": "cr:FileObject",
        "@id": file_id(&file.path),
        "name": file.path,
        "contentUrl": file.path,
        "contentSize": format!("{} B", file.bytes),
        "encodingFormat": "application/jsonlines",
        "sha256": file.sha256,
    })
}

fn record_set(dataset: &Dataset, number: usize, split: &SplitFiles, columns: &[Column]) -> Value {
    let source = match split.files.as_slice() {
        [only] => json!({ "fileObject": { "@id": file_id(only) } }),
        _ => json!({ "fileSet": { "@id": shards_id(split) } }),
    };
    // A reader looks for every column in every file, and fails where no document has one.
    let is_there = |column: &&Column| match column.kind {
        ColumnKind::Field(_, field) => dataset.stats.has_column(number, field, dataset.described),
        _ => true,
    };
    let fields = columns.iter().filter(is_there).filter_map(|column| {
        let mut extract = source.clone();
        extract["extract"] = json!({ "column": column.name });
        field(column, &split.name, &Place { source: extract, path: Vec::new() })
    });
    json!({
        "@type": "cr:RecordSet",
        "@id": split.name,
        "name": split.name,
        "description": format!("The {} documents of the split {}.", split.documents, split.name),
        "field": unique(fields.collect()),
    })
}

/// Where a field's value comes from: a column, and keys within it.
struct Place {
    source: Value,
    path: Vec<String>,
}

/// A field; `None` where there is nothing to read: an object without members, or a value of any type, for which
/// Croissant has no type.
fn field(column: &Column, parent: &str, place: &Place) -> Option<Value> {
    let id = format!("{parent}/{}", identifier(&column.name));
    let mut value = json!({ "@type": "cr:Field", "@id": id, "name": column.name });
    match &column.kind {
        ColumnKind::Object(members) => {
            let below = |member: &Column| {
                let path = [&place.path[..], std::slice::from_ref(&member.name)].concat();
                field(member, &id, &Place { source: place.source.clone(), path })
            };
            let members: Vec<Value> = members.iter().filter_map(below).collect();
            if members.is_empty() {
                return None;
            }
            value["subField"] = unique(members);
            return Some(value);
        }
        ColumnKind::Field(kind, _) => value["dataType"] = data_type(*kind)?.into(),
        ColumnKind::Constant(constant) => {
            value["dataType"] = data_type(type_of(constant))?.into();
            value["description"] = "The same in every document.".into();
        }
    }
    value["source"] = place.source.clone();
    if !place.path.is_empty() {
        value["source"]["transform"] = json!({ "jsonPath": json_path(&place.path) });
    }
    Some(value)
}

/// The type that a constant's value has.
pub fn type_of(constant: &Value) -> FieldType {
    match constant {
        Value::String(_) => FieldType::String,
        Value::Bool(_) => FieldType::Boolean,
        Value::Number(number) if number.is_i64() => FieldType::Integer,
        Value::Number(_) => FieldType::Number,
        _ => FieldType::Any,
    }
}

fn data_type(kind: FieldType) -> Option<&'static str> {
    match kind {
        FieldType::String => Some("sc:Text"),
        FieldType::Number => Some("sc:Float"),
        FieldType::Integer => Some("sc:Integer"),
        FieldType::Boolean => Some("sc:Boolean"),
        FieldType::Any => None,
    }
}

/// A key as a part of an identifier, which has to be an IRI.
fn identifier(name: &str) -> String {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let name: String = name.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    if name.is_empty() { "_".into() } else { name }
}

/// Keys that differ only in what identifiers cannot have get a number.
fn unique(mut fields: Vec<Value>) -> Value {
    let mut seen = std::collections::HashSet::new();
    for field in &mut fields {
        let id = field["@id"].as_str().unwrap_or_default().to_owned();
        let mut unique = id.clone();
        let mut number = 1;
        while !seen.insert(unique.clone()) {
            number += 1;
            unique = format!("{id}.{number}");
        }
        field["@id"] = unique.into();
    }
    fields.into()
}

/// Keys as a JSON path: plain ones as they are, others quoted.
fn json_path(path: &[String]) -> String {
    let is_plain = |key: &String| {
        key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && key != "where"
    };
    let step = |key: &String| match is_plain(key) {
        true => key.clone(),
        false => format!("'{}'", key.replace('\\', r"\\").replace('\'', r"\'")),
    };
    path.iter().map(step).collect::<Vec<_>>().join(".")
}

/// The context that the specification gives, word for word.
fn context() -> Map<String, Value> {
    let mut context = Map::new();
    context.insert("@language".into(), "en".into());
    context.insert("@vocab".into(), "https://schema.org/".into());
    context.insert("sc".into(), "https://schema.org/".into());
    context.insert("cr".into(), "http://mlcommons.org/croissant/".into());
    context.insert("rai".into(), "http://mlcommons.org/croissant/RAI/".into());
    context.insert("dct".into(), "http://purl.org/dc/terms/".into());
    context.insert("conformsTo".into(), "dct:conformsTo".into());
    context.insert("data".into(), json!({ "@id": "cr:data", "@type": "@json" }));
    context.insert("dataType".into(), json!({ "@id": "cr:dataType", "@type": "@vocab" }));
    context.insert("examples".into(), json!({ "@id": "cr:examples", "@type": "@json" }));
    let own = [
        "citeAs",
        "equivalentProperty",
        "samplingRate",
        "column",
        "extract",
        "field",
        "fileProperty",
        "fileObject",
        "fileSet",
        "format",
        "includes",
        "isLiveDataset",
        "jsonPath",
        "key",
        "md5",
        "parentField",
        "path",
        "recordSet",
        "references",
        "regex",
        "repeated",
        "replace",
        "separator",
        "source",
        "subField",
        "transform",
    ];
    for term in own {
        context.insert(term.into(), format!("cr:{term}").into());
    }
    context
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_identifiers_of_odd_keys() {
        let path = |keys: &[&str]| json_path(&keys.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(path(&["title"]), "title");
        assert_eq!(path(&["a b", "it's\\", "where"]), r"'a b'.'it\'s\\'.'where'");
        assert_eq!(identifier("a b/😀"), "a_b__");
        let fields = unique(vec![json!({ "@id": "x/a_" }), json!({ "@id": "x/a_" }), json!({ "@id": "x/a_.2" })]);
        assert_eq!(fields, json!([{ "@id": "x/a_" }, { "@id": "x/a_.2" }, { "@id": "x/a_.2.2" }]));
    }
}
