// Runs CUDA C++ kernels on the CPU. Kernels include this in the place of the CUDA headers; tests call
// emulator::launch. The README beside it says what is modelled and what is not.
#pragma once

#include "intrinsics.h"
