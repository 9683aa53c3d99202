// The rulebook of grids whose cells int32 can number, by the kernels of
// csrc/kernels/sparse_conv_rulebook.cpp and sparse_conv_rulebook_cells.cpp.
#include <algorithm>

#include "launch.h"
#include "sparse_conv_rulebook.h"
#include "sparse_conv_rulebook_tiling.h"
// The launches, which name the tilings.
#include "aclrtlaunch_sparse_conv_rulebook_cells.h"
#include "aclrtlaunch_sparse_conv_rulebook_count.h"
#include "aclrtlaunch_sparse_conv_rulebook_decode.h"
#include "aclrtlaunch_sparse_conv_rulebook_fill.h"
#include "aclrtlaunch_sparse_conv_rulebook_reach.h"

namespace mxd::sparse_conv::npu {
namespace {

using mxd::kernels::kRulebookHeads;
using mxd::kernels::kRulebookNone;
using mxd::npu::launch;
using mxd::npu::vector_cores;

float a_little_less_than_inverse(int64_t divisor) {
  return static_cast<float>((1 - 0x1p-21) / static_cast<double>(divisor));
}

// Blocks for elementwise work on `count` voxels: at least 64 a block.
int64_t blocks_for(int64_t count) {
  return std::clamp<int64_t>((count + 63) / 64, 1, vector_cores());
}

at::Tensor cells(const at::Tensor& indices, const Geometry& g, const Numbering& numbering) {
  SparseConvCellsTiling tiling{};
  tiling.voxels = indices.size(0);
  tiling.columns = g.ndim + 1;
  tiling.shift = numbering.shift;
  for (int column = 0; column <= g.ndim; column++) {
    tiling.limit[column] = column == 0 ? g.batch_size : g.in_shape[column - 1];
    tiling.step[column] = numbering.step[column];
  }
  at::Tensor cells = at::empty({indices.size(0)}, indices.options());
  launch(aclrtlaunch_sparse_conv_rulebook_cells, "sparse_conv_rulebook_cells",
         blocks_for(tiling.voxels), indices, cells, tiling);
  return cells;
}

at::Tensor reached(const at::Tensor& indices, const Geometry& g, const KeySteps& steps) {
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
    tiling.inverse[d] = a_little_less_than_inverse(g.stride[d]);
    tiling.slots[d] = g.transposed || g.dilation[d] > 1
                          ? g.kernel[d]
                          : (g.kernel[d] + g.stride[d] - 1) / g.stride[d];
    slots *= tiling.slots[d];
  }
  at::Tensor cells = at::empty({slots * tiling.pitch + 1}, indices.options());
  cells.slice(0, -1).fill_(kRulebookNone);
  launch(aclrtlaunch_sparse_conv_rulebook_reach, "sparse_conv_rulebook_reach",
         blocks_for(tiling.voxels), indices, cells, tiling);
  // kRulebookNone is the largest value, and the cell that was added above makes sure that it is
  // there: it is left out.
  return std::get<0>(at::_unique2(cells, /*sorted=*/true)).slice(0, 0, -1).contiguous();
}

std::tuple<at::Tensor, at::Tensor> decode(const at::Tensor& cells, const Geometry& g,
                                          const KeySteps& steps, const Numbering& numbering) {
  SparseConvDecodeTiling tiling{};
  tiling.cells = cells.size(0);
  tiling.columns = g.ndim + 1;
  tiling.inverse_columns = a_little_less_than_inverse(tiling.columns);
  tiling.shift = numbering.shift;
  for (int column = 0; column <= g.ndim; column++) {
    tiling.divisor[column] = column == 0 ? steps.batch_step : steps.step[column - 1];
    tiling.inverse[column] = a_little_less_than_inverse(tiling.divisor[column]);
    tiling.step[column] = numbering.step[column];
  }
  at::Tensor indices = at::empty({cells.size(0), g.ndim + 1}, cells.options());
  at::Tensor others = at::empty_like(cells);
  launch(aclrtlaunch_sparse_conv_rulebook_decode, "sparse_conv_rulebook_decode",
         blocks_for(tiling.cells), cells, indices, others, tiling);
  return {indices, others};
}

std::tuple<at::Tensor, at::Tensor> join(const Voxels& windows, const Voxels& voxels,
                                        const KernelRows& kernel) {
  const int64_t tiles = tile_count(windows.cells.size(0)), volume = kernel.rows * kernel.run;
  SparseConvJoinTiling tiling{};
  tiling.windows = windows.cells.size(0);
  tiling.voxels = voxels.cells.size(0);
  tiling.head_distance =
      std::max<int64_t>(64, (voxels.cells.size(0) + kRulebookHeads - 1) / kRulebookHeads);
  const at::Tensor heads = voxels.cells.slice(0, 0, {}, tiling.head_distance).contiguous();
  tiling.heads = heads.size(0);
  tiling.rows = kernel.rows;
  tiling.run = kernel.run;
  tiling.dims = kernel.dims;
  tiling.shift = kernel.shift;
  std::copy(kernel.kernel.begin(), kernel.kernel.end(), tiling.kernel);
  std::copy(kernel.step.begin(), kernel.step.end(), tiling.step);

  const int64_t blocks = std::min(tiles, vector_cores());
  const at::Tensor counts = at::zeros({tiles, kernel.run, kernel.rows}, voxels.rows.options());
  launch(aclrtlaunch_sparse_conv_rulebook_count, "sparse_conv_rulebook_count", blocks,
         windows.cells, voxels.cells, heads, counts, tiling);
  const at::Tensor sizes = counts.transpose(1, 2).reshape({tiles, volume});
  const at::Tensor bounds =
      at::constant_pad_nd(sizes, {1, 0}).flatten().cumsum(0, at::kLong).view({tiles, volume + 1});
  const at::Tensor pairs =
      at::zeros({bounds.view(-1).select(0, -1).item<int64_t>(), 2}, voxels.rows.options());
  if (pairs.size(0) > 0)
    launch(aclrtlaunch_sparse_conv_rulebook_fill, "sparse_conv_rulebook_fill", blocks,
           windows.cells, windows.rows, voxels.cells, voxels.rows, heads, bounds, pairs, tiling);
  return {pairs, bounds};
}

}  // namespace

const Path narrow{cells, reached, decode, join};

}  // namespace mxd::sparse_conv::npu
