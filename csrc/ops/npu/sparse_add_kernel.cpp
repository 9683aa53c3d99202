// Sum of sparse tensors on the NPU: all voxels sorted by their cells, and sums by segment.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <limits>

#include "../sparse_add.h"
#include "../voxel_check.h"
#include "cells.h"
#include "segment_reduce.h"
#include "sort.h"

namespace mxd::sparse_add {
namespace {

// Which of the tensors, one behind the other, a row is of.
at::Tensor tensor_of(const at::Tensor& rows, at::TensorList tensors) {
  at::Tensor number = at::zeros_like(rows);
  int64_t begin = 0;
  for (const at::Tensor& tensor : tensors.slice(0, tensors.size() - 1)) {
    begin += tensor.size(0);
    number = number + rows.ge(begin).to(at::kInt);
  }
  return number;
}

// The device is waited for once: for the number of voxels, and whether there is a wrong one.
std::tuple<at::Tensor, at::Tensor> union_npu(at::TensorList indices, int64_t batch_size,
                                             at::IntArrayRef spatial_shape) {
  check_union(indices, batch_size, spatial_shape);
  const at::Tensor voxels = at::cat(indices).contiguous();
  const int64_t count = voxels.size(0);
  TORCH_CHECK_VALUE(count < std::numeric_limits<int32_t>::max(),
                    "indices must have fewer than 2**31 - 1 rows together, had ", count);
  std::vector<int64_t> sizes{batch_size};
  sizes.insert(sizes.end(), spatial_shape.begin(), spatial_shape.end());
  int64_t cells = 1;
  bool overflow = false;
  for (const int64_t size : sizes) overflow |= __builtin_mul_overflow(cells, size, &cells);
  TORCH_CHECK_VALUE(!overflow, "spatial_shape times batch_size must stay below 2**63 cells, were ",
                    spatial_shape, " and ", batch_size);
  if (count == 0) return {voxels, at::empty({0}, voxels.options())};

  const npu::Sorted sorted = npu::sort_words(npu::find_cell_words(voxels, sizes), count);
  const at::Tensor total = at::zeros({1}, voxels.options());
  const npu::Unique unique = npu::unique_keys(sorted.keys, count, total, /*begins=*/true);
  const at::Tensor number = npu::number_keys(sorted.keys, count);
  const at::Tensor tensor = tensor_of(sorted.rows, indices);
  const at::Tensor twins = number.slice(0, 1)
                               .eq(number.slice(0, 0, -1))
                               .logical_and(tensor.slice(0, 1).eq(tensor.slice(0, 0, -1)))
                               .any();
  at::Tensor bad = voxels.lt(0).any().logical_or(twins);
  for (size_t column = 0; column < sizes.size(); column++)
    bad = bad.logical_or(voxels.select(1, column).ge(sizes[column]).any());
  const at::Tensor known = at::cat({total, bad.to(at::kInt).view(1)}).cpu();
  const auto* numbers = known.const_data_ptr<int32_t>();
  if (numbers[1])  // only then are the voxels copied to the host, to say which one is wrong
    for (const at::Tensor& tensor : indices) check_voxels(tensor, batch_size, spatial_shape);
  const at::Tensor first = npu::take_rows(sorted.rows, unique.begins.slice(0, 0, numbers[0]));
  return {npu::take_rows(voxels, first), npu::sort_keys(sorted.rows, number).rows};
}

at::Tensor sum_npu(at::TensorList features, const at::Tensor& rows, int64_t num_out) {
  check_sum(features, rows, num_out);
  const npu::Sorted sorted = npu::sort_keys(rows.contiguous());
  return npu::segment_sum(at::cat(features), sorted.rows,
                          npu::segment_begins(sorted.keys, num_out));
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("sparse_union", TORCH_FN(union_npu));
  m.impl("sparse_sum", TORCH_FN(sum_npu));
}

}  // namespace mxd::sparse_add
