// Strings: a warp reads 128 bytes at a time, four a lane.
//
// The text's string is decoded into a window in shared memory; a full window is counted and hashed. Other
// strings are only walked through. Both are the same code, with and without a window.
#pragma once
#include "bytes.cuh"
#include "common.cuh"
#include "job.cuh"
#include "xxh3.cuh"

// Bytes that a warp looks at together.
constexpr u32 STEP = 4 * WARP;
// An escape of the form \uXXXX, and how many of them a warp decodes together.
constexpr u32 UNICODE_ESCAPE = 6;

// Stands for a lone surrogate: such a text is rejected, so only that there was one matters.
constexpr u32 REPLACEMENT = 0xfffd;

// Decoded bytes that wait in the window before its first block is counted and hashed: a block, and some
// more, so that what stands at the block's end can be seen with the bytes behind it.
constexpr u32 WINDOW_FULL = BLOCK + 4;

// Room in the window: what a step adds to a window that is not full yet, and what is read behind that.
constexpr u32 WINDOW_BYTES = WINDOW_FULL + 2 * STEP;

// A warp's window. Before its bytes stands the stripe that was there before them: a hash ends with the last
// 64 bytes, and white space may have begun there.
struct Window {
    alignas(16) u8 memory[STRIPE + WINDOW_BYTES];

    __device__ __forceinline__ u8* bytes() { return memory + STRIPE; }
    // Words of `memory`.
    __device__ __forceinline__ u32* words() { return reinterpret_cast<u32*>(memory); }
};

__device__ __forceinline__ bool is_surrogate(u32 unit) { return (unit & 0xf800) == 0xd800; }
__device__ __forceinline__ bool is_high_surrogate(u32 unit) { return (unit & 0xfc00) == 0xd800; }
__device__ __forceinline__ bool is_low_surrogate(u32 unit) { return (unit & 0xfc00) == 0xdc00; }

// What a one-letter escape stands for; 0 where JSON has no such escape (\u is another matter). The warps of a
// block share a table of it.
__device__ __forceinline__ u32 simple_escape(u32 letter) {
    switch (letter) {
        case '"':
        case '\\':
        case '/':
            return letter;
        case 'b':
            return 0x08;
        case 'f':
            return 0x0c;
        case 'n':
            return '\n';
        case 'r':
            return '\r';
        case 't':
            return '\t';
        default:
            return 0;
    }
}

// The number that four hexadecimal digits stand for; above 0xffff if one of them is none.
__device__ __forceinline__ u32 hex_4(u32 digits) {
    constexpr u32 BAD = 0x10000;
    u32 value = 0;
    for (u32 i = 0; i < 4; i++) {
        const u32 digit = digits >> (8 * i) & 0xff;
        const u32 decimal = digit - '0';
        const u32 letter = (digit | 0x20) - 'a';
        value |= decimal < 10 ? decimal << (12 - 4 * i) : letter < 6 ? (letter + 10) << (12 - 4 * i) : BAD;
    }
    return value;
}

// The code unit of an escape \uXXXX at `at`; above 0xffff if there is none.
__device__ __forceinline__ u32 unicode_escape(const u8* at) {
    constexpr u32 BACKSLASH_U = '\\' | 'u' << 8;
    const u32 start = input_4(at);
    return (start & 0xffff) == BACKSLASH_U ? hex_4(input_4(at + 2)) : 0x10000;
}

// A character's UTF-8, the first byte lowest.
struct Utf8 {
    u32 bytes;
    u32 len;
};

__device__ __forceinline__ Utf8 encode_utf8(u32 code) {
    const u32 last = 0x80 | (code & 0x3f);
    const u32 second_last = 0x80 | (code >> 6 & 0x3f);
    const u32 third_last = 0x80 | (code >> 12 & 0x3f);
    if (code < 0x80) {
        return {code, 1};
    }
    if (code < 0x800) {
        return {0xc0 | code >> 6 | last << 8, 2};
    }
    if (code < 0x10000) {
        return {0xe0 | code >> 12 | second_last << 8 | last << 16, 3};
    }
    return {0xf0 | code >> 18 | third_last << 8 | second_last << 16 | last << 24, 4};
}

// What ended a step through a string.
enum Stop : u32 {
    // Nothing: go on.
    NO_STOP,
    // The string's closing quote.
    QUOTE,
    // Something that no JSON string has.
    INVALID,
};

// Bytes of a step that begin an escape, and those that are escaped, as four bits of each lane.
struct Escapes {
    u32 begin;
    u32 escaped;
};

// In a run of backslashes every second one is escaped. Most runs have one: then each begins an escape, and what
// is behind it is escaped.
//
// Otherwise: a lane can tell from its own four bytes whether the byte behind them is escaped, unless all four are
// backslashes; then it is as at their start. So the state at a lane's start is that of the nearest lane below
// whose bytes are not all backslashes.
__device__ __forceinline__ Escapes find_escapes(u32 backslashes, u32 lane) {
    const u32 below = __shfl_up_sync(ALL_LANES, backslashes, 1);
    const u32 behind_one = (backslashes << 1 | (lane == 0 ? 0 : below >> 3)) & 0xf;
    if (warp_ballot((backslashes & behind_one) != 0) == 0) {
        return {backslashes, behind_one};
    }
    const bool all = backslashes == 0xf;
    const u32 trailing = __clz(static_cast<int>(~(backslashes << 28)));
    const u32 odd = warp_ballot(!all && trailing % 2 == 1);
    const u32 deciding = ~warp_ballot(all) & lanes_below(lane);
    bool escaped = deciding != 0 && (odd >> (31 - __clz(static_cast<int>(deciding))) & 1);
    Escapes found = {0, 0};
    for (u32 i = 0; i < 4; i++) {
        const bool begins = (backslashes >> i & 1) && !escaped;
        found.begin |= begins ? 1u << i : 0;
        found.escaped |= escaped ? 1u << i : 0;
        escaped = begins;
    }
    return found;
}

// The measures of a text.
struct Measured {
    u64 hash;
    u32 chars;
    u32 words;
    bool null;
    bool lone_surrogate;
};

// Walks through strings. All lanes of a warp call each function together.
struct Strings {
    const Job& job;
    // The secrets, in shared memory.
    const u8* secret;
    const u8* seeded_secret;
    // What each byte stands for behind a backslash, as simple_escape says.
    const u8* meanings;
    Window& window;
    const u32 lane;

    // Whether the string at hand has an escape.
    bool had_escape;
    // Whether a text of the line had a lone surrogate, or another string one that may be lone.
    bool saw_surrogate;
    Measured measured;

    // Bytes in the window.
    u32 filled;
    u32 blocks_hashed;
    Accumulator accumulator;
    // This lane's share of the counts.
    u32 lane_chars;
    u32 lane_words;
    // White space of the four bytes before the window, in every lane.
    u32 space_before;

    // Walks to behind the closing quote of the string whose first byte is at `at`, and says whether it is a
    // JSON string.
    __device__ __forceinline__ bool skip(const u8*& at) {
        had_escape = false;
        for (;;) {
            const Stop stop = step<false>(at);
            if (stop != NO_STOP) {
                return stop == QUOTE;
            }
        }
    }

    // As skip, and measures it as the document's text.
    __device__ __forceinline__ bool measure(const u8*& at) {
        start();
        for (;;) {
            const Stop stop = step<true>(at);
            if (stop != NO_STOP) {
                if (stop == QUOTE) {
                    finish();
                }
                return stop == QUOTE;
            }
            if (filled >= WINDOW_FULL) {
                flush_block();
            }
        }
    }

    // Goes on by up to STEP bytes.
    template <bool DECODE>
    __device__ __forceinline__ Stop step(const u8*& at) {
        const u32 word = input_4(at + 4 * lane);
        const u32 backslashes = equal(word, '\\');
        const u32 ends = equal(word, '"') | control(word);
        const u32 stopping = warp_ballot((backslashes | ends) != 0);
        if (stopping == 0) {
            if (DECODE) {
                put_word(word);
                filled += STEP;
            }
            at += STEP;
            return NO_STOP;
        }
        const u32 first_lane = first_of(stopping);
        const u32 first = first_of(broadcast(backslashes | ends, first_lane)) / 8;
        const u32 byte = broadcast(word, first_lane) >> (8 * first) & 0xff;
        if (byte == '\\') {
            had_escape = true;
            return mixed_step<DECODE>(at, word, nibble(backslashes), nibble(ends));
        }
        const u32 read = 4 * first_lane + first;
        if (DECODE) {
            // What is written behind the end is not counted as filled.
            put_word(word);
            filled += read;
        }
        at += read + 1;
        return byte == '"' ? QUOTE : INVALID;
    }

    // A step with an escape in it.
    template <bool DECODE>
    __device__ __forceinline__ Stop mixed_step(const u8*& at, u32 word, u32 backslashes, u32 ends) {
        const Escapes escapes = find_escapes(backslashes, lane);
        // The first byte of this lane that the step cannot pass. Of an escape that is not of one letter, that
        // is its backslash, which may be the last byte of the lane below.
        const u32 ending = ends & ~escapes.escaped;
        u32 stop = ending == 0 ? STEP : 4 * lane + first_of(ending);
        for (u32 left = escapes.escaped; left != 0; left &= left - 1) {
            const u32 i = first_of(left);
            const u32 byte = word >> (8 * i) & 0xff;
            const u32 meaning = meanings[byte];
            if (meaning != 0) {
                word ^= (byte ^ meaning) << (8 * i);
            } else {
                stop = min(stop, 4 * lane + i - 1);
            }
        }
        const u32 stopping = warp_ballot(stop != STEP);
        u32 read = STEP;
        if (stopping != 0) {
            read = broadcast(stop, first_of(stopping));
        } else if (broadcast(escapes.begin, WARP - 1) >> 3 & 1) {
            // The last byte begins an escape: its letter is not here yet.
            read = STEP - 1;
        }
        if (DECODE) {
            put_decoded(word, ~escapes.begin, read);
        }
        at += read;
        return stopping == 0 ? NO_STOP : what_stops<DECODE>(at);
    }

    // What is at `at`, where a step could not go on. A run of \uXXXX is passed.
    template <bool DECODE>
    __device__ __forceinline__ Stop what_stops(const u8*& at) {
        const u32 byte = input_1(at);
        if (byte == '"') {
            at += 1;
            return QUOTE;
        }
        return byte == '\\' && unicode_run<DECODE>(at) ? NO_STOP : INVALID;
    }

    // Passes up to 32 escapes of the form \uXXXX, one a lane; false if there is none at `at`.
    template <bool DECODE>
    __device__ __forceinline__ bool unicode_run(const u8*& at) {
        const u32 unit = unicode_escape(at + UNICODE_ESCAPE * lane);
        const u32 others = warp_ballot(unit > 0xffff);
        u32 run = others == 0 ? WARP : first_of(others);
        if (run == 0) {
            return false;
        }
        const bool in_run = lane < run;
        const u32 high = warp_ballot(in_run && is_high_surrogate(unit));
        const u32 low = warp_ballot(in_run && is_low_surrogate(unit));
        if (run == WARP && high >> (WARP - 1) != 0) {
            // The other half may follow: leave both to the next run.
            run -= 1;
        }
        if (DECODE) {
            put_units(unit, high, low, run);
        } else {
            saw_surrogate |= (high | low) != 0;
        }
        at += UNICODE_ESCAPE * run;
        return true;
    }

    // Puts the characters of the first `run` lanes' code units into the window.
    __device__ __forceinline__ void put_units(u32 unit, u32 high, u32 low, u32 run) {
        const u32 in_run = run == WARP ? ALL_LANES : lanes_below(run);
        // A high surrogate with a low one behind it makes a character, which is the first lane's.
        const u32 first_halves = high & low >> 1 & in_run;
        const u32 second_halves = first_halves << 1;
        const u32 lone = (high | low) & ~(first_halves | second_halves) & in_run;
        const u32 next_unit = __shfl_down_sync(ALL_LANES, unit, 1);
        u32 code = unit;
        if (first_halves >> lane & 1) {
            code = 0x10000 + ((unit - 0xd800) << 10) + (next_unit - 0xdc00);
        } else if (lone >> lane & 1) {
            code = REPLACEMENT;
        }
        const bool mine = (in_run & ~second_halves) >> lane & 1;
        measured.lone_surrogate |= lone != 0;
        // An enclosing object may be mapped as well, and holds this text even if a later one takes its place.
        saw_surrogate |= lone != 0;
        measured.null |= warp_ballot(mine && code == 0) != 0;
        const Utf8 utf8 = encode_utf8(code);
        const u32 len = mine ? utf8.len : 0;
        const SmallSums sums = small_sums(len, lane);
        for (u32 i = 0; i < len; i++) {
            window.bytes()[filled + sums.below + i] = static_cast<u8>(utf8.bytes >> (8 * i));
        }
        filled += sums.all;
    }

    // Puts all four bytes of each lane into the window.
    __device__ __forceinline__ void put_word(u32 word) {
        for (u32 i = 0; i < 4; i++) {
            window.bytes()[filled + 4 * lane + i] = static_cast<u8>(word >> (8 * i));
        }
    }

    // Puts the bytes whose bit is set in `keep` and that are among the first `read` of the step.
    __device__ __forceinline__ void put_decoded(u32 word, u32 keep, u32 read) {
        const u32 first = 4 * lane;
        const u32 within = read >= first + 4 ? 0xf : read <= first ? 0 : (1u << (read - first)) - 1;
        keep &= within;
        const SmallSums sums = small_sums(__popc(keep), lane);
        u32 to = filled + sums.below;
        for (u32 i = 0; i < 4; i++) {
            if (keep >> i & 1) {
                window.bytes()[to] = static_cast<u8>(word >> (8 * i));
                to += 1;
            }
        }
        filled += sums.all;
    }

    __device__ __forceinline__ void start() {
        measured = Measured{};
        filled = 0;
        blocks_hashed = 0;
        accumulator.reset(lane);
        lane_chars = 0;
        lane_words = 0;
        // A word may begin with the first character, as if there were white space before it.
        space_before = TOP_BITS;
        // The window is written anew only when all lanes are done with the text before.
        __syncwarp();
        if (lane < STRIPE / 4) {
            window.words()[lane] = four(' ');
        }
    }

    // Counts and hashes the first block in the window, and moves the rest to its start.
    __device__ __forceinline__ void flush_block() {
        // The lanes' bytes are needed by all.
        __syncwarp();
        count(BLOCK);
        if (job.hash_wanted) {
            accumulator.eat(window.bytes(), BLOCK_STRIPES, seeded_secret, lane);
            accumulator.scramble(seeded_secret, lane);
        }
        blocks_hashed += 1;
        // The block's last stripe and all that follows it move to the start.
        constexpr u32 BLOCK_WORDS = BLOCK / 4;
        constexpr u32 MOVED_WORDS = sizeof(Window) / 4 - BLOCK_WORDS;
        constexpr u32 ROUNDS = (MOVED_WORDS + WARP - 1) / WARP;
        u32 moved[ROUNDS];
        for (u32 i = 0; i < ROUNDS; i++) {
            const u32 at = i * WARP + lane;
            moved[i] = at < MOVED_WORDS ? window.words()[BLOCK_WORDS + at] : 0;
        }
        // All must have read before any writes: the two places overlap.
        __syncwarp();
        for (u32 i = 0; i < ROUNDS; i++) {
            const u32 at = i * WARP + lane;
            if (at < MOVED_WORDS) {
                window.words()[at] = moved[i];
            }
        }
        filled -= BLOCK;
        // The next bytes are put where others may have moved some just now.
        __syncwarp();
    }

    __device__ __forceinline__ void finish() {
        // The lanes' bytes are needed by all.
        __syncwarp();
        count(filled);
        measured.chars = static_cast<u32>(warp_sum(lane_chars));
        measured.words = static_cast<u32>(warp_sum(lane_words));
        if (job.hash_wanted) {
            measured.hash = hash_rest();
        }
    }

    __device__ __forceinline__ u64 hash_rest() {
        const u64 len = static_cast<u64>(blocks_hashed) * BLOCK + filled;
        if (len <= SHORT) {
            return xxh3_of_240(window.bytes(), filled, secret, job.seed, lane);
        }
        // A block that is the last is not scrambled; with WINDOW_FULL above BLOCK, one may be left whole.
        if (filled > BLOCK) {
            accumulator.eat(window.bytes(), BLOCK_STRIPES, seeded_secret, lane);
            accumulator.scramble(seeded_secret, lane);
            accumulator.eat(window.bytes() + BLOCK, (filled - BLOCK - 1) / STRIPE, seeded_secret, lane);
        } else {
            accumulator.eat(window.bytes(), (filled - 1) / STRIPE, seeded_secret, lane);
        }
        // The last 64 bytes, again or in part again, with a place of the secret of their own.
        accumulator.eat(window.bytes() + filled - STRIPE, 1, seeded_secret + SECRET_BYTES - STRIPE - 7, lane);
        return accumulator.finish(len, seeded_secret, lane);
    }

    // Counts characters and words in the window's first `len` bytes. They end with a whole character, or
    // enough bytes follow to know what the last one is.
    __device__ __forceinline__ void count(u32 len) {
        for (u32 first = 0; first < len; first += STEP) {
            const u32 at = first + 4 * lane;
            const u32* words = window.words() + (STRIPE + at) / 4;
            const u32 word = words[0];
            // Bytes of the window alone: behind `len` there may be others.
            const u32 valid = len >= at + 4 ? TOP_BITS : len <= at ? 0 : (TOP_BITS >> (8 * (at + 4 - len)));
            u32 space = ascii_space(word);
            if (warp_ballot((non_ascii(word) & valid) != 0) != 0) {
                const u32 before = words[-1];
                if (warp_ballot((wide_space_candidate(word) | wide_space_candidate(before)) != 0) != 0) {
                    space |= wide_space(before, word, words[1]);
                }
            }
            // A word starts at a byte that is not white space behind one that is.
            u32 below = __shfl_up_sync(ALL_LANES, space, 1);
            below = lane == 0 ? space_before : below;
            space_before = broadcast(space, WARP - 1);
            const u32 starts = ~space & earlier(below, space, 1) & valid;
            lane_words += __popc(starts);
            lane_chars += __popc(~continuation(word) & valid);
        }
    }
};
