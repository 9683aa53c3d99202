// How reductions by segment are divided into chunks and units, and the launches of
// csrc/kernels/segment_*.cpp.
#include "segment_reduce.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "dtype.h"
#include "integers.h"
#include "launch.h"
#include "segment_reduce_tiling.h"
#include "sparse_conv_rulebook_tiling.h"
// The launches, which name the tilings.
#include "aclrtlaunch_segment_combine_max.h"
#include "aclrtlaunch_segment_combine_sum.h"
#include "aclrtlaunch_segment_gather.h"
#include "aclrtlaunch_segment_max.h"
#include "aclrtlaunch_segment_split.h"
#include "aclrtlaunch_segment_sum.h"
#include "aclrtlaunch_segment_sum_lifted.h"
#include "aclrtlaunch_segment_sum_where.h"
#include "aclrtlaunch_sparse_conv_rulebook_edges.h"

namespace mxd::npu {
namespace {

using kernels::kBlockBytes;
using kernels::kBlockWords;

// A reduction: its tiling, where its chunks begin, and room for what units have of segments.
struct Reduction {
  SegmentReduceTiling tiling{};
  at::Tensor splits, partials;
  int64_t blocks;
};

// `words`: numbers of a chunk's rows, at most; `most_places`: of the sequence.
Reduction make_reduction(const at::Tensor& x, const at::Tensor& rows, const at::Tensor& begins,
                         int64_t words, int64_t most_places = kernels::kSegmentChunk) {
  Reduction r;
  SegmentReduceTiling& t = r.tiling;
  const int64_t segments = begins.size(0) - 1, entries = rows.size(0), channels = x.size(1);
  TORCH_CHECK_VALUE(segments + entries <= std::numeric_limits<int32_t>::max(),
                    "rows and what they are reduced to must be fewer than 2**31 together on ",
                    x.device(), ", were ", entries, " and ", segments);
  t.segments = segments;
  t.entries = entries;
  t.channels = channels;
  t.dtype = kernel_dtype("features", x);
  t.slice = std::min<int64_t>({channels, kernels::kSegmentSlice, words / 32});
  t.pitch = round_up(channels, kBlockWords);
  const int64_t in_ub = round_up(t.slice, kBlockBytes / x.element_size());
  const int64_t most = std::min<int64_t>(words / in_ub - 1, most_places);
  const int64_t wanted = std::max<int64_t>(ceil_div(segments + entries, kernels::kSegmentUnits),
                                           kernels::kSegmentLeast);
  t.chunk = std::min(wanted, most) / kBlockWords * kBlockWords;
  t.chunks = ceil_div(segments + entries, t.chunk);
  t.unit =
      std::clamp<int64_t>(ceil_div(t.chunks, kernels::kSegmentUnits), 1, kernels::kSegmentUnit);
  t.units = ceil_div(t.chunks, t.unit);
  t.add_output = channels * x.element_size() % kBlockBytes != 0;
  r.blocks = std::min<int64_t>(t.units, vector_cores());
  r.splits = at::zeros({t.chunks + 1}, rows.options());
  SegmentSplitTiling split{};
  split.segments = segments;
  split.chunk = t.chunk;
  split.chunks = t.chunks;
  constexpr int64_t kPiece = 2048;
  launch(aclrtlaunch_segment_split, "segment_split",
         std::min(ceil_div(segments, kPiece), vector_cores()), begins, r.splits, split);
  r.partials = at::empty({2 * t.units, t.pitch}, x.options().dtype(at::kFloat));
  return r;
}

at::Tensor make_output(const Reduction& r, at::ScalarType type) {
  const auto options = r.partials.options().dtype(type);
  const std::vector<int64_t> size{r.tiling.segments, r.tiling.channels};
  return r.tiling.add_output ? at::zeros(size, options) : at::empty(size, options);
}

bool is_empty(const at::Tensor& x, const at::Tensor& rows, const at::Tensor& begins) {
  return x.size(1) == 0 || begins.size(0) == 1 || rows.size(0) == 0;
}

at::Tensor zeros(const at::Tensor& x, const at::Tensor& begins) {
  check_dtype("features", x);
  return at::zeros({begins.size(0) - 1, x.size(1)}, x.options());
}

void combine_sum(const Reduction& r, const at::Tensor& begins, const at::Tensor& out) {
  if (r.tiling.units > 1)
    launch(aclrtlaunch_segment_combine_sum, "segment_combine_sum", r.blocks, begins, r.splits,
           r.partials, out, r.tiling);
}

}  // namespace

at::Tensor segment_begins(const at::Tensor& sorted, int64_t segments) {
  const int64_t entries = sorted.size(0);
  const at::Tensor begins = at::zeros({segments + 1}, sorted.options().dtype(at::kLong));
  if (entries == 0 || segments == 0) return begins;
  SparseConvEdgesTiling tiling{};  // one row of bins
  tiling.pairs = entries;
  tiling.tiles = 1;
  tiling.volume = segments;
  tiling.inverse_row = a_little_less_than_inverse(segments + 1);
  launch(aclrtlaunch_sparse_conv_rulebook_edges, "sparse_conv_rulebook_edges",
         std::min(ceil_div(entries, kernels::kSortChunk), vector_cores()), sorted, begins, tiling);
  return begins;
}

at::Tensor segment_sum(const at::Tensor& x, const at::Tensor& rows, const at::Tensor& begins,
                       bool mean) {
  if (is_empty(x, rows, begins)) return zeros(x, begins);
  Reduction r = make_reduction(x, rows, begins, kernels::kSegmentSumWords);
  r.tiling.mean = mean;
  const at::Tensor out = make_output(r, x.scalar_type());
  launch(aclrtlaunch_segment_sum, "segment_sum", r.blocks, x.contiguous(), rows, begins, r.splits,
         out, r.partials, r.tiling);
  combine_sum(r, begins, out);
  return out;
}

at::Tensor segment_sum_where(const at::Tensor& x, const at::Tensor& sources, const at::Tensor& rows,
                             const at::Tensor& begins) {
  if (is_empty(x, rows, begins)) return zeros(x, begins);
  const Reduction r = make_reduction(x, rows, begins, kernels::kSegmentWhereWords);
  const at::Tensor out = make_output(r, x.scalar_type());
  launch(aclrtlaunch_segment_sum_where, "segment_sum_where", r.blocks, x.contiguous(),
         sources.contiguous(), rows, begins, r.splits, out, r.partials, r.tiling);
  combine_sum(r, begins, out);
  return out;
}

at::Tensor segment_sum_lifted(const at::Tensor& depth, const at::Tensor& context,
                              const at::Tensor& points, const at::Tensor& begins) {
  const at::Tensor rows = context.flatten(0, 1).contiguous();
  if (is_empty(rows, points, begins)) return zeros(rows, begins);
  Reduction r =
      make_reduction(rows, points, begins, kernels::kSegmentSumWords, kernels::kSegmentLiftedChunk);
  r.tiling.depths = depth.size(1);
  r.tiling.pixels = depth.size(2);
  const at::Tensor out = make_output(r, rows.scalar_type());
  launch(aclrtlaunch_segment_sum_lifted, "segment_sum_lifted", r.blocks,
         depth.to(at::kFloat).contiguous(), rows, points, begins, r.splits, r.partials, out,
         r.tiling);
  combine_sum(r, begins, out);
  return out;
}

std::tuple<at::Tensor, at::Tensor> segment_max(const at::Tensor& x, const at::Tensor& rows,
                                               const at::Tensor& begins, bool nan) {
  if (is_empty(x, rows, begins)) {
    const at::Tensor out = zeros(x, begins);
    return {out, at::full(out.sizes(), -1, rows.options())};
  }
  Reduction r =
      make_reduction(x, rows, begins, kernels::kSegmentMaxWords, kernels::kSegmentMaxChunk);
  r.tiling.nan = nan;
  const at::Tensor out = make_output(r, x.scalar_type()), argmax = make_output(r, at::kInt);
  const at::Tensor partial_args = at::empty(r.partials.sizes(), rows.options());
  launch(aclrtlaunch_segment_max, "segment_max", r.blocks, x.contiguous(), rows, begins, r.splits,
         out, argmax, r.partials, partial_args, r.tiling);
  if (r.tiling.units > 1)
    launch(aclrtlaunch_segment_combine_max, "segment_combine_max", r.blocks, begins, r.splits,
           r.partials, partial_args, out, argmax, r.tiling);
  return {out, argmax};
}

at::Tensor gather_rows(const at::Tensor& matrix, const at::Tensor& list) {
  kernel_dtype("features", matrix);
  const at::Tensor out = at::empty({list.size(0), matrix.size(1)}, matrix.options());
  if (out.numel() == 0) return out;
  if (matrix.size(0) == 0) return out.zero_();
  const int64_t bytes = matrix.size(1) * matrix.element_size();
  const int64_t size = bytes % kernels::kWord == 0 ? kernels::kWord : kernels::kWord / 2;
  SegmentGatherTiling tiling{};
  tiling.number_bytes = size;
  tiling.count = list.size(0);
  tiling.columns = bytes / size;
  // Slices are of whole blocks of 32 bytes, so that no two of them write into the same.
  tiling.slice = std::min<int64_t>(tiling.columns, kernels::kSegmentGatherBytes / 8 / size);
  const int64_t in_ub = round_up(tiling.slice * size, kBlockBytes);
  tiling.rows =
      std::min<int64_t>(kernels::kSegmentGatherBytes / in_ub, kernels::kSegmentGatherRows);
  launch(aclrtlaunch_segment_gather, "segment_gather", blocks_for(tiling.count, 64),
         matrix.contiguous(), list, out, tiling);
  return out;
}

TORCH_LIBRARY_FRAGMENT(mxd, m) {  // for tests
  m.def("_segment_begins(Tensor sorted, int segments) -> Tensor");
  m.def("_segment_sum(Tensor x, Tensor rows, Tensor begins, bool mean) -> Tensor");
  m.def("_segment_sum_where(Tensor x, Tensor sources, Tensor rows, Tensor begins) -> Tensor");
  m.def(
      "_segment_max(Tensor x, Tensor rows, Tensor begins, bool nan) -> (Tensor out, Tensor "
      "argmax)");
  m.def("_segment_gather(Tensor matrix, Tensor list) -> Tensor");
}

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("_segment_begins", TORCH_FN(segment_begins));
  m.impl("_segment_sum", TORCH_FN(segment_sum));
  m.impl("_segment_sum_where", TORCH_FN(segment_sum_where));
  m.impl("_segment_max", TORCH_FN(segment_max));
  m.impl("_segment_gather", TORCH_FN(gather_rows));
}

}  // namespace mxd::npu
