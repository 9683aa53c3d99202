// Loads of lists that the scalar unit reads, 8 bytes at a time.
#pragma once

#include "../common/buffers.h"
#include "kernel_operator.h"

namespace mxd::kernels::segment_reduce {

// Loads `count` int32, and zeros behind them up to a multiple of 32 bytes.
__aicore__ inline void LoadList(const LocalTensor<int32_t>& to, const GlobalTensor<int32_t>& from,
                                int32_t count) {
  const auto padding = static_cast<uint8_t>(RoundUp(count, kBlockWords) - count);
  DataCopyPad(to, from, Words(count), {padding != 0, 0, padding, 0});
}

}  // namespace mxd::kernels::segment_reduce
