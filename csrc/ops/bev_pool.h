// BEV pooling: what every backend shares. Argument checks and the plan's layout.
//
// A plan says which points (rows of the features) each cell of the grid [B, D, H, W] sums. Cells
// are numbered row-major. For the sake of caches they are summed by tiles of kTile x kTile cells in
// H and W, numbered row-major as well:
//   cells      int32 [N]          the cell of each point, -1 outside of the grid
//   ranks      int32 [N]          the points by tile and then by number; those outside come last
//   intervals  int64 [tiles + 1]  tile t has the points ranks[intervals[t] : intervals[t + 1]]
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <limits>

#include "float_check.h"

namespace mxd::bev_pool {

constexpr int64_t kTile = 16;

// Columns of coords.
enum Column { kH, kW, kD, kB };

struct Grid {
  int64_t batch, depth, height, width;

  int64_t cells() const { return batch * depth * height * width; }
  int64_t tile_columns() const { return (width + kTile - 1) / kTile; }
  int64_t tile_rows() const { return (height + kTile - 1) / kTile; }
  int64_t tiles() const { return batch * depth * tile_rows() * tile_columns(); }
};

inline Grid make_grid(int64_t B, int64_t D, int64_t H, int64_t W) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  int64_t cells = 1;
  bool overflow = false;
  for (const auto& [name, size] :
       {std::pair{"B", B}, std::pair{"D", D}, std::pair{"H", H}, std::pair{"W", W}}) {
    TORCH_CHECK_VALUE(size >= 1, name, " must be at least 1, was ", size);
    overflow |= __builtin_mul_overflow(cells, size, &cells);
  }
  TORCH_CHECK_VALUE(!overflow && cells < kMost, "B * D * H * W must be below 2**31 - 1, was ", B,
                    " * ", D, " * ", H, " * ", W);
  return {B, D, H, W};
}

inline void check_coords(const at::Tensor& coords) {
  const auto type = coords.scalar_type();
  TORCH_CHECK_TYPE(type == at::kInt || type == at::kLong, "coords must be int32 or int64, was ",
                   type);
  TORCH_CHECK_VALUE(coords.dim() == 2 && coords.size(1) == 4,
                    "coords must have shape [points, 4] (H, W, D and batch index), was ",
                    coords.sizes());
  TORCH_CHECK_VALUE(coords.size(0) < std::numeric_limits<int32_t>::max(),
                    "coords must have fewer than 2**31 - 1 rows, was ", coords.size(0));
}

inline void check_pool(const at::Tensor& feats, const at::Tensor& cells, const at::Tensor& ranks,
                       const at::Tensor& intervals, const Grid& grid) {
  check_float("feats", feats);
  TORCH_CHECK_VALUE(feats.dim() == 2, "feats must have shape [points, channels], was ",
                    feats.sizes());
  for (const auto& [name, tensor] : {std::pair{"cells", &cells}, std::pair{"ranks", &ranks}}) {
    TORCH_CHECK_TYPE(tensor->scalar_type() == at::kInt, name, " must be int32, was ",
                     tensor->scalar_type());
    TORCH_CHECK_VALUE(tensor->dim() == 1 && tensor->size(0) == feats.size(0),
                      "feats must have a row for each of the ", tensor->numel(),
                      " points of the plan, was ", feats.sizes());
  }
  TORCH_CHECK_TYPE(intervals.scalar_type() == at::kLong, "intervals must be int64, was ",
                   intervals.scalar_type());
  TORCH_CHECK_VALUE(intervals.dim() == 1 && intervals.size(0) == grid.tiles() + 1,
                    "intervals must have shape [", grid.tiles() + 1, "], was ", intervals.sizes());
}

inline void check_grad(const at::Tensor& grad, const at::Tensor& cells) {
  check_float("grad", grad);
  TORCH_CHECK_VALUE(grad.dim() == 2, "grad must have shape [cells, channels], was ", grad.sizes());
  TORCH_CHECK_TYPE(cells.scalar_type() == at::kInt, "cells must be int32, was ",
                   cells.scalar_type());
  TORCH_CHECK_VALUE(cells.dim() == 1, "cells must have shape [points], was ", cells.sizes());
}

}  // namespace mxd::bev_pool
