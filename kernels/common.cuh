// What all kernels share: names for integers, a warp's vocabulary, unaligned loads.
//
// The kernels are plain CUDA C++ without any header of the toolkit, so that NVRTC compiles them as they
// are, and the emulator of tests/emulator compiles the same files as C++.
#pragma once

#ifdef COLOPHON_EMULATOR
#include "emulator.h"
#else
// An object in shared memory, one for each block.
#define SHARED(T, name) __shared__ T name
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

__device__ __forceinline__ u32 lane_id() { return threadIdx.x % WARP; }

// The lanes below this one, as a mask.
__device__ __forceinline__ u32 lanes_below(u32 lane) { return (1u << lane) - 1; }

__device__ __forceinline__ u32 warp_ballot(bool predicate) { return __ballot_sync(ALL_LANES, predicate); }

__device__ __forceinline__ u32 broadcast(u32 value, u32 from) { return __shfl_sync(ALL_LANES, value, from); }

// The lowest bit that is set, of which there must be one.
__device__ __forceinline__ u32 first_of(u32 bits) { return __ffs(static_cast<int>(bits)) - 1; }

// The sum over a warp, in every lane.
__device__ __forceinline__ u64 warp_sum(u64 value) {
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

// Sums of a small number (0 to 4) over a warp: of the lanes below, and of all.
struct SmallSums {
    u32 below;
    u32 all;
};

// Three ballots, one for each binary digit, cost less than the five steps of a scan.
__device__ __forceinline__ SmallSums small_sums(u32 count, u32 lane) {
    const u32 ones = warp_ballot(count & 1);
    const u32 twos = warp_ballot(count & 2);
    const u32 fours = warp_ballot(count & 4);
    const u32 below = lanes_below(lane);
    SmallSums sums;
    sums.below = __popc(ones & below) + 2 * __popc(twos & below) + 4 * __popc(fours & below);
    sums.all = __popc(ones) + 2 * __popc(twos) + 4 * __popc(fours);
    return sums;
}

// How far an address is behind the last multiple of four.
__device__ __forceinline__ u32 misalignment(const u8* at) { return static_cast<u32>(reinterpret_cast<u64>(at) & 3); }

// Four bytes at any address, the first one lowest. Reads the two aligned words around them.
//
// The words are reached by stepping back from `at`: from an address that is made out of an integer the
// compiler could not tell whether it is shared or global memory.
__device__ __forceinline__ u32 load_4(const u8* at) {
    const u32 behind = misalignment(at);
    const u32* words = reinterpret_cast<const u32*>(at - behind);
    return __funnelshift_r(words[0], words[1], 8 * behind);
}

// Eight bytes at any address. Reads the three aligned words around them.
__device__ __forceinline__ u64 load_8(const u8* at) {
    const u32 behind = misalignment(at);
    const u32* words = reinterpret_cast<const u32*>(at - behind);
    const u32 middle = words[1];
    const u32 low = __funnelshift_r(words[0], middle, 8 * behind);
    const u32 high = __funnelshift_r(middle, words[2], 8 * behind);
    return static_cast<u64>(high) << 32 | low;
}

// A byte of the input: global memory that no kernel writes.
__device__ __forceinline__ u32 input_1(const u8* at) { return __ldg(at); }

// As load_4, of the input.
__device__ __forceinline__ u32 input_4(const u8* at) {
    const u32 behind = misalignment(at);
    const u32* words = reinterpret_cast<const u32*>(at - behind);
    return __funnelshift_r(__ldg(words), __ldg(words + 1), 8 * behind);
}

// As load_8, of the input.
__device__ __forceinline__ u64 input_8(const u8* at) {
    return static_cast<u64>(input_4(at + 4)) << 32 | input_4(at);
}
