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

#include <atomic>
#include <vector>

#include "../voxelize.h"
#include "memory.h"
#include "parallel.h"

namespace mxd::voxelize {
namespace {

constexpr uint64_t kOutside = ~uint64_t{0};
constexpr int64_t kGrain = 4096;

#define MXD_DISPATCH(type, name, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, type, name, __VA_ARGS__)

// The cell along dimension d, or -1 outside of the grid. Rounding toward zero is rounding down
// here, and the comparisons send NaN outside.
template <typename T>
int64_t cell_along(const Grid& grid, int d, T coordinate) {
  using Float = at::opmath_type<T>;
  const Float cell = (static_cast<Float>(coordinate) - grid.low[d]) / grid.size[d];
  return cell >= 0 && cell < static_cast<Float>(grid.cells[d]) ? static_cast<int64_t>(cell) : -1;
}

at::Tensor dynamic_cpu(const at::Tensor& points, at::ArrayRef<double> voxel_size,
                       at::ArrayRef<double> coors_range) {
  const Grid grid = make_grid(voxel_size, coors_range);
  check_points(points, grid);
  const at::Tensor rows = points.contiguous();
  const int64_t width = rows.size(1), last = grid.ndim - 1;
  auto coors = at::empty({rows.size(0), grid.ndim}, points.options().dtype(at::kInt));
  int32_t* out = coors.mutable_data_ptr<int32_t>();
  MXD_DISPATCH(points.scalar_type(), "voxelize_dynamic", [&] {
    const auto* data = rows.const_data_ptr<scalar_t>();
    at::parallel_for(0, rows.size(0), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        int32_t* coor = out + i * grid.ndim;
        bool inside = true;
        for (int d = 0; d <= last; d++) {
          const int64_t cell = cell_along(grid, d, data[i * width + d]);
          coor[last - d] = static_cast<int32_t>(cell);
          inside &= cell >= 0;
        }
        if (!inside) std::fill_n(coor, grid.ndim, -1);
      }
    });
  });
  return coors;
}

// The row-major number of each point's cell, or kOutside.
std::vector<uint64_t> cell_keys(const at::Tensor& points, const Grid& grid) {
  const int64_t width = points.size(1);
  std::vector<uint64_t> keys(points.size(0));
  MXD_DISPATCH(points.scalar_type(), "voxelize_hard", [&] {
    const auto* data = points.const_data_ptr<scalar_t>();
    at::parallel_for(0, points.size(0), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        uint64_t key = 0;
        bool inside = true;
        for (int d = grid.ndim - 1; d >= 0; d--) {
          const int64_t cell = cell_along(grid, d, data[i * width + d]);
          inside &= cell >= 0;
          key = key * grid.cells[d] + cell;
        }
        keys[i] = inside ? key : kOutside;
      }
    });
  });
  return keys;
}

// What a point knows of its voxel.
struct Member {
  int32_t leader;  // the voxel's first point, or -1 outside of the grid
  int32_t rank;    // the voxel's points before this one
};

// Points by shard, in their order.
struct Shards {
  struct Entry {
    uint64_t key;
    int32_t row;
  };
  std::vector<Entry> entries;
  std::vector<int64_t> bounds;
  int bits = 0;

  static uint64_t hash(uint64_t key) { return key * 0x9E3779B97F4A7C15; }

  explicit Shards(const std::vector<uint64_t>& keys) {
    constexpr int64_t kPoints = 8192;  // of one shard, about
    constexpr int kMaxBits = 12;
    const int64_t count = keys.size();
    while (bits < kMaxBits && count >> bits > kPoints) bits++;
    const int64_t shards = int64_t{1} << bits;
    const int64_t parts = std::clamp<int64_t>(count / kGrain, 1, at::get_num_threads());
    auto shard_of = [&](uint64_t key) { return bits ? hash(key) >> (64 - bits) : 0; };

    std::vector<int64_t> place(parts * shards, 0);
    cpu::for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
      int64_t* histogram = &place[part * shards];
      for (int64_t i = begin; i < end; i++)
        if (keys[i] != kOutside) histogram[shard_of(keys[i])]++;
    });
    int64_t next = 0;
    bounds.assign(1, 0);
    for (int64_t shard = 0; shard < shards; shard++) {
      for (int64_t part = 0; part < parts; part++)
        next += std::exchange(place[part * shards + shard], next);
      bounds.push_back(next);
    }
    entries.resize(next);
    cpu::for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
      int64_t* to = &place[part * shards];
      for (int64_t i = begin; i < end; i++)
        if (keys[i] != kOutside)
          entries[to[shard_of(keys[i])]++] = {keys[i], static_cast<int32_t>(i)};
    });
  }
};

// Finds the points that share a cell. `size` is filled for the leaders: points in the voxel.
void find_members(const Shards& shards, std::vector<Member>& members, std::vector<int32_t>& size) {
  struct Slot {
    uint64_t key;
    int32_t leader, count;  // count 0: empty
  };
  std::vector<std::vector<Slot>> tables(at::get_num_threads());
  cpu::for_each_unit(shards.bounds.size() - 1, [&](int64_t shard, int64_t worker) {
    const auto* begin = shards.entries.data() + shards.bounds[shard];
    const auto* end = shards.entries.data() + shards.bounds[shard + 1];
    int table_bits = 1;
    while (int64_t{1} << table_bits < (end - begin) * 2) table_bits++;
    const uint64_t mask = (uint64_t{1} << table_bits) - 1;
    auto& table = tables[worker];
    table.assign(mask + 1, Slot{0, 0, 0});
    for (const auto* entry = begin; entry < end; entry++) {
      uint64_t at = Shards::hash(entry->key) << shards.bits >> (64 - table_bits);
      while (table[at].count && table[at].key != entry->key) at = (at + 1) & mask;
      Slot& slot = table[at];
      if (!slot.count) slot = {entry->key, entry->row, 0};
      members[entry->row] = {slot.leader, slot.count++};
    }
    for (const Slot& slot : table)
      if (slot.count) size[slot.leader] = slot.count;
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> hard_cpu(
    const at::Tensor& points, at::ArrayRef<double> voxel_size, at::ArrayRef<double> coors_range,
    int64_t max_points, int64_t max_voxels) {
  const Grid grid = make_grid(voxel_size, coors_range);
  check_points(points, grid);
  check_limits(max_points, max_voxels);
  const int64_t count = points.size(0);
  const std::vector<uint64_t> keys = cell_keys(points.contiguous(), grid);
  std::vector<Member> members(count, Member{-1, 0});
  std::vector<int32_t> size(count);
  find_members(Shards(keys), members, size);

  // Voxels are numbered in the order of their leaders.
  const int64_t parts = std::clamp<int64_t>(count / kGrain, 1, at::get_num_threads());
  std::vector<int64_t> first(parts + 1, 0);
  auto leads = [&](int64_t i) { return members[i].leader == i; };
  cpu::for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) first[part + 1] += leads(i);
  });
  for (int64_t part = 0; part < parts; part++) first[part + 1] += first[part];
  const int64_t voxels = std::min(first[parts], max_voxels);

  const auto ints = points.options().dtype(at::kInt);
  auto coors = at::empty({voxels, grid.ndim}, ints), num_points = at::empty({voxels}, ints);
  int32_t* coor = coors.mutable_data_ptr<int32_t>();
  int32_t* num = num_points.mutable_data_ptr<int32_t>();
  std::vector<int32_t> voxel_of(count);  // of the leaders
  cpu::for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
    int64_t voxel = first[part];
    for (int64_t i = begin; i < end; i++) {
      if (!leads(i)) continue;
      voxel_of[i] = static_cast<int32_t>(voxel < voxels ? voxel : -1);
      if (voxel < voxels) {
        num[voxel] = static_cast<int32_t>(std::min<int64_t>(size[i], max_points));
        uint64_t key = keys[i];
        for (int d = 0; d < grid.ndim; d++, key /= grid.cells[d - 1])
          coor[voxel * grid.ndim + grid.ndim - 1 - d] = static_cast<int32_t>(key % grid.cells[d]);
      }
      voxel++;
    }
  });

  auto slots = at::full({voxels, max_points}, -1, ints);
  auto point_voxel_id = at::empty({count}, points.options().dtype(at::kLong));
  int32_t* slot = slots.mutable_data_ptr<int32_t>();
  int64_t* id = point_voxel_id.mutable_data_ptr<int64_t>();
  at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const Member& member = members[i];
      id[i] = member.leader < 0 ? -1 : voxel_of[member.leader];
      if (id[i] >= 0 && member.rank < max_points)
        slot[id[i] * max_points + member.rank] = static_cast<int32_t>(i);
    }
  });
  return {coors, num_points, slots, point_voxel_id};
}

// The kernels trust the slots: whatever in them would leave the tensors is refused here.
void check_rows(const at::Tensor& slots, int64_t num_points) {
  const int32_t* slot = slots.const_data_ptr<int32_t>();
  std::atomic<bool> inside{true};
  at::parallel_for(0, slots.numel(), 65536, [&](int64_t begin, int64_t end) {
    bool good = true;
    for (int64_t i = begin; i < end; i++) good &= slot[i] >= -1 && slot[i] < num_points;
    if (!good) inside = false;
  });
  TORCH_CHECK_VALUE(inside, "slots must name points below ", num_points,
                    " or be -1, and some are not");
}

at::Tensor gather_cpu(const at::Tensor& points, const at::Tensor& slots, bool empty_mean) {
  check_gather(points, slots);
  const at::Tensor rows = points.contiguous(), all_slots = slots.contiguous();
  check_rows(all_slots, rows.size(0));
  const int64_t max_points = slots.size(1), channels = points.size(1);
  auto voxels = cpu::empty_output({slots.size(0), max_points, channels}, points.options());
  const int32_t* slot = all_slots.const_data_ptr<int32_t>();
  MXD_DISPATCH(points.scalar_type(), "voxelize_gather", [&] {
    using Float = at::opmath_type<scalar_t>;
    const auto* from = rows.const_data_ptr<scalar_t>();
    auto* out = voxels.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, slots.size(0), 512, [&](int64_t begin, int64_t end) {
      std::vector<Float> sum(channels);
      std::vector<scalar_t> rest(channels, scalar_t(0));
      for (int64_t voxel = begin; voxel < end; voxel++) {
        const int32_t* named = slot + voxel * max_points;
        if (empty_mean) {
          std::fill(sum.begin(), sum.end(), Float(0));
          int64_t filled = 0;
          for (int64_t s = 0; s < max_points; s++) {
            if (named[s] < 0) continue;
            filled++;
            for (int64_t c = 0; c < channels; c++) sum[c] += from[named[s] * channels + c];
          }
          for (int64_t c = 0; c < channels; c++)
            rest[c] = static_cast<scalar_t>(filled ? sum[c] / filled : Float(0));
        }
        scalar_t* to = out + voxel * max_points * channels;
        for (int64_t s = 0; s < max_points; s++, to += channels) {
          const scalar_t* row = named[s] < 0 ? rest.data() : from + named[s] * channels;
          for (int64_t c = 0; c < channels; c++) to[c] = row[c];
        }
      }
    });
  });
  return voxels;
}

at::Tensor gather_grad_cpu(const at::Tensor& grad, const at::Tensor& slots, int64_t num_points) {
  check_gather_grad(grad, slots, num_points);
  const at::Tensor rows = grad.contiguous(), all_slots = slots.contiguous();
  check_rows(all_slots, num_points);
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
