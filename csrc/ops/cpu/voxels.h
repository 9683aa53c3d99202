// Voxels as numbers on the CPU: the row-major cell number of (batch index, coordinates) and back.
#pragma once

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "../voxel_check.h"
#include "parallel.h"

namespace mxd::cpu {

// Cells of the whole grid, which must be countable in an int64.
inline int64_t cell_count(int64_t batch_size, at::IntArrayRef shape) {
  int64_t cells = batch_size;
  bool overflow = false;
  for (const int64_t size : shape) overflow |= __builtin_mul_overflow(cells, size, &cells);
  TORCH_CHECK_VALUE(!overflow, "spatial_shape times batch_size must stay below 2**63 cells, was ",
                    shape, " times ", batch_size);
  return cells;
}

// Writes the cell number of each of `count` rows of indices to `cells`.
template <typename Cell>
void number_cells(const int32_t* indices, int64_t count, int64_t batch_size, at::IntArrayRef shape,
                  Cell* cells) {
  const int64_t parts = at::get_num_threads(), ndim = shape.size();
  std::vector<int64_t> first_bad(parts, count);
  for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int32_t* row = indices + i * (ndim + 1);
      bool inside = row[0] >= 0 && row[0] < batch_size;
      int64_t cell = row[0];
      for (int64_t d = 0; d < ndim; d++) {
        inside &= row[1 + d] >= 0 && row[1 + d] < shape[d];
        cell = cell * shape[d] + row[1 + d];
      }
      if (!inside) {
        first_bad[part] = i;
        break;
      }
      cells[i] = cell;
    }
  });
  const int64_t bad = *std::min_element(first_bad.begin(), first_bad.end());
  if (bad < count) fail_out_of_range(indices + bad * (ndim + 1), bad, batch_size, shape);
}

}  // namespace mxd::cpu
