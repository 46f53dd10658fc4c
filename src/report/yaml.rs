//! YAML for the header of a dataset card.
//!
//! Two kinds of readers have to agree on it: Python's read YAML 1.1, where `no`, `12:30` and `2024-01-15` are not
//! text; the Hub's reads YAML 1.2. So all text is quoted but for what is a word to everybody, and everything
//! beyond printable characters is escaped.

use serde_json::{Map, Value};
use std::fmt::Write;

/// Words that are values in one YAML or another, in lower case.
const VALUES: [&str; 12] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "none"];

/// A mapping as a block, in its order.
pub fn block(mapping: &Map<String, Value>) -> String {
    let mut out = String::new();
    write_mapping(mapping, 0, &mut out);
    out
}

fn write_mapping(mapping: &Map<String, Value>, indent: usize, out: &mut String) {
    for (key, value) in mapping {
        out.extend(std::iter::repeat_n(' ', indent));
        out.push_str(&scalar(key));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                write_mapping(inner, indent + 2, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                write_sequence(items, indent, out);
            }
            value => {
                let _ = writeln!(out, " {}", flow(value));
            }
        }
    }
}

fn write_sequence(items: &[Value], indent: usize, out: &mut String) {
    for item in items {
        out.extend(std::iter::repeat_n(' ', indent));
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => {
                let mut block = String::new();
                write_mapping(inner, indent + 2, &mut block);
                out.push_str(&block[indent + 2..]);
            }
            item => {
                let _ = writeln!(out, "{}", flow(item));
            }
        }
    }
}

/// A value on one line.
fn flow(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            // Without an exponent, which YAML 1.1 knows only with a point and a sign.
            Some(float) if float.fract() == 0.0 => format!("{float}.0"),
            Some(float) => float.to_string(),
            None => number.to_string(),
        },
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| format!("{}: {}", scalar(key), flow(value));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
        }
    }
}

/// Text, quoted unless it is plain to all.
fn scalar(text: &str) -> String {
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'));
    if is_word && !VALUES.contains(&text.to_ascii_lowercase().as_str()) {
        return text.into();
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if is_printable(c) => quoted.push(c),
            c if u32::from(c) < 0x100 => drop(write!(quoted, "\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x1_0000 => drop(write!(quoted, "\\u{:04x}", u32::from(c))),
            c => drop(write!(quoted, "\\U{:08x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// What may stand in a quoted text as it is: printable in YAML, and no line end in any version of it.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}'
        | '\u{ff00}'..='\u{fffd}' | '\u{1_0000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn blocks_read_as_people_write_them() {
        let value = json!({
            "language": ["en", "no"],
            "license": "cc-by-4.0",
            "size": "1K<n<10K",
            "configs": [{ "config_name": "default", "data_files": [{ "split": "train", "path": "a-*.jsonl" }] }],
            "empty": [], "nothing": {}, "none": null, "n": 7, "f": 1e22, "nested": { "a": { "b": true } },
        });
        let expected = "\
language:
- en
- \"no\"
license: cc-by-4.0
size: \"1K<n<10K\"
configs:
- config_name: default
  data_files:
  - split: train
    path: \"a-*.jsonl\"
empty: []
nothing: {}
\"none\": null
\"n\": 7
f: 10000000000000000000000.0
nested:
  a:
    b: true
";
        assert_eq!(block(value.as_object().expect("an object")), expected);
    }

    #[test]
    fn text_stays_text() {
        for (text, yaml) in [
            ("Yes", "\"Yes\""),
            ("12:30", "\"12:30\""),
            ("2024-01-15", "\"2024-01-15\""),
            ("", "\"\""),
            ("~", "\"~\""),
            ("a: b # c", "\"a: b # c\""),
            ("x\"\\\n---\n", r#""x\"\\\n---\n""#),
            ("\u{0}\u{7f}\u{85}\u{2028}\u{feff}\u{ffff}", r#""\x00\x7f\x85\u2028\ufeff\uffff""#),
            ("Grüße 😀 日本", "\"Grüße 😀 日本\""),
        ] {
            assert_eq!(scalar(text), yaml);
        }
    }
}
