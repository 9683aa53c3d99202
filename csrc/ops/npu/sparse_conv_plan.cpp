// The plan of a sparse convolution whose sums stay in the cube cores
// (csrc/kernels/sparse_conv_planned.cpp), by PyTorch's operators: it is made once for a rulebook.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "../sparse_conv.h"
#include "integers.h"
#include "sparse_conv_tiling.h"

namespace mxd::sparse_conv::npu {
namespace {

namespace sizes = kernels::sparse_conv_planned;
constexpr int64_t kRows = sizes::kPlanRows, kBlocks = sizes::kPlanBlocks,
                  kBlockRows = sizes::kPlanBlockRows;
constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
// Worth it up to so many rows of blocks a pair, and windows of a tile and kernel point: beyond,
// rows are far from each other, as in voxels that are not sorted.
constexpr int64_t kMostRows = 3, kMostWindows = 2, kWindow = 192;

// The input row of every output row and kernel point, [rows, K], -1 for none.
at::Tensor neighbours(const at::Tensor& pairs, const at::Tensor& bounds, int64_t rows) {
  const int64_t tiles = bounds.size(0), volume = bounds.size(1) - 1;
  const at::Tensor points = at::arange(volume, bounds.options()).repeat({tiles});
  const at::Tensor counts = bounds.slice(1, 1) - bounds.slice(1, 0, -1);
  const at::Tensor point = points.repeat_interleave(counts.flatten(), 0, pairs.size(0));
  const at::Tensor place = pairs.select(1, 1).to(at::kLong) * volume + point;
  return at::full({rows * volume}, -1, pairs.options())
      .scatter_(0, place, pairs.select(1, 0))
      .view({rows, volume});
}

// A key of rows by their kernel points; those far from the middle, which are rare, count most.
at::Tensor keys(const at::Tensor& there) {
  const int64_t volume = there.size(1);
  std::vector<float> weight(volume);
  for (int64_t k = 0; k < volume; k++) {
    const int64_t from_middle = 2 * k - (volume - 1);
    weight[k] =
        std::ldexp(1.0f, static_cast<int>(from_middle < 0 ? -from_middle - 1 : from_middle));
  }
  const at::Tensor weights = at::tensor(weight).to(there.device());
  return (there.to(at::kFloat) * weights).sum(1);
}

// The values of an int32's bits.
at::Tensor bit_values(const at::TensorOptions& options) {
  std::vector<int32_t> values(32);
  for (int32_t i = 0; i < 32; i++) values[i] = static_cast<int32_t>(1u << i);
  return at::tensor(values, options);
}

at::Tensor plan(const at::Tensor& pairs, const at::Tensor& bounds, int64_t num_out) {
  check_rulebook(pairs, bounds);
  const int64_t volume = bounds.size(1) - 1, count = pairs.size(0);
  const at::Tensor nothing = at::empty({0}, pairs.options());
  if (count == 0 || volume > sizes::kPlanPoints) return nothing;
  check_tiles(bounds, num_out);
  const int64_t tiles = mxd::npu::ceil_div(num_out, kRows), rows = tiles * kRows;
  const at::Tensor map = neighbours(pairs, bounds, rows);
  const auto options = map.options();

  const at::Tensor order =
      at::argsort(keys(map.ge(0)).view({tiles, kRows}), /*stable=*/true, /*dim=*/1,
                  /*descending=*/false);
  const at::Tensor place = at::empty_like(order).scatter_(
      1, order, at::arange(kRows, order.options()).expand({tiles, kRows}));
  const at::Tensor base = at::arange(tiles, order.options()).unsqueeze(1) * kRows;
  // [tiles, K, blocks, 16]
  const at::Tensor blocks = map.index_select(0, (order + base).flatten())
                                .view({tiles, kBlocks, kBlockRows, volume})
                                .permute({0, 3, 1, 2})
                                .contiguous();
  const at::Tensor pair = blocks.ge(0);
  at::Tensor full = pair.any(3);
  // A block without pairs is there, too: its sums are zero.
  full = at::cat(
      {full.slice(1, 0, 1).logical_or(full.any(1, true).logical_not()), full.slice(1, 1)}, 1);
  const at::Tensor low = blocks.masked_fill(pair.logical_not(), kNone).amin({2, 3});
  const at::Tensor high = blocks.amax({2, 3});
  const at::Tensor used = full.sum({1, 2}, false, at::kInt);
  const at::Tensor windows = (high - low).clamp_min(0).div(kWindow, "floor").sum();
  const at::Tensor known = at::stack({used.sum(), windows}).cpu();
  if (known[0].item<int64_t>() * kBlockRows > kMostRows * count + kRows ||
      known[1].item<int64_t>() > kMostWindows * tiles * volume)
    return nothing;

  const int64_t mask_bits = 32 * (sizes::kPlanLowest - sizes::kPlanMasks);
  const at::Tensor masks = at::constant_pad_nd(full.flatten(1), {0, mask_bits - volume * kBlocks})
                               .view({tiles, -1, 32})
                               .mul(bit_values(options))
                               .sum(2, false, at::kInt);
  const auto padded = [&](const at::Tensor& ranges, int64_t words) {
    return at::constant_pad_nd(ranges, {0, words - volume});
  };
  const at::Tensor first = used.cumsum(0, at::kInt) - used;
  const at::Tensor records =
      at::cat({first.unsqueeze(1), at::arange(tiles, options).unsqueeze(1), masks,
               padded(low, sizes::kPlanHighest - sizes::kPlanLowest),
               padded(high, sizes::kPlanPlaces - sizes::kPlanHighest), place.to(at::kInt)},
              1)
          .index_select(0, at::argsort(used, /*stable=*/true, /*dim=*/0, /*descending=*/true));
  const at::Tensor lists =
      blocks.view({-1, kBlockRows}).index_select(0, full.flatten().nonzero().squeeze(1));
  return at::cat({records.flatten(), lists.flatten()});
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) { m.impl("sparse_conv_plan", TORCH_FN(plan)); }

}  // namespace mxd::sparse_conv::npu
