// Fills mmcv's C++ op registry for CPU tensors with the ops that mmcv has for GPUs alone.
#include <torch/library.h>

#include "../forms/forms.h"
#include "../registry.h"
#include "cpu_ops.h"

namespace mxd::mmcv_registry::cpu {
namespace {

#define KERNEL(op, function) fill<op>(library, at::kCPU, #op, function, "CPU kernels")
#define MXD(op, function) fill<op>(library, at::kCPU, #op, function, "operators of mxd_mmplugin")
#define ATEN(op, function) fill<op>(library, at::kCPU, #op, function, "PyTorch ops")

// clang-format off
std::vector<Served> fill_table(void* library) {
  return {
      MXD(nondeterministic_hard_voxelize_forward_impl, hard_voxelize),
      MXD(dynamic_point_to_voxel_forward_impl, dynamic_point_to_voxel_forward),
      MXD(dynamic_point_to_voxel_backward_impl, dynamic_point_to_voxel_backward),
      KERNEL(furthest_point_sampling_forward_impl, furthest_point_sampling),
      KERNEL(furthest_point_sampling_with_dist_forward_impl, furthest_point_sampling_with_dist),
      KERNEL(ball_query_forward_impl, ball_query),
      KERNEL(stack_ball_query_forward_impl, stack_ball_query),
      KERNEL(knn_forward_impl, knn),
      KERNEL(three_nn_forward_impl, three_nn),
      KERNEL(three_interpolate_forward_impl, three_interpolate_forward),
      KERNEL(three_interpolate_backward_impl, three_interpolate_backward),
      KERNEL(gather_points_forward_impl, gather_points_forward),
      KERNEL(gather_points_backward_impl, gather_points_backward),
      KERNEL(group_points_forward_impl, group_points_forward),
      KERNEL(group_points_backward_impl, group_points_backward),
      KERNEL(stack_group_points_forward_impl, stack_group_points_forward),
      KERNEL(stack_group_points_backward_impl, stack_group_points_backward),
      KERNEL(assign_score_withk_forward_impl, assign_score_withk_forward),
      KERNEL(assign_score_withk_backward_impl, assign_score_withk_backward),
      KERNEL(points_in_boxes_part_forward_impl, points_in_boxes_part),
      KERNEL(points_in_boxes_all_forward_impl, points_in_boxes_all),
      KERNEL(roiaware_pool3d_forward_impl, roiaware_pool3d_forward),
      KERNEL(roiaware_pool3d_backward_impl, roiaware_pool3d_backward),
      KERNEL(roipoint_pool3d_forward_impl, roipoint_pool3d),
      KERNEL(diff_iou_rotated_sort_vertices_forward_impl, diff_iou_rotated_sort_vertices),
      KERNEL(sigmoid_focal_loss_forward_impl, cpu::sigmoid_focal_loss_forward),
      KERNEL(sigmoid_focal_loss_backward_impl, cpu::sigmoid_focal_loss_backward),
      ATEN(softmax_focal_loss_forward_impl, softmax_focal_loss_forward),
      ATEN(softmax_focal_loss_backward_impl, softmax_focal_loss_backward),
  };
}
// clang-format on

/// Fill in what mmcv's library leaves empty: op -> what serves it for CPU tensors.
c10::Dict<std::string, std::string> fill_registry(const std::string& library) {
  return as_dict(fill_table(find_library(library)));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  m.def("fill_mmcv_registry(str library) -> Dict(str, str)", fill_registry);
}

}  // namespace mxd::mmcv_registry::cpu
