// Adds a step's products to the tile's rows, and writes the rows: sums and bias in fp32 in UB.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/nz.h"
#include "kernel_operator.h"
#include "pairs.h"
#include "step.h"
#include "tile_rows.h"

namespace mxd::kernels::sparse_conv {

template <typename T>
class Epilogue {
  static constexpr int32_t kStages = 3;
  static constexpr int32_t kStage = 2048;  // elements

 public:
  static constexpr int32_t kUbBytes = (kTileRows * ColumnsOf(kMaxPanel, 0) +
                                       (kStages + 1) * kStage + kStage / kBlockWords + 2 * kLanes) *
                                      kWord;

  __aicore__ inline Epilogue(TPipe& pipe, GM_ADDR products, GM_ADDR bias, GM_ADDR out,
                             const SparseConvTiling& tiling, TileRows& tile_rows)
      : tiling_(tiling),
        tile_rows_(tile_rows),
        side_(GetSubBlockIdx()),
        width_(ColumnsOf(tiling.panel, side_)),
        width_blocks_(width_ / kBlockWords),
        sums_(Take<float>(pipe, kTileRows * ColumnsOf(tiling.panel, 0))),
        stage_(Take<float>(pipe, kStages * kStage)),
        rows_(Take<float>(pipe, kStage)),
        to_rows_(Take<uint32_t>(pipe, kStage / kBlockWords)),
        bias_row_(Take<float>(pipe, kLanes)),
        head_(Take<T>(pipe, kLanes)) {
    products_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(products) +
                              GetBlockIdx() / 2 * kSteps * ProductElements(tiling) +
                              side_ * tiling.step_rows * ColumnsOf(tiling.panel, 0));
    Bind(bias_, bias, out_, out);
    stage_free_.Init(pipe, kStages);
    stage_full_.Init(pipe, kStages);
    sums_free_.Init(pipe, kParts);
    Duplicate(stage_, 0.0f, kStages * kStage);  // instructions read beyond what is loaded
    if (width_ == 0) return;
    slots_ = kStage / width_ / kFractalRows * kFractalRows;
    ArrangeBlocks(to_rows_, width_ / kFractalRows, 2 * kBlockBytes, slots_ * 2 * kBlockBytes, 2,
                  tile_rows.numbers(), tile_rows.scratch());
  }
  __aicore__ inline void Begin() {
    stage_free_.SetAll();
    sums_free_.SetAll();
  }
  __aicore__ inline void End() {
    stage_free_.WaitAll();
    sums_free_.WaitAll();
  }
  // Before Begin, and before the first step, others may use it.
  __aicore__ inline const LocalTensor<float>& sums() const { return sums_; }

  // Adds the products of step `index`; `places`: where in the tile those of its slots belong.
  __aicore__ inline void AddProducts(int32_t index, const Step& step,
                                     const LocalTensor<int16_t>& places) {
    if (width_ == 0) return;
    if (step.first) BeginSums(step);
    Runs<int16_t> runs(places);
    int32_t piece = 0;
    for (int32_t first = 0; first < step.rows; first += slots_) {
      const int32_t rows = MinOf(slots_, step.rows - first);
      const LocalTensor<float> stage = stage_[buffer_ * kStage];
      stage_free_.Wait(buffer_);
      DataCopy(stage, products_[index % kSteps * ProductElements(tiling_) + first * kFractalRows],
               DataCopyParams(width_ / kFractalRows, rows * 2, (tiling_.step_rows - rows) * 2,
                              (slots_ - rows) * 2));
      stage_full_.SetWait(buffer_);
      bool in_rows = false;
      for (; piece < step.pieces && step.piece[piece].slot < first + rows; ++piece) {
        const Piece& at = step.piece[piece];
        const int32_t slot = MaxOf(at.slot, first), end = at.slot + at.rows;
        const int32_t last = MinOf(end, first + rows);
        if (at.offset == step.tile.full_offset) {
          SetRows(stage, slot - first, at.first + slot - at.slot, last - slot);
        } else {
          // The places of one offset are all different, those of two are not.
          PipeBarrier<PIPE_V>();
          if (!in_rows) ToRows(rows_, stage, 0, rows);
          in_rows = true;
          runs.Seek(slot, last);
          AddRuns(runs, first);
        }
        if (end > first + rows) break;
      }
      stage_free_.Set(buffer_);
      buffer_ = buffer_ + 1 == kStages ? 0 : buffer_ + 1;
    }
    if (step.last) Write(step);
  }

 private:
  static constexpr int32_t kParts = 4;  // in which a tile's rows are written

  // The rows of a stage's NZ columns from `slot` on.
  __aicore__ inline void ToRows(const LocalTensor<float>& to, const LocalTensor<float>& stage,
                                int32_t slot, int32_t rows) {
    Gatherb(to.ReinterpretCast<uint32_t>(), stage.ReinterpretCast<uint32_t>(),
            to_rows_[slot * width_blocks_], CeilDiv(rows * width_blocks_, 8),
            GatherRepeatParams(1, 8));
    PipeBarrier<PIPE_V>();
  }

  // Begins the sums of `rows` rows with products.
  __aicore__ inline void SetRows(const LocalTensor<float>& stage, int32_t slot, int32_t row,
                                 int32_t rows) {
    const LocalTensor<float> sums = sums_[row * width_];
    WaitForSums(row + rows);
    ToRows(sums, stage, slot, rows);
    if (!tiling_.has_bias) return;
    for (int32_t i = 0; i < rows; i += kMaxRepeats)
      Add(sums[i * width_], sums[i * width_], bias_row_, width_, MinOf(kMaxRepeats, rows - i),
          BinaryRepeatParams(1, 1, 1, width_blocks_, width_blocks_, 0));
  }

  // Waits until the tile before, as far as the first `rows` rows of sums will lie on it, is
  // written.
  __aicore__ inline void WaitForSums(int32_t rows) {
    const int32_t written =
        MinOf(kTileRows, rows * static_cast<int32_t>(sizeof(float) / sizeof(T)));
    for (; parts_free_ * kTileRows / kParts < written; ++parts_free_) sums_free_.Wait(parts_free_);
  }

  // Adds rows_, which holds the products of the slots from `first` on.
  __aicore__ inline void AddRuns(Runs<int16_t>& runs, int32_t first) {
    const int32_t farthest = 0xff / width_blocks_;
    while (!runs.Done()) {
      const LocalTensor<float> product = rows_[(runs.at() - first) * width_];
      const Run run = runs.Next(kMaxRepeats, farthest);
      const LocalTensor<float> sum = sums_[run.first * width_];
      if (run.gap == 1 && run.count * width_ % kLanes == 0)
        Add(sum, sum, product, kLanes, run.count * width_ / kLanes,
            BinaryRepeatParams(1, 1, 1, 8, 8, 8));
      else
        Add(sum, sum, product, width_, run.count,
            BinaryRepeatParams(1, 1, 1, run.gap * width_blocks_, run.gap * width_blocks_,
                               width_blocks_));
    }
  }

  __aicore__ inline int64_t FirstColumn(const Step& step) const {
    return static_cast<int64_t>(step.panel) * tiling_.panel + side_ * ColumnsOf(tiling_.panel, 0);
  }

  // Begins a tile's sums: with the bias, or with zeros, where no offset begins them.
  __aicore__ inline void BeginSums(const Step& step) {
    parts_free_ = 0;
    if (tiling_.has_bias && step.panel != bias_panel_) {
      bias_panel_ = step.panel;
      PipeBarrier<PIPE_ALL>();
      DataCopy(bias_row_, bias_[FirstColumn(step)], width_);
      SetWait<HardEvent::MTE2_V>();
    }
    if (step.tile.full_offset >= 0) return;
    WaitForSums(kTileRows);
    if (!tiling_.has_bias) {
      Duplicate(sums_, 0.0f, step.tile.rows * width_);
      return;
    }
    for (int32_t row = 0; row < step.tile.rows; row += kMaxRepeats)
      Adds(sums_[row * width_], bias_row_, 0.0f, width_, MinOf(kMaxRepeats, step.tile.rows - row),
           UnaryRepeatParams(1, 1, width_blocks_, 0));
  }

  // Casts the sums in place, by doubling runs, each of which overwrites only what the last one has
  // read. The first elements wait aside.
  __aicore__ inline void CastSums(const LocalTensor<T>& to, int32_t count) {
    PipeBarrier<PIPE_V>();
    Cast(head_, sums_, RoundMode::CAST_RINT, MinOf(kLanes, count));
    for (int32_t begin = kLanes; begin < count; begin *= 2) {
      PipeBarrier<PIPE_V>();
      Cast(to[begin], sums_[begin], RoundMode::CAST_RINT, MinOf(begin, count - begin));
    }
    PipeBarrier<PIPE_V>();
    Copy(to, head_, MinOf(kLanes, count), 1, CopyRepeatParams(1, 1, 8, 8));
  }

  // Writes the tile's rows.
  __aicore__ inline void Write(const Step& step) {
    WaitForSums(kTileRows);
    const LocalTensor<T> rows = sums_.template ReinterpretCast<T>();
    if constexpr (sizeof(T) < sizeof(float)) CastSums(rows, step.tile.rows * width_);
    SetWait<HardEvent::V_MTE3>();
    const int32_t stride = tiling_.groups * tiling_.panels * tiling_.panel;
    const int64_t column = FirstColumn(step);
    if (step.tile.row_pairs >= 0) {
      PipeBarrier<PIPE_ALL>();
      IndexList<int32_t> pairs = tile_rows_.Reload(step.tile);
      for (int32_t row = 0; row < step.tile.rows; ++row)
        DataCopy(out_[static_cast<int64_t>(pairs.Get(2 * row + 1)) * stride + column],
                 rows[row * width_], width_);
      sums_free_.SetAll();
      return;
    }
    const int32_t blocks = width_ / kFractalColumns<T>;
    const int32_t stride_blocks = stride / kFractalColumns<T>;
    for (int32_t part = 0; part < kParts; ++part) {
      const int32_t row = part * kTileRows / kParts;
      const int32_t count = MinOf(kTileRows / kParts, step.tile.rows - row);
      if (count > 0)
        DataCopy(out_[(step.tile.index * kTileRows + row) * stride + column], rows[row * width_],
                 DataCopyParams(count, blocks, 0, stride_blocks - blocks));
      sums_free_.Set(part);
    }
  }

  const SparseConvTiling& tiling_;
  TileRows& tile_rows_;
  const int32_t side_, width_, width_blocks_;
  GlobalTensor<float> products_, bias_;
  GlobalTensor<T> out_;
  LocalTensor<float> sums_;   // [rows of the tile, width]
  LocalTensor<float> stage_;  // [stages, width / 16, slots, 16]
  LocalTensor<float> rows_;   // [slots, width]
  LocalTensor<uint32_t> to_rows_;
  LocalTensor<float> bias_row_;
  LocalTensor<T> head_;
  Events<HardEvent::V_MTE2> stage_free_;
  Events<HardEvent::MTE2_V> stage_full_;
  Events<HardEvent::MTE3_V> sums_free_;
  int32_t slots_ = 0, buffer_ = 0, parts_free_ = 0, bias_panel_ = -1;
};

}  // namespace mxd::kernels::sparse_conv
