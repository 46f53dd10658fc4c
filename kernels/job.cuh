// What the host says of a job, and what the kernels answer. src/scan/cuda/layout.rs has the same structs.
#pragma once
#include "common.cuh"

// Fields and sources that a lane each can look after; a schema with more is scanned on the CPU.
constexpr u32 MOST_FIELDS = WARP;

// How many bytes of line feeds follow a chunk, so that blocks may be read across its end.
constexpr u32 PADDING = 512;

constexpr u32 SECRET_BYTES = 192;

constexpr u8 NO_SOURCE = 0xff;

// The types of a field.
enum FieldKind : u8 { STRING = 0, NUMBER = 1, INTEGER = 2, BOOLEAN = 3, ANY = 4 };

// A mapped field.
struct JobField {
    u8 source;
    FieldKind kind;
    u8 required;
    u8 reserved;
};

// A key on the way to mapped values.
struct JobNode {
    u32 first_child;
    u32 children;
    // Sources at this node and below it, one bit each.
    u32 sources_within;
    // The source whose value stands here, or NO_SOURCE.
    u32 source;
};

// A key below a node.
struct JobChild {
    // The key's first eight bytes, filled up with zeros.
    u64 head;
    // The key, decoded, in the job's bytes.
    u32 key;
    u32 key_len;
    // The node that it leads to.
    u32 node;
    u32 reserved;
};

// Behind the struct follow its nodes, children and keys, at these distances in bytes from its start.
struct Job {
    u64 seed;
    // XXH3's secret, and the one made from it for this seed.
    u8 secret[SECRET_BYTES];
    u8 seeded_secret[SECRET_BYTES];
    u32 nodes;
    u32 children;
    u32 keys;
    u32 fields;
    u32 sources;
    u32 text_field;
    u32 text_source;
    u32 hash_wanted;
    // Lines with more bytes are left to the host.
    u32 longest_line;
    u32 reserved;
    JobField field[MOST_FIELDS];
};

// What the line kernels find out about a chunk.
struct ChunkFacts {
    // Lines, the last one without a line feed included.
    u32 lines;
    // Not 0 if the chunk is not UTF-8 throughout.
    u32 not_utf8;
    // The next line that a warp may take.
    u32 next_line;
    u32 reserved;
};

// One line, measured: Row of src/domain/row.rs.
struct Row {
    u64 hash;
    u32 start;
    u32 len;
    u32 chars;
    u32 words;
    u8 code;
    u8 field;
    u8 reserved[6];
};

// A mapped value in its line: Span of src/domain/row.rs.
struct Span {
    u32 start;
    u32 len;
};

// Row::code. Reasons stand in the order of src/domain/reason.rs.
enum Code : u8 {
    DOCUMENT = 0,
    BLANK = 1,
    NULL_BYTE = 2,
    INVALID_UTF8 = 3,
    INVALID_JSON = 4,
    NOT_OBJECT = 5,
    MISSING_FIELD = 6,
    WRONG_TYPE = 7,
    LONE_SURROGATE = 8,
    EMPTY_TEXT = 9,
    // Left to the host.
    DEFERRED = 255,
};
