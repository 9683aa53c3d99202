// Sparse convolution on the NPU: lays out the weight and launches csrc/kernels/sparse_conv.cpp,
// and sparse_conv_weight_grad.cpp for its gradient.
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "dtype.h"
#include "integers.h"
#include "launch.h"
#include "sparse_conv.h"
#include "sparse_conv_tiling.h"
// After their tiling.
#include "aclrtlaunch_sparse_conv.h"
#include "aclrtlaunch_sparse_conv_weight_grad.h"

namespace mxd::sparse_conv {
namespace {

using kernels::kContractionBytes;
using kernels::kMatrixColumns;
using npu::ceil_div;
using npu::round_up;
constexpr int64_t kFractal = kernels::kFractalRows;
static_assert(kernels::kTileRows == kTileRows);

constexpr int64_t kMaxSlabs = 20;  // parts of a weight's gradient that are summed apart
constexpr int64_t kMaxPartBytes = 64 << 20;

// [..., channels] -> [..., padded], a copy only where that differs.
at::Tensor pad(const at::Tensor& tensor, int64_t padded) {
  const int64_t channels = tensor.size(-1);
  return channels == padded ? tensor : at::constant_pad_nd(tensor, {0, padded - channels});
}

at::Tensor forward_npu(const at::Tensor& features, const at::Tensor& weight,
                       const c10::optional<at::Tensor>& bias, const at::Tensor& pairs,
                       const at::Tensor& bounds, int64_t num_out, int64_t groups) {
  check_forward(features, weight, bias, pairs, bounds, num_out, groups);
  const int32_t dtype = npu::kernel_dtype("features", features);
  check_tiles(bounds, num_out);
  const int64_t volume = weight.size(0), in = weight.size(1), out = weight.size(2) / groups;
  if (num_out == 0 || out == 0 || in == 0 || pairs.size(0) == 0) {
    auto empty = at::zeros({num_out, groups * out}, features.options());
    return bias ? empty.add_(*bias) : empty;
  }

  namespace sizes = kernels::sparse_conv;
  const int64_t size = features.element_size(), depth = kernels::kBlockBytes / size;
  SparseConvTiling tiling{};
  tiling.dtype = dtype;
  tiling.num_out = num_out;
  tiling.pairs = pairs.size(0);
  tiling.tiles = bounds.size(0);
  tiling.volume = volume;
  tiling.groups = groups;
  const int64_t in_blocks = ceil_div(in * size, kContractionBytes);
  tiling.in_step = round_up(ceil_div(in, in_blocks), kFractal);
  tiling.in_channels = in_blocks * tiling.in_step;
  tiling.panels = ceil_div(out, kMatrixColumns);
  tiling.panel = round_up(ceil_div(out, tiling.panels), kFractal);
  tiling.step_rows =
      std::clamp<int64_t>(sizes::kStepBytes / (tiling.in_channels * size) / kFractal * kFractal,
                          kFractal, sizes::MostStepRows(tiling.panel));
  tiling.has_bias = bias.has_value();
  const int64_t padded_out = tiling.panels * tiling.panel;

  const auto rows = pad(features.reshape({-1, groups, in}), tiling.in_channels).contiguous();
  // Fractals of the weight's transpose, as L0B holds them: [groups, panels, K, in_blocks, in_step /
  // depth, panel / 16, 16, depth].
  const auto fractals =
      pad(pad(weight.reshape({volume, in, groups, out}), padded_out).permute({0, 2, 3, 1}),
          tiling.in_channels)
          .reshape({volume, groups, tiling.panels, tiling.panel / kFractal, kFractal, in_blocks,
                    tiling.in_step / depth, depth})
          .permute({1, 2, 0, 5, 6, 3, 4, 7})
          .contiguous();
  const auto shift = bias
                         ? pad(bias->to(at::kFloat).reshape({groups, out}), padded_out).contiguous()
                         : at::Tensor();
  const int64_t units = tiling.tiles * groups * tiling.panels;
  const int64_t blocks = std::min(npu::cube_cores(), units);
  const auto gathered =
      at::empty({blocks, sizes::kSteps, sizes::GatheredElements(tiling)}, features.options());
  const auto products = at::empty({blocks, sizes::kSteps, sizes::ProductElements(tiling)},
                                  features.options().dtype(at::kFloat));
  const auto messages =
      at::empty({blocks, sizes::kSteps, sizes::kMessageBytes}, features.options().dtype(at::kByte));
  const auto result = at::empty({num_out, groups, padded_out}, features.options());
  npu::launch(aclrtlaunch_sparse_conv, "sparse_conv", blocks, rows, fractals, shift,
              pairs.contiguous(), bounds.contiguous(), gathered, products, messages, result,
              tiling);
  return result.narrow(2, 0, out).reshape({num_out, groups * out});
}

at::Tensor weight_grad_npu(const at::Tensor& features, const at::Tensor& grad,
                           const at::Tensor& pairs, const at::Tensor& bounds, int64_t groups) {
  check_weight_grad(features, grad, pairs, bounds, groups);
  const int32_t dtype = npu::kernel_dtype("features", features);
  check_tiles(bounds, grad.size(0));
  const int64_t volume = bounds.size(1) - 1,
                channels[2] = {features.size(1) / groups, grad.size(1) / groups};
  if (pairs.size(0) == 0 || channels[0] == 0 || channels[1] == 0)
    return at::zeros({volume, channels[0], groups * channels[1]}, features.options());

  namespace sizes = kernels::sparse_conv_weight_grad;
  SparseConvWeightGradTiling tiling{};
  tiling.dtype = dtype;
  tiling.tiles = bounds.size(0);
  tiling.volume = volume;
  tiling.groups = groups;
  at::Tensor rows[2] = {features, grad};
  for (int side = 0; side < 2; side++) {
    tiling.panels[side] = ceil_div(channels[side], kMatrixColumns);
    tiling.panel[side] = round_up(ceil_div(channels[side], tiling.panels[side]), kFractal);
    rows[side] = pad(rows[side].reshape({-1, groups, channels[side]}),
                     tiling.panels[side] * tiling.panel[side])
                     .contiguous();
  }
  const int64_t size = features.element_size();
  tiling.step_rows = sizes::StepRows(size);
  // A line of the kernel, where it has three points or two.
  tiling.points = std::clamp<int64_t>(
      kernels::kSumBytes / (static_cast<int64_t>(tiling.panel[0]) * tiling.panel[1] * 4), 1,
      volume % 3 != 0 && volume % 2 == 0 ? 2 : sizes::kPoints);
  const int64_t ring_rows = sizes::kRingBytes / (std::max(tiling.panel[0], tiling.panel[1]) * size);
  while (2 << tiling.ring_bits <= ring_rows) tiling.ring_bits++;
  // A chunk's rows take a third of the ring: it holds those of the next one, too, and what lies
  // between. The pairs of one point alone are too few for that: they are taken tile by tile.
  tiling.tile_parts =
      tiling.points == 1 ? 1 : ceil_div(3 * kTileRows, int64_t{1} << tiling.ring_bits);
  const int64_t sums = groups * tiling.panels[0] * tiling.panels[1] * volume,
                elements = static_cast<int64_t>(tiling.panel[0]) * tiling.panel[1];
  // Slabs do not depend on the number of blocks: sums have the same order on every device.
  tiling.slabs = std::clamp<int64_t>(kMaxPartBytes / (sums * elements * 4), 1,
                                     std::min<int64_t>(kMaxSlabs, tiling.tiles));
  const int64_t blocks = std::min(npu::cube_cores(), sums * tiling.slabs);
  const auto gathered =
      at::empty({blocks, sizes::kSteps, sizes::StepElements(tiling)}, features.options());
  const auto messages =
      at::empty({blocks, sizes::kSteps, sizes::kMessageBytes}, features.options().dtype(at::kByte));
  const auto parts = at::zeros({groups, tiling.panels[0], tiling.panels[1], volume, tiling.slabs,
                                tiling.panel[0], tiling.panel[1]},
                               features.options().dtype(at::kFloat));
  npu::launch(aclrtlaunch_sparse_conv_weight_grad, "sparse_conv_weight_grad", blocks, rows[0],
              rows[1], pairs.contiguous(), bounds.contiguous(), gathered, messages, parts, tiling);
  // [groups, in panels, out panels, K, in, out] -> [K, in, groups * out]
  return parts.sum(4)
      .permute({3, 1, 4, 0, 2, 5})
      .reshape(
          {volume, tiling.panels[0] * tiling.panel[0], groups, tiling.panels[1] * tiling.panel[1]})
      .narrow(1, 0, channels[0])
      .narrow(3, 0, channels[1])
      .reshape({volume, channels[0], groups * channels[1]})
      .to(features.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("sparse_conv", TORCH_FN(forward_npu));
  m.impl("sparse_conv_weight_grad", TORCH_FN(weight_grad_npu));
}

}  // namespace mxd::sparse_conv
