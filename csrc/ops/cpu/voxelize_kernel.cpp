// Voxelization on the CPU: memory grows with the points, never with the grid.
//
// Points are dealt by a hash of their cell to shards whose table fits a core's cache. A shard keeps
// its points in their order, so it can tell each point the first one of its cell and how many came
// before it. Voxels are then numbered by their first points. The number of threads changes nothing.
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <vector>

#include "../voxelize.h"
#include "rows.h"

namespace mxd::voxelize {
namespace {

constexpr uint64_t kOutside = ~uint64_t{0};
constexpr int64_t kGrain = 4096;

#define MXD_DISPATCH(type, name, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, type, name, __VA_ARGS__)

// The grid in the type that cells are computed in.
template <typename Float>
struct Scale {
  std::array<Float, kMaxDims> low, size, cells;

  explicit Scale(const Grid& grid) {
    std::copy(grid.low.begin(), grid.low.end(), low.begin());
    std::copy(grid.size.begin(), grid.size.end(), size.begin());
    std::copy(grid.cells.begin(), grid.cells.end(), cells.begin());
  }
};

// The cell of a point in x, y, z; false outside of the grid. Rounding toward zero is rounding down
// here, and the comparisons send NaN outside.
template <int ndim, typename T>
bool find_cell(const Scale<at::opmath_type<T>>& scale, const T* point, int32_t* cell) {
  using Float = at::opmath_type<T>;
  bool inside = true;
  for (int d = 0; d < ndim; d++) {
    const Float at = (static_cast<Float>(point[d]) - scale.low[d]) / scale.size[d];
    const bool within = (at >= 0) & (at < scale.cells[d]);
    cell[d] = static_cast<int32_t>(within ? at : Float(0));
    inside &= within;
  }
  return inside;
}

// Calls body(part, begin, end, find) in parallel for parts of the points, find being find_cell of a
// row.
template <typename Body>
void for_each_points(const at::Tensor& points, const Grid& grid, int64_t parts, const Body& body) {
  MXD_DISPATCH(points.scalar_type(), "voxelize", [&] {
    const auto* data = points.const_data_ptr<scalar_t>();
    const int64_t width = points.size(1);
    const Scale<at::opmath_type<scalar_t>> scale(grid);
    auto run = [&](auto ndim) {
      cpu::for_each_part(parts, points.size(0), [&](int64_t part, int64_t begin, int64_t end) {
        body(part, begin, end, [=](int64_t row, int32_t* cell) {
          return find_cell<decltype(ndim)::value>(scale, data + row * width, cell);
        });
      });
    };
    switch (grid.ndim) {
      case 1:
        return run(std::integral_constant<int, 1>());
      case 2:
        return run(std::integral_constant<int, 2>());
      case 3:
        return run(std::integral_constant<int, 3>());
      default:
        return run(std::integral_constant<int, kMaxDims>());
    }
  });
}

// A pass over the points of one sweep takes less time than waking threads for it.
int64_t part_count(int64_t points) {
  constexpr int64_t kPoints = 32768;
  return std::clamp<int64_t>(points / kPoints, 1, at::get_num_threads());
}

at::Tensor dynamic_cpu(const at::Tensor& points, at::ArrayRef<double> voxel_size,
                       at::ArrayRef<double> coors_range) {
  const Grid grid = make_grid(voxel_size, coors_range);
  check_points(points, grid);
  const int64_t ndim = grid.ndim;
  auto coors = at::empty({points.size(0), ndim}, points.options().dtype(at::kInt));
  int32_t* out = coors.mutable_data_ptr<int32_t>();
  for_each_points(points.contiguous(), grid, part_count(points.size(0)),
                  [&](int64_t, int64_t begin, int64_t end, const auto& find) {
                    int32_t cell[kMaxDims];
                    for (int64_t i = begin; i < end; i++) {
                      const bool inside = find(i, cell);
                      for (int64_t d = 0; d < ndim; d++)
                        out[i * ndim + d] = inside ? cell[ndim - 1 - d] : -1;
                    }
                  });
  return coors;
}

// The points, dealt to shards by their cell, in their order; those outside are dealt to none.
struct Shards {
  std::vector<uint64_t> keys;  // the row-major cell of every point, or kOutside
  std::vector<int32_t> rows;   // shard s has rows[bounds[s] : bounds[s + 1]]
  std::vector<int64_t> bounds{0};
  int bits = 0;

  static uint64_t hash(uint64_t key) { return key * 0x9E3779B97F4A7C15; }

  Shards(const at::Tensor& points, const Grid& grid, int64_t parts)
      : keys(points.size(0)), rows(points.size(0)) {
    constexpr int64_t kPoints = 16384;  // of one shard, about
    constexpr int kMaxBits = 12;
    const int64_t count = keys.size();
    while (bits < kMaxBits && count >> bits > kPoints) bits++;
    const int64_t shards = int64_t{1} << bits;
    // No branches: which points are outside is hard to foresee.
    auto shard_of = [&](uint64_t key) {
      return key == kOutside ? shards : static_cast<int64_t>(hash(key) >> 1 >> (63 - bits));
    };

    std::vector<int64_t> place(parts * (shards + 1));
    for_each_points(points, grid, parts,
                    [&](int64_t part, int64_t begin, int64_t end, const auto& find) {
                      int64_t* histogram = &place[part * (shards + 1)];
                      int32_t cell[kMaxDims];
                      for (int64_t i = begin; i < end; i++) {
                        const bool inside = find(i, cell);
                        uint64_t key = 0;
                        for (int d = grid.ndim - 1; d >= 0; d--)
                          key = key * grid.cells[d] + cell[d];
                        keys[i] = inside ? key : kOutside;
                        histogram[shard_of(keys[i])]++;
                      }
                    });
    int64_t next = 0;
    for (int64_t shard = 0; shard <= shards; shard++) {
      for (int64_t part = 0; part < parts; part++)
        next += std::exchange(place[part * (shards + 1) + shard], next);
      if (shard < shards) bounds.push_back(next);
    }
    cpu::for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
      int64_t* to = &place[part * (shards + 1)];
      for (int64_t i = begin; i < end; i++) rows[to[shard_of(keys[i])]++] = static_cast<int32_t>(i);
    });
  }
};

// Who shares a cell.
struct Members {
  std::vector<int32_t> leader;  // the first point in the cell of each point, or -1
  std::vector<int32_t> rank;    // how many came before it
  std::vector<int32_t> size;    // of a leader: the points in its cell

  explicit Members(const Shards& shards)
      : leader(shards.keys.size(), -1), rank(shards.keys.size()), size(shards.keys.size()) {
    std::vector<std::vector<int32_t>> tables(at::get_num_threads());
    cpu::for_each_unit(shards.bounds.size() - 1, [&](int64_t shard, int64_t worker) {
      const int64_t begin = shards.bounds[shard], end = shards.bounds[shard + 1];
      int table_bits = 1;
      while (int64_t{1} << table_bits < (end - begin) * 2) table_bits++;
      const uint64_t mask = (uint64_t{1} << table_bits) - 1;
      auto& table = tables[worker];  // of leaders, by linear probing
      table.assign(mask + 1, -1);
      for (int64_t i = begin; i < end; i++) {
        const int32_t row = shards.rows[i];
        const uint64_t key = shards.keys[row];
        uint64_t at = Shards::hash(key) << shards.bits >> (64 - table_bits);
        while (table[at] >= 0 && shards.keys[table[at]] != key) at = (at + 1) & mask;
        const int32_t first = table[at] < 0 ? row : table[at];
        table[at] = leader[row] = first;
        rank[row] = size[first]++;
      }
    });
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> hard_cpu(
    const at::Tensor& points, at::ArrayRef<double> voxel_size, at::ArrayRef<double> coors_range,
    int64_t max_points, int64_t max_voxels) {
  const Grid grid = make_grid(voxel_size, coors_range);
  check_points(points, grid);
  check_limits(max_points, max_voxels);
  const at::Tensor rows = points.contiguous();
  const int64_t count = rows.size(0), ndim = grid.ndim, parts = part_count(count);
  const Members members(Shards(rows, grid, parts));

  // Voxels are numbered in the order of their leaders.
  std::vector<int32_t> leaders(count);
  std::vector<int64_t> first(parts + 1);
  cpu::for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
    int64_t found = begin;
    for (int64_t i = begin; i < end; i++) {
      leaders[found] = static_cast<int32_t>(i);
      found += members.leader[i] == i;
    }
    first[part + 1] = found - begin;
  });
  for (int64_t part = 0; part < parts; part++) first[part + 1] += first[part];
  const int64_t voxels = std::min(first[parts], max_voxels);

  const auto ints = points.options().dtype(at::kInt);
  auto coors = at::empty({voxels, ndim}, ints), num_points = at::empty({voxels}, ints);
  int32_t* coor = coors.mutable_data_ptr<int32_t>();
  int32_t* num = num_points.mutable_data_ptr<int32_t>();
  std::vector<int32_t> voxel_of(count, -1);  // of the leaders
  for_each_points(rows, grid, parts, [&](int64_t part, int64_t begin, int64_t, const auto& find) {
    int32_t cell[kMaxDims];
    const int64_t end = std::min(first[part + 1], voxels);
    for (int64_t voxel = first[part]; voxel < end; voxel++) {
      const int32_t leader = leaders[begin + voxel - first[part]];
      voxel_of[leader] = static_cast<int32_t>(voxel);
      num[voxel] = static_cast<int32_t>(std::min<int64_t>(members.size[leader], max_points));
      find(leader, cell);
      std::reverse_copy(cell, cell + ndim, coor + voxel * ndim);
    }
  });

  auto slots = at::full({voxels, max_points}, -1, ints);
  auto point_voxel_id = at::empty({count}, points.options().dtype(at::kLong));
  int32_t* slot = slots.mutable_data_ptr<int32_t>();
  int64_t* id = point_voxel_id.mutable_data_ptr<int64_t>();
  cpu::for_each_part(parts, count, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int32_t leader = members.leader[i];
      id[i] = leader < 0 ? -1 : voxel_of[leader];
      if (id[i] >= 0 && members.rank[i] < max_points)
        slot[id[i] * max_points + members.rank[i]] = static_cast<int32_t>(i);
    }
  });
  return {coors, num_points, slots, point_voxel_id};
}

at::Tensor gather_cpu(const at::Tensor& points, const at::Tensor& slots, bool empty_mean) {
  check_gather(points, slots);
  const at::Tensor rows = points.contiguous(), all_slots = slots.contiguous();
  const int64_t count = rows.size(0), max_points = slots.size(1), channels = points.size(1);
  auto voxels = cpu::empty_output({slots.size(0), max_points, channels}, points.options());
  const int32_t* slot = all_slots.const_data_ptr<int32_t>();
  MXD_DISPATCH(points.scalar_type(), "voxelize_gather", [&] {
    using Float = at::opmath_type<scalar_t>;
    const auto* from = rows.const_data_ptr<scalar_t>();
    auto* out = voxels.mutable_data_ptr<scalar_t>();
    std::atomic<bool> inside{true};
    at::parallel_for(0, slots.size(0), 512, [&](int64_t begin, int64_t end) {
      std::vector<Float> sum(channels);
      for (int64_t voxel = begin; voxel < end; voxel++) {
        const int32_t* named = slot + voxel * max_points;
        scalar_t* to = out + voxel * max_points * channels;
        std::fill_n(to, max_points * channels, scalar_t(0));
        std::fill(sum.begin(), sum.end(), Float(0));
        int64_t filled = 0;
        for (int64_t s = 0; s < max_points; s++) {
          if (named[s] == -1) continue;
          if (named[s] < 0 || named[s] >= count) {
            inside = false;
            continue;
          }
          const scalar_t* row = from + named[s] * channels;
          for (int64_t c = 0; c < channels; c++) to[s * channels + c] = row[c];
          if (empty_mean) cpu::add_row(row, channels, sum.data());
          filled++;
        }
        if (!empty_mean || filled == 0) continue;
        for (int64_t s = 0; s < max_points; s++)
          if (named[s] == -1)
            for (int64_t c = 0; c < channels; c++)
              to[s * channels + c] = static_cast<scalar_t>(sum[c] / filled);
      }
    });
    TORCH_CHECK_VALUE(inside, "slots must be at least -1 and below ", count, ", and some are not");
  });
  return voxels;
}

at::Tensor gather_grad_cpu(const at::Tensor& grad, const at::Tensor& slots, int64_t num_points) {
  check_gather_grad(grad, slots, num_points);
  const at::Tensor rows = grad.contiguous(), all_slots = slots.contiguous();
  cpu::check_rows("slots", all_slots, -1, num_points);
  const int64_t channels = grad.size(2);
  auto grad_points = at::zeros({num_points, channels}, grad.options());
  const int32_t* slot = all_slots.const_data_ptr<int32_t>();
  MXD_DISPATCH(grad.scalar_type(), "voxelize_gather_grad", [&] {
    const auto* from = rows.const_data_ptr<scalar_t>();
    auto* to = grad_points.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, slots.numel(), kGrain, [&](int64_t begin, int64_t end) {
      // A point is in one slot at most.
      for (int64_t i = begin; i < end; i++)
        if (slot[i] >= 0)
          for (int64_t c = 0; c < channels; c++)
            to[slot[i] * channels + c] = from[i * channels + c];
    });
  });
  return grad_points;
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("voxelize_dynamic", TORCH_FN(dynamic_cpu));
  m.impl("voxelize_hard", TORCH_FN(hard_cpu));
  m.impl("voxelize_gather", TORCH_FN(gather_cpu));
  m.impl("voxelize_gather_grad", TORCH_FN(gather_grad_cpu));
}

}  // namespace mxd::voxelize
