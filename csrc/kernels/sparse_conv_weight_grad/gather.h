// Gathers the rows of one side into the workspace as squares: [rows / 16, channels / 16, squares].
//
// Rows of neighbours are neighbours, where voxels are sorted: the rows that a chunk names lie close
// together. They are loaded whole, and gathered within UB; a row that is far from others is loaded
// by itself.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/numbers.h"
#include "../common/nz.h"
#include "chunks.h"
#include "kernel_operator.h"
#include "row_ring.h"

namespace mxd::kernels::sparse_conv_weight_grad {

template <typename T>
class Gatherer {
  static constexpr int32_t kSize = static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kStageBytes = 8192;
  static constexpr int32_t kStages = 4;
  static constexpr int32_t kStepRows = StepRows(kSize);
  static constexpr int32_t kRowBlocks = kRowBytes<kSize> / kBlockBytes;
  static constexpr int32_t kStepBlocks = kStepRows * kRowBlocks;

 public:
  // Without the ring's.
  static constexpr int32_t kUbBytes = kStages * kStageBytes + (kStepRows + kStepBlocks) * kWord +
                                      kRowBlocks * kBlockBytes + 3 * kChunkRows * kWord +
                                      2 * kRepeatBytes + 4 * kBlockBytes;

  __aicore__ inline Gatherer(TPipe& pipe, GM_ADDR rows, GM_ADDR gathered,
                             const SparseConvWeightGradTiling& tiling)
      : tiling_(tiling),
        side_(GetSubBlockIdx()),
        channels_(tiling.panel[side_]),
        row_blocks_(channels_ * kSize / kBlockBytes),
        stage_rows_(kStageBytes / (channels_ * kSize) / kFractalRows * kFractalRows),
        ring_(pipe, rows, static_cast<int64_t>(tiling.groups) * tiling.panels[side_] * channels_,
              channels_, 1 << tiling.ring_bits),
        stage_(Take<T>(pipe, kStages * kStageBytes / kSize)),
        rows_(Take<int32_t>(pipe, 2 * kChunkRows)),
        place_(Take<int32_t>(pipe, kChunkRows)),
        line_(Take<int32_t>(pipe, kStepRows)),
        column_(Take<int32_t>(pipe, kRowBlocks * kBlockWords)),
        address_(Take<int32_t>(pipe, kStepBlocks)),
        partial_(Take<float>(pipe, 2 * kLanes)),
        range_(Take<float>(pipe, 4 * kBlockWords)) {
    gathered_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gathered) +
                              GetBlockIdx() / 2 * kSteps * StepElements(tiling) +
                              (side_ == 0 ? 0 : SideElements(tiling, 0)));
    stage_free_.Init(pipe, kStages);
    stage_full_.Init(pipe, kStages);
    range_known_.Init(pipe, 2);
    CreateVecIndex(line_, 0, kBlockWords);
    PipeBarrier<PIPE_V>();
    ExtendNumbers(line_, kBlockWords, kStepRows);
    Muls(line_, line_, ring_.row_bytes(), kStepRows);
    for (int32_t i = 0; i < kRowBlocks; ++i)
      Duplicate(column_[i * kBlockWords], i * kBlockBytes, kBlockWords);
  }
  __aicore__ inline void Begin() { stage_free_.SetAll(); }
  __aicore__ inline void End() {
    stage_free_.WaitAll();
    ring_.End();
  }

  // Lists the rows of a chunk, by slots, and looks for the first and the last one.
  __aicore__ inline void List(int32_t index, Chunks& chunks) {
    const Chunk& chunk = chunks.Get(index);
    const int32_t lanes = RoundUp(chunk.slots(), kLanes), repeats = lanes / kLanes;
    const LocalTensor<int32_t> rows = rows_[index % 2 * kChunkRows];
    const LocalTensor<float> keys = place_.template ReinterpretCast<float>();
    const LocalTensor<float> range = range_[index % 2 * 2 * kBlockWords];
    chunks.TakeRows(index, place_);
    SetWait<HardEvent::S_V>();  // the rows of the chunk before the last one were read here
    Duplicate(rows, chunk.low, lanes);
    PipeBarrier<PIPE_V>();
    for (int32_t j = 0; j < kPoints; ++j)
      if (chunk.rows[j] > 0) Adds(rows[chunk.slot[j]], place_[chunk.slot[j]], 0, chunk.rows[j]);
    PipeBarrier<PIPE_V>();
    Adds(place_, rows, sparse_conv::kFloatBits, lanes);
    PipeBarrier<PIPE_V>();
    constexpr ReduceOrder kValue = ReduceOrder::ORDER_ONLY_VALUE;
    WholeReduceMin(partial_, keys, kLanes, repeats, 1, 1, 8, kValue);
    WholeReduceMax(partial_[kLanes], keys, kLanes, repeats, 1, 1, 8, kValue);
    PipeBarrier<PIPE_V>();
    WholeReduceMin(range, partial_, repeats, 1, 1, 1, 8, kValue);
    WholeReduceMax(range[kBlockWords], partial_[kLanes], repeats, 1, 1, 1, 8, kValue);
    PipeBarrier<PIPE_V>();
    range_known_.Set(index % 2);
  }

  // Begins to load the rows of a chunk, if they lie close together.
  __aicore__ inline void Load(int32_t index, const Chunk& chunk) {
    ring_.Open(FirstColumn(chunk.unit));
    close_[index % 2] = ring_.Holds(chunk.low, chunk.high, chunk.slots());
    if (Close(index)) ring_.Load(chunk.low, chunk.high);
  }
  // Whether they may be loaded while those of the last chunk, which were, are gathered.
  __aicore__ inline bool HasRoom(const Chunk& chunk) {
    if (chunk.unit < 0) return false;
    ring_.Open(FirstColumn(chunk.unit));
    return ring_.HasRoom(chunk.low, chunk.high);
  }
  // Whether the rows of a chunk were loaded together.
  __aicore__ inline bool Loaded(int32_t index, const Chunk& chunk) {
    const LocalTensor<int32_t> range =
        range_[index % 2 * 2 * kBlockWords].template ReinterpretCast<int32_t>();
    range_known_.Wait(index % 2);
    const int32_t low = range.GetValue(0) - sparse_conv::kFloatBits;
    const int32_t high = range.GetValue(kBlockWords) - sparse_conv::kFloatBits;
    // Lists may not ascend.
    if (Close(index) && (low < chunk.low || high > chunk.high)) {
      ring_.Wait();
      ring_.Free();
      close_[index % 2] = false;
    }
    return Close(index);
  }

  // Opens a chunk to be gathered.
  __aicore__ inline void Open(int32_t index, const Chunk& chunk) {
    list_ = rows_[index % 2 * kChunkRows];
    if (!Close(index)) return;
    const LocalTensor<uint32_t> place = place_.template ReinterpretCast<uint32_t>();
    const uint32_t above = kBits - tiling_.ring_bits;
    ShiftLeft(place, list_.template ReinterpretCast<uint32_t>(), above, chunk.slots());
    PipeBarrier<PIPE_V>();
    ShiftRight(place, place, above, chunk.slots());
    PipeBarrier<PIPE_V>();
    Muls(place_, place_, ring_.row_bytes(), chunk.slots());
    PipeBarrier<PIPE_V>();
    ClearEmpty(chunk, 0, chunk.slots());
    ring_.Wait();
  }
  // Gathers slots [first, first + rows) of the chunk into the workspace of a step.
  __aicore__ inline void Gather(int32_t step, int32_t index, const Chunk& chunk, int32_t first,
                                int32_t rows) {
    if (!Close(index)) LoadSlots(chunk, first, rows);
    // Eight rows of eight columns a repeat.
    for (int32_t i = 0; i < 2 * row_blocks_; i += 2 * kBlockWords)
      for (int32_t second = 0; second < 2; ++second)
        Add(address_[(i + second) * kBlockWords], place_[first + second * kBlockWords],
            column_[i / 2 * kBlockWords], MinOf(kLanes, (row_blocks_ - i / 2) * kBlockWords),
            rows / kFractalRows, BinaryRepeatParams(2, 0, 1, 2 * row_blocks_, 2, 0));
    PipeBarrier<PIPE_V>();
    const int64_t to = step % kSteps * StepElements(tiling_);
    for (int32_t at = 0; at < rows; at += stage_rows_)
      TakeRows(at, MinOf(stage_rows_, rows - at), gathered_[to + at * channels_]);
    PipeBarrier<PIPE_V>();
    if (!Close(index)) ring_.Free();
  }
  __aicore__ inline void Finish(int32_t index) {
    if (Close(index)) ring_.Free();
  }

 private:
  static constexpr uint32_t kBits = 32;

  __aicore__ inline bool Close(int32_t index) const { return close_[index % 2]; }

  // Empty slots are taken from the row of zeros.
  __aicore__ inline void ClearEmpty(const Chunk& chunk, int32_t first, int32_t slots) {
    for (int32_t j = 0; j < kPoints; ++j) {
      const int32_t begin = chunk.slot[j] + chunk.rows[j] / kFractalRows * kFractalRows;
      if (chunk.rows[j] % kFractalRows == 0 || begin < first || begin >= first + slots) continue;
      uint64_t lanes[2] = {(1ull << kFractalRows) - (1ull << chunk.rows[j] % kFractalRows), 0};
      Duplicate(place_[begin], ring_.rows() * ring_.row_bytes(), lanes, 1, 1, 8);
    }
    PipeBarrier<PIPE_V>();
  }

  // Loads the rows of some slots one by one, and notes where they are.
  __aicore__ inline void LoadSlots(const Chunk& chunk, int32_t first, int32_t slots) {
    const int32_t place = ring_.StartList();
    Adds(place_[first], line_, place * ring_.row_bytes(), slots);
    PipeBarrier<PIPE_V>();
    ClearEmpty(chunk, first, slots);
    for (int32_t j = 0; j < kPoints; ++j) {
      const int32_t begin = MaxOf(first, chunk.slot[j]);
      const int32_t end = MinOf(first + slots, chunk.slot[j] + chunk.rows[j]);
      if (begin < end) ring_.LoadList(list_, begin, end, place + begin - first);
    }
    ring_.EndList();
    ring_.Wait();
  }

  // Takes rows of the step from the ring to the workspace.
  __aicore__ inline void TakeRows(int32_t at, int32_t rows, const GlobalTensor<T>& to) {
    const LocalTensor<T> stage = stage_[buffer_ * (kStageBytes / kSize)];
    stage_free_.Wait(buffer_);
    Gatherb(stage.template ReinterpretCast<uint32_t>(),
            ring_.Get().template ReinterpretCast<uint32_t>(),
            address_[at * row_blocks_].template ReinterpretCast<uint32_t>(),
            rows * row_blocks_ / kBlockWords, GatherRepeatParams(1, 8));
    stage_full_.SetWait(buffer_);
    DataCopy(to, stage, rows * channels_);
    stage_free_.Set(buffer_);
    buffer_ = (buffer_ + 1) % kStages;
  }

  // Of this side, in a unit.
  __aicore__ inline int64_t FirstColumn(int64_t unit) const {
    const int64_t panel = unit / tiling_.slabs / PointGroups(tiling_);
    const int64_t group = panel / (tiling_.panels[0] * tiling_.panels[1]);
    const int64_t part =
        side_ == 0 ? panel / tiling_.panels[1] % tiling_.panels[0] : panel % tiling_.panels[1];
    return (group * tiling_.panels[side_] + part) * channels_;
  }

  const SparseConvWeightGradTiling& tiling_;
  const int32_t side_, channels_, row_blocks_, stage_rows_;
  RowRing<T> ring_;
  GlobalTensor<T> gathered_;
  LocalTensor<T> stage_;                // [stages, rows, channels]
  LocalTensor<int32_t> rows_, list_;    // [2, slots]; those of the open chunk
  LocalTensor<int32_t> place_, line_;   // bytes: where slots are in the ring; rows in a line
  LocalTensor<int32_t> column_;         // byte i * 32 in block i
  LocalTensor<int32_t> address_;        // of the blocks of a step
  LocalTensor<float> partial_, range_;  // the least and the greatest row: of lanes, of two chunks
  Events<HardEvent::MTE3_V> stage_free_;
  Events<HardEvent::V_MTE3> stage_full_;
  Events<HardEvent::V_S> range_known_;
  bool close_[2];
  int32_t buffer_ = 0;
};

}  // namespace mxd::kernels::sparse_conv_weight_grad
