// Modulated deformable convolution on the NPU, the gradients: divides the tiles into lanes,
// launches csrc/kernels/modulated_deform_conv_backward.cpp and adds up what the lanes have found.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>

#include "../modulated_deform_conv.h"
#include "launch.h"
#include "modulated_deform_conv_layout.h"
// After their tiling.
#include "aclrtlaunch_modulated_deform_conv_backward.h"

namespace mxd::modulated_deform_conv {
namespace {

namespace backward_sizes = kernels::modulated_deform_conv_backward;

constexpr int64_t kMaxGradBytes = int64_t{2} << 30;  // of the copies of the images' gradients

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
  const int64_t steps = t.deform_groups * ceil_div(t.deform_blocks, t.chunk_blocks);
  const double tile_cycles = kTapCycles * half * sizes::Points(t) * steps;
  double least = 0;
  ModulatedDeformConvTiling trial = t;
  for (int64_t lanes = 1; lanes <= std::min<int64_t>(backward_sizes::kMaxLanes, tiles); lanes++) {
    trial.lanes = lanes;
    trial.copies = count_copies(trial);
    const int64_t bytes = 2 * t.batch * trial.copies * image_bytes;
    if (lanes > 1 && bytes > kMaxGradBytes) continue;
    const double cycles = tile_cycles * ceil_div(tiles, lanes) + 2.0 * bytes / kBytesACycle;
    if (lanes == 1 || cycles < least) t = trial, least = cycles;
  }
}

// [out_channels, channels / groups, kernel height, kernel width] -> [groups, points, output
// channels in blocks, input channels of a group, 32 B].
at::Tensor to_turned_fractals(const at::Tensor& weight, const Channels& channels,
                              const ModulatedDeformConvTiling& t) {
  return to_rows(weight, channels, t)
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
    npu::launch(aclrtlaunch_modulated_deform_conv_backward, "modulated_deform_conv_backward",
                blocks, to_positions(part(grad), t), to_images(part(input), channels),
                part(offset).contiguous(), mask ? part(*mask).contiguous() : at::Tensor(), fractals,
                column_grads, ring, copies, part(grad_offset), part(grad_mask), parts, t);
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
  m.impl("modulated_deform_conv2d_backward", TORCH_FN(backward_npu));
}

}  // namespace mxd::modulated_deform_conv
