// Modulated deformable convolution: schema and Meta kernels.
#include "modulated_deform_conv.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>

namespace mxd::modulated_deform_conv {
namespace {

at::Tensor forward_meta(const at::Tensor& input, const at::Tensor& offset,
                        const c10::optional<at::Tensor>& mask, const at::Tensor& weight,
                        const c10::optional<at::Tensor>& bias, at::IntArrayRef stride,
                        at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                        int64_t deform_groups) {
  const auto out = check_forward(input, offset, mask, weight, bias, stride, padding, dilation,
                                 groups, deform_groups);
  return at::empty_symint(out, input.options());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> backward_meta(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& offset,
    const c10::optional<at::Tensor>& mask, const at::Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, int64_t deform_groups,
    bool of_data, bool of_parameters) {
  check_backward(grad, input, offset, mask, weight, stride, padding, dilation, groups,
                 deform_groups, of_data, of_parameters);
  auto empty = [&](c10::SymIntArrayRef shape, bool wanted) {
    return at::empty_symint(wanted ? shape : c10::SymIntArrayRef({c10::SymInt(0)}),
                            input.options());
  };
  return {empty(input.sym_sizes(), of_data), empty(offset.sym_sizes(), of_data),
          empty(mask ? mask->sym_sizes() : offset.sym_sizes(), of_data && mask),
          empty(weight.sym_sizes(), of_parameters),
          empty(weight.sym_sizes().slice(0, 1), of_parameters)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  define(
      m,
      "modulated_deform_conv2d(Tensor input, Tensor offset, Tensor? mask, Tensor weight, Tensor? "
      "bias, int[2] stride, int[2] padding, int[2] dilation, int groups, int deform_groups) -> "
      "Tensor",
      [](const at::Tensor& input, const at::Tensor& offset, const c10::optional<at::Tensor>& mask,
         const at::Tensor& weight, const c10::optional<at::Tensor>& bias, at::IntArrayRef stride,
         at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, int64_t deform_groups) {
        check_forward(input, offset, mask, weight, bias, stride, padding, dilation, groups,
                      deform_groups);
      },
      forward_meta);
  // Gradients of input, offset and mask where of_data, of weight and bias where of_parameters; the
  // others are empty, of shape [0].
  define(m,
         "modulated_deform_conv2d_backward(Tensor grad, Tensor input, Tensor offset, Tensor? mask, "
         "Tensor weight, int[2] stride, int[2] padding, int[2] dilation, int groups, int "
         "deform_groups, bool of_data, bool of_parameters) -> (Tensor, Tensor, Tensor, Tensor, "
         "Tensor)",
         check_backward, backward_meta);
}

}  // namespace mxd::modulated_deform_conv
