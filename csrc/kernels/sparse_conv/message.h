// The message of a step: a head with the number of pieces and, from bit 8 on, the panel; then every
// piece as offset * 2^16 + rows. A piece's rows begin at a multiple of 16.
#pragma once

#include "../common/message.h"
#include "step.h"

namespace mxd::kernels::sparse_conv {

using Sender = MessageSender<uint32_t, kMessageBytes, kSteps>;
using Receiver = MessageReceiver<kMessageBytes, kSteps>;

// Cross-core flags: a step's rows are gathered, and its products written.
constexpr uint16_t kGathered = 0, kMultiplied = 1;

constexpr uint32_t kEnd = 0xffffffffu;  // the head after the last step

__aicore__ inline void SendStep(Sender& sender, int32_t index, const Step& step) {
  const LocalTensor<uint32_t> message = sender.Open(index);
  message.SetValue(0,
                   step.pieces < 0 ? kEnd : static_cast<uint32_t>(step.panel << 8 | step.pieces));
  for (int32_t p = 0; p < step.pieces; ++p)
    message.SetValue(1 + p, static_cast<uint32_t>(step.piece[p].offset << 16 | step.piece[p].rows));
  sender.Send(index, 1 + MaxOf(0, step.pieces));
}

// What the cube core is told of a step.
struct Product {
  int32_t pieces, panel;  // pieces: -1 after the last step
  int32_t rows;           // of all pieces, each rounded up to 16
  int32_t offset[kMaxPieces], count[kMaxPieces];
};

__aicore__ inline void ReceiveStep(Receiver& receiver, int32_t index, Product& product) {
  const GlobalTensor<uint64_t> message = receiver.Receive(index);
  uint64_t words = message.GetValue(0);
  const uint32_t head = static_cast<uint32_t>(words);
  product.pieces = head == kEnd ? -1 : static_cast<int32_t>(head & 0xff);
  product.panel = head >> 8;
  product.rows = 0;
  for (int32_t p = 0; p < product.pieces; ++p) {
    if (p % 2 == 1) words = message.GetValue((1 + p) / 2);
    const uint32_t piece = static_cast<uint32_t>(p % 2 == 0 ? words >> 32 : words);
    product.offset[p] = piece >> 16;
    product.count[p] = piece & 0xffff;
    product.rows += RoundUp(product.count[p], kFractalRows);
  }
}

}  // namespace mxd::kernels::sparse_conv
