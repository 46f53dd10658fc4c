// Between the stand-in for the CUDA driver and the kernels it offers.
#pragma once

#include "emulator.h"

#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace standin {

/// A launch whose arguments have been copied, as a driver copies them at the call.
struct BoundKernel {
    std::function<void(dim3 grid, dim3 block, const emulator::Options&)> run;
    /// The bytes of the arguments; among them the addresses of what the kernel can write.
    std::vector<std::vector<unsigned char>> arguments;
};

/// A kernel as the driver knows it.
struct Kernel {
    std::string name;
    std::vector<std::size_t> parameter_bytes;
    std::function<BoundKernel(void** arguments)> bind;
};

std::vector<Kernel>& registry();

template <class... Parameters, std::size_t... Index>
BoundKernel bind_arguments(void (*kernel)(Parameters...), [[maybe_unused]] void** arguments,
                           std::index_sequence<Index...>) {
    std::tuple<Parameters...> values;
    (std::memcpy(&std::get<Index>(values), arguments[Index], sizeof(Parameters)), ...);
    BoundKernel bound;
    (bound.arguments.emplace_back(static_cast<const unsigned char*>(arguments[Index]),
                                  static_cast<const unsigned char*>(arguments[Index]) + sizeof(Parameters)),
     ...);
    bound.run = [kernel, values](dim3 grid, dim3 block, const emulator::Options& options) {
        emulator::launch(grid, block, options, [&] { std::apply(kernel, values); });
    };
    return bound;
}

/// Offers a `__global__` function under the name that a module has it by.
template <class... Parameters>
void register_kernel(const char* name, void (*kernel)(Parameters...)) {
    static_assert((std::is_trivially_copyable_v<Parameters> && ...), "arguments are copied as bytes");
    registry().push_back({name, {sizeof(Parameters)...}, [kernel](void** arguments) {
                              return bind_arguments(kernel, arguments, std::index_sequence_for<Parameters...>());
                          }});
}

/// Registers all kernels; in kernels.cpp. Called once, by the first cuInit.
void register_kernels();

}  // namespace standin
