// Voxelization: schema and Meta kernels.
//   voxelize_dynamic      int32 [points, ndim], each point's voxel z, y, x, or -1 outside
//   voxelize_hard         coors int32 [voxels, ndim], num_points int32 [voxels], slots int32
//                         [voxels, max_points], the row of the point in each slot or -1 where it is
//                         empty, and point_voxel_id int64 [points], or -1 ([0] without ids)
//   voxelize_gather       [voxels, max_points, channels], the points in the slots
//   voxelize_gather_grad  its gradient in the points
#include "voxelize.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace mxd::voxelize {
namespace {

at::Tensor dynamic_meta(const at::Tensor& points, at::ArrayRef<double> voxel_size,
                        at::ArrayRef<double> coors_range) {
  check_dynamic(points, voxel_size, coors_range);
  return at::empty_symint({points.sym_size(0), static_cast<int64_t>(voxel_size.size())},
                          points.options().dtype(at::kInt));
}

at::Tensor gather_meta(const at::Tensor& points, const at::Tensor& slots, bool empty_mean) {
  check_gather(points, slots, empty_mean);
  return at::empty_symint({slots.sym_size(0), slots.sym_size(1), points.sym_size(1)},
                          points.options());
}

at::Tensor gather_grad_meta(const at::Tensor& grad, const at::Tensor& slots,
                            c10::SymInt num_points) {
  check_gather_grad(grad, slots, num_points);
  return at::empty_symint({num_points, grad.sym_size(2)}, grad.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  define(m, "voxelize_dynamic(Tensor points, float[] voxel_size, float[] coors_range) -> Tensor",
         check_dynamic, dynamic_meta);
  define(
      m,
      "voxelize_hard(Tensor points, float[] voxel_size, float[] coors_range, int max_points, int "
      "max_voxels, bool with_ids=True) -> (Tensor coors, Tensor num_points, Tensor slots, Tensor "
      "point_voxel_id)",
      check_hard);
  define(m, "voxelize_gather(Tensor points, Tensor slots, bool empty_mean) -> Tensor", check_gather,
         gather_meta);
  define(m, "voxelize_gather_grad(Tensor grad, Tensor slots, SymInt num_points) -> Tensor",
         check_gather_grad, gather_grad_meta);
}

}  // namespace mxd::voxelize
