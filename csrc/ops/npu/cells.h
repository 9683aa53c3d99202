// Cells of a grid as numbers on the vector cores.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mxd::npu {

// The cells of rows int32 [N, columns], N at least 1: shift plus the sum of step times column. -1
// where a column is below 0 or not below its limit. Nothing here waits for the device.
at::Tensor find_cells(const at::Tensor& rows, at::IntArrayRef limit, at::IntArrayRef step,
                      int64_t shift = 0);

// The same of any grid of fewer than 2**63 cells, as words for `sort_words`: of rows int32 [N,
// columns] in a grid of `sizes`. Cells of rows that are outside say nothing.
at::Tensor find_cell_words(const at::Tensor& rows, at::IntArrayRef sizes);

}  // namespace mxd::npu
