// The vocabulary of CUDA C++ that kernels are written in, with CUDA's meaning to the bit. What each function does is
// in NVIDIA's CUDA C++ Programming Guide and CUDA Math API Reference; comments here say only what is not obvious.
#pragma once

#include "machine.h"

// libstdc++ spells an attribute __noinline__ in this header; it has to be read before that becomes a macro.
#include <memory>

#define __global__
#define __device__
#define __host__
#define __constant__ __attribute__((unused))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

/// Declares `name`, a reference to the block's one object of type T, in a kernel or a device function.
#define SHARED(T, name)                                     \
    static ::emulator::detail::SharedKey name##_shared_key; \
    ::emulator::detail::Type<T>& name = ::emulator::detail::shared_object<T>(name##_shared_key)

#define threadIdx (::emulator::detail::running().thread_index)
#define blockIdx (::emulator::detail::running().block->index)
#define blockDim (::emulator::detail::running().block->size)
#define gridDim (::emulator::detail::running().block->grid)
constexpr int warpSize = 32;

// ---------------------------------------------------------------------------------------------------------------------
// Vector types
// ---------------------------------------------------------------------------------------------------------------------

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) ulonglong2 {
    unsigned long long x, y;
};
constexpr uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
constexpr uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
constexpr uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
constexpr ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }

// ---------------------------------------------------------------------------------------------------------------------
// Barriers of a block
// ---------------------------------------------------------------------------------------------------------------------

inline void __syncthreads(emulator::detail::Site site = emulator::detail::Site::here()) {
    emulator::detail::barrier(emulator::detail::Operation::SyncThreads, false, site);
}
inline int __syncthreads_or(int predicate, emulator::detail::Site site = emulator::detail::Site::here()) {
    return static_cast<int>(
        emulator::detail::barrier(emulator::detail::Operation::SyncThreadsOr, predicate != 0, site));
}
inline int __syncthreads_and(int predicate, emulator::detail::Site site = emulator::detail::Site::here()) {
    return static_cast<int>(
        emulator::detail::barrier(emulator::detail::Operation::SyncThreadsAnd, predicate != 0, site));
}
inline int __syncthreads_count(int predicate, emulator::detail::Site site = emulator::detail::Site::here()) {
    return static_cast<int>(
        emulator::detail::barrier(emulator::detail::Operation::SyncThreadsCount, predicate != 0, site));
}

// ---------------------------------------------------------------------------------------------------------------------
// Collectives of a warp
// ---------------------------------------------------------------------------------------------------------------------

inline void __syncwarp(unsigned mask = 0xffffffff, emulator::detail::Site site = emulator::detail::Site::here()) {
    emulator::detail::collective(emulator::detail::Operation::SyncWarp, mask, 0, 0, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              emulator::detail::Site site = emulator::detail::Site::here()) {
    return static_cast<unsigned>(
        emulator::detail::collective(emulator::detail::Operation::Ballot, mask, predicate != 0, 0, site));
}
inline int __any_sync(unsigned mask, int predicate, emulator::detail::Site site = emulator::detail::Site::here()) {
    return static_cast<int>(
        emulator::detail::collective(emulator::detail::Operation::Any, mask, predicate != 0, 0, site));
}
inline int __all_sync(unsigned mask, int predicate, emulator::detail::Site site = emulator::detail::Site::here()) {
    return static_cast<int>(
        emulator::detail::collective(emulator::detail::Operation::All, mask, predicate != 0, 0, site));
}
/// A device may answer with fewer lanes; no kernel may rely on either.
inline unsigned __activemask() { return emulator::detail::running().warp->alive; }

namespace emulator::detail {

template <class T>
inline T shuffle(unsigned mask, T value, unsigned source, Site site) {
    static_assert(std::is_trivially_copyable_v<T>, "only plain values can be shuffled");
    static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8, "of 1, 2, 4 or 8 bytes");
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = collective(Operation::Shuffle, mask, bits, source, site);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

/// The lanes that a shuffle of this width stays within, as PTX's `shfl.sync` defines them.
struct Segment {
    unsigned lane, first, last;
    explicit Segment(int width) {
        if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
            give_up(*running().block->worker, EMULATOR_LANE_FORMAT " shuffles with a width of %d",
                    EMULATOR_LANE(running()), width);
        }
        lane = running().number;
        first = lane & ~(static_cast<unsigned>(width) - 1);
        last = first + static_cast<unsigned>(width) - 1;
    }
};

inline unsigned reduced(Operation operation, unsigned mask, unsigned value, Site site) {
    return static_cast<unsigned>(collective(operation, mask, value, 0, site));
}

}  // namespace emulator::detail

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                     emulator::detail::Site site = emulator::detail::Site::here()) {
    emulator::detail::Segment segment(width);
    unsigned within = static_cast<unsigned>(source) & static_cast<unsigned>(width - 1);
    return emulator::detail::shuffle(mask, value, segment.first + within, site);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                        emulator::detail::Site site = emulator::detail::Site::here()) {
    emulator::detail::Segment segment(width);
    unsigned distance = delta & 31;
    bool inside = segment.lane >= segment.first + distance;
    return emulator::detail::shuffle(mask, value, inside ? segment.lane - distance : segment.lane, site);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                          emulator::detail::Site site = emulator::detail::Site::here()) {
    emulator::detail::Segment segment(width);
    unsigned distance = delta & 31;
    bool inside = segment.lane + distance <= segment.last;
    return emulator::detail::shuffle(mask, value, inside ? segment.lane + distance : segment.lane, site);
}
/// Reaches lower segments too, but no higher ones.
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                         emulator::detail::Site site = emulator::detail::Site::here()) {
    emulator::detail::Segment segment(width);
    unsigned other = segment.lane ^ (static_cast<unsigned>(lane_mask) & 31);
    return emulator::detail::shuffle(mask, value, other <= segment.last ? other : segment.lane, site);
}

inline unsigned __reduce_add_sync(unsigned mask, unsigned value,
                                  emulator::detail::Site site = emulator::detail::Site::here()) {
    return emulator::detail::reduced(emulator::detail::Operation::ReduceAdd, mask, value, site);
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value,
                                  emulator::detail::Site site = emulator::detail::Site::here()) {
    return emulator::detail::reduced(emulator::detail::Operation::ReduceMin, mask, value, site);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value,
                                  emulator::detail::Site site = emulator::detail::Site::here()) {
    return emulator::detail::reduced(emulator::detail::Operation::ReduceMax, mask, value, site);
}
inline int __reduce_add_sync(unsigned mask, int value, emulator::detail::Site site = emulator::detail::Site::here()) {
    return static_cast<int>(__reduce_add_sync(mask, static_cast<unsigned>(value), site));
}
inline int __reduce_min_sync(unsigned mask, int value, emulator::detail::Site site = emulator::detail::Site::here()) {
    return static_cast<int>(emulator::detail::reduced(emulator::detail::Operation::ReduceMinSigned, mask,
                                                      static_cast<unsigned>(value), site));
}
inline int __reduce_max_sync(unsigned mask, int value, emulator::detail::Site site = emulator::detail::Site::here()) {
    return static_cast<int>(emulator::detail::reduced(emulator::detail::Operation::ReduceMaxSigned, mask,
                                                      static_cast<unsigned>(value), site));
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value,
                                  emulator::detail::Site site = emulator::detail::Site::here()) {
    return emulator::detail::reduced(emulator::detail::Operation::ReduceAnd, mask, value, site);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value,
                                 emulator::detail::Site site = emulator::detail::Site::here()) {
    return emulator::detail::reduced(emulator::detail::Operation::ReduceOr, mask, value, site);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value,
                                  emulator::detail::Site site = emulator::detail::Site::here()) {
    return emulator::detail::reduced(emulator::detail::Operation::ReduceXor, mask, value, site);
}

// ---------------------------------------------------------------------------------------------------------------------
// Bits
// ---------------------------------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }

inline unsigned __brev(unsigned x) {
    x = (x & 0x55555555) << 1 | (x >> 1 & 0x55555555);
    x = (x & 0x33333333) << 2 | (x >> 2 & 0x33333333);
    x = (x & 0x0f0f0f0f) << 4 | (x >> 4 & 0x0f0f0f0f);
    return __builtin_bswap32(x);
}
inline unsigned long long __brevll(unsigned long long x) {
    return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
           __brev(static_cast<unsigned>(x >> 32));
}

/// Byte i of the result is the byte of y:x that nibble i of the selector names, by its low three bits.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    unsigned long long bytes = static_cast<unsigned long long>(y) << 32 | x;
    unsigned result = 0;
    for (unsigned i = 0; i < 4; ++i) {
        unsigned from = selector >> (4 * i) & 7;
        result |= static_cast<unsigned>(bytes >> (8 * from) & 0xff) << (8 * i);
    }
    return result;
}

/// The upper half of high:low, shifted left by `shift` modulo 32.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
    return static_cast<unsigned>(both << (shift & 31) >> 32);
}
/// The lower half of high:low, shifted right by `shift` modulo 32.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
    return static_cast<unsigned>(both >> (shift & 31));
}

inline unsigned __umulhi(unsigned x, unsigned y) {
    return static_cast<unsigned>(static_cast<unsigned long long>(x) * y >> 32);
}
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<unsigned long long>(static_cast<Wide>(x) * y >> 64);
}

namespace emulator::detail {
/// 0xff in every byte for which `holds` does, 0 in the others.
template <class Predicate>
inline unsigned bytewise(unsigned x, unsigned y, Predicate holds) {
    unsigned result = 0;
    for (unsigned shift = 0; shift < 32; shift += 8) {
        if (holds(x >> shift & 0xff, y >> shift & 0xff)) result |= 0xffu << shift;
    }
    return result;
}
}  // namespace emulator::detail

inline unsigned __vcmpeq4(unsigned x, unsigned y) {
    return emulator::detail::bytewise(x, y, [](unsigned a, unsigned b) { return a == b; });
}
inline unsigned __vcmpltu4(unsigned x, unsigned y) {
    return emulator::detail::bytewise(x, y, [](unsigned a, unsigned b) { return a < b; });
}
inline unsigned __vcmpgeu4(unsigned x, unsigned y) {
    return emulator::detail::bytewise(x, y, [](unsigned a, unsigned b) { return a >= b; });
}

namespace emulator::detail {
/// The type in which two integers are compared: of int and unsigned it is unsigned.
template <class A, class B>
using Common = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>,
                                decltype(std::declval<A>() + std::declval<B>())>;
}  // namespace emulator::detail

template <class A, class B>
constexpr emulator::detail::Common<A, B> min(A a, B b) {
    emulator::detail::Common<A, B> x = static_cast<decltype(x)>(a), y = static_cast<decltype(x)>(b);
    return y < x ? y : x;
}
template <class A, class B>
constexpr emulator::detail::Common<A, B> max(A a, B b) {
    emulator::detail::Common<A, B> x = static_cast<decltype(x)>(a), y = static_cast<decltype(x)>(b);
    return x < y ? y : x;
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory
// ---------------------------------------------------------------------------------------------------------------------

template <class T>
inline T __ldg(const T* address) {
    return *address;
}

namespace emulator::detail {

/// Before each atomic: now and then the others go first. A loop around an atomic thereby lets them run.
inline void before_atomic([[maybe_unused]] const volatile void* address) {
    if (running().warp->random->below(16) == 0) poll();
#if defined(EMULATOR_TSAN)
    running().recent_atomics[running().recent++ % 8] = address;
#endif
}

/// Atomics are relaxed, as CUDA's are, unless a fence came before.
template <class T>
inline bool replace(T* address, T& expected, T desired) {
    if (running().fenced) {
        return __atomic_compare_exchange_n(address, &expected, desired, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
    }
    return __atomic_compare_exchange_n(address, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/// Puts `change` of the old value in its place, in one step; returns the old value.
template <class T, class Change>
inline T update(T* address, Change change) {
    before_atomic(address);
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (!replace(address, old, change(old))) {
    }
    if (change(old) != old) note_progress();
    return old;
}

template <class T>
inline T compare_and_swap(T* address, T expected, T desired) {
    before_atomic(address);
    T found = expected;
    if (replace(address, found, desired) && desired != expected) note_progress();
    return found;
}

/// ThreadSanitizer knows no fences. What this thread read by an atomic before the fence is taken as acquired, what it
/// writes by an atomic after it as released.
inline void fence() {
#if defined(EMULATOR_TSAN)
    for (const volatile void* address : running().recent_atomics) {
        if (address != nullptr) acquire(const_cast<void*>(address));
    }
    running().fenced = true;
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

}  // namespace emulator::detail

// For each type only what CUDA has for it: a call with another type does not compile here either.
#define EMULATOR_ATOMIC(name, T, expression)                                                    \
    inline T name(T* address, T value) {                                                        \
        return emulator::detail::update(address, [value](T old) -> T { return (expression); }); \
    }
#define EMULATOR_ATOMICS(T)                                                    \
    EMULATOR_ATOMIC(atomicExch, T, (static_cast<void>(old), value))            \
    EMULATOR_ATOMIC(atomicMin, T, value < old ? value : old)                   \
    EMULATOR_ATOMIC(atomicMax, T, value > old ? value : old)                   \
    EMULATOR_ATOMIC(atomicAnd, T, old & value)                                 \
    EMULATOR_ATOMIC(atomicOr, T, old | value)                                  \
    EMULATOR_ATOMIC(atomicXor, T, old ^ value)                                 \
    inline T atomicCAS(T* address, T expected, T desired) {                    \
        return emulator::detail::compare_and_swap(address, expected, desired); \
    }
EMULATOR_ATOMICS(int)
EMULATOR_ATOMICS(unsigned)
EMULATOR_ATOMICS(unsigned long long)
EMULATOR_ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value)))
EMULATOR_ATOMIC(atomicAdd, unsigned, old + value)
EMULATOR_ATOMIC(atomicAdd, unsigned long long, old + value)
EMULATOR_ATOMIC(atomicSub, int, static_cast<int>(static_cast<unsigned>(old) - static_cast<unsigned>(value)))
EMULATOR_ATOMIC(atomicSub, unsigned, old - value)
EMULATOR_ATOMIC(atomicMin, long long, value < old ? value : old)
EMULATOR_ATOMIC(atomicMax, long long, value > old ? value : old)
#undef EMULATOR_ATOMICS
#undef EMULATOR_ATOMIC

inline void __threadfence() { emulator::detail::fence(); }
inline void __threadfence_block() { emulator::detail::fence(); }

inline void __nanosleep(unsigned) { emulator::detail::poll(); }

/// Nanoseconds; a device counts cycles.
inline long long clock64() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

[[noreturn]] inline void __trap() {
    emulator::detail::give_up(*emulator::detail::running().block->worker, EMULATOR_LANE_FORMAT " called __trap",
                              EMULATOR_LANE(emulator::detail::running()));
}

namespace emulator {

// Kernels write these four as inline PTX (ld.acquire.gpu and so on), which only a device can run.

/// ld.acquire.gpu. Lets the other threads run first: this is what a kernel spins on.
template <class T>
inline T load_acquire(const T* address) {
    detail::poll();
    return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}
/// ld.relaxed.gpu, or a volatile read. Lets the other threads run first.
template <class T>
inline T load_relaxed(const T* address) {
    detail::poll();
#if defined(EMULATOR_TSAN)
    detail::running().recent_atomics[detail::running().recent++ % 8] = address;
#endif
    return __atomic_load_n(address, __ATOMIC_RELAXED);
}
/// st.release.gpu.
template <class T>
inline void store_release(T* address, T value) {
    __atomic_store_n(address, value, __ATOMIC_RELEASE);
    detail::note_progress();
}
/// st.relaxed.gpu, or a volatile write.
template <class T>
inline void store_relaxed(T* address, T value) {
    if (detail::running().fenced) {
        __atomic_store_n(address, value, __ATOMIC_RELEASE);
    } else {
        __atomic_store_n(address, value, __ATOMIC_RELAXED);
    }
    detail::note_progress();
}

}  // namespace emulator
