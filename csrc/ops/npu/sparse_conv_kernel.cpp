// Sparse convolution on the NPU: lays out the weight and launches csrc/kernels/sparse_conv.cpp, or
// sparse_conv_planned.cpp where there is a plan, and sparse_conv_weight_grad.cpp for its gradient.
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "dtype.h"
#include "integers.h"
#include "launch.h"
#include "sparse_conv.h"
#include "sparse_conv_plan.h"
#include "sparse_conv_tiling.h"
// After their tiling.
#include "aclrtlaunch_sparse_conv.h"
#include "aclrtlaunch_sparse_conv_planned.h"
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

// A convolution's operands as the kernels want them, and what is the same in every tiling: groups
// of whole channels, panels of at most `most_columns` output columns, steps of at most `step_bytes`
// of a group's input channels.
struct Operands {
  SparseConvTiling tiling{};
  at::Tensor rows, fractals, bias, out;

  Operands(const at::Tensor& features, const at::Tensor& weight,
           const c10::optional<at::Tensor>& bias_row, int64_t num_out, int64_t groups,
           int64_t most_columns, int64_t step_bytes) {
    const int64_t volume = weight.size(0), in = weight.size(1), columns = weight.size(2) / groups;
    const int64_t size = features.element_size(), depth = kernels::kBlockBytes / size;
    const InSteps steps = in_steps(in, size, step_bytes);
    tiling.dtype = npu::kernel_dtype("features", features);
    tiling.num_out = num_out;
    tiling.volume = volume;
    tiling.groups = groups;
    tiling.in_step = steps.channels;
    tiling.in_channels = steps.count * steps.channels;
    tiling.panels = ceil_div(columns, most_columns);
    tiling.panel = round_up(ceil_div(columns, tiling.panels), kFractal);
    tiling.has_bias = bias_row.has_value();
    const int64_t padded_out = tiling.panels * tiling.panel;
    rows = pad(features.reshape({-1, groups, in}), tiling.in_channels).contiguous();
    // Fractals of the weight's transpose, as L0B holds them: [groups, panels, K, steps, in_step /
    // depth, panel / 16, 16, depth].
    fractals =
        pad(pad(weight.reshape({volume, in, groups, columns}), padded_out).permute({0, 2, 3, 1}),
            tiling.in_channels)
            .reshape({volume, groups, tiling.panels, tiling.panel / kFractal, kFractal, steps.count,
                      tiling.in_step / depth, depth})
            .permute({1, 2, 0, 5, 6, 3, 4, 7})
            .contiguous();
    if (bias_row)
      bias = pad(bias_row->to(at::kFloat).reshape({groups, columns}), padded_out).contiguous();
    out = at::empty({num_out, groups, padded_out}, features.options());
  }
};

// Rows of so many bytes, whole blocks of `unit` rows.
int64_t step_rows(int64_t channels, int64_t size, int64_t bytes, int64_t unit) {
  return bytes / (channels * size) / unit * unit;
}

at::Tensor forward_by_pairs(const Operands& operands, const at::Tensor& pairs,
                            const at::Tensor& bounds) {
  namespace sizes = kernels::sparse_conv;
  SparseConvTiling tiling = operands.tiling;
  const auto options = operands.rows.options();
  tiling.pairs = pairs.size(0);
  tiling.tiles = bounds.size(0);
  tiling.step_rows = std::clamp<int64_t>(
      step_rows(tiling.in_channels, operands.rows.element_size(), sizes::kStepBytes, kFractal),
      kFractal, sizes::kMaxStepRows);
  const int64_t units = static_cast<int64_t>(tiling.tiles) * tiling.groups * tiling.panels;
  const int64_t blocks = std::min(npu::cube_cores(), units);
  const auto gathered =
      at::empty({blocks, sizes::kSteps, sizes::GatheredElements(tiling)}, options);
  const auto products =
      at::empty({blocks, sizes::kSteps, sizes::ProductElements(tiling)}, options.dtype(at::kFloat));
  const auto messages =
      at::empty({blocks, sizes::kSteps, sizes::kMessageBytes}, options.dtype(at::kByte));
  npu::launch(aclrtlaunch_sparse_conv, "sparse_conv", blocks, operands.rows, operands.fractals,
              operands.bias, pairs.contiguous(), bounds.contiguous(), gathered, products, messages,
              operands.out, tiling);
  return operands.out;
}

at::Tensor forward_by_plan(const Operands& operands, const at::Tensor& plan) {
  namespace sizes = kernels::sparse_conv_planned;
  SparseConvTiling tiling = operands.tiling;
  const auto options = operands.rows.options();
  tiling.tiles = ceil_div(tiling.num_out, sizes::kPlanRows);
  tiling.step_rows = step_rows(tiling.in_step, operands.rows.element_size(), sizes::kChunkBytes,
                               sizes::kPlanBlockRows);
  // [rows, groups, steps, in_step] -> [groups, steps, rows, in_step]
  const at::Tensor rows =
      operands.rows.reshape({tiling.num_out, -1, tiling.in_step}).transpose(0, 1).contiguous();
  const int64_t units = ceil_div(tiling.tiles, 2) * tiling.groups * tiling.panels;
  const int64_t blocks = std::min(npu::cube_cores(), units);
  const auto gathered =
      at::empty({blocks, sizes::kSteps, 2, sizes::ChunkElements(tiling)}, options);
  const auto sums = at::empty({blocks, 2, 2, sizes::SumElements(tiling)}, options);
  npu::launch(aclrtlaunch_sparse_conv_planned, "sparse_conv_planned", blocks, rows,
              operands.fractals, operands.bias, plan.contiguous(), gathered, sums, operands.out,
              tiling);
  return operands.out;
}

at::Tensor forward_npu(const at::Tensor& features, const at::Tensor& weight,
                       const c10::optional<at::Tensor>& bias, const at::Tensor& pairs,
                       const at::Tensor& bounds, int64_t num_out, int64_t groups,
                       const c10::optional<at::Tensor>& plan) {
  check_forward(features, weight, bias, pairs, bounds, num_out, groups, plan);
  npu::kernel_dtype("features", features);
  check_tiles(bounds, num_out);
  const int64_t in = weight.size(1), out = weight.size(2) / groups;
  if (num_out == 0 || out == 0 || in == 0 || pairs.size(0) == 0) {
    auto empty = at::zeros({num_out, groups * out}, features.options());
    return bias ? empty.add_(*bias) : empty;
  }
  const bool planned = plan && plan->numel() > 0 && plan_serves(features, weight, pairs);
  const PlanOrder by_place = planned ? order_of_plan(plan, num_out, weight.size(0)) : PlanOrder{};
  const bool in_order = !by_place.order.defined();
  const Operands operands(
      in_order ? features : features.index_select(0, by_place.order), weight, bias, num_out, groups,
      planned ? kernels::sparse_conv_planned::kMaxPanel : kernels::sparse_conv::kMaxPanel,
      planned ? kernels::sparse_conv_planned::kPartBytes : kContractionBytes);
  const at::Tensor result =
      (planned ? forward_by_plan(operands, *plan) : forward_by_pairs(operands, pairs, bounds))
          .narrow(2, 0, out)
          .reshape({num_out, groups * out});
  return in_order ? result : result.index_select(0, by_place.place);
}

at::Tensor weight_grad_npu(const at::Tensor& features, const at::Tensor& grad,
                           const at::Tensor& pairs, const at::Tensor& bounds, int64_t groups,
                           const c10::optional<at::Tensor>& plan) {
  check_weight_grad(features, grad, pairs, bounds, groups, plan);
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
  // Rows in order are gathered in runs.
  const PlanOrder by_place = order_of_plan(plan, grad.size(0), volume);
  const bool in_order = !by_place.order.defined();
  at::Tensor rows[2] = {in_order ? features : features.index_select(0, by_place.order),
                        in_order ? grad : grad.index_select(0, by_place.order)};
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
  const auto parts = at::empty({groups, tiling.panels[0], tiling.panels[1], volume, tiling.slabs,
                                tiling.panel[0], tiling.panel[1]},
                               features.options().dtype(at::kFloat));
  npu::launch(aclrtlaunch_sparse_conv_weight_grad, "sparse_conv_weight_grad", blocks, rows[0],
              rows[1], in_order ? pairs.contiguous() : by_place.pairs, bounds.contiguous(),
              gathered, messages, parts, tiling);
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
