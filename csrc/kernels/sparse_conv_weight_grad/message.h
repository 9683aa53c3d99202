// The message of a step: the unit, and from bit 48 on for each of its kernel points how many times
// 16 rows the step has.
#pragma once

#include "../common/message.h"
#include "chunks.h"

namespace mxd::kernels::sparse_conv_weight_grad {

using Sender = MessageSender<uint64_t, kMessageBytes, kSteps>;
using Receiver = MessageReceiver<kMessageBytes, kSteps>;

// Cross-core flags: a step's rows are gathered, and taken out of the workspace.
constexpr uint16_t kGathered = 0, kTaken = 1;

constexpr uint64_t kEnd = ~0ull;  // after the last step
constexpr int32_t kUnitBits = 48, kCountBits = 5;
static_assert(kUnitBits + kPoints * kCountBits < 64 &&
              StepRows(2) / kFractalRows < 1 << kCountBits);

// The step has slots [first, first + rows) of a chunk.
__aicore__ inline void SendStep(Sender& sender, int32_t index, const Chunk& chunk, int32_t first,
                                int32_t rows) {
  uint64_t word = static_cast<uint64_t>(chunk.unit);
  for (int32_t j = 0; chunk.unit >= 0 && j < kPoints; ++j) {
    const int32_t begin = MaxOf(first, chunk.slot[j]);
    const int32_t end = MinOf(first + rows, chunk.slot[j + 1]);
    const uint64_t count = MaxOf(0, end - begin) / kFractalRows;
    word |= count << (kUnitBits + j * kCountBits);
  }
  sender.Open(index).SetValue(0, word);
  sender.Send(index, kMessageBytes / sizeof(uint64_t));
}

// What the cube core is told of a step; unit: -1 after the last one.
struct Product {
  int64_t unit;
  int32_t sixteens[kPoints];

  __aicore__ inline int32_t rows() const {
    int32_t sum = 0;
    for (int32_t j = 0; j < kPoints; ++j) sum += sixteens[j];
    return sum * kFractalRows;
  }
};

__aicore__ inline Product ReceiveStep(Receiver& receiver, int32_t index) {
  const uint64_t word = receiver.Receive(index).GetValue(0);
  Product product{-1, {}};
  if (word == kEnd) return product;
  product.unit = static_cast<int64_t>(word & ((1ull << kUnitBits) - 1));
  for (int32_t j = 0; j < kPoints; ++j)
    product.sixteens[j] =
        static_cast<int32_t>(word >> (kUnitBits + j * kCountBits) & ((1ull << kCountBits) - 1));
  return product;
}

}  // namespace mxd::kernels::sparse_conv_weight_grad
