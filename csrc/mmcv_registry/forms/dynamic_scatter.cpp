// Reduction of points by voxel over this package's own operators.
#include <ATen/ATen.h>

#include "forms.h"
#include "mxd_op.h"

namespace mxd::mmcv_registry {
namespace {

auto scatter_plan(const Tensor& coors) {
  using Plan = std::tuple<Tensor, Tensor, Tensor, Tensor>;
  return mxd_op<Plan(const Tensor&)>("dynamic_scatter_plan", coors);
}

auto scatter(const Tensor& feats, const Tensor& ranks, const Tensor& intervals, reduce_t reduce) {
  using Signature =
      std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, c10::string_view);
  const char* name = reduce == SUM ? "sum" : reduce == MEAN ? "mean" : "max";
  return mxd_op<Signature>("dynamic_scatter", feats, ranks, intervals, c10::string_view(name));
}

}  // namespace

std::vector<Tensor> dynamic_point_to_voxel_forward(const Tensor& feats, const Tensor& coors,
                                                   reduce_t reduce_type) {
  const auto [voxel_coors, point_voxel, ranks, intervals] = scatter_plan(coors);
  const auto voxel_feats = std::get<0>(scatter(feats, ranks, intervals, reduce_type));
  return {voxel_feats, voxel_coors, point_voxel, intervals.diff().to(at::kInt)};
}

void dynamic_point_to_voxel_backward(Tensor& grad_feats, const Tensor& grad_reduced_feats,
                                     const Tensor& feats, const Tensor&, const Tensor& coors_map,
                                     const Tensor& reduce_count, reduce_t reduce_type) {
  if (reduce_type == MAX) {
    // Every voxel has a point, so a plan made from the voxels' numbers has the same voxels.
    const auto plan = scatter_plan(coors_map.unsqueeze(1));
    const auto argmax =
        std::get<1>(scatter(feats, std::get<2>(plan), std::get<3>(plan), reduce_type));
    grad_feats.zero_().scatter_(0, argmax.to(at::kLong), grad_reduced_feats);
    return;
  }
  const auto grad =
      reduce_type == MEAN
          ? grad_reduced_feats / reduce_count.to(grad_reduced_feats.dtype()).unsqueeze(1)
          : grad_reduced_feats;
  grad_feats.copy_(mxd_op<Tensor(const Tensor&, const Tensor&)>("bev_pool_grad", grad, coors_map));
}

}  // namespace mxd::mmcv_registry
