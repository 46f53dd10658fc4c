// Where lines end: three kernels, one pass over the bytes.
//
// STEP 1, mark_lines: every line feed becomes a bit, every tile's bits are counted, and UTF-8 is checked.
// STEP 2, sum_tiles: from the tiles' counts, how many lines end before each tile.
// STEP 3, place_lines: every bit becomes an entry in the table of line ends.
//
// The table could be made in one kernel with a look-back from tile to tile. Step 3 reads an eighth of a
// byte for each byte of the chunk, so that would save little, and this needs no memory ordering between
// blocks.
#include "bytes.cuh"
#include "job.cuh"

constexpr u32 MARK_THREADS = 256;
constexpr u32 MARK_WARPS = MARK_THREADS / WARP;
// Bytes that a thread loads at once, and how often it does.
constexpr u32 LOAD_BYTES = 16;
constexpr u32 LOADS = 4;
// A tile is what a block of threads looks at: 16 KiB.
constexpr u32 WARP_BYTES = WARP * LOAD_BYTES * LOADS;
constexpr u32 TILE_BYTES = MARK_WARPS * WARP_BYTES;
constexpr u32 WORD_BITS = 64;
constexpr u32 SUM_THREADS = 256;

// What each warp of a block has counted.
template <u32 WARPS>
struct WarpSums {
    u32 of[WARPS];
};

// The sum of `value` over the block in every thread, and over the threads before this one in `before`.
template <u32 WARPS>
__device__ __forceinline__ u32 block_scan(u32 value, WarpSums<WARPS>& sums, u32& before) {
    const u32 lane = lane_id();
    const u32 warp = threadIdx.x / WARP;
    u32 inclusive = value;
    for (u32 distance = 1; distance < WARP; distance *= 2) {
        const u32 other = __shfl_up_sync(ALL_LANES, inclusive, distance);
        inclusive += lane >= distance ? other : 0;
    }
    if (lane == WARP - 1) {
        sums.of[warp] = inclusive;
    }
    // Every warp needs the sums of all.
    __syncthreads();
    u32 all = 0;
    before = inclusive - value;
    for (u32 i = 0; i < WARPS; i++) {
        before += i < warp ? sums.of[i] : 0;
        all += sums.of[i];
    }
    return all;
}

// Line feeds of 16 bytes as bits, that of the first byte lowest.
__device__ __forceinline__ u32 line_feeds(uint4 bytes) {
    return nibble(equal(bytes.x, '\n')) | nibble(equal(bytes.y, '\n')) << 4 | nibble(equal(bytes.z, '\n')) << 8 |
           nibble(equal(bytes.w, '\n')) << 12;
}

// The first `count` bytes, with line feeds for the others.
__device__ __forceinline__ uint4 cut_off(uint4 bytes, u64 count) {
    u32 words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
    for (u32 i = 0; i < 4; i++) {
        const u32 first = 4 * i;
        const u32 keep = count >= first + 4 ? ~0u : count <= first ? 0 : (1u << (8 * (count - first))) - 1;
        words[i] = (words[i] & keep) | (four('\n') & ~keep);
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ bool has_utf8_error(u32 before, uint4 bytes) {
    return (utf8_errors(before, bytes.x) | utf8_errors(bytes.x, bytes.y) | utf8_errors(bytes.y, bytes.z) |
            utf8_errors(bytes.z, bytes.w)) != 0;
}

// Grid: one block for each tile; there are len / TILE_BYTES + 1, so that the last one looks behind the end.
// `bytes` are aligned to 16 and followed by PADDING line feeds. `marks` gets one bit for each byte of every
// tile, `tile_lines` one count for each tile; `facts` are zero.
extern "C" __global__ void __launch_bounds__(MARK_THREADS)
    mark_lines(const u8* __restrict__ bytes, u64 len, u64* __restrict__ marks, u32* __restrict__ tile_lines,
               ChunkFacts* __restrict__ facts) {
    SHARED(WarpSums<MARK_WARPS>, warp_sums);
    const u32 lane = lane_id();
    const u64 tile = blockIdx.x;
    const u64 warp_start = tile * TILE_BYTES + (threadIdx.x / WARP) * WARP_BYTES;
    u32 count = 0;
    bool bad_utf8 = false;
    for (u32 load = 0; load < LOADS; load++) {
        const u64 at = warp_start + load * WARP * LOAD_BYTES + lane * LOAD_BYTES;
        // Behind the end there are line feeds, which end a broken sequence and are not marked.
        uint4 block = make_uint4(four('\n'), four('\n'), four('\n'), four('\n'));
        if (at < len) {
            block = cut_off(*reinterpret_cast<const uint4*>(bytes + at), len - at);
        }
        u32 feeds = line_feeds(block);
        if (at + LOAD_BYTES > len) {
            feeds &= at < len ? (1u << (len - at)) - 1 : 0;
        }
        count += __popc(feeds);

        // Four lanes' bits make a word of the table.
        const u64 two = feeds | static_cast<u64>(__shfl_down_sync(ALL_LANES, feeds, 1)) << 16;
        const u64 word = two | __shfl_down_sync(ALL_LANES, two, 2) << 32;
        if (lane % 4 == 0) {
            marks[at / WORD_BITS] = word;
        }

        // Most bytes are ASCII, which needs no look at neighbours; but a sequence may be cut off at the end
        // of one lane's bytes, so the next lane looks at those before its own.
        const u32 last_before = __shfl_up_sync(ALL_LANES, block.w, 1);
        u32 before = last_before;
        if (lane == 0) {
            before = at == 0 || at > len ? 0 : *reinterpret_cast<const u32*>(bytes + at - 4);
        }
        if (non_ascii(before | block.x | block.y | block.z | block.w) != 0) {
            bad_utf8 |= has_utf8_error(before, block);
        }
    }
    u32 before;
    const u32 all = block_scan(count, warp_sums, before);
    if (threadIdx.x == 0) {
        tile_lines[tile] = all;
    }
    if (warp_ballot(bad_utf8) != 0 && lane == 0) {
        atomicOr(&facts->not_utf8, 1u);
    }
}

// Grid: one block. Replaces each tile's count by the sum of those before it, and counts the lines.
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    sum_tiles(const u8* __restrict__ bytes, u64 len, u32* __restrict__ tile_lines, u32 tiles,
              ChunkFacts* __restrict__ facts) {
    SHARED(WarpSums<SUM_THREADS / WARP>, warp_sums);
    u32 sum = 0;
    for (u32 first = 0; first < tiles; first += SUM_THREADS) {
        const u32 tile = first + threadIdx.x;
        const u32 count = tile < tiles ? tile_lines[tile] : 0;
        u32 before;
        const u32 all = block_scan(count, warp_sums, before);
        if (tile < tiles) {
            tile_lines[tile] = sum + before;
        }
        sum += all;
        // The next round writes the warps' sums, which all threads must have read by then.
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        facts->lines = sum + (len > 0 && bytes[len - 1] != '\n' ? 1 : 0);
    }
}

// Grid: one block for each tile. `ends` gets the place of each line feed, and the chunk's end if its last line
// has none; entries from `capacity` on are left out.
extern "C" __global__ void __launch_bounds__(MARK_THREADS)
    place_lines(const u8* __restrict__ bytes, u64 len, const u64* __restrict__ marks,
                const u32* __restrict__ tile_lines, u32* __restrict__ ends, u32 capacity,
                const ChunkFacts* __restrict__ facts) {
    SHARED(WarpSums<MARK_WARPS>, warp_sums);
    const u64 tile = blockIdx.x;
    const u64 word = tile * MARK_THREADS + threadIdx.x;
    u64 bits = marks[word];
    u32 index;
    block_scan(static_cast<u32>(__popcll(bits)), warp_sums, index);
    index += tile_lines[tile];
    while (bits != 0) {
        if (index < capacity) {
            ends[index] = static_cast<u32>(word * WORD_BITS) + __ffsll(static_cast<long long>(bits)) - 1;
        }
        index += 1;
        bits &= bits - 1;
    }
    if (tile == 0 && threadIdx.x == 0 && len > 0 && bytes[len - 1] != '\n' && facts->lines <= capacity) {
        ends[facts->lines - 1] = static_cast<u32>(len);
    }
}
