// Every head_distance-th cell of a sorted table, in UB: which stretch of the table to load.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../sparse_conv_rulebook_tiling.h"
#include "kernel_operator.h"

namespace mxd::kernels {

class Heads {
 public:
  static constexpr int32_t kBytes = kRulebookHeads * kWord;  // of UB

  __aicore__ inline Heads(TPipe& pipe, GM_ADDR heads, const SparseConvJoinTiling& tiling)
      : tiling_(tiling), heads_(Take<int32_t>(pipe, kRulebookHeads)) {
    all_heads_.SetGlobalBuffer((__gm__ int32_t*)heads);
  }
  __aicore__ inline void Load() {
    DataCopyPad(heads_, all_heads_, Words(tiling_.heads), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
  }

  // A position of the table before which all cells are below `cell`.
  __aicore__ inline int32_t LowerBound(int32_t cell) const {
    const int32_t heads = CountBelow(cell);
    return heads > 0 ? (heads - 1) * tiling_.head_distance : 0;
  }
  // A position of the table from which on all cells are above `cell`.
  __aicore__ inline int32_t UpperBound(int32_t cell) const {
    return MinOf(CountBelow(cell + 1) * tiling_.head_distance, tiling_.voxels);
  }

 private:
  __aicore__ inline int32_t CountBelow(int32_t cell) const {
    int32_t first = 0;
    for (int32_t count = tiling_.heads; count > 0;) {
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

  const SparseConvJoinTiling& tiling_;
  GlobalTensor<int32_t> all_heads_;
  LocalTensor<int32_t> heads_;
};

}  // namespace mxd::kernels
