// Binary search in lanes.
#pragma once

#include "../common/buffers.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

// The smallest power of two above `size`.
__aicore__ inline int32_t PowerAbove(int32_t size) {
  int32_t power = 1;
  while (power <= size) power *= 2;
  return power;
}

// Adds to each lane's position, in bytes, how many of the table's entries from there on are below
// the lane's target, times 4. The entries ascend. They are fewer than `power`, a power of two, and
// behind them, up to `power`, are words above all targets. Differences of entries and targets fit
// int32.
__aicore__ inline void AddCountBelow(const LocalTensor<int32_t>& position,
                                     const LocalTensor<int32_t>& table,
                                     const LocalTensor<int32_t>& target,
                                     const LocalTensor<int32_t>& scratch, int32_t power,
                                     int32_t lanes) {
  for (int32_t step = power / 2; step > 0; step /= 2) {
    Gather(scratch, table, position.ReinterpretCast<uint32_t>(), (step - 1) * kWord, lanes);
    PipeBarrier<PIPE_V>();
    Sub(scratch, scratch, target, lanes);
    PipeBarrier<PIPE_V>();
    ShiftRight(scratch, scratch, 31, lanes);  // -1 where the entry is below the target, else 0
    PipeBarrier<PIPE_V>();
    Muls(scratch, scratch, -step * kWord, lanes);
    PipeBarrier<PIPE_V>();
    Add(position, position, scratch, lanes);
    PipeBarrier<PIPE_V>();
  }
}

// position = how many of the whole table's entries are below each lane's target, times 4.
__aicore__ inline void CountBelow(const LocalTensor<int32_t>& position,
                                  const LocalTensor<int32_t>& table,
                                  const LocalTensor<int32_t>& target,
                                  const LocalTensor<int32_t>& scratch, int32_t power,
                                  int32_t lanes) {
  Duplicate(position, 0, lanes);
  PipeBarrier<PIPE_V>();
  AddCountBelow(position, table, target, scratch, power, lanes);
}

}  // namespace mxd::kernels
