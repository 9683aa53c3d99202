// BEV pooling: what every backend shares. Argument checks and the plan's layout.
//
// A plan says which points (rows of the features) each cell of the grid [B, D, H, W] sums. Cells
// are numbered row-major. They are summed in tiles of kTile x kTile cells in H and W, which stay in
// a core's cache; tiles are numbered row-major as well:
//   cells      int32 [N]          the cell of each point, -1 outside of the grid
//   ranks      int32 [N]          the points by tile and then by number; those outside come last
//   intervals  int64 [tiles + 1]  tile t has the points ranks[intervals[t] : intervals[t + 1]]
// On an NPU every cell is a tile of its own, and the points outside come first.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <limits>

#include "check.h"

namespace mxd::bev_pool {

constexpr int64_t kTile = 16;

// Columns of coords.
enum Column { kH, kW, kD, kB };

struct Grid {
  int64_t batch, depth, height, width;

  int64_t tile_columns() const { return (width + kTile - 1) / kTile; }
  int64_t tile_rows() const { return (height + kTile - 1) / kTile; }
  int64_t tiles() const { return batch * depth * tile_rows() * tile_columns(); }
};

inline c10::SymInt tile_count(const c10::SymInt& B, const c10::SymInt& D, const c10::SymInt& H,
                              const c10::SymInt& W) {
  return B * D * ((H + (kTile - 1)) / kTile) * ((W + (kTile - 1)) / kTile);
}

inline void check_grid(const c10::SymInt& B, const c10::SymInt& D, const c10::SymInt& H,
                       const c10::SymInt& W) {
  check_at_least("B", B, 1);
  check_at_least("D", D, 1);
  check_at_least("H", H, 1);
  check_at_least("W", W, 1);
  // By division: the product might overflow an int64.
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() - 1;
  TORCH_CHECK_VALUE(c10::SymInt(kMost) / B / D / H / W >= 1,
                    "B * D * H * W must be below 2**31 - 1, was ", B, " * ", D, " * ", H, " * ", W);
}

inline void check_plan(const at::Tensor& coords, c10::SymInt B, c10::SymInt D, c10::SymInt H,
                       c10::SymInt W) {
  check_grid(B, D, H, W);
  check_int32_or_int64("coords", coords);
  TORCH_CHECK_VALUE(coords.dim() == 2 && coords.sym_size(1) == 4,
                    "coords must have shape [points, 4] (H, W, D and batch index), was ",
                    coords.sym_sizes());
  check_row_count("coords", coords);
}

// Of a plan whose points `points` says to be so many: "feats" and "a row", or "depth" and "a
// number".
inline void check_points(const char* name, const at::Tensor& tensor, const char* what,
                         const c10::SymInt& points, const char* list_name, const at::Tensor& list) {
  check_int32(list_name, list);
  TORCH_CHECK_VALUE(list.dim() == 1 && list.sym_size(0) == points, name, " must have ", what,
                    " for each of the ", list.sym_numel(), " points of the plan, was ",
                    tensor.sym_sizes());
}

inline void check_intervals(const at::Tensor& intervals, const c10::SymInt& B, const c10::SymInt& D,
                            const c10::SymInt& H, const c10::SymInt& W) {
  check_int64("intervals", intervals);
  const c10::SymInt tiles = tile_count(B, D, H, W);
  // Of the NPU's kernel, beside the plain form's.
  const bool by_cell = intervals.device().is_privateuseone() && intervals.dim() == 1 &&
                       intervals.sym_size(0) == B * D * H * W + 1;
  TORCH_CHECK_VALUE(by_cell || (intervals.dim() == 1 && intervals.sym_size(0) == tiles + 1),
                    "intervals must have shape [", tiles + 1, "], was ", intervals.sym_sizes());
}

inline void check_pool(const at::Tensor& feats, const at::Tensor& cells, const at::Tensor& ranks,
                       const at::Tensor& intervals, c10::SymInt B, c10::SymInt D, c10::SymInt H,
                       c10::SymInt W) {
  check_grid(B, D, H, W);
  check_float("feats", feats);
  check_dim("feats", feats, 2, "[points, channels]");
  check_points("feats", feats, "a row", feats.sym_size(0), "cells", cells);
  check_points("feats", feats, "a row", feats.sym_size(0), "ranks", ranks);
  check_intervals(intervals, B, D, H, W);
}

inline void check_grad(const at::Tensor& grad, const at::Tensor& cells) {
  check_float("grad", grad);
  check_dim("grad", grad, 2, "[cells, channels]");
  check_int32("cells", cells);
  check_dim("cells", cells, 1, "[points]");
}

}  // namespace mxd::bev_pool
