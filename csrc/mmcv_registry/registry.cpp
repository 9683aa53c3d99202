// Fills mmcv's C++ op registry for npu tensors, for an mmcv that was built without FORCE_NPU. It
// happens when this library is loaded, after mmcv's own and after the registry was filled for CPU
// tensors (cpu/table.cpp).
//
// Ops that mmcv serves itself are not replaced. Deformable convolution is not in the table: for npu
// tensors mmcv's Python calls torch_npu's, and a model's DCN layers come from this package.
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <cmath>
#include <functional>

#include "npu_forms.h"
#include "on_cpu.h"

namespace mxd::mmcv_registry {
namespace {

// ---- The table.

template <auto op, int... written>
Served fill_on_cpu(void* library, const char* name) {
  using Op = OnCpu<op, written...>;
  Op::name = name;
  Op::functions = find_functions<op>(library);
  return fill<op>(library, at::kPrivateUse1, name, Op::run, "the CPU");
}

#define MXD(op, function) \
  fill<op>(library, at::kPrivateUse1, #op, function, "operators of mxd_mmplugin")
#define ATEN(op, function) fill<op>(library, at::kPrivateUse1, #op, function, "PyTorch ops")
// The function for CPU tensors; the numbers are the positions of the arguments that it writes.
#define CPU(op, ...) fill_on_cpu<op __VA_OPT__(, ) __VA_ARGS__>(library, #op)

// clang-format off
std::vector<Served> fill_table(void* library) {
  return {
      MXD(hard_voxelize_forward_impl, hard_voxelize),
      MXD(nondeterministic_hard_voxelize_forward_impl, hard_voxelize),
      MXD(dynamic_voxelize_forward_impl, dynamic_voxelize),
      MXD(dynamic_point_to_voxel_forward_impl, dynamic_point_to_voxel_forward),
      MXD(dynamic_point_to_voxel_backward_impl, dynamic_point_to_voxel_backward),
      MXD(box_iou_rotated_impl, box_iou_rotated),
      MXD(iou3d_boxes_overlap_bev_forward_impl, boxes_overlap_bev),
      MXD(iou3d_nms3d_forward_impl, nms3d),
      MXD(iou3d_nms3d_normal_forward_impl, nms3d_normal),
      ATEN(sigmoid_focal_loss_forward_impl, sigmoid_focal_loss_forward),
      ATEN(sigmoid_focal_loss_backward_impl, sigmoid_focal_loss_backward),
      ATEN(softmax_focal_loss_forward_impl, softmax_focal_loss_forward),
      ATEN(softmax_focal_loss_backward_impl, softmax_focal_loss_backward),
      ATEN(ms_deform_attn_impl_forward, ms_deform_attn_forward),
      ATEN(ms_deform_attn_impl_backward, ms_deform_attn_backward),
      ATEN(points_in_boxes_part_forward_impl, points_in_boxes_part),
      ATEN(points_in_boxes_all_forward_impl, points_in_boxes_all),
      ATEN(three_nn_forward_impl, three_nn),
      ATEN(three_interpolate_forward_impl, three_interpolate_forward),
      ATEN(three_interpolate_backward_impl, three_interpolate_backward),
      ATEN(ball_query_forward_impl, ball_query),
      ATEN(group_points_forward_impl, group_points_forward),
      ATEN(group_points_backward_impl, group_points_backward),
      ATEN(gather_points_forward_impl, gather_points_forward),
      ATEN(gather_points_backward_impl, gather_points_backward),
      ATEN(stack_group_points_forward_impl, stack_group_points_forward),
      ATEN(stack_group_points_backward_impl, stack_group_points_backward),
      ATEN(roipoint_pool3d_forward_impl, roipoint_pool3d),
      ATEN(assign_score_withk_forward_impl, assign_score_withk_forward),
      ATEN(assign_score_withk_backward_impl, assign_score_withk_backward),
      CPU(furthest_point_sampling_forward_impl, 1, 2),
      CPU(furthest_point_sampling_with_dist_forward_impl, 1, 2),
      CPU(stack_ball_query_forward_impl, 6),
      CPU(knn_forward_impl, 6, 7),
      CPU(roiaware_pool3d_forward_impl, 10, 11, 12),
      CPU(roiaware_pool3d_backward_impl, 9),
      CPU(nms_impl),
      CPU(bbox_overlaps_impl, 2),
      CPU(box_iou_quadri_impl, 2),
      CPU(roi_align_forward_impl, 2, 3, 4),
      CPU(roi_align_backward_impl, 4),
      CPU(roi_align_rotated_forward_impl, 2),
      CPU(roi_align_rotated_backward_impl, 2),
  };
}
// clang-format on

// ---- Functions of mmcv that do not use the registry.

using Function = std::function<Tensor(const py::args& args)>;

/// Exchange mmcv's C++ function `name`, which treats every tensor that is not on a GPU as a CPU
/// tensor, for one that serves npu tensors by `function`.
void serve_npu(py::module_& extension, const char* name, const Function& function) {
  const py::object mmcvs = extension.attr(name);
  extension.attr(name) = py::cpp_function(
      [=](const py::args& args, const py::kwargs& kwargs) -> py::object {
        const auto dets = args.size() ? args[0].cast<Tensor>() : Tensor();
        if (!dets.defined() || !dets.device().is_privateuseone()) return mmcvs(*args, **kwargs);
        return py::cast(function(args));
      },
      py::name(name));
}

/// Its arguments: dets, scores, order, sorted dets, labels, threshold, whether labels count.
Tensor nms_rotated_of(const py::args& args) {
  // In place: mmcv's Python has changed the caller's own boxes to degrees, and returns them.
  const auto dets = args[0].cast<Tensor>();
  dets.select(1, 4).mul_(M_PI / 180);
  const auto labels = args[6].cast<int>() != 0 ? args[4].cast<Tensor>() : Tensor();
  return nms_rotated(dets, args[1].cast<Tensor>(), labels, args[5].cast<float>());
}

/// `mmcvs` with copies on the CPU.
Tensor on_cpu(const py::object& mmcvs, const char* name, const py::args& args) {
  warn_of_copies(name);
  py::list copies;
  for (const auto& argument : args) {
    copies.append(THPVariable_Check(argument.ptr()) ? py::cast(to_cpu(argument.cast<Tensor>()))
                                                    : py::reinterpret_borrow<py::object>(argument));
  }
  return mmcvs(*copies).cast<Tensor>().to(args[0].cast<Tensor>().device());
}

std::vector<Served> load() {
  py::gil_scoped_acquire gil;
  auto extension = py::module_::import("mmcv._ext");
  void* library = find_library(extension.attr("__file__").cast<std::string>());
  const auto* nms = find_functions<nms_impl>(library);
  const bool npu_build = nms && nms[static_cast<int>(at::kPrivateUse1)];
  auto table = fill_table(library);
  if (!npu_build) serve_npu(extension, "nms_rotated", nms_rotated_of);
  const py::object nms_quadri = extension.attr("nms_quadri");
  serve_npu(extension, "nms_quadri",
            [=](const py::args& args) { return on_cpu(nms_quadri, "nms_quadri", args); });
  table.emplace_back("nms_rotated", npu_build ? "mmcv" : "operators of mxd_mmplugin");
  table.emplace_back("nms_quadri", "the CPU");
  return table;
}

const std::vector<Served> kTable = load();

/// What serves each op for npu tensors: op -> server.
c10::Dict<std::string, std::string> served() { return as_dict(kTable); }

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) { m.def("mmcv_registry", served); }

}  // namespace mxd::mmcv_registry
