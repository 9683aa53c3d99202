// Gathers the rows of blocks into the workspace, in fractals side by side: [rows / 16, row_blocks,
// 16, 32 B].
//
// Rows of neighbours are neighbours, where voxels are sorted: the input rows that a tile's blocks
// name lie in a few windows. Blocks are gathered from one within UB, while the next ones are
// loaded. The features are [groups, parts, rows, in_step].
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/nz.h"
#include "kernel_operator.h"
#include "plan.h"
#include "windows.h"

namespace mxd::kernels::sparse_conv_planned {

template <typename T>
class Gatherer {
  static constexpr int32_t kSize = static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kAddresses = kChunkBytes / kBlockBytes;
  static constexpr int32_t kListRows = kAddresses;  // of a list, at most
  static constexpr int32_t kStages = 3;
  static constexpr int32_t kRowBlocks = kPartBytes / kBlockBytes;  // of an input row, at most

 public:
  static constexpr int32_t kUbBytes = 2 * kListRows * kWord + kStages * kChunkBytes +
                                      2 * kAddresses * kWord + kRowBlocks * kBlockBytes +
                                      Windows<T>::kUbBytes;

  __aicore__ inline Gatherer(TPipe& pipe, GM_ADDR features, GM_ADDR gathered,
                             const SparseConvTiling& tiling)
      : tiling_(tiling),
        chunk_(ChunkElements(tiling)),
        lists_(Take<int32_t>(pipe, 2 * kListRows)),
        stage_(Take<T>(pipe, kStages * chunk_)),
        row_address_(Take<int32_t>(pipe, kAddresses)),
        address_(Take<int32_t>(pipe, kAddresses)),
        in_row_(Take<int32_t>(pipe, kRowBlocks * kBlockWords)),
        windows_(pipe, features, tiling) {
    gathered_.SetGlobalBuffer(
        reinterpret_cast<__gm__ T*>(gathered) +
        (static_cast<int64_t>(GetBlockIdx() / 2) * kSteps * 2 + GetSubBlockIdx()) * chunk_);
    stage_free_.Init(pipe, kStages);
    list_free_.Init(pipe, 2);
    list_full_.Init(pipe, 2);
    for (int32_t i = 0; i < windows_.row_blocks(); ++i)
      Duplicate(in_row_[i * kBlockWords], i * kBlockBytes, kBlockWords);
  }
  __aicore__ inline void FreeAll() {
    stage_free_.SetAll();
    list_free_.SetAll();
    windows_.FreeAll();
  }
  __aicore__ inline void End() {
    stage_free_.WaitAll();
    list_free_.WaitAll();
    windows_.End();
  }

  // Takes over a tile: `rows` are the input rows of its blocks, `record` has their ranges.
  __aicore__ inline void Open(const GlobalTensor<int32_t>& rows, const Blocks& blocks,
                              const LocalTensor<int64_t>& record) {
    rows_ = rows;
    count_ = blocks.count();
    windows_.Open(record, blocks.sections());
  }
  // Begins with the tile's first block, and a part of the channels.
  __aicore__ inline void Begin(int32_t part) {
    list_rows_ = rows_;
    unlisted_ = count_ * kPlanBlockRows;
    listed_ = at_ = 0;
    ahead_ = 0;
    if (unlisted_ > 0) List();
    windows_.Begin(static_cast<int64_t>(part) * tiling_.num_out * tiling_.in_step);
  }

  // Gathers the next chunk, of `count` blocks, into the workspace of a step.
  __aicore__ inline void Gather(int32_t step, Blocks& blocks, int32_t count) {
    const LocalTensor<T> stage = stage_[step % kStages * chunk_];
    NextRows(count * kPlanBlockRows);
    stage_free_.Wait(step % kStages);
    for (int32_t done = 0; done < count;) {
      const int32_t range = blocks.Range();
      const bool held = windows_.Holds(range);
      int32_t low = 0, high = 0;
      if (!held) windows_.FindRange(range, low, high);
      const bool far = !held && high - low >= windows_.most_rows();
      if (!held && !far) {
        windows_.Use(range, low, high + 1);
        windows_.LoadAhead();
      }
      int32_t taken = blocks.TakePoint(count - done);
      while (done + taken < count &&
             (far ? windows_.Within(low, high, blocks.Range()) : windows_.Holds(blocks.Range())))
        taken += blocks.TakePoint(count - done - taken);
      if (far)
        TakeFar(step, done, taken, range, low, high);
      else
        TakeBlocks(stage[done * Elements()], done, taken);
      done += taken;
    }
    if (at_ == listed_) list_free_.Set(list_);
    SetWait<HardEvent::V_MTE3>();
    DataCopy(gathered_[step % kSteps * 2 * chunk_], stage, count * Elements());
    stage_free_.Set(step % kStages);
  }

 private:
  __aicore__ inline int32_t Elements() const { return kPlanBlockRows * tiling_.in_step; }

  // Loads the next input rows: whole chunks, as many as a list holds.
  __aicore__ inline void List() {
    ahead_ = MinOf(kListRows / tiling_.step_rows * tiling_.step_rows, unlisted_);
    list_free_.Wait(1 - list_);
    DataCopy(lists_[(1 - list_) * kListRows], list_rows_, ahead_);
    list_full_.Set(1 - list_);
    list_rows_ = list_rows_[ahead_];
    unlisted_ -= ahead_;
  }
  // row_offset_: the next `count` input rows.
  __aicore__ inline void NextRows(int32_t count) {
    if (at_ == listed_) {
      list_ = 1 - list_;
      listed_ = ahead_;
      at_ = ahead_ = 0;
      list_full_.Wait(list_);
      const LocalTensor<int32_t> rows = lists_[list_ * kListRows];
      Muls(rows, rows, windows_.row_bytes(), listed_);
      PipeBarrier<PIPE_V>();
    }
    if (ahead_ == 0 && unlisted_ > 0) List();
    row_offset_ = lists_[list_ * kListRows + at_];
    at_ += count;
  }

  // Takes blocks [first, first + count) of the chunk from the window, zeros for what is not in it.
  // Rows that are none are negative; `far`: others may lie outside of the window, too.
  __aicore__ inline void TakeBlocks(const LocalTensor<T>& to, int32_t first, int32_t count,
                                    bool far = false) {
    const int32_t rows = count * kPlanBlockRows, row_blocks = windows_.row_blocks();
    Adds(row_address_, row_offset_[first * kPlanBlockRows],
         (1 - windows_.begin()) * windows_.row_bytes(), rows);
    PipeBarrier<PIPE_V>();
    Maxs(row_address_, row_address_, 0, rows);
    PipeBarrier<PIPE_V>();
    if (far) {
      Mins(row_address_, row_address_,
           (windows_.end() - windows_.begin() + 1) * windows_.row_bytes(), rows);
      PipeBarrier<PIPE_V>();
    }
    // The fractals of 16 rows at once; a half of the rows is a block of addresses in each.
    for (int32_t upper = 0; upper < 2; ++upper)
      Add(address_[upper * kBlockWords], row_address_[upper * kBlockWords], in_row_,
          static_cast<uint64_t>(row_blocks * kBlockWords), rows / kFractalRows,
          BinaryRepeatParams(2, 0, 1, row_blocks * 2, 2, 0));
    PipeBarrier<PIPE_V>();
    Gatherb(to.template ReinterpretCast<uint32_t>(),
            windows_.rows().template ReinterpretCast<uint32_t>(),
            address_.ReinterpretCast<uint32_t>(), rows * row_blocks / 8, GatherRepeatParams(1, 8));
    PipeBarrier<PIPE_V>();
  }

  // The same for blocks whose rows, from `lowest` to `highest`, lie in several windows: what the
  // later ones have is gathered into the next stage.
  __aicore__ inline void TakeFar(int32_t step, int32_t first, int32_t count, int32_t range,
                                 int32_t lowest, int32_t highest) {
    const int32_t next = (step + 1) % kStages, most = windows_.most_rows();
    const LocalTensor<T> to = stage_[step % kStages * chunk_ + first * Elements()];
    const LocalTensor<T> part = stage_[next * chunk_];
    stage_free_.Wait(next);
    for (int32_t low = lowest; low <= highest; low += most) {
      const int32_t end = MinOf(highest + 1, low + most);
      windows_.Use(range, low, end);
      if (end <= highest) windows_.Load(end, MinOf(highest + 1, end + most));
      TakeBlocks(low == lowest ? to : part, first, count, /*far=*/true);
      if (low == lowest) continue;
      const LocalTensor<uint16_t> bits = to.template ReinterpretCast<uint16_t>();
      Or(bits, bits, part.template ReinterpretCast<uint16_t>(), count * Elements() * kSize / 2);
      PipeBarrier<PIPE_V>();
    }
    stage_free_.Set(next);
  }

  const SparseConvTiling& tiling_;
  const int32_t chunk_;  // elements
  GlobalTensor<T> gathered_;
  GlobalTensor<int32_t> rows_, list_rows_;      // of the tile's blocks; that are not listed yet
  LocalTensor<int32_t> lists_, row_offset_;     // [2, rows]: bytes before input rows; the chunk's
  LocalTensor<T> stage_;                        // [kStages, chunk]
  LocalTensor<int32_t> row_address_, address_;  // of the rows, and of their fractals' rows
  LocalTensor<int32_t> in_row_;                 // [row_blocks, 8]: bytes before a fractal's rows
  Windows<T> windows_;
  Events<HardEvent::MTE3_V> stage_free_;
  Events<HardEvent::V_MTE2> list_free_;
  Events<HardEvent::MTE2_V> list_full_;
  // Rows that are in no list yet; which list is in use, how many rows it has, where the next chunk
  // begins, and how many rows the other list has ahead.
  int32_t count_ = 0;  // blocks
  int32_t unlisted_ = 0, list_ = 0, listed_ = 0, at_ = 0, ahead_ = 0;
};

}  // namespace mxd::kernels::sparse_conv_planned
