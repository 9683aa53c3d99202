// Modulated deformable convolution (DCN v2; without a mask, DCN v1): the argument checks that every
// backend shares.
//
// Output (oh, ow) and kernel point (i, j) meet the input at
//   y = oh * stride - padding + i * dilation + offset[2k], x likewise with offset[2k + 1],
// k = i * kernel width + j, by bilinear interpolation in an image that is zero outside of itself.
// Input channel c uses the offsets and the mask of deform group c / (channels / deform_groups).
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <c10/util/Exception.h>
#include <c10/util/Optional.h>  // std::optional since PyTorch 2.3, its own before

#include <array>

#include "check.h"

namespace mxd::modulated_deform_conv {

inline void check_shape(const char* name, const at::Tensor& tensor, const char* meaning,
                        c10::SymIntArrayRef shape) {
  TORCH_CHECK_VALUE(tensor.sym_sizes() == shape, name, " must have shape ", shape, " ", meaning,
                    ", was ", tensor.sym_sizes());
}

inline void check_pair(const char* name, at::IntArrayRef values, int64_t least) {
  TORCH_CHECK_VALUE(values.size() == 2 && values[0] >= least && values[1] >= least, name,
                    " must be one or two numbers of at least ", least, ", was ", values);
}

// Checks every argument and gives the shape of the output, [N, out_channels, out_h, out_w].
inline std::array<c10::SymInt, 4> check_forward(
    const at::Tensor& input, const at::Tensor& offset, const c10::optional<at::Tensor>& mask,
    const at::Tensor& weight, const c10::optional<at::Tensor>& bias, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, int64_t deform_groups) {
  check_float("input", input);
  check_dim("input", input, 4, "[N, channels, height, width]");
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.sym_numel() > 0,
                    "weight must have shape [out_channels, channels / groups, kernel height, "
                    "kernel width], none of them 0, was ",
                    weight.sym_sizes());
  check_same_dtype("weight", weight, "input", input);
  check_pair("stride", stride, 1);
  check_pair("padding", padding, 0);
  check_pair("dilation", dilation, 1);
  TORCH_CHECK_VALUE(groups >= 1 && weight.sym_size(0) % groups == 0,
                    "groups must be at least 1 and divide the out_channels of weight, ",
                    weight.sym_size(0), ", was ", groups);
  TORCH_CHECK_VALUE(weight.sym_size(1) * groups == input.sym_size(1), "input must have ",
                    weight.sym_size(1) * groups, " channels (channels / groups of weight times ",
                    groups, " groups), was ", input.sym_sizes());
  TORCH_CHECK_VALUE(deform_groups >= 1 && input.sym_size(1) % deform_groups == 0,
                    "deform_groups must be at least 1 and divide the channels of input, ",
                    input.sym_size(1), ", was ", deform_groups);
  std::array<c10::SymInt, 4> out{input.sym_size(0), weight.sym_size(0), 0, 0};
  for (int d = 0; d < 2; d++) {
    const c10::SymInt reach = (weight.sym_size(2 + d) - 1) * dilation[d] + 1;
    const c10::SymInt slack = input.sym_size(2 + d) + 2 * padding[d] - reach;
    TORCH_CHECK_VALUE(input.sym_size(2 + d) >= 1 && slack >= 0, "input of ", input.sym_size(2 + d),
                      d ? " columns" : " rows", " is too small for a kernel that spans ", reach,
                      " with padding ", padding[d]);
    out[2 + d] = slack / stride[d] + 1;
  }
  const c10::SymInt samples = weight.sym_size(2) * weight.sym_size(3) * deform_groups;
  check_shape("offset", offset, "(N, deform_groups * kernel points * 2, output height and width)",
              {out[0], samples * 2, out[2], out[3]});
  check_same_dtype("offset", offset, "input", input);
  if (mask) {
    check_shape("mask", *mask, "(N, deform_groups * kernel points, output height and width)",
                {out[0], samples, out[2], out[3]});
    check_same_dtype("mask", *mask, "input", input);
  }
  if (bias) {
    check_shape("bias", *bias, "(out_channels)", {out[1]});
    check_same_dtype("bias", *bias, "input", input);
  }
  return out;
}

inline void check_backward(const at::Tensor& grad, const at::Tensor& input,
                           const at::Tensor& offset, const c10::optional<at::Tensor>& mask,
                           const at::Tensor& weight, at::IntArrayRef stride,
                           at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                           int64_t deform_groups, bool /*of_data*/, bool /*of_parameters*/) {
  const auto out = check_forward(input, offset, mask, weight, c10::nullopt, stride, padding,
                                 dilation, groups, deform_groups);
  check_shape("grad", grad, "(that of the output)", out);
  check_same_dtype("grad", grad, "input", input);
}

}  // namespace mxd::modulated_deform_conv
