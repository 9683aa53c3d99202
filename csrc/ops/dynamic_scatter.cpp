// Reduction of points by voxel: schema and Meta kernel. The layout of a plan is told in
// dynamic_scatter.h. `argmax` int32 names the point that each maximum comes from; for a sum or a
// mean it has no rows.
#include "dynamic_scatter.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace mxd::dynamic_scatter {
namespace {

std::tuple<at::Tensor, at::Tensor> reduce_meta(const at::Tensor& feats, const at::Tensor& ranks,
                                               const at::Tensor& intervals,
                                               c10::string_view reduce_type) {
  check_reduce(feats, ranks, intervals, reduce_type);
  const auto voxels = intervals.sym_size(0) - 1, channels = feats.sym_size(1);
  const bool max = parse_reduce(reduce_type) == Reduce::kMax;
  return {
      at::empty_symint({voxels, channels}, feats.options()),
      at::empty_symint({max ? voxels : c10::SymInt(0), channels}, feats.options().dtype(at::kInt))};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  define(m,
         "dynamic_scatter_plan(Tensor coors) -> (Tensor voxel_coors, Tensor point_voxel, Tensor "
         "ranks, Tensor intervals)",
         check_plan);
  define(
      m,
      "dynamic_scatter(Tensor feats, Tensor ranks, Tensor intervals, str reduce_type) -> (Tensor "
      "voxel_feats, Tensor argmax)",
      check_reduce, reduce_meta);
}

}  // namespace mxd::dynamic_scatter
