// Sum of sparse tensors with different voxels: argument checks.
#pragma once

#include <ATen/core/List.h>

#include "sparse_conv.h"

namespace mxd::sparse_add {

inline void check_union(at::TensorList indices, int64_t batch_size, at::IntArrayRef spatial_shape) {
  TORCH_CHECK_VALUE(!indices.empty(), "indices must have at least one tensor");
  check_grid_shape(c10::fromIntArrayRefSlow(spatial_shape), batch_size);
  for (const at::Tensor& tensor : indices) sparse_conv::check_indices(tensor, spatial_shape.size());
}

inline void check_sum(at::TensorList features, const at::Tensor& rows, c10::SymInt num_out) {
  TORCH_CHECK_VALUE(!features.empty(), "features must have at least one tensor");
  c10::SymInt count = 0;
  for (const at::Tensor& tensor : features) {
    check_float("features", tensor);
    TORCH_CHECK_VALUE(tensor.dim() == 2 && tensor.sym_size(1) == features[0].sym_size(1),
                      "features must have shape [voxels, channels] with the channels of the first, "
                      "was ",
                      tensor.sym_sizes(), " beside ", features[0].sym_sizes());
    check_same_dtype("features", tensor, "the first", features[0]);
    count = count + tensor.sym_size(0);
  }
  TORCH_CHECK_VALUE(rows.dim() == 1 && holds(rows.sym_size(0).sym_eq(count)),
                    "rows must have shape [", count, "], the rows of all features, was ",
                    rows.sym_sizes());
  check_int32("rows", rows);
  check_row_number("num_out", num_out);
}

}  // namespace mxd::sparse_add
