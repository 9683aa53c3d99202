// Gathers the rows of blocks into the workspace, each block as fractals side by side: [blocks,
// row_blocks, 16, 32 B].
//
// Rows of neighbours are neighbours, where voxels are sorted: the input rows that a tile's blocks
// name lie in a few windows, which are loaded whole. Blocks are gathered within UB.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/nz.h"
#include "../sparse_conv/pairs.h"
#include "kernel_operator.h"
#include "plan.h"

namespace mxd::kernels::sparse_conv_planned {

template <typename T>
class Gatherer {
  static constexpr int32_t kSize = static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kAddresses = kChunkBytes / kBlockBytes;
  static constexpr int32_t kMostRows = 2048;  // of a window

 public:
  // Without the window, which takes the rest.
  static constexpr int32_t kUbBytes =
      kPlanPoints * kPlanRows * kWord + 2 * kChunkBytes + 2 * kAddresses * kWord + 4 * kBlockBytes;

  // `spare`: room for a chunk, not in use while Gather is. `left`: bytes of UB for the window.
  __aicore__ inline Gatherer(TPipe& pipe, GM_ADDR features, GM_ADDR gathered,
                             const SparseConvTiling& tiling, const LocalTensor<float>& spare,
                             int32_t left)
      : tiling_(tiling),
        chunk_(ChunkElements(tiling)),
        features_(features, static_cast<int64_t>(tiling.groups) * tiling.in_channels,
                  tiling.in_channels),
        window_rows_(MinOf(left / (tiling.in_channels * kSize) - 2, kMostRows)),
        lists_(Take<int32_t>(pipe, 2 * kAddresses)),
        stage_(Take<T>(pipe, 2 * chunk_)),
        row_address_(Take<int32_t>(pipe, kAddresses)),
        address_(Take<int32_t>(pipe, kAddresses)),
        window_(Take<T>(pipe, (window_rows_ + 2) * tiling.in_channels)),
        part_(spare.ReinterpretCast<T>()) {
    gathered_.SetGlobalBuffer(
        reinterpret_cast<__gm__ T*>(gathered) +
        (static_cast<int64_t>(GetBlockIdx() / 2) * kSteps * 2 + GetSubBlockIdx()) * chunk_);
    stage_free_.Init(pipe, 2);
    list_free_.Init(pipe, 2);
    list_full_.Init(pipe, 2);
    Clear(0);
  }
  __aicore__ inline void Begin() {
    stage_free_.SetAll();
    list_free_.SetAll();
  }
  __aicore__ inline void End() {
    stage_free_.WaitAll();
    list_free_.WaitAll();
  }

  // Begins a tile: `rows` are the input rows of its `count` blocks, `record` has their ranges.
  __aicore__ inline void Open(const GlobalTensor<int32_t>& rows, int32_t count,
                              const LocalTensor<int64_t>& record) {
    list_rows_ = rows;
    unlisted_ = count;
    List();
    for (int32_t k = 0; k < tiling_.volume; k += 2) {
      const uint64_t low = record.GetValue((kPlanLowest + k) / 2);
      const uint64_t high = record.GetValue((kPlanHighest + k) / 2);
      lowest_[k] = static_cast<int32_t>(low);
      lowest_[k + 1] = static_cast<int32_t>(low >> 32);
      highest_[k] = static_cast<int32_t>(high);
      highest_[k + 1] = static_cast<int32_t>(high >> 32);
    }
    begin_ = end_ = 0;
    Clear(1);
  }

  // Gathers the next chunk, of `count` blocks of kernel points [point, last], into the workspace of
  // a step.
  __aicore__ inline void Gather(int32_t step, int32_t count, int32_t point, int32_t last,
                                int64_t column) {
    const LocalTensor<T> stage = stage_[step % 2 * chunk_];
    list_full_.Wait(listed_);
    list_ = lists_[listed_ * kAddresses];
    const int32_t list = listed_;
    if (unlisted_ > 0) List();
    stage_free_.Wait(step % 2);
    bool taken = false;
    for (int32_t k = point; k <= last;) {
      int32_t low = lowest_[k], high = highest_[k];
      k = Widen(low, high, k + 1, last);
      if (low < begin_ || high >= end_) {
        if (k > last) Widen(low, high, k, tiling_.volume - 1);
        for (; high - low >= window_rows_; low += window_rows_) {
          Load(low, low + window_rows_, column);
          TakeBlocks(stage, count, taken);
          taken = true;
        }
        if (low <= high) Load(low, high + 1, column);
      }
      if (low <= high || !taken) TakeBlocks(stage, count, taken);
      taken = true;
    }
    list_free_.Set(list);
    SetWait<HardEvent::V_MTE3>();
    DataCopy(gathered_[step % kSteps * 2 * chunk_], stage, count * Elements());
    stage_free_.Set(step % 2);
  }

 private:
  __aicore__ inline int32_t Elements() const { return kFractalRows * tiling_.in_channels; }

  // Loads the input rows of the next chunk.
  __aicore__ inline void List() {
    const int32_t count = MinOf(tiling_.step_rows / kFractalRows, unlisted_) * kFractalRows;
    listed_ = 1 - listed_;
    list_free_.Wait(listed_);
    DataCopy(lists_[listed_ * kAddresses], list_rows_, count);
    list_full_.Set(listed_);
    list_rows_ = list_rows_[count];
    unlisted_ -= count / kFractalRows;
  }

  __aicore__ inline void Clear(int32_t row) {
    Duplicate(window_[row * tiling_.in_channels].template ReinterpretCast<int32_t>(), 0,
              tiling_.in_channels * kSize / kWord);
  }
  // Widens a range of rows by those of kernel points [k, last] as long as a window holds it;
  // returns the first point that it does not have.
  __aicore__ inline int32_t Widen(int32_t& low, int32_t& high, int32_t k, int32_t last) const {
    for (; k <= last; ++k) {
      const int32_t lower = MinOf(low, lowest_[k]), higher = MaxOf(high, highest_[k]);
      if (higher - lower >= window_rows_) break;
      low = lower;
      high = higher;
    }
    return k;
  }

  // Loads rows [begin, end) into the window.
  __aicore__ inline void Load(int32_t begin, int32_t end, int64_t column) {
    begin_ = begin;
    end_ = end;
    SetWait<HardEvent::V_MTE2>();
    features_.Copy(window_[tiling_.in_channels], Run{begin, 1, end - begin}, column);
    SetWait<HardEvent::MTE2_V>();
    Clear(end - begin + 1);
    PipeBarrier<PIPE_V>();
  }

  // Takes a chunk's blocks from the window, zeros for what is not in it; `more`: what other windows
  // had is there.
  __aicore__ inline void TakeBlocks(const LocalTensor<T>& stage, int32_t count, bool more) {
    const int32_t rows = count * kFractalRows, row_blocks = features_.row_blocks();
    Adds(row_address_, list_, 1 - begin_, rows);
    PipeBarrier<PIPE_V>();
    Maxs(row_address_, row_address_, 0, rows);
    PipeBarrier<PIPE_V>();
    Mins(row_address_, row_address_, end_ - begin_ + 1, rows);
    PipeBarrier<PIPE_V>();
    Muls(row_address_, row_address_, row_blocks * kBlockBytes, rows);
    PipeBarrier<PIPE_V>();
    for (int32_t i = 0; i < row_blocks; ++i)
      Adds(address_[i * kFractalRows], row_address_, i * kBlockBytes, kFractalRows, count,
           UnaryRepeatParams(1, 1, row_blocks * 2, 2));
    PipeBarrier<PIPE_V>();
    Gatherb((more ? part_ : stage).template ReinterpretCast<uint32_t>(),
            window_.template ReinterpretCast<uint32_t>(), address_.ReinterpretCast<uint32_t>(),
            rows * row_blocks / 8, GatherRepeatParams(1, 8));
    PipeBarrier<PIPE_V>();
    if (!more) return;
    const LocalTensor<uint16_t> bits = stage.template ReinterpretCast<uint16_t>();
    Or(bits, bits, part_.template ReinterpretCast<uint16_t>(), count * Elements() * kSize / 2);
    PipeBarrier<PIPE_V>();
  }

  const SparseConvTiling& tiling_;
  const int32_t chunk_;  // elements
  const sparse_conv::Rows<T> features_;
  const int32_t window_rows_;
  GlobalTensor<T> gathered_;
  GlobalTensor<int32_t> list_rows_;             // that are not listed yet
  LocalTensor<int32_t> lists_, list_;           // [2, rows]: of two chunks, the input rows
  LocalTensor<T> stage_;                        // [2, chunk]
  LocalTensor<int32_t> row_address_, address_;  // of the rows, and of their fractals' rows
  LocalTensor<T> window_;                       // between two rows of zeros
  LocalTensor<T> part_;
  Events<HardEvent::MTE3_V> stage_free_;
  Events<HardEvent::V_MTE2> list_free_;
  Events<HardEvent::MTE2_V> list_full_;
  int32_t unlisted_ = 0, listed_ = 0, begin_ = 0, end_ = 0;
  int32_t lowest_[kPlanPoints + 1], highest_[kPlanPoints + 1];
};

}  // namespace mxd::kernels::sparse_conv_planned
