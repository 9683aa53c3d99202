// 0, 1, 2 ... in lanes, for loops. CreateVecIndex begins with scalar writes, which do not wait for
// vector work that still reads the buffer: what needs the numbers again takes them from a table.
#pragma once

#include "buffers.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

// to[i] = i for i < count, where the first `have` of them are there: doubling.
template <typename T>
__aicore__ inline void ExtendNumbers(const LocalTensor<T>& to, int32_t have, int32_t count) {
  for (; have < count; have *= 2) {
    Adds(to[have], to, static_cast<T>(have), MinOf(have, count - have));
    PipeBarrier<PIPE_V>();
  }
}

// Writes 0, 1 ... kCount - 1 by one instruction: lane i of repeat r is lane_[i] + repeat_[r].
template <int32_t kCount>
class NumberTable {
 public:
  static constexpr int32_t kRepeats = kCount / kLanes;
  static constexpr int32_t kBytes = kRepeatBytes + kRepeats * kBlockBytes;

  __aicore__ inline explicit NumberTable(TPipe& pipe)
      : lane_(Take<int32_t>(pipe, kLanes)), repeat_(Take<int32_t>(pipe, kRepeats * kBlockWords)) {
    CreateVecIndex(lane_, 0, kLanes);
    for (int32_t r = 0; r < kRepeats; ++r)
      Duplicate(repeat_[r * kBlockWords], r * kLanes, kBlockWords);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Write(const LocalTensor<int32_t>& to) const {
    Add(to, lane_, repeat_, kLanes, kRepeats, BinaryRepeatParams(1, 1, 0, 8, 0, 1));
  }

 private:
  LocalTensor<int32_t> lane_, repeat_;  // each repeat's number fills a block
};

}  // namespace mxd::kernels
