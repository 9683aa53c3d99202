// BEV pooling on the NPU: the points sorted by cell, and sums by segment.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>

#include "bev_pool.h"
#include "cells.h"
#include "segment_reduce.h"
#include "sort.h"

namespace mxd::bev_pool {
namespace {

// The cell of each point, -1 outside of the grid.
at::Tensor find_cells(const at::Tensor& coords, const Grid& grid) {
  // Every place outside of int32 is outside of the grid.
  const at::Tensor rows =
      coords.clamp(-1, std::numeric_limits<int32_t>::max()).to(at::kInt).contiguous();
  if (rows.size(0) == 0) return at::empty({0}, rows.options());
  const int64_t plane = grid.height * grid.width;
  return npu::find_cells(rows, {grid.height, grid.width, grid.depth, grid.batch},
                         {grid.width, 1, plane, grid.depth * plane});
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
  check_by_cell(intervals, {B, D, H, W});
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
