//! What host and kernels tell each other, byte for byte as kernels/job.cuh has it.

use crate::domain::row::{Row, Span};
use crate::domain::schema::{FieldType, SourceTree};
use crate::scan::ScanJob;
use bytemuck::{Pod, Zeroable};
use twox_hash::xxhash3_64::{DEFAULT_SECRET_LENGTH, SecretBuffer};

/// Lanes of a warp: as many fields and sources as one can look after.
const WARP: usize = 32;
/// A mapped key has fewer steps than a warp has lanes, so that the open objects around it have one each.
const MOST_STEPS: usize = WARP - 1;
/// Stands for a node at which no mapped value stands.
const NO_SOURCE: u32 = 0xff;

/// Line feeds that have to follow a chunk.
pub const PADDING: usize = 512;
/// Bytes that a block of `mark_lines` and `place_lines` looks at.
pub const TILE: usize = 16 << 10;
/// Threads of a block, as the kernels have them.
pub const MARK_THREADS: u32 = 256;
/// Threads of the block of `sum_tiles`.
pub const SUM_THREADS: u32 = 256;
/// Threads of a block of `scan_rows`.
pub const ROW_THREADS: u32 = 256;
/// [`Row::code`] of a line that the device left to the host.
pub const DEFERRED: u8 = 255;

/// 64-bit words of a row and of a span, in which device memory is counted.
pub const ROW_WORDS: usize = size_of::<Row>() / 8;
/// See [`ROW_WORDS`].
pub const SPAN_WORDS: usize = size_of::<Span>() / 8;

/// What the line kernels find out about a chunk.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct ChunkFacts {
    /// Lines, the last one without a line feed included.
    pub lines: u32,
    /// Not 0 if the chunk is not UTF-8 throughout.
    pub not_utf8: u32,
    /// The next line that a warp takes.
    pub next_line: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct JobField {
    source: u8,
    kind: u8,
    required: u8,
    reserved: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct JobNode {
    first_child: u32,
    children: u32,
    sources_within: u32,
    source: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct JobChild {
    head: u64,
    key: u32,
    key_len: u32,
    node: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Job {
    seed: u64,
    secret: [u8; DEFAULT_SECRET_LENGTH],
    seeded_secret: [u8; DEFAULT_SECRET_LENGTH],
    nodes: u32,
    children: u32,
    keys: u32,
    fields: u32,
    sources: u32,
    text_field: u32,
    text_source: u32,
    hash_wanted: u32,
    longest_line: u32,
    reserved: u32,
    field: [JobField; WARP],
}

/// The job as the kernels read it, or `None` if its schema has more fields, or longer paths, than a
/// warp can look after. Lines of more than `longest_line` bytes are left to the host.
pub fn job_bytes(job: &ScanJob, longest_line: u32) -> Option<Vec<u8>> {
    let fields = job.schema.fields();
    let is_too_deep = fields.iter().any(|field| field.from.split('.').count() > MOST_STEPS);
    if fields.len() > WARP || is_too_deep {
        return None;
    }
    let Tree { nodes, children, keys } = Tree::new(job.schema.tree());
    let nodes_at = size_of::<Job>();
    let children_at = nodes_at + size_of_val(&nodes[..]);
    let keys_at = children_at + size_of_val(&children[..]);
    let mut field = [JobField::default(); WARP];
    for (i, (to, from)) in field.iter_mut().zip(fields).enumerate() {
        *to = JobField {
            source: job.schema.source_of(i) as u8,
            kind: kind_code(from.kind),
            required: from.required.into(),
            reserved: 0,
        };
    }
    let head = Job {
        seed: job.seed,
        secret: secret(0),
        seeded_secret: secret(job.seed),
        nodes: nodes_at as u32,
        children: children_at as u32,
        keys: keys_at as u32,
        fields: fields.len() as u32,
        sources: job.schema.tree().sources() as u32,
        text_field: job.schema.text_field() as u32,
        text_source: job.schema.text_source() as u32,
        hash_wanted: job.hash.into(),
        longest_line,
        reserved: 0,
        field,
    };
    let parts = [bytemuck::bytes_of(&head), bytemuck::cast_slice(&nodes), bytemuck::cast_slice(&children), &keys];
    Some(parts.concat())
}

/// XXH3's secret for a seed; for 0 that is the default one.
fn secret(seed: u64) -> [u8; DEFAULT_SECRET_LENGTH] {
    match SecretBuffer::with_seed(seed, [0; DEFAULT_SECRET_LENGTH]) {
        Ok(buffer) => buffer.into_secret(),
        Err(_) => unreachable!("the secret has the length that is asked for"),
    }
}

fn kind_code(kind: FieldType) -> u8 {
    match kind {
        FieldType::String => 0,
        FieldType::Number => 1,
        FieldType::Integer => 2,
        FieldType::Boolean => 3,
        FieldType::Any => 4,
    }
}

/// The tree of mapped keys as tables.
#[derive(Default)]
struct Tree {
    nodes: Vec<JobNode>,
    children: Vec<JobChild>,
    keys: Vec<u8>,
}

impl Tree {
    fn new(tree: &SourceTree) -> Tree {
        let mut tables = Tree::default();
        for node in tree.nodes() {
            tables.nodes.push(JobNode {
                first_child: tables.children.len() as u32,
                children: node.children.len() as u32,
                sources_within: node.sources_within.iter().fold(0, |bits, source| bits | 1 << source),
                source: node.source.map_or(NO_SOURCE, u32::from),
            });
            for (key, child) in &node.children {
                tables.children.push(JobChild {
                    head: crate::domain::schema::Key::head(key.bytes()),
                    key: tables.keys.len() as u32,
                    key_len: key.bytes().len() as u32,
                    node: (*child).into(),
                    reserved: 0,
                });
                tables.keys.extend_from_slice(key.bytes());
            }
        }
        tables
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::schema::{Field, Schema, default_constants, default_fields};

    #[test]
    fn structs_have_the_sizes_that_the_kernels_expect() {
        assert_eq!(size_of::<Job>(), 8 + 2 * 192 + 10 * 4 + 32 * 4);
        assert_eq!(size_of::<JobNode>(), 16);
        assert_eq!(size_of::<JobChild>(), 24);
        assert_eq!((ROW_WORDS, SPAN_WORDS), (4, 1));
    }

    #[test]
    fn a_schema_that_a_warp_cannot_hold_is_left_to_the_cpu() {
        let fits = |extra: Vec<Field>| {
            let fields = default_fields().into_iter().chain(extra).collect();
            let schema = Schema::new(fields, default_constants("2024-01-15")).expect("valid");
            job_bytes(&ScanJob { schema: &schema, seed: 1, hash: true }, 1 << 20).is_some()
        };
        let field = |i: usize, from: String| Field {
            from,
            to: format!("metadata.x{i}"),
            kind: FieldType::Any,
            required: false,
        };
        assert!(fits((6..32).map(|i| field(i, format!("f{i}"))).collect()));
        assert!(!fits((6..33).map(|i| field(i, format!("f{i}"))).collect()));
        assert!(fits(vec![field(0, vec!["a"; 31].join("."))]));
        assert!(!fits(vec![field(0, vec!["a"; 32].join("."))]));
    }
}
