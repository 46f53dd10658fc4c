// A stand-in for the CUDA driver library, libcuda.so.1: the driver API that cudarc calls, on top of the emulator.
//
// It is as unhelpful as a driver may be. A stream is a queue, and nothing in it happens until somebody has to wait for
// it; a copy from page-locked memory reads that memory when it happens and not before; new memory is full of garbage,
// and freed memory cannot be touched. A program that is right on this is right about what it waits for.
//
// Environment variables, read at the first call:
//
//   STANDIN_DEVICES=N       Number of devices; 1. With 0, cuInit returns CUDA_ERROR_NO_DEVICE.
//   STANDIN_DRIVER=N        What cuDriverGetVersion says: 1000 * major + 10 * minor; 12040. PTX that is too
//                                    new for it is refused.
//   STANDIN_CAPABILITY=M.N  Compute capability; 9.0. PTX for a later one is refused.
//   STANDIN_MEMORY=BYTES    Memory of each device; 2147483648. More is CUDA_ERROR_OUT_OF_MEMORY.
//   STANDIN_FAIL=LIST       Faults, separated by commas, each FUNCTION:N:CODE or FUNCTION:N:CODE:HOW. The N-th
//                                    call of FUNCTION does nothing and returns the CUresult CODE; with * for N, every
//                                    call. HOW is "sticky": so does every later call of every function; or "lost": so
//                                    does every later call in the context of that device. FUNCTION may also be
//                                    "kernel" or "copy": then the N-th of those to be executed fails in its stream,
//                                    and the device is lost from there on.
//   STANDIN_FLIP=N          The N-th kernel to be executed gets one bit wrong in what it writes; NAME:N for
//                                    the N-th execution of the kernel NAME; with * for N, every execution.
//   STANDIN_KERNEL_US=N     Microseconds that each kernel takes longer; 0.
//   STANDIN_ORDER=HOW       When queued work happens: "lazy", as late as possible; "eager", at the call; or a
//                                    number, the seed of a random schedule. lazy.
//   STANDIN_SEED=N          Seed of the emulator's interleavings; 1.
//   STANDIN_THREADS=N       Threads of the operating system for each kernel; 1.
//
// Any function can be left out, as from an older driver: compile with -DcuEventQuery=missing_cuEventQuery, and the
// library has no symbol cuEventQuery.
#include "standin.h"

#include <sys/mman.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Types and numbers of cuda.h
// ---------------------------------------------------------------------------------------------------------------------

using CUdevice = int;
using CUdeviceptr = unsigned long long;

enum CUresult : int {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
    CUDA_ERROR_ECC_UNCORRECTABLE = 214,
    CUDA_ERROR_INVALID_PTX = 218,
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222,
    CUDA_ERROR_FILE_NOT_FOUND = 301,
    CUDA_ERROR_OPERATING_SYSTEM = 304,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
    CUDA_ERROR_LAUNCH_TIMEOUT = 702,
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
    CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED = 712,
    CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED = 713,
    CUDA_ERROR_MISALIGNED_ADDRESS = 716,
    CUDA_ERROR_LAUNCH_FAILED = 719,
    CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE = 720,
    CUDA_ERROR_NOT_SUPPORTED = 801,
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803,
    CUDA_ERROR_UNKNOWN = 999,
};

struct ErrorText {
    CUresult code;
    const char* name;
    const char* text;
};

const ErrorText kErrors[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {CUDA_ERROR_ECC_UNCORRECTABLE, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {CUDA_ERROR_INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {CUDA_ERROR_FILE_NOT_FOUND, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {CUDA_ERROR_OPERATING_SYSTEM, "CUDA_ERROR_OPERATING_SYSTEM",
     "OS call failed or operation not supported on this OS"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {CUDA_ERROR_LAUNCH_TIMEOUT, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {CUDA_ERROR_CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {CUDA_ERROR_MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
     "too many blocks in cooperative launch"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "system has unsupported display driver / cuda driver combination"},
    {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

const ErrorText* text_of(CUresult code) {
    for (const ErrorText& error : kErrors) {
        if (error.code == code) return &error;
    }
    return nullptr;
}

constexpr int kMultiprocessors = 2;
constexpr int kThreadsPerMultiprocessor = 2048;
constexpr int kBlocksPerMultiprocessor = 32;
constexpr unsigned kMaxSharedBytes = 48 << 10;

constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kEventDisableTiming = 2;

// ---------------------------------------------------------------------------------------------------------------------
// Settings
// ---------------------------------------------------------------------------------------------------------------------

/// A count of events of which the chosen ones matter: the n-th, or all.
struct Nth {
    std::uint64_t chosen = 0;  // 0: all of them
    std::uint64_t seen = 0;
    bool next() { return ++seen == chosen || chosen == 0; }
};

enum class Spread { OneCall, Device, Process };

struct Fault {
    std::string function;
    Nth when;
    CUresult code = CUDA_ERROR_UNKNOWN;
    Spread spread = Spread::OneCall;
};

struct Flip {
    std::string kernel;  // empty: any
    Nth when;
};

[[noreturn]] void refuse_setting(const char* name, const std::string& value) {
    std::fprintf(stderr, "standin: %s=%s is not understood\n", name, value.c_str());
    std::abort();
}

std::uint64_t number_in(const char* name, const std::string& text) {
    char* end = nullptr;
    std::uint64_t number = std::strtoull(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0') refuse_setting(name, text);
    return number;
}

std::string text_setting(const char* name, const char* otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr && *text != '\0' ? text : otherwise;
}

std::uint64_t number_setting(const char* name, std::uint64_t otherwise) {
    std::string text = text_setting(name, "");
    return text.empty() ? otherwise : number_in(name, text);
}

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
    return parts;
}

Nth nth_in(const char* name, const std::string& text) {
    Nth nth;
    if (text == "*") return nth;
    nth.chosen = number_in(name, text);
    if (nth.chosen == 0) refuse_setting(name, text);
    return nth;
}

struct Settings {
    int devices = static_cast<int>(number_setting("STANDIN_DEVICES", 1));
    int driver = static_cast<int>(number_setting("STANDIN_DRIVER", 12040));
    int major = 9;
    int minor = 0;
    std::uint64_t memory = number_setting("STANDIN_MEMORY", std::uint64_t{2} << 30);
    std::vector<Fault> faults;
    std::optional<Flip> flip;
    std::uint64_t kernel_microseconds = number_setting("STANDIN_KERNEL_US", 0);
    bool eager = false;
    std::optional<std::uint64_t> schedule_seed;
    std::uint64_t seed = number_setting("STANDIN_SEED", 1);
    unsigned threads = static_cast<unsigned>(number_setting("STANDIN_THREADS", 1));

    Settings() {
        read_capability();
        read_faults();
        read_flip();
        read_order();
    }

    void read_capability() {
        const char* name = "STANDIN_CAPABILITY";
        std::string text = text_setting(name, "9.0");
        std::vector<std::string> parts = split(text, '.');
        if (parts.size() != 2) refuse_setting(name, text);
        major = static_cast<int>(number_in(name, parts[0]));
        minor = static_cast<int>(number_in(name, parts[1]));
    }

    void read_faults() {
        const char* name = "STANDIN_FAIL";
        for (const std::string& text : split(text_setting(name, ""), ',')) {
            std::vector<std::string> parts = split(text, ':');
            if (parts.size() < 3 || parts.size() > 4) refuse_setting(name, text);
            Fault fault;
            fault.function = parts[0];
            fault.when = nth_in(name, parts[1]);
            fault.code = static_cast<CUresult>(number_in(name, parts[2]));
            if (parts.size() == 4) {
                if (parts[3] != "sticky" && parts[3] != "lost") refuse_setting(name, text);
                fault.spread = parts[3] == "sticky" ? Spread::Process : Spread::Device;
            }
            faults.push_back(fault);
        }
    }

    void read_flip() {
        const char* name = "STANDIN_FLIP";
        std::string text = text_setting(name, "");
        if (text.empty()) return;
        std::vector<std::string> parts = split(text, ':');
        if (parts.size() > 2) refuse_setting(name, text);
        flip = Flip{parts.size() == 2 ? parts[0] : "", nth_in(name, parts.back())};
    }

    void read_order() {
        std::string text = text_setting("STANDIN_ORDER", "lazy");
        eager = text == "eager";
        if (!eager && text != "lazy") schedule_seed = number_in("STANDIN_ORDER", text);
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// Memory
// ---------------------------------------------------------------------------------------------------------------------

[[noreturn]] __attribute__((format(printf, 1, 2))) void misused(const char* format, ...) {
    std::va_list arguments;
    va_start(arguments, format);
    std::fprintf(stderr, "standin: ");
    std::vfprintf(stderr, format, arguments);
    std::fprintf(stderr, "\n");
    va_end(arguments);
    std::abort();
}

constexpr std::size_t kPage = 4096;
constexpr std::size_t kAlignment = 256;  // of what cuMemAlloc returns
constexpr unsigned char kGarbage = 0xCD;
constexpr unsigned char kFence = 0xFD;

std::size_t round_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

/// Memory between two pages that cannot be touched; its end is as near to the second one as alignment allows, and what
/// is left between holds a pattern that must not change. Freed, all of it cannot be touched.
class GuardedMemory {
public:
    explicit GuardedMemory(std::size_t bytes) : bytes_(bytes) {
        std::size_t payload = round_up(std::max<std::size_t>(bytes, 1), kAlignment);
        std::size_t pages = round_up(payload, kPage);
        mapped_bytes_ = pages + 2 * kPage;
        void* mapped = mmap(nullptr, mapped_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) throw std::bad_alloc();
        mapped_ = static_cast<unsigned char*>(mapped);
        if (mprotect(mapped_ + kPage, pages, PROT_READ | PROT_WRITE) != 0) {
            munmap(mapped_, mapped_bytes_);
            throw std::bad_alloc();
        }
        start_ = mapped_ + kPage + (pages - payload);
        std::memset(mapped_ + kPage, kFence, pages - payload);
        std::memset(start_ + bytes, kFence, payload - bytes);
    }

    unsigned char* start() const { return start_; }
    std::size_t bytes() const { return bytes_; }
    void fill() const { std::memset(start_, kGarbage, bytes_); }

    void close() {
        const unsigned char* end = mapped_ + mapped_bytes_ - kPage;
        bool intact =
            std::all_of(static_cast<const unsigned char*>(mapped_ + kPage), static_cast<const unsigned char*>(start_),
                        [](unsigned char c) { return c == kFence; }) &&
            std::all_of(static_cast<const unsigned char*>(start_ + bytes_), end,
                        [](unsigned char c) { return c == kFence; });
        if (!intact) misused("something wrote beside an allocation of %zu bytes", bytes_);
        madvise(mapped_, mapped_bytes_, MADV_DONTNEED);
        mprotect(mapped_, mapped_bytes_, PROT_NONE);
    }
    void unmap() { munmap(mapped_, mapped_bytes_); }

private:
    std::size_t bytes_;
    unsigned char* mapped_;
    std::size_t mapped_bytes_;
    unsigned char* start_;
};

/// Freed memory, kept closed for a while so that late accesses fault.
class Quarantine {
public:
    void add(GuardedMemory memory) {
        memory.close();
        closed_.push_back(memory);
        if (closed_.size() <= kKept) return;
        closed_.front().unmap();
        closed_.pop_front();
    }

private:
    static constexpr std::size_t kKept = 4096;
    std::deque<GuardedMemory> closed_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Streams, events, modules, contexts
// ---------------------------------------------------------------------------------------------------------------------

using Clock = std::chrono::steady_clock;

struct Context;
struct Stream;

/// A place in a stream: reached when so many of its operations are done.
struct Mark {
    std::shared_ptr<Stream> stream;
    std::uint64_t position = 0;
};

/// Something queued in a stream: work, or a wait for another stream.
struct Operation {
    std::function<CUresult()> work;
    Mark after;
};

struct Stream {
    Context* context = nullptr;
    unsigned flags = 0;
    std::deque<Operation> queue;
    std::uint64_t queued = 0;
    std::uint64_t done = 0;
    bool busy = false;  // somebody executes an operation of it, without the lock
};

struct Event {
    Context* context = nullptr;
    unsigned flags = 0;
    Mark mark;
    std::shared_ptr<std::optional<Clock::time_point>> time;
};

struct Module;

struct Function {
    const standin::Kernel* kernel = nullptr;
    Module* module = nullptr;
    unsigned max_threads = 1024;
};

/// What a module says about one of its kernels.
struct Entry {
    std::vector<std::size_t> parameter_bytes;
    unsigned max_threads = 1024;
};

struct Module {
    Context* context = nullptr;
    bool is_text = false;  // only text says what is in it
    std::map<std::string, Entry> entries;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

struct Allocation {
    GuardedMemory memory;
    Context* context;
};

struct Device {
    int ordinal = 0;
    CUresult error = CUDA_SUCCESS;  // of a lost device
    std::uint64_t used = 0;
    unsigned retained = 0;
    std::unique_ptr<Context> primary;
};

struct Context {
    Device* device = nullptr;
    std::shared_ptr<Stream> default_stream = std::make_shared<Stream>();
    std::shared_ptr<Stream> thread_stream = std::make_shared<Stream>();
    std::vector<std::shared_ptr<Stream>> streams;  // all of them, those destroyed with work in them included
};

using Lock = std::unique_lock<std::mutex>;

struct Driver {
    std::mutex mutex;
    std::condition_variable changed;
    Settings settings;
    bool initialised = false;
    CUresult error = CUDA_SUCCESS;  // of every call, after a sticky fault
    std::vector<Device> devices;
    std::map<std::uintptr_t, Allocation> allocations;
    std::map<std::uintptr_t, GuardedMemory> pinned;
    std::map<std::uintptr_t, std::size_t> registered;
    Quarantine quarantine;
    std::map<void*, std::shared_ptr<Stream>> streams;
    std::map<void*, std::unique_ptr<Event>> events;
    std::map<void*, std::unique_ptr<Module>> modules;
    std::uint64_t kernels_run = 0;
    emulator::detail::Random schedule{0};
};

/// Never destroyed: threads may call the driver until the very end.
Driver& driver() {
    static Driver* instance = new Driver;
    return *instance;
}

thread_local Context* current_context = nullptr;

// ---------------------------------------------------------------------------------------------------------------------
// Faults
// ---------------------------------------------------------------------------------------------------------------------

/// The fault planned for this occurrence of `function`, if there is one.
const Fault* planned_fault(const std::string& function) {
    const Fault* planned = nullptr;
    for (Fault& fault : driver().settings.faults) {
        if (fault.function == function && fault.when.next() && planned == nullptr) planned = &fault;
    }
    return planned;
}

CUresult injected(const char* function, Context* context) {
    const Fault* fault = planned_fault(function);
    if (fault == nullptr) return CUDA_SUCCESS;
    if (fault->spread == Spread::Process) driver().error = fault->code;
    if (fault->spread == Spread::Device && context != nullptr) context->device->error = fault->code;
    return fault->code;
}

// ---------------------------------------------------------------------------------------------------------------------
// What lies where
// ---------------------------------------------------------------------------------------------------------------------

const Allocation* allocation_at(std::uintptr_t address) {
    auto after = driver().allocations.upper_bound(address);
    if (after == driver().allocations.begin()) return nullptr;
    const Allocation& allocation = std::prev(after)->second;
    std::uintptr_t start = std::prev(after)->first;
    return address < start + std::max<std::size_t>(allocation.memory.bytes(), 1) ? &allocation : nullptr;
}

bool is_device_memory(CUdeviceptr address, std::size_t bytes) {
    const Allocation* allocation = allocation_at(address);
    if (allocation == nullptr) return false;
    auto start = reinterpret_cast<std::uintptr_t>(allocation->memory.start());
    return bytes <= start + allocation->memory.bytes() - address;
}

template <class Value, class Size>
bool covers(const std::map<std::uintptr_t, Value>& ranges, std::uintptr_t address, std::size_t bytes, Size size) {
    auto after = ranges.upper_bound(address);
    if (after == ranges.begin()) return false;
    const auto& [start, value] = *std::prev(after);
    return address - start <= size(value) && bytes <= size(value) - (address - start);
}

bool is_pinned(const void* host, std::size_t bytes) {
    auto address = reinterpret_cast<std::uintptr_t>(host);
    return covers(driver().pinned, address, bytes, [](const GuardedMemory& memory) { return memory.bytes(); }) ||
           covers(driver().registered, address, bytes, [](std::size_t size) { return size; });
}

// ---------------------------------------------------------------------------------------------------------------------
// Execution
// ---------------------------------------------------------------------------------------------------------------------

bool reached(const Mark& mark) { return mark.stream == nullptr || mark.stream->done >= mark.position; }

enum class Patience { Wait, DoNot };

/// Executes the next operation of the stream, or of the stream that it waits for. If another thread is at it, waits
/// for that thread, or leaves it.
void step(Lock& lock, Stream& stream, Patience patience) {
    if (stream.busy) {
        if (patience == Patience::Wait) driver().changed.wait(lock);
        return;
    }
    if (stream.queue.empty()) return;
    Mark after = stream.queue.front().after;
    if (!reached(after)) {
        step(lock, *after.stream, patience);
        return;
    }
    Operation operation = std::move(stream.queue.front());
    stream.queue.pop_front();
    if (operation.work && stream.context->device->error == CUDA_SUCCESS && driver().error == CUDA_SUCCESS) {
        stream.busy = true;
        lock.unlock();
        CUresult result = operation.work();
        lock.lock();
        stream.busy = false;
        if (result != CUDA_SUCCESS) stream.context->device->error = result;
    }
    ++stream.done;
    driver().changed.notify_all();
}

void wait_for(Lock& lock, const Mark& mark) {
    while (!reached(mark)) step(lock, *mark.stream, Patience::Wait);
}

void drain(Lock& lock, const std::shared_ptr<Stream>& stream) { wait_for(lock, {stream, stream->queued}); }

void drain(Lock& lock, Context& context) {
    std::vector<std::shared_ptr<Stream>> streams = context.streams;
    for (const auto& stream : streams) drain(lock, stream);
}

/// After a wait: what has gone wrong meanwhile, if anything.
CUresult state_of(const Context& context) {
    return driver().error != CUDA_SUCCESS ? driver().error : context.device->error;
}

/// Executes operations at the call, if the settings say so.
void follow_schedule(Lock& lock, Context& context, const std::shared_ptr<Stream>& stream) {
    if (driver().settings.eager) drain(lock, stream);
    if (!driver().settings.schedule_seed) return;
    for (std::uint32_t steps = driver().schedule.below(4); steps > 0; --steps) {
        auto chosen = context.streams[driver().schedule.below(static_cast<std::uint32_t>(context.streams.size()))];
        step(lock, *chosen, Patience::DoNot);
    }
}

void push(const std::shared_ptr<Stream>& stream, Operation operation) {
    stream->queue.push_back(std::move(operation));
    ++stream->queued;
}

/// The default stream and the streams that are not "non-blocking" wait for each other.
void order_with_default_stream(Context& context, const std::shared_ptr<Stream>& stream) {
    if (stream->flags & kStreamNonBlocking) return;
    for (const auto& other : context.streams) {
        bool ordered = other != stream && !(other->flags & kStreamNonBlocking) &&
                       (other == context.default_stream || stream == context.default_stream);
        if (ordered && other->done < other->queued) push(stream, {nullptr, {other, other->queued}});
    }
}

/// Queues work; returns the mark behind it.
Mark enqueue(Lock& lock, Context& context, const std::shared_ptr<Stream>& stream, std::function<CUresult()> work) {
    order_with_default_stream(context, stream);
    push(stream, {std::move(work), {}});
    Mark mark{stream, stream->queued};
    follow_schedule(lock, context, stream);
    return mark;
}

/// Enqueues in the default stream and waits, as the functions without "Async" do.
CUresult execute(Lock& lock, Context& context, std::function<CUresult()> work) {
    wait_for(lock, enqueue(lock, context, context.default_stream, std::move(work)));
    return state_of(context);
}

// ---------------------------------------------------------------------------------------------------------------------
// Entry points: what they have in common
// ---------------------------------------------------------------------------------------------------------------------

enum class Needs { Nothing, Initialisation, Context };

bool is_alive(const Context* context) {
    for (const Device& device : driver().devices) {
        if (device.primary.get() == context) return true;
    }
    return false;
}

/// Takes the lock, makes faults happen, checks what a call needs and then makes it.
template <class Body>
CUresult call(const char* function, Needs needs, Body body) {
    try {
        Lock lock(driver().mutex);
        if (driver().error != CUDA_SUCCESS) return driver().error;
        Context* context = current_context != nullptr && is_alive(current_context) ? current_context : nullptr;
        if (needs == Needs::Context && context != nullptr && context->device->error != CUDA_SUCCESS) {
            return context->device->error;
        }
        if (CUresult fault = injected(function, context); fault != CUDA_SUCCESS) return fault;
        if (needs != Needs::Nothing && !driver().initialised) return CUDA_ERROR_NOT_INITIALIZED;
        if (needs == Needs::Context && current_context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
        if (needs == Needs::Context && context == nullptr) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
        return body(lock, context);
    } catch (const std::bad_alloc&) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
}

template <class Body>
CUresult without_context(const char* function, Body body) {
    return call(function, Needs::Initialisation, [&](Lock& lock, Context*) { return body(lock); });
}

template <class Body>
CUresult in_context(const char* function, Body body) {
    return call(function, Needs::Context, [&](Lock& lock, Context* context) { return body(lock, *context); });
}

template <class Body>
CUresult of_device(const char* function, CUdevice ordinal, Body body) {
    return without_context(function, [&](Lock& lock) {
        bool exists = ordinal >= 0 && ordinal < driver().settings.devices;
        return exists ? body(lock, driver().devices[static_cast<std::size_t>(ordinal)]) : CUDA_ERROR_INVALID_DEVICE;
    });
}

/// The stream behind a handle, or null. 0 and 1 stand for the default stream, 2 for the calling thread's.
std::shared_ptr<Stream> stream_at(Context& context, void* handle) {
    auto value = reinterpret_cast<std::uintptr_t>(handle);
    if (value <= 1) return context.default_stream;
    if (value == 2) return context.thread_stream;
    auto found = driver().streams.find(handle);
    return found == driver().streams.end() ? nullptr : found->second;
}

/// Calls `body` with a stream of the current context.
template <class Body>
CUresult in_stream(const char* function, void* handle, Body body) {
    return in_context(function, [&](Lock& lock, Context& context) {
        std::shared_ptr<Stream> stream = stream_at(context, handle);
        if (stream == nullptr || stream->context != &context) return CUDA_ERROR_INVALID_HANDLE;
        return body(lock, context, stream);
    });
}

template <class Body>
CUresult with_event(const char* function, void* handle, Body body) {
    return in_context(function, [&](Lock& lock, Context& context) {
        auto found = driver().events.find(handle);
        return found == driver().events.end() ? CUDA_ERROR_INVALID_HANDLE : body(lock, context, *found->second);
    });
}

Function* function_at(void* handle) {
    for (const auto& [key, module] : driver().modules) {
        for (const auto& [name, function] : module->functions) {
            if (function.get() == handle) return function.get();
        }
    }
    return nullptr;
}

template <class Body>
CUresult with_function(const char* name, void* handle, Body body) {
    return in_context(name, [&](Lock& lock, Context& context) {
        Function* function = function_at(handle);
        bool valid = function != nullptr && function->module->context == &context;
        return valid ? body(lock, context, *function) : CUDA_ERROR_INVALID_HANDLE;
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory of a context
// ---------------------------------------------------------------------------------------------------------------------

CUresult allocate(Context& context, std::size_t bytes, CUdeviceptr& address) {
    Device& device = *context.device;
    if (bytes > driver().settings.memory - std::min(driver().settings.memory, device.used)) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    GuardedMemory memory(bytes);
    address = reinterpret_cast<std::uintptr_t>(memory.start());
    driver().allocations.insert({address, {memory, &context}});
    device.used += bytes;
    return CUDA_SUCCESS;
}

CUresult release(CUdeviceptr address) {
    auto found = driver().allocations.find(address);
    if (found == driver().allocations.end()) return CUDA_ERROR_INVALID_VALUE;
    found->second.context->device->used -= found->second.memory.bytes();
    driver().quarantine.add(found->second.memory);
    driver().allocations.erase(found);
    return CUDA_SUCCESS;
}

/// At the time of execution, memory that was fine at the call has to be so still.
void check_device(const char* what, CUdeviceptr address, std::size_t bytes) {
    Lock lock(driver().mutex);
    if (!is_device_memory(address, bytes)) misused("%s: device memory was freed before it was executed", what);
}

void check_pinned(const char* what, const void* host, std::size_t bytes) {
    Lock lock(driver().mutex);
    if (!is_pinned(host, bytes)) misused("%s: page-locked memory was freed before it was executed", what);
}

CUresult failing(const char* kind) {
    Lock lock(driver().mutex);
    const Fault* fault = planned_fault(kind);
    return fault == nullptr ? CUDA_SUCCESS : fault->code;
}

const void* host(CUdeviceptr address) { return reinterpret_cast<const void*>(address); }
void* mutable_host(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

std::function<CUresult()> upload_later(CUdeviceptr to, const void* from, std::size_t bytes) {
    return [=] {
        if (CUresult fault = failing("copy"); fault != CUDA_SUCCESS) return fault;
        check_device("host to device copy", to, bytes);
        check_pinned("host to device copy", from, bytes);
        std::memcpy(mutable_host(to), from, bytes);
        return CUDA_SUCCESS;
    };
}

/// From pageable memory: what is there now is what will arrive.
std::function<CUresult()> upload_copy(CUdeviceptr to, const void* from, std::size_t bytes) {
    auto start = static_cast<const unsigned char*>(from);
    return [to, staged = std::vector<unsigned char>(start, start + bytes)] {
        if (CUresult fault = failing("copy"); fault != CUDA_SUCCESS) return fault;
        check_device("host to device copy", to, staged.size());
        std::memcpy(mutable_host(to), staged.data(), staged.size());
        return CUDA_SUCCESS;
    };
}

std::function<CUresult()> download(void* to, CUdeviceptr from, std::size_t bytes, bool pinned) {
    return [=] {
        if (CUresult fault = failing("copy"); fault != CUDA_SUCCESS) return fault;
        check_device("device to host copy", from, bytes);
        if (pinned) check_pinned("device to host copy", to, bytes);
        std::memcpy(to, host(from), bytes);
        return CUDA_SUCCESS;
    };
}

std::function<CUresult()> device_copy(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
    return [=] {
        if (CUresult fault = failing("copy"); fault != CUDA_SUCCESS) return fault;
        check_device("device to device copy", to, bytes);
        check_device("device to device copy", from, bytes);
        std::memmove(mutable_host(to), host(from), bytes);
        return CUDA_SUCCESS;
    };
}

std::function<CUresult()> set_bytes(CUdeviceptr to, unsigned char value, std::size_t bytes) {
    return [=] {
        check_device("memset", to, bytes);
        std::memset(mutable_host(to), value, bytes);
        return CUDA_SUCCESS;
    };
}

// ---------------------------------------------------------------------------------------------------------------------
// Modules
// ---------------------------------------------------------------------------------------------------------------------

/// The newest PTX that a driver of this version reads, as 10 * major + minor.
int newest_ptx(int driver_version) {
    int major = driver_version / 1000, minor = driver_version % 1000 / 10;
    if (major < 12) return 70 + std::min(minor, 8);                    // CUDA 11.x: PTX 7.x
    if (major == 12) return minor <= 5 ? 80 + minor : 80 + minor - 1;  // 12.6 brought none
    return 10 * (major - 4) + minor;                                   // CUDA 13.x: PTX 9.x
}

/// What stands after a directive: ".target" gives "sm_90".
std::string word_after(const std::string& text, const std::string& directive, std::size_t from = 0) {
    std::size_t at = text.find(directive, from);
    if (at == std::string::npos) return "";
    std::istringstream rest(text.substr(at + directive.size(), 200));
    std::string word;
    rest >> word;
    return word;
}

/// Bytes of one ".param" of an entry: ".param .u64 name" or ".param .align 8 .b8 name[24]".
std::size_t bytes_of_parameter(const std::string& text) {
    std::size_t bytes = 0, count = 1;
    for (const char* type : {".u", ".s", ".b", ".f"}) {
        std::size_t at = text.find(type);
        if (at == std::string::npos || !std::isdigit(static_cast<unsigned char>(text[at + 2]))) continue;
        bytes = std::strtoul(text.c_str() + at + 2, nullptr, 10) / 8;
    }
    std::size_t bracket = text.find('[');
    if (bracket != std::string::npos) count = std::strtoul(text.c_str() + bracket + 1, nullptr, 10);
    return bytes * count;
}

Entry entry_in(const std::string& head) {
    Entry entry;
    std::size_t open = head.find('('), close = head.find(')');
    if (open != std::string::npos && close != std::string::npos) {
        for (const std::string& parameter : split(head.substr(open + 1, close - open - 1), ',')) {
            if (parameter.find(".param") != std::string::npos) {
                entry.parameter_bytes.push_back(bytes_of_parameter(parameter));
            }
        }
    }
    std::size_t limit = head.find(".maxntid");
    if (limit == std::string::npos) return entry;
    entry.max_threads = 1;
    std::string sizes = head.substr(limit + 8, head.find_first_of(".{\n", limit + 8) - limit - 8);
    for (const std::string& size : split(sizes, ',')) {
        entry.max_threads *= static_cast<unsigned>(std::strtoul(size.c_str(), nullptr, 10));
    }
    return entry;
}

std::string without_comment_lines(const std::string& text) {
    std::string rest;
    for (const std::string& line : split(text, '\n')) {
        if (line.compare(0, 2, "//") != 0) rest += line + '\n';
    }
    return rest;
}

CUresult read_ptx(const std::string& source, Module& module) {
    std::string text = without_comment_lines(source);
    std::string version = word_after(text, ".version"), target = word_after(text, ".target");
    std::vector<std::string> parts = split(version, '.');
    if (parts.size() != 2 || target.compare(0, 3, "sm_") != 0) return CUDA_ERROR_INVALID_PTX;
    int written_for = 10 * std::atoi(parts[0].c_str()) + std::atoi(parts[1].c_str());
    const Settings& settings = driver().settings;
    if (written_for > newest_ptx(settings.driver)) return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    if (std::atoi(target.c_str() + 3) > 10 * settings.major + settings.minor) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    module.is_text = true;
    const std::string directive = ".entry";
    for (std::size_t at = text.find(directive); at != std::string::npos; at = text.find(directive, at + 1)) {
        std::size_t start = text.find_first_not_of(" \t\n", at + directive.size());
        if (start == std::string::npos) break;
        std::size_t end = text.find_first_of(" \t\n(", start);
        std::size_t body = text.find('{', start);
        if (end == std::string::npos || body == std::string::npos) return CUDA_ERROR_INVALID_PTX;
        module.entries[text.substr(start, end - start)] = entry_in(text.substr(end, body - end));
    }
    return CUDA_SUCCESS;
}

CUresult load_module(Context& context, const void* image, void** handle) {
    if (image == nullptr) return CUDA_ERROR_INVALID_VALUE;
    auto module = std::make_unique<Module>();
    module->context = &context;
    auto bytes = static_cast<const char*>(image);
    const unsigned char fat_binary[] = {0x50, 0xed, 0x55, 0xba};
    bool is_binary = std::memcmp(bytes, "\177ELF", 4) == 0 || std::memcmp(bytes, fat_binary, 4) == 0;
    if (!is_binary) {
        if (CUresult result = read_ptx(bytes, *module); result != CUDA_SUCCESS) return result;
    }
    *handle = module.get();
    driver().modules[*handle] = std::move(module);
    return CUDA_SUCCESS;
}

CUresult find_function(Module& module, const std::string& name, void** handle) {
    auto entry = module.entries.find(name);
    if (module.is_text && entry == module.entries.end()) return CUDA_ERROR_NOT_FOUND;
    const std::vector<standin::Kernel>& kernels = standin::registry();
    auto kernel = std::find_if(kernels.begin(), kernels.end(), [&](const auto& one) { return one.name == name; });
    if (kernel == kernels.end()) {
        std::fprintf(stderr, "standin: the module has a kernel %s, but none of that name is registered\n",
                     name.c_str());
        return CUDA_ERROR_NOT_FOUND;
    }
    auto function = std::make_unique<Function>();
    function->kernel = &*kernel;
    function->module = &module;
    if (module.is_text) {
        if (entry->second.parameter_bytes != kernel->parameter_bytes) {
            std::fprintf(stderr, "standin: kernel %s has other parameters in the module than in its source\n",
                         name.c_str());
            return CUDA_ERROR_INVALID_IMAGE;
        }
        function->max_threads = entry->second.max_threads;
    }
    std::unique_ptr<Function>& kept = module.functions[name];
    if (!kept) kept = std::move(function);
    *handle = kept.get();
    return CUDA_SUCCESS;
}

// ---------------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------------

/// What a kernel's arguments point at, before and after, so that a bit it wrote can be made wrong.
class Snapshot {
public:
    explicit Snapshot(const standin::BoundKernel& kernel) {
        Lock lock(driver().mutex);
        for (const auto& argument : kernel.arguments) {
            for (std::size_t at = 0; at + sizeof(std::uintptr_t) <= argument.size(); at += sizeof(std::uintptr_t)) {
                std::uintptr_t address;
                std::memcpy(&address, &argument[at], sizeof address);
                const Allocation* allocation = allocation_at(address);
                if (allocation == nullptr) continue;
                unsigned char* start = allocation->memory.start();
                before_[start] = std::vector<unsigned char>(start, start + allocation->memory.bytes());
            }
        }
    }

    void flip_one_changed_bit(std::uint64_t seed) const {
        std::vector<unsigned char*> changed;
        for (const auto& [start, bytes] : before_) {
            for (std::size_t i = 0; i < bytes.size(); ++i) {
                if (start[i] != bytes[i]) changed.push_back(start + i);
            }
        }
        emulator::detail::Random random(seed);
        if (changed.empty()) {
            std::fprintf(stderr, "standin: the kernel wrote nothing that a bit could be flipped in\n");
            return;
        }
        *changed[random.below(static_cast<std::uint32_t>(changed.size()))] ^=
            static_cast<unsigned char>(1u << random.below(8));
    }

private:
    std::map<unsigned char*, std::vector<unsigned char>> before_;
};

/// Whether this execution is one that is to go wrong.
bool miscomputes(const std::string& kernel) {
    Lock lock(driver().mutex);
    std::optional<Flip>& flip = driver().settings.flip;
    return flip && (flip->kernel.empty() || flip->kernel == kernel) && flip->when.next();
}

CUresult run_kernel(const standin::Kernel& kernel, const standin::BoundKernel& bound, dim3 grid, dim3 block) {
    if (CUresult fault = failing("kernel"); fault != CUDA_SUCCESS) return fault;
    emulator::Options options;
    options.kernel_name = kernel.name.c_str();
    options.os_threads = driver().settings.threads;
    {
        Lock lock(driver().mutex);
        options.seed = driver().settings.seed + driver().kernels_run++;
    }
    if (miscomputes(kernel.name)) {
        Snapshot before(bound);
        bound.run(grid, block, options);
        before.flip_one_changed_bit(options.seed);
    } else {
        bound.run(grid, block, options);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(driver().settings.kernel_microseconds));
    return CUDA_SUCCESS;
}

CUresult check_dimensions(const Function& function, dim3 grid, dim3 block, unsigned shared_bytes) {
    bool empty = grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0;
    if (empty || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) return CUDA_ERROR_INVALID_VALUE;
    if (block.x > 1024 || block.y > 1024 || block.z > 64) return CUDA_ERROR_INVALID_VALUE;
    if (block.x * block.y * block.z > 1024 || shared_bytes > kMaxSharedBytes) return CUDA_ERROR_INVALID_VALUE;
    if (block.x * block.y * block.z > function.max_threads) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    return CUDA_SUCCESS;
}

int resident_blocks(const Function& function, int block_threads) {
    int threads = static_cast<int>(round_up(static_cast<std::size_t>(block_threads), 32));
    if (block_threads > static_cast<int>(function.max_threads)) return 0;
    return std::min(kBlocksPerMultiprocessor, kThreadsPerMultiprocessor / threads);
}

CUresult queue_kernel(Lock& lock, Context& context, const Function& function, dim3 grid, dim3 block,
                      unsigned shared_bytes, void* stream_handle, void** arguments) {
    std::shared_ptr<Stream> stream = stream_at(context, stream_handle);
    if (stream == nullptr || stream->context != &context) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult result = check_dimensions(function, grid, block, shared_bytes); result != CUDA_SUCCESS) return result;
    const standin::Kernel& kernel = *function.kernel;
    if (arguments == nullptr && !kernel.parameter_bytes.empty()) return CUDA_ERROR_INVALID_VALUE;
    enqueue(lock, context, stream,
            [&kernel, bound = kernel.bind(arguments), grid, block] { return run_kernel(kernel, bound, grid, block); });
    return CUDA_SUCCESS;
}

int attribute(int number) {
    const Settings& settings = driver().settings;
    switch (number) {
        case 1: return 1024;  // MAX_THREADS_PER_BLOCK
        case 2:
        case 3: return 1024;        // MAX_BLOCK_DIM_X, _Y
        case 4: return 64;          // MAX_BLOCK_DIM_Z
        case 5: return 0x7fffffff;  // MAX_GRID_DIM_X
        case 6:
        case 7: return 65535;                       // MAX_GRID_DIM_Y, _Z
        case 8: return kMaxSharedBytes;             // MAX_SHARED_MEMORY_PER_BLOCK
        case 9: return 64 << 10;                    // TOTAL_CONSTANT_MEMORY
        case 10: return 32;                         // WARP_SIZE
        case 12: return 64 << 10;                   // MAX_REGISTERS_PER_BLOCK
        case 13: return 1'000'000;                  // CLOCK_RATE, kHz
        case 16: return kMultiprocessors;           // MULTIPROCESSOR_COUNT
        case 19: return 1;                          // CAN_MAP_HOST_MEMORY
        case 31: return 1;                          // CONCURRENT_KERNELS
        case 36: return 1'000'000;                  // MEMORY_CLOCK_RATE, kHz
        case 37: return 1024;                       // GLOBAL_MEMORY_BUS_WIDTH
        case 38: return 4 << 20;                    // L2_CACHE_SIZE
        case 39: return kThreadsPerMultiprocessor;  // MAX_THREADS_PER_MULTIPROCESSOR
        case 40: return 2;                          // ASYNC_ENGINE_COUNT
        case 41: return 1;                          // UNIFIED_ADDRESSING
        case 75: return settings.major;             // COMPUTE_CAPABILITY_MAJOR
        case 76: return settings.minor;             // COMPUTE_CAPABILITY_MINOR
        case 81: return 228 << 10;                  // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        case 82: return 64 << 10;                   // MAX_REGISTERS_PER_MULTIPROCESSOR
        case 97: return 227 << 10;                  // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        case 99: return 1;                          // HOST_REGISTER_SUPPORTED
        case 106: return kBlocksPerMultiprocessor;  // MAX_BLOCKS_PER_MULTIPROCESSOR
        case 115: return 1;                         // MEMORY_POOLS_SUPPORTED: cudarc then allocates in streams
        default: return 0;
    }
}

int function_attribute(const Function& function, int number) {
    switch (number) {
        case 0: return static_cast<int>(function.max_threads);  // MAX_THREADS_PER_BLOCK
        case 4: return 32;                                      // NUM_REGS
        case 5: return 80;                                      // PTX_VERSION
        case 6: return 10 * attribute(75) + attribute(76);      // BINARY_VERSION
        case 8: return kMaxSharedBytes;                         // MAX_DYNAMIC_SHARED_SIZE_BYTES
        default: return 0;
    }
}

void add_stream(Context& context, const std::shared_ptr<Stream>& stream) {
    stream->context = &context;
    // Those that were destroyed and have come to their end are forgotten here.
    auto gone = [&](const std::shared_ptr<Stream>& one) {
        bool is_own = one == context.default_stream || one == context.thread_stream;
        return !is_own && one->done == one->queued && driver().streams.count(one.get()) == 0;
    };
    context.streams.erase(std::remove_if(context.streams.begin(), context.streams.end(), gone), context.streams.end());
    context.streams.push_back(stream);
}

CUresult create_stream(Context& context, unsigned flags, void** handle) {
    auto stream = std::make_shared<Stream>();
    stream->flags = flags;
    driver().streams[stream.get()] = stream;
    add_stream(context, stream);
    *handle = stream.get();
    return CUDA_SUCCESS;
}

/// The last holder has let go of the device: all that belongs to its context ends.
void destroy_primary(Lock& lock, Device& device) {
    Context* context = device.primary.get();
    drain(lock, *context);
    std::vector<CUdeviceptr> held;
    for (const auto& [address, allocation] : driver().allocations) {
        if (allocation.context == context) held.push_back(address);
    }
    for (CUdeviceptr address : held) release(address);
    auto erase_own = [context](auto& objects) {
        for (auto it = objects.begin(); it != objects.end();) {
            it = it->second->context == context ? objects.erase(it) : std::next(it);
        }
    };
    erase_own(driver().streams);
    erase_own(driver().events);
    erase_own(driver().modules);
    device.primary.reset();
}

}  // namespace

std::vector<standin::Kernel>& standin::registry() {
    static std::vector<Kernel> kernels;
    return kernels;
}

// ---------------------------------------------------------------------------------------------------------------------
// The library's functions, in the order of the CUDA Driver API manual
// ---------------------------------------------------------------------------------------------------------------------

#define DRIVER_API extern "C" __attribute__((visibility("default"))) CUresult

DRIVER_API cuGetErrorName(CUresult error, const char** name) {
    const ErrorText* text = text_of(error);
    *name = text != nullptr ? text->name : nullptr;
    return text != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

DRIVER_API cuGetErrorString(CUresult error, const char** string) {
    const ErrorText* text = text_of(error);
    *string = text != nullptr ? text->text : nullptr;
    return text != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

DRIVER_API cuInit(unsigned flags) {
    return call(__func__, Needs::Nothing, [&](Lock&, Context*) {
        if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
        if (driver().settings.devices == 0) return CUDA_ERROR_NO_DEVICE;
        if (driver().initialised) return CUDA_SUCCESS;
        driver().devices = std::vector<Device>(static_cast<std::size_t>(driver().settings.devices));
        for (std::size_t i = 0; i < driver().devices.size(); ++i) driver().devices[i].ordinal = static_cast<int>(i);
        driver().schedule = emulator::detail::Random(driver().settings.schedule_seed.value_or(0));
        standin::register_kernels();
        driver().initialised = true;
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuDriverGetVersion(int* version) {
    return call(__func__, Needs::Nothing, [&](Lock&, Context*) {
        *version = driver().settings.driver;
        return CUDA_SUCCESS;
    });
}

// ---- Devices ----

DRIVER_API cuDeviceGet(CUdevice* device, int ordinal) {
    return of_device(__func__, ordinal, [&](Lock&, Device& found) {
        *device = found.ordinal;
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuDeviceGetCount(int* count) {
    return without_context(__func__, [&](Lock&) {
        *count = driver().settings.devices;
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuDeviceGetName(char* name, int length, CUdevice device) {
    return of_device(__func__, device, [&](Lock&, Device&) {
        std::snprintf(name, static_cast<std::size_t>(length), "colophon emulator");
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuDeviceGetUuid(char* uuid, CUdevice device) {
    return of_device(__func__, device, [&](Lock&, Device& found) {
        std::memset(uuid, 0, 16);
        uuid[15] = static_cast<char>(found.ordinal);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuDeviceGetUuid_v2(char* uuid, CUdevice device) { return cuDeviceGetUuid(uuid, device); }

DRIVER_API cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice device) {
    return of_device(__func__, device, [&](Lock&, Device&) {
        *bytes = driver().settings.memory;
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuDeviceGetAttribute(int* value, int number, CUdevice device) {
    return of_device(__func__, device, [&](Lock&, Device&) {
        *value = attribute(number);
        return CUDA_SUCCESS;
    });
}

// ---- Contexts ----

DRIVER_API cuDevicePrimaryCtxRetain(Context** context, CUdevice device) {
    return of_device(__func__, device, [&](Lock&, Device& found) {
        if (found.error != CUDA_SUCCESS) return found.error;
        if (!found.primary) {
            found.primary = std::make_unique<Context>();
            found.primary->device = &found;
            add_stream(*found.primary, found.primary->default_stream);
            add_stream(*found.primary, found.primary->thread_stream);
        }
        ++found.retained;
        *context = found.primary.get();
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    return of_device(__func__, device, [&](Lock& lock, Device& found) {
        if (found.retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
        if (--found.retained == 0) destroy_primary(lock, found);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuCtxGetCurrent(Context** context) {
    return without_context(__func__, [&](Lock&) {
        *context = current_context;
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuCtxSetCurrent(Context* context) {
    return without_context(__func__, [&](Lock&) {
        if (context != nullptr && !is_alive(context)) return CUDA_ERROR_INVALID_CONTEXT;
        current_context = context;
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuCtxSynchronize() {
    return in_context(__func__, [&](Lock& lock, Context& context) {
        drain(lock, context);
        return state_of(context);
    });
}

DRIVER_API cuCtxSetFlags(unsigned) {
    return in_context(__func__, [&](Lock&, Context&) { return CUDA_SUCCESS; });
}

DRIVER_API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    return in_context(__func__, [&](Lock&, Context&) {
        if (least != nullptr) *least = 0;
        if (greatest != nullptr) *greatest = 0;
        return CUDA_SUCCESS;
    });
}

// ---- Modules ----

DRIVER_API cuModuleLoadData(void** module, const void* image) {
    return in_context(__func__, [&](Lock&, Context& context) { return load_module(context, image, module); });
}

DRIVER_API cuModuleLoad(void** module, const char* path) {
    return in_context(__func__, [&](Lock&, Context& context) {
        std::ifstream file(path, std::ios::binary);
        if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
        std::string image((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
        return load_module(context, image.c_str(), module);
    });
}

DRIVER_API cuModuleUnload(void* module) {
    return in_context(__func__, [&](Lock& lock, Context& context) {
        if (driver().modules.count(module) == 0) return CUDA_ERROR_INVALID_HANDLE;
        drain(lock, context);  // a kernel of it may be under way
        driver().modules.erase(module);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuModuleGetFunction(void** function, void* module, const char* name) {
    return in_context(__func__, [&](Lock&, Context& context) {
        auto found = driver().modules.find(module);
        bool valid = found != driver().modules.end() && found->second->context == &context;
        return valid ? find_function(*found->second, name, function) : CUDA_ERROR_INVALID_HANDLE;
    });
}

// ---- Memory ----

DRIVER_API cuMemGetInfo_v2(std::size_t* free_bytes, std::size_t* total) {
    return in_context(__func__, [&](Lock&, Context& context) {
        *total = driver().settings.memory;
        *free_bytes = *total - std::min<std::size_t>(*total, context.device->used);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes) {
    return in_context(__func__, [&](Lock&, Context& context) {
        if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
        CUresult result = allocate(context, bytes, *address);
        if (result == CUDA_SUCCESS) std::memset(mutable_host(*address), kGarbage, bytes);
        return result;
    });
}

DRIVER_API cuMemFree_v2(CUdeviceptr address) {
    return in_context(__func__, [&](Lock& lock, Context& context) {
        if (address == 0) return CUDA_SUCCESS;
        drain(lock, context);
        return release(address);
    });
}

DRIVER_API cuMemAllocAsync(CUdeviceptr* address, std::size_t bytes, void* handle) {
    return in_stream(__func__, handle, [&](Lock& lock, Context& context, const std::shared_ptr<Stream>& stream) {
        CUresult result = allocate(context, bytes, *address);
        if (result == CUDA_ERROR_OUT_OF_MEMORY) {  // memory may come free in the stream
            drain(lock, stream);
            result = allocate(context, bytes, *address);
        }
        if (result != CUDA_SUCCESS) return result;
        // Only from here on, in the stream, is it memory; what another stream puts there earlier is lost.
        enqueue(lock, context, stream, set_bytes(*address, kGarbage, bytes));
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuMemFreeAsync(CUdeviceptr address, void* handle) {
    return in_stream(__func__, handle, [&](Lock& lock, Context& context, const std::shared_ptr<Stream>& stream) {
        if (address == 0) return CUDA_SUCCESS;
        if (driver().allocations.count(address) == 0) return CUDA_ERROR_INVALID_VALUE;
        enqueue(lock, context, stream, [address] {
            Lock freeing(driver().mutex);
            return release(address);
        });
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuMemHostAlloc(void** address, std::size_t bytes, unsigned) {
    return in_context(__func__, [&](Lock&, Context&) {
        if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
        GuardedMemory memory(bytes);
        memory.fill();
        *address = memory.start();
        driver().pinned.insert({reinterpret_cast<std::uintptr_t>(*address), memory});
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuMemFreeHost(void* address) {
    return in_context(__func__, [&](Lock&, Context&) {
        auto found = driver().pinned.find(reinterpret_cast<std::uintptr_t>(address));
        if (found == driver().pinned.end()) return CUDA_ERROR_INVALID_VALUE;
        driver().quarantine.add(found->second);
        driver().pinned.erase(found);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuMemHostRegister_v2(void* address, std::size_t bytes, unsigned) {
    return in_context(__func__, [&](Lock&, Context&) {
        if (address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
        if (is_pinned(address, 1)) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
        driver().registered[reinterpret_cast<std::uintptr_t>(address)] = bytes;
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuMemHostUnregister(void* address) {
    return in_context(__func__, [&](Lock&, Context&) {
        bool known = driver().registered.erase(reinterpret_cast<std::uintptr_t>(address)) != 0;
        return known ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    });
}

DRIVER_API cuMemsetD8_v2(CUdeviceptr to, unsigned char value, std::size_t bytes) {
    return in_context(__func__, [&](Lock& lock, Context& context) {
        if (bytes == 0) return CUDA_SUCCESS;
        if (!is_device_memory(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
        return execute(lock, context, set_bytes(to, value, bytes));
    });
}

DRIVER_API cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t bytes, void* handle) {
    return in_stream(__func__, handle, [&](Lock& lock, Context& context, const std::shared_ptr<Stream>& stream) {
        if (bytes == 0) return CUDA_SUCCESS;
        if (!is_device_memory(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
        enqueue(lock, context, stream, set_bytes(to, value, bytes));
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes) {
    return in_context(__func__, [&](Lock& lock, Context& context) {
        if (bytes == 0) return CUDA_SUCCESS;
        if (!is_device_memory(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
        return execute(lock, context, upload_copy(to, from, bytes));
    });
}

DRIVER_API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes, void* handle) {
    return in_stream(__func__, handle, [&](Lock& lock, Context& context, const std::shared_ptr<Stream>& stream) {
        if (bytes == 0) return CUDA_SUCCESS;
        if (!is_device_memory(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
        enqueue(lock, context, stream,
                is_pinned(from, bytes) ? upload_later(to, from, bytes) : upload_copy(to, from, bytes));
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes) {
    return in_context(__func__, [&](Lock& lock, Context& context) {
        if (bytes == 0) return CUDA_SUCCESS;
        if (!is_device_memory(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
        return execute(lock, context, download(to, from, bytes, false));
    });
}

DRIVER_API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, void* handle) {
    return in_stream(__func__, handle, [&](Lock& lock, Context& context, const std::shared_ptr<Stream>& stream) {
        if (bytes == 0) return CUDA_SUCCESS;
        if (!is_device_memory(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
        bool pinned = is_pinned(to, bytes);
        Mark mark = enqueue(lock, context, stream, download(to, from, bytes, pinned));
        if (pinned) return CUDA_SUCCESS;
        wait_for(lock, mark);  // a copy to pageable memory has arrived when the call returns
        return state_of(context);
    });
}

DRIVER_API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
    return in_context(__func__, [&](Lock& lock, Context& context) {
        if (bytes == 0) return CUDA_SUCCESS;
        if (!is_device_memory(to, bytes) || !is_device_memory(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
        return execute(lock, context, device_copy(to, from, bytes));
    });
}

DRIVER_API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, void* handle) {
    return in_stream(__func__, handle, [&](Lock& lock, Context& context, const std::shared_ptr<Stream>& stream) {
        if (bytes == 0) return CUDA_SUCCESS;
        if (!is_device_memory(to, bytes) || !is_device_memory(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
        enqueue(lock, context, stream, device_copy(to, from, bytes));
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuMemcpyPeerAsync(CUdeviceptr to, Context*, CUdeviceptr from, Context*, std::size_t bytes, void* handle) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, handle);
}

// ---- Streams ----

DRIVER_API cuStreamCreate(void** handle, unsigned flags) {
    return in_context(__func__, [&](Lock&, Context& context) { return create_stream(context, flags, handle); });
}

DRIVER_API cuStreamCreateWithPriority(void** handle, unsigned flags, int) {
    return in_context(__func__, [&](Lock&, Context& context) { return create_stream(context, flags, handle); });
}

DRIVER_API cuStreamDestroy_v2(void* handle) {
    return in_context(__func__, [&](Lock&, Context&) {
        // Work in it still gets done: the context keeps the stream.
        return driver().streams.erase(handle) != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    });
}

DRIVER_API cuStreamSynchronize(void* handle) {
    return in_stream(__func__, handle, [&](Lock& lock, Context& context, const std::shared_ptr<Stream>& stream) {
        drain(lock, stream);
        return state_of(context);
    });
}

DRIVER_API cuStreamQuery(void* handle) {
    return in_stream(__func__, handle, [&](Lock& lock, Context& context, const std::shared_ptr<Stream>& stream) {
        step(lock, *stream, Patience::DoNot);
        if (CUresult state = state_of(context); state != CUDA_SUCCESS) return state;
        return stream->done == stream->queued ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
    });
}

DRIVER_API cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
    return in_stream(__func__, handle, [&](Lock& lock, Context& context, const std::shared_ptr<Stream>& stream) {
        auto found = driver().events.find(event_handle);
        if (found == driver().events.end()) return CUDA_ERROR_INVALID_HANDLE;
        push(stream, {nullptr, found->second->mark});
        follow_schedule(lock, context, stream);
        return CUDA_SUCCESS;
    });
}

// ---- Events ----

DRIVER_API cuEventCreate(void** handle, unsigned flags) {
    return in_context(__func__, [&](Lock&, Context& context) {
        auto event = std::make_unique<Event>();
        event->context = &context;
        event->flags = flags;
        *handle = event.get();
        driver().events[*handle] = std::move(event);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuEventRecord(void* handle, void* stream_handle) {
    return with_event(__func__, handle, [&](Lock& lock, Context& context, Event& event) {
        std::shared_ptr<Stream> stream = stream_at(context, stream_handle);
        if (stream == nullptr || stream->context != event.context) return CUDA_ERROR_INVALID_HANDLE;
        auto time = std::make_shared<std::optional<Clock::time_point>>();
        event.time = time;
        order_with_default_stream(context, stream);
        push(stream, {[time] {
                          *time = Clock::now();
                          return CUDA_SUCCESS;
                      },
                      {}});
        event.mark = {stream, stream->queued};
        follow_schedule(lock, context, stream);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuEventQuery(void* handle) {
    return with_event(__func__, handle, [&](Lock& lock, Context&, Event& event) {
        Mark mark = event.mark;
        if (!reached(mark)) step(lock, *mark.stream, Patience::DoNot);
        if (CUresult state = state_of(*event.context); state != CUDA_SUCCESS) return state;
        return reached(mark) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
    });
}

DRIVER_API cuEventSynchronize(void* handle) {
    return with_event(__func__, handle, [&](Lock& lock, Context&, Event& event) {
        Mark mark = event.mark;
        wait_for(lock, mark);
        return state_of(*event.context);
    });
}

DRIVER_API cuEventElapsedTime(float* milliseconds, void* start_handle, void* end_handle) {
    return with_event(__func__, start_handle, [&](Lock&, Context&, Event& start) {
        auto found = driver().events.find(end_handle);
        if (found == driver().events.end()) return CUDA_ERROR_INVALID_HANDLE;
        Event& end = *found->second;
        if ((start.flags | end.flags) & kEventDisableTiming) return CUDA_ERROR_INVALID_HANDLE;
        if (!start.time || !end.time) return CUDA_ERROR_INVALID_HANDLE;  // never recorded
        if (!*start.time || !*end.time) return CUDA_ERROR_NOT_READY;
        *milliseconds = std::chrono::duration<float, std::milli>(**end.time - **start.time).count();
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
    return cuEventElapsedTime(milliseconds, start, end);
}

DRIVER_API cuEventDestroy_v2(void* handle) {
    return in_context(__func__, [&](Lock&, Context&) {
        return driver().events.erase(handle) != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    });
}

// ---- Kernels ----

DRIVER_API cuFuncGetAttribute(int* value, int number, void* handle) {
    return with_function(__func__, handle, [&](Lock&, Context&, Function& function) {
        *value = function_attribute(function, number);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuFuncSetAttribute(void* handle, int, int) {
    return with_function(__func__, handle, [&](Lock&, Context&, Function&) { return CUDA_SUCCESS; });
}

DRIVER_API cuFuncSetCacheConfig(void* handle, int) {
    return with_function(__func__, handle, [&](Lock&, Context&, Function&) { return CUDA_SUCCESS; });
}

DRIVER_API cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                          unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream, void** arguments,
                          void** extra) {
    return with_function(__func__, handle, [&](Lock& lock, Context& context, Function& function) {
        if (extra != nullptr) return CUDA_ERROR_NOT_SUPPORTED;
        return queue_kernel(lock, context, function, dim3(grid_x, grid_y, grid_z), dim3(block_x, block_y, block_z),
                            shared_bytes, stream, arguments);
    });
}

DRIVER_API cuLaunchHostFunc(void* handle, void (*function)(void*), void* argument) {
    return in_stream(__func__, handle, [&](Lock& lock, Context& context, const std::shared_ptr<Stream>& stream) {
        enqueue(lock, context, stream, [function, argument] {
            function(argument);
            return CUDA_SUCCESS;
        });
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int block_threads, std::size_t) {
    return with_function(__func__, handle, [&](Lock&, Context&, Function& function) {
        if (block_threads <= 0) return CUDA_ERROR_INVALID_VALUE;
        *blocks = resident_blocks(function, block_threads);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* handle, int block_threads,
                                                                std::size_t, unsigned) {
    return with_function(__func__, handle, [&](Lock&, Context&, Function& function) {
        if (block_threads <= 0) return CUDA_ERROR_INVALID_VALUE;
        *blocks = resident_blocks(function, block_threads);
        return CUDA_SUCCESS;
    });
}
