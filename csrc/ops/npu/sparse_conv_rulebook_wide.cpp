// The rulebook of grids with more cells than int32 can number, by PyTorch's operators.
#include <vector>

#include "sparse_conv_rulebook.h"

namespace mxd::sparse_conv::npu {
namespace {

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
  return std::get<0>(at::_unique2(cells.masked_select(there), /*sorted=*/true));
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

std::tuple<at::Tensor, at::Tensor> join(const Voxels& windows, const Voxels& voxels,
                                        const KernelRows& kernel) {
  const int64_t volume = kernel.rows * kernel.run, last = voxels.cells.size(0) - 1;
  std::vector<at::Tensor> in, out, bins;
  for (int64_t k = 0; k < volume; k++) {
    int64_t offset = kernel.shift + k % kernel.run;
    for (int64_t d = kernel.dims - 1, rest = k / kernel.run; d >= 0; rest /= kernel.kernel[d], d--)
      offset += rest % kernel.kernel[d] * kernel.step[d];
    const at::Tensor sought = windows.cells + offset;
    const at::Tensor position = at::searchsorted(voxels.cells, sought).clamp_max(last);
    const at::Tensor window =
        voxels.cells.index_select(0, position).eq(sought).nonzero().squeeze(1);
    in.push_back(voxels.rows.index_select(0, position.index_select(0, window)));
    out.push_back(windows.rows.index_select(0, window));
    bins.push_back(window.div(kTileRows, "floor") * volume + k);
  }
  return group(at::cat(in), at::cat(out), at::cat(bins), tile_count(windows.cells.size(0)), volume);
}

}  // namespace

const Path wide{cells, reached, decode, join};

}  // namespace mxd::sparse_conv::npu
