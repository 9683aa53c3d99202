// What is around the join of a rulebook: the heads of its table, and the places of its pairs.
#include "common/buffers.h"
#include "common/events.h"
#include "common/run.h"
#include "sparse_conv_rulebook/heads.h"
#include "sparse_conv_rulebook_tiling.h"

namespace mxd::kernels {
namespace {

// The heads of a sorted table, and whether each of its cells is larger than the one before.
class Table {
  static constexpr int32_t kChunk = 4096, kHeads = 1024;  // at once

 public:
  __aicore__ inline Table(TPipe& pipe, const SparseConvTableTiling& tiling, GM_ADDR cells,
                          GM_ADDR stats, GM_ADDR heads)
      : check_(tiling.check), voxels_(Resolve(tiling.voxels, stats)) {
    Bind(cells_, cells, stats_, stats, heads_, heads);
    Take(pipe, kChunk, cell_, before_, least_);
    raw_ = Take<int32_t>(pipe, kHeads * kBlockWords);
    Take(pipe, kHeads, offsets_, head_);
  }

  __aicore__ inline void Process() {
    WriteHeads();
    if (check_) Check();
  }

 private:
  __aicore__ inline void WriteHeads() {
    CreateVecIndex(offsets_, 0, kHeads);
    PipeBarrier<PIPE_V>();
    Muls(offsets_, offsets_, kBlockBytes, kHeads);
    const int32_t distance = HeadDistance(voxels_), all = CeilDiv(voxels_, distance);
    const int32_t share = RoundUp(CeilDiv(all, static_cast<int32_t>(GetBlockNum())), kBlockWords);
    const int32_t first = static_cast<int32_t>(GetBlockIdx()) * share;
    const int32_t end = MinOf(first + share, all);
    for (int32_t begin = first; begin < end; begin += kHeads) {
      const int32_t count = MinOf(kHeads, end - begin);
      SetWait<HardEvent::V_MTE2>();
      DataCopyPad(raw_, cells_[static_cast<int64_t>(begin) * distance],
                  {static_cast<uint16_t>(count), kWord,
                   static_cast<uint32_t>((distance - 1) * kWord), 0, 0},
                  {false, 0, 0, 0});
      SetWait<HardEvent::MTE2_V>();
      SetWait<HardEvent::MTE3_V>();
      Gather(head_, raw_, offsets_.ReinterpretCast<uint32_t>(), 0, count);
      SetWait<HardEvent::V_MTE3>();
      DataCopyPad(heads_[begin], head_, Words(count));
    }
  }

  // least_: below 1 where a cell is not larger than the one before, or none.
  __aicore__ inline void Check() {
    Duplicate(least_, 1, kChunk);
    PipeBarrier<PIPE_V>();
    const int64_t share =
        RoundUp(CeilDiv(voxels_, static_cast<int32_t>(GetBlockNum())), kBlockWords);
    const int64_t first = GetBlockIdx() * share;
    const int64_t end = first + share < voxels_ ? first + share : voxels_;
    for (int64_t begin = first; begin < end; begin += kChunk) {
      const int32_t count = static_cast<int32_t>(end - begin < kChunk ? end - begin : kChunk);
      SetWait<HardEvent::V_MTE2>();
      DataCopyPad(cell_, cells_[begin], Words(count), {false, 0, 0, 0});
      if (begin > 0) {
        DataCopyPad(before_, cells_[begin - 1], Words(count), {false, 0, 0, 0});
      } else if (count > 1) {
        DataCopyPad(before_, cells_, Words(count - 1), {true, 1, 0, -kLanes});
      } else {
        Duplicate(before_, -kLanes, kBlockWords);
      }
      SetWait<HardEvent::MTE2_V>();
      PipeBarrier<PIPE_V>();
      Sub(before_, cell_, before_, count);
      Adds(cell_, cell_, 1, count);
      PipeBarrier<PIPE_V>();
      Min(least_, least_, before_, count);
      PipeBarrier<PIPE_V>();
      Min(least_, least_, cell_, count);
      PipeBarrier<PIPE_V>();
    }
    for (int32_t width = kChunk / 2; width >= kBlockWords; width /= 2) {
      Min(least_, least_, least_[width], width);
      PipeBarrier<PIPE_V>();
    }
    SetWait<HardEvent::V_S>();
    int32_t least = 1;
    for (int32_t i = 0; i < kBlockWords; i++) least = MinOf(least, least_.GetValue(i));
    if (least > 0) return;
    SetWait<HardEvent::MTE3_V>();
    Duplicate(head_, 1, kBlockWords);
    SetWait<HardEvent::V_MTE3>();
    SetAtomicAdd<int32_t>();
    DataCopyPad(stats_[kRulebookBad], head_, Words(1));
    SetAtomicNone();
  }

  const int32_t check_, voxels_;
  GlobalTensor<int32_t> cells_, stats_, heads_;
  LocalTensor<int32_t> cell_, before_, least_, raw_, offsets_, head_;
};

// Sums counts in the order of tiles and kernel points. Each block sums what is before its own tiles
// again: it is small.
class Bounds {
  static constexpr int32_t kLoad = kRulebookPoints;  // counts at once
  static constexpr int32_t kSums = 4096, kOut = 2048;
  static_assert((kLoad + kSums + 2 * kOut) * kWord + 2 * kBlockBytes <= kUbBytes);

 public:
  __aicore__ inline Bounds(TPipe& pipe, const SparseConvBoundsTiling& tiling, GM_ADDR counts,
                           GM_ADDR stats, GM_ADDR bounds)
      : tiling_(tiling), tiles_(CeilDiv(Resolve(tiling.windows, stats), kTileRows)) {
    Bind(counts_, counts, stats_, stats, bounds_, bounds);
    count_ = Take<int32_t>(pipe, kLoad);
    sums_ = Take<int32_t>(pipe, kSums);
    out_ = Take<int64_t>(pipe, kOut);
    total_ = Take<int64_t>(pipe, kBlockBytes / 8);
  }

  __aicore__ inline void Process() {
    const int32_t volume = tiling_.rows * tiling_.run;
    const int32_t share = CeilDiv(tiles_, static_cast<int32_t>(GetBlockNum()));
    const int32_t first = static_cast<int32_t>(GetBlockIdx()) * share;
    const int32_t end = MinOf(first + share, tiles_);
    if (first >= end) return;
    sum_ = SumBefore(static_cast<int64_t>(first) * volume);
    at_ = static_cast<int64_t>(first) * (volume + 1);
    const int32_t tiles_at_once = kLoad / volume;
    for (int32_t tile = first; tile < end; tile += tiles_at_once) {
      const int32_t tiles = MinOf(tiles_at_once, end - tile);
      SetWait<HardEvent::S_MTE2>();
      DataCopyPad(count_, counts_[static_cast<int64_t>(tile) * volume], Words(tiles * volume),
                  {false, 0, 0, 0});
      SetWait<HardEvent::MTE2_S>();
      for (int32_t t = 0; t < tiles; t++) {
        Put(sum_);
        for (int32_t row = 0; row < tiling_.rows; row++) {
          for (int32_t point = 0; point < tiling_.run; point++) {
            sum_ += count_.GetValue(t * volume + point * tiling_.rows + row);
            Put(sum_);
          }
        }
      }
    }
    Flush();
    if (end == tiles_) {
      total_.SetValue(0, sum_);
      Add(stats_[kRulebookPairs], total_, 1);
    }
  }

 private:
  // The sum of the first `count` counts.
  __aicore__ inline int64_t SumBefore(int64_t count) {
    Duplicate(sums_, 0, kSums);
    PipeBarrier<PIPE_V>();
    for (int64_t begin = 0; begin < count; begin += kSums) {
      const int32_t size = static_cast<int32_t>(count - begin < kSums ? count - begin : kSums);
      SetWait<HardEvent::V_MTE2>();
      DataCopyPad(count_, counts_[begin], Words(size), {false, 0, 0, 0});
      SetWait<HardEvent::MTE2_V>();
      Add(sums_, sums_, count_, size);
      PipeBarrier<PIPE_V>();
    }
    for (int32_t width = kSums / 2; width >= kBlockWords; width /= 2) {
      if (count <= width) continue;  // zeros
      Add(sums_, sums_, sums_[width], width);
      PipeBarrier<PIPE_V>();
    }
    SetWait<HardEvent::V_S>();
    SetWait<HardEvent::V_MTE2>();
    int64_t sum = 0;
    for (int32_t i = 0; i < kBlockWords; i++) sum += sums_.GetValue(i);
    return sum;
  }

  __aicore__ inline void Put(int64_t bound) {
    out_.SetValue(filled_++, bound);
    if (filled_ == kOut) Flush();
  }

  __aicore__ inline void Flush() {
    if (filled_ == 0) return;
    Add(bounds_[2 * at_], out_, filled_);
    at_ += filled_;
    filled_ = 0;
  }

  // Adds to zeros, as another block may write into the same 32 bytes.
  __aicore__ inline void Add(const GlobalTensor<int32_t>& to, const LocalTensor<int64_t>& from,
                             int32_t count) {
    SetWait<HardEvent::S_MTE3>();
    SetAtomicAdd<int32_t>();
    DataCopyPad(to, from.template ReinterpretCast<int32_t>(), Words(2 * count));
    SetAtomicNone();
    SetWait<HardEvent::MTE3_S>();
  }
  __aicore__ inline void Add(const LocalTensor<int32_t>& to, const LocalTensor<int32_t>& a,
                             const LocalTensor<int32_t>& b, int32_t count) {
    AscendC::Add(to, a, b, count);
  }

  const SparseConvBoundsTiling tiling_;
  const int32_t tiles_;
  GlobalTensor<int32_t> counts_, stats_, bounds_;
  LocalTensor<int32_t> count_, sums_;
  LocalTensor<int64_t> out_, total_;
  int64_t sum_ = 0, at_ = 0;  // at_: where out_ goes
  int32_t filled_ = 0;
};

}  // namespace
}  // namespace mxd::kernels

// cells int32 [voxels], in ascending order, to heads int32 [heads]; adds to stats if a cell is
// there twice or none.
extern "C" __global__ __aicore__ void sparse_conv_rulebook_table(GM_ADDR cells, GM_ADDR stats,
                                                                 GM_ADDR heads,
                                                                 SparseConvTableTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::Table>(tiling, cells, stats, heads);
}

// counts int32 [tiles, run, rows] to bounds int64 [tiles, rows * run + 1] and the number of pairs;
// all must hold zeros.
extern "C" __global__ __aicore__ void sparse_conv_rulebook_bounds(GM_ADDR counts, GM_ADDR stats,
                                                                  GM_ADDR bounds,
                                                                  SparseConvBoundsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::Bounds>(tiling, counts, stats, bounds);
}
