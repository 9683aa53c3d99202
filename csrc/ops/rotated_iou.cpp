// Rotated boxes: schema and Meta kernels. The geometry is told in rotated_iou.h.
//   rotated_iou  what `mode` tells of all pairs of boxes1 [N, 5] and boxes2 [M, 5], [N, M], or of
//                each row's pair, [N]
//   rotated_nms  the boxes that no better one suppresses, best first: keep int64 [N], of which the
//                first `count` int64 [1] are meant, the others have any value. One box suppresses
//                another by an iou above the threshold, or at least the threshold if `inclusive`,
//                if their labels are the same. Without scores the boxes are in their order.
//   circle_nms   the same where one suppresses another by a squared distance of their centers of
//                at most the threshold
//   grouped_nms  the choice in each group of boxes [groups, N, 5], or of centers [groups, N, 2],
//                that come best first: keep int64 [groups, N] of the boxes that are valid, bool
//                [groups, N], and count int64 [groups]; behind the count keep is 0. Boxes as in
//                rotated_nms, centers as in circle_nms (where `inclusive` means nothing)
#include "rotated_iou.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace mxd::rotated_iou {
namespace {

at::Tensor iou_meta(const at::Tensor& boxes1, const at::Tensor& boxes2, int64_t mode,
                    bool aligned) {
  check_iou(boxes1, boxes2, mode, aligned);
  if (aligned) return at::empty_symint({boxes1.sym_size(0)}, boxes1.options());
  return at::empty_symint({boxes1.sym_size(0), boxes2.sym_size(0)}, boxes1.options());
}

std::tuple<at::Tensor, at::Tensor> kept_meta(const at::Tensor& boxes) {
  const auto ints = boxes.options().dtype(at::kLong);
  return {at::empty_symint({boxes.sym_size(0)}, ints), at::empty({1}, ints)};
}

std::tuple<at::Tensor, at::Tensor> nms_meta(const at::Tensor& boxes,
                                            const c10::optional<at::Tensor>& scores,
                                            const c10::optional<at::Tensor>& labels,
                                            double threshold, bool inclusive) {
  check_nms(boxes, scores, labels, threshold, inclusive);
  return kept_meta(boxes);
}

std::tuple<at::Tensor, at::Tensor> circle_nms_meta(const at::Tensor& centers,
                                                   const at::Tensor& scores, double threshold) {
  check_circle_nms(centers, scores, threshold);
  return kept_meta(centers);
}

std::tuple<at::Tensor, at::Tensor> grouped_nms_meta(const at::Tensor& boxes,
                                                    const at::Tensor& valid, double threshold,
                                                    bool inclusive) {
  check_grouped_nms(boxes, valid, threshold, inclusive);
  const auto ints = boxes.options().dtype(at::kLong);
  return {at::empty_symint({boxes.sym_size(0), boxes.sym_size(1)}, ints),
          at::empty_symint({boxes.sym_size(0)}, ints)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  define(m, "rotated_iou(Tensor boxes1, Tensor boxes2, int mode, bool aligned) -> Tensor",
         check_iou, iou_meta);
  define(m,
         "rotated_nms(Tensor boxes, Tensor? scores, Tensor? labels, float threshold, bool "
         "inclusive) -> (Tensor keep, Tensor count)",
         check_nms, nms_meta);
  define(m,
         "circle_nms(Tensor centers, Tensor scores, float threshold) -> (Tensor keep, Tensor "
         "count)",
         check_circle_nms, circle_nms_meta);
  define(m,
         "grouped_nms(Tensor boxes, Tensor valid, float threshold, bool inclusive) -> (Tensor "
         "keep, Tensor count)",
         check_grouped_nms, grouped_nms_meta);
}

}  // namespace mxd::rotated_iou
