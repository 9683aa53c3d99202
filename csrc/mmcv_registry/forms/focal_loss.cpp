// Focal losses in ATen ops. They are computed in float32, or in float64 where the input is.
#include <ATen/ATen.h>

#include <limits>

#include "forms.h"

namespace mxd::mmcv_registry {
namespace {

at::ScalarType compute_type(const Tensor& input) {
  return input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

Tensor log_above_zero(const Tensor& probability) {
  return probability.clamp_min(std::numeric_limits<float>::min()).log();
}

/// The class weight of each target, in float32 or float64; 1 where no weights are given. Background
/// (a target beyond the classes) has the weight of the last class.
Tensor weight_of(const Tensor& weight, const Tensor& target) {
  if (weight.numel() == 0) return at::ones({}, weight.options().dtype(compute_type(weight)));
  return weight.to(compute_type(weight)).index_select(0, target.clamp(0, weight.size(0) - 1));
}

/// For each row and class: alpha where the target is this class, else 1 - alpha, times the class
/// weight; and whether the target is this class.
std::pair<Tensor, Tensor> balance(const Tensor& input, const Tensor& target, const Tensor& weight,
                                  float alpha) {
  const auto is_class = target.unsqueeze(1) == at::arange(input.size(1), target.options());
  const auto factor = at::where(is_class, alpha, 1 - alpha).to(compute_type(input));
  return {factor * weight_of(weight, target).unsqueeze(-1), is_class};
}

Tensor of_label(const Tensor& softmax, const Tensor& target) {
  return softmax.to(compute_type(softmax)).gather(1, target.clamp_min(0).unsqueeze(1)).squeeze(1);
}

}  // namespace

void sigmoid_focal_loss_forward(Tensor input, Tensor target, Tensor weight, Tensor output,
                                float gamma, float alpha) {
  const auto [factor, is_class] = balance(input, target, weight, alpha);
  const auto x = input.to(compute_type(input));
  const auto right = at::where(is_class, x, -x).sigmoid();  // probability of the right answer
  output.copy_(-factor * (1 - right).pow(gamma) * log_above_zero(right));
}

void sigmoid_focal_loss_backward(Tensor input, Tensor target, Tensor weight, Tensor grad_input,
                                 float gamma, float alpha) {
  const auto [factor, is_class] = balance(input, target, weight, alpha);
  const auto x = input.to(compute_type(input));
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

}  // namespace mxd::mmcv_registry
