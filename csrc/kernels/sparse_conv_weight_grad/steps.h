// A block's units in steps: which pairs, and the rows of one side that they name.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../sparse_conv/pairs.h"
#include "../sparse_conv_tiling.h"
#include "kernel_operator.h"

namespace mxd::kernels::sparse_conv_weight_grad {

constexpr int32_t kTiles = 64;  // whose bounds are at hand; most pieces of a step, too

// The pairs of one tile in a step.
struct Piece {
  int32_t slot, rows;
};
// Pairs of a unit: at most step_rows, every tile's rounded up to 4.
struct Step {
  int64_t unit;
  int32_t pieces, rows;  // pieces: 0 after the last step
  Piece piece[kTiles];
};

class Steps {
  // Rounded up to whole vector instructions.
  __aicore__ static constexpr int32_t ListRows(int32_t step_rows) {
    return RoundUp(step_rows, kLanes);
  }

 public:
  __aicore__ static constexpr int32_t UbBytes(int32_t step_rows) {
    return kTiles * kBlockBytes + 2 * ListRows(step_rows) * (2 + 1) * kWord;
  }

  __aicore__ inline Steps(TPipe& pipe, GM_ADDR pairs, GM_ADDR bounds,
                          const SparseConvWeightGradTiling& tiling)
      : tiling_(tiling),
        list_rows_(ListRows(tiling.step_rows)),
        window_(Take<int64_t>(pipe, kTiles * kEntry)),
        pairs_(Take<int32_t>(pipe, 2 * 2 * list_rows_)),
        lists_(Take<int32_t>(pipe, 2 * list_rows_)),
        unit_(GetBlockIdx() / 2 - static_cast<int64_t>(GetBlockNum())) {
    Bind(all_pairs_, pairs, bounds_, bounds);
    pairs_free_.Init(pipe, 2);
    pairs_full_.Init(pipe, 1);
    list_full_.Init(pipe, 2);
    list_free_.Init(pipe, 2);
    Duplicate(pairs_, 0, 4 * list_rows_);  // instructions read beyond what is loaded
  }
  __aicore__ inline void Begin() {
    list_free_.SetAll();
    pairs_free_.SetAll();
  }
  __aicore__ inline void End() {
    list_free_.WaitAll();
    pairs_free_.WaitAll();
  }

  __aicore__ inline const Step& Get(int32_t index) const { return steps_[index % 2]; }
  // The rows of this core's side, by slots, once a step is prepared.
  __aicore__ inline LocalTensor<int32_t> WaitForRows(int32_t index) {
    list_full_.Wait(index % 2);
    return lists_[index % 2 * list_rows_];
  }
  __aicore__ inline void FreeRows(int32_t index) { list_free_.Set(index % 2); }

  // Fills step `index` with the next pairs and begins to load them.
  __aicore__ inline void Prepare(int32_t index) {
    Step& step = steps_[index % 2];
    step.pieces = step.rows = 0;
    list_free_.Wait(index % 2);
    pairs_free_.Wait(index % 2);
    const LocalTensor<int32_t> pairs = pairs_[index % 2 * 2 * list_rows_];
    // Units without pairs have no step.
    while (step.pieces == 0) {
      if (tile_ == tile_end_ && !OpenUnit()) break;
      step.unit = unit_;
      LoadPieces(step, pairs);
    }
    pairs_full_.SetWait();
    if (step.pieces > 0)
      sparse_conv::TakePart(pairs, GetSubBlockIdx(), lists_[index % 2 * list_rows_], list_rows_);
    pairs_free_.Set(index % 2);
    if (step.pieces > 0)
      list_full_.Set(index % 2);
    else
      list_free_.Set(index % 2);
  }

 private:
  static constexpr int32_t kEntry = kBlockBytes / sizeof(int64_t);  // of a tile in the window

  __aicore__ inline bool OpenUnit() {
    unit_ += GetBlockNum();
    const int64_t panels =
        static_cast<int64_t>(tiling_.groups) * tiling_.panels[0] * tiling_.panels[1];
    if (unit_ >= panels * tiling_.volume * tiling_.slabs) return false;
    const int64_t slab = unit_ % tiling_.slabs;
    offset_ = unit_ / tiling_.slabs % tiling_.volume;
    tile_ = static_cast<int32_t>(slab * tiling_.tiles / tiling_.slabs);
    tile_end_ = static_cast<int32_t>((slab + 1) * tiling_.tiles / tiling_.slabs);
    row_ = 0;
    window_tile_ = -1;
    return true;
  }

  // Loads the unit's next pairs, as many as the step holds.
  __aicore__ inline void LoadPieces(Step& step, const LocalTensor<int32_t>& pairs) {
    while (tile_ < tile_end_ && step.rows < tiling_.step_rows && step.pieces < kTiles) {
      const int64_t begin = Bound(0) + row_;
      const int32_t left = static_cast<int32_t>(Bound(1) - begin);
      const int32_t rows = MinOf(left, tiling_.step_rows - step.rows);
      if (rows > 0) {
        step.piece[step.pieces].slot = step.rows;
        step.piece[step.pieces++].rows = rows;
        sparse_conv::LoadPairs(pairs[step.rows * 2], all_pairs_, begin, rows);
        step.rows += RoundUp(rows, 4);
        row_ += rows;
      }
      if (rows == left) {
        ++tile_;
        row_ = 0;
      }
    }
  }

  // Where the tile's pairs for the unit's offset begin (0) and end (1).
  __aicore__ inline int64_t Bound(int32_t which) {
    if (window_tile_ < 0 || tile_ < window_tile_ || tile_ >= window_tile_ + kTiles) {
      window_tile_ = tile_;
      const int64_t stride = (tiling_.volume + 1) * static_cast<int64_t>(sizeof(int64_t));
      SetWait<HardEvent::S_MTE2>();
      DataCopyPad(window_.ReinterpretCast<int32_t>(),
                  bounds_[(tile_ * static_cast<int64_t>(tiling_.volume + 1) + offset_) * 2],
                  DataCopyExtParams(MinOf(kTiles, tile_end_ - tile_), 16, stride - 16, 0, 0),
                  DataCopyPadExtParams<int32_t>(true, 0, 4, 0));
      SetWait<HardEvent::MTE2_S>();
    }
    return window_.GetValue((tile_ - window_tile_) * kEntry + which);
  }

  const SparseConvWeightGradTiling& tiling_;
  const int32_t list_rows_;
  GlobalTensor<int32_t> all_pairs_, bounds_;
  LocalTensor<int64_t> window_;
  LocalTensor<int32_t> pairs_, lists_;  // [2, list_rows, 2], [2, list_rows]
  Events<HardEvent::V_MTE2> pairs_free_;
  Events<HardEvent::MTE2_V> pairs_full_;
  Events<HardEvent::V_S> list_full_;
  Events<HardEvent::S_V> list_free_;

  int64_t unit_;
  int32_t offset_ = 0, tile_ = 0, tile_end_ = 0, row_ = 0;  // the first pair that no step holds
  int32_t window_tile_ = -1;                                // the window's first
  Step steps_[2];
};

}  // namespace mxd::kernels::sparse_conv_weight_grad
