// Fills mmcv's C++ op registry for npu tensors, for an mmcv that was built without FORCE_NPU. It
// happens when this library is loaded, after mmcv's own. mmcv keeps the functions of each op, one
// for each device, in a DeviceRegistry. There is one such registry in the process, so mmcv's Python
// finds the functions that are added here.
//
// Ops that mmcv serves itself are not replaced. Deformable convolution is not in the table: for npu
// tensors mmcv's Python calls torch_npu's, and a model's DCN layers come from this package.
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <cmath>

#include "npu_forms.h"
#include "on_cpu.h"

namespace mxd::mmcv_registry {
namespace {

// ---- CPU functions where mmcv has none of the same signature.

/// x, y, sizes and yaw of boxes x, y, z, sizes, yaw.
Tensor seen_from_above(const Tensor& boxes) {
  return at::stack({boxes.select(1, 0), boxes.select(1, 1), boxes.select(1, 3), boxes.select(1, 4),
                    boxes.select(1, 6)},
                   1);
}

void overlap_bev(int num_a, Tensor boxes_a, int num_b, Tensor boxes_b, Tensor overlap) {
  const auto a = seen_from_above(boxes_a), b = seen_from_above(boxes_b);
  const auto fraction_of_a = at::zeros({num_a * num_b}, a.options());
  Registry<box_iou_rotated_impl>::instance().Find(at::kCPU)(a, b, fraction_of_a, 1, false);
  overlap.copy_(fraction_of_a.view({num_a, num_b}) *
                (a.select(1, 2) * a.select(1, 3)).unsqueeze(1));
}

/// Scores for boxes that are sorted already, best first.
Tensor descending(const Tensor& boxes) { return at::arange(boxes.size(0), 0, -1, boxes.options()); }

void keep_these(const Tensor& kept, Tensor& keep, Tensor& keep_num) {
  keep.narrow(0, 0, kept.size(0)).copy_(kept);
  keep_num.fill_(kept.size(0));
}

void nms3d(Tensor boxes, Tensor& keep, Tensor& keep_num, float threshold) {
  // nms_rotated also drops boxes whose overlap equals the threshold, nms3d does not.
  const auto beyond = std::nextafter(threshold, INFINITY);
  keep_these(nms_rotated_cpu(seen_from_above(boxes), descending(boxes), beyond), keep, keep_num);
}

void nms3d_normal(Tensor boxes, Tensor& keep, Tensor& keep_num, float threshold) {
  const auto middle = boxes.narrow(1, 0, 2), half = boxes.narrow(1, 3, 2) / 2;
  const auto corners = at::cat({middle - half, middle + half}, 1);
  const auto nms = Registry<nms_impl>::instance().Find(at::kCPU);
  keep_these(nms(corners, descending(boxes), threshold, 0), keep, keep_num);
}

/// mmcv's Python gives npu tensors' angles in degrees.
void box_iou_rotated(Tensor boxes1, Tensor boxes2, Tensor ious, int mode_flag, bool aligned) {
  for (auto& boxes : {boxes1, boxes2}) boxes.select(1, 4).mul_(0.01745329252);
  Registry<box_iou_rotated_impl>::instance().Find(at::kCPU)(boxes1, boxes2, ious, mode_flag,
                                                            aligned);
}

// ---- The table.

/// Fill in one op, if nothing serves it yet.
///
/// Returns: whether it was filled in.
template <auto op>
bool fill(decltype(op) function) {
  auto& registry = Registry<op>::instance();
  if (registry.Find(at::kPrivateUse1)) return false;
  registry.Register(at::kPrivateUse1, function);
  return true;
}

template <auto op, int... written>
bool fill_on_cpu(const char* name, decltype(op) kernel = nullptr) {
  using Op = OnCpu<op, written...>;
  Op::name = name;
  Op::kernel = kernel;
  return fill<op>(Op::run);
}

struct Op {
  std::string name, server;
  bool filled;
};

#define MXD(op, function) {#op, "operators of mxd_mmplugin", fill<op>(function)}
#define ATEN(op, function) {#op, "PyTorch ops", fill<op>(function)}
// mmcv's own kernel; the numbers are the positions of the arguments that it writes.
#define CPU(op, ...) {#op, "the CPU", fill_on_cpu<op __VA_OPT__(, ) __VA_ARGS__>(#op)}
#define CPU_BY(function, op, ...) \
  {#op, "the CPU", fill_on_cpu<op __VA_OPT__(, ) __VA_ARGS__>(#op, function)}

// clang-format off
std::vector<Op> fill_registry() {
  return {
      MXD(hard_voxelize_forward_impl, hard_voxelize),
      MXD(nondeterministic_hard_voxelize_forward_impl, hard_voxelize),
      MXD(dynamic_voxelize_forward_impl, dynamic_voxelize),
      MXD(dynamic_point_to_voxel_forward_impl, dynamic_point_to_voxel_forward),
      MXD(dynamic_point_to_voxel_backward_impl, dynamic_point_to_voxel_backward),
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
      CPU(nms_impl),
      CPU(bbox_overlaps_impl, 2),
      CPU(box_iou_quadri_impl, 2),
      CPU_BY(box_iou_rotated, box_iou_rotated_impl, 2),
      CPU_BY(overlap_bev, iou3d_boxes_overlap_bev_forward_impl, 4),
      CPU_BY(nms3d, iou3d_nms3d_forward_impl, 1, 2),
      CPU_BY(nms3d_normal, iou3d_nms3d_normal_forward_impl, 1, 2),
      CPU(roi_align_forward_impl, 2, 3, 4),
      CPU(roi_align_backward_impl, 4),
      CPU(roi_align_rotated_forward_impl, 2),
      CPU(roi_align_rotated_backward_impl, 2),
  };
}
// clang-format on

// ---- Functions of mmcv that do not use the registry.

/// Wrap mmcv's C++ function `name`, which treats every tensor that is not on a GPU as a CPU tensor:
/// npu tensors are copied to the CPU first.
void serve_on_cpu(py::module_& extension, const char* name, bool degrees) {
  const py::object mmcvs = extension.attr(name);
  extension.attr(name) = py::cpp_function(
      [=](const py::args& args, const py::kwargs& kwargs) -> py::object {
        const auto dets = args.size() ? args[0].cast<Tensor>() : Tensor();
        if (!dets.defined() || !dets.device().is_privateuseone()) return mmcvs(*args, **kwargs);
        warn_of_copies(name);
        // In place: mmcv's Python has changed the caller's own boxes to degrees, and returns them.
        if (degrees) dets.select(1, 4).mul_(M_PI / 180);
        py::list copies;
        for (const auto& argument : args) {
          copies.append(THPVariable_Check(argument.ptr())
                            ? py::cast(to_cpu(argument.cast<Tensor>()))
                            : py::reinterpret_borrow<py::object>(argument));
        }
        return py::cast(mmcvs(*copies, **kwargs).cast<Tensor>().to(dets.device()));
      },
      py::name(name));
}

std::vector<Op> load() {
  const bool npu_build = Registry<nms_impl>::instance().Find(at::kPrivateUse1) != nullptr;
  auto table = fill_registry();
  py::gil_scoped_acquire gil;
  auto extension = py::module_::import("mmcv._ext");
  if (!npu_build) serve_on_cpu(extension, "nms_rotated", /*degrees=*/true);
  serve_on_cpu(extension, "nms_quadri", /*degrees=*/false);
  table.push_back({"nms_rotated", "the CPU", !npu_build});
  table.push_back({"nms_quadri", "the CPU", true});
  return table;
}

const std::vector<Op> kTable = load();

/// What serves each op for npu tensors: op -> server.
c10::Dict<std::string, std::string> served() {
  c10::Dict<std::string, std::string> servers;
  for (const auto& op : kTable) servers.insert(op.name, op.filled ? op.server : "mmcv");
  return servers;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) { m.def("mmcv_registry", served); }

}  // namespace mxd::mmcv_registry
