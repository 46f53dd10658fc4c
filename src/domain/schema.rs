//! The export schema: which value of a curated document becomes which value of a training document.
//!
//! A [`Schema`] is what a job file says, checked. From it come the two things that the stages need:
//! the [`SourceTree`] by which a scanner finds the mapped values in a line, and the order of
//! [`Output`]s by which the writer puts a line together.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// The most fields a schema can have: a field's index must fit a byte of a row.
pub const MAX_FIELDS: usize = 200;
/// The most steps of a dotted path.
pub const MAX_PATH_STEPS: usize = 32;
/// The field that every document must have, and the only one that is measured.
pub const TEXT: &str = "text";
/// The object that every exported line has, even where nothing was mapped into it.
pub const METADATA: &str = "metadata";

/// What a mapped value has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    /// A string.
    String,
    /// A number of any form that JSON has.
    Number,
    /// A number without fraction and exponent.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// Any value but `null`, which counts as absent.
    Any,
}

impl FieldType {
    /// Whether a value, given as it stands in the line, is of this type.
    pub fn accepts(self, raw: &[u8]) -> bool {
        let number = || raw.first().is_some_and(|b| *b == b'-' || b.is_ascii_digit());
        match self {
            FieldType::String => raw.first() == Some(&b'"'),
            FieldType::Number => number(),
            FieldType::Integer => number() && !raw.iter().any(|b| matches!(b, b'.' | b'e' | b'E')),
            FieldType::Boolean => matches!(raw.first(), Some(b't' | b'f')),
            FieldType::Any => true,
        }
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FieldType::String => "string",
            FieldType::Number => "number",
            FieldType::Integer => "integer",
            FieldType::Boolean => "boolean",
            FieldType::Any => "any",
        })
    }
}

/// One mapped field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Dotted path in the input document.
    pub from: String,
    /// Dotted path in the output document.
    pub to: String,
    /// What the value has to be.
    #[serde(rename = "type", default = "any")]
    pub kind: FieldType,
    /// Whether a document without it is rejected.
    #[serde(default)]
    pub required: bool,
}

fn any() -> FieldType {
    FieldType::Any
}

/// A value that every exported document gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Dotted path in the output document.
    pub to: String,
    /// The value.
    pub value: Value,
}

/// A checked schema.
#[derive(Clone, Debug)]
pub struct Schema {
    fields: Vec<Field>,
    constants: Vec<Constant>,
    /// For each field, its source's index.
    source_of: Vec<usize>,
    text_field: usize,
    tree: SourceTree,
    outputs: Vec<Output>,
}

/// The mapped fields of the default schema: from, to, type, required.
const DEFAULT_FIELDS: [(&str, &str, FieldType, bool); 6] = [
    (TEXT, TEXT, FieldType::String, true),
    ("title", "metadata.title", FieldType::String, false),
    ("url", "metadata.source_url", FieldType::String, false),
    ("domain", "metadata.domain", FieldType::String, false),
    ("quality_prob", "metadata.quality_score", FieldType::Number, false),
    ("word_count", "metadata.word_count", FieldType::Number, false),
];

/// The fields of the default schema.
pub fn default_fields() -> Vec<Field> {
    let field = |&(from, to, kind, required): &(&str, &str, FieldType, bool)| Field {
        from: from.into(),
        to: to.into(),
        kind,
        required,
    };
    DEFAULT_FIELDS.iter().map(field).collect()
}

/// The constants of the default schema. `date` is the day of the export, `YYYY-MM-DD`.
pub fn default_constants(date: &str) -> Vec<Constant> {
    let constant = |to: &str, value: &str| Constant { to: to.into(), value: value.into() };
    vec![
        constant("metadata.source", "unknown"),
        constant("metadata.curation_pipeline", concat!("colophon-", env!("CARGO_PKG_VERSION"))),
        constant("metadata.curation_date", date),
    ]
}

impl Schema {
    /// Checks fields and constants and makes the schema.
    ///
    /// # Errors
    /// A sentence for the user: no text, a path that is empty or taken twice or leads through
    /// another value, or more fields than [`MAX_FIELDS`].
    pub fn new(fields: Vec<Field>, constants: Vec<Constant>) -> Result<Schema, String> {
        if fields.len() > MAX_FIELDS {
            return Err(format!("the schema has {} fields; {MAX_FIELDS} is the most", fields.len()));
        }
        for path in fields.iter().flat_map(|f| [&f.from, &f.to]).chain(constants.iter().map(|c| &c.to)) {
            check_path(path)?;
        }
        let text_field = fields
            .iter()
            .position(|f| f.to == TEXT)
            .ok_or("the schema has no field with to = \"text\": every exported document needs one")?;
        if fields[text_field].kind != FieldType::String || !fields[text_field].required {
            return Err("the field with to = \"text\" must have type = \"string\" and required = true".into());
        }
        let outputs = Output::tree(&fields, &constants)?;
        let (tree, source_of) = SourceTree::new(&fields);
        Ok(Schema { fields, constants, source_of, text_field, tree, outputs })
    }

    /// The mapped fields, in order.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The constants, in order.
    pub fn constants(&self) -> &[Constant] {
        &self.constants
    }

    /// The index of the source that a field reads. Two fields may read one source.
    pub fn source_of(&self, field: usize) -> usize {
        self.source_of[field]
    }

    /// The index of the source that is written to this output path, if any is.
    pub fn source_to(&self, to: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.to == to).map(|field| self.source_of[field])
    }

    /// The index of the text's field.
    pub fn text_field(&self) -> usize {
        self.text_field
    }

    /// The index of the text's source.
    pub fn text_source(&self) -> usize {
        self.source_of[self.text_field]
    }

    /// How a scanner finds the mapped values.
    pub fn tree(&self) -> &SourceTree {
        &self.tree
    }

    /// What an exported line is made of, in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }
}

fn check_path(path: &str) -> Result<(), String> {
    let steps = path.split('.').count();
    if path.split('.').any(str::is_empty) || steps > MAX_PATH_STEPS {
        return Err(format!("'{path}' is not a path: write keys with points between them, such as metadata.title"));
    }
    Ok(())
}

/// The mapped paths of the input as a tree of keys.
#[derive(Clone, Debug)]
pub struct SourceTree {
    nodes: Vec<SourceNode>,
    sources: usize,
}

/// A key on the way to a mapped value.
#[derive(Clone, Debug, Default)]
pub struct SourceNode {
    /// Keys below this one, decoded, with the node each leads to.
    pub children: Vec<(Key, u16)>,
    /// The source whose value stands here.
    pub source: Option<u8>,
    /// This node's source and all below it: what a second occurrence of the key makes void.
    pub sources_within: Vec<u8>,
}

/// A key, made for comparing quickly.
#[derive(Clone, Debug)]
pub struct Key {
    bytes: Box<[u8]>,
    /// The first eight bytes, filled up with zeros.
    head: u64,
    /// Whether the key can stand in JSON as it is. One with a backslash cannot.
    plain: bool,
}

impl Key {
    fn new(key: &str) -> Key {
        Key { bytes: key.as_bytes().into(), head: Key::head(key.as_bytes()), plain: !key.contains('\\') }
    }

    /// The first eight bytes of a key.
    #[inline(always)]
    pub fn head(key: &[u8]) -> u64 {
        let mut head = [0; 8];
        let len = key.len().min(8);
        head[..len].copy_from_slice(&key[..len]);
        u64::from_le_bytes(head)
    }

    /// Whether this is the key that stands in JSON as `other`, without escapes; `head` is its head.
    #[inline(always)]
    pub fn is(&self, other: &[u8], head: u64) -> bool {
        self.plain
            && self.head == head
            && self.bytes.len() == other.len()
            && (other.len() <= 8 || *self.bytes == *other)
    }

    /// The key's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl SourceTree {
    /// The node of the whole document.
    pub const ROOT: u16 = 0;

    fn new(fields: &[Field]) -> (SourceTree, Vec<usize>) {
        let mut tree = SourceTree { nodes: vec![SourceNode::default()], sources: 0 };
        let source_of = fields.iter().map(|field| tree.insert(&field.from)).collect();
        (tree, source_of)
    }

    fn insert(&mut self, path: &str) -> usize {
        let mut way = Vec::new();
        let mut at = usize::from(Self::ROOT);
        for key in path.split('.') {
            let known =
                self.nodes[at].children.iter().find(|(k, _)| k.bytes() == key.as_bytes()).map(|c| usize::from(c.1));
            at = known.unwrap_or_else(|| {
                let new = self.nodes.len();
                self.nodes.push(SourceNode::default());
                // At most MAX_FIELDS × MAX_PATH_STEPS nodes: the index fits.
                self.nodes[at].children.push((Key::new(key), new as u16));
                new
            });
            way.push(at);
        }
        if let Some(source) = self.nodes[at].source {
            return usize::from(source);
        }
        let source = self.sources as u8;
        self.sources += 1;
        self.nodes[at].source = Some(source);
        for node in way {
            self.nodes[node].sources_within.push(source);
        }
        usize::from(source)
    }

    /// How many different values are looked for: the number of spans a line has.
    pub fn sources(&self) -> usize {
        self.sources
    }

    /// All nodes, by number.
    pub fn nodes(&self) -> &[SourceNode] {
        &self.nodes
    }

    /// A node by its number.
    pub fn node(&self, node: u16) -> &SourceNode {
        &self.nodes[usize::from(node)]
    }

    /// The node below `node` for a key, given decoded.
    pub fn child(&self, node: u16, key: &[u8]) -> Option<u16> {
        self.node(node).children.iter().find(|(k, _)| k.bytes() == key).map(|(_, child)| *child)
    }
}

/// A piece of an exported line.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// `"key":{` … `}` around pieces.
    Object {
        /// The key as JSON, with its colon.
        key: Vec<u8>,
        /// What stands inside.
        pieces: Vec<Output>,
    },
    /// `"key":` and a mapped value; nothing where the value is absent.
    Field {
        /// The key as JSON, with its colon.
        key: Vec<u8>,
        /// Index of the field in the schema.
        field: usize,
        /// What to write where the value is absent, if anything.
        absent: Option<&'static [u8]>,
    },
    /// `"key":value`, always the same.
    Constant {
        /// Key, colon and value as JSON.
        json: Vec<u8>,
    },
}

/// What a path of the output leads to.
enum Leaf<'a> {
    Field(usize),
    Constant(&'a Value),
}

impl Output {
    /// The pieces in the order in which their keys first occur, fields before constants.
    fn tree(fields: &[Field], constants: &[Constant]) -> Result<Vec<Output>, String> {
        let mut root = Vec::new();
        for (index, field) in fields.iter().enumerate() {
            Self::insert(&mut root, &field.to, &field.to, Leaf::Field(index))?;
        }
        for constant in constants {
            Self::insert(&mut root, &constant.to, &constant.to, Leaf::Constant(&constant.value))?;
        }
        let metadata = json_key(METADATA);
        match root.iter_mut().find(|o| o.has_key(&metadata)) {
            None => root.push(Output::Object { key: metadata, pieces: Vec::new() }),
            Some(Output::Field { absent, .. }) => *absent = Some(b"{}"),
            Some(_) => {}
        }
        Ok(root)
    }

    fn has_key(&self, wanted: &[u8]) -> bool {
        match self {
            Output::Object { key, .. } | Output::Field { key, .. } => key == wanted,
            Output::Constant { json } => json.starts_with(wanted),
        }
    }

    fn insert(pieces: &mut Vec<Output>, rest: &str, whole: &str, leaf: Leaf) -> Result<(), String> {
        let (first, below) = rest.split_once('.').map_or((rest, None), |(f, b)| (f, Some(b)));
        let key = json_key(first);
        let found = pieces.iter().position(|o| o.has_key(&key));
        match (below, found) {
            (None, None) => {
                pieces.push(match leaf {
                    Leaf::Field(field) => Output::Field { key, field, absent: None },
                    Leaf::Constant(value) => Output::Constant { json: [key, value.to_string().into_bytes()].concat() },
                });
                Ok(())
            }
            (None, Some(_)) => Err(format!("two values of the schema go to '{whole}'")),
            (Some(below), found) => {
                let at = found.unwrap_or_else(|| {
                    pieces.push(Output::Object { key, pieces: Vec::new() });
                    pieces.len() - 1
                });
                match &mut pieces[at] {
                    Output::Object { pieces, .. } => Self::insert(pieces, below, whole, leaf),
                    _ => Err(format!("'{whole}' cannot be written: a part of its path is a value of its own")),
                }
            }
        }
    }
}

/// A key as it is written: quoted, escaped, with its colon.
fn json_key(key: &str) -> Vec<u8> {
    [Value::from(key).to_string().as_bytes(), b":"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(from: &str, to: &str) -> Field {
        Field { from: from.into(), to: to.into(), kind: FieldType::Any, required: false }
    }

    fn with(mut extra: Vec<Field>, constants: &[&str]) -> Result<Schema, String> {
        let mut fields = default_fields();
        fields.append(&mut extra);
        Schema::new(fields, constants.iter().map(|&to| Constant { to: to.into(), value: 1.into() }).collect())
    }

    #[test]
    fn one_source_serves_two_fields() {
        let schema = with(vec![field("url", "id"), field("a.b", "c")], &[]).expect("valid");
        assert_eq!(schema.tree().sources(), 7);
        assert_eq!(schema.source_of(6), schema.source_to("metadata.source_url").expect("mapped"));
    }

    #[test]
    fn a_repeated_key_makes_all_below_it_void() {
        let schema = with(vec![field("a", "a"), field("a.b", "b"), field("a.c.d", "c")], &[]).expect("valid");
        let a = schema.tree().child(SourceTree::ROOT, b"a").expect("known");
        assert_eq!(schema.tree().node(a).sources_within, [6, 7, 8]);
    }

    #[test]
    fn says_what_is_wrong() {
        for (schema, part) in [
            (with(vec![field("x", "metadata.title")], &[]), "two values"),
            (with(vec![], &["text"]), "two values"),
            (with(vec![], &["text.x"]), "a value of its own"),
            (with(vec![field("a..b", "c")], &[]), "'a..b' is not a path"),
            (Schema::new(vec![field("text", "text")], vec![]), "type = \"string\""),
            (Schema::new(vec![], vec![]), "no field"),
        ] {
            let message = schema.expect_err(part);
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn integers_have_no_fraction() {
        assert!(FieldType::Integer.accepts(b"-12"));
        assert!(!FieldType::Integer.accepts(b"1.0"));
        assert!(!FieldType::Integer.accepts(b"1e3"));
        assert!(FieldType::Number.accepts(b"1e3"));
        assert!(!FieldType::Number.accepts(b"\"1\""));
    }
}
