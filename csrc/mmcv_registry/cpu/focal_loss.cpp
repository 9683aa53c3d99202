// Focal loss on the CPU, for so many numbers at a time that what is between stays in the cache.
#include <ATen/Parallel.h>
#include <ATen/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../../ops/cpu/compute_type.h"
#include "check_shape.h"
#include "cpu_ops.h"
#include "output.h"

namespace mxd::mmcv_registry::cpu {
namespace {

using mxd::cpu::with_compute_type;

constexpr int64_t kChunk = 4096;  // numbers at a time

void check(const Tensor& input, const Tensor& target, const Tensor& weight, const Tensor& output) {
  check_float("input", input);
  check_dim("input", input, 2, "[rows, classes]");
  check_int64("target", target);
  check_shape("target", target, {input.size(0)});
  check_shape("output", output, input.sizes());
  if (weight.numel() != 0) check_shape("weight", weight, {input.size(1)});
  if (target.numel() == 0) return;
  const auto most = target.max().item<int64_t>();
  TORCH_CHECK_INDEX(most <= input.size(1), "target must be a class below ", input.size(1), ", or ",
                    input.size(1), " for none, was ", most);
}

/// Of a logit: the loss's factor, negative where the logit is not the target's; the probability of
/// the right answer and its logarithm; and (1 - probability) to the power of gamma.
template <typename T>
struct Focus {
  T factor, right, log, power;
};

/// Writes what `function` makes of the focus of each logit.
template <typename T, typename Function>
void for_each_logit(const Tensor& input, const Tensor& target, const Tensor& weight, float gamma,
                    float alpha, const Tensor& output, const Function& function) {
  const auto logits = cpu::input<T>(input), weights = cpu::input<T>(weight);
  const auto targets = target.contiguous();
  const T *logit = logits.template const_data_ptr<T>(),
          *weight_of = weight.numel() ? weights.template const_data_ptr<T>() : nullptr;
  const int64_t* wanted = targets.template const_data_ptr<int64_t>();
  Output<T> out(output);
  T* written = out.data();
  const int64_t classes = input.size(1), numbers = input.numel();
  at::parallel_for(0, (numbers + kChunk - 1) / kChunk, 1, [&](int64_t begin, int64_t end) {
    const at::NoGradGuard no_grad;  // of this thread
    // Whole chunks are computed, so that a number has the same bits wherever it is.
    const auto rights = at::zeros({kChunk}, logits.options()), logs = at::zeros_like(rights),
               powers = at::zeros_like(rights);
    T *right = rights.template mutable_data_ptr<T>(), *log = logs.template mutable_data_ptr<T>(),
      *power = powers.template mutable_data_ptr<T>();
    std::vector<T> factor(kChunk);
    for (int64_t chunk = begin; chunk < end; chunk++) {
      const int64_t first = chunk * kChunk, count = std::min(kChunk, numbers - first);
      int64_t row = first / classes, column = first % classes;
      for (int64_t i = 0; i < count; i++) {
        const bool hot = wanted[row] == column;
        // A row of no class has the weight of the last one.
        const int64_t label = std::clamp<int64_t>(wanted[row], 0, classes - 1);
        const T share = (hot ? alpha : 1 - alpha) * (weight_of ? weight_of[label] : 1);
        right[i] = hot ? logit[first + i] : -logit[first + i];
        factor[i] = hot ? share : -share;
        if (++column == classes) {
          column = 0;
          row++;
        }
      }
      rights.sigmoid_();
      for (int64_t i = 0; i < kChunk; i++) {
        log[i] = std::max<T>(right[i], std::numeric_limits<float>::min());
        power[i] = 1 - right[i];
      }
      logs.log_();
      powers.pow_(gamma);
      for (int64_t i = 0; i < count; i++)
        written[first + i] = function(Focus<T>{factor[i], right[i], log[i], power[i]});
    }
  });
}

}  // namespace

void sigmoid_focal_loss_forward(Tensor input, Tensor target, Tensor weight, Tensor output,
                                float gamma, float alpha) {
  check(input, target, weight, output);
  with_compute_type(output, [&](auto number, const auto&) {
    using T = decltype(number);
    for_each_logit<T>(input, target, weight, gamma, alpha, output, [](const Focus<T>& focus) {
      return -std::abs(focus.factor) * focus.power * focus.log;
    });
  });
}

void sigmoid_focal_loss_backward(Tensor input, Tensor target, Tensor weight, Tensor grad_input,
                                 float gamma, float alpha) {
  check(input, target, weight, grad_input);
  with_compute_type(grad_input, [&](auto number, const auto&) {
    using T = decltype(number);
    for_each_logit<T>(input, target, weight, gamma, alpha, grad_input, [=](const Focus<T>& focus) {
      return -focus.factor * focus.power * (1 - focus.right - gamma * focus.right * focus.log);
    });
  });
}

}  // namespace mxd::mmcv_registry::cpu
