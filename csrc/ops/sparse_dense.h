// Sparse voxels to a dense grid and back: argument checks.
#pragma once

#include "sparse_conv.h"

namespace mxd::sparse_dense {

inline void check_to_dense(const at::Tensor& features, const at::Tensor& indices,
                           c10::SymInt batch_size, c10::SymIntArrayRef spatial_shape,
                           bool /*channels_first*/) {
  check_dim("features", features, 2, "[voxels, channels]");
  check_grid_shape(spatial_shape, batch_size);
  sparse_conv::check_indices(indices, spatial_shape.size());
  TORCH_CHECK_VALUE(holds(indices.sym_size(0).sym_eq(features.sym_size(0))),
                    "indices must have a row for each of the ", features.sym_size(0),
                    " features, was ", indices.sym_sizes());
}

inline void check_from_dense(const at::Tensor& dense, const at::Tensor& indices,
                             bool /*channels_first*/) {
  TORCH_CHECK_VALUE(dense.dim() >= 3,
                    "dense must have a batch, a channel and spatial dimensions, was ",
                    dense.sym_sizes());
  sparse_conv::check_indices(indices, dense.dim() - 2);
}

}  // namespace mxd::sparse_dense
