// Boxes as rows of global memory, and their numbers in lanes.
#pragma once

#include "overlap.h"

namespace mxd::kernels {

// One number after the other of the rows whose first bytes `offset` tells.
__aicore__ inline void TakeNumbers(const Overlap& overlap, int32_t first, int32_t numbers,
                                   const LocalTensor<float>& rows,
                                   const LocalTensor<int32_t>& offset, int32_t count) {
  for (int32_t number = 0; number < numbers; number++)
    Gather(overlap.Numbers(number)[first], rows, offset.ReinterpretCast<uint32_t>(), number * kWord,
           count);
  PipeBarrier<PIPE_V>();
}

}  // namespace mxd::kernels
