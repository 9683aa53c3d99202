// Error texts for voxels that are outside of their grid or there twice, the same on every backend.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace mxd {

// Says which of the batch index and the coordinates of a row is not allowed.
[[noreturn]] inline void fail_out_of_range(const int32_t* row, int64_t position, int64_t batch_size,
                                           at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(row[0] >= 0 && row[0] < batch_size, "indices[", position,
                    "] has the batch index ", row[0], "; allowed are 0 to ", batch_size - 1,
                    " (batch_size ", batch_size, ")");
  TORCH_CHECK_VALUE(false, "indices[", position, "] is ",
                    at::ArrayRef<int32_t>(row, shape.size() + 1),
                    " (batch, then coordinates), outside of spatial_shape ", shape);
}

// Says which rows name the same voxel. `where` may name their tensor.
[[noreturn]] inline void fail_twins(const int32_t* row, int64_t width, int64_t first,
                                    int64_t second, const std::string& where = "") {
  TORCH_CHECK_VALUE(false, "indices must name each voxel once, but rows ", first, " and ", second,
                    where, " are both ", at::ArrayRef<int32_t>(row, width));
}

// Finds the first voxel outside of the grid, else the first pair of equal voxels, and refuses it.
// A backend calls it when it knows that there is a bad voxel but not which one: it copies all
// voxels to the CPU and sorts them.
inline void check_voxels(const at::Tensor& indices, int64_t batch_size, at::IntArrayRef shape) {
  const at::Tensor rows = indices.cpu().contiguous();
  const int64_t count = rows.size(0), width = shape.size() + 1;
  const int32_t* data = rows.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < count; i++) {
    const int32_t* row = data + i * width;
    bool inside = row[0] >= 0 && row[0] < batch_size;
    for (int64_t d = 1; d < width; d++) inside &= row[d] >= 0 && row[d] < shape[d - 1];
    if (!inside) fail_out_of_range(row, i, batch_size, shape);
  }
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  const auto less = [&](int64_t a, int64_t b) {
    return std::lexicographical_compare(data + a * width, data + (a + 1) * width, data + b * width,
                                        data + (b + 1) * width);
  };
  std::stable_sort(order.begin(), order.end(), less);
  for (int64_t i = 1; i < count; i++)
    if (!less(order[i - 1], order[i]))
      fail_twins(data + order[i] * width, width, order[i - 1], order[i]);
}

}  // namespace mxd
