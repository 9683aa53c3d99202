// The dtypes that a kernel is built for.
#pragma once

#include "dtype.h"
#include "kernel_operator.h"

namespace mxd::kernels {

// Kernel<T>::Execute(arguments...) for the T that a tiling's dtype names.
template <template <typename> class Kernel, typename... Arguments>
__aicore__ inline void RunFor(int32_t dtype, const Arguments&... arguments) {
  if (dtype == kHalf)
    Kernel<half>::Execute(arguments...);
  else if (dtype == kBfloat16)
    Kernel<bfloat16_t>::Execute(arguments...);
  else
    Kernel<float>::Execute(arguments...);
}

}  // namespace mxd::kernels
