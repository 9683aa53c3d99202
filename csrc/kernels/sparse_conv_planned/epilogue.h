// Puts the sums of a tile's rows back into their order, and writes them.
//
// This is done in parts, between the chunks that are gathered meanwhile.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "kernel_operator.h"
#include "plan.h"

namespace mxd::kernels::sparse_conv_planned {

template <typename T>
class Epilogue {
  static constexpr int32_t kSize = static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kRowBytes = 128;  // of the columns at a time, at most
  static constexpr int32_t kRowElements = kRowBytes / kSize;
  static constexpr int32_t kRows = 32, kPieces = 4;  // of a piece, and pieces in UB
  static constexpr int32_t kStored = kPlanRows * kRowBytes / kSize,
                           kPiece = kRows * kRowBytes / kSize;

 public:
  static constexpr int32_t kUbBytes = (kStored + kPieces * kPiece) * kSize + 3 * kPlanRows * kWord;

  __aicore__ inline Epilogue(TPipe& pipe, GM_ADDR sums, GM_ADDR out, const SparseConvTiling& tiling)
      : tiling_(tiling),
        columns_(tiling.panel * kSize <= kRowBytes  ? tiling.panel
                 : tiling.panel % kRowElements == 0 ? kRowElements
                                                    : kFractalRows),
        row_blocks_(columns_ * kSize / kBlockBytes),
        stored_(Take<T>(pipe, kStored)),
        rows_(Take<T>(pipe, kPieces * kPiece)),
        places_(Take<int32_t>(pipe, kPlanRows)),
        block_(Take<int32_t>(pipe, kPlanRows)),
        address_(Take<int32_t>(pipe, kPlanRows)) {
    sums_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(sums) +
                          (static_cast<int64_t>(GetBlockIdx() / 2) * 4 + GetSubBlockIdx()) *
                              SumElements(tiling));
    out_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(out));
    rows_free_.Init(pipe, kPieces);
    stored_free_.Init(pipe, 1);
    stored_full_.Init(pipe, 1);
    read_.Init(pipe, 1);
  }
  __aicore__ inline void Begin() {
    rows_free_.SetAll();
    stored_free_.SetAll();
  }
  __aicore__ inline void End() {
    rows_free_.WaitAll();
    stored_free_.WaitAll();
  }

  // Begins a tile, whose sums will be in the workspace of `turn`; `places`: where in the tile's
  // order each row is. A core without a tile begins one of no rows.
  __aicore__ inline void Open(int32_t turn, const GlobalTensor<int32_t>& places, int32_t tile,
                              int32_t panel, bool there) {
    stored_from_ = sums_[turn * 2 * SumElements(tiling_)];
    places_from_ = places;
    const int64_t first = static_cast<int64_t>(tile) * kPlanRows;
    const int64_t left = tiling_.num_out - first;
    count_ = !there ? 0 : left < kPlanRows ? static_cast<int32_t>(left) : kPlanRows;
    stride_ = static_cast<int64_t>(tiling_.groups) * tiling_.panels * tiling_.panel;
    to_ = out_[first * stride_ + static_cast<int64_t>(panel) * tiling_.panel];
    row_ = column_ = 0;
    waiting_ = true;
  }

  // Does the next part, if there is one left.
  __aicore__ inline void Advance() {
    if (waiting_) CrossCoreWaitFlag(kSummed);
    waiting_ = false;
    if (count_ == 0) return;
    if (row_ == 0 && !loaded_) {
      Load();
    } else {
      Write();
    }
  }
  // Does all that is left.
  __aicore__ inline void Finish() {
    while (waiting_ || count_ > 0) Advance();
    if (has_read_) read_.Wait();  // rows gathered from now on say that the sums are read
    has_read_ = false;
  }

 private:
  __aicore__ inline void Load() {
    stored_free_.Wait();
    const int32_t strip = kPlanBlockRows * kFractalRows, blocks = strip * kSize / kBlockBytes;
    const int32_t strips = columns_ / kFractalRows, others = tiling_.panel / kFractalRows - strips;
    if (column_ == 0) DataCopy(places_, places_from_, kPlanRows);
    DataCopy(stored_, stored_from_[column_ * kPlanBlockRows],
             DataCopyParams(kPlanBlocks, strips * blocks, others * blocks, 0));
    stored_full_.Set();
    loaded_ = true;
    has_read_ = column_ + columns_ == tiling_.panel;
    if (has_read_) read_.Set();
  }

  // Writes some rows of the columns that are loaded.
  __aicore__ inline void Write() {
    if (row_ == 0) {
      stored_full_.Wait();
      if (column_ == 0) MakeAddresses();
    }
    const int32_t rows = MinOf(kRows, count_ - row_);
    const LocalTensor<T> piece = rows_[buffer_ * kPiece];
    rows_free_.Wait(buffer_);
    PipeBarrier<PIPE_V>();
    constexpr int32_t kInStrip = kFractalRows * kSize / kBlockBytes, kInBlock = kBlockBytes / kSize;
    for (int32_t i = 0; i < row_blocks_; ++i) {
      const int32_t from = i / kInStrip * kPlanBlockRows * kFractalRows + i % kInStrip * kInBlock;
      Gatherb(piece[i * kInBlock].template ReinterpretCast<uint32_t>(),
              stored_[from].template ReinterpretCast<uint32_t>(),
              address_[row_].template ReinterpretCast<uint32_t>(), CeilDiv(rows, 8),
              GatherRepeatParams(row_blocks_, 8 * row_blocks_));
    }
    SetWait<HardEvent::V_MTE3>();
    DataCopy(to_[row_ * stride_ + column_], piece,
             DataCopyParams(rows, row_blocks_, 0,
                            static_cast<int32_t>(stride_) * kSize / kBlockBytes - row_blocks_));
    rows_free_.Set(buffer_);
    buffer_ = (buffer_ + 1) % kPieces;
    row_ += rows;
    if (row_ < count_) return;
    stored_free_.Set();
    loaded_ = false;
    row_ = 0;
    column_ += columns_;
    if (column_ == tiling_.panel) count_ = 0;
  }

  // address_: where in stored_, [blocks, strips, kPlanBlockRows, 16], each row begins.
  __aicore__ inline void MakeAddresses() {
    constexpr int32_t kStripRow = kFractalRows * kSize;
    constexpr int32_t kShift = kPlanBlockRows == 16 ? 4 : 5;
    static_assert(kPlanBlockRows == 1 << kShift);
    PipeBarrier<PIPE_V>();
    ShiftRight(block_, places_, kShift, kPlanRows);
    Muls(address_, places_, kStripRow, kPlanRows);
    PipeBarrier<PIPE_V>();
    Muls(block_, block_, (columns_ / kFractalRows - 1) * kPlanBlockRows * kStripRow, kPlanRows);
    PipeBarrier<PIPE_V>();
    Add(address_, address_, block_, kPlanRows);
    PipeBarrier<PIPE_V>();
  }

  const SparseConvTiling& tiling_;
  const int32_t columns_, row_blocks_;  // at a time
  GlobalTensor<T> sums_, out_;
  LocalTensor<T> stored_;  // [blocks, strips, kPlanBlockRows, 16]
  LocalTensor<T> rows_;    // [kPieces, kRows, columns]
  LocalTensor<int32_t> places_, block_, address_;
  Events<HardEvent::MTE3_V> rows_free_;
  Events<HardEvent::V_MTE2> stored_free_;
  Events<HardEvent::MTE2_V> stored_full_;
  Events<HardEvent::MTE2_MTE3> read_;
  GlobalTensor<T> stored_from_, to_;
  GlobalTensor<int32_t> places_from_;
  int64_t stride_ = 0;
  int32_t count_ = 0, row_ = 0, column_ = 0, buffer_ = 0;  // rows of the tile; the next part
  bool waiting_ = false, loaded_ = false, has_read_ = false;
};

}  // namespace mxd::kernels::sparse_conv_planned
