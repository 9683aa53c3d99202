// Gathers the rows of one side into the workspace, so that the values of a channel lie side by
// side, as the matrix instruction wants its contraction: [step_rows / depth, channels, depth].
#pragma once

#include <type_traits>

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/nz.h"
#include "../sparse_conv/pairs.h"
#include "kernel_operator.h"
#include "steps.h"

namespace mxd::kernels::sparse_conv_weight_grad {

template <typename T>
class Gatherer {
  static constexpr int32_t kStageBytes = 16384;
  static constexpr int32_t kSize = sizeof(T);
  static constexpr int32_t kDepth = kFractalColumns<T>;
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;

 public:
  static constexpr int32_t kUbBytes = 4 * kStageBytes + kStageBytes / kSize * kWord;

  __aicore__ inline Gatherer(TPipe& pipe, GM_ADDR rows, GM_ADDR gathered,
                             const SparseConvWeightGradTiling& tiling)
      : tiling_(tiling),
        side_(GetSubBlockIdx()),
        channels_(tiling.panel[side_]),
        stage_rows_(MinOf(kStageBytes / (channels_ * kSize) / kFractalRows * kFractalRows,
                          tiling.step_rows)),
        stage_elements_(stage_rows_ * channels_),
        rows_(rows, static_cast<int64_t>(tiling.groups) * tiling.panels[side_] * channels_,
              channels_),
        stage_(Take<T>(pipe, 2 * stage_elements_)),
        turned_(Take<T>(pipe, 2 * stage_elements_)),
        turn_(Take<uint32_t>(pipe, RoundUp(stage_elements_, kLanes))) {
    gathered_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gathered) +
                              GetBlockIdx() / 2 * kSteps * StepElements(tiling) +
                              (side_ == 0 ? 0 : SideElements(tiling, 0)));
    stage_clear_.Init(pipe, 2);
    stage_full_.Init(pipe, 2);
    turned_full_.Init(pipe, 2);
    turned_free_.Init(pipe, 2);
    MakeTurn();
    // Rows that no pair fills count nothing.
    Clear(stage_, 2 * stage_rows_);
  }
  __aicore__ inline void Begin() {
    stage_clear_.SetAll();
    turned_free_.SetAll();
  }
  __aicore__ inline void End() {
    stage_clear_.WaitAll();
    turned_free_.WaitAll();
  }

  __aicore__ inline void Gather(int32_t index, const Step& step, const LocalTensor<int32_t>& list) {
    const int64_t column = FirstColumn(step.unit);
    Runs<int32_t> runs(list);
    int32_t p = 0;
    for (int32_t first = 0; first < step.rows; first += stage_rows_) {
      const int32_t end = MinOf(step.rows, first + stage_rows_);
      const int32_t rows = RoundUp(end - first, kFractalRows);
      const LocalTensor<T> stage = stage_[buffer_ * stage_elements_];
      stage_clear_.Wait(buffer_);
      for (; p < step.pieces; ++p) {
        const Piece& piece = step.piece[p];
        runs.Seek(MaxOf(piece.slot, first), MinOf(piece.slot + piece.rows, end));
        while (!runs.Done()) {
          const LocalTensor<T> to = stage[(runs.at() - first) * channels_];
          rows_.Copy(to, runs.Next(step.rows, rows_.farthest()), column);
        }
        if (piece.slot + piece.rows > end) break;
      }
      stage_full_.SetWait(buffer_);
      turned_free_.Wait(buffer_);
      const LocalTensor<T> turned = turned_[buffer_ * stage_elements_];
      AscendC::Gather(turned.template ReinterpretCast<Bits>(),
                      stage.template ReinterpretCast<Bits>(), turn_, 0,
                      static_cast<uint32_t>(rows * channels_));
      turned_full_.SetWait(buffer_);
      // At once: a later clearing would hold up the rows of the stage after next.
      PipeBarrier<PIPE_V>();
      Clear(stage, rows);
      stage_clear_.Set(buffer_);
      DataCopy(gathered_[index % kSteps * StepElements(tiling_) +
                         static_cast<int64_t>(first) * channels_],
               turned, rows * channels_);
      turned_free_.Set(buffer_);
      buffer_ = 1 - buffer_;
    }
  }

 private:
  __aicore__ inline void Clear(const LocalTensor<T>& stage, int32_t rows) {
    Duplicate(stage.template ReinterpretCast<int32_t>(), 0, rows * channels_ * kSize / kWord);
  }

  // turn_: where in a stage of rows each element of the turned stage lies, in bytes. The first
  // channel's depth rows, then every other channel's from them, then the other rows'.
  __aicore__ inline void MakeTurn() {
    const LocalTensor<int32_t> turn = turn_.template ReinterpretCast<int32_t>();
    CreateVecIndex(turn, 0, kDepth);
    PipeBarrier<PIPE_V>();
    Muls(turn, turn, channels_ * kSize, kDepth);
    const int32_t column = kDepth * channels_;
    for (int32_t have = kDepth; have < column; have *= 2) {
      PipeBarrier<PIPE_V>();
      Adds(turn[have], turn, have / kDepth * kSize, MinOf(have, column - have));
    }
    for (int32_t have = column; have < stage_elements_; have += column) {
      PipeBarrier<PIPE_V>();
      Adds(turn[have], turn, have * kSize, column);
    }
  }

  // Of this side, in a unit.
  __aicore__ inline int64_t FirstColumn(int64_t unit) const {
    const int64_t panel = unit / tiling_.slabs / tiling_.volume;
    const int64_t group = panel / (tiling_.panels[0] * tiling_.panels[1]);
    const int64_t part =
        side_ == 0 ? panel / tiling_.panels[1] % tiling_.panels[0] : panel % tiling_.panels[1];
    return (group * tiling_.panels[side_] + part) * channels_;
  }

  const SparseConvWeightGradTiling& tiling_;
  const int32_t side_, channels_, stage_rows_, stage_elements_;
  const sparse_conv::Rows<T> rows_;
  GlobalTensor<T> gathered_;
  LocalTensor<T> stage_, turned_;  // [2, rows, channels], [2, rows / depth, channels, depth]
  LocalTensor<uint32_t> turn_;
  Events<HardEvent::V_MTE2> stage_clear_;
  Events<HardEvent::MTE2_V> stage_full_;
  Events<HardEvent::V_MTE3> turned_full_;
  Events<HardEvent::MTE3_V> turned_free_;
  int32_t buffer_ = 0;
};

}  // namespace mxd::kernels::sparse_conv_weight_grad
