// What the entries of kernels call: the kernel's class, for the numbers that the tiling names.
#pragma once

#include "dtype.h"
#include "kernel_operator.h"

namespace mxd::kernels {

// Kernel(pipe, arguments...).Process(), on a vector or a cube core.
template <typename Kernel, typename... Arguments>
__aicore__ inline void RunKernel(const Arguments&... arguments) {
  AscendC::TPipe pipe;
  Kernel(pipe, arguments...).Process();
}

// The same for the T that tiling.dtype names.
template <template <typename> class Kernel, typename Tiling, typename... Arguments>
__aicore__ inline void RunFor(const Tiling& tiling, const Arguments&... arguments) {
  if (tiling.dtype == kHalf)
    RunKernel<Kernel<half>>(tiling, arguments...);
  else if (tiling.dtype == kBfloat16)
    RunKernel<Kernel<bfloat16_t>>(tiling, arguments...);
  else
    RunKernel<Kernel<float>>(tiling, arguments...);
}

// Where numbers are only moved: for integers of tiling.number_bytes, 2 or 4.
template <template <typename> class Kernel, typename Tiling, typename... Arguments>
__aicore__ inline void RunForSize(const Tiling& tiling, const Arguments&... arguments) {
  if (tiling.number_bytes == sizeof(int16_t))
    RunKernel<Kernel<int16_t>>(tiling, arguments...);
  else
    RunKernel<Kernel<int32_t>>(tiling, arguments...);
}

}  // namespace mxd::kernels
