// Rulebook of a sparse convolution on the NPU, element for element the CPU's. Voxels are numbered
// and sorted, and the sorted lists are joined (csrc/kernels/sparse_conv_rulebook.cpp); nothing but
// a few counts goes to the host, and memory grows with the voxels, never with the grid.
#include "sparse_conv_rulebook.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "../voxel_check.h"
#include "sparse_conv_rulebook_tiling.h"

namespace mxd::sparse_conv::npu {

using mxd::kernels::kRulebookBad;
using mxd::kernels::kRulebookMaxCell;
using mxd::kernels::kRulebookRun;

static_assert(mxd::kernels::kTileRows == kTileRows && mxd::kernels::kRulebookDims == kMaxDims);

Result nothing(const at::Tensor& indices, const Geometry& g) {
  return {at::empty({0, g.ndim + 1}, indices.options()), at::empty({0, 2}, indices.options()),
          at::empty({0, g.kernel_volume + 1}, indices.options().dtype(at::kLong))};
}

Numbering number_cells(const KeySteps& steps, const Geometry& g,
                       const std::array<int64_t, kMaxDims>& scale,
                       const std::array<int64_t, kMaxDims>& offset) {
  Numbering numbering;
  numbering.step[0] = static_cast<int64_t>(steps.batch_step);
  for (int d = 0; d < g.ndim; d++) {
    numbering.step[1 + d] = scale[d] * static_cast<int64_t>(steps.step[d]);
    numbering.shift += offset[d] * static_cast<int64_t>(steps.step[d]);
  }
  return numbering;
}

KernelRows kernel_rows(const KeySteps& steps, const Geometry& g, int64_t shift) {
  KernelRows rows;
  const int last = g.ndim - 1;
  rows.shift = shift;
  rows.dims = g.ndim;
  for (int d = 0; d < g.ndim; d++) {
    rows.kernel[d] = g.kernel[d];
    rows.step[d] = g.dilation[d] * static_cast<int64_t>(steps.step[d]);
  }
  if (g.dilation[last] == 1 && g.kernel[last] <= kRulebookRun) {
    rows.run = g.kernel[last];
    rows.dims = last;
  }
  rows.rows = g.kernel_volume / rows.run;
  return rows;
}

namespace {

// Cells by kernels. The device is waited for once, for the error flag and the numbers of outputs
// and pairs; once more where voxels are not in the order of their cells. Most are: those of layers
// that have made their own, and of encoders that have sorted them. A sort is several launches.
Result build(const at::Tensor& indices, const Geometry& g, const KeySteps& steps) {
  using namespace narrow;
  std::array<int64_t, kMaxDims> one, zero{};
  one.fill(1);
  const Numbering voxel_cells = number_cells(steps, g, one, g.padding);
  const Numbering window_cells = number_cells(steps, g, g.stride, zero);
  const at::Tensor stats = at::zeros({mxd::kernels::kRulebookStats}, indices.options());
  // Transposed, the inputs are the windows, over the outputs.
  Voxels inputs = find_voxels(indices, g, g.transposed ? window_cells : voxel_cells), outputs;
  at::Tensor out_indices;
  if (!g.subm) {
    const KeySteps out_steps(g.out_shape, g.ndim, g.batch_size);
    std::tie(out_indices, outputs) = decode(reached(indices, g, out_steps, stats), g, out_steps,
                                            g.transposed ? voxel_cells : window_cells, stats);
  }
  const auto count = [&] {
    if (g.subm)
      return count_pairs(inputs, inputs, kernel_rows(steps, g, -voxel_cells.shift), stats);
    return g.transposed ? count_pairs(inputs, outputs, kernel_rows(steps, g, 0), stats)
                        : count_pairs(outputs, inputs, kernel_rows(steps, g, 0), stats);
  };
  Join join = count();
  at::Tensor known = stats.cpu();
  if (known.const_data_ptr<int32_t>()[kRulebookBad]) {
    stats.narrow(0, kRulebookBad, 1).zero_();
    inputs = sort_voxels(inputs);
    join = count();
    known = stats.cpu();
  }
  const auto* numbers = known.const_data_ptr<int32_t>();
  // Only in this case are the voxels copied to the host, to say which one is wrong.
  if (numbers[kRulebookBad])
    check_voxels(indices, g.batch_size, at::IntArrayRef(g.in_shape.data(), g.ndim));
  int64_t pairs;
  std::memcpy(&pairs, numbers + mxd::kernels::kRulebookPairs, sizeof(pairs));
  TORCH_CHECK_VALUE(pairs <= std::numeric_limits<int32_t>::max(),
                    "a rulebook must have fewer than 2**31 pairs on ", indices.device(), ", had ",
                    pairs);
  const int64_t num_out = g.subm ? indices.size(0) : numbers[mxd::kernels::kRulebookOutputs];
  if (num_out == 0) return nothing(indices, g);
  const auto [to, bounds] = write_pairs(join, num_out, pairs);
  if (g.subm) return {indices.clone(), to, bounds};
  out_indices = out_indices.slice(0, 0, num_out).clone();  // the rest goes back
  if (!g.transposed) return {out_indices, to, bounds};
  const auto [own_pairs, own_bounds] = transpose(to, bounds, num_out, /*trusted=*/true);
  return {out_indices, own_pairs, own_bounds};
}

Result rulebook(const at::Tensor& indices, int64_t batch_size, at::IntArrayRef spatial_shape,
                at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                at::IntArrayRef dilation, at::IntArrayRef output_padding, bool subm,
                bool transposed) {
  const Geometry g = make_geometry(batch_size, spatial_shape, kernel_size, stride, padding,
                                   dilation, output_padding, subm, transposed);
  check_indices(indices, g.ndim);
  const KeySteps steps = transposed ? window_steps(g.out_shape, g.in_shape, g)
                                    : window_steps(g.in_shape, g.out_shape, g);
  if (indices.size(0) == 0) return nothing(indices, g);
  const at::Tensor rows = indices.contiguous();
  uint64_t cells = steps.limit;
  if (!subm) cells = std::max(cells, KeySteps(g.out_shape, g.ndim, batch_size).limit);
  return cells <= uint64_t{kRulebookMaxCell} ? build(rows, g, steps) : wide::build(rows, g, steps);
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) { m.impl("sparse_conv_rulebook", TORCH_FN(rulebook)); }

}  // namespace mxd::sparse_conv::npu
