// An NPU's plan of BEV pooling, which has one interval a cell.
#pragma once

#include "../bev_pool.h"
#include "sort_tiling.h"

namespace mxd::bev_pool {

inline int64_t cell_count(const Grid& grid, const at::Tensor& tensor) {
  const int64_t count = grid.batch * grid.depth * grid.height * grid.width;
  TORCH_CHECK_VALUE(count <= kernels::kSortMaxKey, "B * D * H * W must be at most ",
                    kernels::kSortMaxKey, " on ", tensor.device(), ", was ", count);
  return count;
}

// Checks that a plan is an NPU's, of one interval a cell.
inline void check_by_cell(const at::Tensor& intervals, const Grid& grid) {
  const int64_t count = cell_count(grid, intervals);
  TORCH_CHECK_VALUE(intervals.size(0) == count + 1, "intervals must have shape [", count + 1,
                    "] of an NPU's plan, was ", intervals.sizes());
}

}  // namespace mxd::bev_pool
