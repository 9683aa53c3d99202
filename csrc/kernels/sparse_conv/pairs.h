// The pairs (input row, output row) of a rulebook in UB, and the rows that they name.
#pragma once

#include "../common/index_list.h"
#include "../common/machine.h"
#include "kernel_operator.h"

namespace mxd::kernels::sparse_conv {

// Added to a row's number it makes the bits of a normal float: float order equals row order.
constexpr int32_t kFloatBits = 1 << 23;

// Loads pairs, and zeros up to whole blocks.
__aicore__ inline void LoadPairs(const LocalTensor<int32_t>& to, const GlobalTensor<int32_t>& pairs,
                                 int64_t begin, int32_t count) {
  const uint8_t padding = (4 - count % 4) % 4 * 2;
  DataCopyPad(to, pairs[begin * 2], DataCopyExtParams(1, count * 8, 0, 0, 0),
              DataCopyPadExtParams<int32_t>(true, 0, padding, 0));
}

// The input rows (part 0) or the output rows (part 1) of pairs.
__aicore__ inline void TakePart(const LocalTensor<int32_t>& pairs, int32_t part,
                                const LocalTensor<int32_t>& to, int32_t count) {
  uint64_t kept = 0;
  GatherMask(to, pairs, static_cast<uint8_t>(part + 1), false, 0,
             GatherMaskParams(1, CeilDiv(count * 2, kLanes), 8, 0), kept);
}

// Rows of a tensor [rows, channels] in global memory, of which some channels are wanted.
template <typename T>
class Rows {
 public:
  // `taken` of `channels`, both whole blocks.
  __aicore__ inline Rows(GM_ADDR rows, int64_t channels, int32_t taken)
      : channels_(channels),
        row_blocks_(taken * static_cast<int32_t>(sizeof(T)) / kBlockBytes),
        stride_blocks_(static_cast<int32_t>(channels * sizeof(T) / kBlockBytes)) {
    Bind(rows_, rows);
  }
  // The largest distance of rows that one instruction copies.
  __aicore__ inline int32_t farthest() const { return 0xffff / stride_blocks_; }
  __aicore__ inline int32_t row_blocks() const { return row_blocks_; }

  // Copies the rows of a run, from channel `first` on, one behind the other.
  __aicore__ inline void Copy(const LocalTensor<T>& to, const Run& run, int64_t first) const {
    const int32_t distance = run.gap * stride_blocks_;
    DataCopy(to, rows_[run.first * channels_ + first],
             distance == row_blocks_
                 ? DataCopyParams(1, run.count * row_blocks_, 0, 0)
                 : DataCopyParams(run.count, row_blocks_, distance - row_blocks_, 0));
  }

 private:
  GlobalTensor<T> rows_;
  int64_t channels_;
  int32_t row_blocks_, stride_blocks_;
};

}  // namespace mxd::kernels::sparse_conv
