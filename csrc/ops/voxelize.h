// Voxelization: what every backend shares. Argument checks and the grid.
//
// A point is in cell (p - low) / size, rounded down, with p, low and size in float32 (in float64
// where the points are): this expression and its dtype decide on which side of a border a point
// lies, and are those of mmcv and of spconv. The grid is written x, y, z and a voxel z, y, x.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <array>
#include <cmath>
#include <limits>

#include "float_check.h"

namespace mxd::voxelize {

constexpr int kMaxDims = 4;

struct Grid {
  int ndim = 0;
  std::array<float, kMaxDims> low{}, size{};
  std::array<int64_t, kMaxDims> cells{};
};

inline Grid make_grid(at::ArrayRef<double> voxel_size, at::ArrayRef<double> coors_range) {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  Grid grid;
  grid.ndim = static_cast<int>(voxel_size.size());
  TORCH_CHECK_VALUE(grid.ndim >= 1 && grid.ndim <= kMaxDims, "voxel_size must have 1 to ", kMaxDims,
                    " numbers, was ", voxel_size);
  TORCH_CHECK_VALUE(coors_range.size() == voxel_size.size() * 2, "coors_range must have ",
                    grid.ndim * 2, " numbers, the least and then the greatest coordinates, was ",
                    coors_range);
  int64_t volume = 1;
  bool overflow = false;
  for (int d = 0; d < grid.ndim; d++) {
    grid.low[d] = static_cast<float>(coors_range[d]);
    grid.size[d] = static_cast<float>(voxel_size[d]);
    TORCH_CHECK_VALUE(grid.size[d] > 0 && std::isfinite(grid.size[d]),
                      "voxel_size must be above 0 in every dimension, was ", voxel_size);
    const float high = static_cast<float>(coors_range[grid.ndim + d]);
    const float cells = std::round((high - grid.low[d]) / grid.size[d]);
    TORCH_CHECK_VALUE(cells >= 1 && cells < static_cast<float>(kMost),
                      "coors_range must hold 1 to 2**31 - 1 cells of voxel_size ", voxel_size,
                      " in every dimension, was ", coors_range);
    grid.cells[d] = static_cast<int64_t>(cells);
    overflow |= __builtin_mul_overflow(volume, grid.cells[d], &volume);
  }
  TORCH_CHECK_VALUE(!overflow, "coors_range must hold fewer than 2**63 cells of voxel_size ",
                    voxel_size, ", was ", coors_range);
  return grid;
}

inline void check_points(const at::Tensor& points, const Grid& grid) {
  check_float("points", points);
  TORCH_CHECK_VALUE(points.dim() == 2 && points.size(1) >= grid.ndim,
                    "points must have shape [points, ", grid.ndim, " or more], was ",
                    points.sizes());
  TORCH_CHECK_VALUE(points.size(0) < std::numeric_limits<int32_t>::max(),
                    "points must have fewer than 2**31 - 1 rows, was ", points.size(0));
}

inline void check_limits(int64_t max_points, int64_t max_voxels) {
  TORCH_CHECK_VALUE(max_points >= 1, "max_points must be at least 1, was ", max_points);
  TORCH_CHECK_VALUE(max_voxels >= 0, "max_voxels must be at least 0, was ", max_voxels);
}

inline void check_slots(const at::Tensor& slots) {
  TORCH_CHECK_TYPE(slots.scalar_type() == at::kInt, "slots must be int32, was ",
                   slots.scalar_type());
  TORCH_CHECK_VALUE(slots.dim() == 2, "slots must have shape [voxels, max_points], was ",
                    slots.sizes());
}

inline void check_gather(const at::Tensor& points, const at::Tensor& slots) {
  check_float("points", points);
  TORCH_CHECK_VALUE(points.dim() == 2, "points must have shape [points, channels], was ",
                    points.sizes());
  check_slots(slots);
}

inline void check_gather_grad(const at::Tensor& grad, const at::Tensor& slots, int64_t num_points) {
  check_float("grad", grad);
  check_slots(slots);
  TORCH_CHECK_VALUE(
      grad.dim() == 3 && grad.size(0) == slots.size(0) && grad.size(1) == slots.size(1),
      "grad must have shape [", slots.size(0), ", ", slots.size(1), ", channels], was ",
      grad.sizes());
  TORCH_CHECK_VALUE(num_points >= 0, "num_points must be at least 0, was ", num_points);
}

}  // namespace mxd::voxelize
