// How points are divided for the short way of hard voxelization, and its launches.
#include "voxelize_buckets.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "dtype.h"
#include "integers.h"
#include "launch.h"
#include "sort.h"
#include "voxelize_tiling.h"
// The launches, which name the tiling.
#include "aclrtlaunch_voxelize_collect.h"
#include "aclrtlaunch_voxelize_group.h"
#include "aclrtlaunch_voxelize_split.h"

namespace mxd::voxelize {
namespace {

using kernels::kBlockWords;
using kernels::kVoxelizeBucket;
using npu::a_little_less_than_inverse;
using npu::ceil_div;
using npu::round_up;

constexpr int64_t kMostCells = int64_t{1} << 30;
constexpr int64_t kMostSlots = 384;   // of a voxel
constexpr int64_t kBucketful = 2700;  // points of a bucket that leave room for chance
constexpr int64_t kLeastRun = 256;
constexpr int64_t kShares = 6;  // ranges of a core, at least, so that cores have the same work

bool is_prime(int64_t number) {
  for (int64_t i = 2; i * i <= number; i++)
    if (number % i == 0) return false;
  return number > 1;
}

// A prime number of buckets: along no dimension do the keys of neighbours fall into one. A core has
// one, or a few.
int64_t buckets_for(int64_t points, const VoxelizeBucketsTiling& tiling) {
  const auto fits = [&](int64_t buckets) {
    bool spreads = is_prime(buckets);
    for (int d = 1; d < tiling.ndim; d++) spreads &= tiling.step[d] % buckets != 0;
    return spreads;
  };
  const int64_t wanted = ceil_div(points, kBucketful), cores = npu::blocks_for(points, 128);
  const int64_t most = round_up(wanted, cores);
  for (int64_t buckets = most; buckets >= wanted; buckets--)
    if (fits(buckets)) return buckets;
  int64_t buckets = most + 1;
  while (!fits(buckets)) buckets++;
  return buckets;
}

std::optional<VoxelizeBucketsTiling> make_tiling(const at::Tensor& points, const Grid& grid,
                                                 int64_t max_points) {
  const int64_t count = points.size(0), cores = npu::vector_cores();
  VoxelizeBucketsTiling tiling{};
  tiling.dtype = npu::kernel_dtype("points", points);
  tiling.points = count;
  tiling.channels = points.size(1);
  tiling.ndim = grid.ndim;
  tiling.max_points = max_points;
  int64_t volume = 1;
  for (int d = 0; d < grid.ndim; d++) {
    tiling.low[d] = grid.low[d];
    tiling.size[d] = grid.size[d];
    tiling.cells[d] = static_cast<float>(grid.cells[d]);
    tiling.inverse_cells[d] = a_little_less_than_inverse(grid.cells[d]);
    tiling.step[d] = volume;
    volume *= grid.cells[d];
    if (volume > kMostCells) return {};
  }
  if (max_points > kMostSlots || count > kernels::kVoxelizeBuckets * kBucketful) return {};
  tiling.run = std::clamp<int64_t>(round_up(ceil_div(count, cores), kBlockWords), kLeastRun,
                                   kernels::kVoxelizeRun);
  tiling.runs = ceil_div(count, tiling.run);
  tiling.buckets = buckets_for(count, tiling);
  if (tiling.runs > kernels::kVoxelizeRuns || tiling.buckets > kernels::kVoxelizeBuckets) return {};
  tiling.bucket_cells = volume / tiling.buckets + 1;
  tiling.bucket_pitch = npu::whole_blocks(tiling.buckets + 1);
  // All points of a range's voxels fit into UB, each bucket's being padded to whole blocks.
  const int64_t most = (kVoxelizeBucket - kBlockWords * (1 + tiling.buckets)) / max_points;
  tiling.range = std::clamp<int64_t>(ceil_div(count, cores * kShares), 1, most);
  tiling.ranges = ceil_div(count, tiling.range);
  if (tiling.ranges >= kernels::kVoxelizeRanges) return {};
  tiling.range_pitch = npu::whole_blocks(tiling.ranges + 1);
  tiling.inverse_buckets = a_little_less_than_inverse(tiling.buckets);
  tiling.inverse_bucket_cells = a_little_less_than_inverse(tiling.bucket_cells);
  tiling.inverse_max_points = a_little_less_than_inverse(max_points);
  tiling.inverse_ndim = a_little_less_than_inverse(grid.ndim);
  return tiling;
}

}  // namespace

std::optional<FoundVoxels> find_in_buckets(const at::Tensor& points, const Grid& grid,
                                           int64_t max_points, int64_t max_voxels) {
  auto tiling = make_tiling(points, grid, max_points);
  if (!tiling) return {};
  const auto ints = points.options().dtype(at::kInt);
  const int64_t cores = npu::vector_cores(), runs = tiling->runs, buckets = tiling->buckets;
  const at::Tensor planes = at::empty({2, runs, tiling->run}, ints);
  const at::Tensor bounds = at::empty({runs, tiling->bucket_pitch}, ints);
  const at::Tensor groups = at::empty({3, buckets, kVoxelizeBucket}, ints);
  const at::Tensor range_bounds = at::empty({buckets, tiling->range_pitch}, ints);
  const at::Tensor sums = at::empty({2 * tiling->range_pitch + kBlockWords}, ints);
  npu::launch(aclrtlaunch_voxelize_split, "voxelize_split", std::min(runs, cores), points, planes,
              bounds, sums, *tiling);
  npu::launch(aclrtlaunch_voxelize_group, "voxelize_group", std::min(buckets, cores), planes,
              bounds, groups, range_bounds, sums, *tiling);
  const at::Tensor totals = sums.slice(0, 2 * tiling->range_pitch).cpu();  // the wait
  if (totals.const_data_ptr<int32_t>()[1] > 0) return {};

  const int64_t voxels = std::min<int64_t>(totals.const_data_ptr<int32_t>()[0], max_voxels);
  tiling->voxels = voxels;
  // One launch fills all three with zeros.
  const std::vector<int64_t> sizes{npu::whole_blocks(voxels * max_points),
                                   npu::whole_blocks(voxels * grid.ndim), voxels};
  const auto parts = at::zeros({sizes[0] + sizes[1] + sizes[2]}, ints).split_with_sizes(sizes);
  const FoundVoxels found{parts[1].slice(0, 0, voxels * grid.ndim).view({voxels, grid.ndim}),
                          parts[2],
                          parts[0].slice(0, 0, voxels * max_points).view({voxels, max_points})};
  if (voxels > 0)
    npu::launch(aclrtlaunch_voxelize_collect, "voxelize_collect",
                npu::blocks_for(points.size(0), 128), groups, range_bounds, sums, found.coors,
                found.num_points, found.slots, *tiling);
  return found;
}

}  // namespace mxd::voxelize
