// Modulated deformable convolution on the NPU: lays out images and weight and launches
// csrc/kernels/modulated_deform_conv.cpp, and modulated_deform_conv_backward.cpp for the gradients.
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <numeric>
#include <tuple>

#include "../modulated_deform_conv.h"
#include "launch.h"
#include "modulated_deform_conv_tiling.h"
// After their tiling.
#include "aclrtlaunch_modulated_deform_conv_backward_bfloat16.h"
#include "aclrtlaunch_modulated_deform_conv_backward_float.h"
#include "aclrtlaunch_modulated_deform_conv_backward_half.h"
#include "aclrtlaunch_modulated_deform_conv_bfloat16.h"
#include "aclrtlaunch_modulated_deform_conv_float.h"
#include "aclrtlaunch_modulated_deform_conv_half.h"

namespace mxd::modulated_deform_conv {
namespace {

namespace sizes = kernels::modulated_deform_conv;
namespace backward_sizes = kernels::modulated_deform_conv_backward;
using kernels::kBlockBytes;
using kernels::kFractalRows;
using kernels::kMatrixRows;

constexpr int64_t kMaxSide = 1 << 20;  // pixels that fp32 tells apart, a sixteenth of each
constexpr int64_t kMaxPixels = 1 << 28;
constexpr int64_t kCacheBytes = 150 << 20;           // of the L2, for what a launch works on
constexpr int64_t kMaxGradBytes = int64_t{2} << 30;  // of the copies of the images' gradients

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }
int64_t round_up(int64_t value, int64_t to) { return divide_up(value, to) * to; }

// How the channels lie: cut at every border of a group or a deform group into slices, each padded
// to whole fractals.
struct Channels {
  int64_t groups, deform_groups, slice, slices;  // channels of a slice, and how many there are
  int64_t padded;                                // channels of a slice with padding
  int64_t element_size;

  Channels(const at::Tensor& input, int64_t groups_, int64_t deform_groups_)
      : groups(groups_),
        deform_groups(deform_groups_),
        slice(std::gcd(input.size(1) / groups, input.size(1) / deform_groups)),
        slices(input.size(1) / slice),
        padded(round_up(slice, kFractalRows)),
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
  image = image.reshape(
      {batch, deform_groups, channels.slices / deform_groups, channels.slice, height, width});
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
  t.lanes = t.copies = 1;
  t.out_stride = round_up(positions, kFractalRows);
  return t;
}

// [out_channels, channels / groups, kernel height, kernel width] -> [groups, panels, points,
// group_blocks, panel, 32 B].
at::Tensor to_fractals(const at::Tensor& weight, const Channels& channels,
                       const ModulatedDeformConvTiling& t) {
  auto rows = weight.reshape(
      {t.groups, t.out_channels, channels.slices / t.groups, channels.slice, sizes::Points(t)});
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
  // Strides of DMAs are of 32 bits.
  TORCH_CHECK_VALUE(input.size(2) * input.size(3) < kMaxPixels &&
                        out_size[0] * out_size[1] < kMaxPixels &&
                        input.size(3) * input.size(1) < kMaxPixels,
                    "an image of input and output must have less than ", kMaxPixels,
                    " pixels on an NPU, and a row of input less numbers than that, was ",
                    input.sizes(), " and ", out_size);
}

// Of an image with its padding.
int64_t image_elements(const ModulatedDeformConvTiling& t, const Channels& channels) {
  return int64_t{t.deform_groups} * t.deform_blocks * channels.block() * t.size[0] * t.size[1];
}

// Calls body(first, count) for chunks of the images, of `bytes` each, that stay in the L2.
template <typename Body>
void for_each_chunk(int64_t images, int64_t bytes, Body body) {
  const int64_t most = std::max<int64_t>(kCacheBytes / bytes, 1), chunks = divide_up(images, most);
  for (int64_t i = 0; i < chunks; i++) {
    const int64_t first = images * i / chunks;
    body(first, images * (i + 1) / chunks - first);
  }
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
  const int64_t passes = divide_up(t.groups, t.pass_groups) * divide_up(t.panels, t.pass_panels);
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
    MXD_LAUNCH_FOR(input.scalar_type(), modulated_deform_conv, blocks,
                   to_images(input.narrow(0, first, count), channels),
                   offset.narrow(0, first, count).contiguous(),
                   mask ? mask->narrow(0, first, count).contiguous() : at::Tensor(), fractals,
                   block, ring, out.narrow(0, first, count), t);
  });
  return out.narrow(2, 0, sizes::Positions(t)).reshape(size);
}

int32_t count_copies(const ModulatedDeformConvTiling& t) {
  const int64_t tiles = sizes::Tiles(t);
  int32_t most = 1;
  for (int64_t image = 0; image < t.batch; image++)
    most = std::max(
        most, sizes::LaneOf(t, (image + 1) * tiles - 1) - sizes::LaneOf(t, image * tiles) + 1);
  return most;
}

// Cuts the tiles into lanes: more of them keep more cores busy, and have more copies of the images'
// gradients to be cleared and added up.
void choose_lanes(ModulatedDeformConvTiling& t, int64_t image_bytes) {
  constexpr double kTapCycles = 39, kBytesACycle = 890;  // as the model of costs has it
  const int64_t tiles = t.batch * sizes::Tiles(t), half = t.tile / 2;
  const int64_t steps = t.deform_groups * divide_up(t.deform_blocks, t.chunk_blocks);
  const double tile_cycles = kTapCycles * half * sizes::Points(t) * steps;
  double least = 0;
  ModulatedDeformConvTiling trial = t;
  for (int64_t lanes = 1; lanes <= std::min<int64_t>(backward_sizes::kMaxLanes, tiles); lanes++) {
    trial.lanes = lanes;
    trial.copies = count_copies(trial);
    const int64_t bytes = 2 * t.batch * trial.copies * image_bytes;
    if (lanes > 1 && bytes > kMaxGradBytes) continue;
    const double cycles = tile_cycles * divide_up(tiles, lanes) + 2.0 * bytes / kBytesACycle;
    if (lanes == 1 || cycles < least) t = trial, least = cycles;
  }
}

// [out_channels, channels / groups, kernel height, kernel width] -> [groups, points, output
// channels in blocks, input channels of a group, 32 B].
at::Tensor to_turned_fractals(const at::Tensor& weight, const Channels& channels,
                              const ModulatedDeformConvTiling& t) {
  auto rows = weight.reshape(
      {t.groups, t.out_channels, channels.slices / t.groups, channels.slice, sizes::Points(t)});
  rows = pad(pad(rows, 3, channels.padded), 1, t.panels * t.panel);
  return rows
      .reshape({t.groups, t.panels * t.panel / channels.block(), channels.block(),
                t.group_blocks * channels.block(), sizes::Points(t)})
      .permute({0, 4, 1, 3, 2})
      .contiguous();
}

// [N, out_channels, height, width] -> [N, positions, groups, panels * panel].
at::Tensor to_positions(const at::Tensor& grad, const ModulatedDeformConvTiling& t) {
  const auto rows = pad(grad.reshape({t.batch, t.groups, t.out_channels, sizes::Positions(t)}), 2,
                        t.panels * t.panel);
  return rows.permute({0, 3, 1, 2}).contiguous();
}

// The sum of the copies, fp32, in the shape of the input.
at::Tensor to_input_grad(const at::Tensor& grad_images, const at::Tensor& input,
                         const Channels& channels, const ModulatedDeformConvTiling& t) {
  return grad_images.sum(at::IntArrayRef{1, 2})
      .view({t.batch, t.deform_groups, t.size[0], t.size[1], channels.slices / t.deform_groups,
             channels.padded})
      .narrow(2, 0, input.size(2))
      .narrow(3, 0, input.size(3))
      .narrow(5, 0, channels.slice)
      .permute({0, 1, 4, 5, 2, 3})
      .reshape(input.sizes());
}

// The sum of the lanes' gradients, as the weight is.
at::Tensor to_weight_grad(const at::Tensor& parts, const at::Tensor& weight,
                          const Channels& channels, const ModulatedDeformConvTiling& t) {
  return parts.sum(0)
      .permute({0, 1, 3, 4, 2})
      .reshape({t.groups, t.panels * t.panel, channels.slices / t.groups, channels.padded,
                sizes::Points(t)})
      .narrow(1, 0, t.out_channels)
      .narrow(3, 0, channels.slice)
      .reshape(weight.sizes())
      .to(weight.scalar_type());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> backward_npu(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& offset,
    const c10::optional<at::Tensor>& mask, const at::Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, int64_t deform_groups,
    bool of_data, bool of_parameters) {
  check_backward(grad, input, offset, mask, weight, stride, padding, dilation, groups,
                 deform_groups, of_data, of_parameters);
  const at::IntArrayRef out_size = grad.sizes().slice(2);
  check_npu(input, out_size);
  const auto options = input.options(), sums = options.dtype(at::kFloat);
  const at::Tensor none = at::empty({0}, options);
  auto like = [&](const at::Tensor& tensor, bool wanted) {
    return wanted ? at::zeros(tensor.sizes(), options) : none;
  };
  if (input.size(0) == 0 || (!of_data && !of_parameters))
    return {like(input, of_data), like(offset, of_data), mask ? like(*mask, of_data) : none,
            like(weight, of_parameters),
            of_parameters ? at::zeros({weight.size(0)}, options) : none};

  const Channels channels(input, groups, deform_groups);
  ModulatedDeformConvTiling t =
      make_tiling(input, weight, out_size, channels, stride, padding, dilation);
  const int64_t positions = sizes::Positions(t), block = channels.block();
  t.tile = positions <= sizes::kMaxTile / 2 ? sizes::kMaxTile / 2 : sizes::kMaxTile;
  t.chunk_blocks = std::min<int64_t>(backward_sizes::kMaxChunk / block, t.deform_blocks);
  t.has_mask = mask.has_value();
  t.of_data = of_data;
  t.of_parameters = of_parameters;
  const int64_t image = image_elements(t, channels), samples = t.deform_groups * sizes::Points(t);
  at::Tensor grad_input = none, grad_offset = none, grad_mask = none, parts = none;
  if (of_data) {
    grad_input = at::empty(input.sizes(), options);
    grad_offset = at::empty({t.batch, 2 * samples, t.out_stride}, options);
    if (mask) grad_mask = at::empty({t.batch, samples, t.out_stride}, options);
  }
  if (of_parameters)
    parts = at::zeros({backward_sizes::kMaxLanes, t.groups, t.panels, sizes::Points(t), t.panel,
                       t.group_blocks * block},
                      sums);
  const auto fractals = to_turned_fractals(weight, channels, t);
  const int64_t step = sizes::StepBytes(t) / channels.element_size;
  const int64_t bytes = 2 * image * sums.dtype().itemsize() +
                        channels.element_size * (image + grad[0].numel()) +
                        2 * (offset[0].nbytes() + (mask ? (*mask)[0].nbytes() : 0));
  for_each_chunk(t.batch, bytes, [&, t](int64_t first, int64_t count) mutable {
    auto part = [&](const at::Tensor& all) {
      return all.numel() ? all.narrow(0, first, count) : all;
    };
    t.batch = count;
    choose_lanes(t, image * sums.dtype().itemsize());
    const int64_t blocks = std::min<int64_t>(npu::cube_cores(), t.lanes);
    const auto copies = of_data ? at::zeros({count, t.copies, 2, image}, sums) : none;
    const auto column_grads = at::empty({blocks, sizes::kSlots, step}, sums);
    const auto ring = at::empty({blocks, sizes::kSlots, step}, options);
    MXD_LAUNCH_FOR(input.scalar_type(), modulated_deform_conv_backward, blocks,
                   to_positions(part(grad), t), to_images(part(input), channels),
                   part(offset).contiguous(), mask ? part(*mask).contiguous() : at::Tensor(),
                   fractals, column_grads, ring, copies, part(grad_offset), part(grad_mask), parts,
                   t);
    if (of_data) part(grad_input).copy_(to_input_grad(copies, part(input), channels, t));
  });
  auto without_padding = [&](const at::Tensor& tensor, const at::Tensor& as) {
    return tensor.narrow(2, 0, positions).reshape(as.sizes());
  };
  const auto grad_bias = [&] {
    return grad.sum(at::IntArrayRef{0, 2, 3}, false, at::kFloat).to(input.scalar_type());
  };
  return {grad_input, of_data ? without_padding(grad_offset, offset) : none,
          of_data && mask ? without_padding(grad_mask, *mask) : none,
          of_parameters ? to_weight_grad(parts, weight, channels, t) : none,
          of_parameters ? grad_bias() : none};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("modulated_deform_conv2d", TORCH_FN(forward_npu));
  m.impl("modulated_deform_conv2d_backward", TORCH_FN(backward_npu));
}

}  // namespace mxd::modulated_deform_conv
