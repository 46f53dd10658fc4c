// Scans a chunk with the emulated kernels, without Rust and without a driver: for sanitizers, which want a
// program that is instrumented throughout.
//
//     scan_file JOB CHUNK ROWS SPANS [SEED]
//
// JOB holds what src/scan/cuda/layout.rs makes of a job, CHUNK the lines; ROWS and SPANS are written as the
// kernels leave them. SEED varies the order in which threads and blocks run.

#define COLOPHON_EMULATOR
#include "../../kernels/lines.cu"
#include "../../kernels/rows.cu"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

namespace {

std::vector<char> read_file(const char* path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        std::fprintf(stderr, "scan_file: cannot read %s\n", path);
        std::exit(3);
    }
    return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const char* path, const void* data, size_t len) {
    std::ofstream file(path, std::ios::binary);
    file.write(static_cast<const char*>(data), static_cast<std::streamsize>(len));
}

// Memory as a device's allocator gives it: aligned, and of exactly this size, so that a sanitizer sees
// every access outside of it.
template <class T>
struct DeviceMemory {
    T* data;
    explicit DeviceMemory(size_t len) : data(static_cast<T*>(std::aligned_alloc(64, (len * sizeof(T) + 63) / 64 * 64))) {
        std::fill_n(reinterpret_cast<unsigned char*>(data), (len * sizeof(T) + 63) / 64 * 64, 0xcd);
    }
    DeviceMemory(const DeviceMemory&) = delete;
    ~DeviceMemory() { std::free(data); }
};

}  // namespace

int main(int argc, char** argv) {
    if (argc < 5) {
        std::fprintf(stderr, "usage: scan_file JOB CHUNK ROWS SPANS [SEED]\n");
        return 2;
    }
    const std::vector<char> job_bytes = read_file(argv[1]);
    const std::vector<char> chunk = read_file(argv[2]);
    const unsigned long long seed = argc > 5 ? std::strtoull(argv[5], nullptr, 10) : 1;

    DeviceMemory<u8> job_memory(job_bytes.size());
    std::copy(job_bytes.begin(), job_bytes.end(), job_memory.data);
    const Job* job = reinterpret_cast<const Job*>(job_memory.data);
    const u64 len = chunk.size();
    DeviceMemory<u8> bytes(len + PADDING);
    std::fill_n(std::copy(chunk.begin(), chunk.end(), bytes.data), PADDING, '\n');

    const u32 tiles = static_cast<u32>(len / TILE_BYTES + 1);
    const u32 capacity = static_cast<u32>(len + 1);
    DeviceMemory<u64> marks(tiles * (TILE_BYTES / WORD_BITS));
    DeviceMemory<u32> tile_lines(tiles);
    DeviceMemory<u32> ends(capacity);
    ChunkFacts facts = {};

    emulator::Options options;
    options.seed = seed;
    options.resident_blocks = 4;
    const auto run = [&](const char* name, u32 blocks, u32 threads, auto kernel) {
        options.kernel_name = name;
        emulator::launch(dim3(blocks), dim3(threads), options, kernel);
    };
    run("mark_lines", tiles, MARK_THREADS, [&] { mark_lines(bytes.data, len, marks.data, tile_lines.data, &facts); });
    run("sum_tiles", 1, SUM_THREADS, [&] { sum_tiles(bytes.data, len, tile_lines.data, tiles, &facts); });
    run("place_lines", tiles, MARK_THREADS,
        [&] { place_lines(bytes.data, len, marks.data, tile_lines.data, ends.data, capacity, &facts); });
    DeviceMemory<Row> rows(facts.lines);
    DeviceMemory<Span> spans(static_cast<size_t>(facts.lines) * job->sources);
    run("scan_rows", 3, ROW_THREADS,
        [&] { scan_rows(bytes.data, ends.data, &facts, capacity, job, rows.data, spans.data); });

    write_file(argv[3], rows.data, facts.lines * sizeof(Row));
    write_file(argv[4], spans.data, static_cast<size_t>(facts.lines) * job->sources * sizeof(Span));
    return 0;
}
