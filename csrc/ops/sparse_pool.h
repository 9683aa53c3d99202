// Sparse max pooling over a rulebook (sparse_conv.h): argument checks.
#pragma once

#include "sparse_conv.h"

namespace mxd::sparse_pool {

inline void check_forward(const at::Tensor& features, const at::Tensor& pairs,
                          const at::Tensor& bounds, c10::SymInt num_out) {
  sparse_conv::check_features(features);
  check_row_number("num_out", num_out);
  sparse_conv::check_rulebook(pairs, bounds);
}

inline void check_backward(const at::Tensor& grad, const at::Tensor& argmax,
                           const at::Tensor& pairs, const at::Tensor& bounds, c10::SymInt num_in) {
  check_float("grad", grad);
  check_dim("grad", grad, 2, "[output voxels, channels]");
  TORCH_CHECK_VALUE(argmax.dim() == 2 && holds(argmax.sym_size(0).sym_eq(grad.sym_size(0))) &&
                        argmax.sym_size(1) == grad.sym_size(1),
                    "argmax must have the shape of grad, ", grad.sym_sizes(), ", was ",
                    argmax.sym_sizes());
  check_int32("argmax", argmax);
  sparse_conv::check_transpose(pairs, bounds, num_in);
}

}  // namespace mxd::sparse_pool
