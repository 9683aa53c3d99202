// Sparse voxels to a dense grid and back: argument checks.
#pragma once

#include "sparse_conv.h"

namespace mxd::sparse_dense {

inline void check_to_dense(const at::Tensor& features, const at::Tensor& indices,
                           int64_t batch_size, at::IntArrayRef spatial_shape) {
  TORCH_CHECK_VALUE(features.dim() == 2, "features must have shape [voxels, channels], was ",
                    features.sizes());
  TORCH_CHECK_VALUE(
      !spatial_shape.empty() && std::all_of(spatial_shape.begin(), spatial_shape.end(),
                                            [](int64_t size) { return size >= 1; }),
      "spatial_shape must have at least 1 in every dimension, was ", spatial_shape);
  TORCH_CHECK_VALUE(batch_size >= 0, "batch_size must be at least 0, was ", batch_size);
  sparse_conv::check_indices(indices, static_cast<int>(spatial_shape.size()));
  TORCH_CHECK_VALUE(indices.size(0) == features.size(0), "indices must have a row for each of the ",
                    features.size(0), " features, was ", indices.sizes());
}

inline void check_from_dense(const at::Tensor& dense, const at::Tensor& indices) {
  TORCH_CHECK_VALUE(dense.dim() >= 3,
                    "dense must have a batch, a channel and spatial dimensions, "
                    "was ",
                    dense.sizes());
  sparse_conv::check_indices(indices, static_cast<int>(dense.dim() - 2));
}

}  // namespace mxd::sparse_dense
