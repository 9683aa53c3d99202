// The rows of a tile: whether they are consecutive, and where in the tile an output row is.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/numbers.h"
#include "kernel_operator.h"
#include "pairs.h"
#include "step.h"

namespace mxd::kernels::sparse_conv {

// One tile is looked at ahead while another is in use: Look, then Open, then Place.
class TileRows {
  static constexpr int32_t kScratch = 4 * kTileRows;

 public:
  static constexpr int32_t kUbBytes =
      (2 + 1 + 2 + 4) * kTileRows * kWord + 3 * kBlockBytes + NumberTable<kTileRows>::kBytes;

  __aicore__ inline TileRows(TPipe& pipe, GM_ADDR pairs)
      : numbers_(pipe),
        pairs_(Take<int32_t>(pipe, kTileRows * 2)),
        rows_(Take<int32_t>(pipe, kTileRows)),
        keys_(Take<float>(pipe, kTileRows)),
        places_(Take<float>(pipe, kTileRows)),
        distance_(Take<float>(pipe, kBlockWords)),
        scratch_(Take<float>(pipe, kScratch)),
        above_(Take<uint8_t>(pipe, kLanes)) {
    Bind(all_pairs_, pairs);
    pairs_free_.Init(pipe, 1);
    distance_known_.Init(pipe, 1);
    Duplicate(pairs_, 0, 2 * kTileRows);  // instructions read beyond what is loaded
  }
  __aicore__ inline void Begin() { pairs_free_.Set(); }
  __aicore__ inline void End() { pairs_free_.Wait(); }

  __aicore__ inline const NumberTable<kTileRows>& numbers() const { return numbers_; }
  __aicore__ inline const LocalTensor<float>& scratch() const { return scratch_; }

  // Sums up how far a tile's rows are from being consecutive.
  __aicore__ inline void Look(const Tile& tile) {
    if (tile.row_pairs < 0) return;
    const LocalTensor<int32_t> numbers = scratch_.ReinterpretCast<int32_t>();
    const LocalTensor<float> distance = scratch_[kTileRows], sums = scratch_[2 * kTileRows];
    SetWait<HardEvent::S_MTE2>();
    pairs_free_.Wait();
    LoadPairs(pairs_, all_pairs_, tile.row_pairs, tile.rows);
    SetWait<HardEvent::MTE2_V>();
    SetWait<HardEvent::S_V>();
    PipeBarrier<PIPE_V>();
    numbers_.Write(numbers);
    TakePart(pairs_, 1, rows_, kTileRows);
    pairs_free_.Set();
    PipeBarrier<PIPE_V>();
    Sub(numbers, rows_, numbers, tile.rows);
    PipeBarrier<PIPE_V>();
    Adds(numbers, numbers, static_cast<int32_t>(-tile.index * kTileRows), tile.rows);
    PipeBarrier<PIPE_V>();
    Duplicate(distance, 0.0f, kTileRows);
    PipeBarrier<PIPE_V>();
    Cast(distance, numbers, RoundMode::CAST_RINT, tile.rows);
    PipeBarrier<PIPE_V>();
    Abs(distance, distance, tile.rows);
    PipeBarrier<PIPE_V>();
    // Not by ReduceMax, which has the scalar unit wait and write the result.
    WholeReduceSum(sums, distance, kLanes, kTileRows / kLanes, 1, 1, 8);
    PipeBarrier<PIPE_V>();
    WholeReduceSum(distance_, sums, kTileRows / kLanes, 1, 1, 1, 8);
    distance_known_.Set();
  }

  // The tile that was looked at is the one in use.
  __aicore__ inline void Open(Tile& tile) {
    if (tile.row_pairs < 0) return;
    distance_known_.Wait();
    if (distance_.GetValue(0) == 0) {
      tile.row_pairs = -1;
    } else {
      tile.full_offset = -1;
      Sort(tile.rows);
    }
  }

  // Where in the tile output rows are: their distance from its first, or by binary search.
  __aicore__ inline void Place(const Tile& tile, const LocalTensor<int32_t>& rows,
                               const LocalTensor<int16_t>& to, int32_t count) {
    if (tile.row_pairs < 0) {
      Adds(rows, rows, static_cast<int32_t>(-tile.index * kTileRows), count);
      PipeBarrier<PIPE_V>();
      Cast(to, rows, RoundMode::CAST_NONE, count);
      return;
    }
    const LocalTensor<float> wanted = rows.ReinterpretCast<float>();
    const LocalTensor<float> place = scratch_[kTileRows], key = scratch_[2 * kTileRows];
    const LocalTensor<float> jump = scratch_[3 * kTileRows];
    Adds(rows, rows, kFloatBits, count);
    Duplicate(place, 0.0f, count);
    for (int32_t step = kTileRows / 2; step > 0; step /= 2) {
      Duplicate(jump, static_cast<float>(step), count);
      PipeBarrier<PIPE_V>();
      LookUp(key, keys_, place, static_cast<float>(step - 1), count);
      Compare(above_, key, wanted, CMPMODE::GT, count);
      PipeBarrier<PIPE_V>();
      Select(jump, above_, jump, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
      PipeBarrier<PIPE_V>();
      Add(place, place, jump, count);
      PipeBarrier<PIPE_V>();
    }
    LookUp(key, places_, place, 0.0f, count);
    Cast(to, key, RoundMode::CAST_RINT, count);
  }

  // The pairs that name the rows of an earlier tile, when nothing else is in progress.
  __aicore__ inline IndexList<int32_t> Reload(const Tile& tile) {
    LoadPairs(pairs_, all_pairs_, tile.row_pairs, tile.rows);
    SetWait<HardEvent::MTE2_S>();
    return IndexList<int32_t>(pairs_);
  }

 private:
  // keys_: the tile's rows as floats, the largest first; places_: where in the tile they are.
  __aicore__ inline void Sort(int32_t count) {
    const LocalTensor<float> from = scratch_, to = scratch_[2 * kTileRows];
    PipeBarrier<PIPE_V>();
    // Sort32 and MrgSort put the largest first.
    Duplicate(keys_, 0.0f, kTileRows);
    numbers_.Write(places_.ReinterpretCast<int32_t>());
    PipeBarrier<PIPE_V>();
    Adds(keys_.ReinterpretCast<int32_t>(), rows_, kFloatBits, count);
    PipeBarrier<PIPE_V>();
    Sort32(from, keys_, places_.ReinterpretCast<uint32_t>(), kTileRows / 32);
    PipeBarrier<PIPE_V>();
    const uint16_t runs[4] = {32, 32, 32, 32}, longer[4] = {128, 128, 128, 128};
    MrgSort(to, MrgSortSrcList<float>(from, from[64], from[128], from[192]),
            MrgSort4Info(runs, false, 15, kTileRows / 128));
    PipeBarrier<PIPE_V>();
    MrgSort(from, MrgSortSrcList<float>(to, to[256], to[512], to[768]),
            MrgSort4Info(longer, false, 15, 1));
    PipeBarrier<PIPE_V>();
    TakePart(from.ReinterpretCast<int32_t>(), 0, keys_.ReinterpretCast<int32_t>(), kTileRows);
    TakePart(from.ReinterpretCast<int32_t>(), 1, to.ReinterpretCast<int32_t>(), kTileRows);
    PipeBarrier<PIPE_V>();
    Cast(places_, to.ReinterpretCast<int32_t>(), RoundMode::CAST_RINT, kTileRows);
    PipeBarrier<PIPE_V>();
  }

  // key[i] = table[place[i] + shift]
  __aicore__ inline void LookUp(const LocalTensor<float>& key, const LocalTensor<float>& table,
                                const LocalTensor<float>& place, float shift, int32_t count) {
    const LocalTensor<int32_t> at = scratch_.ReinterpretCast<int32_t>();
    Adds(key, place, shift, count);
    PipeBarrier<PIPE_V>();
    Cast(at, key, RoundMode::CAST_RINT, count);
    PipeBarrier<PIPE_V>();
    Muls(at, at, kWord, count);
    PipeBarrier<PIPE_V>();
    Gather(key, table, at.ReinterpretCast<uint32_t>(), 0, count);
    PipeBarrier<PIPE_V>();
  }

  NumberTable<kTileRows> numbers_;
  GlobalTensor<int32_t> all_pairs_;
  LocalTensor<int32_t> pairs_, rows_;  // of the tile that is looked at
  LocalTensor<float> keys_, places_;   // of the one in use
  LocalTensor<float> distance_, scratch_;
  LocalTensor<uint8_t> above_;
  Events<HardEvent::V_MTE2> pairs_free_;
  Events<HardEvent::V_S> distance_known_;
};

}  // namespace mxd::kernels::sparse_conv
