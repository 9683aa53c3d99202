// Voxelization on the NPU: tilings and launches of csrc/kernels/voxelize*.cpp.
//
// Points are sorted by cell, and again by the first point of their cell: then they lie by voxel, in
// the order of the voxels, and what is asked of each voxel is near what was asked of the one
// before. A third sort takes the voxels' numbers back to the points, where they are wanted. The
// host waits once.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../voxelize.h"
#include "dtype.h"
#include "launch.h"
#include "sort.h"
#include "voxelize_buckets.h"
#include "voxelize_rows.h"
#include "voxelize_tiling.h"
// The launches, which name the tilings.
#include "aclrtlaunch_voxelize_cells.h"
#include "aclrtlaunch_voxelize_leaders.h"
#include "aclrtlaunch_voxelize_leaders_count.h"
#include "aclrtlaunch_voxelize_numbers.h"
#include "aclrtlaunch_voxelize_numbers_count.h"
#include "aclrtlaunch_voxelize_slots.h"

namespace mxd::voxelize {
namespace {

using kernels::kBlockBytes;
using kernels::kBlockWords;
using kernels::kVoxelizeOutside;
using npu::launch;

constexpr int64_t kMostInt = std::numeric_limits<int32_t>::max();

void check_fits(const char* what, int64_t count) {
  TORCH_CHECK_VALUE(count <= kMostInt, what, " must be at most 2**31 - 1 on an NPU, were ", count);
}

VoxelizeCellsTiling make_cells_tiling(const at::Tensor& points, const Grid& grid) {
  VoxelizeCellsTiling tiling{};
  tiling.dtype = npu::kernel_dtype("points", points);
  tiling.points = points.size(0);
  tiling.channels = points.size(1);
  tiling.ndim = grid.ndim;
  tiling.pitch = npu::whole_blocks(points.size(0));
  tiling.inverse_ndim = npu::a_little_less_than_inverse(grid.ndim);
  int64_t volume = 1;  // of the last word
  int word = 0;
  for (int d = 0; d < grid.ndim; d++) {
    tiling.low[d] = grid.low[d];
    tiling.size[d] = grid.size[d];
    tiling.cells[d] = static_cast<float>(grid.cells[d]);
    if (d > 0 && volume * grid.cells[d] >= kVoxelizeOutside) {
      word++;
      volume = 1;
    }
    tiling.word[d] = word;
    tiling.step[d] = grid.cells[d] < kVoxelizeOutside ? volume : 0;
    volume *= grid.cells[d];
  }
  tiling.words = word + 1;
  return tiling;
}

void find_cells(const at::Tensor& points, const VoxelizeCellsTiling& tiling,
                const at::Tensor& coors, const at::Tensor& keys) {
  npu::launch(aclrtlaunch_voxelize_cells, "voxelize_cells", npu::blocks_for(points.size(0), 128),
              points, coors, keys, tiling);
}

at::Tensor dynamic_npu(const at::Tensor& points, at::ArrayRef<double> voxel_size,
                       at::ArrayRef<double> coors_range) {
  check_dynamic(points, voxel_size, coors_range);
  npu::check_dtype("points", points);
  const Grid grid = make_grid(voxel_size, coors_range);
  const at::Tensor coors = at::empty({points.size(0), grid.ndim}, points.options().dtype(at::kInt));
  if (points.size(0) > 0)
    find_cells(points.contiguous(), make_cells_tiling(points, grid), coors, {});
  return coors;
}

// The points sorted by voxel: the first point of each one's voxel, kVoxelizeOutside outside, and
// its row; the number of those inside is added to `inside`.
npu::Sorted sort_points(const at::Tensor& keys, int64_t count, const at::Tensor& inside) {
  const npu::Sorted by_cell = npu::sort_words(keys, count);
  VoxelizeRunsTiling tiling{};
  tiling.count = count;
  tiling.words = by_cell.keys.size(0);
  tiling.pitch = by_cell.keys.stride(0);
  const int64_t blocks = npu::blocks_for(count, 512);
  const at::Tensor ends = at::empty({blocks, kBlockWords}, keys.options());
  const at::Tensor leaders = at::empty_like(by_cell.rows);
  launch(aclrtlaunch_voxelize_leaders_count, "voxelize_leaders_count", blocks, by_cell.keys,
         by_cell.rows, ends, inside, tiling);
  launch(aclrtlaunch_voxelize_leaders, "voxelize_leaders", blocks, by_cell.keys, by_cell.rows, ends,
         leaders, tiling);
  return npu::sort_keys(leaders, by_cell.rows);
}

// The voxel of each point, int64, -1 where it has none.
at::Tensor number_points(const npu::Sorted& points, int64_t max_voxels) {
  VoxelizeRunsTiling tiling{};
  tiling.count = points.keys.size(0);
  tiling.words = 1;
  tiling.limit = std::min(max_voxels, kMostInt);
  const int64_t blocks = npu::blocks_for(tiling.count, 512);
  const at::Tensor ends = at::empty({blocks, kBlockWords}, points.keys.options());
  const at::Tensor numbers = at::empty_like(points.keys);
  launch(aclrtlaunch_voxelize_numbers_count, "voxelize_numbers_count", blocks, points.keys, ends,
         tiling);
  launch(aclrtlaunch_voxelize_numbers, "voxelize_numbers", blocks, points.keys, ends, numbers,
         tiling);
  return npu::sort_keys(points.rows, numbers).rows.to(at::kLong);
}

VoxelizeSlotsTiling make_slots_tiling(int64_t voxels, int64_t groups, int64_t inside,
                                      int64_t max_points, int64_t ndim) {
  VoxelizeSlotsTiling tiling{};
  tiling.voxels = voxels;
  tiling.groups = groups;
  tiling.inside = inside;
  tiling.max_points = max_points;
  tiling.ndim = ndim;
  tiling.width = std::min<int64_t>(max_points, kernels::kVoxelizeLanes);
  tiling.batch = std::min(kernels::kVoxelizeLanes / tiling.width, kernels::kVoxelizeVoxels);
  tiling.inverse_width = npu::a_little_less_than_inverse(tiling.width);
  tiling.inverse_ndim = npu::a_little_less_than_inverse(ndim);
  return tiling;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> hard_npu(
    const at::Tensor& points, at::ArrayRef<double> voxel_size, at::ArrayRef<double> coors_range,
    int64_t max_points, int64_t max_voxels, bool with_ids) {
  check_hard(points, voxel_size, coors_range, max_points, max_voxels, with_ids);
  npu::check_dtype("points", points);
  const Grid grid = make_grid(voxel_size, coors_range);
  const int64_t count = points.size(0), ndim = grid.ndim;
  check_fits("points times dimensions", count * ndim);
  check_fits("max_points", max_points);
  const auto ints = points.options().dtype(at::kInt);
  if (count == 0)
    return {at::empty({0, ndim}, ints), at::empty({0}, ints), at::empty({0, max_points}, ints),
            at::empty({0}, ints.dtype(at::kLong))};
  if (!with_ids) {
    const auto found = find_in_buckets(points.contiguous(), grid, max_points, max_voxels);
    if (found)
      return {found->coors, found->num_points, found->slots, at::empty({0}, ints.dtype(at::kLong))};
  }

  const VoxelizeCellsTiling cells = make_cells_tiling(points, grid);
  const at::Tensor all_coors = at::empty({count, ndim}, ints);
  const at::Tensor keys = at::empty({cells.words, cells.pitch}, ints);
  find_cells(points.contiguous(), cells, all_coors, keys);
  const at::Tensor totals = at::zeros({2 * kBlockWords}, ints);  // voxels, and points inside
  const npu::Sorted sorted = sort_points(keys, count, totals.slice(0, kBlockWords));
  const npu::Unique leaders =
      npu::unique_keys(sorted.keys.unsqueeze(0), count, totals.slice(0, 0, 1), /*begins=*/true);
  const at::Tensor point_voxel_id =
      with_ids ? number_points(sorted, max_voxels) : at::empty({0}, ints.dtype(at::kLong));

  const at::Tensor found = totals.cpu();  // the wait
  const int64_t groups = found.const_data_ptr<int32_t>()[0];
  const int64_t inside = found.const_data_ptr<int32_t>()[kBlockWords];
  const int64_t voxels = std::min(groups, max_voxels);
  const at::Tensor coors = at::empty({voxels, ndim}, ints), num_points = at::empty({voxels}, ints);
  const at::Tensor slots = at::empty({voxels, max_points}, ints);
  if (voxels > 0)
    launch(aclrtlaunch_voxelize_slots, "voxelize_slots", npu::blocks_for(voxels, 64), leaders.keys,
           leaders.begins, sorted.rows, all_coors, coors, num_points, slots,
           make_slots_tiling(voxels, groups, inside, max_points, ndim));
  return {coors, num_points, slots, point_voxel_id};
}

at::Tensor gather_npu(const at::Tensor& points, const at::Tensor& slots, bool empty_mean) {
  check_gather(points, slots, empty_mean);
  npu::check_dtype("points", points);
  const int64_t voxels = slots.size(0), max_points = slots.size(1), channels = points.size(1);
  const at::Tensor named = slots.contiguous();
  const at::Tensor out =
      npu::gather_slots(points.contiguous(), named).view({voxels, max_points, channels});
  if (!empty_mean || out.numel() == 0) return out;
  // In fp32 and in the order of the slots, as on a CPU.
  const at::Tensor filled = named.ge(0);
  at::Tensor sum = at::zeros({voxels, channels}, points.options().dtype(at::kFloat));
  for (int64_t slot = 0; slot < max_points; slot++) sum = sum + out.select(1, slot).to(at::kFloat);
  const at::Tensor count = filled.to(at::kFloat).sum(1, true).clamp_min(1);
  const at::Tensor mean = (sum / count).to(points.scalar_type());
  return at::where(filled.unsqueeze(2), out, mean.unsqueeze(1));
}

at::Tensor gather_grad_npu(const at::Tensor& grad, const at::Tensor& slots, int64_t num_points) {
  check_gather_grad(grad, slots, num_points);
  npu::check_dtype("grad", grad);
  return npu::scatter_slots(grad.contiguous().view({slots.numel(), grad.size(2)}),
                            slots.contiguous(), num_points);
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("voxelize_dynamic", TORCH_FN(dynamic_npu));
  m.impl("voxelize_hard", TORCH_FN(hard_npu));
  m.impl("voxelize_gather", TORCH_FN(gather_npu));
  m.impl("voxelize_gather_grad", TORCH_FN(gather_grad_npu));
}

}  // namespace mxd::voxelize
