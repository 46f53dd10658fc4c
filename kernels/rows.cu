// From lines to rows: a warp a line.
//
// Lines are taken by ticket, as they are of all lengths. The walk reads every byte of a line once; only the
// text is looked at again, decoded, while it is in shared memory.
#include "bytes.cuh"
#include "job.cuh"
#include "walk.cuh"

constexpr u32 ROW_THREADS = 256;
constexpr u32 ROW_WARPS = ROW_THREADS / WARP;
// Blocks that fit a multiprocessor by their registers (64 a thread).
constexpr u32 ROW_BLOCKS = 4;

// What the warps of a block share.
struct RowsShared {
    alignas(16) u8 secret[SECRET_BYTES + 16];
    alignas(16) u8 seeded_secret[SECRET_BYTES + 16];
    u8 meanings[ROW_THREADS];
    Window window[ROW_WARPS];
};

// What there is to say of the bytes of a line that is no JSON.
struct LineFacts {
    bool has_null;
    bool not_utf8;
    bool is_blank;
};

// Four bytes of a line, with line feeds in place of those before its start and behind its end.
__device__ __forceinline__ u32 word_of_line(const u8* line, u32 len, int at) {
    u32 keep = ~0u;
    if (at < 0) {
        keep = at <= -4 ? 0 : ~0u << (8 * -at);
    }
    const int behind = at + 4 - static_cast<int>(len);
    if (behind > 0) {
        keep &= behind >= 4 ? 0 : ~0u >> (8 * behind);
    }
    return keep == 0 ? four('\n') : (input_4(line + at) & keep) | (four('\n') & ~keep);
}

__device__ __noinline__ LineFacts line_facts(const u8* line, u32 len, u32 lane) {
    u32 null = 0;
    u32 not_utf8 = 0;
    u32 not_space = 0;
    // One word more than the line has, in which a sequence that it cuts off is found.
    for (u32 first = 0; first < len + 4; first += STEP) {
        const int at = static_cast<int>(first + 4 * lane);
        const u32 before = word_of_line(line, len, at - 4);
        const u32 word = word_of_line(line, len, at);
        const u32 after = word_of_line(line, len, at + 4);
        null |= equal(word, 0);
        not_utf8 |= utf8_errors(before, word);
        not_space |= ~(ascii_space(word) | wide_space(before, word, after)) & TOP_BITS;
    }
    LineFacts facts;
    facts.has_null = warp_ballot(null != 0) != 0;
    facts.not_utf8 = warp_ballot(not_utf8 != 0) != 0;
    facts.is_blank = warp_ballot(not_space != 0) == 0;
    return facts;
}

__device__ __forceinline__ Code why_not_json(LineFacts facts) {
    return facts.has_null ? NULL_BYTE : facts.not_utf8 ? INVALID_UTF8 : facts.is_blank ? BLANK : INVALID_JSON;
}

// Grid: as many blocks as fit the device. `bytes` are followed by PADDING line feeds; there are
// facts->lines `ends`. Each line gets one of `rows` and job->sources of `spans`.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, ROW_BLOCKS)
    scan_rows(const u8* __restrict__ bytes, const u32* __restrict__ ends, ChunkFacts* __restrict__ facts,
              u32 capacity, const Job* __restrict__ job, Row* __restrict__ rows, Span* __restrict__ spans) {
    SHARED(RowsShared, shared);
    const u32 lane = lane_id();

    // STEP 1: what every text needs comes nearer: the secrets for its hash, the meanings of its escapes.
    static_assert(ROW_THREADS == 256, "a thread for each byte");
    shared.meanings[threadIdx.x] = static_cast<u8>(simple_escape(threadIdx.x));
    if (threadIdx.x < SECRET_BYTES) {
        shared.secret[threadIdx.x] = job->secret[threadIdx.x];
        shared.seeded_secret[threadIdx.x] = job->seeded_secret[threadIdx.x];
    }
    // Every warp reads all of them.
    __syncthreads();

    const u8* const job_bytes = reinterpret_cast<const u8*>(job);
    Walk walk = {*job,
                 reinterpret_cast<const JobNode*>(job_bytes + job->nodes),
                 reinterpret_cast<const JobChild*>(job_bytes + job->children),
                 job_bytes + job->keys,
                 lane,
                 {*job, shared.secret, shared.seeded_secret, shared.meanings, shared.window[threadIdx.x / WARP], lane},
                 {lane}};
    const u32 lines = facts->lines;
    const bool check_utf8 = facts->not_utf8 != 0;
    if (lines > capacity) {
        return;  // the host sees that, and scans the chunk itself
    }
    for (;;) {
        // STEP 2: the next line.
        u32 index = 0;
        if (lane == 0) {
            index = atomicAdd(&facts->next_line, 1u);
        }
        index = broadcast(index, 0);
        if (index >= lines) {
            return;
        }
        const u32 start = index == 0 ? 0 : ends[index - 1] + 1;
        const u32 len = ends[index] - start;
        const u8* const line = bytes + start;

        // STEP 3: what it is.
        walk.span = {0, 0};
        walk.strings.measured = Measured{};
        Fault fault = {DEFERRED, 0};
        if (len <= job->longest_line) {
            LineFacts line_is = {};
            if (check_utf8) {
                line_is = line_facts(line, len, lane);
            }
            const u8* const end = line_is.not_utf8 ? nullptr : walk.document(line);
            if (end == line + len) {
                const u8* const first = walk.skip_space(line);
                fault = walk.fault(input_1(first) == '{');
            } else {
                fault = {why_not_json(check_utf8 ? line_is : line_facts(line, len, lane)), 0};
            }
        }

        // STEP 4: its row and spans. Lines that are no documents have neither measures nor spans.
        const bool is_document = fault.code == DOCUMENT;
        if (lane == 0) {
            const Measured& measured = walk.strings.measured;
            Row row = {};
            row.hash = is_document ? measured.hash : 0;
            row.start = start;
            row.len = len;
            row.chars = is_document ? measured.chars : 0;
            row.words = is_document ? measured.words : 0;
            row.code = fault.code;
            row.field = static_cast<u8>(fault.field);
            rows[index] = row;
        }
        if (lane < job->sources) {
            spans[static_cast<u64>(index) * job->sources + lane] = is_document ? walk.span : Span{0, 0};
        }
    }
}
