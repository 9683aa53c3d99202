// A rulebook with inputs and outputs exchanged: its pairs, sorted by the input's tile and the
// kernel point. The sort is that of sort_tiling.h; here are the bins it sorts by, and where each of
// them begins in the result.
#include "common/buffers.h"
#include "common/events.h"
#include "common/in_order.h"
#include "common/integer_lanes.h"
#include "common/run.h"
#include "sort/score.h"
#include "sort/search.h"
#include "sparse_conv_rulebook_tiling.h"

namespace mxd::kernels {
namespace {

constexpr int32_t kTileShift = 9;
static_assert(1 << kTileShift == kTileRows);

// The bin of each pair. Its kernel point is found in the bounds of its tile by binary search.
class Bins {
  static constexpr int32_t kChunk = 4096;         // pairs at once
  static constexpr int32_t kPoints = 4095;        // kernel points at once
  static constexpr int32_t kTable = kPoints + 1;  // a power of two

 public:
  __aicore__ inline Bins(TPipe& pipe, const SparseConvBinsTiling& tiling, GM_ADDR pairs,
                         GM_ADDR bounds, GM_ADDR stats, GM_ADDR bins)
      : tiling_(tiling) {
    Bind(pairs_, pairs, bounds_, bounds, stats_, stats, bins_, bins);
    raw_ = Take<int32_t>(pipe, 2 * (kTable + kBlockWords));
    table_ = Take<int32_t>(pipe, kTable + kBlockWords);
    pair_ = Take<int32_t>(pipe, kPairWords * kChunk);
    Take(pipe, kChunk, numbers_, input_, target_, position_, scratch_, least_);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(numbers_, 0, kChunk);
    Duplicate(least_, 0, kChunk);
    PipeBarrier<PIPE_V>();
    for (int32_t tile = GetBlockIdx(); tile < tiling_.tiles; tile += GetBlockNum())
      for (int32_t point = 0; point < tiling_.volume; point += kPoints)
        ProcessPoints(tile, point, MinOf(kPoints, tiling_.volume - point));
    Report();
  }

 private:
  // The pairs of a tile's kernel points [point, point + points).
  __aicore__ inline void ProcessPoints(int32_t tile, int32_t point, int32_t points) {
    const int64_t row = static_cast<int64_t>(tile) * (tiling_.volume + 1) + point;
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(raw_, bounds_[2 * row], Words(2 * (points + 1)), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    const LocalTensor<int64_t> bound = raw_.template ReinterpretCast<int64_t>();
    const int64_t first = bound.GetValue(0), end = bound.GetValue(points);
    SetWait<HardEvent::MTE2_V>();
    // The ends of the points, counted from the first pair; behind the last one all that a search
    // may look at.
    const int32_t power = PowerAbove(points);
    Duplicate(table_, kSortMaxKey, MaxOf(power, kBlockWords));
    PipeBarrier<PIPE_V>();
    LoadEnds(points, static_cast<int32_t>(first));
    for (int64_t begin = first; begin < end; begin += kChunk) {
      const int32_t count = static_cast<int32_t>(end - begin < kChunk ? end - begin : kChunk);
      ProcessPairs(point, power, begin, static_cast<int32_t>(begin - first), count);
    }
    SetWait<HardEvent::S_MTE2>();
  }

  __aicore__ inline void LoadEnds(int32_t points, int32_t first) {
    // Words 2, 4 ... of raw_: the low halves of the bounds after the first one.
    Muls(target_, numbers_, kPairBytes, points);
    PipeBarrier<PIPE_V>();
    Gather(table_, raw_, target_.ReinterpretCast<uint32_t>(), kPairBytes, points);
    PipeBarrier<PIPE_V>();
    Adds(table_, table_, -first, points);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void ProcessPairs(int32_t point, int32_t power, int64_t begin, int32_t offset,
                                      int32_t count) {
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(pair_, pairs_[kPairWords * begin], Words(kPairWords * count), {false, 0, 0, 0});
    Adds(target_, numbers_, offset + 1, count);  // how many ends are not above it
    PipeBarrier<PIPE_V>();
    CountBelow(position_, table_, target_, scratch_, power, count);
    ShiftRight(position_, position_, 2, count);
    SetWait<HardEvent::MTE2_V>();
    PairWords(input_, pair_, 0, count);
    PipeBarrier<PIPE_V>();
    // least_: negative where an input is none.
    Min(least_, least_, input_, count);
    Muls(scratch_, input_, -1, count);
    PipeBarrier<PIPE_V>();
    Adds(scratch_, scratch_, tiling_.num_in - 1, count);
    PipeBarrier<PIPE_V>();
    Min(least_, least_, scratch_, count);
    PipeBarrier<PIPE_V>();
    Maxs(input_, input_, 0, count);
    PipeBarrier<PIPE_V>();
    Mins(input_, input_, tiling_.num_in - 1, count);
    PipeBarrier<PIPE_V>();
    ShiftRight(input_, input_, kTileShift, count);
    PipeBarrier<PIPE_V>();
    Muls(input_, input_, tiling_.volume, count);
    PipeBarrier<PIPE_V>();
    Adds(input_, input_, point, count);
    SetWait<HardEvent::MTE3_V>();
    PipeBarrier<PIPE_V>();
    Add(position_, position_, input_, count);
    SetWait<HardEvent::V_MTE3>();
    // Two tiles may meet in 32 bytes: both add to zeros.
    SetAtomicAdd<int32_t>();
    DataCopyPad(bins_[begin], position_, Words(count));
    SetAtomicNone();
    SetWait<HardEvent::MTE3_V>();
  }

  __aicore__ inline void Report() {
    for (int32_t width = kChunk / 2; width >= kBlockWords; width /= 2) {
      Min(least_, least_, least_[width], width);
      PipeBarrier<PIPE_V>();
    }
    SetWait<HardEvent::V_S>();
    int32_t least = 0;
    for (int32_t i = 0; i < kBlockWords; i++) least = MinOf(least, least_.GetValue(i));
    if (least == 0) return;
    Duplicate(position_, 1, kBlockWords);
    SetWait<HardEvent::V_MTE3>();
    SetAtomicAdd<int32_t>();
    DataCopyPad(stats_[kRulebookBad], position_, Words(1));
    SetAtomicNone();
  }

  const SparseConvBinsTiling tiling_;
  GlobalTensor<int32_t> pairs_, bounds_, stats_, bins_;
  LocalTensor<int32_t> raw_, table_, pair_, numbers_, input_, target_, position_, scratch_, least_;
};

// The bounds of sorted bins. Entry e of the bounds is in row e / (volume + 1) and says where bin e
// - row begins; a chunk of the bins tells of those above the last one before it up to its own last
// one.
class Edges {
  static constexpr int32_t kLanesAtOnce = 2048;

 public:
  __aicore__ inline Edges(TPipe& pipe, const SparseConvEdgesTiling& tiling, GM_ADDR bins,
                          GM_ADDR bounds)
      : tiling_(tiling), lanes_(pipe, kLanesAtOnce) {
    Bind(bins_, bins, bounds_, bounds);
    table_ = Take<int32_t>(pipe, 2 * kSortChunk + kBlockWords);
    last_ = Take<int32_t>(pipe, kBlockWords);
    Take(pipe, kLanesAtOnce, numbers_, row_, target_, scratch_);
    position_ = Take<int32_t>(pipe, kLanesAtOnce + kBlockWords);
    Take(pipe, 2 * kLanesAtOnce, spread_, out_);
  }

  __aicore__ inline void Process() {
    MakeSpread();
    const int32_t chunks = CeilDiv(tiling_.pairs, kSortChunk);
    for (int32_t chunk = GetBlockIdx(); chunk < chunks; chunk += GetBlockNum()) {
      const int32_t begin = chunk * kSortChunk;
      ProcessChunk(begin, MinOf(kSortChunk, tiling_.pairs - begin), chunk + 1 == chunks);
    }
  }

 private:
  // Byte offsets that make int64 of the words of position_: word i / 2 for even i, else the zero
  // behind them.
  __aicore__ inline void MakeSpread() {
    CreateVecIndex(spread_, 0, 2 * kLanesAtOnce);
    CreateVecIndex(numbers_, 0, kLanesAtOnce);
    PipeBarrier<PIPE_V>();
    ShiftRight(out_, spread_, 1, 2 * kLanesAtOnce);
    PipeBarrier<PIPE_V>();
    // i - 2 * (i / 2) is 1 for odd i: there the offset is that of the end.
    for (int32_t side = 0; side < 2; side++) {
      const LocalTensor<int32_t> spread = spread_[side * kLanesAtOnce];
      const LocalTensor<int32_t> word = out_[side * kLanesAtOnce];
      const InOrder lanes(kLanesAtOnce);
      lanes.Muls(position_, word, -2);
      lanes.Add(position_, position_, spread);
      lanes.Muls(scratch_, word, -1);
      lanes.Adds(scratch_, scratch_, kLanesAtOnce);
      lanes.Mul(scratch_, scratch_, position_);
      lanes.Add(spread, word, scratch_);
    }
    Muls(spread_, spread_, kWord, 2 * kLanesAtOnce);
    Duplicate(position_[kLanesAtOnce], 0, kBlockWords);
    PipeBarrier<PIPE_V>();
  }

  // The first entry for a bin: the end of a row comes before the beginning of the next one.
  __aicore__ inline int64_t Entry(int32_t bin) {
    const int32_t row = bin / tiling_.volume;
    const int64_t entry = static_cast<int64_t>(bin) + row;
    return bin > 0 && bin % tiling_.volume == 0 ? entry - 1 : entry;
  }

  __aicore__ inline void ProcessChunk(int32_t begin, int32_t count, bool is_last) {
    const int32_t power = PowerAbove(count);
    const int32_t padding = RoundUp(count, kBlockWords) - count;
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(table_, bins_[begin], Words(count),
                {true, 0, static_cast<uint8_t>(padding), kSortPad});
    if (begin > 0) DataCopyPad(last_, bins_[begin - 1], Words(1), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    const int32_t before = begin > 0 ? last_.GetValue(0) : -1;
    const int32_t own_last = table_.GetValue(count - 1);
    SetWait<HardEvent::S_MTE2>();
    SetWait<HardEvent::MTE2_V>();
    if (count + padding < power)
      Duplicate(table_[count + padding], kSortPad, power - count - padding);
    PipeBarrier<PIPE_V>();
    const int32_t bins = tiling_.tiles * tiling_.volume;
    const int64_t end = is_last ? static_cast<int64_t>(bins) + tiling_.tiles : Entry(own_last + 1);
    for (int64_t entry = Entry(before + 1); entry < end; entry += kLanesAtOnce)
      WriteEntries(entry,
                   static_cast<int32_t>(end - entry < kLanesAtOnce ? end - entry : kLanesAtOnce),
                   begin, power);
  }

  __aicore__ inline void WriteEntries(int64_t entry, int32_t entries, int32_t begin,
                                      int32_t power) {
    Adds(scratch_, numbers_, static_cast<int32_t>(entry), entries);
    Adds(target_, numbers_, static_cast<int32_t>(entry), entries);
    PipeBarrier<PIPE_V>();
    lanes_.Divide(row_, scratch_, tiling_.volume + 1, tiling_.inverse_row, entries);
    Sub(target_, target_, row_, entries);
    PipeBarrier<PIPE_V>();
    CountBelow(position_, table_, target_, scratch_, power, entries);
    ShiftRight(position_, position_, 2, entries);
    PipeBarrier<PIPE_V>();
    Adds(position_, position_, begin, entries);
    SetWait<HardEvent::MTE3_V>();
    PipeBarrier<PIPE_V>();
    Gather(out_, position_, spread_.ReinterpretCast<uint32_t>(), 0, 2 * entries);
    SetWait<HardEvent::V_MTE3>();
    SetAtomicAdd<int32_t>();
    DataCopyPad(bounds_[2 * entry], out_, Words(2 * entries));
    SetAtomicNone();
  }

  const SparseConvEdgesTiling tiling_;
  IntegerLanes lanes_;
  GlobalTensor<int32_t> bins_, bounds_;
  LocalTensor<int32_t> table_, last_, numbers_, row_, target_, scratch_, position_, spread_, out_;
};

}  // namespace
}  // namespace mxd::kernels

// pairs int32 [P, 2] with their bounds int64 [tiles, volume + 1] to bins int32 [P], which must hold
// zeros; adds to stats if a pair names an input that is not below num_in.
extern "C" __global__ __aicore__ void sparse_conv_rulebook_bins(GM_ADDR pairs, GM_ADDR bounds,
                                                                GM_ADDR stats, GM_ADDR bins,
                                                                SparseConvBinsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::Bins>(tiling, pairs, bounds, stats, bins);
}

// Sorted bins int32 [P] to bounds int64 [tiles, volume + 1], which must hold zeros.
extern "C" __global__ __aicore__ void sparse_conv_rulebook_edges(GM_ADDR bins, GM_ADDR bounds,
                                                                 SparseConvEdgesTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::Edges>(tiling, bins, bounds);
}
