// Reduction of points by voxel: what every backend shares. Argument checks and the plan's layout.
//   voxel_coors  as coors [M, ndim]  the voxels, ascending
//   point_voxel  int32 [N]           the voxel of each point, -1 where a coordinate is negative
//   ranks        int32 [K]           the points that have a voxel, by voxel and then by number
//   intervals    int64 [M + 1]       voxel v has the points ranks[intervals[v] : intervals[v + 1]]
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <c10/util/string_view.h>

#include <limits>

#include "float_check.h"

namespace mxd::dynamic_scatter {

enum class Reduce { kSum, kMean, kMax };

inline Reduce parse_reduce(c10::string_view name) {
  TORCH_CHECK_VALUE(name == "sum" || name == "mean" || name == "max",
                    "reduce_type must be 'sum', 'mean' or 'max', was '", name, "'");
  return name == "sum" ? Reduce::kSum : name == "mean" ? Reduce::kMean : Reduce::kMax;
}

inline void check_coors(const at::Tensor& coors) {
  const auto type = coors.scalar_type();
  TORCH_CHECK_TYPE(type == at::kInt || type == at::kLong, "coors must be int32 or int64, was ",
                   type);
  TORCH_CHECK_VALUE(coors.dim() == 2 && coors.size(1) >= 1,
                    "coors must have shape [points, dimensions], was ", coors.sizes());
  TORCH_CHECK_VALUE(coors.size(0) < std::numeric_limits<int32_t>::max(),
                    "coors must have fewer than 2**31 - 1 rows, was ", coors.size(0));
}

inline void check_reduce(const at::Tensor& feats, const at::Tensor& ranks,
                         const at::Tensor& intervals) {
  check_float("feats", feats);
  TORCH_CHECK_VALUE(feats.dim() == 2, "feats must have shape [points, channels], was ",
                    feats.sizes());
  TORCH_CHECK_TYPE(ranks.scalar_type() == at::kInt, "ranks must be int32, was ",
                   ranks.scalar_type());
  TORCH_CHECK_VALUE(ranks.dim() == 1, "ranks must have shape [points], was ", ranks.sizes());
  TORCH_CHECK_TYPE(intervals.scalar_type() == at::kLong, "intervals must be int64, was ",
                   intervals.scalar_type());
  TORCH_CHECK_VALUE(intervals.dim() == 1 && intervals.size(0) >= 1,
                    "intervals must have shape [voxels + 1], was ", intervals.sizes());
}

}  // namespace mxd::dynamic_scatter
