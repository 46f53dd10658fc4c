// The walk through a line's grammar, by a warp: src/scan/cpu/walk.rs with a warp in place of a SIMD register.
//
// All lanes walk together: what steers the walk (the place, the byte there, the depth) is the same in every
// lane. What there is one of for each lane: the span of source i is in lane i, and so is what is kept of the
// open object at depth i.
//
// No line's end is looked for: a line feed is no valid byte anywhere within JSON, so every walk stops at it.
#pragma once
#include "job.cuh"
#include "text.cuh"

// The deepest nesting (MAX_DEPTH of src/domain/reason.rs): 32 levels in each lane's bits.
constexpr u32 MAX_DEPTH = WARP * 32;

// The node of values that are not on the way to a mapped one.
constexpr u32 NOWHERE = ~0u;
constexpr u32 ROOT = 0;

// An array or object that is not closed yet.
struct Frame {
    // Where it starts in the line.
    u32 start;
    // Its place among the mapped keys, or NOWHERE.
    u32 node;
    bool is_object;
};

// The open arrays and objects around the innermost one, which is `top`.
struct Frames {
    const u32 lane;
    u32 depth;
    Frame top;
    // Start and node at depth `lane`. Mapped keys are less than 32 steps deep, so deeper ones are NOWHERE, and
    // nobody asks where they start.
    u32 start;
    u32 node;
    // Whether it is an object, for depths 32 × lane and up.
    u32 objects;

    __device__ __forceinline__ void reset() {
        depth = 0;
        top = {0, ROOT, false};
    }

    // Opens an array or object; false if that is too deep.
    __device__ __forceinline__ bool push(Frame frame) {
        if (depth == MAX_DEPTH) {
            return false;
        }
        if (depth > 0) {
            save(depth - 1);
        }
        top = frame;
        depth += 1;
        return true;
    }

    // Closes the innermost one.
    __device__ __forceinline__ void pop() {
        depth -= 1;
        if (depth > 0) {
            restore(depth - 1);
        }
    }

    __device__ __forceinline__ void save(u32 at) {
        if (at == lane) {
            start = top.start;
            node = top.node;
        }
        if (at / 32 == lane) {
            const u32 bit = 1u << (at % 32);
            objects = top.is_object ? objects | bit : objects & ~bit;
        }
    }

    __device__ __forceinline__ void restore(u32 at) {
        const bool is_shallow = at < WARP;
        top.start = broadcast(start, at % WARP);
        top.node = is_shallow ? broadcast(node, at % WARP) : NOWHERE;
        top.is_object = broadcast(objects, at / 32) >> (at % 32) & 1;
    }
};

// Whether a key as it stands in JSON (without its quotes) is `wanted` when its escapes are decoded. For one
// lane on its own.
__device__ __noinline__ bool is_escaped_key(const u8* key, u32 len, const u8* wanted, u32 wanted_len) {
    const u8* const end = key + len;
    u32 matched = 0;
    while (key < end) {
        Utf8 utf8 = {*key, 1};
        if (*key != '\\') {
            key += 1;
        } else if (key[1] != 'u') {
            utf8.bytes = simple_escape(key[1]);
            key += 2;
        } else {
            u32 code = hex_4(input_4(key + 2));
            key += UNICODE_ESCAPE;
            if (is_surrogate(code)) {
                const u32 low = is_high_surrogate(code) && key < end ? unicode_escape(key) : 0;
                if (!is_low_surrogate(low)) {
                    return false;  // no key of a schema has a lone surrogate
                }
                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                key += UNICODE_ESCAPE;
            }
            utf8 = encode_utf8(code);
        }
        for (u32 i = 0; i < utf8.len; i++) {
            if (matched == wanted_len || wanted[matched] != (utf8.bytes >> (8 * i) & 0xff)) {
                return false;
            }
            matched += 1;
        }
    }
    return matched == wanted_len;
}

// Whether a string within a (valid) value has a lone surrogate. For one lane on its own.
__device__ __noinline__ bool has_lone_surrogate(const u8* at, u32 len) {
    const u8* const end = at + len;
    while (at < end) {
        // Outside of strings there are no backslashes, so strings need no looking for.
        if (*at != '\\') {
            at += 1;
        } else if (at[1] != 'u') {
            at += 2;
        } else {
            const u32 unit = hex_4(input_4(at + 2));
            at += UNICODE_ESCAPE;
            if (is_surrogate(unit)) {
                if (!is_high_surrogate(unit) || !is_low_surrogate(unicode_escape(at))) {
                    return true;
                }
                at += UNICODE_ESCAPE;
            }
        }
    }
    return false;
}

// Whether a value is of a type, by its first byte. For one lane on its own.
__device__ __forceinline__ bool is_of_kind(FieldKind kind, const u8* value, u32 len) {
    const u32 first = value[0];
    const bool is_number = first == '-' || first - '0' < 10;
    switch (kind) {
        case STRING:
            return first == '"';
        case NUMBER:
            return is_number;
        case INTEGER:
            for (u32 i = 0; is_number && i < len; i++) {
                if (value[i] == '.' || (value[i] | 0x20) == 'e') {
                    return false;
                }
            }
            return is_number;
        case BOOLEAN:
            return first == 't' || first == 'f';
        default:
            return true;
    }
}

// What is wrong with a line, and with which of its fields.
struct Fault {
    Code code;
    u32 field;
};

struct Walk {
    const Job& job;
    const JobNode* nodes;
    const JobChild* children;
    const u8* keys;
    const u32 lane;
    Strings strings;
    Frames frames;
    // The line that is walked.
    const u8* line;
    // Where source `lane` stands in it; a length of 0 where it is absent.
    Span span;

    // Walks through the line at `start`. If it is JSON, gives the byte behind the value and the white space
    // after it, else null.
    __device__ __forceinline__ const u8* document(const u8* start) {
        line = start;
        span = {0, 0};
        strings.saw_surrogate = false;
        strings.measured = Measured{};
        frames.reset();
        const u8* at = skip_space(start);
        return values(at) ? skip_space(at) : nullptr;
    }

    // What is wrong with a line that is JSON; DOCUMENT if nothing is.
    __device__ __forceinline__ Fault fault(bool is_object) {
        if (!is_object) {
            return {NOT_OBJECT, 0};
        }
        // Lane i looks after field i.
        const bool has_field = lane < job.fields;
        const JobField field = job.field[has_field ? lane : job.text_field];
        const u32 start = __shfl_sync(ALL_LANES, span.start, field.source);
        const u32 len = __shfl_sync(ALL_LANES, span.len, field.source);
        const bool is_there = len != 0;
        const u32 missing = warp_ballot(has_field && field.required && !is_there);
        if (missing != 0) {
            return {MISSING_FIELD, missing >> job.text_field & 1 ? job.text_field : first_of(missing)};
        }
        const u8* value = line + start;
        const u32 wrong = warp_ballot(has_field && is_there && !is_of_kind(field.kind, value, len));
        if (wrong != 0) {
            return {WRONG_TYPE, first_of(wrong)};
        }
        const Measured& measured = strings.measured;
        if (strings.saw_surrogate || measured.lone_surrogate) {
            const bool is_text = field.source == job.text_source;
            const bool is_lone = is_text ? measured.lone_surrogate : is_there && has_lone_surrogate(value, len);
            const u32 lone = warp_ballot(has_field && is_lone);
            if (lone != 0) {
                return {LONE_SURROGATE, first_of(lone)};
            }
        }
        if (measured.null) {
            return {NULL_BYTE, job.text_field};
        }
        if (measured.words == 0) {
            return {EMPTY_TEXT, job.text_field};
        }
        return {DOCUMENT, 0};
    }

    __device__ __forceinline__ const u8* skip_space(const u8* at) {
        for (;;) {
            const u32 byte = input_1(at);
            if (byte != ' ' && byte != '\t' && byte != '\r') {
                return at;
            }
            at += 1;
        }
    }

    // Walks through the value at `at` and all within it, to behind it.
    __device__ __forceinline__ bool values(const u8*& at) {
        u32 node = ROOT;
        for (;;) {
            const u8* const start = at;
            const u32 first = input_1(at);
            if (first == '{' || first == '[') {
                const bool is_object = first == '{';
                if (!frames.push({offset(start), node, is_object})) {
                    return false;
                }
                at = skip_space(at + 1);
                if (input_1(at) != (is_object ? '}' : ']')) {
                    if (!member(at, node)) {
                        return false;
                    }
                    continue;
                }
            } else {
                if (!scalar(at, node, first)) {
                    return false;
                }
                if (first != 'n') {
                    note(node, start, at);
                }
            }
            // A value is complete, or the frame at hand is about to be closed.
            if (!close(at, node)) {
                return false;
            }
            if (frames.depth == 0) {
                return true;
            }
        }
    }

    // Closes what closes at `at`, to behind the comma and the key of the next value if there is one, whose node
    // it gives.
    __device__ __forceinline__ bool close(const u8*& at, u32& node) {
        while (frames.depth > 0) {
            at = skip_space(at);
            const Frame top = frames.top;
            const u32 byte = input_1(at);
            if (byte == ',') {
                at = skip_space(at + 1);
                return member(at, node);
            }
            if (byte != (top.is_object ? '}' : ']')) {
                return false;
            }
            at += 1;
            frames.pop();
            note(top.node, line + top.start, at);
        }
        return true;
    }

    // Walks to the next value of the innermost array or object, past its key if it has one.
    __device__ __forceinline__ bool member(const u8*& at, u32& node) {
        if (frames.top.is_object) {
            return key(at, node);
        }
        node = NOWHERE;
        return true;
    }

    // A value that is neither array nor object.
    __device__ __forceinline__ bool scalar(const u8*& at, u32 node, u32 first) {
        switch (first) {
            case '"':
                at += 1;
                return is_text(node) ? strings.measure(at) : strings.skip(at);
            case 't':
                return literal(at, 't' | 'r' << 8 | 'u' << 16 | 'e' << 24);
            case 'f':
                at += 1;
                return literal(at, 'a' | 'l' << 8 | 's' << 16 | 'e' << 24);
            case 'n':
                return literal(at, 'n' | 'u' << 8 | 'l' << 16 | 'l' << 24);
            default:
                return number(at);
        }
    }

    __device__ __forceinline__ bool is_text(u32 node) {
        return node != NOWHERE && nodes[node].source == job.text_source;
    }

    __device__ __forceinline__ bool literal(const u8*& at, u32 word) {
        const bool is_it = input_4(at) == word;
        at += 4;
        return is_it;
    }

    __device__ __forceinline__ bool number(const u8*& at) {
        at += input_1(at) == '-';
        if (input_1(at) == '0') {
            at += 1;
        } else if (!digits(at)) {
            return false;
        }
        if (input_1(at) == '.') {
            at += 1;
            if (!digits(at)) {
                return false;
            }
        }
        if ((input_1(at) | 0x20) == 'e') {
            at += 1;
            const u32 sign = input_1(at);
            at += sign == '+' || sign == '-';
            return digits(at);
        }
        return true;
    }

    // Walks over digits, of which there must be one at least.
    __device__ __forceinline__ bool digits(const u8*& at) {
        const u8* const start = at;
        u32 others;
        do {
            others = warp_ballot(input_1(at + lane) - '0' >= 10);
            at += others == 0 ? WARP : first_of(others);
        } while (others == 0);
        return at > start;
    }

    // Notes where a mapped value stands.
    __device__ __forceinline__ void note(u32 node, const u8* start, const u8* end) {
        if (node != NOWHERE && nodes[node].source == lane) {
            span = {offset(start), static_cast<u32>(end - start)};
        }
    }

    __device__ __forceinline__ u32 offset(const u8* at) { return static_cast<u32>(at - line); }

    // Walks through a key, its colon and the white space behind it, to the value, and finds the value's node.
    __device__ __forceinline__ bool key(const u8*& at, u32& node) {
        if (input_1(at) != '"') {
            return false;
        }
        at += 1;
        const u8* const start = at;
        if (!strings.skip(at)) {
            return false;
        }
        const u32 len = static_cast<u32>(at - start) - 1;
        at = skip_space(at);
        if (input_1(at) != ':') {
            return false;
        }
        at = skip_space(at + 1);
        node = frames.top.node == NOWHERE ? NOWHERE : child(frames.top.node, start, len);
        // Of duplicate keys the last counts, so whatever an earlier one held is void.
        if (node != NOWHERE && nodes[node].sources_within >> lane & 1) {
            span = {0, 0};
        }
        return true;
    }

    // The node below `node` for a key: every lane compares it with another of the wanted ones.
    __device__ __forceinline__ u32 child(u32 node, const u8* key, u32 len) {
        const u64 mask = len < 8 ? (1ull << (8 * len)) - 1 : ~0ull;
        const u64 head = input_8(key) & mask;
        const JobNode parent = nodes[node];
        for (u32 first = 0; first < parent.children; first += WARP) {
            bool is_it = false;
            u32 leads_to = NOWHERE;
            if (first + lane < parent.children) {
                const JobChild wanted = children[parent.first_child + first + lane];
                leads_to = wanted.node;
                is_it = strings.had_escape
                            ? is_escaped_key(key, len, keys + wanted.key, wanted.key_len)
                            : wanted.head == head && wanted.key_len == len && is_same(key, keys + wanted.key, len);
            }
            const u32 found = warp_ballot(is_it);
            if (found != 0) {
                return broadcast(leads_to, first_of(found));
            }
        }
        return NOWHERE;
    }

    // Compares what a head does not tell.
    __device__ __forceinline__ bool is_same(const u8* key, const u8* wanted, u32 len) {
        for (u32 i = 8; i < len; i++) {
            if (input_1(key + i) != wanted[i]) {
                return false;
            }
        }
        return true;
    }
};
