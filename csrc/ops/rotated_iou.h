// Rotated boxes: what every backend shares. Argument checks and the geometry.
//
// A box is x, y, width, height, angle: a rectangle around (x, y), whose sides have the directions
// (cos, sin) and (-sin, cos) of the angle in radians. A box whose numbers are not all finite, or
// whose area is below kLeastArea, overlaps nothing; a negative width or height counts as 0.
//
// The area that two boxes share, in the frame of the first one, whose half sides are a and b. By
// Green's theorem it is the integral of (min(max(x, -a), a) - c) dy along those parts of the
// second one's sides where |y| < b. No list of corners is sorted, and sides that coincide need no
// care. The constant c changes nothing, for the sides close; with the middle of the second box cut
// to [-a, a] for it, rounding errors are small beside the smaller box. On a side x grows evenly
// with y, and the mean of min(max(x, -a), a) on it, where x goes from low to high, is
//   m + (above (a - m) - below (a + m)) / (high - low),
// where m is the mean of low and high, both cut to [-a, a], and above and below are the lengths of
// [low, high] beyond a and -a.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <limits>
#include <utility>

#include "check.h"

namespace mxd::rotated_iou {

constexpr double kLeastArea = 1e-14;

// What is told of two boxes: the shared area by that of their union, or by that of the first box,
// or the shared area itself.
enum Mode : int64_t { kIou, kIof, kArea };

inline void check_boxes(const char* name, const at::Tensor& boxes) {
  check_float(name, boxes);
  TORCH_CHECK_VALUE(boxes.dim() == 2 && boxes.sym_size(1) == 5, name,
                    " must have shape [boxes, 5] (x, y, width, height, angle), was ",
                    boxes.sym_sizes());
  check_row_count(name, boxes);
}

// The number of pairs fits int32.
inline void check_iou(const at::Tensor& boxes1, const at::Tensor& boxes2, int64_t mode,
                      bool aligned) {
  check_boxes("boxes1", boxes1);
  check_boxes("boxes2", boxes2);
  check_same_dtype("boxes2", boxes2, "boxes1", boxes1);
  check_same_device("boxes2", boxes2, "boxes1", boxes1);
  TORCH_CHECK_VALUE(mode >= kIou && mode <= kArea,
                    "mode must be 0 (iou), 1 (iof) or 2 (area), was ", mode);
  const c10::SymInt rows = boxes1.sym_size(0), columns = boxes2.sym_size(0);
  if (aligned) {
    TORCH_CHECK_VALUE(holds(rows.sym_eq(columns)), "boxes2 must have a row for each of the ", rows,
                      " boxes of boxes1, as aligned asks, was ", boxes2.sym_sizes());
  } else {
    TORCH_CHECK_VALUE(holds((rows * columns).sym_le(std::numeric_limits<int32_t>::max())),
                      "boxes1 and boxes2 must have fewer than 2**31 pairs, were ", rows, " and ",
                      columns, " boxes");
  }
}

inline void check_of_boxes(const char* name, const at::Tensor& values, const char* boxes_name,
                           const at::Tensor& boxes) {
  TORCH_CHECK_VALUE(values.dim() == 1 && holds(values.sym_size(0).sym_eq(boxes.sym_size(0))), name,
                    " must have shape [", boxes.sym_size(0), "], one for each row of ", boxes_name,
                    ", was ", values.sym_sizes());
  check_same_device(name, values, boxes_name, boxes);
}

inline void check_threshold(double threshold) {
  TORCH_CHECK_VALUE(!std::isnan(threshold), "threshold must be a number, was nan");
}

inline void check_nms(const at::Tensor& boxes, const c10::optional<at::Tensor>& scores,
                      const c10::optional<at::Tensor>& labels, double threshold, bool) {
  check_boxes("boxes", boxes);
  if (scores) {
    check_float("scores", *scores);
    check_of_boxes("scores", *scores, "boxes", boxes);
  }
  if (labels) check_of_boxes("labels", *labels, "boxes", boxes);
  check_threshold(threshold);
}

inline void check_circle_nms(const at::Tensor& centers, const at::Tensor& scores,
                             double threshold) {
  check_float("centers", centers);
  TORCH_CHECK_VALUE(centers.dim() == 2 && centers.sym_size(1) == 2,
                    "centers must have shape [boxes, 2] (x and y), was ", centers.sym_sizes());
  check_row_count("centers", centers);
  check_float("scores", scores);
  check_of_boxes("scores", scores, "centers", centers);
  check_threshold(threshold);
}

// The boxes of a group fit into the memory of a core of an NPU.
constexpr int64_t kMaxGroup = 4096;

inline void check_grouped_nms(const at::Tensor& boxes, const at::Tensor& valid, double threshold,
                              bool) {
  check_float("boxes", boxes);
  TORCH_CHECK_VALUE(boxes.dim() == 3 && (boxes.sym_size(2) == 5 || boxes.sym_size(2) == 2),
                    "boxes must have shape [groups, boxes, 5] (x, y, width, height, angle) or "
                    "[groups, boxes, 2] (x and y), was ",
                    boxes.sym_sizes());
  TORCH_CHECK_VALUE(holds(boxes.sym_size(1).sym_le(kMaxGroup)), "boxes must have at most ",
                    kMaxGroup, " boxes in a group, was ", boxes.sym_sizes());
  check_row_count("boxes", boxes);
  TORCH_CHECK_TYPE(valid.scalar_type() == at::kBool, "valid must be bool, was ",
                   valid.scalar_type());
  TORCH_CHECK_VALUE(valid.dim() == 2 && holds(valid.sym_size(0).sym_eq(boxes.sym_size(0))) &&
                        holds(valid.sym_size(1).sym_eq(boxes.sym_size(1))),
                    "valid must have shape [", boxes.sym_size(0), ", ", boxes.sym_size(1),
                    "], one for each box, was ", valid.sym_sizes());
  check_same_device("valid", valid, "boxes", boxes);
  check_threshold(threshold);
}

}  // namespace mxd::rotated_iou
