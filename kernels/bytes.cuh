// Questions about four bytes at a time, in one 32-bit register.
//
// An answer is a word of flags: the top bit of each byte for which it is yes (0x80), all other bits 0.
// Byte 0 is the lowest: words are loaded little-endian.
#pragma once
#include "common.cuh"

constexpr u32 TOP_BITS = 0x80808080u;
constexpr u32 LOW_BITS = 0x7f7f7f7fu;

// The same byte four times.
__device__ __forceinline__ constexpr u32 four(u32 byte) { return byte * 0x01010101u; }

// Bytes equal to `byte`. Exact: adding 0x7f to seven bits carries into the top bit unless they are 0.
__device__ __forceinline__ u32 equal(u32 word, u32 byte) {
    const u32 difference = word ^ four(byte);
    return ~(((difference & LOW_BITS) + LOW_BITS) | difference) & TOP_BITS;
}

// Bytes below 0x80 that are `low` or more (`low` from 1 to 0x80), as flags that may have other bits set too.
__device__ __forceinline__ u32 at_least(u32 low_bits, u32 low) { return low_bits + four(0x80 - low); }

// Control characters: bytes below 0x20, which no JSON string holds as they are.
__device__ __forceinline__ u32 control(u32 word) { return ~(at_least(word & LOW_BITS, 0x20) | word) & TOP_BITS; }

// Bytes from 0x80 on.
__device__ __forceinline__ u32 non_ascii(u32 word) { return word & TOP_BITS; }

// UTF-8 continuation bytes: 10xxxxxx.
__device__ __forceinline__ u32 continuation(u32 word) { return word & ~(word << 1) & TOP_BITS; }

// ASCII white space as Python's str.split() has it: 0x09 to 0x0d and 0x1c to 0x20.
__device__ __forceinline__ u32 ascii_space(u32 word) {
    const u32 low = word & LOW_BITS;
    const u32 line_breaks = at_least(low, 0x09) & ~at_least(low, 0x0e);
    const u32 separators = at_least(low, 0x1c) & ~at_least(low, 0x21);
    return (line_breaks | separators) & ~word & TOP_BITS;
}

// The bytes before those of `word`, `by` bytes earlier; `before` is the word in front of it.
__device__ __forceinline__ u32 earlier(u32 before, u32 word, u32 by) { return __funnelshift_l(before, word, 8 * by); }

// The bytes behind those of `word`, `by` bytes later; `after` is the word behind it.
__device__ __forceinline__ u32 later(u32 word, u32 after, u32 by) { return __funnelshift_r(word, after, 8 * by); }

// First bytes of characters that are white space outside ASCII: U+0085 and U+00A0 take two bytes.
__device__ __forceinline__ u32 wide_space_of_two(u32 word, u32 after) {
    const u32 second = later(word, after, 1);
    return equal(word, 0xc2) & (equal(second, 0x85) | equal(second, 0xa0));
}

// U+1680, U+2000 to U+200A, U+2028, U+2029, U+202F, U+205F and U+3000 take three.
__device__ __forceinline__ u32 wide_space_of_three(u32 word, u32 after) {
    const u32 second = later(word, after, 1);
    const u32 third = later(word, after, 2);
    const u32 second_80 = equal(second, 0x80);
    // 0x80 to 0x8a: the top bit is set, the others are at most 0x0a.
    const u32 quads = third & ~at_least(third & LOW_BITS, 0x0b);
    const u32 general = quads | equal(third, 0xa8) | equal(third, 0xa9) | equal(third, 0xaf);
    return (equal(word, 0xe1) & equal(second, 0x9a) & equal(third, 0x80)) |
           (equal(word, 0xe2) & ((second_80 & general) | (equal(second, 0x81) & equal(third, 0x9f)))) |
           (equal(word, 0xe3) & second_80 & equal(third, 0x80));
}

// Bytes that may begin such a character.
__device__ __forceinline__ u32 wide_space_candidate(u32 word) {
    return equal(word, 0xc2) | equal(word, 0xe1) | equal(word, 0xe2) | equal(word, 0xe3);
}

// All bytes of `word` that belong to white space outside ASCII, with the words around it.
__device__ __forceinline__ u32 wide_space(u32 before, u32 word, u32 after) {
    const u32 two = wide_space_of_two(word, after);
    const u32 three = wide_space_of_three(word, after);
    const u32 two_before = wide_space_of_two(before, word);
    const u32 three_before = wide_space_of_three(before, word);
    return two | earlier(two_before, two, 1) | three | earlier(three_before, three, 1) | earlier(three_before, three, 2);
}

// Bytes at which UTF-8 goes wrong: not 0 if and only if a sequence that ends or should have ended within
// `word` is not well-formed. `before` are the four bytes in front.
//
// A byte has to be a continuation exactly if one of the three before it begins a sequence that long; what
// remains are the bytes that never occur and the second bytes that make a sequence overlong, a surrogate or
// too large. (The idea is Keiser and Lemire's, "Validating UTF-8 In Less Than One Instruction Per Byte".)
__device__ __forceinline__ u32 utf8_errors(u32 before, u32 word) {
    const u32 one_ago = earlier(before, word, 1);
    const u32 two_ago = earlier(before, word, 2);
    const u32 three_ago = earlier(before, word, 3);
    const u32 begins_two = one_ago & (one_ago << 1);
    const u32 begins_three = two_ago & (two_ago << 1) & (two_ago << 2);
    const u32 begins_four = three_ago & (three_ago << 1) & (three_ago << 2) & (three_ago << 3);
    const u32 misplaced = ((begins_two | begins_three | begins_four) & TOP_BITS) ^ continuation(word);
    // 0xc0, 0xc1, and 0xf5 to 0xff.
    const u32 never = equal(word & four(0xfe), 0xc0) | (word & at_least(word & LOW_BITS, 0x75) & TOP_BITS);
    // Bits 5 and 4 of the second byte, moved to the top.
    const u32 bit_5 = word << 2;
    const u32 bit_4 = word << 3;
    const u32 overlong = (equal(one_ago, 0xe0) & ~bit_5) | (equal(one_ago, 0xf0) & ~(bit_5 | bit_4));
    const u32 beyond = (equal(one_ago, 0xed) & bit_5) | (equal(one_ago, 0xf4) & (bit_5 | bit_4));
    return (misplaced | never | overlong | beyond) & TOP_BITS;
}

// Flags as four bits, that of byte 0 lowest. The four products of the multiplication do not overlap.
__device__ __forceinline__ u32 nibble(u32 flags) { return ((flags >> 7) * 0x10204080u) >> 28; }
