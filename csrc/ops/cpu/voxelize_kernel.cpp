// Voxelization on the CPU: memory grows with the points, never with the grid.
//
// The points of a single sweep go through one hash table in their order. For more points that table
// would not fit the cache: they are divided into shards by a hash of their cell, each with a small
// table. A shard keeps the order of its points, so it finds the first point of each cell and how
// many came before each point; voxels are then numbered by their first points. Both ways give the
// same result for any number of threads.
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <vector>

#include "../voxelize.h"
#include "compute_type.h"
#include "parallel.h"

namespace mxd::voxelize {
namespace {

constexpr uint64_t kOutside = ~uint64_t{0};
constexpr int64_t kGrain = 8192;   // points that are worth a thread
constexpr int64_t kSweep = 65536;  // points beyond which one table for all is slower

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

// The cell of a point in x, y, z; false outside of the grid, and for NaN, whose comparisons are all
// false. Rounding toward zero is rounding down, as no number inside is negative.
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
  MXD_DISPATCH_FLOAT(points.scalar_type(), "voxelize", [&] {
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

int64_t part_count(int64_t points) {
  return std::clamp<int64_t>(points / kGrain, 1, at::get_num_threads());
}

at::Tensor dynamic_cpu(const at::Tensor& points, at::ArrayRef<double> voxel_size,
                       at::ArrayRef<double> coors_range) {
  check_dynamic(points, voxel_size, coors_range);
  const Grid grid = make_grid(voxel_size, coors_range);
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

uint64_t hash(uint64_t key) { return key * 0x9E3779B97F4A7C15; }

// The row-major cell of a point, or kOutside.
template <typename Find>
uint64_t key_at(const Grid& grid, const Find& find, int64_t row) {
  int32_t cell[kMaxDims];
  const bool inside = find(row, cell);
  uint64_t key = 0;
  for (int d = grid.ndim - 1; d >= 0; d--) key = key * grid.cells[d] + cell[d];
  return inside ? key : kOutside;
}

// The points by shard, in their order. Points outside of the grid are in no shard.
struct Shards {
  std::vector<uint64_t> keys;  // the row-major cell of every point, or kOutside
  std::vector<int32_t> rows;   // shard s has rows[bounds[s] : bounds[s + 1]]
  std::vector<int64_t> bounds{0};
  int bits = 0;

  Shards(const at::Tensor& points, const Grid& grid, int64_t parts)
      : keys(points.size(0)), rows(points.size(0)) {
    constexpr int64_t kPoints = 16384;  // of one shard, about
    constexpr int kMaxBits = 12;
    const int64_t count = keys.size();
    while (bits < kMaxBits && count >> bits > kPoints) bits++;
    const int64_t shards = int64_t{1} << bits;
    // No branches: the processor could not predict which points are outside.
    auto shard_of = [&](uint64_t key) {
      return key == kOutside ? shards : static_cast<int64_t>(hash(key) >> 1 >> (63 - bits));
    };

    std::vector<int64_t> place(parts * (shards + 1));
    for_each_points(points, grid, parts,
                    [&](int64_t part, int64_t begin, int64_t end, const auto& find) {
                      int64_t* histogram = &place[part * (shards + 1)];
                      for (int64_t i = begin; i < end; i++) {
                        keys[i] = key_at(grid, find, i);
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

// The voxel of each point; voxels are numbered in the order of their first points, the leaders.
struct Assignment {
  std::vector<int32_t> voxel;    // of each point, or -1
  std::vector<int32_t> rank;     // of each point: how many of its voxel came before it
  std::vector<int32_t> leaders;  // of each voxel: its first point
  std::vector<int32_t> sizes;    // of each voxel: its points

  explicit Assignment(int64_t points)
      : voxel(points, -1), rank(points), leaders(points), sizes(points) {}

  void resize(int64_t voxels) {
    leaders.resize(voxels);
    sizes.resize(voxels);
  }
};

// Least power of two that is at least `size`.
int bits_for(int64_t size) {
  int bits = 1;
  while (int64_t{1} << bits < size) bits++;
  return bits;
}

// By one table that sees the points in their order: the fastest way for those of a single sweep.
Assignment assign_in_order(const at::Tensor& points, const Grid& grid, int64_t parts) {
  constexpr int64_t kAhead = 16;  // points whose table entries are on their way
  const int64_t count = points.size(0);
  std::vector<uint64_t> keys(count + kAhead);
  for_each_points(points, grid, parts, [&](int64_t, int64_t begin, int64_t end, const auto& find) {
    for (int64_t i = begin; i < end; i++) keys[i] = key_at(grid, find, i);
  });
  Assignment result(count);
  const int table_bits = bits_for(count + count / 2);
  const uint64_t mask = (uint64_t{1} << table_bits) - 1;
  auto place_of = [&](uint64_t key) { return hash(key) >> (64 - table_bits); };
  std::vector<int32_t> table(mask + 1, -1);  // of voxels, by linear probing
  std::vector<uint64_t> key_of(count + 1);   // of voxels
  int64_t voxels = 0;
  for (int64_t i = 0; i < count; i++) {
    __builtin_prefetch(&table[place_of(keys[i + kAhead])]);
    if (keys[i] == kOutside) continue;
    uint64_t place = place_of(keys[i]);
    // No branch on whether the cell is new, which the processor could not predict.
    while ((table[place] >= 0) & (key_of[std::max(table[place], 0)] != keys[i]))
      place = (place + 1) & mask;
    const bool is_new = table[place] < 0;
    const int32_t voxel = is_new ? static_cast<int32_t>(voxels) : table[place];
    key_of[voxels] = keys[i];
    result.leaders[voxels] = static_cast<int32_t>(i);  // overwritten where the cell is not new
    voxels += is_new;
    table[place] = result.voxel[i] = voxel;
    result.rank[i] = result.sizes[voxel]++;
  }
  result.resize(voxels);
  return result;
}

// By shards, for many points.
Assignment assign_by_shards(const at::Tensor& points, const Grid& grid, int64_t parts) {
  const int64_t count = points.size(0);
  const Shards shards(points, grid, parts);
  Assignment result(count);
  std::vector<int32_t> leader(count, -1), points_of(count), voxel_of(count);
  std::vector<std::vector<int32_t>> tables(at::get_num_threads());
  cpu::for_each_unit(shards.bounds.size() - 1, [&](int64_t shard, int64_t worker) {
    const int64_t begin = shards.bounds[shard], end = shards.bounds[shard + 1];
    const int table_bits = bits_for((end - begin) * 2);
    const uint64_t mask = (uint64_t{1} << table_bits) - 1;
    auto& table = tables[worker];  // of leaders, by linear probing
    table.assign(mask + 1, -1);
    for (int64_t i = begin; i < end; i++) {
      const int32_t row = shards.rows[i];
      const uint64_t key = shards.keys[row];
      uint64_t place = hash(key) << shards.bits >> (64 - table_bits);
      while (table[place] >= 0 && shards.keys[table[place]] != key) place = (place + 1) & mask;
      const int32_t first = table[place] < 0 ? row : table[place];
      table[place] = leader[row] = first;
      result.rank[row] = points_of[first]++;
    }
  });

  std::vector<int64_t> voxels(parts + 1);
  cpu::for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) voxels[part + 1] += leader[i] == i;
  });
  for (int64_t part = 0; part < parts; part++) voxels[part + 1] += voxels[part];
  cpu::for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
    int64_t voxel = voxels[part];
    for (int64_t i = begin; i < end; i++) {
      if (leader[i] != i) continue;
      voxel_of[i] = static_cast<int32_t>(voxel);
      result.leaders[voxel] = static_cast<int32_t>(i);
      result.sizes[voxel++] = points_of[i];
    }
  });
  cpu::for_each_part(parts, count, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      if (leader[i] >= 0) result.voxel[i] = voxel_of[leader[i]];
  });
  result.resize(voxels[parts]);
  return result;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> hard_cpu(
    const at::Tensor& points, at::ArrayRef<double> voxel_size, at::ArrayRef<double> coors_range,
    int64_t max_points, int64_t max_voxels, bool with_ids) {
  check_hard(points, voxel_size, coors_range, max_points, max_voxels, with_ids);
  const Grid grid = make_grid(voxel_size, coors_range);
  const at::Tensor rows = points.contiguous();
  const int64_t count = rows.size(0), ndim = grid.ndim, parts = part_count(count);
  const Assignment assignment =
      count < kSweep ? assign_in_order(rows, grid, parts) : assign_by_shards(rows, grid, parts);
  const int64_t voxels = std::min<int64_t>(assignment.leaders.size(), max_voxels);

  const auto ints = points.options().dtype(at::kInt);
  auto coors = at::empty({voxels, ndim}, ints), num_points = at::empty({voxels}, ints);
  auto slots = at::full({voxels, max_points}, -1, ints);
  auto point_voxel_id = at::empty({with_ids ? count : 0}, points.options().dtype(at::kLong));
  int32_t* coor = coors.mutable_data_ptr<int32_t>();
  int32_t* num = num_points.mutable_data_ptr<int32_t>();
  int32_t* slot = slots.mutable_data_ptr<int32_t>();
  int64_t* id = point_voxel_id.mutable_data_ptr<int64_t>();
  for_each_points(
      rows, grid, parts, [&](int64_t part, int64_t begin, int64_t end, const auto& find) {
        int32_t cell[kMaxDims];
        for (int64_t v = part * voxels / parts; v < (part + 1) * voxels / parts; v++) {
          num[v] = static_cast<int32_t>(std::min<int64_t>(assignment.sizes[v], max_points));
          find(assignment.leaders[v], cell);
          std::reverse_copy(cell, cell + ndim, coor + v * ndim);
        }
        for (int64_t i = begin; i < end; i++) {
          const int32_t voxel = assignment.voxel[i];
          const bool has_voxel = voxel >= 0 && voxel < voxels;
          if (with_ids) id[i] = has_voxel ? voxel : -1;
          if (has_voxel && assignment.rank[i] < max_points)
            slot[voxel * max_points + assignment.rank[i]] = static_cast<int32_t>(i);
        }
      });
  return {coors, num_points, slots, point_voxel_id};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("voxelize_dynamic", TORCH_FN(dynamic_cpu));
  m.impl("voxelize_hard", TORCH_FN(hard_cpu));
}

}  // namespace mxd::voxelize
