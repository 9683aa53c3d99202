// The order of voxels by their cells. Kernels gather neighbours in runs of rows, which there are
// where voxels lie in order.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "../check.h"
#include "cells.h"
#include "sort.h"
#include "sort_tiling.h"

namespace mxd {
namespace {

// int32 [N]: the rows of indices int32 [N, columns] by the cells of a grid of `sizes`, the last
// column fastest. Rows that are outside come anywhere. Nothing here waits for the device.
at::Tensor voxel_order(const at::Tensor& indices, at::IntArrayRef sizes) {
  check_int32("indices", indices);
  TORCH_CHECK_VALUE(indices.dim() == 2 && indices.size(1) == static_cast<int64_t>(sizes.size()),
                    "indices must be rows of ", sizes.size(), " numbers, had shape ",
                    indices.sizes());
  const int64_t count = indices.size(0);
  if (count == 0) return at::empty({0}, indices.options());
  std::vector<int64_t> step(sizes.size());
  int64_t cells = 1;
  bool overflow = false;
  for (size_t column = sizes.size(); column-- > 0;) {
    step[column] = cells;
    overflow |= __builtin_mul_overflow(cells, sizes[column], &cells);
  }
  TORCH_CHECK_VALUE(!overflow, "sizes must be of fewer than 2**63 cells, were ", sizes);
  const at::Tensor rows = indices.contiguous();
  return cells <= kernels::kSortMaxKey
             ? npu::sort_keys(npu::find_cells(rows, sizes, step)).rows
             : npu::sort_words(npu::find_cell_words(rows, sizes), count).rows;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) { m.def("_voxel_order(Tensor indices, int[] sizes) -> Tensor"); }
TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) { m.impl("_voxel_order", TORCH_FN(voxel_order)); }

}  // namespace mxd
