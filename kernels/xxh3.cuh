// XXH3-64 with a seed, by a warp, as https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md has it.
//
// Input above 240 bytes is eaten in stripes of 64 bytes by eight accumulators. A warp has room for four
// stripes at once: lane 8g + i feeds accumulator i from stripes g, g + 4, g + 8 …, which may be added in
// any order. Only at the end of 16 stripes (1 KiB, a block) is there a step that has to wait for all.
#pragma once
#include "common.cuh"
#include "job.cuh"

constexpr u32 STRIPE = 64;
constexpr u32 BLOCK_STRIPES = 16;
constexpr u32 BLOCK = STRIPE * BLOCK_STRIPES;
constexpr u32 ACCUMULATORS = 8;
constexpr u32 STRIPES_AT_ONCE = WARP / ACCUMULATORS;
// The longest input that is not eaten in stripes.
constexpr u32 SHORT = 240;

constexpr u64 PRIME32_1 = 0x9e3779b1ull;
constexpr u64 PRIME32_2 = 0x85ebca77ull;
constexpr u64 PRIME32_3 = 0xc2b2ae3dull;
constexpr u64 PRIME64_1 = 0x9e3779b185ebca87ull;
constexpr u64 PRIME64_2 = 0xc2b2ae3d27d4eb4full;
constexpr u64 PRIME64_3 = 0x165667b19e3779f9ull;
constexpr u64 PRIME64_4 = 0x85ebca77c2b2ae63ull;
constexpr u64 PRIME64_5 = 0x27d4eb2f165667c5ull;
constexpr u64 PRIME_MX1 = 0x165667919e3779f9ull;
constexpr u64 PRIME_MX2 = 0x9fb21c651e98df25ull;

__device__ __forceinline__ u64 rotate_left(u64 value, u32 by) { return value << by | value >> (64 - by); }

__device__ __forceinline__ u32 swap_bytes_4(u32 value) { return __byte_perm(value, 0, 0x0123); }

__device__ __forceinline__ u64 swap_bytes_8(u64 value) {
    return static_cast<u64>(swap_bytes_4(static_cast<u32>(value))) << 32 | swap_bytes_4(static_cast<u32>(value >> 32));
}

// The two halves of the 128-bit product, folded into one.
__device__ __forceinline__ u64 fold(u64 a, u64 b) { return (a * b) ^ __umul64hi(a, b); }

__device__ __forceinline__ u64 avalanche(u64 hash) {
    hash ^= hash >> 37;
    hash *= PRIME_MX1;
    return hash ^ hash >> 32;
}

// XXH64's avalanche, for the shortest input.
__device__ __forceinline__ u64 avalanche_64(u64 hash) {
    hash ^= hash >> 33;
    hash *= PRIME64_2;
    hash ^= hash >> 29;
    hash *= PRIME64_3;
    return hash ^ hash >> 32;
}

__device__ __forceinline__ u64 mix_16(const u8* input, const u8* secret, u64 seed) {
    return fold(load_8(input) ^ (load_8(secret) + seed), load_8(input + 8) ^ (load_8(secret + 8) - seed));
}

// Up to 16 bytes: every lane computes the same.
__device__ __forceinline__ u64 xxh3_of_16(const u8* input, u32 len, const u8* secret, u64 seed) {
    if (len > 8) {
        const u64 low = load_8(input) ^ ((load_8(secret + 24) ^ load_8(secret + 32)) + seed);
        const u64 high = load_8(input + len - 8) ^ ((load_8(secret + 40) ^ load_8(secret + 48)) - seed);
        return avalanche(len + swap_bytes_8(low) + high + fold(low, high));
    }
    if (len >= 4) {
        const u64 swapped = seed ^ static_cast<u64>(swap_bytes_4(static_cast<u32>(seed))) << 32;
        const u64 both = load_4(input + len - 4) + (static_cast<u64>(load_4(input)) << 32);
        u64 hash = both ^ ((load_8(secret + 8) ^ load_8(secret + 16)) - swapped);
        hash ^= rotate_left(hash, 49) ^ rotate_left(hash, 24);
        hash *= PRIME_MX2;
        hash ^= (hash >> 35) + len;
        hash *= PRIME_MX2;
        return hash ^ hash >> 28;
    }
    if (len > 0) {
        const u32 first = input[0];
        const u32 middle = input[len >> 1];
        const u32 last = input[len - 1];
        const u32 combined = first << 16 | middle << 24 | last | len << 8;
        return avalanche_64(combined ^ ((load_4(secret) ^ load_4(secret + 4)) + seed));
    }
    return avalanche_64(seed ^ (load_8(secret + 56) ^ load_8(secret + 64)));
}

// Up to 240 bytes, mixed 16 at a time: a lane for each.
__device__ __forceinline__ u64 xxh3_of_240(const u8* input, u32 len, const u8* secret, u64 seed, u32 lane) {
    if (len <= 16) {
        return xxh3_of_16(input, len, secret, seed);
    }
    if (len <= 128) {
        // From both ends towards the middle, which may be mixed twice.
        const u32 pairs = (len - 1) / 32 + 1;
        const u32 pair = lane / 2;
        const u8* from = lane % 2 == 0 ? input + 16 * pair : input + len - 16 * (pair + 1);
        const u64 mixed = lane < 2 * pairs ? mix_16(from, secret + 16 * lane, seed) : 0;
        return avalanche(len * PRIME64_1 + warp_sum(mixed));
    }
    constexpr u32 FIRST_ROUND = 8;
    const u32 whole = len / 16;
    const u64 first = lane < FIRST_ROUND ? mix_16(input + 16 * lane, secret + 16 * lane, seed) : 0;
    u64 second = 0;
    if (lane >= FIRST_ROUND && lane < whole) {
        second = mix_16(input + 16 * lane, secret + 16 * (lane - FIRST_ROUND) + 3, seed);
    } else if (lane == whole) {
        second = mix_16(input + len - 16, secret + 136 - 17, seed);
    }
    return avalanche(avalanche(len * PRIME64_1 + warp_sum(first)) + warp_sum(second));
}

// The accumulators of a long input, lane i holding number i mod 8.
struct Accumulator {
    u64 value;

    __device__ __forceinline__ void reset(u32 lane) {
        const u64 start[ACCUMULATORS] = {PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3,
                                         PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1};
        value = start[0];
        // A table indexed by lane would live in local memory.
        for (u32 i = 1; i < ACCUMULATORS; i++) {
            value = lane % ACCUMULATORS == i ? start[i] : value;
        }
    }

    // Eats `count` stripes; stripe i is mixed with the secret from byte 8i on.
    __device__ __forceinline__ void eat(const u8* stripes, u32 count, const u8* secret, u32 lane) {
        const u32 index = 8 * (lane % ACCUMULATORS);
        u64 own = 0;
        u64 neighbour = 0;
        for (u32 i = lane / ACCUMULATORS; i < count; i += STRIPES_AT_ONCE) {
            const u64 data = load_8(stripes + i * STRIPE + index);
            const u64 keyed = data ^ load_8(secret + 8 * i + index);
            neighbour += data;
            own += (keyed & 0xffffffffull) * (keyed >> 32);
        }
        // What a lane reads is added to the accumulator beside its own.
        own += __shfl_xor_sync(ALL_LANES, neighbour, 1);
        own += __shfl_xor_sync(ALL_LANES, own, 8);
        own += __shfl_xor_sync(ALL_LANES, own, 16);
        value += own;
    }

    // Ends a block.
    __device__ __forceinline__ void scramble(const u8* secret, u32 lane) {
        value ^= value >> 47;
        value ^= load_8(secret + SECRET_BYTES - STRIPE + 8 * (lane % ACCUMULATORS));
        value *= PRIME32_1;
    }

    // The hash of `len` bytes, all of them eaten.
    __device__ __forceinline__ u64 finish(u64 len, const u8* secret, u32 lane) {
        const u32 pair = lane % (ACCUMULATORS / 2);
        const u64 low = __shfl_sync(ALL_LANES, value, 2 * pair);
        const u64 high = __shfl_sync(ALL_LANES, value, 2 * pair + 1);
        const u8* key = secret + 11 + 16 * pair;
        u64 folded = fold(low ^ load_8(key), high ^ load_8(key + 8));
        folded += __shfl_xor_sync(ALL_LANES, folded, 1);
        folded += __shfl_xor_sync(ALL_LANES, folded, 2);
        return avalanche(len * PRIME64_1 + folded);
    }
};
