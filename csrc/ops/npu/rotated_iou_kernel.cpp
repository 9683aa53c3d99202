// Rotated boxes on the NPU: tilings and launches. In float32, whatever the dtype of the boxes.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <array>

#include "../rotated_iou.h"
#include "integers.h"
#include "launch.h"
#include "rotated_iou_tiling.h"
#include "sort.h"

// clang-format off: they need the tilings
#include "aclrtlaunch_rotated_iou.h"
#include "aclrtlaunch_rotated_nms_keep.h"
#include "aclrtlaunch_rotated_nms_keys.h"
#include "aclrtlaunch_rotated_nms_mask.h"
// clang-format on

namespace mxd::rotated_iou {
namespace {

at::Tensor floats(const at::Tensor& tensor) { return tensor.to(at::kFloat).contiguous(); }

static_assert(kMaxGroup == kernels::kNmsMaxValid);

at::Tensor iou_npu(const at::Tensor& boxes1, const at::Tensor& boxes2, int64_t mode, bool aligned) {
  check_iou(boxes1, boxes2, mode, aligned);
  const int64_t rows = boxes1.size(0), columns = boxes2.size(0);
  const at::Tensor first = floats(boxes1), second = floats(boxes2);
  const auto out =
      aligned ? at::empty({rows}, first.options()) : at::empty({rows, columns}, first.options());
  if (out.numel() > 0) {
    RotatedIouTiling tiling{};
    tiling.rows = rows;
    tiling.columns = columns;
    tiling.aligned = aligned;
    tiling.mode = mode;
    tiling.inverse_columns = npu::a_little_less_than_inverse(columns);
    npu::launch(aclrtlaunch_rotated_iou, "rotated_iou", npu::blocks_for(out.numel(), 64), first,
                second, out, tiling);
  }
  return out.to(boxes1.scalar_type());
}

// The order of scores, the best first.
at::Tensor best_first(const at::Tensor& scores) {
  const at::Tensor values = floats(scores);
  const int64_t count = values.size(0);
  const auto ints = values.options().dtype(at::kInt);
  const at::Tensor high = at::empty({count}, ints), low = at::empty({count}, ints);
  npu::launch(aclrtlaunch_rotated_nms_keys, "rotated_nms_keys", npu::blocks_for(count, 512), values,
              high, low, RotatedNmsKeysTiling{static_cast<int32_t>(count)});
  const at::Tensor by_low = npu::sort_keys(low).rows;
  return npu::sort_keys(npu::take_rows(high, by_low), by_low).rows;
}

struct Kept {
  at::Tensor keep;   // int64 [groups, whole blocks of count]
  at::Tensor total;  // int64 [groups, 4], in the first column
};

// Of boxes [groups, count, columns], the best first, those that no better one suppresses.
Kept keep_in_groups(const at::Tensor& boxes, const at::Tensor& order, const at::Tensor& valid,
                    double threshold, bool inclusive) {
  constexpr int64_t kBlock = kernels::kBlockBytes / sizeof(int64_t);  // no two groups share one
  const int64_t groups = boxes.size(0), count = boxes.size(1);
  RotatedNmsTiling tiling{};
  tiling.groups = groups;
  tiling.count = count;
  tiling.columns = boxes.size(2);
  tiling.pitch = npu::ceil_div(count, kernels::kPairsAtOnce) * (kernels::kPairsAtOnce / 32);
  tiling.kept_pitch = npu::round_up(count, kBlock);
  tiling.inclusive = inclusive;
  tiling.threshold = static_cast<float>(threshold);
  const auto ints = boxes.options().dtype(at::kLong);
  const std::array<int64_t, 2> sizes{groups, tiling.kept_pitch};
  const Kept kept{valid.defined() ? at::zeros(sizes, ints) : at::empty(sizes, ints),
                  at::empty({groups, kBlock}, ints)};
  const at::Tensor mask = at::empty({groups, count, tiling.pitch}, ints.dtype(at::kInt));
  npu::launch(aclrtlaunch_rotated_nms_mask, "rotated_nms_mask", npu::blocks_for(count, 1), boxes,
              mask, tiling);
  npu::launch(aclrtlaunch_rotated_nms_keep, "rotated_nms_keep", npu::blocks_for(groups, 1), mask,
              order, valid, kept.keep, kept.total, tiling);
  return kept;
}

// Rows of boxes, in their order or in that of their scores: those that no better one suppresses.
std::tuple<at::Tensor, at::Tensor> keep_best(const at::Tensor& boxes,
                                             const c10::optional<at::Tensor>& scores,
                                             double threshold, bool inclusive) {
  const int64_t count = boxes.size(0);
  TORCH_CHECK_VALUE(count <= kernels::kNmsMaxBoxes, "boxes must have at most ",
                    kernels::kNmsMaxBoxes, " rows on an NPU, was ", boxes.sizes());
  const auto ints = boxes.options().dtype(at::kLong);
  if (count == 0) return {at::empty({0}, ints), at::zeros({1}, ints)};
  at::Tensor order, sorted = boxes;
  if (scores) {
    order = best_first(*scores);
    sorted = npu::take_rows(boxes, order);
  }
  const Kept kept = keep_in_groups(sorted.unsqueeze(0), order, {}, threshold, inclusive);
  return {kept.keep[0].narrow(0, 0, count), kept.total[0].narrow(0, 0, 1)};
}

std::tuple<at::Tensor, at::Tensor> nms_npu(const at::Tensor& boxes,
                                           const c10::optional<at::Tensor>& scores,
                                           const c10::optional<at::Tensor>& labels,
                                           double threshold, bool inclusive) {
  check_nms(boxes, scores, labels, threshold, inclusive);
  at::Tensor rows = floats(boxes);
  if (labels) rows = at::cat({rows, floats(*labels).unsqueeze(1)}, 1);
  return keep_best(rows, scores, threshold, inclusive);
}

std::tuple<at::Tensor, at::Tensor> circle_nms_npu(const at::Tensor& centers,
                                                  const at::Tensor& scores, double threshold) {
  check_circle_nms(centers, scores, threshold);
  return keep_best(floats(centers), scores, threshold, true);
}

std::tuple<at::Tensor, at::Tensor> grouped_nms_npu(const at::Tensor& boxes, const at::Tensor& valid,
                                                   double threshold, bool inclusive) {
  check_grouped_nms(boxes, valid, threshold, inclusive);
  const int64_t groups = boxes.size(0), count = boxes.size(1);
  const auto ints = boxes.options().dtype(at::kLong);
  if (groups == 0 || count == 0)
    return {at::empty({groups, count}, ints), at::zeros({groups}, ints)};
  const Kept kept =
      keep_in_groups(floats(boxes), {}, floats(valid), threshold, inclusive || boxes.size(2) == 2);
  return {kept.keep.narrow(1, 0, count), kept.total.select(1, 0)};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("rotated_iou", TORCH_FN(iou_npu));
  m.impl("rotated_nms", TORCH_FN(nms_npu));
  m.impl("circle_nms", TORCH_FN(circle_nms_npu));
  m.impl("grouped_nms", TORCH_FN(grouped_nms_npu));
}

}  // namespace mxd::rotated_iou
