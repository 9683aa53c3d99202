// BEV pooling on the CPU. The points are sorted by tiles of cells that fit a core's cache. One
// thread sums a tile in the order of the points, mostly from neighbouring rows of the features, and
// writes each cell once.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "../bev_pool.h"
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

// Rows that a depth and a context make.
template <typename T>
struct Lifted {
  const T *depth, *context;
  int64_t depths, pixels, channels;

  const T* row(int64_t point) const {
    const auto at = static_cast<uint32_t>(point), width = static_cast<uint32_t>(pixels);
    const uint32_t plane = at / width, image = plane / static_cast<uint32_t>(depths);
    return context + (image * pixels + at - plane * width) * channels;
  }
  void prefetch(int64_t) const {}  // a context is read for each of its depths: it is in the cache
  void add(int64_t point, at::opmath_type<T>* sum) const {
    const at::opmath_type<T> weight = cpu::widen(depth[point]);
    const T* from = row(point);
    for (int64_t c = 0; c < channels; c++) sum[c] += weight * cpu::widen(from[c]);
  }
};

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

template <typename T>
Lifted<T> lift(const at::Tensor& depth, const at::Tensor& context) {
  return {depth.const_data_ptr<T>(), context.const_data_ptr<T>(), depth.size(1), depth.size(2),
          context.size(2)};
}

at::Tensor fused_cpu(const at::Tensor& depth, const at::Tensor& context, const at::Tensor& cells,
                     const at::Tensor& ranks, const at::Tensor& intervals, int64_t B, int64_t D,
                     int64_t H, int64_t W) {
  check_fused(depth, context, cells, ranks, intervals, B, D, H, W);
  const at::Tensor weights = depth.contiguous(), rows = context.contiguous();
  return MXD_DISPATCH_FLOAT(depth.scalar_type(), "bev_pool_fused", [&] {
    return pool<scalar_t>(lift<scalar_t>(weights, rows), depth.numel(), context.options(), cells,
                          ranks, intervals, {B, D, H, W});
  });
}

at::Tensor grad_cpu(const at::Tensor& grad, const at::Tensor& cells) {
  check_grad(grad, cells);
  const at::Tensor all_cells = cells.contiguous();
  cpu::check_rows("cells", all_cells, -1, grad.size(0));
  return cpu::gather_rows(grad.contiguous(), all_cells);
}

// The sum of a[c] * b[c] in kLanes parts, which vectorise.
template <typename T>
T dot(const T* a, const T* b, int64_t count) {
  constexpr int64_t kLanes = 16;
  T parts[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes)
    for (int64_t lane = 0; lane < kLanes; lane++) parts[lane] += a[c + lane] * b[c + lane];
  for (int64_t lane = 0; c < count; lane++, c++) parts[lane] += a[c] * b[c];
  T sum = 0;
  for (const T part : parts) sum += part;
  return sum;
}

// The gradients of a group of neighbouring pixels of an image, depth by depth: pixels side by side
// mostly see the same cell.
template <typename T>
class LiftGrad {
 public:
  static constexpr int64_t kPixels = 16;

  LiftGrad(const Lifted<T>& points, const T* grad, const int32_t* cells, T* grad_depth,
           T* grad_context)
      : points_(points),
        grad_(grad),
        cells_(cells),
        grad_depth_(grad_depth),
        grad_context_(grad_context) {}

  int64_t groups() const { return (points_.pixels + kPixels - 1) / kPixels; }

  void operator()(int64_t image, int64_t group) const {
    using Wide = at::opmath_type<T>;
    const int64_t channels = points_.channels, first = group * kPixels;
    const int64_t count = std::min(kPixels, points_.pixels - first);
    const int64_t row = (image * points_.pixels + first) * channels;
    std::vector<Wide> context(count * channels), sum(count * channels), cell_grad(channels);
    for (int64_t i = 0; i < count * channels; i++)
      context[i] = cpu::widen(points_.context[row + i]);
    int32_t loaded = -1;
    for (int64_t d = 0; d < points_.depths; d++) {
      const int64_t point = (image * points_.depths + d) * points_.pixels + first;
      for (int64_t i = 0; i < count; i++) {
        const int32_t cell = cells_[point + i];
        grad_depth_[point + i] = 0;
        if (cell < 0) continue;
        if (cell != loaded)
          for (int64_t c = 0; c < channels; c++)
            cell_grad[c] = cpu::widen(grad_[cell * channels + c]);
        loaded = cell;
        const Wide weight = cpu::widen(points_.depth[point + i]);
        Wide* to = sum.data() + i * channels;
        for (int64_t c = 0; c < channels; c++) to[c] += weight * cell_grad[c];
        grad_depth_[point + i] = dot(context.data() + i * channels, cell_grad.data(), channels);
      }
    }
    std::copy(sum.begin(), sum.end(), grad_context_ + row);
  }

 private:
  const Lifted<T> points_;
  const T* grad_;
  const int32_t* cells_;
  T *grad_depth_, *grad_context_;
};

std::tuple<at::Tensor, at::Tensor> fused_grad_cpu(const at::Tensor& grad, const at::Tensor& depth,
                                                  const at::Tensor& context,
                                                  const at::Tensor& cells) {
  check_fused_grad(grad, depth, context, cells);
  const at::Tensor weights = depth.contiguous(), rows = context.contiguous(),
                   cell_grads = grad.contiguous(), all_cells = cells.contiguous();
  cpu::check_rows("cells", all_cells, -1, grad.size(0));
  auto grad_depth = cpu::empty_output(depth.sizes(), depth.options()),
       grad_context = cpu::empty_output(context.sizes(), context.options());
  MXD_DISPATCH_FLOAT(depth.scalar_type(), "bev_pool_fused_grad", [&] {
    const LiftGrad<scalar_t> run(
        lift<scalar_t>(weights, rows), cell_grads.const_data_ptr<scalar_t>(),
        all_cells.const_data_ptr<int32_t>(), grad_depth.mutable_data_ptr<scalar_t>(),
        grad_context.mutable_data_ptr<scalar_t>());
    cpu::for_each_unit(depth.size(0) * run.groups(), [&](int64_t unit, int64_t) {
      run(unit / run.groups(), unit % run.groups());
    });
  });
  return {grad_depth, grad_context};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("bev_pool_plan", TORCH_FN(plan_cpu));
  m.impl("bev_pool", TORCH_FN(pool_cpu));
  m.impl("bev_pool_grad", TORCH_FN(grad_cpu));
  m.impl("bev_pool_fused", TORCH_FN(fused_cpu));
  m.impl("bev_pool_fused_grad", TORCH_FN(fused_grad_cpu));
}

}  // namespace mxd::bev_pool
