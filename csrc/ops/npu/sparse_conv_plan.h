// Which convolutions a plan serves.
#pragma once

#include <limits>

#include "integers.h"
#include "sparse_conv.h"
#include "sparse_conv_tiling.h"

namespace mxd::sparse_conv {

constexpr int64_t kMostRowBytes = 256;  // of a group's input channels

// Where sums in the cube cores are faster than products that the vector cores add: of wider rows
// the weights have no room in L1.
inline bool plan_serves(const at::Tensor& features, const at::Tensor& weight,
                        const at::Tensor& pairs) {
  const int64_t volume = weight.size(0), channels = npu::round_up(weight.size(1), 16);
  return channels * features.element_size() <= kMostRowBytes && volume % 2 == 1 &&
         volume <= kernels::sparse_conv_planned::kPlanPoints && pairs.size(0) > 0 &&
         weight.numel() > 0 &&
         features.size(0) * kernels::sparse_conv_planned::kPartBytes <=
             std::numeric_limits<int32_t>::max();
}

// A group's input channels as `count` steps of `channels`, of at most `bytes` each, padded to whole
// fractals.
struct InSteps {
  int64_t count, channels;
};
inline InSteps in_steps(int64_t channels, int64_t element_bytes, int64_t bytes) {
  const int64_t count = npu::ceil_div(channels * element_bytes, bytes);
  return {count, npu::round_up(npu::ceil_div(channels, count), kernels::kFractalRows)};
}

// The end of a plan, where voxels are not in order.
struct PlanOrder {
  at::Tensor order, place;  // [rows]: the order of the voxels, and each one's place in it
  at::Tensor pairs;         // [pairs, 2], of places
};

// Without tensors where the voxels are in order, and where there is no plan.
inline PlanOrder order_of_plan(const c10::optional<at::Tensor>& plan, int64_t rows,
                               int64_t volume) {
  if (!plan || plan->numel() == 0) return {};
  namespace sizes = kernels::sparse_conv_planned;
  const int64_t tiles = npu::ceil_div(rows, sizes::kPlanRows);
  const at::Tensor end = plan->slice(0, sizes::ListOf(tiles, tiles, volume));
  if (end.numel() == 0) return {};
  return {end.narrow(0, 0, rows), end.narrow(0, rows, rows), end.slice(0, 2 * rows).view({-1, 2})};
}

}  // namespace mxd::sparse_conv
