// Sparse max pooling: schema and Meta kernels.
#include "sparse_pool.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace mxd::sparse_pool {
namespace {

std::tuple<at::Tensor, at::Tensor> forward_meta(const at::Tensor& features, const at::Tensor& pairs,
                                                const at::Tensor& bounds, c10::SymInt num_out) {
  check_forward(features, pairs, bounds, num_out);
  const c10::SymInt sizes[] = {num_out, features.sym_size(1)};
  return {at::empty_symint(sizes, features.options()),
          at::empty_symint(sizes, features.options().dtype(at::kInt))};
}

at::Tensor backward_meta(const at::Tensor& grad, const at::Tensor& argmax, const at::Tensor& pairs,
                         const at::Tensor& bounds, c10::SymInt num_in) {
  check_backward(grad, argmax, pairs, bounds, num_in);
  return at::empty_symint({num_in, grad.sym_size(1)}, grad.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  define(m,
         "sparse_max_pool(Tensor features, Tensor pairs, Tensor bounds, SymInt num_out) -> (Tensor "
         "out, Tensor argmax)",
         check_forward, forward_meta);
  // pairs and bounds are the forward's with input and output exchanged.
  define(m,
         "sparse_max_pool_backward(Tensor grad, Tensor argmax, Tensor pairs, Tensor bounds, SymInt "
         "num_in) -> Tensor",
         check_backward, backward_meta);
}

}  // namespace mxd::sparse_pool
