// Voxelization over this package's own operators.
#include <ATen/ATen.h>

#include "forms.h"
#include "mxd_op.h"

namespace mxd::mmcv_registry {
namespace {

std::vector<double> widened(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

int hard_voxelize(const Tensor& points, Tensor& voxels, Tensor& coors, Tensor& num_points_per_voxel,
                  std::vector<float> voxel_size, std::vector<float> coors_range, int max_points,
                  int max_voxels, int) {
  using Numbers = at::ArrayRef<double>;
  using Hard = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, Numbers, Numbers, int64_t,
                                                          int64_t, bool);
  const auto size = widened(voxel_size), range = widened(coors_range);
  const auto [found, counts, slots, point_voxel_id] =
      mxd_op<Hard>("voxelize_hard", points, Numbers(size), Numbers(range), int64_t{max_points},
                   int64_t{max_voxels}, false);
  const auto count = found.size(0);
  voxels.narrow(0, 0, count)
      .copy_(mxd_op<Tensor(const Tensor&, const Tensor&, bool)>("voxelize_gather", points, slots,
                                                                false));
  coors.narrow(0, 0, count).copy_(found);
  num_points_per_voxel.narrow(0, 0, count).copy_(counts);
  return static_cast<int>(count);
}

void dynamic_voxelize(const Tensor& points, Tensor& coors, std::vector<float> voxel_size,
                      std::vector<float> coors_range, int) {
  using Numbers = at::ArrayRef<double>;
  const auto size = widened(voxel_size), range = widened(coors_range);
  coors.copy_(mxd_op<Tensor(const Tensor&, Numbers, Numbers)>("voxelize_dynamic", points,
                                                              Numbers(size), Numbers(range)));
}

}  // namespace mxd::mmcv_registry
