// Which convolutions a plan serves.
#pragma once

#include <limits>

#include "integers.h"
#include "sparse_conv.h"
#include "sparse_conv_tiling.h"

namespace mxd::sparse_conv {

constexpr int64_t kMostRowBytes = 128;  // of a group's input channels

// Where sums in the cube cores are faster than products that the vector cores add: of wider rows
// fewer are loaded at once, and most kernel points need loads of their own.
inline bool plan_serves(const at::Tensor& features, const at::Tensor& weight,
                        const at::Tensor& pairs) {
  const int64_t volume = weight.size(0), channels = npu::round_up(weight.size(1), 16);
  return channels * features.element_size() <= kMostRowBytes && volume % 2 == 1 &&
         volume <= kernels::sparse_conv_planned::kPlanPoints && pairs.size(0) > 0 &&
         weight.numel() > 0 &&
         features.size(0) * kMostRowBytes <= std::numeric_limits<int32_t>::max();
}

// [2, rows]: the order of the voxels and each one's place in it, or empty if they are in order.
inline at::Tensor plan_order(const at::Tensor& plan, int64_t rows, int64_t volume) {
  namespace sizes = kernels::sparse_conv_planned;
  const int64_t tiles = npu::ceil_div(rows, sizes::kPlanRows);
  const at::Tensor order = plan.slice(0, sizes::ListOf(tiles, tiles, volume));
  return order.view({order.numel() / rows, rows});
}

}  // namespace mxd::sparse_conv
