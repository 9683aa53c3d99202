// Focal loss on the CPU: the form in ATen ops, for so many rows at a time that what it writes
// between stays in the cache.
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "../../ops/check.h"
#include "../forms/forms.h"
#include "check_shape.h"
#include "cpu_ops.h"

namespace mxd::mmcv_registry::cpu {
namespace {

constexpr int64_t kNumbers = 8192;  // at a time

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

/// Calls form(rows of `input`, of `target`, of `output`) for a few rows at a time.
template <typename Form>
void by_rows(const Tensor& input, const Tensor& target, const Tensor& output, const Form& form) {
  const int64_t rows = std::max<int64_t>(1, kNumbers / std::max<int64_t>(input.size(1), 1));
  const int64_t parts = (input.size(0) + rows - 1) / rows;
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    at::NoGradGuard no_grad;  // of this thread
    for (int64_t part = begin; part < end; part++) {
      const int64_t first = part * rows, count = std::min(rows, input.size(0) - first);
      form(input.narrow(0, first, count), target.narrow(0, first, count),
           output.narrow(0, first, count));
    }
  });
}

}  // namespace

void sigmoid_focal_loss_forward(Tensor input, Tensor target, Tensor weight, Tensor output,
                                float gamma, float alpha) {
  check(input, target, weight, output);
  by_rows(input, target, output, [&](const Tensor& x, const Tensor& wanted, const Tensor& out) {
    mmcv_registry::sigmoid_focal_loss_forward(x, wanted, weight, out, gamma, alpha);
  });
}

void sigmoid_focal_loss_backward(Tensor input, Tensor target, Tensor weight, Tensor grad_input,
                                 float gamma, float alpha) {
  check(input, target, weight, grad_input);
  by_rows(input, target, grad_input, [&](const Tensor& x, const Tensor& wanted, const Tensor& out) {
    mmcv_registry::sigmoid_focal_loss_backward(x, wanted, weight, out, gamma, alpha);
  });
}

}  // namespace mxd::mmcv_registry::cpu
