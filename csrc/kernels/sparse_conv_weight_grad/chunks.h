// A block's units in chunks: which pairs, and the rows of one side that they name.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../sparse_conv/pairs.h"
#include "../sparse_conv_tiling.h"
#include "empty_sums.h"
#include "kernel_operator.h"

namespace mxd::kernels::sparse_conv_weight_grad {

// Pairs of a tile, of the unit's kernel points. Each point's begin at a multiple of 16: the slots
// between stay empty.
struct Chunk {
  int64_t unit;  // -1: after the last chunk
  int32_t rows[kPoints];
  int32_t slot[kPoints + 1];  // where the points begin, and the last one ends
  int32_t low, high;          // the rows that are named, where lists ascend

  __aicore__ inline int32_t slots() const { return slot[kPoints]; }
};

class Chunks {
  static constexpr int32_t kTiles = 64;                             // whose bounds are at hand
  static constexpr int32_t kEntry = kBlockBytes / sizeof(int64_t);  // of a tile among them
  static_assert(kPoints < kEntry);

 public:
  static constexpr int32_t kBuffers = 3;  // whose pairs are loaded ahead
  static constexpr int32_t kUbBytes = kTiles * kBlockBytes + kBuffers * 2 * kChunkRows * kWord;

  __aicore__ inline Chunks(TPipe& pipe, GM_ADDR pairs, GM_ADDR bounds,
                           const SparseConvWeightGradTiling& tiling, const EmptySums& empty)
      : tiling_(tiling),
        empty_(empty),
        window_(Take<int64_t>(pipe, kTiles * kEntry)),
        pairs_(Take<int32_t>(pipe, kBuffers * 2 * kChunkRows)),
        unit_(GetBlockIdx() / 2 - static_cast<int64_t>(GetBlockNum())) {
    Bind(all_pairs_, pairs, bounds_, bounds);
    pairs_free_.Init(pipe, kBuffers);
    pairs_full_.Init(pipe, kBuffers);
    Duplicate(pairs_, 0, kBuffers * 2 * kChunkRows);  // instructions read beyond what is loaded
  }
  __aicore__ inline void Begin() { pairs_free_.SetAll(); }
  __aicore__ inline void End() { pairs_free_.WaitAll(); }

  __aicore__ inline const Chunk& Get(int32_t index) const {
    return chunks_[index % (kBuffers + 1)];
  }

  // Begins to load the next pairs, for chunk `index`.
  __aicore__ inline void Load(int32_t index) {
    Chunk& chunk = chunks_[index % (kBuffers + 1)];
    const LocalTensor<int32_t> pairs = pairs_[index % kBuffers * 2 * kChunkRows];
    int32_t begin[kPoints];
    do {
      chunk.unit = -1;
      while (part_ == parts_)
        if (!NextTile()) return;
      chunk.unit = unit_;
      Share(chunk, begin);
      ++part_;
    } while (chunk.slots() == 0);
    SetWait<HardEvent::S_MTE2>();  // rows were read here
    pairs_free_.Wait(index % kBuffers);
    for (int32_t j = 0; j < kPoints; ++j)
      if (chunk.rows[j] > 0)
        sparse_conv::LoadPairs(pairs[chunk.slot[j] * 2], all_pairs_, first_[j] + begin[j],
                               chunk.rows[j]);
    pairs_full_.Set(index % kBuffers);
  }

  // Takes the rows of this core's side, by slots; those of empty slots are any numbers.
  __aicore__ inline void TakeRows(int32_t index, const LocalTensor<int32_t>& rows) {
    const LocalTensor<int32_t> pairs = pairs_[index % kBuffers * 2 * kChunkRows];
    pairs_full_.Wait(index % kBuffers);
    sparse_conv::TakePart(pairs, GetSubBlockIdx(), rows, Get(index).slots());
    FindEnds(chunks_[index % (kBuffers + 1)], pairs);
    PipeBarrier<PIPE_V>();
    pairs_free_.Set(index % kBuffers);
  }

 private:
  // A part of the tile's pairs: of each point the same share, so that where voxels are evenly
  // spread all points name the same rows.
  __aicore__ inline void Share(Chunk& chunk, int32_t* begin) const {
    chunk.slot[0] = 0;
    for (int32_t j = 0; j < kPoints; ++j) {
      begin[j] = count_[j] * part_ / parts_;
      chunk.rows[j] = count_[j] * (part_ + 1) / parts_ - begin[j];
      chunk.slot[j + 1] = chunk.slot[j] + RoundUp(chunk.rows[j], kFractalRows);
    }
  }

  // The first and the last row of each point's pairs.
  __aicore__ inline void FindEnds(Chunk& chunk, const LocalTensor<int32_t>& pairs) const {
    chunk.low = chunk.high = pairs.GetValue(GetSubBlockIdx());
    for (int32_t j = 0; j < kPoints; ++j) {
      if (chunk.rows[j] == 0) continue;
      const int32_t first = chunk.slot[j] * 2 + GetSubBlockIdx();
      chunk.low = MinOf(chunk.low, pairs.GetValue(first));
      chunk.high = MaxOf(chunk.high, pairs.GetValue(first + (chunk.rows[j] - 1) * 2));
    }
  }

  // The next tile of the unit that has pairs, or of the next unit.
  __aicore__ inline bool NextTile() {
    if (tile_ == tile_end_) {
      CloseUnit();
      if (!OpenUnit()) return false;
    }
    int32_t total = 0;
    for (int32_t j = 0; j < kPoints; ++j) {
      first_[j] = Bound(j);
      count_[j] = static_cast<int32_t>(Bound(j + 1) - first_[j]);
      empty_point_[j] = empty_point_[j] && count_[j] == 0;
      total += count_[j];
    }
    part_ = 0;
    parts_ = total == 0 ? 0 : MaxOf(tiling_.tile_parts, CeilDiv(total, kChunkPairs));
    ++tile_;
    return true;
  }
  __aicore__ inline void CloseUnit() {
    for (int32_t j = 0; j < Points(); ++j) {
      if (empty_point_[j]) empty_.Write(unit_, j);
      empty_point_[j] = false;
    }
  }
  __aicore__ inline bool OpenUnit() {
    unit_ += GetBlockNum();
    const int64_t units = static_cast<int64_t>(tiling_.groups) * tiling_.panels[0] *
                          tiling_.panels[1] * PointGroups(tiling_) * tiling_.slabs;
    if (unit_ >= units) return false;
    const int64_t slab = SlabOf(tiling_, unit_);
    point_ = unit_ / tiling_.slabs % PointGroups(tiling_) * tiling_.points;
    tile_ = static_cast<int32_t>(slab * tiling_.tiles / tiling_.slabs);
    tile_end_ = static_cast<int32_t>((slab + 1) * tiling_.tiles / tiling_.slabs);
    window_tile_ = -1;
    for (int32_t j = 0; j < kPoints; ++j) empty_point_[j] = true;
    return true;
  }
  // The unit's kernel points.
  __aicore__ inline int32_t Points() const {
    return MinOf(tiling_.points, tiling_.volume - point_);
  }

  // Where the tile's pairs for the unit's point `j` begin; behind the last point, where they end.
  __aicore__ inline int64_t Bound(int32_t j) {
    const int32_t points = Points();
    if (window_tile_ < 0 || tile_ >= window_tile_ + kTiles) {
      window_tile_ = tile_;
      const int64_t stride = (tiling_.volume + 1) * static_cast<int64_t>(sizeof(int64_t));
      const int32_t bytes = (points + 1) * static_cast<int32_t>(sizeof(int64_t));
      SetWait<HardEvent::S_MTE2>();
      DataCopyPad(window_.ReinterpretCast<int32_t>(),
                  bounds_[(tile_ * static_cast<int64_t>(tiling_.volume + 1) + point_) * 2],
                  DataCopyExtParams(MinOf(kTiles, tile_end_ - tile_), bytes, stride - bytes, 0, 0),
                  DataCopyPadExtParams<int32_t>(
                      true, 0, static_cast<uint8_t>((kBlockBytes - bytes) / kWord), 0));
      SetWait<HardEvent::MTE2_S>();
    }
    return window_.GetValue((tile_ - window_tile_) * kEntry + MinOf(j, points));
  }

  const SparseConvWeightGradTiling& tiling_;
  const EmptySums& empty_;
  GlobalTensor<int32_t> all_pairs_, bounds_;
  LocalTensor<int64_t> window_;
  LocalTensor<int32_t> pairs_;  // [buffers, slots, 2]
  Events<HardEvent::V_MTE2> pairs_free_;
  Events<HardEvent::MTE2_S> pairs_full_;

  int64_t unit_;
  int32_t point_ = 0, tile_ = 0, tile_end_ = 0;  // of the unit: its first point, the next tile
  int32_t window_tile_ = -1;                     // the window's first
  int64_t first_[kPoints];                       // pair of each point in the tile
  int32_t count_[kPoints], part_ = 0, parts_ = 0;
  bool empty_point_[kPoints] = {};  // whether no tile of the unit so far had pairs of it
  Chunk chunks_[kBuffers + 1];      // one in use, one listed, those being loaded
};

}  // namespace mxd::kernels::sparse_conv_weight_grad
