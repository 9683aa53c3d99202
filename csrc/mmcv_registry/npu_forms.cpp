#include "npu_forms.h"

#include <ATen/ATen.h>

#include <limits>

#include "forms/mxd_op.h"
#include "in_threes.h"

namespace mxd::mmcv_registry {
namespace {

/// What two lists of boxes have in common; the modes are those of csrc/ops/rotated_iou.h.
Tensor rotated_iou(const Tensor& boxes1, const Tensor& boxes2, int64_t mode, bool aligned) {
  using Signature = Tensor(const Tensor&, const Tensor&, int64_t, bool);
  return mxd_op<Signature>("rotated_iou", boxes1, boxes2, mode, aligned);
}

/// Rows that are kept, behind them others, and the number of those kept.
auto rotated_nms(const Tensor& boxes, const c10::optional<Tensor>& scores,
                 const c10::optional<Tensor>& labels, double threshold, bool inclusive) {
  using Signature = std::tuple<Tensor, Tensor>(const Tensor&, const c10::optional<Tensor>&,
                                               const c10::optional<Tensor>&, double, bool);
  return mxd_op<Signature>("rotated_nms", boxes, scores, labels, threshold, inclusive);
}

/// x, y, sizes and yaw of boxes x, y, z, sizes, yaw.
Tensor seen_from_above(const Tensor& boxes, bool rotated = true) {
  const auto yaw = boxes.narrow(1, 6, 1);
  return at::cat({boxes.narrow(1, 0, 2), boxes.narrow(1, 3, 2), rotated ? yaw : yaw * 0}, 1);
}

/// Boxes come sorted, and the numbers stay on the device.
void keep_sorted(const Tensor& boxes, Tensor& keep, Tensor& keep_num, float threshold) {
  const auto [kept, count] = rotated_nms(boxes, c10::nullopt, c10::nullopt, threshold, false);
  keep.copy_(kept);
  keep_num.copy_(count.view(keep_num.sizes()));
}

/// One level of ms_deform_attn, B * heads first, as grid_sampler takes it.
struct Level {
  int64_t start, size;         // its rows of value
  Tensor image, grid, weight;  // [BH, C, H, W], [BH, Q, P, 2], [BH, 1, Q, P]
};

std::vector<Level> attention_levels(const Tensor& value, const Tensor& spatial_shapes,
                                    const Tensor& level_start_index, const Tensor& sampling_loc,
                                    const Tensor& attn_weight) {
  const auto shapes = spatial_shapes.cpu(), starts = level_start_index.cpu();
  const auto channels = value.size(3);
  std::vector<Level> levels;
  for (int64_t level = 0; level < shapes.size(0); level++) {
    const auto height = shapes[level][0].item<int64_t>(), width = shapes[level][1].item<int64_t>();
    const auto start = starts[level].item<int64_t>(), size = height * width;
    levels.push_back(
        {start, size,
         value.narrow(1, start, size).permute({0, 2, 3, 1}).reshape({-1, channels, height, width}),
         (sampling_loc.select(3, level) * 2 - 1).transpose(1, 2).flatten(0, 1),
         attn_weight.select(3, level).transpose(1, 2).flatten(0, 1).unsqueeze(1)});
  }
  return levels;
}

constexpr int kBilinear = 0, kZeros = 0;  // of grid_sampler

/// Which points [B, M, 3] are in which boxes [B, T, 7]: bool [B, M, T]. A box is x, y, z of the
/// centre of its bottom, its sizes and its yaw. Points on its top or bottom are inside, points on
/// its sides are not, as in mmcv.
Tensor inside(const Tensor& boxes, const Tensor& points) {
  const auto box = boxes.unsqueeze(1).unbind(-1), point = points.unsqueeze(2).unbind(-1);
  const auto dx = point[0] - box[0], dy = point[1] - box[1];
  const auto cos = box[6].cos(), sin = box[6].sin();
  return ((point[2] - (box[2] + box[5] / 2)).abs() <= box[5] / 2)
      .logical_and((dx * cos + dy * sin).abs() < box[3] / 2)
      .logical_and((dy * cos - dx * sin).abs() < box[4] / 2);
}

/// The first `count` columns where the mask [..., N] is true, ascending; N where there are fewer.
/// In float32, which topk takes on every device.
Tensor first_columns(const Tensor& mask, int64_t count) {
  const auto columns = mask.size(-1);
  const auto number = at::arange(columns, mask.options().dtype(at::kFloat));
  const auto kept = at::where(mask, number, static_cast<double>(columns));
  return std::get<0>(kept.topk(count, -1, /*largest=*/false, /*sorted=*/true));
}

Tensor squared_distances(const Tensor& from, const Tensor& to) {
  return (from.unsqueeze(2) - to.unsqueeze(1)).square().sum(-1);
}

/// Row numbers [B, ...] for each channel of points [B, C, N]: int64 [B, C, product of ...].
Tensor for_channels(const Tensor& idx, int64_t channels) {
  return idx.flatten(1).to(at::kLong).unsqueeze(1).expand({-1, channels, -1});
}

void gather_into(const Tensor& points, const Tensor& idx, Tensor& out) {
  out.copy_(points.gather(2, for_channels(idx, points.size(1))).view_as(out));
}

/// Adds the gradients of what was gathered to those of the points; halves are summed in float32.
void scatter_into(const Tensor& grad_out, const Tensor& idx, Tensor& grad_points) {
  const auto rows = for_channels(idx, grad_points.size(1));
  const auto grad = grad_out.flatten(2).to(at::kFloat);
  if (grad_points.scalar_type() == at::kFloat)
    grad_points.scatter_add_(2, rows, grad);
  else
    grad_points.copy_(grad_points.to(at::kFloat).scatter_add(2, rows, grad));
}

/// The rows that stacked batches take from features: which [M * nsample], and whether they are in
/// their batch [M, nsample]. Rows of idx count from the first of their batch.
std::pair<Tensor, Tensor> stacked_rows(const Tensor& idx, const Tensor& idx_batch_cnt,
                                       const Tensor& features_batch_cnt) {
  const auto ends = idx_batch_cnt.cumsum(0, at::kInt).unsqueeze(0);
  const auto number = at::arange(idx.size(0), idx.options()).unsqueeze(1);
  const auto batch = (number >= ends).to(at::kFloat).sum(1).to(at::kLong);
  const auto firsts = features_batch_cnt.cumsum(0, at::kInt) - features_batch_cnt;
  const auto first = firsts.index_select(0, batch).unsqueeze(1);
  const auto count = features_batch_cnt.index_select(0, batch).unsqueeze(1);
  const auto within = (idx >= 0).logical_and(idx < count);
  return {at::where(within, idx + first, 0).flatten().to(at::kLong), within};
}

/// Adds rows [R, ...] to `sum` at `rows` [R]; halves are summed in float32.
void add_rows(const Tensor& sum, const Tensor& rows, const Tensor& values) {
  const auto wide = values.to(at::kFloat);
  if (sum.scalar_type() == at::kFloat)
    sum.index_add_(0, rows, wide);
  else
    sum.copy_(sum.to(at::kFloat).index_add_(0, rows, wide));
}

/// Of assign_score_withk, for each of B * N1 * K neighbours: its row of the points of all batches
/// and that of its centre, whether it is a point [.., 1], and the difference of their features
/// [.., M, O].
struct Neighbours {
  Tensor rows, centre_rows, valid, difference;

  Neighbours(const Tensor& points, const Tensor& centers, const Tensor& knn_idx) {
    const auto batches = points.size(0), count = points.size(1), neighbours = knn_idx.size(2);
    const auto first = at::arange(batches, knn_idx.options().dtype(at::kInt)) * count;
    const auto number = knn_idx.to(at::kInt);
    const auto inside = (number >= 0).logical_and(number < count);
    const auto row = at::where(inside, number, 0) + first.view({-1, 1, 1});
    rows = row.flatten().to(at::kLong);
    centre_rows = row.narrow(2, 0, 1).expand({-1, -1, neighbours}).flatten().to(at::kLong);
    valid = inside.flatten().unsqueeze(1);
    difference = points.flatten(0, 1).index_select(0, rows) -
                 centers.flatten(0, 1).index_select(0, centre_rows);
  }
};

}  // namespace

Tensor ms_deform_attn_forward(const Tensor& value, const Tensor& spatial_shapes,
                              const Tensor& level_start_index, const Tensor& sampling_loc,
                              const Tensor& attn_weight, int) {
  const auto batch = value.size(0), heads = value.size(2), channels = value.size(3);
  const auto queries = sampling_loc.size(1);
  auto sum = at::zeros({batch * heads, channels, queries}, value.options());
  for (const auto& level :
       attention_levels(value, spatial_shapes, level_start_index, sampling_loc, attn_weight)) {
    const auto sampled = at::grid_sampler(level.image, level.grid, kBilinear, kZeros, false);
    sum += (sampled * level.weight).sum(-1);
  }
  return sum.view({batch, heads * channels, queries}).transpose(1, 2).contiguous();
}

void ms_deform_attn_backward(const Tensor& value, const Tensor& spatial_shapes,
                             const Tensor& level_start_index, const Tensor& sampling_loc,
                             const Tensor& attn_weight, const Tensor& grad_output,
                             Tensor& grad_value, Tensor& grad_sampling_loc,
                             Tensor& grad_attn_weight, int) {
  const auto heads = value.size(2), channels = value.size(3);
  const auto by_head = [&](const Tensor& grad) {  // [BH, Q, ...] to [B, Q, heads, ...]
    return grad.unflatten(0, {-1, heads}).transpose(1, 2);
  };
  const auto grad = grad_output.unflatten(2, {heads, channels})
                        .permute({0, 2, 3, 1})
                        .flatten(0, 1)
                        .unsqueeze(-1);  // [BH, C, Q, 1]
  int64_t number = 0;
  for (const auto& level :
       attention_levels(value, spatial_shapes, level_start_index, sampling_loc, attn_weight)) {
    const auto sampled = at::grid_sampler(level.image, level.grid, kBilinear, kZeros, false);
    const auto [grad_image, grad_grid] = at::grid_sampler_2d_backward(
        grad * level.weight, level.image, level.grid, kBilinear, kZeros, false, {true, true});
    grad_value.narrow(1, level.start, level.size)
        .copy_(grad_image.flatten(2).unflatten(0, {-1, heads}).permute({0, 3, 1, 2}));
    grad_sampling_loc.select(3, number).copy_(by_head(grad_grid * 2));
    grad_attn_weight.select(3, number).copy_(by_head((sampled * grad).sum(1)));
    number++;
  }
}

void points_in_boxes_part(int, int boxes_num, int, Tensor boxes, Tensor pts,
                          Tensor box_idx_of_points) {
  if (boxes_num == 0) return;  // no point is in a box: -1 is there already
  const auto first = first_columns(inside(boxes, pts), 1).squeeze(-1);
  box_idx_of_points.copy_(first.masked_fill(first == boxes_num, -1));
}

void points_in_boxes_all(int, int, int, Tensor boxes, Tensor pts, Tensor box_idx_of_points) {
  box_idx_of_points.copy_(inside(boxes, pts));
}

void three_nn(int b, int n, int m, Tensor unknown, Tensor known, Tensor dist2, Tensor idx) {
  // One after the other, and of equally near ones the first: topk would take any.
  auto distance = squared_distances(in_threes(unknown, b, n), in_threes(known, b, m));
  const auto columns = distance.size(-1);
  const auto number = at::arange(columns, distance.options().dtype(at::kFloat));
  for (int64_t rank = 0; rank < 3; rank++) {
    const auto least = distance.amin(-1, /*keepdim=*/true);
    const auto first = at::where(distance == least, number, static_cast<double>(columns))
                           .amin(-1, /*keepdim=*/true)
                           .clamp_max(static_cast<double>(columns - 1));  // a NaN is no least
    dist2.select(-1, rank).copy_(least.squeeze(-1));
    idx.select(-1, rank).copy_(first.squeeze(-1));
    distance = at::where(number == first, std::numeric_limits<double>::infinity(), distance);
  }
}

void three_interpolate_forward(int, int, int, int, Tensor points, Tensor idx, Tensor weight,
                               Tensor out) {
  const auto corners = points.gather(2, for_channels(idx, points.size(1)));
  out.copy_(corners.unflatten(2, {-1, 3}).mul(weight.unsqueeze(1)).sum(-1));
}

void three_interpolate_backward(int, int, int, int, Tensor grad_out, Tensor idx, Tensor weight,
                                Tensor grad_points) {
  const auto grad = grad_out.to(at::kFloat).unsqueeze(-1) * weight.to(at::kFloat).unsqueeze(1);
  scatter_into(grad, idx, grad_points);
}

void ball_query(int, int n, int, float min_radius, float max_radius, int nsample, Tensor new_xyz,
                Tensor xyz, Tensor idx) {
  const auto distance = squared_distances(new_xyz, xyz);
  const auto near = (distance >= min_radius * min_radius)
                        .logical_and(distance < max_radius * max_radius)
                        .logical_or(distance == 0);
  const auto found = first_columns(near, std::min(n, nsample)).to(at::kInt);
  const auto first = found.narrow(-1, 0, 1);
  // Places for which there is no point repeat the first one. With no point at all, idx is not
  // changed.
  const auto filled = at::cat(
      {at::where(found < n, found, first), first.expand({-1, -1, nsample - found.size(-1)})}, -1);
  idx.copy_(at::where(filled < n, filled, idx));
}

void group_points_forward(int, int, int, int, int, Tensor points, Tensor idx, Tensor out) {
  gather_into(points, idx, out);
}

void group_points_backward(int, int, int, int, int, Tensor grad_out, Tensor idx,
                           Tensor grad_points) {
  scatter_into(grad_out, idx, grad_points);
}

void gather_points_forward(int, int, int, int, Tensor points, Tensor idx, Tensor out) {
  gather_into(points, idx, out);
}

void gather_points_backward(int, int, int, int, Tensor grad_out, Tensor idx, Tensor grad_points) {
  scatter_into(grad_out, idx, grad_points);
}

void stack_group_points_forward(int, int c, int m, int nsample, Tensor features,
                                Tensor features_batch_cnt, Tensor idx, Tensor idx_batch_cnt,
                                Tensor out) {
  if (features.numel() == 0 || idx.numel() == 0) return;
  const auto [rows, within] = stacked_rows(idx, idx_batch_cnt, features_batch_cnt);
  const auto taken = features.index_select(0, rows).view({m, nsample, c}).transpose(1, 2);
  out.copy_(taken.masked_fill(within.logical_not().unsqueeze(1), 0));
}

void stack_group_points_backward(int, int c, int, int, int, Tensor grad_out, Tensor idx,
                                 Tensor idx_batch_cnt, Tensor features_batch_cnt,
                                 Tensor grad_features) {
  if (grad_features.numel() == 0 || idx.numel() == 0) return;
  const auto [rows, within] = stacked_rows(idx, idx_batch_cnt, features_batch_cnt);
  const auto grad = grad_out.masked_fill(within.logical_not().unsqueeze(1), 0).transpose(1, 2);
  add_rows(grad_features, rows, grad.reshape({-1, c}));
}

void roipoint_pool3d(int batch_size, int pts_num, int boxes_num, int feature_in_len,
                     int sampled_pts_num, Tensor xyz, Tensor boxes3d, Tensor pts_feature,
                     Tensor pooled_features, Tensor pooled_empty_flag) {
  if (pts_num == 0) pooled_empty_flag.fill_(1);
  if (pts_num == 0 || boxes_num == 0 || batch_size == 0) return;
  const auto mask = inside(boxes3d, xyz).transpose(1, 2);  // [B, M, N]
  const auto found = first_columns(mask, std::min(pts_num, sampled_pts_num));
  const auto count = (found < pts_num).to(at::kFloat).sum(-1, /*keepdim=*/true);
  // Where there are fewer points they come again, in turns.
  const auto turn = at::arange(sampled_pts_num, count.options()).fmod(count.clamp_min(1));
  const auto point = found.gather(2, turn.to(at::kLong)).clamp_max(pts_num - 1).to(at::kInt);
  const auto first = at::arange(batch_size, point.options()) * pts_num;
  const auto rows = (point + first.view({-1, 1, 1})).flatten().to(at::kLong);
  const auto all = at::cat({xyz.to(pts_feature.scalar_type()), pts_feature}, 2).flatten(0, 1);
  const auto empty = count == 0;
  pooled_features.copy_(all.index_select(0, rows)
                            .view({batch_size, boxes_num, sampled_pts_num, 3 + feature_in_len})
                            .masked_fill(empty.unsqueeze(-1), 0));
  pooled_empty_flag.copy_(empty.squeeze(-1));
}

void assign_score_withk_forward(int B, int, int N1, int M, int K, int O, int, const Tensor& points,
                                const Tensor& centers, const Tensor& scores, const Tensor& knn_idx,
                                Tensor& output) {
  const Neighbours neighbours(points, centers, knn_idx);
  const auto sum = at::bmm(scores.view({-1, 1, M}), neighbours.difference).squeeze(1);
  output.copy_(
      sum.masked_fill(neighbours.valid.logical_not(), 0).view({B, N1, K, O}).permute({0, 3, 1, 2}));
}

void assign_score_withk_backward(int, int, int, int M, int, int O, int, const Tensor& grad_out,
                                 const Tensor& points, const Tensor& centers, const Tensor& scores,
                                 const Tensor& knn_idx, Tensor& grad_points, Tensor& grad_centers,
                                 Tensor& grad_scores) {
  const Neighbours neighbours(points, centers, knn_idx);
  const auto grad = grad_out.permute({0, 2, 3, 1})
                        .reshape({-1, O})
                        .masked_fill(neighbours.valid.logical_not(), 0)
                        .unsqueeze(1);  // [R, 1, O]
  const auto shares = scores.view({-1, M, 1}) * grad;
  add_rows(grad_points.flatten(0, 1), neighbours.rows, shares);
  add_rows(grad_centers.flatten(0, 1), neighbours.centre_rows, -shares);
  grad_scores.copy_((neighbours.difference * grad).sum(-1).view_as(grad_scores));
}

/// mmcv's Python gives npu tensors' angles in degrees.
void box_iou_rotated(Tensor boxes1, Tensor boxes2, Tensor ious, int mode_flag, bool aligned) {
  const auto radians = [](const Tensor& boxes) {
    return at::cat({boxes.narrow(1, 0, 4), boxes.narrow(1, 4, 1) * 0.01745329252}, 1);
  };
  ious.copy_(rotated_iou(radians(boxes1), radians(boxes2), mode_flag, aligned).view(ious.sizes()));
}

void boxes_overlap_bev(int num_a, Tensor boxes_a, int num_b, Tensor boxes_b, Tensor overlap) {
  constexpr int64_t kArea = 2;
  overlap.copy_(rotated_iou(seen_from_above(boxes_a), seen_from_above(boxes_b), kArea, false));
}

void nms3d(Tensor boxes, Tensor& keep, Tensor& keep_num, float threshold) {
  keep_sorted(seen_from_above(boxes), keep, keep_num, threshold);
}

void nms3d_normal(Tensor boxes, Tensor& keep, Tensor& keep_num, float threshold) {
  keep_sorted(seen_from_above(boxes, /*rotated=*/false), keep, keep_num, threshold);
}

Tensor nms_rotated(const Tensor& dets, const Tensor& scores, const Tensor& labels,
                   float iou_threshold) {
  const auto classes = labels.defined() ? c10::optional<Tensor>(labels) : c10::nullopt;
  const auto [keep, count] = rotated_nms(dets, scores, classes, iou_threshold, true);
  return keep.narrow(0, 0, count.item<int64_t>());
}

}  // namespace mxd::mmcv_registry
