// The message of a step: the unit, and from bit 48 on the rows of the step, a multiple of 16.
#pragma once

#include "../common/message.h"
#include "steps.h"

namespace mxd::kernels::sparse_conv_weight_grad {

using Sender = MessageSender<uint64_t, kMessageBytes, kSteps>;
using Receiver = MessageReceiver<kMessageBytes, kSteps>;

// Cross-core flags: a step's rows are gathered, and taken out of the workspace.
constexpr uint16_t kGathered = 0, kTaken = 1;

constexpr uint64_t kEnd = ~0ull;  // after the last step
constexpr int32_t kRowsBit = 48;

__aicore__ inline void SendStep(Sender& sender, int32_t index, const Step& step) {
  const uint64_t rows = RoundUp(step.rows, kFractalRows);
  sender.Open(index).SetValue(
      0, step.pieces == 0 ? kEnd : static_cast<uint64_t>(step.unit) | rows << kRowsBit);
  sender.Send(index, kMessageBytes / sizeof(uint64_t));
}

// What the cube core is told of a step; unit: -1 after the last one.
struct Product {
  int64_t unit;
  int32_t rows;
};

__aicore__ inline Product ReceiveStep(Receiver& receiver, int32_t index) {
  const uint64_t word = receiver.Receive(index).GetValue(0);
  if (word == kEnd) return {-1, 0};
  return {static_cast<int64_t>(word & ((1ull << kRowsBit) - 1)),
          static_cast<int32_t>(word >> kRowsBit)};
}

}  // namespace mxd::kernels::sparse_conv_weight_grad
