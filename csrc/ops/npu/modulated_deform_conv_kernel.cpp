// Modulated deformable convolution on the NPU: lays out images and weight and launches
// csrc/kernels/modulated_deform_conv.cpp.
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <numeric>

#include "../modulated_deform_conv.h"
#include "launch.h"
#include "modulated_deform_conv_tiling.h"
// After their tiling.
#include "aclrtlaunch_modulated_deform_conv_bfloat16.h"
#include "aclrtlaunch_modulated_deform_conv_float.h"
#include "aclrtlaunch_modulated_deform_conv_half.h"

namespace mxd::modulated_deform_conv {
namespace {

namespace sizes = kernels::modulated_deform_conv;
using kernels::kBlockBytes;
using kernels::kFractalRows;
using kernels::kMatrixRows;

constexpr int64_t kMaxSide = 1 << 20;  // pixels that fp32 tells apart, a sixteenth of each

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }
int64_t round_up(int64_t value, int64_t to) { return divide_up(value, to) * to; }

// How the channels lie: cut at every border of a group or a deform group into slices, each padded
// to whole blocks of 32 bytes.
struct Channels {
  int64_t groups, deform_groups, slice, slices;  // channels of a slice, and how many there are
  int64_t padded;                                // channels of a slice with padding
  int64_t element_size;

  Channels(const at::Tensor& input, int64_t groups_, int64_t deform_groups_)
      : groups(groups_),
        deform_groups(deform_groups_),
        slice(std::gcd(input.size(1) / groups, input.size(1) / deform_groups)),
        slices(input.size(1) / slice),
        padded(round_up(slice, kBlockBytes / input.element_size())),
        element_size(input.element_size()) {}

  int64_t block() const { return kBlockBytes / element_size; }
  int64_t blocks_of(int64_t parts) const { return slices / parts * padded / block(); }
};

at::Tensor pad(const at::Tensor& tensor, int64_t dim, int64_t size) {
  if (tensor.size(dim) == size) return tensor;
  std::vector<int64_t> padding(2 * (tensor.dim() - dim), 0);
  padding.back() = size - tensor.size(dim);
  return at::constant_pad_nd(tensor, padding);
}

// [N, channels, height, width] -> [N, deform_groups, height, width, channels of it], with zeros to
// at least 2 x 2 pixels.
at::Tensor to_images(const at::Tensor& input, const Channels& channels) {
  const int64_t batch = input.size(0), deform_groups = channels.deform_groups;
  auto image = pad(pad(input, 2, std::max<int64_t>(input.size(2), 2)), 3,
                   std::max<int64_t>(input.size(3), 2));
  const int64_t height = image.size(2), width = image.size(3);
  image = image.reshape({batch, deform_groups, channels.slices / deform_groups, channels.slice,
                         height, width});
  image = pad(image, 3, channels.padded);
  return image.permute({0, 1, 4, 5, 2, 3})
      .contiguous()
      .view({batch, deform_groups, height, width, -1});
}

ModulatedDeformConvTiling make_tiling(const at::Tensor& input, const at::Tensor& weight,
                                      at::IntArrayRef out_size, const Channels& channels,
                                      at::IntArrayRef stride, at::IntArrayRef padding,
                                      at::IntArrayRef dilation) {
  ModulatedDeformConvTiling t{};
  t.batch = input.size(0);
  for (int d = 0; d < 2; d++) {
    t.size[d] = std::max<int64_t>(input.size(2 + d), 2);
    t.out_size[d] = out_size[d];
    t.kernel[d] = weight.size(2 + d);
    t.stride[d] = stride[d];
    t.padding[d] = padding[d];
    t.dilation[d] = dilation[d];
  }
  t.deform_groups = channels.deform_groups;
  t.groups = channels.groups;
  t.deform_blocks = channels.blocks_of(channels.deform_groups);
  t.group_blocks = channels.blocks_of(channels.groups);
  t.out_channels = weight.size(0) / channels.groups;
  t.panels = divide_up(t.out_channels, kMatrixRows);
  t.panel = round_up(divide_up(t.out_channels, t.panels), kFractalRows);
  // Wide outputs take smaller tiles: L0C holds their sums twice.
  const int64_t positions = out_size[0] * out_size[1], rows = t.panels * t.panel;
  const bool wide = rows * t.groups * sizes::kMaxTile > sizes::kSums;
  t.tile = wide || positions <= sizes::kMaxTile / 2 ? sizes::kMaxTile / 2 : sizes::kMaxTile;
  const int64_t most = sizes::kSums / t.tile;
  t.pass_groups = std::clamp<int64_t>(most / rows, 1, t.groups);
  t.pass_panels = std::min<int64_t>(most / t.panel, t.panels);
  t.chunk_blocks = std::min<int64_t>(sizes::kMaxChunk / channels.block(), t.deform_blocks);
  t.out_stride = round_up(positions, kFractalRows);
  return t;
}

// [out_channels, channels / groups, kernel height, kernel width] -> [groups, panels, points,
// group_blocks, panel, 32 B].
at::Tensor to_fractals(const at::Tensor& weight, const Channels& channels,
                       const ModulatedDeformConvTiling& t) {
  auto rows = weight.reshape({t.groups, t.out_channels, channels.slices / t.groups, channels.slice,
                              sizes::Points(t)});
  rows = pad(pad(rows, 3, channels.padded), 1, t.panels * t.panel);
  return rows
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

void check_npu(const at::Tensor& input, at::IntArrayRef out_size) {
  TORCH_CHECK_TYPE(input.scalar_type() != at::kDouble,
                   "input must be float32, float16 or bfloat16 on an NPU, was ",
                   input.scalar_type());
  for (int d = 0; d < 2; d++)
    TORCH_CHECK_VALUE(input.size(2 + d) <= kMaxSide && out_size[d] <= kMaxSide,
                      "input and output must have at most ", kMaxSide,
                      " rows and columns on an NPU, was ", input.sizes(), " and ", out_size);
  TORCH_CHECK_VALUE(input.size(2) * input.size(3) < INT32_MAX / 2 &&
                        out_size[0] * out_size[1] < INT32_MAX / 2,
                    "an image of input and output must have less than 2**30 pixels on an NPU, was ",
                    input.sizes(), " and ", out_size);
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
  const int64_t tiles = divide_up(sizes::Positions(t), t.tile);
  const int64_t passes = divide_up(t.groups, t.pass_groups) * divide_up(t.panels, t.pass_panels);
  const int64_t blocks = std::min(npu::cube_cores(), t.batch * tiles * passes);
  const auto ring = at::empty({blocks, sizes::kSlots, sizes::StepBytes(t)},
                              input.options().dtype(at::kByte));
  const auto out = at::empty({size[0], size[1], t.out_stride}, input.options());
  MXD_LAUNCH_FOR(input.scalar_type(), modulated_deform_conv, blocks, to_images(input, channels),
                 offset.contiguous(), mask ? mask->contiguous() : at::Tensor(),
                 to_fractals(weight, channels, t),
                 bias ? to_block(*bias, channels, t) : at::Tensor(), ring, out, t);
  return out.narrow(2, 0, sizes::Positions(t)).reshape(size);
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("modulated_deform_conv2d", TORCH_FN(forward_npu));
}

}  // namespace mxd::modulated_deform_conv
