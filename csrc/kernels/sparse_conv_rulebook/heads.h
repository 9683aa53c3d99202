// The heads of a sorted table, in UB: which stretch of the table to load.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../sparse_conv_rulebook_tiling.h"
#include "kernel_operator.h"

namespace mxd::kernels {

// A count of a tiling, see there.
__aicore__ inline int32_t Resolve(int32_t count, GM_ADDR stats) {
  if (count >= 0) return count;
  GlobalTensor<int32_t> numbers;
  Bind(numbers, stats);
  return numbers.GetValue(kRulebookOutputs);
}

// Whether the voxels' cells are in ascending order: with others a search would lead anywhere.
__aicore__ inline bool InOrder(GM_ADDR stats) {
  GlobalTensor<int32_t> numbers;
  Bind(numbers, stats);
  return numbers.GetValue(kRulebookBad) == 0;
}

class Heads {
 public:
  static constexpr int32_t kBytes = kRulebookHeads * kWord;  // of UB

  __aicore__ inline Heads(TPipe& pipe, GM_ADDR heads, int32_t voxels)
      : voxels_(voxels),
        distance_(HeadDistance(voxels)),
        count_(CeilDiv(voxels, HeadDistance(voxels))),
        heads_(Take<int32_t>(pipe, kRulebookHeads)) {
    Bind(all_heads_, heads);
  }
  __aicore__ inline void Load() {
    if (count_ == 0) return;
    DataCopyPad(heads_, all_heads_, Words(count_), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
  }

  // A position of the table before which all cells are below `cell`.
  __aicore__ inline int32_t LowerBound(int32_t cell) const {
    const int32_t heads = CountBelow(cell);
    return heads > 0 ? (heads - 1) * distance_ : 0;
  }
  // A position of the table from which on all cells are above `cell`.
  __aicore__ inline int32_t UpperBound(int32_t cell) const {
    return MinOf(CountBelow(cell + 1) * distance_, voxels_);
  }

 private:
  __aicore__ inline int32_t CountBelow(int32_t cell) const {
    int32_t first = 0;
    for (int32_t count = count_; count > 0;) {
      const int32_t below = count / 2;
      if (heads_.GetValue(first + below) < cell) {
        first += below + 1;
        count -= below + 1;
      } else {
        count = below;
      }
    }
    return first;
  }

  const int32_t voxels_, distance_, count_;
  GlobalTensor<int32_t> all_heads_;
  LocalTensor<int32_t> heads_;
};

}  // namespace mxd::kernels
