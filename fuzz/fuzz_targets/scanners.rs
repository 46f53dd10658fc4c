//! Any bytes are a chunk: every scanner gives the rows of the reference, and nothing panics.

#![no_main]

use colophon::domain::row::Rows;
use colophon::domain::schema::{self, Field, FieldType, Schema};
use colophon::scan::{self, ScanJob, Scanner, reference::Reference};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

fn default_schema() -> Schema {
    Schema::new(schema::default_fields(), schema::default_constants("2024-01-15")).expect("valid")
}

/// Nested paths, a path within a captured value, one source for two fields, and every type.
fn deep_schema() -> Schema {
    let field = |from: &str, to: &str, kind, required| Field { from: from.into(), to: to.into(), kind, required };
    let fields = vec![
        field("m", "metadata.m", FieldType::Any, false),
        field("m.b", "metadata.b", FieldType::Boolean, false),
        field("m.d.b", "metadata.d", FieldType::Any, false),
        field("n", "metadata.n", FieldType::Integer, true),
        field("q", "metadata.q", FieldType::Number, false),
        field("title", "title", FieldType::Any, false),
        field("title", "again", FieldType::String, false),
        field("k\"ey", "key", FieldType::Any, false),
        field("text", "text", FieldType::String, true),
    ];
    Schema::new(fields, vec![]).expect("valid")
}

static SCHEMAS: LazyLock<[Schema; 2]> = LazyLock::new(|| [default_schema(), deep_schema()]);
static SCANNERS: LazyLock<Vec<Box<dyn Scanner>>> = LazyLock::new(scan::available);

fuzz_target!(|chunk: &[u8]| {
    let (mut expected, mut rows) = (Rows::default(), Rows::default());
    for schema in &*SCHEMAS {
        for hash in [true, false] {
            let job = ScanJob { schema, seed: 42, hash };
            Reference.scan(chunk, &job, &mut expected).expect("the reference does not fail");
            for scanner in &*SCANNERS {
                // Rows of the scan before must not shine through.
                scanner.scan(chunk, &job, &mut rows).expect("CPU scanners do not fail");
                assert_eq!(rows, expected, "{} (hash: {hash})", scanner.name());
            }
        }
    }
});
