// BEV pooling on the CPU. The points are sorted by tiles of cells that fit a core's cache. One
// thread sums a tile in the order of the points, mostly from neighbouring rows of the features, and
// writes each cell once.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "../bev_pool.h"
#include "bev_pool.h"
#include "compute_type.h"
#include "rows.h"

namespace mxd::bev_pool {
namespace {

// Fills the cell and the tile of each point; outside of the grid they are -1 and grid.tiles().
template <typename Index>
void find_cells(const Index* coords, int64_t count, const Grid& grid, int32_t* cells,
                int32_t* tiles) {
  const int64_t tile_rows = grid.tile_rows(), tile_columns = grid.tile_columns();
  const auto outside = static_cast<int32_t>(grid.tiles());
  at::parallel_for(0, count, 8192, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t h = coords[i * 4 + kH], w = coords[i * 4 + kW], d = coords[i * 4 + kD],
                    b = coords[i * 4 + kB];
      cells[i] = -1;
      tiles[i] = outside;
      if (h < 0 || h >= grid.height || w < 0 || w >= grid.width || d < 0 || d >= grid.depth ||
          b < 0 || b >= grid.batch)
        continue;
      const int64_t plane = b * grid.depth + d;
      cells[i] = static_cast<int32_t>((plane * grid.height + h) * grid.width + w);
      tiles[i] = static_cast<int32_t>((plane * tile_rows + h / kTile) * tile_columns + w / kTile);
    }
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> plan_cpu(const at::Tensor& coords, int64_t B,
                                                        int64_t D, int64_t H, int64_t W) {
  check_plan(coords, B, D, H, W);
  const Grid grid{B, D, H, W};
  const at::Tensor rows = coords.contiguous();
  const int64_t count = rows.size(0), bins = grid.tiles() + 1;
  const auto ints = coords.options().dtype(at::kInt);
  auto cells = at::empty({count}, ints), ranks = at::empty({count}, ints);
  auto intervals = at::empty({bins}, coords.options().dtype(at::kLong));
  std::vector<int32_t> tiles(count);
  int32_t* cell = cells.mutable_data_ptr<int32_t>();
  if (coords.scalar_type() == at::kInt)
    find_cells(rows.const_data_ptr<int32_t>(), count, grid, cell, tiles.data());
  else
    find_cells(rows.const_data_ptr<int64_t>(), count, grid, cell, tiles.data());

  // A counting sort. The histograms stay smaller than the points.
  const int64_t parts = std::clamp<int64_t>(count / bins, 1, at::get_num_threads());
  std::vector<int32_t> place(parts * bins);
  cpu::for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
    int32_t* histogram = place.data() + part * bins;
    for (int64_t i = begin; i < end; i++) histogram[tiles[i]]++;
  });
  int64_t* bound = intervals.mutable_data_ptr<int64_t>();
  int32_t next = 0;
  for (int64_t bin = 0; bin < bins; bin++) {
    bound[bin] = next;
    for (int64_t part = 0; part < parts; part++)
      next += std::exchange(place[part * bins + bin], next);
  }
  int32_t* rank = ranks.mutable_data_ptr<int32_t>();
  cpu::for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
    int32_t* to = place.data() + part * bins;
    for (int64_t i = begin; i < end; i++) rank[to[tiles[i]]++] = static_cast<int32_t>(i);
  });
  return {cells, ranks, intervals};
}

// Rows that are pooled as they are.
template <typename T>
struct Features {
  const T* rows;
  int64_t channels;

  void prefetch(int64_t point) const { cpu::prefetch_row(rows + point * channels, channels); }
  void add(int64_t point, at::opmath_type<T>* sum) const {
    cpu::add_row(rows + point * channels, channels, sum);
  }
};

at::Tensor pool_cpu(const at::Tensor& feats, const at::Tensor& cells, const at::Tensor& ranks,
                    const at::Tensor& intervals, int64_t B, int64_t D, int64_t H, int64_t W) {
  check_pool(feats, cells, ranks, intervals, B, D, H, W);
  const at::Tensor rows = feats.contiguous();
  return MXD_DISPATCH_FLOAT(feats.scalar_type(), "bev_pool", [&] {
    const Features<scalar_t> points{rows.const_data_ptr<scalar_t>(), feats.size(1)};
    return pool<scalar_t>(points, feats.size(0), feats.options(), cells, ranks, intervals,
                          {B, D, H, W});
  });
}

at::Tensor grad_cpu(const at::Tensor& grad, const at::Tensor& cells) {
  check_grad(grad, cells);
  const at::Tensor all_cells = cells.contiguous();
  cpu::check_rows("cells", all_cells, -1, grad.size(0));
  return cpu::gather_rows(grad.contiguous(), all_cells);
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("bev_pool_plan", TORCH_FN(plan_cpu));
  m.impl("bev_pool", TORCH_FN(pool_cpu));
  m.impl("bev_pool_grad", TORCH_FN(grad_cpu));
}

}  // namespace mxd::bev_pool
