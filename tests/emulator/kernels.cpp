// The kernels that the stand-in driver offers: the project's .cu files, compiled as C++.
#include "standin.h"

#define COLOPHON_EMULATOR
#include "../../kernels/lines.cu"
#include "../../kernels/rows.cu"

namespace standin {

void register_kernels() {
    register_kernel("mark_lines", &mark_lines);
    register_kernel("sum_tiles", &sum_tiles);
    register_kernel("place_lines", &place_lines);
    register_kernel("scan_rows", &scan_rows);
}

}  // namespace standin
