// The execution model: a grid of blocks of warps of lanes, each lane a fiber.
//
// A worker (a thread of the operating system) holds a few resident blocks and runs one warp at a time. A warp runs its
// lanes one after the other, each up to its next collective, barrier, poll or end; the last lane to arrive completes
// the collective and all of them become ready again, in a new order. So a lane that reads what another lane writes,
// without a barrier between the two, finds the old value under some seed.
#pragma once

#include "fiber.h"

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emulator {

/// How a grid is run. The same options give the same run, if `os_threads` is 1.
struct Options {
    /// Chooses the order of blocks, warps and lanes.
    std::uint64_t seed = 1;
    /// Threads of the operating system to run blocks on.
    unsigned os_threads = 1;
    /// Blocks that take turns on each of them. The others wait until one of these has ended.
    unsigned resident_blocks = 4;
    /// Seconds without progress after which spinning blocks are given up, if other threads could still help them.
    unsigned patience_seconds = 20;
    /// For reports.
    const char* kernel_name = "kernel";
};

namespace detail {

constexpr unsigned kWarpSize = 32;
constexpr unsigned kMaxBlockThreads = 1024;
/// Of a kernel's `SHARED` declarations together; ptxas refuses more static shared memory than that.
constexpr std::size_t kMaxSharedBytes = 48 << 10;
constexpr unsigned kMaxSharedObjects = 64;
constexpr int kSharedPoison = 0xDB;

#if defined(EMULATOR_ASAN) || defined(EMULATOR_TSAN) || !defined(__OPTIMIZE__)
constexpr std::size_t kStackBytes = 256 << 10;
#else
constexpr std::size_t kStackBytes = 64 << 10;
#endif
/// Stacks a power of two apart would all use the same few sets of the caches.
constexpr std::size_t kStackStride = kStackBytes + 4096 + 128;
constexpr std::uint64_t kStackCanary = 0x5AFE57AC5AFE57AC;

/// Collectives that a warp completes before another warp gets its turn: at least so many.
constexpr int kMinBudget = 64;
/// Rounds in which blocks only polled, until they are taken to spin for ever.
constexpr unsigned kIdleRounds = 100'000;

/// A place in a kernel's source, for reports.
struct Site {
    const char* file = "?";
    unsigned line = 0;
    /// As a default argument: the place of the call.
    static constexpr Site here(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
        return {file, line};
    }
};

/// xorshift64*, seeded through a step of splitmix64.
class Random {
public:
    EMULATOR_INTERNAL explicit Random(std::uint64_t seed = 0) {
        state_ = (seed + 1) * 0x9E3779B97F4A7C15;
        state_ = (state_ ^ (state_ >> 30)) * 0xBF58476D1CE4E5B9;
        state_ ^= state_ >> 27;
        if (state_ == 0) state_ = 1;
    }
    EMULATOR_INTERNAL std::uint32_t next() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return static_cast<std::uint32_t>((state_ * 0x2545F4914F6CDD1D) >> 32);
    }
    /// Below `bound`, which is not 0.
    EMULATOR_INTERNAL std::uint32_t below(std::uint32_t bound) { return next() % bound; }

private:
    std::uint64_t state_;
};

using LaneOrder = std::array<std::uint8_t, kWarpSize>;
constexpr unsigned kOrders = 64;

/// A quarter ascending, a quarter descending, the rest shuffled.
constexpr std::array<LaneOrder, kOrders> lane_orders() {
    std::array<LaneOrder, kOrders> orders{};
    std::uint32_t state = 12345;
    for (unsigned i = 0; i < kOrders; ++i) {
        LaneOrder& order = orders[i];
        bool descending = i >= kOrders / 4 && i < kOrders / 2;
        for (unsigned k = 0; k < kWarpSize; ++k) order[k] = static_cast<std::uint8_t>(descending ? 31 - k : k);
        if (i < kOrders / 2) continue;
        for (unsigned k = kWarpSize - 1; k > 0; --k) {
            state = state * 1664525 + 1013904223;
            unsigned other = (state >> 16) % (k + 1);
            std::uint8_t held = order[k];
            order[k] = order[other];
            order[other] = held;
        }
    }
    return orders;
}
inline constexpr std::array<LaneOrder, kOrders> kLaneOrders = lane_orders();

enum class Operation : std::uint8_t {
    None,
    SyncWarp,
    Ballot,
    Any,
    All,
    Shuffle,
    ReduceAdd,
    ReduceMin,
    ReduceMax,
    ReduceMinSigned,
    ReduceMaxSigned,
    ReduceAnd,
    ReduceOr,
    ReduceXor,
    SyncThreads,
    SyncThreadsOr,
    SyncThreadsAnd,
    SyncThreadsCount,
};

inline const char* name_of(Operation operation) {
    switch (operation) {
        case Operation::None: return "nothing";
        case Operation::SyncWarp: return "__syncwarp";
        case Operation::Ballot: return "__ballot_sync";
        case Operation::Any: return "__any_sync";
        case Operation::All: return "__all_sync";
        case Operation::Shuffle: return "__shfl_sync";
        case Operation::ReduceAdd: return "__reduce_add_sync";
        case Operation::ReduceMin:
        case Operation::ReduceMinSigned: return "__reduce_min_sync";
        case Operation::ReduceMax:
        case Operation::ReduceMaxSigned: return "__reduce_max_sync";
        case Operation::ReduceAnd: return "__reduce_and_sync";
        case Operation::ReduceOr: return "__reduce_or_sync";
        case Operation::ReduceXor: return "__reduce_xor_sync";
        case Operation::SyncThreads: return "__syncthreads";
        case Operation::SyncThreadsOr: return "__syncthreads_or";
        case Operation::SyncThreadsAnd: return "__syncthreads_and";
        case Operation::SyncThreadsCount: return "__syncthreads_count";
    }
    return "?";
}

struct Warp;
struct Block;
struct Worker;

/// One CUDA thread. What a switch needs stands first, in one cache line.
struct alignas(64) Lane {
    Context context;
    Warp* warp = nullptr;
    Block* block = nullptr;
    std::uint32_t bit = 0;     // 1 << number
    std::uint32_t number = 0;  // within the warp
    std::uint64_t result = 0;  // of the collective it waited for
    // What it waits for, or waited for last.
    Site site;
    std::uint32_t mask = 0;
    Operation operation = Operation::None;

    std::uint8_t recent = 0;
    bool fenced = false;  // for ThreadSanitizer: fences order the atomics around them
    uint3 thread_index{};
    std::uint32_t thread = 0;  // within the block
    std::uint64_t* canary = nullptr;
    std::array<const volatile void*, 8> recent_atomics{};
};

/// A collective that some lanes of its mask have arrived at.
struct Collective {
    std::uint32_t mask = 0;
    std::uint32_t arrived = 0;
    Operation operation = Operation::None;
    std::uint8_t phase = 0;  // alternates, so that an early arrival at the next one orders nobody of this one
    std::uint32_t votes = 0;
    std::array<std::uint8_t, kWarpSize> source{};
    std::array<std::uint64_t, kWarpSize> value{};
    std::array<char, 2> ordering{};  // addresses for ThreadSanitizer
};

struct Warp {
    std::uint32_t alive = 0;    // lanes that have not ended
    std::uint32_t ready = 0;    // lanes to run in this turn
    std::uint32_t later = 0;    // lanes to run in the next turn: they poll, or the turn was cut short
    std::uint32_t blocked = 0;  // lanes at a barrier of the block
    std::uint32_t open = 0;     // which of `collectives` have arrivals
    std::uint32_t position = 0;
    const LaneOrder* order = kLaneOrders.data();
    int budget = 0;
    Lane* lanes = nullptr;
    Block* block = nullptr;
    Random* random = nullptr;
    /// By the lowest lane of the mask: parts of a warp that went different ways may be at collectives of their own.
    std::array<Collective, kWarpSize> collectives;
};

struct SharedObject {
    void* memory = nullptr;
    std::size_t bytes = 0;
    bool in_use = false;  // by the present block
};

/// A resident block: the fibers are kept and run block after block.
struct Block {
    std::vector<Lane> lanes;
    std::vector<Warp> warps;
    char* stacks = nullptr;
    Worker* worker = nullptr;

    uint3 index{};
    dim3 size;
    dim3 grid;
    unsigned threads = 0;
    unsigned alive = 0;
    std::array<SharedObject, kMaxSharedObjects> shared;
    std::size_t shared_bytes = 0;

    // The barrier that some threads have arrived at.
    unsigned arrived = 0;
    unsigned votes = 0;
    Operation operation = Operation::None;
    Site site;
    std::uint8_t phase = 0;
    std::array<std::uint64_t, 2> result{};
    std::array<char, 2> ordering{};
    char turn = 0;  // orders a block after the one before it in this place
};

/// A grid being run.
struct Launch {
    dim3 grid;
    dim3 block;
    Options options;
    void (*body)(void*) = nullptr;
    void* argument = nullptr;

    std::uint64_t blocks = 0;
    std::uint64_t first_block = 0;
    std::uint64_t block_stride = 1;
    std::atomic<std::uint64_t> next_block{0};
    std::atomic<std::uint64_t> progress{0};
    char started = 0;
    char finished = 0;
};

/// A thread of the operating system that runs blocks.
struct Worker {
    Context scheduler;
    Launch* launch = nullptr;
    std::vector<std::unique_ptr<Block>> blocks;
    Random random;
    bool progressed = false;
    bool polled = false;
};

/// The lane that runs on this thread of the operating system, and its warp. The second could be had through the first,
/// but then each switch would wait for the loads of the one before.
inline thread_local Lane* current __attribute__((tls_model("initial-exec"))) = nullptr;
inline thread_local Warp* current_warp __attribute__((tls_model("initial-exec"))) = nullptr;

/// For code that ThreadSanitizer sees, as kernels are: to it, what is local to a thread is not for fibers to read.
EMULATOR_INTERNAL Lane& running() { return *current; }

// ---------------------------------------------------------------------------------------------------------------------
// Reports
// ---------------------------------------------------------------------------------------------------------------------

inline void describe(const Lane& lane, char* text, std::size_t size) {
    const Warp& warp = *lane.warp;
    const char* name = name_of(lane.operation);
    if (!(warp.alive & lane.bit)) {
        std::snprintf(text, size, "ended");
    } else if (warp.blocked & lane.bit) {
        std::snprintf(text, size, "waits in %s at %s:%u", name, lane.site.file, lane.site.line);
    } else if (&lane == current) {
        std::snprintf(text, size, "runs");
    } else if (warp.later & lane.bit) {
        std::snprintf(text, size, "polls");
    } else if (warp.ready & lane.bit) {
        std::snprintf(text, size, "is ready");
    } else {
        std::snprintf(text, size, "waits in %s(mask 0x%08x) at %s:%u", name, lane.mask, lane.site.file, lane.site.line);
    }
}

/// One line for each run of threads in the same state.
inline void report(const Block& block) {
    std::fprintf(stderr, "  block (%u,%u,%u):\n", block.index.x, block.index.y, block.index.z);
    char text[512], next[512];
    for (unsigned first = 0, last; first < block.threads; first = last) {
        describe(block.lanes[first], text, sizeof text);
        for (last = first + 1; last < block.threads; ++last) {
            describe(block.lanes[last], next, sizeof next);
            if (std::strcmp(text, next) != 0) break;
        }
        if (last - first == 1) {
            std::fprintf(stderr, "    thread %u %s\n", first, text);
        } else {
            std::fprintf(stderr, "    threads %u-%u: each %s\n", first, last - 1, text);
        }
    }
}

/// Says what is wrong, where every thread of the resident blocks is, and ends the program.
[[noreturn]] __attribute__((cold, noinline, format(printf, 2, 3))) inline void give_up(const Worker& worker,
                                                                                       const char* format, ...) {
    Unseen unseen;
    std::va_list arguments;
    va_start(arguments, format);
    std::fprintf(stderr, "emulator: %s: ", worker.launch->options.kernel_name);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fprintf(stderr, " (seed %llu)\n", static_cast<unsigned long long>(worker.launch->options.seed));
    for (const auto& block : worker.blocks) {
        if (block->alive != 0) report(*block);
    }
    std::fflush(stderr);
    std::abort();
}

/// The running lane, for use in messages: "thread 5 of block (0,0,0)".
#define EMULATOR_LANE_FORMAT "thread %u of block (%u,%u,%u)"
#define EMULATOR_LANE(lane) (lane).thread, (lane).block->index.x, (lane).block->index.y, (lane).block->index.z

// ---------------------------------------------------------------------------------------------------------------------
// Turns
// ---------------------------------------------------------------------------------------------------------------------

/// The lane whose turn it is, or null if all lanes of the warp wait.
EMULATOR_INTERNAL Lane* next_lane(Warp& warp) {
    while (warp.ready != 0) {
        while (warp.position < kWarpSize) {
            unsigned number = (*warp.order)[warp.position++];
            if (warp.ready >> number & 1) return &warp.lanes[number];
        }
        warp.position = 0;
    }
    return nullptr;
}

/// Leaves the running lane, which has noted what it waits for, until somebody makes it ready.
EMULATOR_INTERNAL void give_way(Lane& self, Warp& warp) {
    Lane* next = next_lane(warp);
    if (next == &self) return;
    current = next;
    switch_context(self.context, next != nullptr ? next->context : self.block->worker->scheduler);
}

EMULATOR_INTERNAL void new_order(Warp& warp) {
    warp.order = &kLaneOrders[warp.random->next() % kOrders];
    warp.position = 0;
}

/// The lane lets everybody else run before it goes on. What kernels spin on has to come by here.
EMULATOR_INTERNAL void poll() {
    Lane& self = *current;
    Warp& warp = *current_warp;
    warp.ready &= ~self.bit;
    warp.later |= self.bit;
    self.block->worker->polled = true;
    give_way(self, warp);
}

/// Something happened that a polling lane may wait for.
EMULATOR_INTERNAL void note_progress() { current->block->worker->progressed = true; }

// ---------------------------------------------------------------------------------------------------------------------
// Collectives of a warp
// ---------------------------------------------------------------------------------------------------------------------

EMULATOR_INTERNAL std::uint64_t reduce(Operation operation, std::uint64_t left, std::uint64_t right) {
    auto a = static_cast<std::uint32_t>(left), b = static_cast<std::uint32_t>(right);
    auto sa = static_cast<std::int32_t>(a), sb = static_cast<std::int32_t>(b);
    switch (operation) {
        case Operation::ReduceAdd: return a + b;
        case Operation::ReduceMin: return a < b ? a : b;
        case Operation::ReduceMax: return a > b ? a : b;
        case Operation::ReduceMinSigned: return sa < sb ? a : b;
        case Operation::ReduceMaxSigned: return sa > sb ? a : b;
        case Operation::ReduceAnd: return a & b;
        case Operation::ReduceOr: return a | b;
        default: return a ^ b;
    }
}

EMULATOR_INTERNAL void deliver(Warp& warp, std::uint32_t lanes, std::uint64_t result) {
    for (; lanes != 0; lanes &= lanes - 1) warp.lanes[__builtin_ctz(lanes)].result = result;
}

EMULATOR_INTERNAL void deliver_shuffle(Warp& warp, const Collective& collective) {
    for (std::uint32_t lanes = collective.arrived; lanes != 0; lanes &= lanes - 1) {
        unsigned lane = __builtin_ctz(lanes);
        unsigned source = collective.source[lane];
        if (!(collective.arrived >> source & 1)) {
            give_up(*warp.block->worker,
                    EMULATOR_LANE_FORMAT " reads lane %u in a shuffle at %s:%u, but that lane is %s",
                    EMULATOR_LANE(warp.lanes[lane]), source, warp.lanes[lane].site.file, warp.lanes[lane].site.line,
                    collective.mask >> source & 1 ? "gone" : "not in the mask");
        }
        warp.lanes[lane].result = collective.value[source];
    }
}

/// Every lane of the mask is there: hands out the results and makes the lanes ready, in a new order.
EMULATOR_OUTLINE void complete(Warp& warp, Collective& collective) {
    std::uint32_t arrived = collective.arrived;
    switch (collective.operation) {
        case Operation::SyncWarp: break;
        case Operation::Ballot: deliver(warp, arrived, collective.votes); break;
        case Operation::Any: deliver(warp, arrived, collective.votes != 0); break;
        case Operation::All: deliver(warp, arrived, collective.votes == arrived); break;
        case Operation::Shuffle: deliver_shuffle(warp, collective); break;
        default: {
            std::uint32_t rest = arrived & (arrived - 1);
            std::uint64_t result = collective.value[__builtin_ctz(arrived)];
            for (; rest != 0; rest &= rest - 1) {
                result = reduce(collective.operation, result, collective.value[__builtin_ctz(rest)]);
            }
            deliver(warp, arrived, result);
        }
    }
    collective.arrived = 0;
    collective.phase ^= 1;
    warp.open &= ~(1u << __builtin_ctz(collective.mask));
    warp.ready |= arrived;
    new_order(warp);
    if (--warp.budget <= 0) {  // the turn is over; so many collectives are no idle spinning
        warp.later |= warp.ready;
        warp.ready = 0;
        warp.block->worker->progressed = true;
    }
}

[[noreturn]] __attribute__((cold, noinline)) inline void refuse_mismatch(const Lane& self, const Collective& other) {
    give_up(*self.block->worker,
            "mismatched warp collectives: " EMULATOR_LANE_FORMAT
            " calls %s(mask 0x%08x) at %s:%u while lanes 0x%08x of its warp wait in %s(mask 0x%08x)",
            EMULATOR_LANE(self), name_of(self.operation), self.mask, self.site.file, self.site.line, other.arrived,
            name_of(other.operation), other.mask);
}

[[noreturn]] __attribute__((cold, noinline)) inline void refuse_mask(const Lane& self) {
    give_up(*self.block->worker, EMULATOR_LANE_FORMAT " is lane %u and not in the mask 0x%08x of its %s at %s:%u",
            EMULATOR_LANE(self), self.number, self.mask, name_of(self.operation), self.site.file, self.site.line);
}

/// Waits until all living lanes of the mask are here; returns this lane's result. `value` is what it brings (anything
/// but 0 is a vote in favour), `source` the lane that it wants to read, in a shuffle.
EMULATOR_OUTLINE std::uint64_t collective(Operation operation, std::uint32_t mask, std::uint64_t value, unsigned source,
                                          Site site) {
    Lane& self = *current;
    Warp& warp = *current_warp;
    self.operation = operation;
    self.mask = mask;
    self.site = site;
    if (!(mask & self.bit)) refuse_mask(self);
    Collective& here = warp.collectives[__builtin_ctz(mask)];
    if (here.arrived == 0) {
        here.mask = mask;
        here.operation = operation;
        here.votes = 0;
        warp.open |= 1u << __builtin_ctz(mask);
    } else if (here.mask != mask || here.operation != operation) {
        refuse_mismatch(self, here);
    }
    // Votes, shuffles and reductions order no memory; only __syncwarp does (CUDA C++ Programming Guide, "Warp Vote
    // Functions", "Warp Shuffle Functions").
    [[maybe_unused]] char* ordering = &here.ordering[here.phase];
    if (operation == Operation::SyncWarp) release(ordering);
    here.value[self.number] = value;
    if (value != 0) here.votes |= self.bit;
    here.source[self.number] = static_cast<std::uint8_t>(source);
    here.arrived |= self.bit;
    warp.ready &= ~self.bit;
    if (here.arrived == (mask & warp.alive)) complete(warp, here);
    give_way(self, warp);
    if (operation == Operation::SyncWarp) acquire(ordering);
    return self.result;
}

// ---------------------------------------------------------------------------------------------------------------------
// Barriers of a block
// ---------------------------------------------------------------------------------------------------------------------

EMULATOR_INTERNAL void open_barrier(Block& block) {
    std::uint64_t& result = block.result[block.phase];
    switch (block.operation) {
        case Operation::SyncThreadsOr: result = block.votes != 0; break;
        case Operation::SyncThreadsAnd: result = block.votes == block.arrived; break;
        default: result = block.votes;
    }
    block.arrived = 0;
    block.votes = 0;
    block.phase ^= 1;
    Warp* warps = block.warps.data();
    for (unsigned i = 0; i < (block.threads + kWarpSize - 1) / kWarpSize; ++i) {
        warps[i].ready |= warps[i].blocked;
        warps[i].blocked = 0;
        new_order(warps[i]);
    }
}

/// Waits until all living threads of the block are here; returns the result of the vote.
EMULATOR_INTERNAL std::uint64_t barrier(Operation operation, bool vote, Site site) {
    Lane& self = *current;
    Warp& warp = *current_warp;
    Block& block = *warp.block;
    self.operation = operation;
    self.site = site;
    if (block.arrived == 0) {
        block.operation = operation;
        block.site = site;
    } else if (block.operation != operation || block.site.line != site.line ||
               (block.site.file != site.file && std::strcmp(block.site.file, site.file) != 0)) {
        give_up(*block.worker,
                "divergent barriers: " EMULATOR_LANE_FORMAT
                " calls %s at %s:%u while %u threads of its block wait in %s at %s:%u",
                EMULATOR_LANE(self), name_of(operation), site.file, site.line, block.arrived, name_of(block.operation),
                block.site.file, block.site.line);
    }
    std::uint8_t phase = block.phase;
    release(&block.ordering[phase]);
    ++block.arrived;
    block.votes += vote;
    warp.ready &= ~self.bit;
    warp.blocked |= self.bit;
    if (block.arrived == block.alive) open_barrier(block);
    give_way(self, warp);
    acquire(&block.ordering[phase]);
    return block.result[phase];
}

// ---------------------------------------------------------------------------------------------------------------------
// Shared memory
// ---------------------------------------------------------------------------------------------------------------------

/// One for each SHARED declaration; the number is given at the first use.
struct SharedKey {
    int number = 0;
};

EMULATOR_INTERNAL int number_of(SharedKey& key) {
    int number = __atomic_load_n(&key.number, __ATOMIC_ACQUIRE);
    if (number != 0) return number;
    static int last = 0;
    int fresh = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    int expected = 0;
    bool first = __atomic_compare_exchange_n(&key.number, &expected, fresh, false, __ATOMIC_RELEASE, __ATOMIC_ACQUIRE);
    return first ? fresh : expected;
}

/// The block's instance of a shared object, full of poison at the first touch.
EMULATOR_INTERNAL void* shared(SharedKey& key, std::size_t bytes, std::size_t alignment) {
    Block& block = *current->block;
    auto number = static_cast<unsigned>(number_of(key));
    if (number >= kMaxSharedObjects) give_up(*block.worker, "more than %u SHARED declarations", kMaxSharedObjects - 1);
    SharedObject& object = block.shared.data()[number];
    if (object.in_use) return object.memory;
    Unseen unseen;
    block.shared_bytes += bytes;
    if (block.shared_bytes > kMaxSharedBytes) {
        give_up(*block.worker, "%zu bytes of shared memory; %zu are allowed", block.shared_bytes, kMaxSharedBytes);
    }
    if (object.memory == nullptr) {  // of exactly this size, so that AddressSanitizer guards both ends
        if (posix_memalign(&object.memory, alignment < 16 ? 16 : alignment, bytes) != 0) std::abort();
        object.bytes = bytes;
    }
    std::memset(object.memory, kSharedPoison, bytes);
    object.in_use = true;
    return object.memory;
}

/// What the SHARED macro declares a reference to.
template <class T>
inline T& shared_object(SharedKey& key) {
    static_assert(std::is_trivially_default_constructible_v<T>, "shared memory is not initialised");
    return *static_cast<T*>(shared(key, sizeof(T), alignof(T)));
}

/// Lets the SHARED macro add `&` to any spelling of a type, arrays included.
template <class T>
using Type = T;

// ---------------------------------------------------------------------------------------------------------------------
// Blocks
// ---------------------------------------------------------------------------------------------------------------------

// Two functions of their own, never inlined: between them, the fiber may move to another thread of the operating
// system, and the compiler may not keep the address of `current` across that.
EMULATOR_OUTLINE void run_body() {
    Launch& launch = *current->block->worker->launch;
    acquire(&launch.started);
    acquire(&current->block->turn);
    launch.body(launch.argument);
    release(&current->block->turn);
    release(&launch.finished);
}

EMULATOR_OUTLINE void end_thread() {
    Lane& self = *current;
    Warp& warp = *current_warp;
    Block& block = *self.block;
    if (*self.canary != kStackCanary) {
        give_up(*block.worker, EMULATOR_LANE_FORMAT " used more than %zu bytes of stack", EMULATOR_LANE(self),
                kStackBytes);
    }
    warp.alive &= ~self.bit;
    warp.ready &= ~self.bit;
    --block.alive;
    block.worker->progressed = true;
    // The others no longer wait for this thread.
    for (std::uint32_t open = warp.open; open != 0; open &= open - 1) {
        Collective& collective = warp.collectives[__builtin_ctz(open)];
        if (collective.arrived == (collective.mask & warp.alive)) complete(warp, collective);
    }
    if (block.arrived != 0 && block.arrived == block.alive) open_barrier(block);
    give_way(self, warp);
}

EMULATOR_INTERNAL void fiber_main() {
    arrive(current->context);
    for (;;) {
        run_body();
        end_thread();  // returns when the next block begins
    }
}

EMULATOR_INTERNAL void dismantle(Block& block) {
    for (Lane& lane : block.lanes) forget(lane.context);
    for (SharedObject& object : block.shared) std::free(object.memory);
    if (block.stacks != nullptr) munmap(block.stacks, block.lanes.size() * kStackStride);
}

/// Makes fibers for blocks of up to `threads` threads.
EMULATOR_INTERNAL void build(Block& block, unsigned threads) {
    Unseen unseen;  // ThreadSanitizer would see new stacks where old ones were
    dismantle(block);
    block.shared = {};
    block.lanes = std::vector<Lane>(threads);
    block.warps = std::vector<Warp>((threads + kWarpSize - 1) / kWarpSize);
    void* stacks = mmap(nullptr, threads * kStackStride, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) std::abort();
    block.stacks = static_cast<char*>(stacks);
    for (unsigned thread = 0; thread < threads; ++thread) {
        Lane& lane = block.lanes.data()[thread];
        lane.thread = thread;
        lane.number = thread % kWarpSize;
        lane.bit = 1u << lane.number;
        lane.block = &block;
        lane.warp = &block.warps.data()[thread / kWarpSize];
        char* stack = block.stacks + thread * kStackStride;
        lane.canary = reinterpret_cast<std::uint64_t*>(stack);
        *lane.canary = kStackCanary;
        prepare(lane.context, stack + 64, kStackStride - 64, fiber_main);
    }
    for (unsigned i = 0; i < block.warps.size(); ++i) {
        block.warps.data()[i].lanes = &block.lanes.data()[i * kWarpSize];
        block.warps.data()[i].block = &block;
    }
}

/// Places block number `number` of the grid.
EMULATOR_INTERNAL void begin(Block& block, Worker& worker, std::uint64_t number) {
    const Launch& launch = *worker.launch;
    const dim3 &grid = launch.grid, &size = launch.block;
    unsigned threads = size.x * size.y * size.z;
    if (block.lanes.size() < threads) build(block, threads);
    block.worker = &worker;
    block.size = size;
    block.grid = grid;
    block.index = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                   static_cast<unsigned>(number / grid.x / grid.y)};
    block.threads = block.alive = threads;
    block.arrived = block.votes = 0;
    block.shared_bytes = 0;
    for (unsigned i = 0; i < kMaxSharedObjects; ++i) block.shared.data()[i].in_use = false;
    for (unsigned thread = 0; thread < threads; ++thread) {
        Lane& lane = block.lanes.data()[thread];
        lane.thread_index = {thread % size.x, thread / size.x % size.y, thread / size.x / size.y};
        lane.operation = Operation::None;
        lane.fenced = false;
        lane.recent_atomics = {};
    }
    for (unsigned first = 0; first < threads; first += kWarpSize) {
        Warp& warp = block.warps.data()[first / kWarpSize];
        unsigned lanes = threads - first < kWarpSize ? threads - first : kWarpSize;
        warp.alive = lanes == kWarpSize ? ~0u : (1u << lanes) - 1;
        warp.later = warp.alive;
        warp.ready = warp.blocked = warp.open = 0;
        warp.random = &worker.random;
    }
}

/// Runs the warp until all its lanes wait, poll or have ended, or its budget is used up.
EMULATOR_INTERNAL void take_turn(Worker& worker, Warp& warp) {
    warp.ready |= warp.later;
    warp.later = 0;
    if (warp.ready == 0) return;
    warp.budget = kMinBudget + static_cast<int>(worker.random.below(8 * kMinBudget));
    new_order(warp);
    current_warp = &warp;
    current = next_lane(warp);
    switch_context(worker.scheduler, current->context);
    current = nullptr;
}

EMULATOR_INTERNAL bool is_stuck(const Block& block) {
    if (block.alive == 0) return false;
    for (unsigned first = 0; first < block.threads; first += kWarpSize) {
        const Warp& warp = block.warps.data()[first / kWarpSize];
        if ((warp.ready | warp.later) != 0) return false;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Grids
// ---------------------------------------------------------------------------------------------------------------------

/// Gives every warp of the resident blocks a turn, most of the time, in an order that changes from round to round.
EMULATOR_INTERNAL void run_round(Worker& worker, unsigned warps_per_block) {
    auto resident = static_cast<unsigned>(worker.blocks.size());
    unsigned turns = resident * warps_per_block;
    unsigned first = worker.random.below(turns);
    unsigned stride = 1 + worker.random.below(turns);
    while (std::gcd(stride, turns) != 1) ++stride;
    for (unsigned i = 0; i < turns; ++i) {
        unsigned turn = (first + i * stride) % turns;
        Block& block = *worker.blocks.data()[turn % resident];
        if (block.alive == 0 || worker.random.below(8) == 0) continue;  // now and then a warp falls behind
        take_turn(worker, block.warps.data()[turn / resident]);
    }
    for (unsigned i = 0; i < resident; ++i) {
        const Block& block = *worker.blocks.data()[i];
        if (is_stuck(block)) {
            give_up(worker, "deadlock: no thread of block (%u,%u,%u) can go on", block.index.x, block.index.y,
                    block.index.z);
        }
    }
}

/// Places blocks where there is room. Returns whether any block is resident.
EMULATOR_INTERNAL bool fill_places(Worker& worker) {
    Launch& launch = *worker.launch;
    bool any = false;
    for (auto& block : worker.blocks) {
        if (block->alive == 0) {
            std::uint64_t turn = launch.next_block.fetch_add(1, std::memory_order_relaxed);
            if (turn < launch.blocks) {
                begin(*block, worker, (launch.first_block + turn * launch.block_stride) % launch.blocks);
            }
        }
        any |= block->alive != 0;
    }
    return any;
}

/// Runs blocks until the grid has no more.
EMULATOR_INTERNAL void work(Worker& worker) {
    using Clock = std::chrono::steady_clock;
    Launch& launch = *worker.launch;
    unsigned threads = launch.block.x * launch.block.y * launch.block.z;
    unsigned idle_rounds = 0;
    std::uint64_t seen = 0;
    Clock::time_point last_progress = Clock::now();
    while (fill_places(worker)) {
        worker.progressed = worker.polled = false;
        run_round(worker, (threads + kWarpSize - 1) / kWarpSize);
        if (worker.progressed) launch.progress.fetch_add(1, std::memory_order_relaxed);
        std::uint64_t progress = launch.progress.load(std::memory_order_relaxed);
        if (progress != seen) {
            seen = progress;
            idle_rounds = 0;
            last_progress = Clock::now();
        } else if (worker.polled && ++idle_rounds > kIdleRounds) {
            bool others = launch.options.os_threads > 1;
            if (!others || Clock::now() - last_progress > std::chrono::seconds(launch.options.patience_seconds)) {
                give_up(worker, "no progress: every thread that can run only polls");
            }
        }
        if (launch.options.os_threads > 1 && !worker.progressed) std::this_thread::yield();
    }
}

/// Workers that wait for the next launch; their fibers are worth keeping.
struct IdleWorkers {
    std::mutex mutex;
    std::vector<std::unique_ptr<Worker>> workers;
    ~IdleWorkers() {
        for (auto& worker : workers) {
            for (auto& block : worker->blocks) dismantle(*block);
        }
    }
};
inline IdleWorkers idle_workers;

inline std::unique_ptr<Worker> borrow_worker(Launch& launch, unsigned number) {
    std::unique_ptr<Worker> worker;
    {
        std::lock_guard<std::mutex> guard(idle_workers.mutex);
        if (!idle_workers.workers.empty()) {
            worker = std::move(idle_workers.workers.back());
            idle_workers.workers.pop_back();
        }
    }
    if (!worker) worker = std::make_unique<Worker>();
    while (worker->blocks.size() > launch.options.resident_blocks) {
        dismantle(*worker->blocks.back());
        worker->blocks.pop_back();
    }
    while (worker->blocks.size() < launch.options.resident_blocks) worker->blocks.push_back(std::make_unique<Block>());
    worker->launch = &launch;
    worker->random = Random(launch.options.seed * 64 + number);
    return worker;
}

/// What each thread of the operating system does for a launch.
inline void serve(Launch& launch, unsigned number) {
    std::unique_ptr<Worker> worker = borrow_worker(launch, number);
    adopt_thread(worker->scheduler);
    work(*worker);
    std::lock_guard<std::mutex> guard(idle_workers.mutex);
    idle_workers.workers.push_back(std::move(worker));
}

/// Blocks start in ascending, descending or another order: a device promises none.
inline void choose_block_order(Launch& launch) {
    Random random(launch.options.seed);
    std::uint64_t blocks = launch.blocks;
    unsigned choice = random.below(3);
    if (launch.options.seed == 0 || choice == 0 || blocks < 2) return;
    launch.first_block = choice == 1 ? blocks - 1 : random.next() % blocks;
    launch.block_stride = blocks - 1;  // one back each time
    if (choice == 1) return;
    launch.block_stride = 1 + random.next() % blocks;
    while (std::gcd(launch.block_stride, blocks) != 1) ++launch.block_stride;
}

inline void run(Launch& launch) {
    const dim3 &grid = launch.grid, &block = launch.block;
    launch.blocks = std::uint64_t{grid.x} * grid.y * grid.z;
    std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
    if (launch.blocks == 0 || threads == 0 || threads > kMaxBlockThreads || launch.options.resident_blocks == 0) {
        std::fprintf(stderr, "emulator: %s: cannot launch %llu blocks of %llu threads\n", launch.options.kernel_name,
                     static_cast<unsigned long long>(launch.blocks), static_cast<unsigned long long>(threads));
        std::abort();
    }
    choose_block_order(launch);
    release(&launch.started);
    std::vector<std::thread> helpers;
    for (unsigned number = 1; number < launch.options.os_threads; ++number) {
        helpers.emplace_back([&launch, number] { serve(launch, number); });
    }
    serve(launch, 0);
    for (std::thread& helper : helpers) helper.join();
    acquire(&launch.finished);
}

}  // namespace detail

/// Runs `body()` once for every thread of the grid and returns when all have ended. Aborts with a report if they
/// cannot.
template <class Body>
void launch(dim3 grid, dim3 block, const Options& options, Body&& body) {
    detail::Launch launch;
    launch.grid = grid;
    launch.block = block;
    launch.options = options;
    launch.body = [](void* argument) { (*static_cast<std::remove_reference_t<Body>*>(argument))(); };
    launch.argument = const_cast<void*>(static_cast<const void*>(&body));
    detail::run(launch);
}

/// Runs a kernel with its arguments.
template <class... Parameters, class... Arguments>
void launch(dim3 grid, dim3 block, const Options& options, void (*kernel)(Parameters...), Arguments... arguments) {
    std::tuple<Parameters...> values(arguments...);
    launch(grid, block, options, [kernel, &values] { std::apply(kernel, values); });
}

}  // namespace emulator
