// Voxelization: what every backend shares. Argument checks and the grid.
//
// A point is in cell (p - low) / size, rounded down, with p, low and size in float32 (in float64
// where the points are float64). mmcv and spconv compute it in the same way, so a point at a border
// falls on the same side. The grid is given in the order x, y, z, a voxel in the order z, y, x.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <array>
#include <cmath>
#include <limits>

#include "check.h"

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

inline void check_dynamic(const at::Tensor& points, at::ArrayRef<double> voxel_size,
                          at::ArrayRef<double> coors_range) {
  const Grid grid = make_grid(voxel_size, coors_range);
  check_float("points", points);
  TORCH_CHECK_VALUE(points.dim() == 2 && points.sym_size(1) >= grid.ndim,
                    "points must have shape [points, ", grid.ndim, " or more], was ",
                    points.sym_sizes());
  check_row_count("points", points);
}

inline void check_hard(const at::Tensor& points, at::ArrayRef<double> voxel_size,
                       at::ArrayRef<double> coors_range, int64_t max_points, int64_t max_voxels,
                       bool /*with_ids*/) {
  check_dynamic(points, voxel_size, coors_range);
  check_at_least("max_points", max_points, 1);
  check_at_least("max_voxels", max_voxels, 0);
}

inline void check_slots(const at::Tensor& slots) {
  check_int32("slots", slots);
  check_dim("slots", slots, 2, "[voxels, max_points]");
}

inline void check_gather(const at::Tensor& points, const at::Tensor& slots, bool /*empty_mean*/) {
  check_float("points", points);
  check_dim("points", points, 2, "[points, channels]");
  check_slots(slots);
}

inline void check_gather_grad(const at::Tensor& grad, const at::Tensor& slots,
                              c10::SymInt num_points) {
  check_float("grad", grad);
  check_slots(slots);
  TORCH_CHECK_VALUE(grad.dim() == 3 && holds(grad.sym_size(0).sym_eq(slots.sym_size(0))) &&
                        grad.sym_size(1) == slots.sym_size(1),
                    "grad must have shape [", slots.sym_size(0), ", ", slots.sym_size(1),
                    ", channels], was ", grad.sym_sizes());
  check_row_number("num_points", num_points);
}

}  // namespace mxd::voxelize
