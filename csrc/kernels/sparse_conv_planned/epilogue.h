// Puts the sums of a tile's rows back into their order, adds the bias, and writes them.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "kernel_operator.h"
#include "plan.h"

namespace mxd::kernels::sparse_conv_planned {

template <typename T>
class Epilogue {
  static constexpr int32_t kSize = static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kColumns = 32;  // at a time, at most
  static constexpr int32_t kRows = 64;
  static constexpr int32_t kPieces = kPlanRows / kRows;
  static constexpr int32_t kAddresses = kPlanRows * kColumns / kBlockWords;

 public:
  static constexpr int32_t kUbBytes = kPlanRows * kColumns * kWord + 2 * kRows * kColumns * kWord +
                                      (3 * kAddresses + 2 * kPlanRows + kMaxPanel) * kWord;

  __aicore__ inline Epilogue(TPipe& pipe, GM_ADDR sums, GM_ADDR bias, GM_ADDR out,
                             const SparseConvTiling& tiling)
      : tiling_(tiling),
        strips_(tiling.panel % kColumns == 0 ? 2 : 1),
        columns_(strips_ * kFractalRows),
        row_blocks_(columns_ / kBlockWords),
        stored_(Take<float>(pipe, kPlanRows * kColumns)),
        rows_(Take<float>(pipe, 2 * kRows * kColumns)),
        address_(Take<int32_t>(pipe, kAddresses)),
        row_of_(Take<int32_t>(pipe, kAddresses)),
        part_of_(Take<int32_t>(pipe, kAddresses)),
        place_(Take<int32_t>(pipe, 2 * kPlanRows)),
        bias_row_(Take<float>(pipe, kMaxPanel)) {
    sums_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(sums) +
                          (static_cast<int64_t>(GetBlockIdx() / 2) * 4 + GetSubBlockIdx()) *
                              SumElements(tiling));
    bias_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(bias));
    out_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(out));
    rows_free_.Init(pipe, 2);
    MakeParts();
  }
  __aicore__ inline void Begin() { rows_free_.SetAll(); }
  __aicore__ inline void End() { rows_free_.WaitAll(); }
  // Not in use between calls of Write.
  __aicore__ inline const LocalTensor<float>& spare() const { return stored_; }

  // `places`: where in the tile's order each row is.
  __aicore__ inline void Write(int32_t turn, int32_t tile, int32_t panel,
                               const LocalTensor<int32_t>& places) {
    if (tiling_.has_bias && panel != bias_panel_) {
      bias_panel_ = panel;
      SetWait<HardEvent::V_MTE2>();
      DataCopy(bias_row_, bias_[static_cast<int64_t>(panel) * tiling_.panel], tiling_.panel);
      SetWait<HardEvent::MTE2_V>();
    }
    MakeAddresses(places);
    const int64_t first = static_cast<int64_t>(tile) * kPlanRows;
    const int64_t left = tiling_.num_out - first;
    const int32_t rows = left < kPlanRows ? static_cast<int32_t>(left) : kPlanRows;
    const int64_t stride = static_cast<int64_t>(tiling_.groups) * tiling_.panels * tiling_.panel;
    const int32_t blocks = columns_ * kSize / kBlockBytes;
    for (int32_t column = 0; column < tiling_.panel; column += columns_) {
      SetWait<HardEvent::V_MTE2>();
      DataCopy(stored_, sums_[turn * 2 * SumElements(tiling_) + column * kFractalRows],
               DataCopyParams(kPlanBlocks, columns_ * kFractalRows / kBlockWords,
                              (tiling_.panel - columns_) * kFractalRows / kBlockWords, 0));
      SetWait<HardEvent::MTE2_V>();
      for (int32_t row = 0; row < rows; row += kRows) {
        const int32_t count = MinOf(kRows, rows - row);
        rows_free_.Wait(buffer_);
        const LocalTensor<T> piece = Finish(row, column);
        SetWait<HardEvent::V_MTE3>();
        DataCopy(
            out_[(first + row) * stride + static_cast<int64_t>(panel) * tiling_.panel + column],
            piece,
            DataCopyParams(count, blocks, 0,
                           static_cast<int32_t>(stride) * kSize / kBlockBytes - blocks));
        rows_free_.Set(buffer_);
        buffer_ = 1 - buffer_;
      }
    }
  }

 private:
  // row_of_: the row of every block of a row, in bytes of a list; part_of_: what its address is
  // beyond its row's.
  __aicore__ inline void MakeParts() {
    const int32_t shift = row_blocks_ == 4 ? 2 : 1, count = kPlanRows * row_blocks_;
    CreateVecIndex(part_of_, 0, count);
    PipeBarrier<PIPE_V>();
    ShiftRight(row_of_, part_of_, shift, count);
    PipeBarrier<PIPE_V>();
    Muls(address_, row_of_, -row_blocks_, count);
    PipeBarrier<PIPE_V>();
    Add(part_of_, part_of_, address_, count);  // 0, 1, 2, 3: the halves of two strips
    PipeBarrier<PIPE_V>();
    ShiftRight(address_, part_of_, 1, count);
    Muls(part_of_, part_of_, kBlockBytes, count);
    Muls(row_of_, row_of_, kWord, count);
    PipeBarrier<PIPE_V>();
    Muls(address_, address_, kFractalRows * kFractalRows * kWord - 2 * kBlockBytes, count);
    PipeBarrier<PIPE_V>();
    Add(part_of_, part_of_, address_, count);
    PipeBarrier<PIPE_V>();
  }

  // address_: where in stored_, [blocks, strips, 16, 16], the blocks of each row are.
  __aicore__ inline void MakeAddresses(const LocalTensor<int32_t>& places) {
    const LocalTensor<int32_t> block = place_[kPlanRows];
    constexpr int32_t kRowBytes = kFractalRows * kWord;
    ShiftRight(block, places, 4, kPlanRows);
    Muls(place_, places, kRowBytes, kPlanRows);
    PipeBarrier<PIPE_V>();
    Muls(block, block, (strips_ - 1) * kFractalRows * kRowBytes, kPlanRows);
    PipeBarrier<PIPE_V>();
    Add(place_, place_, block, kPlanRows);
    PipeBarrier<PIPE_V>();
    const int32_t count = kPlanRows * row_blocks_;
    AscendC::Gather(address_, place_, row_of_.ReinterpretCast<uint32_t>(), 0,
                    static_cast<uint32_t>(count));
    PipeBarrier<PIPE_V>();
    Add(address_, address_, part_of_, count);
    PipeBarrier<PIPE_V>();
  }

  // kRows rows from `row` on, in the dtype of the output.
  __aicore__ inline LocalTensor<T> Finish(int32_t row, int32_t column) {
    constexpr bool kNarrow = kSize < kWord;
    // A narrow piece is cast from the first half into a part of the second one.
    const LocalTensor<float> sums = rows_[kNarrow ? 0 : buffer_ * kRows * kColumns];
    PipeBarrier<PIPE_V>();
    Gatherb(sums.ReinterpretCast<uint32_t>(), stored_.ReinterpretCast<uint32_t>(),
            address_[row * row_blocks_].ReinterpretCast<uint32_t>(), kRows * row_blocks_ / 8,
            GatherRepeatParams(1, 8));
    PipeBarrier<PIPE_V>();
    if (tiling_.has_bias) {
      Add(sums, sums, bias_row_[column], columns_, kRows,
          BinaryRepeatParams(1, 1, 1, row_blocks_, row_blocks_, 0));
      PipeBarrier<PIPE_V>();
    }
    if constexpr (kNarrow) {
      const LocalTensor<T> to =
          rows_[kRows * kColumns].template ReinterpretCast<T>()[buffer_ * kRows * kColumns];
      Cast(to, sums, RoundMode::CAST_RINT, kRows * columns_);
      return to;
    } else {
      return sums;
    }
  }

  const SparseConvTiling& tiling_;
  const int32_t strips_, columns_, row_blocks_;  // at a time; row_blocks of fp32
  GlobalTensor<float> sums_, bias_;
  GlobalTensor<T> out_;
  LocalTensor<float> stored_;                        // [blocks, strips, 16, 16]
  LocalTensor<float> rows_;                          // [2, kRows, columns]
  LocalTensor<int32_t> address_, row_of_, part_of_;  // by rows and their blocks
  LocalTensor<int32_t> place_;
  LocalTensor<float> bias_row_;
  Events<HardEvent::MTE3_V> rows_free_;
  int32_t buffer_ = 0, bias_panel_ = -1;
};

}  // namespace mxd::kernels::sparse_conv_planned
