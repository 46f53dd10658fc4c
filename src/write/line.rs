//! The exported line: compact JSON around values that are copied as they stand in the input.

use crate::domain::row::Span;
use crate::domain::schema::{Output, Schema};

/// Puts lines together for one schema.
pub struct LineWriter {
    pieces: Vec<Piece>,
    /// Bytes that a line has beside its values, at most.
    frame: usize,
}

/// [`Output`] made flat, with a comma in front of everything that may need one.
enum Piece {
    /// `,"key":{`
    Open(Vec<u8>),
    /// `}`
    Close,
    /// `,"key":` and the value of a source.
    Value { key: Vec<u8>, source: usize, absent: Option<&'static [u8]> },
    /// `,"key":value`
    Constant(Vec<u8>),
}

impl LineWriter {
    /// A writer for this schema.
    pub fn new(schema: &Schema) -> LineWriter {
        let mut pieces = Vec::new();
        flatten(schema, schema.outputs(), &mut pieces);
        let bytes = |piece: &Piece| match piece {
            Piece::Open(json) | Piece::Constant(json) => json.len(),
            Piece::Value { key, absent, .. } => key.len() + absent.map_or(0, <[u8]>::len),
            Piece::Close => 1,
        };
        let frame = 3 + pieces.iter().map(bytes).sum::<usize>();
        LineWriter { pieces, frame }
    }

    /// Bytes that `lines` lines have beside their values, at most.
    pub fn frame_bytes(&self, lines: usize) -> usize {
        self.frame * lines
    }

    /// Adds the exported line of a document, with its line feed.
    ///
    /// # Panics
    /// If `spans` are not those of `line`.
    pub fn write(&self, line: &[u8], spans: &[Span], out: &mut Vec<u8>) {
        out.push(b'{');
        // Whether something stands before, within the same object: only then is a comma needed.
        let mut comma = 0;
        for piece in &self.pieces {
            match piece {
                Piece::Value { key, source, absent } => {
                    let span = spans[*source];
                    let value = match absent {
                        _ if !span.is_absent() => span.of(line),
                        Some(default) => default,
                        None => continue,
                    };
                    out.extend_from_slice(&key[1 - comma..]);
                    out.extend_from_slice(value);
                    comma = 1;
                }
                Piece::Constant(json) => {
                    out.extend_from_slice(&json[1 - comma..]);
                    comma = 1;
                }
                Piece::Open(json) => {
                    out.extend_from_slice(&json[1 - comma..]);
                    comma = 0;
                }
                Piece::Close => {
                    out.push(b'}');
                    comma = 1;
                }
            }
        }
        out.extend_from_slice(b"}\n");
    }
}

fn flatten(schema: &Schema, outputs: &[Output], pieces: &mut Vec<Piece>) {
    let after_comma = |json: &[u8]| [b",", json].concat();
    for output in outputs {
        match output {
            Output::Object { key, pieces: inner } => {
                pieces.push(Piece::Open([b",", &key[..], b"{"].concat()));
                flatten(schema, inner, pieces);
                pieces.push(Piece::Close);
            }
            Output::Field { key, field, absent } => {
                let source = schema.source_of(*field);
                pieces.push(Piece::Value { key: after_comma(key), source, absent: *absent });
            }
            Output::Constant { json } => pieces.push(Piece::Constant(after_comma(json))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::row::Rows;
    use crate::domain::schema::{Constant, Field, FieldType, default_constants, default_fields};
    use crate::scan::{ScanJob, Scanner, reference::Reference};

    fn written(schema: &Schema, line: &str) -> String {
        let mut rows = Rows::default();
        Reference.scan(line.as_bytes(), &ScanJob { schema, seed: 0, hash: true }, &mut rows).expect("scans");
        let mut out = Vec::new();
        let writer = LineWriter::new(schema);
        for (row, spans) in rows.iter() {
            writer.write(row.line(line.as_bytes()), spans, &mut out);
        }
        assert!(out.len() <= line.len() + writer.frame_bytes(1));
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn values_are_copied_byte_for_byte_in_the_schema_s_order() {
        let schema = Schema::new(default_fields(), default_constants("2024-01-15")).expect("valid");
        let line = r#"{"quality_prob" : 0.870, "id":7, "title": "\u0041\/b", "text": "x\n", "domain":null}"#;
        let expected = concat!(
            r#"{"text":"x\n","metadata":{"title":"\u0041\/b","quality_score":0.870,"source":"unknown","#,
            r#""curation_pipeline":"colophon-0.1.0","curation_date":"2024-01-15"}}"#,
            "\n"
        );
        assert_eq!(written(&schema, line), expected);
    }

    #[test]
    fn objects_and_commas_come_out_right() {
        let field =
            |from: &str, to: &str| Field { from: from.into(), to: to.into(), kind: FieldType::Any, required: false };
        let mut fields = vec![field("a", "a.b"), field("c", "a.d.e"), field("f", "f")];
        fields.push(Field { kind: FieldType::String, required: true, ..field("text", "text") });
        let schema = Schema::new(fields.clone(), vec![]).expect("valid");
        assert_eq!(written(&schema, r#"{"text":"x"}"#), "{\"a\":{\"d\":{}},\"text\":\"x\",\"metadata\":{}}\n");
        assert_eq!(
            written(&schema, r#"{"text":"x","c":[1, 2],"f":{"g":1}}"#),
            "{\"a\":{\"d\":{\"e\":[1, 2]}},\"f\":{\"g\":1},\"text\":\"x\",\"metadata\":{}}\n"
        );
        fields.push(field("meta", "metadata"));
        let schema = Schema::new(fields, vec![Constant { to: "z".into(), value: true.into() }]).expect("valid");
        assert_eq!(
            written(&schema, r#"{"text":"x","a":1}"#),
            "{\"a\":{\"b\":1,\"d\":{}},\"text\":\"x\",\"metadata\":{},\"z\":true}\n"
        );
    }
}
