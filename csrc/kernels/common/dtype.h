// How a tiling names the dtype of features, for the host and for kernels.
#pragma once

#include <cstdint>

namespace mxd::kernels {

constexpr int32_t kFloat = 0, kHalf = 1, kBfloat16 = 2;

}  // namespace mxd::kernels
