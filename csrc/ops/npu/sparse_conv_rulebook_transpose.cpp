// A rulebook with inputs and outputs exchanged: its pairs sorted by bins
// (csrc/kernels/sparse_conv_rulebook_transpose.cpp).
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "launch.h"
#include "sort.h"
#include "sparse_conv_rulebook.h"
#include "sparse_conv_rulebook_tiling.h"
// The launches, which name the tilings.
#include "aclrtlaunch_sparse_conv_rulebook_bins.h"
#include "aclrtlaunch_sparse_conv_rulebook_edges.h"

namespace mxd::sparse_conv::npu {

using mxd::kernels::kRulebookBad;
using mxd::kernels::kRulebookStats;
using mxd::kernels::kSortChunk;
using mxd::npu::launch;
using mxd::npu::vector_cores;

std::tuple<at::Tensor, at::Tensor> group(const at::Tensor& pairs, const at::Tensor& bins,
                                         int64_t tiles, int64_t volume, bool flip) {
  const at::Tensor bounds = at::zeros({tiles, volume + 1}, bins.options().dtype(at::kLong));
  const int64_t count = bins.size(0);
  if (count == 0) return {at::empty_like(pairs), bounds};
  const mxd::npu::Sorted sorted = mxd::npu::sort_keys(bins);
  SparseConvEdgesTiling tiling{};
  tiling.pairs = count;
  tiling.tiles = tiles;
  tiling.volume = volume;
  tiling.inverse_row = mxd::npu::a_little_less_than_inverse(volume + 1);
  launch(aclrtlaunch_sparse_conv_rulebook_edges, "sparse_conv_rulebook_edges",
         std::min((count + kSortChunk - 1) / kSortChunk, vector_cores()), sorted.keys, bounds,
         tiling);
  return {mxd::npu::take_rows(pairs, sorted.rows, flip), bounds};
}

void check_bins(const at::Tensor& pairs, int64_t tiles, int64_t volume) {
  TORCH_CHECK_VALUE((tiles + 1) * (volume + 1) < mxd::kernels::kSortMaxKey &&
                        2 * pairs.size(0) <= std::numeric_limits<int32_t>::max(),
                    "a rulebook must have fewer than 2**30 pairs, and fewer than 2**31 tiles times "
                    "kernel points, on ",
                    pairs.device(), ", had ", pairs.size(0), ", and ", tiles, " times ", volume);
}

std::tuple<at::Tensor, at::Tensor> transpose(const at::Tensor& pairs, const at::Tensor& bounds,
                                             int64_t num_in, bool trusted) {
  check_transpose(pairs, bounds, num_in);
  const int64_t tiles = tile_count(num_in), volume = bounds.size(1) - 1;
  check_bins(pairs, tiles, volume);
  const at::Tensor from = pairs.contiguous();
  const at::Tensor zeros = at::zeros({kRulebookStats + pairs.size(0)}, pairs.options());
  const at::Tensor stats = zeros.narrow(0, 0, kRulebookStats);
  const at::Tensor bins = zeros.narrow(0, kRulebookStats, pairs.size(0));
  if (pairs.size(0) > 0) {
    SparseConvBinsTiling tiling{};
    tiling.tiles = bounds.size(0);
    tiling.volume = volume;
    tiling.num_in = num_in;
    launch(aclrtlaunch_sparse_conv_rulebook_bins, "sparse_conv_rulebook_bins",
           std::clamp<int64_t>(bounds.size(0), 1, vector_cores()), from, bounds.contiguous(), stats,
           bins, tiling);
    if (!trusted && stats.select(0, kRulebookBad).item<int32_t>() != 0) {
      const at::Tensor in = pairs.select(1, 0).cpu();
      const at::Tensor outside = in.lt(0).logical_or(in.ge(num_in));
      TORCH_CHECK_VALUE(false, "pairs must name input rows below num_in ", num_in, ", named ",
                        in.masked_select(outside).select(0, 0).item<int32_t>());
    }
  }
  return group(from, bins, tiles, volume, /*flip=*/true);
}

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("sparse_conv_rulebook_transpose", TORCH_FN(transpose));
}

}  // namespace mxd::sparse_conv::npu
