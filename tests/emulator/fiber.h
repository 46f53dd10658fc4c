// Fibers: flows of control that share one thread of the operating system and hand the processor to each other by name.
//
// A switch saves the registers that a function call must keep and nothing else: no system call, no signal mask, a few
// nanoseconds. The sanitizers are told about every switch, because they keep a shadow of each stack.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ASAN 1
#endif
#endif

#if defined(__SANITIZE_THREAD__)
#define EMULATOR_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EMULATOR_TSAN 1
#endif
#endif

#if defined(EMULATOR_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
// Part of the runtime library, declared in no header of it.
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
// The emulator's own bookkeeping is shared by fibers that nothing orders in the eyes of ThreadSanitizer. It must stay
// unseen, and must not be inlined into code that is seen.
#define EMULATOR_INTERNAL __attribute__((no_sanitize("thread"), noinline)) inline
#define EMULATOR_OUTLINE EMULATOR_INTERNAL
#else
#define EMULATOR_INTERNAL inline
#define EMULATOR_OUTLINE __attribute__((noinline)) inline
#endif

#if !defined(__x86_64__) && !defined(__aarch64__)
#define EMULATOR_UCONTEXT 1
#include <ucontext.h>
#endif

namespace emulator::detail {

/// What is kept of a flow of control while it does not run: a fiber, or the scheduler on its thread's own stack.
struct Context {
    void* stack_pointer = nullptr;
#if defined(EMULATOR_UCONTEXT)
    ucontext_t registers;
#endif
#if defined(EMULATOR_ASAN)
    const void* stack_bottom = nullptr;
    std::size_t stack_bytes = 0;
    void* fake_stack = nullptr;
    Context* came_from = nullptr;
#endif
#if defined(EMULATOR_TSAN)
    void* tsan_fiber = nullptr;
#endif
};

#if defined(__x86_64__)

// emulator_switch_stacks(void** save, void* load): keeps the six registers of the System V calling convention on the
// old stack and takes them from the new one. It ends in `ret`, not in a jump, for the sake of the return predictor:
// the lanes of a warp mostly wait at the same call, so the prediction made for one lane is right for the next.
asm(R"(
    .pushsection .text.emulator_switch_stacks, "ax", @progbits
    .weak   emulator_switch_stacks
    .hidden emulator_switch_stacks
    .type   emulator_switch_stacks, @function
    .p2align 4
emulator_switch_stacks:
    subq  $48, %rsp
    movq  %rbx,  0(%rsp)
    movq  %rbp,  8(%rsp)
    movq  %r12, 16(%rsp)
    movq  %r13, 24(%rsp)
    movq  %r14, 32(%rsp)
    movq  %r15, 40(%rsp)
    movq  %rsp, (%rdi)
    movq  %rsi, %rsp
    movq   0(%rsp), %rbx
    movq   8(%rsp), %rbp
    movq  16(%rsp), %r12
    movq  24(%rsp), %r13
    movq  32(%rsp), %r14
    movq  40(%rsp), %r15
    addq  $48, %rsp
    ret
    .size emulator_switch_stacks, . - emulator_switch_stacks
    .popsection
)");
extern "C" void emulator_switch_stacks(void** save, void* load);

/// Words of a saved frame: six registers, the address to return to, and a zero where a caller's address would be.
constexpr std::size_t kFrameWords = 8;
constexpr std::size_t kFrameEntry = 6;

#elif defined(__aarch64__)

// The same for AAPCS64: x19-x28, frame pointer and link register, and the low halves of v8-v15.
asm(R"(
    .pushsection .text.emulator_switch_stacks, "ax", @progbits
    .weak   emulator_switch_stacks
    .hidden emulator_switch_stacks
    .type   emulator_switch_stacks, @function
    .p2align 4
emulator_switch_stacks:
    sub  sp, sp, #160
    stp  x19, x20, [sp, #0]
    stp  x21, x22, [sp, #16]
    stp  x23, x24, [sp, #32]
    stp  x25, x26, [sp, #48]
    stp  x27, x28, [sp, #64]
    stp  x29, x30, [sp, #80]
    stp  d8,  d9,  [sp, #96]
    stp  d10, d11, [sp, #112]
    stp  d12, d13, [sp, #128]
    stp  d14, d15, [sp, #144]
    mov  x9, sp
    str  x9, [x0]
    mov  sp, x1
    ldp  x19, x20, [sp, #0]
    ldp  x21, x22, [sp, #16]
    ldp  x23, x24, [sp, #32]
    ldp  x25, x26, [sp, #48]
    ldp  x27, x28, [sp, #64]
    ldp  x29, x30, [sp, #80]
    ldp  d8,  d9,  [sp, #96]
    ldp  d10, d11, [sp, #112]
    ldp  d12, d13, [sp, #128]
    ldp  d14, d15, [sp, #144]
    add  sp, sp, #160
    ret
    .size emulator_switch_stacks, . - emulator_switch_stacks
    .popsection
)");
extern "C" void emulator_switch_stacks(void** save, void* load);

constexpr std::size_t kFrameWords = 20;
constexpr std::size_t kFrameEntry = 11;

#endif

/// Makes `context` start with `entry` on the stack given, at the first switch to it. `entry` must not return.
EMULATOR_INTERNAL void prepare(Context& context, char* stack, std::size_t bytes, void (*entry)()) {
#if defined(EMULATOR_ASAN)
    context.stack_bottom = stack;
    context.stack_bytes = bytes;
#endif
#if defined(EMULATOR_TSAN)
    context.tsan_fiber = __tsan_create_fiber(0);
#endif
#if defined(EMULATOR_UCONTEXT)
    getcontext(&context.registers);
    context.registers.uc_stack.ss_sp = stack;
    context.registers.uc_stack.ss_size = bytes;
    context.registers.uc_link = nullptr;
    makecontext(&context.registers, entry, 0);
#else
    std::uintptr_t top = (reinterpret_cast<std::uintptr_t>(stack) + bytes) & ~std::uintptr_t{15};
    auto* frame = reinterpret_cast<std::uintptr_t*>(top) - kFrameWords;
    for (std::size_t word = 0; word < kFrameWords; ++word) frame[word] = 0;
    frame[kFrameEntry] = reinterpret_cast<std::uintptr_t>(entry);
    context.stack_pointer = frame;
#endif
}

/// Gives back what `prepare` took, the stack apart.
EMULATOR_INTERNAL void forget(Context& context) {
#if defined(EMULATOR_TSAN)
    __tsan_destroy_fiber(context.tsan_fiber);
#endif
    context.stack_pointer = nullptr;
}

/// To be called by a thread before it switches away from its own stack for the first time.
EMULATOR_INTERNAL void adopt_thread(Context& context) {
#if defined(EMULATOR_TSAN)
    context.tsan_fiber = __tsan_get_current_fiber();
#endif
#if defined(EMULATOR_ASAN)
    context.stack_bottom = nullptr;  // filled in by the first fiber that it starts or resumes
#endif
    (void)context;
}

/// To be called at the beginning of a fiber's entry function.
EMULATOR_INTERNAL void arrive([[maybe_unused]] Context& self) {
#if defined(EMULATOR_ASAN)
    __sanitizer_finish_switch_fiber(self.fake_stack, &self.came_from->stack_bottom, &self.came_from->stack_bytes);
#endif
}

/// Suspends `from`, which must be the running flow, and resumes `to`. Returns when somebody resumes `from`.
EMULATOR_INTERNAL void switch_context(Context& from, Context& to) {
#if defined(EMULATOR_ASAN)
    to.came_from = &from;
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_bottom, to.stack_bytes);
#endif
#if defined(EMULATOR_TSAN)
    // No order: what one lane wrote is another one's to read only after a barrier that both passed.
    __tsan_switch_to_fiber(to.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(EMULATOR_UCONTEXT)
    swapcontext(&from.registers, &to.registers);
#else
    emulator_switch_stacks(&from.stack_pointer, to.stack_pointer);
#endif
    arrive(from);
}

/// Tells ThreadSanitizer that all the caller did so far comes before whatever follows `acquire` of the same address.
EMULATOR_INTERNAL void release([[maybe_unused]] void* address) {
#if defined(EMULATOR_TSAN)
    __tsan_release(address);
#endif
}

EMULATOR_INTERNAL void acquire([[maybe_unused]] void* address) {
#if defined(EMULATOR_TSAN)
    __tsan_acquire(address);
#endif
}

/// While it lives, ThreadSanitizer does not see what the caller reads, writes and allocates.
struct Unseen {
    Unseen() {
#if defined(EMULATOR_TSAN)
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
    }
    ~Unseen() {
#if defined(EMULATOR_TSAN)
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
    }
    Unseen(const Unseen&) = delete;
    Unseen& operator=(const Unseen&) = delete;
};

}  // namespace emulator::detail
