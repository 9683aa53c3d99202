// Reduction of points by voxel: what every backend shares. Argument checks and the plan's layout.
//   voxel_coors  [M, ndim]           the voxels, ascending, in the dtype of coors
//   point_voxel  int32 [N]           the voxel of each point, -1 where a coordinate is negative
//   ranks        int32 [K]           the points that have a voxel, sorted by voxel, then by number
//   intervals    int64 [M + 1]       voxel v has the points ranks[intervals[v] : intervals[v + 1]]
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <c10/util/string_view.h>

#include "check.h"

namespace mxd::dynamic_scatter {

enum class Reduce { kSum, kMean, kMax };

inline Reduce parse_reduce(c10::string_view name) {
  TORCH_CHECK_VALUE(name == "sum" || name == "mean" || name == "max",
                    "reduce_type must be 'sum', 'mean' or 'max', was '", name, "'");
  return name == "sum" ? Reduce::kSum : name == "mean" ? Reduce::kMean : Reduce::kMax;
}

inline void check_plan(const at::Tensor& coors) {
  check_int32_or_int64("coors", coors);
  TORCH_CHECK_VALUE(coors.dim() == 2 && coors.sym_size(1) >= 1,
                    "coors must have shape [points, dimensions], was ", coors.sym_sizes());
  check_row_count("coors", coors);
}

inline void check_reduce(const at::Tensor& feats, const at::Tensor& ranks,
                         const at::Tensor& intervals, c10::string_view reduce_type) {
  parse_reduce(reduce_type);
  check_float("feats", feats);
  check_dim("feats", feats, 2, "[points, channels]");
  check_int32("ranks", ranks);
  check_dim("ranks", ranks, 1, "[points]");
  check_int64("intervals", intervals);
  TORCH_CHECK_VALUE(intervals.dim() == 1 && holds(intervals.sym_size(0).sym_ge(1)),
                    "intervals must have shape [voxels + 1], was ", intervals.sym_sizes());
}

}  // namespace mxd::dynamic_scatter
