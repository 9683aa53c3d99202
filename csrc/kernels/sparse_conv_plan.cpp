// The plan of a sparse convolution whose sums stay in the cube cores (sparse_conv_plan_tiling.h
// says what it holds), from the rulebook of a submanifold convolution whose voxels are in order.
//
// A block takes a tile of the rulebook at a time, which is two tiles of the plan:
//   1. of every kernel point it finds the input row of each output row: the pairs of a kernel point
//      are in the order of their output rows, so all rows search for theirs in lockstep;
//   2. it sorts the rows of each half by their kernel points, the rare ones first, so that rows of
//      like neighbours are together, section by section where there are some;
//   3. it takes the rows in this order and drops the blocks that have no pair.
#include "common/buffers.h"
#include "common/events.h"
#include "common/run.h"
#include "sort/merge.h"
#include "sort/search.h"
#include "sparse_conv/pairs.h"
#include "sparse_conv_plan_tiling.h"
#include "sparse_conv_planned/sections.h"
#include "sparse_conv_rulebook_tiling.h"

namespace mxd::kernels::sparse_conv_planned {
namespace {

class Plan {
  static constexpr int32_t kPoints = 9;  // kernel points that are searched at once
  static constexpr int32_t kSearchLanes = kPoints * kTileRows;
  static constexpr int32_t kHalf = kPlanPoints * kPlanRows;  // words: kernel points of a half
  static constexpr int32_t kArena = 4 * kHalf;
  static_assert(6 * kSearchLanes <= kArena && 2 * kPlanRows == kTileRows);
  static constexpr int32_t kBehind = 1 << 30;  // above all rows
  static constexpr int32_t kSort32 = 32;       // keys that one repeat sorts
  static constexpr int32_t kSectionRows = kPlanRows / kPlanSections;
  static constexpr int32_t kSectionsBlocks = 16;  // that take as long as it does to have sections
  static constexpr int32_t kFlags = RoundUp(kPlanPoints * kPlanBlocks, kLanes);
  static constexpr int32_t kBounds = RoundUp(2 * (kPlanPoints + 1), kBlockWords);

 public:
  __aicore__ inline Plan(TPipe& pipe, const SparseConvPlanTiling& tiling, GM_ADDR pairs,
                         GM_ADDR bounds, GM_ADDR records, GM_ADDR sizes, GM_ADDR plan)
      : tiling_(tiling) {
    Bind(all_pairs_, pairs, all_bounds_, bounds, records_, records, sizes_, sizes, plan_, plan);
    Take(pipe, kSearchLanes, target_);
    Take(pipe, kPlanPoints * kTileRows, map_);
    Take(pipe, kArena, arena_);
    Take(pipe, kTileRows, key_);
    Take(pipe, kPlanRows, order_);
    Take(pipe, kFlags, flags_, by_section_);
    Take(pipe, kLanes, bit_);
    Take(pipe, RoundUp(kPlanRanges, kLanes), ranges_);
    Take(pipe, kPlanWords, record_);
    Take(pipe, kBounds, bounds_);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(target_, 0, kTileRows);
    Duplicate(record_, 0, kPlanWords);
    Duplicate(flags_, 0.0f, kFlags);
    ListSections(by_section_, arena_, tiling_.volume, kFlags);
    for (int32_t i = 1; i < kPoints; ++i) DataCopy(target_[i * kTileRows], target_, kTileRows);
    for (int32_t i = 0; i < kPlanBlocks; ++i) bit_.SetValue(i, static_cast<float>(1 << i));
    SetWait<HardEvent::S_V>();
    for (int32_t i = kPlanBlocks; i < kLanes; i += kPlanBlocks)
      DataCopy(bit_[i], bit_, kPlanBlocks);
    PipeBarrier<PIPE_V>();
    const int32_t tiles = CeilDiv(tiling_.rows, kTileRows);
    for (int32_t tile = GetBlockIdx(); tile < tiles; tile += GetBlockNum()) {
      FindRows(tile);
      MakeKeys();
      for (int32_t side = 0; side < 2; ++side)
        if (const int32_t own = 2 * tile + side; own * kPlanRows < tiling_.rows) Arrange(own, side);
    }
  }

 private:
  // map_: the input row of each kernel point and row of the tile, -1 for none.
  __aicore__ inline void FindRows(int32_t tile) {
    const int32_t volume = tiling_.volume;
    SetWait<HardEvent::S_MTE2>();
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(bounds_, all_bounds_[static_cast<int64_t>(tile) * (volume + 1) * 2],
                Words(2 * (volume + 1)), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    const LocalTensor<int64_t> bounds = bounds_.ReinterpretCast<int64_t>();
    for (int32_t first = 0; first < volume; first += kPoints)
      FindRows(tile, first, MinOf(kPoints, volume - first), bounds);
  }
  __aicore__ inline void FindRows(int32_t tile, int32_t first, int32_t points,
                                  const LocalTensor<int64_t>& bounds) {
    const int32_t lanes = points * kTileRows;
    const LocalTensor<int32_t> pairs = arena_, places = arena_[2 * kSearchLanes],
                               rows = arena_[3 * kSearchLanes], position = arena_[4 * kSearchLanes],
                               cell = arena_[5 * kSearchLanes], found = pairs;
    Duplicate(pairs, kBehind, 2 * lanes);
    SetWait<HardEvent::V_MTE2>();
    int32_t most = 0;
    uint32_t full = 0;  // kernel points of which every row has a pair
    for (int32_t i = 0; i < points; ++i) {
      const int64_t begin = bounds.GetValue(first + i);
      const int32_t count = static_cast<int32_t>(bounds.GetValue(first + i + 1) - begin);
      Rank(first + i, count);
      const uint8_t padding = (4 - count % 4) % 4 * 2;
      if (count > 0)
        DataCopyPad(pairs[2 * i * kTileRows], all_pairs_[2 * begin], Words(2 * count),
                    {true, 0, padding, kBehind});
      if (count == kTileRows)
        full |= 1u << i;
      else
        most = MaxOf(most, count);
      Duplicate(position[i * kTileRows], i * kTileRows * kWord, kTileRows);
    }
    SetWait<HardEvent::MTE2_V>();
    PairWords(places, pairs, 1, lanes);
    PairWords(rows, pairs, 0, lanes);
    PipeBarrier<PIPE_V>();
    Adds(places, places, -tile * kTileRows, lanes);
    PipeBarrier<PIPE_V>();
    AddCountBelow(position, places, target_, cell, PowerAbove(most), lanes);
    Gather(cell, places, position.ReinterpretCast<uint32_t>(), 0, lanes);
    Gather(found, rows, position.ReinterpretCast<uint32_t>(), 0, lanes);
    PipeBarrier<PIPE_V>();
    Sub(cell, target_, cell, lanes);  // 0 where there is a pair, else below
    Adds(found, found, 1, lanes);
    PipeBarrier<PIPE_V>();
    Maxs(cell, cell, -1, lanes);
    PipeBarrier<PIPE_V>();
    Adds(cell, cell, 1, lanes);
    PipeBarrier<PIPE_V>();
    Mul(found, found, cell, lanes);
    PipeBarrier<PIPE_V>();
    Adds(map_[first * kTileRows], found, -1, lanes);
    PipeBarrier<PIPE_V>();
    for (int32_t i = 0; i < points; ++i)
      if (full >> i & 1) DataCopy(map_[(first + i) * kTileRows], rows[i * kTileRows], kTileRows);
    PipeBarrier<PIPE_V>();
  }

  // to: 1 where there is a row, 0 where not.
  __aicore__ inline void MarkRows(const LocalTensor<int32_t>& to, const LocalTensor<int32_t>& rows,
                                  int32_t count) {
    Mins(to, rows, 0, count);
    PipeBarrier<PIPE_V>();
    Adds(to, to, 1, count);
    PipeBarrier<PIPE_V>();
  }

  // ranked_: the kernel points until this one, those with the fewest pairs in the tile first.
  __aicore__ inline void Rank(int32_t point, int32_t pairs) {
    int32_t at = point;
    for (; at > 0 && ranked_pairs_[at - 1] > pairs; --at) {
      ranked_pairs_[at] = ranked_pairs_[at - 1];
      ranked_[at] = ranked_[at - 1];
    }
    ranked_pairs_[at] = pairs;
    ranked_[at] = point;
  }

  // key_: which kernel points a row has, the rarest one counting most, read as a number in Gray
  // code: rows that follow each other in this order differ in few of them. The last one, the
  // middle, is in all rows. (fp32 drops the last bits of rows that have the very rarest.)
  __aicore__ inline void MakeKeys() {
    const int32_t volume = tiling_.volume, count = volume * kTileRows;
    const LocalTensor<float> marks = arena_.ReinterpretCast<float>(), bit = marks[count];
    MarkRows(arena_, map_, count);
    Cast(marks, arena_, RoundMode::CAST_RINT, count);
    Duplicate(key_, 0.0f, kTileRows);
    Duplicate(bit, 0.0f, kTileRows);
    PipeBarrier<PIPE_V>();
    for (int32_t i = 0; i < volume - 1; ++i) {
      Sub(bit, marks[ranked_[i] * kTileRows], bit, kTileRows);  // 0 if it is as the one before
      PipeBarrier<PIPE_V>();
      Abs(bit, bit, kTileRows);
      PipeBarrier<PIPE_V>();
      Axpy(key_, bit, static_cast<float>(1 << (volume - 2 - i)), kTileRows);
      PipeBarrier<PIPE_V>();
    }
  }

  // to: the places of a plan tile's keys, the largest first in each `length` of them.
  __aicore__ inline void SortKeys(const LocalTensor<float>& keys, const LocalTensor<int32_t>& to,
                                  int32_t length) {
    const LocalTensor<float> pairs = arena_.ReinterpretCast<float>();
    const LocalTensor<float> others = pairs[kPairWords * kPlanRows];
    LocalTensor<float> sorted;
    Sort32(pairs, keys, target_.ReinterpretCast<uint32_t>(), kPlanRows / kSort32);
    PipeBarrier<PIPE_V>();
    for (int32_t at = kPlanRows - length; at >= 0; at -= length)
      sorted = MergeEqual(pairs[kPairWords * at], others[kPairWords * at], kSort32, length);
    PairWords(to, sorted.ReinterpretCast<int32_t>(), 1, kPlanRows);
    PipeBarrier<PIPE_V>();
  }

  // Writes the record and the blocks of a tile of the plan, a half of the rulebook's.
  __aicore__ inline void Arrange(int32_t own, int32_t side) {
    const LocalTensor<int32_t> rows = arena_, list = arena_[kHalf], marks = arena_[2 * kHalf];
    const LocalTensor<float> values = arena_[3 * kHalf].ReinterpretCast<float>();
    int32_t sections = 1;
    OrderRows(side, kPlanRows, rows, marks, values);
    FindRanges(rows, marks, values, sections);
    if (IsFar(values)) {
      sections = kPlanSections;
      OrderRows(side, kSectionRows, rows, marks, values);
      FindRanges(rows, marks, values, sections);
    }
    Duplicate(record_, own, kPlanMasks);
    FlagBlocks(marks, values, sections);
    if (sections > 1) {
      const int32_t map = side * kPlanRows;
      for (int32_t i = 0; i < sections; ++i)
        for (int32_t k = 0; k < tiling_.volume; ++k)
          Gather(rows[(i * tiling_.volume + k) * kSectionRows], map_[k * kTileRows + map],
                 order_[i * kSectionRows].ReinterpretCast<uint32_t>(), 0, kSectionRows);
      PipeBarrier<PIPE_V>();
    }
    Write(own, rows, list, marks.ReinterpretCast<int16_t>(), sections);
  }

  // The order of the rows, in each `length` of them, the rows of all kernel points in it, and which
  // are there.
  __aicore__ inline void OrderRows(int32_t side, int32_t length, const LocalTensor<int32_t>& rows,
                                   const LocalTensor<int32_t>& marks,
                                   const LocalTensor<float>& values) {
    SortKeys(key_[side * kPlanRows], order_, length);
    // The inverse: the order of the places.
    Cast(values, order_, RoundMode::CAST_RINT, kPlanRows);
    PipeBarrier<PIPE_V>();
    Muls(values, values, -1.0f, kPlanRows);
    PipeBarrier<PIPE_V>();
    SortKeys(values, record_[kPlanPlaces], kPlanRows);
    Muls(order_, order_, kWord, kPlanRows);
    PipeBarrier<PIPE_V>();
    for (int32_t k = 0; k < tiling_.volume; ++k)
      Gather(rows[k * kPlanRows], map_[k * kTileRows + side * kPlanRows],
             order_.ReinterpretCast<uint32_t>(), 0, kPlanRows);
    PipeBarrier<PIPE_V>();
    MarkRows(marks, rows, tiling_.volume * kPlanRows);
  }

  // Whether a window has no room for the rows of a kernel point.
  __aicore__ inline bool IsFar(const LocalTensor<float>& values) {
    const LocalTensor<int32_t> span = values[kLanes].ReinterpretCast<int32_t>();
    Sub(span, record_[kPlanHighest], record_[kPlanLowest], tiling_.volume);
    PipeBarrier<PIPE_V>();
    Cast(values, span, RoundMode::CAST_RINT, tiling_.volume);
    PipeBarrier<PIPE_V>();
    WholeReduceMax(ranges_, values, tiling_.volume, 1, 1, 1, 1, ReduceOrder::ORDER_ONLY_VALUE);
    SetWait<HardEvent::V_S>();
    const bool far = ranges_.GetValue(0) >= static_cast<float>(tiling_.window);
    SetWait<HardEvent::S_V>();
    return far;
  }

  // record_: the lowest and the highest input row of every kernel point and section.
  __aicore__ inline void FindRanges(const LocalTensor<int32_t>& rows,
                                    const LocalTensor<int32_t>& marks,
                                    const LocalTensor<float>& values, int32_t sections) {
    const int32_t count = tiling_.volume * kPlanRows, ranges = tiling_.volume * sections;
    const LocalTensor<int32_t> words = values.ReinterpretCast<int32_t>();
    const LocalTensor<int32_t> range = ranges_.ReinterpretCast<int32_t>();
    Adds(words, rows, sparse_conv::kFloatBits + 1, count);
    TakeLargest(values, sections);
    Adds(record_[kPlanHighest], range, -sparse_conv::kFloatBits - 1, ranges);
    // The lowest row is the furthest below kBehind; where there is no pair it is kBehind.
    Muls(words, rows, -1, count);
    PipeBarrier<PIPE_V>();
    Adds(words, words, kBehind, count);
    PipeBarrier<PIPE_V>();
    Mul(words, words, marks, count);
    PipeBarrier<PIPE_V>();
    Adds(words, words, sparse_conv::kFloatBits, count);
    TakeLargest(values, sections);
    Muls(record_[kPlanLowest], range, -1, ranges);
    PipeBarrier<PIPE_V>();
    Adds(record_[kPlanLowest], record_[kPlanLowest], kBehind + sparse_conv::kFloatBits, ranges);
    PipeBarrier<PIPE_V>();
  }
  // ranges_: the largest of each kernel point's and section's values, which are overwritten.
  __aicore__ inline void TakeLargest(const LocalTensor<float>& values, int32_t sections) {
    const int32_t ranges = tiling_.volume * sections, length = kPlanRows / sections;
    const auto blocks = static_cast<uint8_t>(length / kBlockWords);
    const BinaryRepeatParams rows(1, 1, 1, blocks, blocks, blocks);
    for (int32_t size = length / 2; size >= kLanes; size /= 2) {
      PipeBarrier<PIPE_V>();
      for (int32_t at = 0; at < size; at += kLanes)
        Max(values[at], values[at], values[at + size], kLanes, ranges, rows);
    }
    PipeBarrier<PIPE_V>();
    WholeReduceMax(ranges_, values, kLanes, ranges, 1, 1, blocks, ReduceOrder::ORDER_ONLY_VALUE);
    PipeBarrier<PIPE_V>();
  }

  // Flags blocks that have a pair: in record_ a bit for each, in `marks` 16 bits for each, which
  // are those of its rows, by section. The middle kernel point has all its blocks, so that no sum
  // stays unwritten.
  __aicore__ inline void FlagBlocks(const LocalTensor<int32_t>& marks,
                                    const LocalTensor<float>& values, int32_t sections) {
    constexpr int32_t kAtOnce = 240, kBlocksARow = kPlanBlockRows / kBlockWords;
    const int32_t volume = tiling_.volume, blocks = volume * kPlanBlocks;
    Cast(values, marks, RoundMode::CAST_RINT, volume * kPlanRows);
    PipeBarrier<PIPE_V>();
    for (int32_t at = 0; at < blocks; at += kAtOnce)
      WholeReduceSum(flags_[at], values[at * kPlanBlockRows], kPlanBlockRows,
                     MinOf(kAtOnce, blocks - at), 1, 1, kBlocksARow);
    PipeBarrier<PIPE_V>();
    Mins(flags_, flags_, 1.0f, blocks);
    PipeBarrier<PIPE_V>();
    Duplicate(flags_[volume / 2 * kPlanBlocks], 1.0f, kPlanBlocks);
    PipeBarrier<PIPE_V>();
    if (sections > 1) {
      Gather(values, flags_, by_section_.ReinterpretCast<uint32_t>(), 0, blocks);
      PipeBarrier<PIPE_V>();
    }
    Muls(values, sections > 1 ? values : flags_, -1.0f, blocks);
    Mul(values[kFlags], flags_, bit_, kLanes, kFlags / kLanes,
        BinaryRepeatParams(1, 1, 1, 8, 8, 0));
    Duplicate(ranges_, sections > 1 ? 1.0f : 0.0f, kLanes);
    PipeBarrier<PIPE_V>();
    Cast(marks.ReinterpretCast<int16_t>(), values, RoundMode::CAST_RINT, blocks);
    WholeReduceSum(ranges_, values[kFlags], kPlanBlocks, volume, 1, 1, kBlocksARow);
    PipeBarrier<PIPE_V>();
    // Two kernel points' bits are a word.
    const LocalTensor<int32_t> bits = values.ReinterpretCast<int32_t>();
    const LocalTensor<int32_t> high = bits[kLanes];
    Cast(high[kLanes], ranges_, RoundMode::CAST_RINT, kLanes);
    PipeBarrier<PIPE_V>();
    PairWords(bits, high[kLanes], 0, kLanes / 2);
    PairWords(high, high[kLanes], 1, kLanes / 2);
    PipeBarrier<PIPE_V>();
    ShiftLeft(high, high, kPlanBlocks, kPlanMaskWords);
    PipeBarrier<PIPE_V>();
    Or(record_[kPlanMasks].ReinterpretCast<int16_t>(), bits.ReinterpretCast<int16_t>(),
       high.ReinterpretCast<int16_t>(), 2 * kPlanMaskWords);
    PipeBarrier<PIPE_V>();
  }

  // Writes the blocks that are flagged, and the record.
  __aicore__ inline void Write(int32_t own, const LocalTensor<int32_t>& rows,
                               const LocalTensor<int32_t>& list,
                               const LocalTensor<int16_t>& flagged, int32_t sections) {
    const int32_t volume = tiling_.volume;
    uint64_t listed = 0;
    GatherMask(list, rows, flagged.ReinterpretCast<uint32_t>(), true, volume * kPlanRows,
               {1, 1, 8, 0}, listed);
    PipeBarrier<PIPE_V>();
    const auto blocks = static_cast<int32_t>(listed) / kPlanBlockRows;
    const auto size = static_cast<float>(blocks + (sections > 1 ? kSectionsBlocks : 0));
    Duplicate(ranges_, size, kBlockWords);
    SetWait<HardEvent::V_MTE3>();
    DataCopy(plan_[ListOf(own, CeilDiv(tiling_.rows, kPlanRows), volume)], list,
             static_cast<uint32_t>(listed));
    DataCopy(records_[static_cast<int64_t>(own) * kPlanWords], record_, kPlanWords);
    DataCopy(sizes_[static_cast<int64_t>(own) * kBlockWords], ranges_, kBlockWords);
    SetWait<HardEvent::MTE3_V>();
  }

  const SparseConvPlanTiling tiling_;
  GlobalTensor<int32_t> all_pairs_, all_bounds_, records_, plan_;
  GlobalTensor<float> sizes_;
  LocalTensor<int32_t> target_;      // 0, 1 ... kTileRows - 1, kPoints times
  LocalTensor<int32_t> map_;         // [volume, kTileRows]
  LocalTensor<int32_t> arena_;       // of what one step needs
  LocalTensor<float> key_, flags_;   // of the tile's rows; of the blocks
  LocalTensor<float> bit_, ranges_;  // the values of the bits of a mask, several times
  LocalTensor<int32_t> order_, record_, bounds_, by_section_;
  int32_t ranked_[kPlanPoints], ranked_pairs_[kPlanPoints];
};

}  // namespace
}  // namespace mxd::kernels::sparse_conv_planned

// records int32 [tiles, kPlanWords] in the order of the tiles; sizes fp32 [tiles, 8]: how many
// blocks a tile has, or takes as long as; the blocks go to the plan.
extern "C" __global__ __aicore__ void sparse_conv_plan(GM_ADDR pairs, GM_ADDR bounds,
                                                       GM_ADDR records, GM_ADDR sizes, GM_ADDR plan,
                                                       SparseConvPlanTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::sparse_conv_planned::Plan>(tiling, pairs, bounds, records,
                                                                   sizes, plan);
}
