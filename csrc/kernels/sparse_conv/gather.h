// Gathers the input rows of a step into the workspace, in NZ layout: [row_blocks, step_rows, 32 B].
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/nz.h"
#include "kernel_operator.h"
#include "pairs.h"
#include "step.h"

namespace mxd::kernels::sparse_conv {

template <typename T>
class Gatherer {
  static constexpr int32_t kStageBytes = 12288;

 public:
  static constexpr int32_t kUbBytes = 4 * kStageBytes + kStageBytes / kBlockBytes * kWord;

  __aicore__ inline Gatherer(TPipe& pipe, GM_ADDR features, GM_ADDR gathered,
                             const SparseConvTiling& tiling, const NumberTable<kTileRows>& numbers,
                             const LocalTensor<float>& scratch)
      : tiling_(tiling),
        features_(features, static_cast<int64_t>(tiling.groups) * tiling.in_channels,
                  tiling.in_channels),
        stage_elements_(kStageBytes / static_cast<int32_t>(sizeof(T))),
        stage_rows_(stage_elements_ / tiling.in_channels),
        stage_(Take<T>(pipe, 2 * stage_elements_)),
        fractals_(Take<T>(pipe, 2 * stage_elements_)),
        to_fractals_(
            Take<uint32_t>(pipe, stage_elements_ * static_cast<int32_t>(sizeof(T)) / kBlockBytes)) {
    gathered_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gathered) +
                              GetBlockIdx() / 2 * kSteps * GatheredElements(tiling));
    stage_free_.Init(pipe, 2);
    stage_full_.Init(pipe, 2);
    fractals_free_.Init(pipe, 2);
    // Instructions read beyond what is gathered.
    Duplicate(stage_.template ReinterpretCast<int32_t>(), 0,
              2 * stage_elements_ * static_cast<int32_t>(sizeof(T)) / kWord);
    const int32_t row_blocks = features_.row_blocks();
    ArrangeBlocks(to_fractals_, stage_rows_, kBlockBytes, row_blocks * kBlockBytes, 1, numbers,
                  scratch);
  }
  __aicore__ inline void Begin() {
    stage_free_.SetAll();
    fractals_free_.SetAll();
  }
  __aicore__ inline void End() {
    stage_free_.WaitAll();
    fractals_free_.WaitAll();
  }

  // Gathers this core's half of every piece's rows.
  __aicore__ inline void Gather(int32_t index, const Step& step, const LocalTensor<int32_t>& rows) {
    const int64_t column = static_cast<int64_t>(step.panel / tiling_.panels) * tiling_.in_channels;
    const bool second = GetSubBlockIdx() != 0;
    Runs<int32_t> runs(rows);
    int32_t staged = 0;
    for (int32_t p = 0; p < step.pieces; ++p) {
      const Piece& piece = step.piece[p];
      const int32_t middle = piece.slot + piece.rows / 2;
      runs.Seek(second ? middle : piece.slot, second ? piece.slot + piece.rows : middle);
      while (!runs.Done()) {
        if (staged == 0) stage_free_.Wait(buffer_);
        const int32_t slot = runs.at();
        const Run run = runs.Next(stage_rows_ - staged, features_.farthest());
        features_.Copy(stage_[buffer_ * stage_elements_ + staged * tiling_.in_channels], run,
                       column);
        Note(slot, staged, run.count);
        staged += run.count;
        if (staged == stage_rows_) {
          Flush(index);
          staged = 0;
        }
      }
    }
    if (staged > 0) Flush(index);
  }

 private:
  // Rows of the stage that follow each other in the workspace, too.
  struct Part {
    int32_t staged, slot, rows;
  };

  __aicore__ inline void Note(int32_t slot, int32_t staged, int32_t rows) {
    if (parts_ > 0 && part_[parts_ - 1].slot + part_[parts_ - 1].rows == slot) {
      part_[parts_ - 1].rows += rows;
      return;
    }
    part_[parts_].staged = staged;
    part_[parts_].slot = slot;
    part_[parts_++].rows = rows;
  }

  // Turns the stage into columns of fractals, and copies them to the workspace.
  __aicore__ inline void Flush(int32_t index) {
    const int32_t row_blocks = features_.row_blocks();
    const LocalTensor<T> fractals = fractals_[buffer_ * stage_elements_];
    stage_full_.SetWait(buffer_);
    fractals_free_.Wait(buffer_);
    Gatherb(fractals.template ReinterpretCast<uint32_t>(),
            stage_[buffer_ * stage_elements_].template ReinterpretCast<uint32_t>(), to_fractals_,
            CeilDiv(stage_rows_ * row_blocks, 8), GatherRepeatParams(1, 8));
    stage_free_.Set(buffer_);
    SetWait<HardEvent::V_MTE3>();
    for (int32_t i = 0; i < parts_; ++i) {
      const Part& part = part_[i];
      DataCopy(
          gathered_[index % kSteps * GatheredElements(tiling_) + part.slot * kFractalColumns<T>],
          fractals[part.staged * kFractalColumns<T>],
          DataCopyParams(row_blocks, part.rows, stage_rows_ - part.rows,
                         tiling_.step_rows - part.rows));
    }
    fractals_free_.Set(buffer_);
    buffer_ = 1 - buffer_;
    parts_ = 0;
  }

  const SparseConvTiling& tiling_;
  const Rows<T> features_;
  const int32_t stage_elements_, stage_rows_;
  GlobalTensor<T> gathered_;
  LocalTensor<T> stage_;     // [2, rows, in_channels]
  LocalTensor<T> fractals_;  // [2, row_blocks, rows, 32 B]
  LocalTensor<uint32_t> to_fractals_;
  Events<HardEvent::V_MTE2> stage_free_;
  Events<HardEvent::MTE2_V> stage_full_;
  Events<HardEvent::MTE3_V> fractals_free_;
  int32_t buffer_ = 0, parts_ = 0;
  Part part_[kMaxPieces];
};

}  // namespace mxd::kernels::sparse_conv
