// Sum of sparse tensors with different voxels: argument checks.
#pragma once

#include <ATen/core/List.h>

#include "sparse_conv.h"

namespace mxd::sparse_add {

inline void check_union(at::TensorList indices, int64_t batch_size, at::IntArrayRef spatial_shape) {
  TORCH_CHECK_VALUE(!indices.empty(), "indices must have at least one tensor");
  TORCH_CHECK_VALUE(
      !spatial_shape.empty() && std::all_of(spatial_shape.begin(), spatial_shape.end(),
                                            [](int64_t size) { return size >= 1; }),
      "spatial_shape must have at least 1 in every dimension, was ", spatial_shape);
  TORCH_CHECK_VALUE(batch_size >= 0, "batch_size must be at least 0, was ", batch_size);
  for (const at::Tensor& tensor : indices)
    sparse_conv::check_indices(tensor, static_cast<int>(spatial_shape.size()));
}

inline void check_sum(at::TensorList features, const at::Tensor& rows, int64_t num_out) {
  TORCH_CHECK_VALUE(!features.empty(), "features must have at least one tensor");
  int64_t count = 0;
  for (const at::Tensor& tensor : features) {
    check_float("features", tensor);
    TORCH_CHECK_VALUE(tensor.dim() == 2 && tensor.size(1) == features[0].size(1),
                      "features must have shape [voxels, channels] with the channels of the first, "
                      "was ",
                      tensor.sizes(), " beside ", features[0].sizes());
    TORCH_CHECK_TYPE(tensor.scalar_type() == features[0].scalar_type(),
                     "features must have the dtype of the first, ", features[0].scalar_type(),
                     ", was ", tensor.scalar_type());
    count += tensor.size(0);
  }
  TORCH_CHECK_VALUE(rows.dim() == 1 && rows.size(0) == count, "rows must have shape [", count,
                    "], the rows of all features, was ", rows.sizes());
  TORCH_CHECK_TYPE(rows.scalar_type() == at::kInt, "rows must be int32, was ", rows.scalar_type());
  TORCH_CHECK_VALUE(num_out >= 0, "num_out must be at least 0, was ", num_out);
}

}  // namespace mxd::sparse_add
