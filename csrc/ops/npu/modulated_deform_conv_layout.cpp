#include "modulated_deform_conv_layout.h"

#include <ATen/ops/constant_pad_nd.h>

#include <numeric>

#include "dtype.h"

namespace mxd::modulated_deform_conv {
namespace {

using kernels::kFractalRows;
using kernels::kMatrixRows;

constexpr int64_t kMaxSide = 1 << 20;  // pixels that fp32 tells apart, a sixteenth of each
constexpr int64_t kMaxPixels = 1 << 28;

}  // namespace

Channels::Channels(const at::Tensor& input, int64_t groups_, int64_t deform_groups_)
    : groups(groups_),
      deform_groups(deform_groups_),
      slice(std::gcd(input.size(1) / groups, input.size(1) / deform_groups)),
      slices(input.size(1) / slice),
      padded(round_up(slice, kFractalRows)),
      element_size(input.element_size()) {}

at::Tensor pad(const at::Tensor& tensor, int64_t dim, int64_t size) {
  if (tensor.size(dim) == size) return tensor;
  std::vector<int64_t> padding(2 * (tensor.dim() - dim), 0);
  padding.back() = size - tensor.size(dim);
  return at::constant_pad_nd(tensor, padding);
}

at::Tensor to_images(const at::Tensor& input, const Channels& channels) {
  const int64_t batch = input.size(0), deform_groups = channels.deform_groups;
  auto image = pad(pad(input, 2, std::max<int64_t>(input.size(2), 2)), 3,
                   std::max<int64_t>(input.size(3), 2));
  const int64_t height = image.size(2), width = image.size(3);
  image = image.reshape(
      {batch, deform_groups, channels.slices / deform_groups, channels.slice, height, width});
  image = pad(image, 3, channels.padded);
  return image.permute({0, 1, 4, 5, 2, 3})
      .contiguous()
      .view({batch, deform_groups, height, width, -1});
}

at::Tensor to_rows(const at::Tensor& weight, const Channels& channels,
                   const ModulatedDeformConvTiling& t) {
  const auto rows = weight.reshape(
      {t.groups, t.out_channels, channels.slices / t.groups, channels.slice, sizes::Points(t)});
  return pad(pad(rows, 3, channels.padded), 1, t.panels * t.panel)
      .reshape({t.groups, t.panels * t.panel, t.group_blocks * channels.block(), sizes::Points(t)});
}

ModulatedDeformConvTiling make_tiling(const at::Tensor& input, const at::Tensor& weight,
                                      at::IntArrayRef out_size, const Channels& channels,
                                      at::IntArrayRef stride, at::IntArrayRef padding,
                                      at::IntArrayRef dilation) {
  ModulatedDeformConvTiling t{};
  t.dtype = npu::kernel_dtype("input", input);
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
  t.panels = ceil_div(t.out_channels, kMatrixRows);
  t.panel = round_up(ceil_div(t.out_channels, t.panels), kFractalRows);
  // Wide outputs take smaller tiles: L0C holds their sums twice.
  const int64_t positions = out_size[0] * out_size[1], rows = t.panels * t.panel;
  const bool wide = rows * t.groups * sizes::kMaxTile > sizes::kSums;
  t.tile = wide || positions <= sizes::kMaxTile / 2 ? sizes::kMaxTile / 2 : sizes::kMaxTile;
  const int64_t most = sizes::kSums / t.tile;
  t.pass_groups = std::clamp<int64_t>(most / rows, 1, t.groups);
  t.pass_panels = std::min<int64_t>(most / t.panel, t.panels);
  t.chunk_blocks = std::min<int64_t>(sizes::kMaxChunk / channels.block(), t.deform_blocks);
  t.lanes = t.copies = 1;
  t.out_stride = round_up(positions, kFractalRows);
  return t;
}

void check_npu(const at::Tensor& input, at::IntArrayRef out_size) {
  npu::check_dtype("input", input);
  for (int d = 0; d < 2; d++)
    TORCH_CHECK_VALUE(input.size(2 + d) <= kMaxSide && out_size[d] <= kMaxSide,
                      "input and output must have at most ", kMaxSide,
                      " rows and columns on an NPU, was ", input.sizes(), " and ", out_size);
  // Strides of DMAs are of 32 bits.
  TORCH_CHECK_VALUE(input.size(2) * input.size(3) < kMaxPixels &&
                        out_size[0] * out_size[1] < kMaxPixels &&
                        input.size(3) * input.size(1) < kMaxPixels,
                    "an image of input and output must have less than ", kMaxPixels,
                    " pixels on an NPU, and a row of input less numbers than that, was ",
                    input.sizes(), " and ", out_size);
}

int64_t image_elements(const ModulatedDeformConvTiling& t, const Channels& channels) {
  return int64_t{t.deform_groups} * t.deform_blocks * channels.block() * t.size[0] * t.size[1];
}

}  // namespace mxd::modulated_deform_conv
