// Sparse convolution: schema and Meta kernels. The layout of pairs and bounds is told in
// sparse_conv.h.
#include "sparse_conv.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace mxd::sparse_conv {
namespace {

at::Tensor forward_meta(const at::Tensor& features, const at::Tensor& weight,
                        const c10::optional<at::Tensor>& bias, const at::Tensor& pairs,
                        const at::Tensor& bounds, c10::SymInt num_out, int64_t groups) {
  return at::empty_symint({num_out, weight.sym_size(2)}, features.options());
}

at::Tensor weight_grad_meta(const at::Tensor& features, const at::Tensor& grad,
                            const at::Tensor& pairs, const at::Tensor& bounds, int64_t groups) {
  return at::empty_symint({bounds.sym_size(1) - 1, features.sym_size(1) / groups, grad.sym_size(1)},
                          features.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  m.def(
      "sparse_conv_rulebook(Tensor indices, int batch_size, int[] spatial_shape, int[] "
      "kernel_size, "
      "int[] stride, int[] padding, int[] dilation, int[] output_padding, bool subm, "
      "bool transposed) -> (Tensor out_indices, Tensor pairs, Tensor bounds)");
  m.def(
      "sparse_conv_rulebook_transpose(Tensor pairs, Tensor bounds, SymInt num_in) -> (Tensor "
      "pairs, "
      "Tensor bounds)");
  m.def(
      "sparse_conv(Tensor features, Tensor weight, Tensor? bias, Tensor pairs, Tensor bounds, "
      "SymInt num_out, int groups) -> Tensor");
  m.def(
      "sparse_conv_weight_grad(Tensor features, Tensor grad, Tensor pairs, Tensor bounds, int "
      "groups) "
      "-> Tensor");
}

TORCH_LIBRARY_IMPL(mxd, Meta, m) {
  m.impl("sparse_conv", TORCH_FN(forward_meta));
  m.impl("sparse_conv_weight_grad", TORCH_FN(weight_grad_meta));
}

}  // namespace mxd::sparse_conv
