// Modulated deformable convolution on the NPU, the forward pass: lays out weight and bias and
// launches csrc/kernels/modulated_deform_conv.cpp.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <torch/library.h>

#include "../modulated_deform_conv.h"
#include "launch.h"
#include "modulated_deform_conv_layout.h"
// After their tiling.
#include "aclrtlaunch_modulated_deform_conv.h"

namespace mxd::modulated_deform_conv {
namespace {

// [out_channels, channels / groups, kernel height, kernel width] -> [groups, panels, points,
// group_blocks, panel, 32 B].
at::Tensor to_fractals(const at::Tensor& weight, const Channels& channels,
                       const ModulatedDeformConvTiling& t) {
  return to_rows(weight, channels, t)
      .reshape({t.groups, t.panels, t.panel, t.group_blocks, channels.block(), sizes::Points(t)})
      .permute({0, 1, 5, 3, 2, 4})
      .contiguous();
}

// The bias as the first column of a block of the contraction, and ones that it is multiplied by.
at::Tensor to_block(const at::Tensor& bias, const Channels& channels,
                    const ModulatedDeformConvTiling& t) {
  const auto column = pad(bias.reshape({t.groups, t.out_channels, 1}), 1, t.panels * t.panel);
  return at::cat({pad(column, 2, channels.block()).reshape({-1}),
                  at::ones({t.tile * channels.block()}, bias.options())});
}

at::Tensor forward_npu(const at::Tensor& input, const at::Tensor& offset,
                       const c10::optional<at::Tensor>& mask, const at::Tensor& weight,
                       const c10::optional<at::Tensor>& bias, at::IntArrayRef stride,
                       at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                       int64_t deform_groups) {
  const auto shape = check_forward(input, offset, mask, weight, bias, stride, padding, dilation,
                                   groups, deform_groups);
  const std::vector<int64_t> size = C10_AS_INTARRAYREF_SLOW(c10::SymIntArrayRef(shape)).vec();
  const at::IntArrayRef out_size = at::IntArrayRef(size).slice(2);
  check_npu(input, out_size);
  if (input.size(0) == 0) return at::empty(size, input.options());
  const Channels channels(input, groups, deform_groups);
  ModulatedDeformConvTiling t =
      make_tiling(input, weight, out_size, channels, stride, padding, dilation);
  t.has_mask = mask.has_value();
  t.has_bias = bias.has_value();
  const int64_t passes = ceil_div(t.groups, t.pass_groups) * ceil_div(t.panels, t.pass_panels);
  const auto fractals = to_fractals(weight, channels, t);
  const auto block = bias ? to_block(*bias, channels, t) : at::Tensor();
  const auto out = at::empty({size[0], size[1], t.out_stride}, input.options());
  const int64_t bytes = channels.element_size * (image_elements(t, channels) + out.stride(0)) +
                        (offset[0].nbytes() + (mask ? (*mask)[0].nbytes() : 0));
  for_each_chunk(size[0], bytes, [&](int64_t first, int64_t count) {
    t.batch = count;
    const int64_t blocks = std::min(npu::cube_cores(), count * sizes::Tiles(t) * passes);
    const auto ring =
        at::empty({blocks, sizes::kSlots, sizes::StepBytes(t)}, input.options().dtype(at::kByte));
    npu::launch(aclrtlaunch_modulated_deform_conv, "modulated_deform_conv", blocks,
                to_images(input.narrow(0, first, count), channels),
                offset.narrow(0, first, count).contiguous(),
                mask ? mask->narrow(0, first, count).contiguous() : at::Tensor(), fractals, block,
                ring, out.narrow(0, first, count), t);
  });
  return out.narrow(2, 0, sizes::Positions(t)).reshape(size);
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("modulated_deform_conv2d", TORCH_FN(forward_npu));
}

}  // namespace mxd::modulated_deform_conv
