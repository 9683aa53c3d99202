// The rulebook of grids whose cells int32 can number: tilings and launches of
// csrc/kernels/sparse_conv_rulebook*.cpp.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "cells.h"
#include "launch.h"
#include "sort.h"
#include "sparse_conv_rulebook.h"
#include "sparse_conv_rulebook_tiling.h"
// The launches, which name the tilings.
#include "aclrtlaunch_sparse_conv_rulebook_bounds.h"
#include "aclrtlaunch_sparse_conv_rulebook_count.h"
#include "aclrtlaunch_sparse_conv_rulebook_decode.h"
#include "aclrtlaunch_sparse_conv_rulebook_fill.h"
#include "aclrtlaunch_sparse_conv_rulebook_reach.h"
#include "aclrtlaunch_sparse_conv_rulebook_table.h"

namespace mxd::sparse_conv::npu::narrow {
namespace {

using mxd::kernels::kRulebookHeads;
using mxd::npu::launch;
using mxd::npu::vector_cores;

// Blocks for elementwise work on `count` voxels: at least 64 a block.
int64_t blocks_for(int64_t count) { return mxd::npu::blocks_for(count, 64); }

// Voxels of which there are room for `room`.
int64_t room(const Voxels& voxels) { return voxels.cells.size(0); }

at::Tensor heads_of(const Voxels& voxels, bool check, const at::Tensor& stats) {
  SparseConvTableTiling tiling{};
  tiling.voxels = voxels.count;
  tiling.check = check;
  at::Tensor heads = at::empty({kRulebookHeads}, voxels.cells.options());
  launch(aclrtlaunch_sparse_conv_rulebook_table, "sparse_conv_rulebook_table",
         blocks_for(room(voxels)), voxels.cells, stats, heads, tiling);
  return heads;
}

SparseConvJoinTiling make_tiling(const Voxels& windows, const Voxels& voxels,
                                 const KernelRows& kernel) {
  SparseConvJoinTiling tiling{};
  tiling.windows = windows.count;
  tiling.voxels = voxels.count;
  tiling.rows = kernel.rows;
  tiling.run = kernel.run;
  tiling.dims = kernel.dims;
  tiling.shift = kernel.shift;
  std::copy(kernel.kernel.begin(), kernel.kernel.end(), tiling.kernel);
  std::copy(kernel.step.begin(), kernel.step.end(), tiling.step);
  return tiling;
}

int64_t join_blocks(int64_t windows) { return std::min(tile_count(windows), vector_cores()); }

}  // namespace

Voxels find_voxels(const at::Tensor& indices, const Geometry& g, const Numbering& numbering) {
  std::vector<int64_t> limit{g.batch_size};
  limit.insert(limit.end(), g.in_shape.begin(), g.in_shape.begin() + g.ndim);
  return {
      mxd::npu::find_cells(indices, limit, numbering.step, numbering.shift), {}, indices.size(0)};
}

Voxels sort_voxels(const Voxels& voxels) {
  const mxd::npu::Sorted sorted = mxd::npu::sort_keys(voxels.cells);
  return {sorted.keys, sorted.rows, voxels.count};
}

Voxels reached(const at::Tensor& indices, const Geometry& g, const KeySteps& steps,
               const at::Tensor& stats) {
  SparseConvReachTiling tiling{};
  tiling.voxels = indices.size(0);
  tiling.pitch = (indices.size(0) + 7) / 8 * 8;
  tiling.columns = g.ndim + 1;
  tiling.transposed = g.transposed;
  tiling.limit[0] = g.batch_size;
  tiling.step[0] = steps.batch_step;
  int64_t slots = 1;
  for (int d = 0; d < g.ndim; d++) {
    tiling.limit[1 + d] = g.in_shape[d];
    tiling.step[1 + d] = steps.step[d];
    tiling.out_shape[d] = g.out_shape[d];
    tiling.kernel[d] = g.kernel[d];
    tiling.stride[d] = g.stride[d];
    tiling.padding[d] = g.padding[d];
    tiling.dilation[d] = g.dilation[d];
    tiling.inverse[d] = mxd::npu::a_little_less_than_inverse(g.stride[d]);
    tiling.slots[d] = g.transposed || g.dilation[d] > 1
                          ? g.kernel[d]
                          : (g.kernel[d] + g.stride[d] - 1) / g.stride[d];
    slots *= tiling.slots[d];
  }
  const int64_t candidates = slots * tiling.pitch;
  check_output_count(candidates);
  const at::Tensor cells = at::empty({candidates}, indices.options());
  launch(aclrtlaunch_sparse_conv_rulebook_reach, "sparse_conv_rulebook_reach",
         blocks_for(tiling.voxels), indices, cells, tiling);
  const mxd::npu::Sorted sorted = mxd::npu::sort_keys(cells);
  const mxd::npu::Unique unique = mxd::npu::unique_keys(
      sorted.keys.unsqueeze(0), candidates, stats.slice(0, mxd::kernels::kRulebookOutputs));
  const auto cells_of_grid = static_cast<int64_t>(steps.limit);
  return {unique.keys.squeeze(0).slice(0, 0, std::min(candidates, cells_of_grid)), {}, -1};
}

std::tuple<at::Tensor, Voxels> decode(const Voxels& outputs, const Geometry& g,
                                      const KeySteps& steps, const Numbering& numbering,
                                      const at::Tensor& stats) {
  const at::Tensor& cells = outputs.cells;
  SparseConvDecodeTiling tiling{};
  tiling.cells = outputs.count;
  tiling.columns = g.ndim + 1;
  tiling.inverse_columns = mxd::npu::a_little_less_than_inverse(tiling.columns);
  tiling.shift = numbering.shift;
  for (int column = 0; column <= g.ndim; column++) {
    tiling.divisor[column] = column == 0 ? steps.batch_step : steps.step[column - 1];
    tiling.inverse[column] = mxd::npu::a_little_less_than_inverse(tiling.divisor[column]);
    tiling.step[column] = numbering.step[column];
  }
  const at::Tensor indices = at::empty({cells.size(0), g.ndim + 1}, cells.options());
  const at::Tensor others = at::empty_like(cells);
  launch(aclrtlaunch_sparse_conv_rulebook_decode, "sparse_conv_rulebook_decode",
         blocks_for(room(outputs)), cells, stats, indices, others, tiling);
  return {indices, Voxels{others, {}, outputs.count}};
}

Join count_pairs(const Voxels& windows, const Voxels& voxels, const KernelRows& kernel,
                 const at::Tensor& stats) {
  const int64_t tiles = tile_count(room(windows));
  const auto options = windows.cells.options();
  // Outputs are in order; of the inputs it is to be known, and that each is inside and there once.
  const bool same = windows.cells.is_same(voxels.cells);
  if (!same && windows.count >= 0) heads_of(windows, true, stats);
  const int64_t volume = kernel.rows * kernel.run, bounds = tiles * (volume + 1);
  const int64_t words = mxd::npu::whole_blocks(2 * bounds);
  const at::Tensor zeros = at::zeros({words + tiles * volume}, options);
  const Join join{windows, voxels, kernel, heads_of(voxels, voxels.count >= 0, stats),
                  zeros.narrow(0, 0, 2 * bounds).view(at::kLong).view({tiles, volume + 1})};
  const at::Tensor counts = zeros.narrow(0, words, tiles * volume);
  launch(aclrtlaunch_sparse_conv_rulebook_count, "sparse_conv_rulebook_count",
         join_blocks(room(windows)), windows.cells, voxels.cells, join.heads, stats, counts,
         make_tiling(windows, voxels, kernel));
  SparseConvBoundsTiling tiling{};
  tiling.windows = windows.count;
  tiling.rows = kernel.rows;
  tiling.run = kernel.run;
  launch(aclrtlaunch_sparse_conv_rulebook_bounds, "sparse_conv_rulebook_bounds",
         join_blocks(room(windows)), counts, stats, join.bounds, tiling);
  return join;
}

std::tuple<at::Tensor, at::Tensor> write_pairs(const Join& join, int64_t outputs, int64_t pairs) {
  const auto known = [&](Voxels voxels) {
    if (voxels.count < 0) voxels.count = outputs;
    return voxels;
  };
  const Voxels windows = known(join.windows), voxels = known(join.voxels);
  const at::Tensor to = at::zeros({pairs, 2}, windows.cells.options());
  if (pairs > 0)
    launch(aclrtlaunch_sparse_conv_rulebook_fill, "sparse_conv_rulebook_fill",
           join_blocks(windows.count), windows.cells, windows.rows, voxels.cells, voxels.rows,
           join.heads, join.bounds, to, make_tiling(windows, voxels, join.kernel));
  return {to, join.bounds.slice(0, 0, tile_count(windows.count))};
}

}  // namespace mxd::sparse_conv::npu::narrow
