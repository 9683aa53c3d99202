// BEV pooling on the NPU: the points sorted by cell, and sums by segment.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "../bev_pool.h"
#include "launch.h"
#include "segment_reduce.h"
#include "sort.h"
#include "sparse_conv_rulebook_tiling.h"
// The launch, which names the tiling.
#include "aclrtlaunch_sparse_conv_rulebook_cells.h"

namespace mxd::bev_pool {
namespace {

// The cell of each point, -1 outside of the grid.
at::Tensor find_cells(const at::Tensor& coords, const Grid& grid) {
  // Every place outside of int32 is outside of the grid.
  const at::Tensor rows =
      coords.clamp(-1, std::numeric_limits<int32_t>::max()).to(at::kInt).contiguous();
  SparseConvCellsTiling tiling{};
  tiling.voxels = rows.size(0);
  tiling.columns = 4;
  const int64_t limit[4] = {grid.height, grid.width, grid.depth, grid.batch};
  const int64_t plane = grid.height * grid.width;
  const int64_t step[4] = {grid.width, 1, plane, grid.depth * plane};
  std::copy_n(limit, 4, tiling.limit);
  std::copy_n(step, 4, tiling.step);
  const at::Tensor cells = at::empty({rows.size(0)}, rows.options());
  if (rows.size(0) > 0)
    npu::launch(aclrtlaunch_sparse_conv_rulebook_cells, "sparse_conv_rulebook_cells",
                std::clamp<int64_t>((rows.size(0) + 63) / 64, 1, npu::vector_cores()), rows, cells,
                tiling);
  return cells;
}

int64_t cell_count(const Grid& grid, const at::Tensor& tensor) {
  const int64_t count = grid.batch * grid.depth * grid.height * grid.width;
  TORCH_CHECK_VALUE(count <= kernels::kSortMaxKey, "B * D * H * W must be at most ",
                    kernels::kSortMaxKey, " on ", tensor.device(), ", was ", count);
  return count;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> plan_npu(const at::Tensor& coords, int64_t B,
                                                        int64_t D, int64_t H, int64_t W) {
  check_plan(coords, B, D, H, W);
  const Grid grid{B, D, H, W};
  const int64_t count = cell_count(grid, coords);
  const at::Tensor cells = find_cells(coords, grid);
  const npu::Sorted sorted = npu::sort_keys(cells);
  return {cells, sorted.rows, npu::segment_begins(sorted.keys, count)};
}

at::Tensor pool_npu(const at::Tensor& feats, const at::Tensor& cells, const at::Tensor& ranks,
                    const at::Tensor& intervals, int64_t B, int64_t D, int64_t H, int64_t W) {
  check_pool(feats, cells, ranks, intervals, B, D, H, W);
  check_tiles(intervals, cell_count({B, D, H, W}, feats));
  return npu::segment_sum(feats, ranks.contiguous(), intervals.contiguous())
      .view({B, D, H, W, feats.size(1)});
}

at::Tensor grad_npu(const at::Tensor& grad, const at::Tensor& cells) {
  check_grad(grad, cells);
  return npu::gather_rows(grad, cells.contiguous());
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("bev_pool_plan", TORCH_FN(plan_npu));
  m.impl("bev_pool", TORCH_FN(pool_npu));
  m.impl("bev_pool_grad", TORCH_FN(grad_npu));
}

}  // namespace mxd::bev_pool
