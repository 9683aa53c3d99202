// Sparse max pooling over a rulebook (sparse_conv.h): argument checks.
#pragma once

#include "sparse_conv.h"

namespace mxd::sparse_pool {

inline void check_forward(const at::Tensor& features, const at::Tensor& pairs,
                          const at::Tensor& bounds, int64_t num_out) {
  check_float("features", features);
  TORCH_CHECK_VALUE(features.dim() == 2, "features must have shape [voxels, channels], was ",
                    features.sizes());
  TORCH_CHECK_VALUE(num_out >= 0, "num_out must be at least 0, was ", num_out);
  sparse_conv::check_rulebook(pairs, bounds);
}

inline void check_backward(const at::Tensor& grad, const at::Tensor& argmax,
                           const at::Tensor& pairs, const at::Tensor& bounds, int64_t num_in) {
  check_float("grad", grad);
  TORCH_CHECK_VALUE(grad.dim() == 2, "grad must have shape [output voxels, channels], was ",
                    grad.sizes());
  TORCH_CHECK_VALUE(argmax.sizes() == grad.sizes(), "argmax must have the shape of grad, ",
                    grad.sizes(), ", was ", argmax.sizes());
  TORCH_CHECK_TYPE(argmax.scalar_type() == at::kInt, "argmax must be int32, was ",
                   argmax.scalar_type());
  TORCH_CHECK_VALUE(num_in >= 0, "num_in must be at least 0, was ", num_in);
  sparse_conv::check_rulebook(pairs, bounds);
}

}  // namespace mxd::sparse_pool
