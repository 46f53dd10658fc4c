// Tests the emulator itself: that it computes what CUDA defines, and that it catches what it is there to catch.
//
//     selftest              runs everything; 0 if all is well
//     selftest bench        switches per second
//     selftest case NAME    one of the faulty kernels below, which has to end in a report
#include "emulator.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

namespace {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned;
using u64 = unsigned long long;

constexpr u32 kFull = 0xffffffff;

#if defined(EMULATOR_ASAN)
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif
#if defined(EMULATOR_TSAN)
constexpr bool kThreadSanitizer = true;
constexpr u64 kSeeds = 6;
#else
constexpr bool kThreadSanitizer = false;
constexpr u64 kSeeds = 40;
#endif

int failures = 0;

void expect(bool holds, const char* what, u64 detail = 0) {
    if (holds) return;
    ++failures;
    if (failures < 20) std::printf("FAILED: %s (%llu)\n", what, detail);
}

std::mt19937_64 dice(20240229);

emulator::Options options(const char* name, u64 seed, unsigned os_threads = 1) {
    emulator::Options chosen;
    chosen.kernel_name = name;
    chosen.seed = seed;
    chosen.os_threads = os_threads;
    return chosen;
}

// ---------------------------------------------------------------------------------------------------------------------
// Functions of one thread
// ---------------------------------------------------------------------------------------------------------------------

bool bit(u64 x, int i) { return x >> i & 1; }

void test_bits_of(u64 x, u64 y) {
    auto a = static_cast<u32>(x), b = static_cast<u32>(y);
    int ones = 0, ones64 = 0, first = 0, first64 = 0, leading = 32, leading64 = 64;
    u32 reversed = 0;
    u64 reversed64 = 0;
    for (int i = 63; i >= 0; --i) {
        ones64 += bit(x, i);
        if (bit(x, i)) first64 = i + 1;
        if (bit(x, i) && leading64 == 64) leading64 = 63 - i;
        reversed64 |= static_cast<u64>(bit(x, i)) << (63 - i);
        if (i >= 32) continue;
        ones += bit(a, i);
        if (bit(a, i)) first = i + 1;
        if (bit(a, i) && leading == 32) leading = 31 - i;
        reversed |= static_cast<u32>(bit(a, i)) << (31 - i);
    }
    expect(__popc(a) == ones && __popcll(x) == ones64, "population count", x);
    expect(__ffs(static_cast<int>(a)) == first && __ffsll(static_cast<long long>(x)) == first64, "first bit set", x);
    expect(__clz(static_cast<int>(a)) == leading && __clzll(static_cast<long long>(x)) == leading64, "leading zeros",
           x);
    expect(__brev(a) == reversed && __brevll(x) == reversed64, "reversed bits", x);

    u32 selector = b, permuted = 0, equal = 0, less = 0, at_least = 0;
    u8 bytes[8];
    for (int i = 0; i < 4; ++i) {
        bytes[i] = static_cast<u8>(a >> (8 * i));
        bytes[4 + i] = static_cast<u8>(b >> (8 * i));
    }
    for (int i = 0; i < 4; ++i) {
        permuted |= static_cast<u32>(bytes[selector >> (4 * i) & 7]) << (8 * i);
        equal |= (bytes[i] == bytes[4 + i] ? 0xffu : 0) << (8 * i);
        less |= (bytes[i] < bytes[4 + i] ? 0xffu : 0) << (8 * i);
        at_least |= (bytes[i] >= bytes[4 + i] ? 0xffu : 0) << (8 * i);
    }
    expect(__byte_perm(a, b, selector) == permuted, "byte permutation", x);
    expect(__vcmpeq4(a, b) == equal && __vcmpltu4(a, b) == less && __vcmpgeu4(a, b) == at_least, "byte comparison", x);

    u32 shift = b % 70, left = b, right = a;
    for (u32 i = 0; i < shift % 32; ++i) {
        left = left << 1 | static_cast<u32>(bit(a, 31 - static_cast<int>(i)));
        right = right >> 1 | static_cast<u32>(bit(b, static_cast<int>(i))) << 31;
    }
    expect(__funnelshift_l(a, b, shift) == left && __funnelshift_r(a, b, shift) == right, "funnel shift", x);

    u64 low = (x & kFull) * (y & kFull), middle = (x >> 32) * (y & kFull) + (low >> 32);
    u64 high = (x >> 32) * (y >> 32) + (middle >> 32) + (((middle & kFull) + (x & kFull) * (y >> 32)) >> 32);
    expect(__umul64hi(x, y) == high, "upper half of a product", x);
    expect(__umulhi(a, b) == static_cast<u32>(static_cast<u64>(a) * b / 4294967296ull), "upper half of a product", x);
}

void test_bits() {
    const u64 edges[] = {0,     1,          2,          0x80,  0x7fffffff,        0x80000000,
                         kFull, 1ull << 32, 1ull << 63, ~0ull, 0x0123456789abcdef};
    for (u64 x : edges) {
        for (u64 y : edges) test_bits_of(x, y);
    }
    for (int i = 0; i < 5000; ++i) test_bits_of(dice() >> (dice() % 64), dice() >> (dice() % 64));

    expect(min(-1, 1u) == 1u && max(-1, 1u) == 0xffffffffu, "of int and unsigned, unsigned is compared");
    expect(min(-1, 1) == -1 && max(-1LL, 1) == 1, "signed comparison");
    expect(min(5u, u64{1} << 40) == 5 && max(5u, u64{1} << 40) == u64{1} << 40, "comparison of different widths");
    static_assert(std::is_same_v<decltype(min(1, 2u)), u32> && std::is_same_v<decltype(max(1u, u64{2})), u64>);
    static_assert(sizeof(uint2) == 8 && sizeof(uint4) == 16 && alignof(uint4) == 16 && alignof(ulonglong2) == 16);
    uint4 four = make_uint4(1, 2, 3, 4);
    ulonglong2 two = make_ulonglong2(5, 6);
    expect(four.x == 1 && four.w == 4 && make_uint2(7, 8).y == 8 && two.y == 6, "vector types");
}

__global__ void atomics_kernel(u32* u, u64* l, int* i) {
    u32 t = blockIdx.x * blockDim.x + threadIdx.x;
    int s = static_cast<int>(t) - 100;
    atomicAdd(&u[0], t), atomicAdd(&l[0], u64{t} << 32), atomicAdd(&i[0], s);
    atomicOr(&u[1], 1u << (t % 32)), atomicOr(&l[1], u64{1} << (t % 64));
    atomicAnd(&u[2], ~(1u << (t % 31))), atomicAnd(&l[2], ~(u64{1} << (t % 63)));
    atomicMin(&u[3], t ^ 77), atomicMin(&l[3], u64{t} ^ 77), atomicMin(&i[3], s);
    atomicMax(&u[4], t ^ 77), atomicMax(&l[4], u64{t} ^ 77), atomicMax(&i[4], s);
    atomicXor(&u[5], t), atomicSub(&u[6], t), atomicSub(&i[6], s);
    // Every value comes out of the exchange once, but for the one that stays.
    atomicAdd(&l[7], u64{atomicExch(&u[7], t + 1)});
    // An increment that is made by hand.
    for (u32 seen = 0;;) {
        u32 found = atomicCAS(&u[8], seen, seen + 3);
        if (found == seen) break;
        seen = found;
    }
}

void test_atomics() {
    for (u64 seed = 0; seed < kSeeds; ++seed) {
        const u32 threads = 4 * 96;
        std::vector<u32> u = {0, 0, kFull, kFull, 0, 0, 0, 0, 0};
        std::vector<u64> l = {0, 0, ~u64{0}, ~u64{0}, 0, 0, 0, 0};
        std::vector<int> i = {0, 0, 0, 0, 0, 0, 0};
        emulator::launch(4, 96, options("atomics", seed, 1 + seed % 2), atomics_kernel, u.data(), l.data(), i.data());
        u32 sum = threads * (threads - 1) / 2, differing = 0;
        int signed_sum = static_cast<int>(sum) - 100 * static_cast<int>(threads);
        for (u32 t = 0; t < threads; ++t) differing ^= t;
        expect(u[0] == sum && l[0] == u64{sum} << 32 && i[0] == signed_sum, "atomicAdd", seed);
        expect(u[1] == kFull && l[1] == ~u64{0}, "atomicOr", seed);
        expect(u[2] == 1u << 31 && l[2] == u64{1} << 63, "atomicAnd", seed);
        expect(u[3] == 0 && l[3] == 0 && i[3] == -100, "atomicMin", seed);
        u32 most = 0;
        for (u32 t = 0; t < threads; ++t) most = std::max(most, t ^ 77);
        expect(u[4] == most && l[4] == most && i[4] == static_cast<int>(threads) - 101, "atomicMax", seed);
        expect(u[5] == differing && u[6] == 0 - sum && i[6] == -signed_sum, "atomicXor, atomicSub", seed);
        expect(l[7] + u[7] == sum + threads, "atomicExch", seed);
        expect(u[8] == 3 * threads, "atomicCAS", seed);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Collectives of a warp
// ---------------------------------------------------------------------------------------------------------------------

/// The four shuffles as PTX defines shfl.sync: where lane `lane` reads.
u32 source_lane(char kind, u32 lane, u32 operand, u32 width) {
    u32 segment = 32 - width, distance = operand & 31;
    u32 clamp = kind == 'u' ? 0 : 31;
    u32 first = lane & segment, last = first | (clamp & ~segment & 31);
    int source = 0;
    bool valid = false;
    if (kind == 'u') source = static_cast<int>(lane - distance), valid = source >= static_cast<int>(last);
    if (kind == 'd') source = static_cast<int>(lane + distance), valid = source <= static_cast<int>(last);
    if (kind == 'x') source = static_cast<int>(lane ^ distance), valid = source <= static_cast<int>(last);
    if (kind == 'i') source = static_cast<int>(first | (distance & ~segment)), valid = source <= static_cast<int>(last);
    return valid ? static_cast<u32>(source) : lane;
}

template <class T>
__global__ void shuffle_kernel(T* out, const T* in, int operand, int width) {
    u32 t = threadIdx.x;
    T mine = in[t];
    out[4 * t + 0] = __shfl_sync(kFull, mine, operand, width);
    out[4 * t + 1] = __shfl_up_sync(kFull, mine, static_cast<u32>(operand), width);
    out[4 * t + 2] = __shfl_down_sync(kFull, mine, static_cast<u32>(operand), width);
    out[4 * t + 3] = __shfl_xor_sync(kFull, mine, operand, width);
}

template <class T>
void test_shuffles_of() {
    const u32 threads = 96;
    std::vector<T> in(threads), out(4 * threads);
    for (u32 t = 0; t < threads; ++t) {
        u64 bits = dice();
        std::memcpy(&in[t], &bits, sizeof(T));
    }
    for (u32 width = 1; width <= 32; width *= 2) {
        for (int operand : {0, 1, 2, 3, 7, 8, 15, 16, 30, 31, 32, 33, 40}) {
            emulator::launch(1, threads, options("shuffles", width + static_cast<u32>(operand)), shuffle_kernel<T>,
                             out.data(), in.data(), operand, static_cast<int>(width));
            for (u32 t = 0; t < 4 * threads; ++t) {
                u32 thread = t / 4, source = source_lane("iudx"[t % 4], thread % 32, static_cast<u32>(operand), width);
                bool same = std::memcmp(&out[t], &in[thread / 32 * 32 + source], sizeof(T)) == 0;
                expect(same, "shuffle", u64{width} << 32 | static_cast<u32>(operand) << 8 | t % 4);
            }
        }
    }
}

struct Pair {
    u16 first;
    u16 second;
};

/// In each warp, the lanes of `mask` and the others vote apart.
__global__ void vote_kernel(u32* out, const u32* in, u32 mask) {
    u32 t = threadIdx.x, mine = in[t];
    u32 mates = mask >> (t % 32) & 1 ? mask : ~mask;
    u32* to = &out[8 * t];
    to[0] = __ballot_sync(mates, mine & 1);
    to[1] = static_cast<u32>(__any_sync(mates, mine & 6));
    to[2] = static_cast<u32>(__all_sync(mates, mine & 14));
    to[3] = __reduce_add_sync(mates, mine);
    to[4] = __reduce_min_sync(mates, mine);
    to[5] = __reduce_max_sync(mates, mine);
    to[6] = __reduce_or_sync(mates, mine & 0x10f0f0);
    to[7] = static_cast<u32>(__reduce_min_sync(mates, static_cast<int>(mine)));
}

void test_votes(u32 threads, u32 mask, u64 seed) {
    std::vector<u32> in(threads), out(8 * threads);
    for (u32& x : in) x = static_cast<u32>(dice() << (dice() % 32));
    emulator::launch(1, threads, options("votes", seed), vote_kernel, out.data(), in.data(), mask);
    for (u32 t = 0; t < threads; ++t) {
        u32 mates = mask >> (t % 32) & 1 ? mask : ~mask;
        u32 ballot = 0, any = 0, all = 1, sum = 0, least = kFull, most = 0, either = 0;
        int smallest = 0x7fffffff;
        for (u32 lane = 0; lane < 32; ++lane) {
            u32 other = t / 32 * 32 + lane;
            if (!(mates >> lane & 1) || other >= threads) continue;
            u32 x = in[other];
            ballot |= (x & 1) << lane;
            any |= (x & 6) != 0;
            all &= (x & 14) != 0;
            sum += x;
            least = std::min(least, x);
            most = std::max(most, x);
            either |= x & 0x10f0f0;
            smallest = std::min(smallest, static_cast<int>(x));
        }
        const u32 expected[] = {ballot, any, all, sum, least, most, either, static_cast<u32>(smallest)};
        for (int k = 0; k < 8; ++k) expect(out[8 * t + k] == expected[k], "vote or reduction", k);
    }
}

/// Lanes leave one after the other; those that stay go on with the same full mask.
__global__ void leaving_kernel(u32* out) {
    for (u32 round = 0; round <= threadIdx.x % 32; ++round) {
        out[threadIdx.x] = out[threadIdx.x] * 3 + __popc(__ballot_sync(kFull, 1));
    }
}

void test_collectives() {
    test_shuffles_of<u8>();
    test_shuffles_of<u16>();
    test_shuffles_of<u32>();
    test_shuffles_of<u64>();
    test_shuffles_of<double>();
    test_shuffles_of<Pair>();
    for (u64 seed = 0; seed < kSeeds; ++seed) {
        for (u32 mask : {kFull, 1u, 0x80000000u, 0xffff0000u, 0x55555555u}) {
            for (u32 threads : {32u, 96u, 77u}) test_votes(threads, mask, seed);
        }
        std::vector<u32> out(64, 0);
        emulator::launch(1, 64, options("leaving", seed), leaving_kernel, out.data());
        for (u32 t = 0; t < 64; ++t) {
            u32 expected = 0;
            for (u32 round = 0; round <= t % 32; ++round) expected = expected * 3 + 32 - round;
            expect(out[t] == expected, "collectives of a shrinking warp", t);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Blocks and grids
// ---------------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ u32 warp_scan(u32 x) {
    for (u32 distance = 1; distance < 32; distance *= 2) {
        u32 other = __shfl_up_sync(kFull, x, distance);
        if (threadIdx.x % 32 >= distance) x += other;
    }
    return x;
}

enum class Without { Nothing, FirstBarrier, SecondBarrier, LastBarrier };

/// Inclusive sums over the block, twice, with one array of shared memory.
template <Without without>
__global__ void __launch_bounds__(1024) block_scan_kernel(u32* out, const u32* in, u32 n) {
    SHARED(u32[32], totals);
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 x = i < n ? in[i] : 0;
    for (int round = 0; round < 2; ++round) {
        x = warp_scan(x);
        if (lane == 31 || threadIdx.x == blockDim.x - 1) totals[warp] = x;
        if (without != Without::FirstBarrier) __syncthreads();  // the totals are there
        if (warp == 0) {
            u32 total = lane < (blockDim.x + 31) / 32 ? totals[lane] : 0;
            total = warp_scan(total);
            if (lane < (blockDim.x + 31) / 32) totals[lane] = total;
        }
        if (without != Without::SecondBarrier) __syncthreads();  // and summed up
        if (warp > 0) x += totals[warp - 1];
        if (without != Without::LastBarrier) __syncthreads();  // and read by all: the next round may overwrite them
    }
    if (i < n) out[i] = x;
}

using Scan = void (*)(u32*, const u32*, u32);

bool scans_right(Scan kernel, u32 threads, u64 seed, unsigned os_threads = 1) {
    const u32 blocks = 7, n = blocks * threads - 5;
    std::vector<u32> in(n), out(n), expected(n);
    for (u32& x : in) x = static_cast<u32>(dice() % 1000);
    expected = in;
    for (int round = 0; round < 2; ++round) {
        for (u32 i = 0; i < n; ++i) {
            if (i % threads != 0) expected[i] += expected[i - 1];
        }
    }
    emulator::launch(blocks, threads, options("block scan", seed, os_threads), kernel, out.data(), in.data(), n);
    return out == expected;
}

enum class WithoutIn { Nothing, Store, Load };

/// Each lane writes a slot and reads another lane's.
template <WithoutIn without>
__global__ void exchange_kernel(u32* out) {
    SHARED(u32[4][32], slots);
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 x = threadIdx.x;
    for (u32 distance = 1; distance < 8; ++distance) {
        slots[warp][lane] = x;
        if (without != WithoutIn::Store) __syncwarp();
        x = x * 5 + slots[warp][(lane + distance) % 32];
        if (without != WithoutIn::Load) __syncwarp();
    }
    out[threadIdx.x] = x;
}

bool exchanges_right(void (*kernel)(u32*), u64 seed) {
    std::vector<u32> out(128), expected(128), slots(32);
    emulator::launch(1, 128, options("exchange", seed), kernel, out.data());
    for (u32 t = 0; t < 128; ++t) expected[t] = t;
    for (u32 warp = 0; warp < 4; ++warp) {
        u32* x = &expected[32 * warp];
        for (u32 distance = 1; distance < 8; ++distance) {
            std::copy(x, x + 32, slots.begin());
            for (u32 lane = 0; lane < 32; ++lane) x[lane] = x[lane] * 5 + slots[(lane + distance) % 32];
        }
    }
    return out == expected;
}

constexpr u64 kAggregate = 1ull << 62, kInclusive = 2ull << 62, kSumMask = (1ull << 62) - 1;

/// Sums over the whole grid in one pass: tiles are taken in the order of a ticket, and a tile looks back at those
/// before it until one of them knows its inclusive sum. Blocks take tiles until there are none left.
__global__ void look_back_kernel(u64* out, const u32* in, u32 n, u64* state, u32* ticket) {
    SHARED(u32, tile);
    SHARED(u64, before);
    SHARED(u32[32], totals);
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    u32 tiles = (n + blockDim.x - 1) / blockDim.x;
    for (;;) {
        if (threadIdx.x == 0) tile = atomicAdd(ticket, 1u);
        __syncthreads();
        if (tile >= tiles) break;
        u32 i = tile * blockDim.x + threadIdx.x;
        u32 x = warp_scan(i < n ? in[i] : 0);
        if (lane == 31) totals[warp] = x;
        __syncthreads();
        u32 block_total = 0, warps_before = 0;
        for (u32 w = 0; w < warps; ++w) {
            if (w < warp) warps_before += totals[w];
            block_total += totals[w];
        }
        if (warp == 0) {
            if (lane == 0) emulator::store_release(&state[tile], (tile == 0 ? kInclusive : kAggregate) | block_total);
            u64 sum = 0;
            for (int window = static_cast<int>(tile) - 1; window >= 0; window -= 32) {
                int other = window - static_cast<int>(lane);
                u64 seen = other >= 0 ? 0 : kInclusive;
                while (__any_sync(kFull, seen == 0)) {
                    if (seen == 0) seen = emulator::load_acquire(&state[other]);
                }
                u32 known = __ballot_sync(kFull, (seen & kInclusive) != 0);
                bool counts = known == 0 || static_cast<int>(lane) < __ffs(static_cast<int>(known));
                u64 part = counts ? seen & kSumMask : 0;
                for (u32 distance = 16; distance > 0; distance /= 2)
                    part += __shfl_xor_sync(kFull, part, static_cast<int>(distance));
                sum += part;
                if (known != 0) break;
            }
            if (lane == 0) {
                before = sum;
                emulator::store_release(&state[tile], kInclusive | (sum + block_total));
            }
        }
        __syncthreads();
        if (i < n) out[i] = before + warps_before + x;
        __syncthreads();
    }
}

bool looks_back_right(u32 blocks, u32 threads, u32 n, u64 seed, unsigned os_threads) {
    std::vector<u32> in(n);
    for (u32& x : in) x = static_cast<u32>(dice() % 1000);
    std::vector<u64> out(n), expected(n), state((n + threads - 1) / threads, 0);
    u64 sum = 0;
    for (u32 i = 0; i < n; ++i) expected[i] = sum += in[i];
    u32 ticket = 0;
    emulator::launch(blocks, threads, options("look-back", seed, os_threads), look_back_kernel, out.data(), in.data(),
                     n, state.data(), &ticket);
    return out == expected;
}

/// The last block to finish adds up what the others left; fences make their plain writes visible to it.
__global__ void last_block_kernel(u32* out, u32* parts, u32* done) {
    SHARED(bool, last);
    u32 t = threadIdx.x;
    parts[blockIdx.x * blockDim.x + t] = blockIdx.x + t;
    __threadfence();
    __syncthreads();
    if (t == 0) {
        last = atomicAdd(done, 1u) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (!last) return;
    u32 sum = 0;
    for (u32 i = t; i < gridDim.x * blockDim.x; i += blockDim.x) sum += parts[i];
    sum = __reduce_add_sync(kFull, sum);
    if (t % 32 == 0) atomicAdd(out, sum);
}

__global__ void barrier_votes_kernel(int* out) {
    int t = static_cast<int>(threadIdx.x);
    out[4 * t + 0] = __syncthreads_or(t == 70);
    out[4 * t + 1] = __syncthreads_or(t > 1000) * 2 + __syncthreads_and(t >= 0);
    out[4 * t + 2] = __syncthreads_and(t != 5);
    out[4 * t + 3] = __syncthreads_count(t % 3 == 0);
}

__global__ void indices_kernel(u32* out) {
    u32 block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    u32 thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    atomicAdd(&out[block * blockDim.x * blockDim.y * blockDim.z + thread], 1u);
}

/// Half of the warp waits for the other half, which goes another way first.
__global__ void diverged_kernel(u32* out) {
    SHARED(u32[32], slots);
    u32 lane = threadIdx.x;
    if (lane < 16) {
        slots[lane] = __shfl_sync(0x0000ffff, lane, 3);
        __syncwarp(0x0000ffff);
        slots[lane] += slots[15 - lane] * 0;
    } else {
        for (u32 i = 0; i < lane; ++i) __nanosleep(10);
        slots[lane] = __shfl_xor_sync(0xffff0000, lane, 1);
    }
    __syncwarp();
    out[lane] = slots[31 - lane];
}

__global__ void poison_kernel(u32* clean) {
    SHARED(u8[777], bytes);
    if (threadIdx.x == 0) {
        bool all = true;
        for (u8 byte : bytes) all &= byte == emulator::detail::kSharedPoison;
        atomicAdd(clean, all ? 1u : 0u);
        for (u8& byte : bytes) byte = 1;
    }
}

void test_grids() {
    for (u64 seed = 0; seed < kSeeds; ++seed) {
        for (u32 threads : {128u, 256u, 1024u, 100u}) {
            if (kThreadSanitizer && threads > 256 && seed != 0) continue;
            expect(scans_right(block_scan_kernel<Without::Nothing>, threads, seed, 1 + seed % 2), "block scan", seed);
        }
        expect(exchanges_right(exchange_kernel<WithoutIn::Nothing>, seed), "exchange", seed);
        expect(looks_back_right(9, 128, 20'000, seed, 1), "look-back", seed);
        expect(looks_back_right(5, 256, 20'000, seed, 2), "look-back on two threads", seed);
        expect(looks_back_right(64, 64, 4001, seed, 1), "look-back of many blocks", seed);

        const u32 blocks = 11, threads = 96;
        std::vector<u32> parts(blocks * threads);
        u32 sum = 0, done = 0, expected = 0;
        for (u32 b = 0; b < blocks; ++b) {
            for (u32 t = 0; t < threads; ++t) expected += b + t;
        }
        emulator::launch(blocks, threads, options("last block", seed, 1 + seed % 2), last_block_kernel, &sum,
                         parts.data(), &done);
        expect(sum == expected, "last block", seed);

        std::vector<int> votes(4 * 200);
        emulator::launch(1, 200, options("barrier votes", seed), barrier_votes_kernel, votes.data());
        for (int t = 0; t < 200; ++t) {
            expect(votes[4 * t] == 1 && votes[4 * t + 1] == 1 && votes[4 * t + 2] == 0 && votes[4 * t + 3] == 67,
                   "vote at a barrier", seed);
        }

        std::vector<u32> visits(2 * 3 * 2 * 4 * 5 * 3, 0);
        emulator::launch(dim3(2, 3, 2), dim3(4, 5, 3), options("indices", seed), indices_kernel, visits.data());
        expect(std::all_of(visits.begin(), visits.end(), [](u32 n) { return n == 1; }), "each thread runs once", seed);

        std::vector<u32> slots(32);
        emulator::launch(1, 32, options("diverged", seed), diverged_kernel, slots.data());
        for (u32 lane = 0; lane < 32; ++lane) {
            expect(slots[31 - lane] == (lane < 16 ? 3 : lane ^ 1), "diverged halves", seed);
        }

        u32 clean = 0;
        emulator::launch(10, 32, options("poison", seed), poison_kernel, &clean);
        expect(clean == 10, "shared memory is poisoned for every block", seed);
    }
}

/// Without ThreadSanitizer too, a missing barrier has to show: in wrong results, for some seed.
void test_missing_barriers() {
    if (kThreadSanitizer) return;  // reports the races instead; see the cases below
    auto fails = [](const std::function<bool(u64)>& right) {
        u64 wrong = 0;
        for (u64 seed = 1; seed <= 100; ++seed) wrong += !right(seed);
        return wrong;
    };
    using Wrong = std::pair<const char*, u64>;
    const Wrong wrong[] = {
        {"first barrier of the scan",
         fails([](u64 s) { return scans_right(block_scan_kernel<Without::FirstBarrier>, 256, s); })},
        {"second barrier of the scan",
         fails([](u64 s) { return scans_right(block_scan_kernel<Without::SecondBarrier>, 256, s); })},
        {"last barrier of the scan",
         fails([](u64 s) { return scans_right(block_scan_kernel<Without::LastBarrier>, 256, s); })},
        {"__syncwarp after the store",
         fails([](u64 s) { return exchanges_right(exchange_kernel<WithoutIn::Store>, s); })},
        {"__syncwarp after the load",
         fails([](u64 s) { return exchanges_right(exchange_kernel<WithoutIn::Load>, s); })},
    };
    for (const auto& [name, count] : wrong) {
        std::printf("  without the %s: wrong under %llu of 100 seeds\n", name, count);
        expect(count >= 20, "a missing barrier shows");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Faulty kernels
// ---------------------------------------------------------------------------------------------------------------------

__global__ void deadlock_kernel() {
    if (threadIdx.x != 7) __syncwarp();
    if (threadIdx.x == 7) __syncthreads();
}
__global__ void divergent_barrier_kernel() {
    if (threadIdx.x < 40) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}
__global__ void different_barriers_kernel() {
    if (threadIdx.x < 32) {
        __syncthreads_or(1);
    } else {
        __syncthreads();
    }
}
__global__ void mismatched_masks_kernel() {
    if (threadIdx.x < 31) {
        __ballot_sync(kFull, 1);
    } else {
        __ballot_sync(0xfffffff1, 1);
    }
}
__global__ void mismatched_operations_kernel() {
    if (threadIdx.x < 31) {
        __ballot_sync(kFull, 1);
    } else {
        __syncwarp();
    }
}
__global__ void overlapping_masks_kernel() {
    if (threadIdx.x < 16) {
        __syncwarp(kFull);
    } else {
        __syncwarp(0xffff0000);
    }
    __syncthreads();
}
__global__ void not_in_mask_kernel() { __syncwarp(0x7fffffff); }
__global__ void outside_mask_kernel(u32* out) {
    if (threadIdx.x < 16) *out = __shfl_sync(0xffff, threadIdx.x, 20);
}
__global__ void spin_kernel(u32* flag) {
    while (emulator::load_acquire(flag) == 0) {
    }
}
__global__ void warp_spin_kernel(u32* flag) {
    u32 seen = 0;
    while (!__any_sync(kFull, seen != 0)) seen = atomicAdd(flag, 0u);
}
/// Takes for granted that blocks start in the order of their numbers.
__global__ void block_order_kernel(u32* flags) {
    if (threadIdx.x != 0) return;
    while (blockIdx.x > 0 && emulator::load_acquire(&flags[blockIdx.x - 1]) == 0) {
    }
    emulator::store_release(&flags[blockIdx.x], 1u);
}
__global__ void shared_overrun_kernel(u32* out) {
    SHARED(u32[33], slots);
    u32* mine = slots + threadIdx.x;
    mine[2] = 1;
    __syncwarp();
    if (threadIdx.x == 0) *out = slots[5];
}
__global__ void global_overrun_kernel(u32* out) { out[threadIdx.x + 1] = threadIdx.x; }
__global__ void deep_stack_kernel(u32* out) {
    if (threadIdx.x == 0) return;
    volatile u8 deep[emulator::detail::kStackStride];
    for (u32 i = 0; i < sizeof deep; i += 8) deep[i] = static_cast<u8>(i);
    *out = deep[threadIdx.x];
}
__global__ void too_much_shared_kernel(u32* out) {
    SHARED(u32[8192], first);
    SHARED(u32[4097], second);
    *out = first[0] + second[0];
}
__global__ void trap_kernel() {
    if (threadIdx.x == 3) __trap();
}
/// A vote makes every lane arrive, but orders no memory.
__global__ void vote_is_no_barrier_kernel(u32* out) {
    SHARED(u32[32], slots);
    slots[threadIdx.x] = threadIdx.x;
    __ballot_sync(kFull, 1);
    out[threadIdx.x] = slots[31 - threadIdx.x];
}
__global__ void unordered_blocks_kernel(u32* out) {
    if (threadIdx.x == blockIdx.x) *out = blockIdx.x;
}
/// The flag goes up before the data are released.
__global__ void relaxed_flag_kernel(u32* data, u32* flag) {
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 0) {
        *data = 5;
        emulator::store_relaxed(flag, 1u);
    } else {
        while (emulator::load_acquire(flag) == 0) {
        }
        *data += 1;
    }
}

enum class Build { Any, Address, Thread, NotThread };

struct Case {
    const char* name;
    const char* report;
    Build build;
    void (*run)();
};

u32 scratch[64];

/// Under several seeds, because some orders hide the fault.
template <class Kernel, class... Arguments>
void run_faulty(const char* name, u32 blocks, u32 threads, Kernel kernel, Arguments... arguments) {
    for (u64 seed = 1; seed <= 20; ++seed) emulator::launch(blocks, threads, options(name, seed), kernel, arguments...);
}

const Case kCases[] = {
    {"deadlock", "deadlock: no thread of block", Build::Any, [] { run_faulty("deadlock", 1, 32, deadlock_kernel); }},
    {"divergent-barrier", "divergent barriers", Build::Any,
     [] { run_faulty("divergent", 1, 64, divergent_barrier_kernel); }},
    {"different-barriers", "divergent barriers", Build::Any,
     [] { run_faulty("different", 1, 64, different_barriers_kernel); }},
    {"mismatched-masks", "mismatched warp collectives", Build::Any,
     [] { run_faulty("masks", 1, 32, mismatched_masks_kernel); }},
    {"mismatched-operations", "mismatched warp collectives", Build::Any,
     [] { run_faulty("operations", 1, 32, mismatched_operations_kernel); }},
    {"overlapping-masks", "deadlock: no thread of block", Build::Any,
     [] { run_faulty("overlap", 1, 32, overlapping_masks_kernel); }},
    {"not-in-mask", "is lane 31 and not in the mask 0x7fffffff", Build::Any,
     [] { run_faulty("not in mask", 1, 32, not_in_mask_kernel); }},
    {"outside-mask", "that lane is not in the mask", Build::Any,
     [] { run_faulty("outside", 1, 32, outside_mask_kernel, scratch); }},
    {"spin", "no progress", Build::Any, [] { run_faulty("spin", 2, 64, spin_kernel, scratch); }},
    {"warp-spin", "no progress", Build::Any, [] { run_faulty("warp spin", 1, 64, warp_spin_kernel, scratch); }},
    {"block-order", "no progress", Build::Any,
     [] {
         for (u64 seed = 1; seed <= 20; ++seed) {
             std::vector<u32> flags(50, 0);
             emulator::launch(50, 32, options("block order", seed), block_order_kernel, flags.data());
         }
     }},
    {"trap", "called __trap", Build::Any, [] { run_faulty("trap", 1, 32, trap_kernel); }},
    {"too-much-shared", "bytes of shared memory", Build::Any,
     [] { run_faulty("shared", 1, 32, too_much_shared_kernel, scratch); }},
    {"deep-stack", "bytes of stack", Build::NotThread, [] { run_faulty("stack", 1, 2, deep_stack_kernel, scratch); }},
    {"shared-overrun", "AddressSanitizer: heap-buffer-overflow", Build::Address,
     [] { run_faulty("overrun", 1, 32, shared_overrun_kernel, scratch); }},
    {"global-overrun", "AddressSanitizer: heap-buffer-overflow", Build::Address,
     [] {
         std::vector<u32> out(64);
         run_faulty("overrun", 1, 64, global_overrun_kernel, out.data());
     }},
    {"race-first-barrier", "ThreadSanitizer: data race", Build::Thread,
     [] { scans_right(block_scan_kernel<Without::FirstBarrier>, 128, 1); }},
    {"race-second-barrier", "ThreadSanitizer: data race", Build::Thread,
     [] { scans_right(block_scan_kernel<Without::SecondBarrier>, 128, 1); }},
    {"race-last-barrier", "ThreadSanitizer: data race", Build::Thread,
     [] { scans_right(block_scan_kernel<Without::LastBarrier>, 128, 1); }},
    {"race-syncwarp-store", "ThreadSanitizer: data race", Build::Thread,
     [] { exchanges_right(exchange_kernel<WithoutIn::Store>, 1); }},
    {"race-syncwarp-load", "ThreadSanitizer: data race", Build::Thread,
     [] { exchanges_right(exchange_kernel<WithoutIn::Load>, 1); }},
    {"race-vote", "ThreadSanitizer: data race", Build::Thread,
     [] { run_faulty("vote", 1, 32, vote_is_no_barrier_kernel, scratch); }},
    {"race-blocks", "ThreadSanitizer: data race", Build::Thread,
     [] { run_faulty("blocks", 2, 32, unordered_blocks_kernel, scratch); }},
    {"race-relaxed-flag", "ThreadSanitizer: data race", Build::Thread,
     [] { emulator::launch(2, 32, options("relaxed", 1), relaxed_flag_kernel, &scratch[0], &scratch[1]); }},
};

bool applies(Build build) {
    switch (build) {
        case Build::Any: return true;
        case Build::Address: return kAddressSanitizer;
        case Build::Thread: return kThreadSanitizer;
        case Build::NotThread: return !kThreadSanitizer && !kAddressSanitizer;
    }
    return false;
}

/// Runs each case in a process of its own; it has to end badly, with the right words.
void test_cases(const std::string& program) {
    for (const Case& faulty : kCases) {
        if (!applies(faulty.build)) continue;
        std::FILE* pipe = popen(("'" + program + "' case " + faulty.name + " 2>&1").c_str(), "r");
        if (pipe == nullptr) {
            expect(false, "a case starts");
            return;
        }
        std::string output;
        char part[4096];
        for (std::size_t n; (n = std::fread(part, 1, sizeof part, pipe)) > 0;) output.append(part, n);
        int status = pclose(pipe);
        bool reported = output.find(faulty.report) != std::string::npos;
        bool stopped = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
        std::printf("  %-22s %s\n", faulty.name, reported && stopped ? "reported" : "NOT REPORTED");
        if (!reported || !stopped) std::printf("%s\n", output.c_str());
        expect(reported && stopped, faulty.name);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Speed
// ---------------------------------------------------------------------------------------------------------------------

__global__ void ballots_kernel(u32* out, u32 n) {
    u32 x = threadIdx.x;
    for (u32 i = 0; i < n; ++i) x += __ballot_sync(kFull, x & 1);
    out[threadIdx.x] = x;
}
__global__ void shuffles_kernel(u32* out, u32 n) {
    u32 x = threadIdx.x;
    for (u32 i = 0; i < n; ++i) x += __shfl_sync(kFull, x, static_cast<int>(i & 31));
    out[threadIdx.x] = x;
}
__global__ void barriers_kernel(u32* out, u32 n) {
    for (u32 i = 0; i < n; ++i) __syncthreads();
    out[threadIdx.x] = n;
}

int bench() {
    struct Row {
        const char* name;
        void (*kernel)(u32*, u32);
    };
    for (const Row& row : {Row{"__ballot_sync", ballots_kernel}, Row{"__shfl_sync", shuffles_kernel},
                           Row{"__syncthreads", barriers_kernel}}) {
        for (u32 threads : {128u, 256u, 1024u}) {
            std::vector<u32> out(1024);
            u32 n = (1u << 22) / threads;
            emulator::launch(1, threads, options(row.name, 1), row.kernel, out.data(), 10u);
            auto start = std::chrono::steady_clock::now();
            emulator::launch(8, threads, options(row.name, 1), row.kernel, out.data(), n);
            std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
            std::printf("%-14s %4u threads: %6.1f million switches/s\n", row.name, threads,
                        8.0 * threads * n / seconds.count() / 1e6);
        }
    }
    return 0;
}

int run_case(const char* name) {
    for (const Case& faulty : kCases) {
        if (std::strcmp(faulty.name, name) != 0) continue;
        faulty.run();
        return 0;
    }
    std::fprintf(stderr, "no such case: %s\n", name);
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    if (count == 2 && std::strcmp(arguments[1], "bench") == 0) return bench();
    if (count == 3 && std::strcmp(arguments[1], "case") == 0) return run_case(arguments[2]);
    if (count != 1) {
        std::fprintf(stderr, "usage: selftest [bench | case NAME]\n");
        return 2;
    }
    char program[4096] = {};
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0) return 2;

    struct Part {
        const char* name;
        std::function<void()> run;
    };
    const Part parts[] = {{"bits", test_bits},
                          {"atomics", test_atomics},
                          {"collectives", test_collectives},
                          {"grids", test_grids},
                          {"missing barriers", test_missing_barriers},
                          {"faulty kernels", [&] { test_cases(program); }}};
    for (const Part& part : parts) {
        std::printf("%s\n", part.name);
        std::fflush(stdout);
        part.run();
    }
    std::printf(failures == 0 ? "all is well\n" : "%d failures\n", failures);
    return failures == 0 ? 0 : 1;
}
