#include "npu_forms.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <limits>

namespace mxd::mmcv_registry {
namespace {

/// Call `torch.ops.mxd.NAME`.
template <typename Signature, typename... Args>
auto mxd_op(const char* name, const Args&... args) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow((std::string("mxd::") + name).c_str(), "")
      .typed<Signature>()
      .call(args...);
}

std::vector<double> widened(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

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

Tensor log_above_zero(const Tensor& probability) {
  return probability.clamp_min(std::numeric_limits<float>::min()).log();
}

/// The class weight of each target; 1 where no weights are given. Background (a target beyond the
/// classes) has the weight of the last class.
Tensor weight_of(const Tensor& weight, const Tensor& target) {
  if (weight.numel() == 0) return at::ones({}, weight.options().dtype(at::kFloat));
  return weight.to(at::kFloat).index_select(0, target.clamp(0, weight.size(0) - 1));
}

/// For each row and class: alpha where the target is this class, else 1 - alpha, times the class
/// weight; and whether the target is this class.
std::pair<Tensor, Tensor> balance(const Tensor& input, const Tensor& target, const Tensor& weight,
                                  float alpha) {
  const auto is_class = target.unsqueeze(1) == at::arange(input.size(1), target.options());
  const auto factor = at::where(is_class, alpha, 1 - alpha).to(at::kFloat);
  return {factor * weight_of(weight, target).unsqueeze(-1), is_class};
}

Tensor of_label(const Tensor& softmax, const Tensor& target) {
  return softmax.to(at::kFloat).gather(1, target.clamp_min(0).unsqueeze(1)).squeeze(1);
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

void sigmoid_focal_loss_forward(Tensor input, Tensor target, Tensor weight, Tensor output,
                                float gamma, float alpha) {
  const auto [factor, is_class] = balance(input, target, weight, alpha);
  const auto x = input.to(at::kFloat);
  const auto right = at::where(is_class, x, -x).sigmoid();  // probability of the right answer
  output.copy_(-factor * (1 - right).pow(gamma) * log_above_zero(right));
}

void sigmoid_focal_loss_backward(Tensor input, Tensor target, Tensor weight, Tensor grad_input,
                                 float gamma, float alpha) {
  const auto [factor, is_class] = balance(input, target, weight, alpha);
  const auto x = input.to(at::kFloat);
  const auto right = at::where(is_class, x, -x).sigmoid();
  const auto wrong = 1 - right;
  const auto slope = -factor * wrong.pow(gamma) * (wrong - gamma * right * log_above_zero(right));
  grad_input.copy_(at::where(is_class, slope, -slope));
}

void softmax_focal_loss_forward(Tensor softmax, Tensor target, Tensor weight, Tensor output,
                                float gamma, float alpha) {
  const auto right = of_label(softmax, target);
  const auto loss = -alpha * (1 - right).pow(gamma) * log_above_zero(right);
  output.copy_((loss * weight_of(weight, target)).masked_fill(target < 0, 0));
}

void softmax_focal_loss_backward(Tensor softmax, Tensor target, Tensor weight, Tensor buff,
                                 Tensor grad_input, float gamma, float alpha) {
  const auto right = of_label(softmax, target), wrong = 1 - right;
  const auto slope =
      alpha * (gamma * wrong.pow(gamma - 1) * right * log_above_zero(right) - wrong.pow(gamma));
  buff.copy_((slope * weight_of(weight, target)).masked_fill(target < 0, 0));
  const auto is_class = target.unsqueeze(1) == at::arange(softmax.size(1), target.options());
  grad_input.copy_(buff.unsqueeze(1) * (is_class.to(softmax.dtype()) - softmax));
}

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

void three_nn(int, int, int, Tensor unknown, Tensor known, Tensor dist2, Tensor idx) {
  // One after the other, and of equally near ones the first: topk would take any.
  auto distance = squared_distances(unknown, known);
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
