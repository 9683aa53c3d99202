// The rulebook of grids with more cells than int32 can number. Cells are int64 and computed by
// PyTorch's operators; they are sorted as words (sort.h).
#include <vector>

#include "../voxel_check.h"
#include "sort.h"
#include "sparse_conv_rulebook.h"

namespace mxd::sparse_conv::npu::wide {
namespace {

using mxd::npu::from_words;
using mxd::npu::to_words;

// Cells in ascending order, and the rows of the voxels that they belong to (int32).
struct Cells {
  at::Tensor cells, rows;
};

at::Tensor cells(const at::Tensor& indices, const Geometry& g, const Numbering& numbering) {
  const at::Tensor columns = indices.to(at::kLong);
  at::Tensor cells = at::full({indices.size(0)}, numbering.shift, columns.options());
  at::Tensor inside = at::ones_like(cells, at::kBool);
  for (int column = 0; column <= g.ndim; column++) {
    const at::Tensor value = columns.select(1, column);
    const int64_t limit = column == 0 ? g.batch_size : g.in_shape[column - 1];
    inside = inside & value.ge(0) & value.lt(limit);
    cells = cells + value * numbering.step[column];
  }
  return cells.masked_fill(inside.logical_not(), -1);
}

at::Tensor reached(const at::Tensor& indices, const Geometry& g, const KeySteps& steps) {
  const at::Tensor columns = indices.to(at::kLong);
  at::Tensor cells = columns.slice(1, 0, 1) * static_cast<int64_t>(steps.batch_step);
  at::Tensor there = at::ones_like(cells, at::kBool);
  for (int d = 0; d < g.ndim; d++) {
    const at::Tensor points = at::arange(g.kernel[d], columns.options()) * g.dilation[d];
    const at::Tensor coordinate = columns.slice(1, 1 + d, 2 + d);
    at::Tensor place, meets;
    if (g.transposed) {
      place = coordinate * g.stride[d] - g.padding[d] + points;
      meets = place.ge(0);
    } else {
      const at::Tensor from = coordinate + g.padding[d] - points;
      place = from.div(g.stride[d], "floor");
      meets = from.ge(0) & place.mul(g.stride[d]).eq(from);
    }
    meets = meets & place.lt(g.out_shape[d]);
    place = place * static_cast<int64_t>(steps.step[d]);
    cells = (cells.unsqueeze(2) + place.unsqueeze(1)).flatten(1);
    there = (there.unsqueeze(2) & meets.unsqueeze(1)).flatten(1);
  }
  cells = cells.masked_select(there);
  const int64_t count = cells.size(0);
  const at::Tensor total = at::zeros({1}, indices.options());
  const mxd::npu::Unique unique =
      mxd::npu::unique_keys(mxd::npu::sort_words(to_words(cells), count).keys, count, total);
  return from_words(unique.keys, total.item<int32_t>());
}

std::tuple<at::Tensor, at::Tensor> decode(const at::Tensor& cells, const Geometry& g,
                                          const KeySteps& steps, const Numbering& numbering) {
  std::vector<at::Tensor> columns;
  at::Tensor rest = cells, others = at::full_like(cells, numbering.shift);
  for (int column = 0; column <= g.ndim; column++) {
    const auto step = static_cast<int64_t>(column == 0 ? steps.batch_step : steps.step[column - 1]);
    columns.push_back(rest.div(step, "floor"));
    rest = rest - columns.back() * step;
    others = others + columns.back() * numbering.step[column];
  }
  return {at::stack(columns, 1).to(at::kInt), others};
}

// Sorts voxels by their cells, which must all be different and none of them -1.
Cells sort_voxels(const at::Tensor& cells, const at::Tensor& indices, const Geometry& g) {
  const int64_t count = cells.size(0);
  const mxd::npu::Sorted sorted = mxd::npu::sort_words(to_words(cells), count);
  const at::Tensor in_order = from_words(sorted.keys, count);
  const at::Tensor twins = in_order.slice(0, 1).eq(in_order.slice(0, 0, -1)).any();
  if (twins.logical_or(in_order.select(0, 0).lt(0)).item<bool>())
    check_voxels(indices, g.batch_size, at::IntArrayRef(g.in_shape.data(), g.ndim));
  return {in_order, sorted.rows};
}

Cells in_order(const at::Tensor& cells) {
  return {cells, at::arange(cells.size(0), cells.options().dtype(at::kInt))};
}

// (pairs, bounds) of windows and the voxels in them; the pairs are (voxel's row, window's row). All
// cells that are looked for are sorted together with those of the voxels, so that equal ones meet
// and get one number.
std::tuple<at::Tensor, at::Tensor> join(const Cells& windows, const Cells& voxels,
                                        const KernelRows& kernel) {
  const int64_t volume = kernel.rows * kernel.run, count = voxels.cells.size(0);
  const int64_t window_count = windows.cells.size(0), tiles = tile_count(window_count);
  std::vector<at::Tensor> all{voxels.cells};
  for (int64_t k = 0; k < volume; k++) {
    int64_t offset = kernel.shift + k % kernel.run;
    for (int64_t d = kernel.dims - 1, rest = k / kernel.run; d >= 0; rest /= kernel.kernel[d], d--)
      offset += rest % kernel.kernel[d] * kernel.step[d];
    all.push_back(windows.cells + offset);
  }
  const at::Tensor cells = at::cat(all);
  check_output_count(cells.size(0));
  const mxd::npu::Sorted sorted = mxd::npu::sort_words(to_words(cells), cells.size(0));
  const at::Tensor order = sorted.rows.to(at::kLong);
  const at::Tensor in_order = from_words(sorted.keys, cells.size(0));
  const at::Tensor differs = in_order.slice(0, 1).ne(in_order.slice(0, 0, -1)).to(at::kInt);
  const at::Tensor number = at::constant_pad_nd(differs, {1, 0}).cumsum(0, at::kInt);
  const at::Tensor numbers = at::empty_like(number).scatter_(0, order, number);
  const at::Tensor row =
      at::full_like(number, -1).scatter_(0, numbers.slice(0, 0, count).to(at::kLong), voxels.rows);
  const at::Tensor met = mxd::npu::take_rows(row, numbers.slice(0, count));
  const at::Tensor found = met.ge(0).nonzero().squeeze(1);
  const at::Tensor window = found.remainder(window_count), point = found.div(window_count, "floor");
  const at::Tensor pairs =
      at::stack({met.index_select(0, found), windows.rows.index_select(0, window)}, 1);
  check_bins(pairs, tiles, volume);
  const at::Tensor bins = window.div(kTileRows, "floor") * volume + point;
  return group(pairs, bins.to(at::kInt), tiles, volume, /*flip=*/false);
}

}  // namespace

Result build(const at::Tensor& indices, const Geometry& g, const KeySteps& steps) {
  std::array<int64_t, kMaxDims> one, zero{};
  one.fill(1);
  const Numbering voxel_cells = number_cells(steps, g, one, g.padding);
  const Numbering window_cells = number_cells(steps, g, g.stride, zero);
  // Transposed, the inputs are the windows, over the outputs.
  const Cells inputs =
      sort_voxels(cells(indices, g, g.transposed ? window_cells : voxel_cells), indices, g);
  if (g.subm) {
    const auto [pairs, bounds] = join(inputs, inputs, kernel_rows(steps, g, -voxel_cells.shift));
    return {indices.clone(), pairs, bounds};
  }
  const KeySteps out_steps(g.out_shape, g.ndim, g.batch_size);
  const at::Tensor outputs = reached(indices, g, out_steps);
  const int64_t count = outputs.size(0);
  if (count == 0) return nothing(indices, g);
  check_output_count(count);
  const auto [out_indices, out_cells] =
      decode(outputs, g, out_steps, g.transposed ? voxel_cells : window_cells);
  const KernelRows kernel = kernel_rows(steps, g, 0);
  if (g.transposed) {
    const auto [exchanged, tiles] = join(inputs, in_order(out_cells), kernel);
    const auto [pairs, bounds] = transpose(exchanged, tiles, count, /*trusted=*/true);
    return {out_indices, pairs, bounds};
  }
  const auto [pairs, bounds] = join(in_order(out_cells), inputs, kernel);
  return {out_indices, pairs, bounds};
}

}  // namespace mxd::sparse_conv::npu::wide
