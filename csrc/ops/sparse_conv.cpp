// Sparse convolution: schema and Meta kernels. The layout of pairs and bounds is told in
// sparse_conv.h.
#include "sparse_conv.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "voxel_check.h"

namespace mxd::sparse_conv {
namespace {

// Geometry and key steps are made for the checks in them; kernels also compute with them.
void check_rulebook_input(const at::Tensor& indices, int64_t batch_size,
                          at::IntArrayRef spatial_shape, at::IntArrayRef kernel_size,
                          at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                          at::IntArrayRef output_padding, bool subm, bool transposed) {
  const Geometry g = make_geometry(batch_size, spatial_shape, kernel_size, stride, padding,
                                   dilation, output_padding, subm, transposed);
  check_indices(indices, g.ndim);
  transposed ? window_steps(g.out_shape, g.in_shape, g) : window_steps(g.in_shape, g.out_shape, g);
}

void check_transpose_input(const at::Tensor& pairs, const at::Tensor& bounds, c10::SymInt num_in,
                           bool /*trusted*/) {
  check_transpose(pairs, bounds, num_in);
}

at::Tensor forward_meta(const at::Tensor& features, const at::Tensor& weight,
                        const c10::optional<at::Tensor>& bias, const at::Tensor& pairs,
                        const at::Tensor& bounds, c10::SymInt num_out, int64_t groups,
                        const c10::optional<at::Tensor>& plan) {
  check_forward(features, weight, bias, pairs, bounds, num_out, groups, plan);
  return at::empty_symint({num_out, weight.sym_size(2)}, features.options());
}

// Where only shapes are known there is no plan.
at::Tensor plan_meta(const at::Tensor& features, const at::Tensor& weight, const at::Tensor& pairs,
                     const at::Tensor& bounds, c10::SymInt num_out, int64_t groups, bool in_order) {
  check_plan(features, weight, pairs, bounds, num_out, groups, in_order);
  return at::empty({0}, pairs.options());
}

at::Tensor weight_grad_meta(const at::Tensor& features, const at::Tensor& grad,
                            const at::Tensor& pairs, const at::Tensor& bounds, int64_t groups,
                            const c10::optional<at::Tensor>& plan) {
  check_weight_grad(features, grad, pairs, bounds, groups, plan);
  return at::empty_symint({bounds.sym_size(1) - 1, features.sym_size(1) / groups, grad.sym_size(1)},
                          features.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  define(m,
         "sparse_conv_rulebook(Tensor indices, int batch_size, int[] spatial_shape, int[] "
         "kernel_size, int[] stride, int[] padding, int[] dilation, int[] output_padding, bool "
         "subm, bool transposed) -> (Tensor out_indices, Tensor pairs, Tensor bounds)",
         check_rulebook_input);
  // trusted: the pairs are those of a rulebook. Where a check of them would wait for the device,
  // they are not checked.
  define(m,
         "sparse_conv_rulebook_transpose(Tensor pairs, Tensor bounds, SymInt num_in, bool "
         "trusted=False) -> (Tensor pairs, Tensor bounds)",
         check_transpose_input);
  // What a convolution of such features and such a weight may be handed as its plan, int32: of a
  // submanifold convolution's rulebook, and of any that shares it. Empty where a plan is of no use.
  // in_order: its voxels are in the order of their cells. To find out would be to wait for the
  // device.
  define(m,
         "sparse_conv_plan(Tensor features, Tensor weight, Tensor pairs, Tensor bounds, SymInt "
         "num_out, int groups, bool in_order=False) -> Tensor",
         check_plan, plan_meta);
  define(m,
         "sparse_conv(Tensor features, Tensor weight, Tensor? bias, Tensor pairs, Tensor bounds, "
         "SymInt num_out, int groups, Tensor? plan=None) -> Tensor",
         check_forward, forward_meta);
  define(m,
         "sparse_conv_weight_grad(Tensor features, Tensor grad, Tensor pairs, Tensor bounds, int "
         "groups, Tensor? plan=None) -> Tensor",
         check_weight_grad, weight_grad_meta);
  // Plain PyTorch forms call it when a voxel is outside or there twice: it says which.
  m.def("_check_voxels(Tensor indices, int batch_size, int[] spatial_shape) -> ()", check_voxels);
}

}  // namespace mxd::sparse_conv
