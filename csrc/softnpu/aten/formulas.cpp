// Ops that PyTorch has no CPU kernel of, or none that draws from a given generator: on the CPU
// their callers take another way. `workspace` holds what a backward needs of the forward.
#include <c10/util/Exception.h>
#include <torch/library.h>

#include "account.h"
#include "alias.h"

namespace softnpu {
namespace {

using at::Tensor;

std::tuple<Tensor, Tensor> native_dropout(const Tensor& input, double p,
                                          std::optional<bool> train) {
  if (!train.value_or(true) || p == 0)
    return {input.clone(), at::ones_like(input, input.options().dtype(at::kBool))};
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::native_dropout", "");
  const double scale = p < 1 ? 1 / (1 - p) : 0;
  Tensor output, mask;
  {
    const PartsOfOneCall parts;
    mask = at::empty_like(input).bernoulli_(1 - p);
    output = input * mask * scale;
    mask = mask.to(at::kBool);
  }
  account(op, {input, p, train}, {output, mask});
  return {output, mask};
}

Tensor with_bias(const Tensor& gates, const std::optional<Tensor>& bias) {
  return bias && bias->defined() ? gates + *bias : gates;
}

std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& input_gates, const Tensor& hidden_gates,
                                             const Tensor& cx,
                                             const std::optional<Tensor>& input_bias,
                                             const std::optional<Tensor>& hidden_bias) {
  auto gates = with_bias(input_gates, input_bias) + with_bias(hidden_gates, hidden_bias);
  auto part = gates.chunk(4, 1);
  auto in = part[0].sigmoid(), forget = part[1].sigmoid(), cell = part[2].tanh(),
       out = part[3].sigmoid();
  auto cy = forget * cx + in * cell;
  return {out * cy.tanh(), cy, at::cat({in, forget, cell, out}, 1)};
}

std::tuple<Tensor, Tensor, Tensor> lstm_cell_backward(const std::optional<Tensor>& grad_hy,
                                                      const std::optional<Tensor>& grad_cy,
                                                      const Tensor& cx, const Tensor& cy,
                                                      const Tensor& workspace, bool has_bias) {
  auto part = workspace.chunk(4, 1);
  const auto &in = part[0], &forget = part[1], &cell = part[2], &out = part[3];
  auto tanh = cy.tanh();
  auto gh = grad_hy && grad_hy->defined() ? *grad_hy : at::zeros_like(cy);
  auto gc = gh * out * (1 - tanh * tanh);
  if (grad_cy && grad_cy->defined()) gc = gc + *grad_cy;
  auto grad = at::cat({gc * cell * in * (1 - in), gc * cx * forget * (1 - forget),
                       gc * in * (1 - cell * cell), gh * tanh * out * (1 - out)},
                      1);
  return {grad, gc * forget, has_bias ? grad.sum(0) : Tensor()};
}

std::tuple<Tensor, Tensor> gru_cell(const Tensor& input_gates, const Tensor& hidden_gates,
                                    const Tensor& hx, const std::optional<Tensor>& input_bias,
                                    const std::optional<Tensor>& hidden_bias) {
  auto from_input = with_bias(input_gates, input_bias).chunk(3, 1);
  auto from_hidden = with_bias(hidden_gates, hidden_bias).chunk(3, 1);
  auto reset = (from_input[0] + from_hidden[0]).sigmoid();
  auto update = (from_input[1] + from_hidden[1]).sigmoid();
  auto next = (from_input[2] + reset * from_hidden[2]).tanh();
  return {next + update * (hx - next), at::cat({reset, update, next, hx, from_hidden[2]}, 1)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gru_cell_backward(const Tensor& grad,
                                                                     const Tensor& workspace,
                                                                     bool has_bias) {
  auto part = workspace.chunk(5, 1);
  const auto &reset = part[0], &update = part[1], &next = part[2], &hx = part[3], &hidden = part[4];
  auto grad_next = grad * (1 - update) * (1 - next * next);
  auto grad_update = grad * (hx - next) * update * (1 - update);
  auto grad_reset = grad_next * hidden * reset * (1 - reset);
  auto of_input = at::cat({grad_reset, grad_update, grad_next}, 1);
  auto of_hidden = at::cat({grad_reset, grad_update, grad_next * reset}, 1);
  return {of_input, of_hidden, grad * update, has_bias ? of_input.sum(0) : Tensor(),
          has_bias ? of_hidden.sum(0) : Tensor()};
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("native_dropout", native_dropout);
  library.impl("_thnn_fused_lstm_cell", lstm_cell);
  library.impl("_thnn_fused_lstm_cell_backward_impl", lstm_cell_backward);
  library.impl("_thnn_fused_gru_cell", gru_cell);
  library.impl("_thnn_fused_gru_cell_backward", gru_cell_backward);
}

}  // namespace
}  // namespace softnpu
