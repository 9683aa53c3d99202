// The plan of a submanifold convolution whose sums stay in the cube cores: puts its voxels in order
// and launches csrc/kernels/sparse_conv_plan.cpp and sparse_conv_plan_shares.cpp.
#include "sparse_conv_plan.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/sort.h>
#include <torch/library.h>

#include "aclrtlaunch_sparse_conv_plan.h"
#include "aclrtlaunch_sparse_conv_plan_shares.h"
#include "launch.h"
#include "sparse_conv_plan_tiling.h"

namespace mxd::sparse_conv {
namespace {

namespace sizes = kernels::sparse_conv_planned;

// The voxels in the rulebook's order: those that the middle kernel point names.
at::Tensor voxels_in_order(const at::Tensor& pairs, const at::Tensor& bounds, int64_t rows) {
  const at::Tensor begin = bounds.select(1, (bounds.size(1) - 1) / 2).unsqueeze(1);
  const at::Tensor word = at::arange(1, 2 * kTileRows, 2, bounds.options());
  return pairs.flatten().index_select(0, (begin * 2 + word).flatten().narrow(0, 0, rows));
}

at::Tensor plan(const at::Tensor& features, const at::Tensor& weight, const at::Tensor& pairs,
                const at::Tensor& bounds, int64_t num_out, int64_t groups, bool in_order) {
  check_plan(features, weight, pairs, bounds, num_out, groups, in_order);
  check_tiles(bounds, num_out);
  if (!plan_serves(features, weight, pairs)) return at::empty({0}, pairs.options());
  at::Tensor order, numbers;
  if (!in_order) {
    order = voxels_in_order(pairs, bounds, num_out);
    numbers = at::arange(num_out, pairs.options());
    in_order = at::equal(order, numbers);
  }
  SparseConvPlanTiling tiling{};
  tiling.rows = num_out;
  tiling.volume = weight.size(0);
  const int64_t size = features.element_size();
  tiling.window =
      sizes::WindowRows(in_steps(weight.size(1), size, sizes::kPartBytes).channels * size);
  const int64_t tiles = npu::ceil_div(num_out, sizes::kPlanRows);
  const int64_t words = sizes::ListOf(tiles, tiles, tiling.volume);
  const at::Tensor records = at::empty({tiles, sizes::kPlanWords}, pairs.options());
  const at::Tensor counts =
      at::empty({tiles, kernels::kBlockWords}, pairs.options().dtype(at::kFloat));
  at::Tensor plan =
      at::empty({words + (in_order ? 0 : 2 * num_out + pairs.numel())}, pairs.options());
  const PlanOrder end = order_of_plan(plan, num_out, tiling.volume);
  if (!in_order) {
    end.order.copy_(order);
    end.place.scatter_(0, order.to(at::kLong), numbers);
    at::Tensor places = end.pairs.flatten();
    at::index_select_out(places, end.place, 0, pairs.flatten());
  }
  npu::launch(aclrtlaunch_sparse_conv_plan, "sparse_conv_plan",
              std::min(tile_count(num_out), npu::vector_cores()),
              in_order ? pairs.contiguous() : end.pairs, bounds.contiguous(), records, counts, plan,
              tiling);
  if (tiles == 1) {  // CANN sorts no single number on the AI core
    plan.narrow(0, 0, records.numel()).copy_(records.flatten());
    return plan;
  }
  const auto [sizes_of, order_of] =
      at::sort(counts.select(1, 0), /*stable=*/true, 0, /*descending=*/true);
  const int64_t couples = npu::ceil_div(tiles, 2);
  SparseConvPlanSharesTiling shares{};
  shares.tiles = tiles;
  shares.shares = std::min<int64_t>({npu::cube_cores(), couples, sizes::kMostShares});
  npu::launch(aclrtlaunch_sparse_conv_plan_shares, "sparse_conv_plan_shares",
              std::min(couples, npu::vector_cores()), sizes_of, order_of, records, plan, shares);
  return plan;
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) { m.impl("sparse_conv_plan", TORCH_FN(plan)); }

}  // namespace mxd::sparse_conv
