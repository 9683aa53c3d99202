// The type that the CPU kernels compute in.
#pragma once

#include <c10/core/ScalarType.h>

namespace mxd::cpu {

// float16 and bfloat16 are computed in float32.
inline at::ScalarType compute_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace mxd::cpu
