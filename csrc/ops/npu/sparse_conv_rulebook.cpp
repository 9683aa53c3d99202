// Rulebook of a sparse convolution on the NPU, element for element the CPU's. Voxels are numbered
// and sorted, and the sorted lists are joined (csrc/kernels/sparse_conv_rulebook.cpp); nothing but
// a few counts goes to the host, and memory grows with the voxels, never with the grid.
#include "sparse_conv_rulebook.h"

#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "../voxel_check.h"
#include "sparse_conv_rulebook_tiling.h"

namespace mxd::sparse_conv::npu {
namespace {

using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

using mxd::kernels::kRulebookMaxCell;
using mxd::kernels::kRulebookRun;

static_assert(mxd::kernels::kTileRows == kTileRows && mxd::kernels::kRulebookDims == kMaxDims);

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

// Sorts voxels by their cells, which must all be different and none of them -1.
Voxels sort_voxels(const at::Tensor& cells, const at::Tensor& indices, const Geometry& g) {
  const auto [sorted, order] = at::sort(cells, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const Voxels voxels{sorted, order.to(at::kInt)};
  const at::Tensor twins = sorted.slice(0, 1).eq(sorted.slice(0, 0, -1)).any();
  // Only in this case are the voxels copied to the host, to say which one is wrong.
  if (twins.logical_or(sorted.select(0, 0).lt(0)).item<bool>())
    check_voxels(indices, g.batch_size, at::IntArrayRef(g.in_shape.data(), g.ndim));
  return voxels;
}

Voxels in_order(const at::Tensor& cells) {
  return {cells, at::arange(cells.size(0), cells.options().dtype(at::kInt))};
}

std::tuple<at::Tensor, at::Tensor> transpose(const at::Tensor& pairs, const at::Tensor& bounds,
                                             int64_t num_in) {
  check_transpose(pairs, bounds, num_in);
  const at::Tensor in = pairs.select(1, 0), out = pairs.select(1, 1);
  const at::Tensor outside = in.lt(0).logical_or(in.ge(num_in));
  if (outside.any().item<bool>())
    TORCH_CHECK_VALUE(false, "pairs must name input rows below num_in ", num_in, ", named ",
                      in.masked_select(outside).select(0, 0).item<int32_t>());
  const int64_t volume = bounds.size(1) - 1;
  const at::Tensor sizes = (bounds.slice(1, 1) - bounds.slice(1, 0, -1)).flatten();
  const at::Tensor points = at::arange(volume, bounds.options()).repeat({bounds.size(0)});
  const at::Tensor point = at::repeat_interleave(points, sizes, /*dim=*/0, pairs.size(0));
  return group(out, in, in.to(at::kLong).div(kTileRows, "floor") * volume + point,
               tile_count(num_in), volume);
}

// The rulebook of no outputs.
Result nothing(const at::Tensor& indices, const Geometry& g) {
  return {at::empty({0, g.ndim + 1}, indices.options()), at::empty({0, 2}, indices.options()),
          at::empty({0, g.kernel_volume + 1}, indices.options().dtype(at::kLong))};
}

Result build(const Path& path, const at::Tensor& indices, const Geometry& g,
             const KeySteps& steps) {
  std::array<int64_t, kMaxDims> one, zero{};
  one.fill(1);
  const Numbering voxel_cells = number_cells(steps, g, one, g.padding);
  const Numbering window_cells = number_cells(steps, g, g.stride, zero);
  // Transposed, the inputs are the windows, over the outputs.
  const Voxels inputs =
      sort_voxels(path.cells(indices, g, g.transposed ? window_cells : voxel_cells), indices, g);
  if (g.subm) {
    const auto [pairs, bounds] =
        path.join(inputs, inputs, kernel_rows(steps, g, -voxel_cells.shift));
    return {indices.clone(), pairs, bounds};
  }

  const KeySteps out_steps(g.out_shape, g.ndim, g.batch_size);
  const at::Tensor reached = path.reached(indices, g, out_steps);
  const int64_t count = reached.size(0);
  if (count == 0) return nothing(indices, g);
  check_output_count(count);
  const auto [out_indices, cells] =
      path.decode(reached, g, out_steps, g.transposed ? voxel_cells : window_cells);
  const KernelRows kernel = kernel_rows(steps, g, 0);
  if (g.transposed) {
    const auto [exchanged, tiles] = path.join(inputs, in_order(cells), kernel);
    const auto [pairs, bounds] = transpose(exchanged, tiles, count);
    return {out_indices, pairs, bounds};
  }
  const auto [pairs, bounds] = path.join(in_order(cells), inputs, kernel);
  return {out_indices, pairs, bounds};
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
  return cells <= uint64_t{kRulebookMaxCell} ? build(narrow, rows, g, steps)
                                             : build(wide, rows, g, steps);
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> group(const at::Tensor& in, const at::Tensor& out,
                                         const at::Tensor& bins, int64_t tiles, int64_t volume) {
  const auto [sorted, order] = at::sort(bins, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const at::Tensor pairs = at::stack({in, out}, 1).index_select(0, order);
  if (tiles == 0) return {pairs, at::empty({0, volume + 1}, bins.options())};
  const at::Tensor edges = at::searchsorted(sorted, at::arange(tiles * volume + 1, bins.options()));
  return {pairs, edges.unfold(0, volume + 1, volume).contiguous()};
}

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("sparse_conv_rulebook", TORCH_FN(rulebook));
  m.impl("sparse_conv_rulebook_transpose", TORCH_FN(transpose));
}

}  // namespace mxd::sparse_conv::npu
