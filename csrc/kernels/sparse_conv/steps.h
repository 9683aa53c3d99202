// A block's pairs in steps: which rows are gathered, and where in the tile their products belong.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "kernel_operator.h"
#include "pairs.h"
#include "schedule.h"
#include "step.h"
#include "tile_rows.h"

namespace mxd::kernels::sparse_conv {

class Steps {
 public:
  static constexpr int32_t kUbBytes =
      RoundUp(kMaxStepRows, kLanes) * (2 * 2 * kWord + kWord + kLists * (kWord + 2));

  __aicore__ inline Steps(TPipe& pipe, GM_ADDR pairs, const SparseConvTiling& tiling,
                          Schedule& schedule, TileRows& tile_rows)
      : tiling_(tiling),
        schedule_(schedule),
        tile_rows_(tile_rows),
        list_rows_(RoundUp(tiling.step_rows, kLanes)),
        pairs_(Take<int32_t>(pipe, 2 * 2 * list_rows_)),
        in_(Take<int32_t>(pipe, kLists * list_rows_)),
        out_(Take<int32_t>(pipe, list_rows_)),
        place_(Take<int16_t>(pipe, kLists * list_rows_)),
        offset_(tiling.volume) {
    Bind(all_pairs_, pairs);
    pairs_free_.Init(pipe, 2);
    list_full_.Init(pipe, 3);
    Duplicate(pairs_, 0, 4 * list_rows_);  // instructions read beyond what is loaded
  }
  __aicore__ inline void Begin() {
    pairs_free_.SetAll();
    tile_rows_.Begin();
    if (schedule_.Describe(0, next_)) tile_rows_.Look(next_);
  }
  __aicore__ inline void End() {
    pairs_free_.WaitAll();
    tile_rows_.End();
  }

  __aicore__ inline const Step& Get(int32_t index) const { return steps_[index % kLists]; }
  // The input rows of a step, by slots, once it is prepared.
  __aicore__ inline LocalTensor<int32_t> WaitForRows(int32_t index) {
    list_full_.Wait(index % 3);
    return in_[index % kLists * list_rows_];
  }
  // Where in the tile the products of its slots belong.
  __aicore__ inline LocalTensor<int16_t> Places(int32_t index) const {
    return place_[index % kLists * list_rows_];
  }

  // Fills step `index` with the next pairs and begins to load them; false if there are none.
  __aicore__ inline bool Prepare(int32_t index) {
    Step& step = steps_[index % kLists];
    step.pieces = 0;
    step.rows = 0;
    step.first = offset_ == tiling_.volume;
    if (step.first) {
      if (schedule_.Done()) {
        step.pieces = -1;
        return false;
      }
      OpenTile();
    }
    step.panel = panel_;
    step.tile = tile_;
    SetWait<HardEvent::S_V>();  // the lists of step index - kLists are read
    pairs_free_.Wait(index % 2);
    const LocalTensor<int32_t> pairs = pairs_[index % 2 * 2 * list_rows_];
    LoadPieces(step, pairs);
    step.last = offset_ == tiling_.volume;
    if (step.last) schedule_.Advance();
    SetWait<HardEvent::MTE2_V>();
    if (step.pieces > 0) {
      PipeBarrier<PIPE_V>();
      TakePart(pairs, 0, in_[index % kLists * list_rows_], list_rows_);
      TakePart(pairs, 1, out_, list_rows_);
      PipeBarrier<PIPE_V>();
      tile_rows_.Place(tile_, out_, Places(index), list_rows_);
    }
    pairs_free_.Set(index % 2);
    list_full_.Set(index % 3);
    return true;
  }

 private:
  // Begins the next tile, and looks at the one after it.
  __aicore__ inline void OpenTile() {
    tile_ = next_;
    panel_ = schedule_.panel();
    offset_ = row_ = 0;
    tile_rows_.Open(tile_);
    if (schedule_.Describe(1, next_)) tile_rows_.Look(next_);
  }

  // Loads the tile's next pairs, as many as the step holds.
  __aicore__ inline void LoadPieces(Step& step, const LocalTensor<int32_t>& pairs) {
    for (; offset_ < tiling_.volume; ++offset_, row_ = 0) {
      // The offset that pairs every row comes first: its products begin the sums.
      const int32_t offset = offset_ > tile_.full_offset ? offset_
                             : offset_ == 0              ? tile_.full_offset
                                                         : offset_ - 1;
      const int64_t begin = schedule_.PairsBegin(tile_, offset) + row_;
      const int32_t left = static_cast<int32_t>(schedule_.PairsEnd(tile_, offset) - begin);
      if (left == 0) continue;
      if (step.rows == tiling_.step_rows) break;
      Piece& piece = step.piece[step.pieces++];
      piece.offset = offset;
      piece.first = row_;
      piece.slot = step.rows;
      piece.rows = MinOf(left, tiling_.step_rows - step.rows);
      LoadPairs(pairs[step.rows * 2], all_pairs_, begin, piece.rows);
      step.rows += RoundUp(piece.rows, kFractalRows);
      row_ += piece.rows;
      if (piece.rows < left) break;
    }
  }

  const SparseConvTiling& tiling_;
  Schedule& schedule_;
  TileRows& tile_rows_;
  const int32_t list_rows_;
  GlobalTensor<int32_t> all_pairs_;
  LocalTensor<int32_t> pairs_;     // [2, list_rows, 2]
  LocalTensor<int32_t> in_, out_;  // [kLists, list_rows], [list_rows]
  LocalTensor<int16_t> place_;     // [kLists, list_rows]
  Events<HardEvent::V_MTE2> pairs_free_;
  Events<HardEvent::V_S> list_full_;

  Tile tile_, next_;
  int32_t panel_ = 0;
  int32_t offset_, row_ = 0;  // the first pair of the tile that no step holds yet
  Step steps_[kLists];
};

}  // namespace mxd::kernels::sparse_conv
