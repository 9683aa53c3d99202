// Sums of points by cell, for BEV pooling and its fused form: a tile of cells at a time.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "../bev_pool.h"
#include "compute_type.h"
#include "rows.h"

namespace mxd::bev_pool {

template <typename T, typename Points>
struct PoolArgs {
  Points points;
  const int32_t *cells, *ranks;
  const int64_t* intervals;
  T* out;
  Grid grid;
  int64_t channels;
};

// Sums the points of a tile. `sum` holds its cells. Returns false where a point is not in the tile.
template <typename T, typename Points>
bool pool_tile(const PoolArgs<T, Points>& args, int64_t tile,
               std::vector<at::opmath_type<T>>& sum) {
  const Grid& grid = args.grid;
  const int64_t columns = grid.tile_columns(), channels = args.channels;
  const int64_t row = tile / columns % grid.tile_rows() * kTile, column = tile % columns * kTile;
  const int64_t plane = tile / columns / grid.tile_rows();
  const int64_t first = (plane * grid.height + row) * grid.width + column;
  const auto height = static_cast<uint32_t>(std::min(kTile, grid.height - row));
  const auto width = static_cast<uint32_t>(std::min(kTile, grid.width - column));
  const auto pitch = static_cast<uint32_t>(grid.width);

  sum.assign(kTile * kTile * channels, 0);
  const int64_t end = args.intervals[tile + 1];
  for (int64_t i = args.intervals[tile]; i < end; i++) {
    args.points.prefetch(args.ranks[std::min(i + cpu::kRowsAhead, end - 1)]);
    const int64_t point = args.ranks[i];
    const auto place = static_cast<uint32_t>(args.cells[point] - first);
    const uint32_t h = place / pitch, w = place % pitch;
    if (h >= height || w >= width) return false;
    args.points.add(point, sum.data() + (h * kTile + w) * channels);
  }
  for (uint32_t h = 0; h < height; h++)
    std::copy_n(sum.data() + h * kTile * channels, width * channels,
                args.out + (first + h * grid.width) * channels);
  return true;
}

// `points` has their channels, prefetch(point), and add(point, sum), which adds its row to a sum.
template <typename T, typename Points>
at::Tensor pool(const Points& points, int64_t count, const at::TensorOptions& options,
                const at::Tensor& cells, const at::Tensor& ranks, const at::Tensor& intervals,
                const Grid& grid) {
  const at::Tensor all_cells = cells.contiguous(), all_ranks = ranks.contiguous(),
                   all_intervals = intervals.contiguous();
  const int64_t* bound = all_intervals.const_data_ptr<int64_t>();
  TORCH_CHECK_VALUE(std::is_sorted(bound, bound + intervals.numel()) && bound[0] == 0 &&
                        bound[grid.tiles()] <= count,
                    "intervals must ascend from 0 to at most the number of points, ", count);
  cpu::check_rows("ranks", all_ranks, 0, count);
  const at::Tensor out = cpu::empty_output(
      {grid.batch, grid.depth, grid.height, grid.width, points.channels}, options);
  T* to = out.mutable_data_ptr<T>();
  const PoolArgs<T, Points> args{points,
                                 all_cells.const_data_ptr<int32_t>(),
                                 all_ranks.const_data_ptr<int32_t>(),
                                 bound,
                                 to,
                                 grid,
                                 points.channels};
  std::vector<std::vector<at::opmath_type<T>>> sums(at::get_num_threads());
  std::atomic<bool> inside{true};
  cpu::for_each_unit(grid.tiles(), [&](int64_t tile, int64_t worker) {
    if (!pool_tile(args, tile, sums[worker])) inside = false;
  });
  TORCH_CHECK_VALUE(inside, "cells must lie in the tiles of their intervals, and some do not");
  return out;
}

}  // namespace mxd::bev_pool
