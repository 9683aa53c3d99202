#include "cells.h"

#include <ATen/ops/clamp_min.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "launch.h"
#include "sort.h"
#include "sparse_conv_rulebook_tiling.h"
// The launch, which names the tiling.
#include "aclrtlaunch_sparse_conv_rulebook_cells.h"

namespace mxd::npu {

at::Tensor find_cells(const at::Tensor& rows, at::IntArrayRef limit, at::IntArrayRef step,
                      int64_t shift) {
  SparseConvCellsTiling tiling{};
  tiling.voxels = rows.size(0);
  tiling.columns = rows.size(1);
  tiling.shift = shift;
  std::copy_n(limit.begin(), tiling.columns, tiling.limit);
  std::copy_n(step.begin(), tiling.columns, tiling.step);
  const at::Tensor cells = at::empty({rows.size(0)}, rows.options());
  launch(aclrtlaunch_sparse_conv_rulebook_cells, "sparse_conv_rulebook_cells",
         blocks_for(rows.size(0), 64), rows, cells, tiling);
  return cells;
}

at::Tensor find_cell_words(const at::Tensor& rows, at::IntArrayRef sizes) {
  at::Tensor cell = at::zeros({rows.size(0)}, rows.options().dtype(at::kLong));
  for (size_t column = 0; column < sizes.size(); column++)
    cell = cell * sizes[column] + rows.select(1, column);
  return to_words(cell.clamp_min(0));
}

}  // namespace mxd::npu
