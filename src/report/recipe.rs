//! How to make an export again: the command, and the job file where flags do not say it all.

use crate::domain::schema::{default_constants, default_fields};
use serde_json::{Map, Value, json};

/// How to make an export again.
pub struct Recipe {
    /// The command, ready for a shell.
    pub command: String,
    /// The job file that it names, if it needs one.
    pub job: Option<String>,
}

/// The recipe for a manifest's configuration. Folders are not part of it: a dataset does not know where it lies.
pub fn recipe(configuration: &Map<String, Value>) -> Recipe {
    let options = options(configuration);
    let job = (!says_it_all(configuration)).then(|| job_file(configuration, &options));
    let mut lines = vec!["colophon export --input-dir INPUT --output-dir OUTPUT".to_owned()];
    let in_flags = |value: &Value| job.is_none() || !fits_toml(value);
    lines.extend(options.iter().filter(|(_, value)| in_flags(value)).map(|(key, value)| flag(key, value)));
    match &job {
        Some(_) => lines.insert(1, "--job job.toml".into()),
        None => {
            let constants = configuration.get("constants").and_then(Value::as_object).into_iter().flatten();
            lines
                .extend(constants.map(|(path, value)| format!("--set {}", quoted(&format!("{path}={}", text(value))))));
        }
    }
    Recipe { command: lines.join(" \\\n  "), job }
}

/// Keys of the configuration that are no options, or tables.
const TABLES: [&str; 4] = ["fields", "filters", "constants", "card"];

/// What was set, by option, those of the card included.
fn options(configuration: &Map<String, Value>) -> Vec<(String, Value)> {
    let card = configuration.get("card");
    let no_card = card.is_some_and(Value::is_null).then(|| ("no_card".to_owned(), Value::Bool(true)));
    let of_card = card.and_then(Value::as_object).into_iter().flatten().filter(|(key, _)| *key != "header");
    let plain = configuration.iter().filter(|(key, _)| !TABLES.contains(&key.as_str()));
    let all = plain.chain(of_card).map(|(key, value)| (key.clone(), value.clone())).chain(no_card);
    let is_set = |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && *value != json!([]);
    all.filter(|(_, value)| is_set(value)).map(|(key, value)| (key.replace('_', "-"), value)).collect()
}

/// Whether flags alone can say it.
fn says_it_all(configuration: &Map<String, Value>) -> bool {
    let is_empty = |value: Option<&Value>| match value {
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(members)) => members.is_empty(),
        value => value.is_none_or(Value::is_null),
    };
    let has_default_fields = configuration.get("fields") == Some(&json!(default_fields()));
    let constants = configuration.get("constants").and_then(Value::as_object);
    let are_flags = constants.into_iter().flatten().all(|(path, value)| value.is_string() && !path.contains('='));
    let header = configuration.get("card").and_then(|card| card.get("header"));
    let has_zero = configuration.values().chain(constants.into_iter().flat_map(Map::values)).any(has_null_byte);
    has_default_fields
        && are_flags
        && has_default_constants(configuration)
        && !has_zero
        && is_empty(configuration.get("filters"))
        && is_empty(header)
}

/// No argument can have a null byte.
fn has_null_byte(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_null_byte),
        Value::Object(members) => members.values().any(has_null_byte),
        _ => false,
    }
}

fn has_default_constants(configuration: &Map<String, Value>) -> bool {
    let constants = configuration.get("constants").and_then(Value::as_object);
    default_constants("").iter().all(|default| constants.is_some_and(|all| all.contains_key(&default.to)))
}

/// TOML has no integers beyond 63 bits.
fn fits_toml(value: &Value) -> bool {
    value.as_u64().is_none_or(|number| i64::try_from(number).is_ok())
}

fn job_file(configuration: &Map<String, Value>, options: &[(String, Value)]) -> String {
    let mut job: Map<String, Value> = options.iter().filter(|(_, value)| fits_toml(value)).cloned().collect();
    if !has_default_constants(configuration) {
        job.insert("default-constants".into(), false.into());
    }
    let mut table = |key: &str, value: Option<&Value>| {
        let is_empty = |value: &Value| value.is_null() || *value == json!([]) || *value == json!({});
        if let Some(value) = value.filter(|value| !is_empty(value)) {
            job.insert(key.into(), without_nulls(value));
        }
    };
    table("field", configuration.get("fields"));
    table("filter", configuration.get("filters"));
    table("constants", configuration.get("constants"));
    table("card", configuration.get("card").and_then(|card| card.get("header")));
    // What came from TOML goes back to it.
    toml::to_string(&job).unwrap_or_default()
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().filter(|item| !item.is_null()).map(without_nulls).collect(),
        Value::Object(members) => {
            let kept = members.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        value => value.clone(),
    }
}

fn flag(key: &str, value: &Value) -> String {
    match value {
        Value::Bool(_) => format!("--{key}"),
        value => format!("--{key} {}", quoted(&text(value))),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        value => value.to_string(),
    }
}

/// An argument as a POSIX shell reads it.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        return argument.into();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(change: impl FnOnce(&mut Value)) -> Map<String, Value> {
        let constants: Map<_, _> = default_constants("2024-01-15").into_iter().map(|c| (c.to, c.value)).collect();
        let mut value = json!({
            "seed": 42, "split_names": ["a", "b"], "compress": null, "fields": default_fields(),
            "constants": constants, "card": { "license": null, "tags": [], "header": {} },
        });
        change(&mut value);
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn flags_where_they_say_it_all() {
        let recipe = recipe(&configuration(|c| {
            c["card"]["license"] = "it's mine".into();
            c["forbid_leakage"] = true.into();
        }));
        let expected = concat!(
            "colophon export --input-dir INPUT --output-dir OUTPUT \\\n  --seed 42 \\\n  --split-names a,b \\\n  ",
            "--forbid-leakage \\\n  --license 'it'\\''s mine' \\\n  --set metadata.source=unknown \\\n  ",
            "--set metadata.curation_pipeline=colophon-",
            env!("CARGO_PKG_VERSION"),
            " \\\n  --set metadata.curation_date=2024-01-15"
        );
        assert_eq!(recipe.command, expected);
        assert!(recipe.job.is_none());
        assert!(super::recipe(&configuration(|c| c["card"] = Value::Null)).command.contains("--no-card"));
    }

    #[test]
    fn a_job_file_where_they_do_not() {
        let changed = configuration(|c| {
            c["seed"] = u64::MAX.into();
            c["filters"] = json!([{ "field": "domain", "min": null, "in": ["x"] }]);
            c["constants"] = json!({ "metadata.n": 7 });
            c["card"]["header"] = json!({ "size_categories": ["n<1K"] });
        });
        let recipe = recipe(&changed);
        assert!(recipe.command.contains("--job job.toml") && recipe.command.contains("--seed 18446744073709551615"));
        let job: toml::Table = recipe.job.expect("a job file").parse().expect("TOML");
        assert_eq!(job["default-constants"], toml::Value::Boolean(false));
        assert_eq!(job["constants"]["metadata.n"], toml::Value::Integer(7));
        assert_eq!(job["filter"][0]["in"][0].as_str(), Some("x"));
        assert_eq!(job["field"].as_array().map(Vec::len), Some(6));
        assert_eq!(job["card"]["size_categories"][0].as_str(), Some("n<1K"));
    }
}
