// The second step of the sort: where the buckets begin in each run, by binary search.
#include "common/buffers.h"
#include "common/events.h"
#include "common/in_order.h"
#include "common/integer_lanes.h"
#include "common/run.h"
#include "sort/score.h"
#include "sort/search.h"
#include "sort_tiling.h"

namespace mxd::kernels {
namespace {

class SortSplit {
  static constexpr int32_t kBounds = 1024;           // buckets' beginnings at once
  static constexpr int32_t kTable = 2 * kSortChunk;  // entries and what is behind them
  static constexpr int32_t kLists = 6;               // of kBounds words

 public:
  __aicore__ inline SortSplit(TPipe& pipe, const SortSplitTiling& tiling, GM_ADDR pairs,
                              GM_ADDR sample_keys, GM_ADDR sample_places, GM_ADDR positions)
      : tiling_(tiling), lanes_(pipe, kBounds) {
    Bind(pairs_, pairs, sample_keys_, sample_keys, sample_places_, sample_places, positions_,
         positions);
    Take(pipe, kTable, raw_, table_);
    Take(pipe, kBounds, offsets_, key_, run_, place_, position_, scratch_, target_);
    static_assert((2 * kTable + (kLists + 1 + 2) * kBounds) * kWord <= kUbBytes);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(offsets_, 0, kBounds);
    PipeBarrier<PIPE_V>();
    Muls(offsets_, offsets_, kBlockBytes, kBounds);
    PipeBarrier<PIPE_V>();
    const int32_t chunks = CeilDiv(tiling_.count, tiling_.chunk);
    for (int32_t first = 1; first < tiling_.buckets; first += kBounds) {
      const int32_t bounds = MinOf(kBounds, tiling_.buckets - first);
      bool loaded = false;
      for (int32_t chunk = GetBlockIdx(); chunk < chunks; chunk += GetBlockNum()) {
        if (!loaded) LoadBounds(first, bounds);
        loaded = true;
        Count(chunk, first, bounds);
      }
    }
  }

 private:
  // The samples where buckets [first, first + bounds) begin: key_, and in run_ and place_ where
  // they are.
  __aicore__ inline void LoadBounds(int32_t first, int32_t bounds) {
    LoadSparse(key_, sample_keys_, first, bounds);
    LoadSparse(place_, sample_places_, first, bounds);
    Muls(place_, place_, tiling_.sample_distance, bounds);
    PipeBarrier<PIPE_V>();
    lanes_.Divide(run_, place_, tiling_.run, tiling_.inverse_run, bounds);
  }

  // Every `samples`-th word of a list, each by a burst into a block of its own.
  __aicore__ inline void LoadSparse(const LocalTensor<int32_t>& to,
                                    const GlobalTensor<int32_t>& from, int32_t first,
                                    int32_t count) {
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(raw_, from[static_cast<int64_t>(first) * tiling_.samples],
                {static_cast<uint16_t>(count), kWord,
                 static_cast<uint32_t>((tiling_.samples - 1) * kWord), 0, 0},
                {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_V>();
    Gather(to, raw_, offsets_.ReinterpretCast<uint32_t>(), 0, count);
    PipeBarrier<PIPE_V>();
  }

  // Adds to the positions of the chunk's run how many of the chunk's pairs are before each bucket.
  __aicore__ inline void Count(int32_t chunk, int32_t first, int32_t bounds) {
    const int64_t begin = static_cast<int64_t>(chunk) * tiling_.chunk;
    const int32_t count = static_cast<int32_t>(
        begin + tiling_.chunk < tiling_.count ? tiling_.chunk : tiling_.count - begin);
    const int32_t run = static_cast<int32_t>(begin / tiling_.run);
    const int32_t offset = static_cast<int32_t>(begin % tiling_.run);
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(raw_, pairs_[kPairWords * begin], Words(kPairWords * count), {false, 0, 0, 0});
    const int32_t power = PowerAbove(count);
    Duplicate(table_, kSortPad, power);
    // Equal keys keep the order of the runs. Those of a run before the sample's are in an earlier
    // bucket: there keys below key + 1 are counted, elsewhere keys below key.
    const InOrder lanes(bounds);
    lanes.Muls(scratch_, run_, -1);
    lanes.Adds(scratch_, scratch_, run);
    lanes.ShiftRight(target_, scratch_, 31);
    Sub(target_, key_, target_, bounds);
    SetWait<HardEvent::MTE2_V>();
    PairWords(table_, raw_, 0, count);
    PipeBarrier<PIPE_V>();
    Adds(table_, table_, -kKeyToScore, count);
    PipeBarrier<PIPE_V>();
    CountBelow(position_, table_, target_, scratch_, power, bounds);
    ShiftRight(position_, position_, 2, bounds);
    // In the sample's own run the bucket begins at the sample itself, so its place counts:
    // place + (position - place) * (0 in that run, 1 in others).
    lanes.Muls(scratch_, run_, -1);
    lanes.Adds(scratch_, scratch_, run);
    lanes.Muls(target_, scratch_, -1);
    lanes.Max(scratch_, scratch_, target_);
    Mins(scratch_, scratch_, 1, bounds);
    lanes.Adds(target_, place_, -offset);
    lanes.Maxs(target_, target_, 0);
    lanes.Mins(target_, target_, count);
    lanes.Sub(position_, position_, target_);
    Mul(position_, position_, scratch_, bounds);
    SetWait<HardEvent::MTE3_V>();
    PipeBarrier<PIPE_V>();
    Add(position_, position_, target_, bounds);
    SetWait<HardEvent::V_MTE3>();
    SetAtomicAdd<int32_t>();
    DataCopyPad(positions_[static_cast<int64_t>(run) * tiling_.pitch + first], position_,
                Words(bounds));
    SetAtomicNone();
    SetWait<HardEvent::MTE3_V>();
  }

  const SortSplitTiling tiling_;
  IntegerLanes lanes_;
  GlobalTensor<int32_t> pairs_, sample_keys_, sample_places_, positions_;
  LocalTensor<int32_t> raw_, table_, offsets_;
  LocalTensor<int32_t> key_, run_, place_, position_, scratch_, target_;  // by bucket
};

}  // namespace
}  // namespace mxd::kernels

// Adds to positions int32 [runs, pitch], which must hold zeros, where buckets begin in the runs.
// Samples are sorted: their keys, and the numbers of their places.
extern "C" __global__ __aicore__ void sort_split(GM_ADDR pairs, GM_ADDR sample_keys,
                                                 GM_ADDR sample_places, GM_ADDR positions,
                                                 SortSplitTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::SortSplit>(tiling, pairs, sample_keys, sample_places,
                                                   positions);
}
