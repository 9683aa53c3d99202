// Reduction of points by voxel on the NPU: cells as words, sorted (sort.h), and reductions by
// segment.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <cstring>

#include "../dynamic_scatter.h"
#include "segment_reduce.h"
#include "sort.h"
#include "sort_tiling.h"

namespace mxd::dynamic_scatter {
namespace {

// Each point's cell as words; kSortMaxKey for a point that has none.
at::Tensor cell_words(const at::Tensor& coors, const at::Tensor& inside, const at::Tensor& extent) {
  at::Tensor cell = at::zeros({coors.size(0)}, coors.options().dtype(at::kLong));
  for (int64_t d = 0; d < coors.size(1); d++)
    cell = cell * extent.select(0, d) + coors.select(1, d);
  const at::Tensor words = npu::to_words(at::where(inside, cell, 0));
  const at::Tensor first = words.select(0, 0).slice(0, 0, coors.size(0));
  first.copy_(at::where(inside, first, kernels::kSortMaxKey));
  return words;
}

// Rows of a table of int32 or int64.
at::Tensor take_coors(const at::Tensor& table, const at::Tensor& rows) {
  if (table.scalar_type() == at::kInt) return npu::take_rows(table, rows);
  return npu::take_rows(table.view(at::kInt), rows).view(at::kLong);
}

// Nothing but the numbers of voxels, of their points and of cells goes to the host, at once.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> plan_npu(const at::Tensor& coors) {
  check_plan(coors);
  const int64_t count = coors.size(0), ndim = coors.size(1);
  const auto ints = coors.options().dtype(at::kInt), longs = coors.options().dtype(at::kLong);
  if (count == 0)
    return {at::empty({0, ndim}, coors.options()), at::empty({0}, ints), at::empty({0}, ints),
            at::zeros({1}, longs)};
  const at::Tensor rows = coors.contiguous();
  const at::Tensor inside = rows.ge(0).all(1);
  const at::Tensor extent = at::where(inside.unsqueeze(1), rows, 0).to(at::kLong).amax(0) + 1;
  const at::Tensor words = cell_words(rows, inside, extent);
  const npu::Sorted sorted = npu::sort_words(words, count);
  const at::Tensor total = at::zeros({1}, ints);
  const npu::Unique unique = npu::unique_keys(sorted.keys, count, total, /*begins=*/true);
  const at::Tensor numbers = at::cat({total.to(at::kLong), inside.sum(at::kLong).view(1), extent});
  const at::Tensor known = numbers.cpu();
  const int64_t* number = known.const_data_ptr<int64_t>();
  const int64_t voxels = number[0], points = number[1];
  int64_t cells = 1;
  bool overflow = false;
  for (int64_t d = 0; d < ndim; d++)
    overflow |= __builtin_mul_overflow(cells, number[2 + d], &cells);
  TORCH_CHECK_VALUE(!overflow, "coors must span fewer than 2**63 cells");

  const at::Tensor ranks = sorted.rows.slice(0, 0, points);
  const at::Tensor begins = unique.begins.slice(0, 0, voxels);
  const at::Tensor intervals = at::cat({begins, at::full({1}, points, ints)}).to(at::kLong);
  const at::Tensor voxel_coors = take_coors(rows, npu::take_rows(ranks, begins));
  // The voxel of each rank is how many begin up to there; and by the points' numbers.
  at::Tensor voxel = at::full({count}, -1, ints);
  voxel.slice(0, 0, points).copy_(npu::number_keys(sorted.keys, points));
  return {voxel_coors, npu::sort_keys(sorted.rows, voxel).rows, ranks.clone(), intervals};
}

std::tuple<at::Tensor, at::Tensor> reduce_npu(const at::Tensor& feats, const at::Tensor& ranks,
                                              const at::Tensor& intervals,
                                              c10::string_view reduce_type) {
  check_reduce(feats, ranks, intervals, reduce_type);
  const Reduce reduce = parse_reduce(reduce_type);
  const at::Tensor rows = ranks.contiguous(), begins = intervals.contiguous();
  if (reduce == Reduce::kMax) return npu::segment_max(feats, rows, begins, /*nan=*/false);
  return {npu::segment_sum(feats, rows, begins, reduce == Reduce::kMean),
          at::empty({0, feats.size(1)}, ranks.options())};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("dynamic_scatter_plan", TORCH_FN(plan_npu));
  m.impl("dynamic_scatter", TORCH_FN(reduce_npu));
}

}  // namespace mxd::dynamic_scatter
