// The map of a dense grid: which voxel lies in each cell. Each block has a range of the cells. It
// looks through all voxels for those of its range, sorts them by cell, and each cell looks its
// voxel up by binary search, all in lanes: nothing costs a scalar access or a DMA a voxel.
#include "common/buffers.h"
#include "common/events.h"
#include "common/integer_lanes.h"
#include "common/run.h"
#include "sort/merge.h"
#include "sort/score.h"
#include "sort/search.h"
#include "sparse_dense_tiling.h"

namespace mxd::kernels {
namespace {

class DenseMap {
  static constexpr int32_t kChunk = 2048;     // voxels at once
  static constexpr int32_t kCells = 2048;     // cells at once
  static constexpr int32_t kRange = 1 << 24;  // cells of a range: fp32 tells their numbers apart
  static constexpr int32_t kSort32 = 32;      // pairs of a Sort32
  static constexpr int32_t kTable = 4096;     // words of a list's cells, a power of two
  static constexpr int32_t kList = kTable - kSort32;  // voxels of a list
  // A list's cells and rows, with a block before each; as pairs; and as the sort's scratch.
  static constexpr int32_t kRows = kBlockWords + kTable + kBlockWords;
  static constexpr int32_t kListWords = kRows + kTable;
  static_assert((2 * kListWords + 5 * kChunk + 5 * kCells) * kWord + (2 * kChunk + kCells) / 8 <=
                kUbBytes);

 public:
  __aicore__ inline DenseMap(TPipe& pipe, const SparseDenseMapTiling& tiling, GM_ADDR cells,
                             GM_ADDR map, GM_ADDR named)
      : tiling_(tiling), lanes_(pipe, kBlockWords) {
    Bind(cells_, cells, map_, map, named_, named);
    pipe.InitBuffer(queue_, 2, kChunk * kWord);
    Take(pipe, kChunk, numbers_, local_, whole_);
    Take(pipe, kChunk / 8, inside_, below_);
    Take(pipe, kListWords, pairs_, list_);
    Take(pipe, kCells, part_, target_, position_, entry_, row_);
    is_new_ = Take<uint8_t>(pipe, kCells / 8);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(numbers_, 0, kChunk);
    Duplicate(whole_, 0.0f, kChunk);  // whole repeats of it are compared
    PipeBarrier<PIPE_V>();
    const int64_t share =
        RoundUp(CeilDiv(tiling_.cells, static_cast<int32_t>(GetBlockNum())), kBlockWords);
    const int64_t begin = GetBlockIdx() * share;
    const int64_t end = begin + share < tiling_.cells ? begin + share : tiling_.cells;
    for (int64_t first = begin; first < end; first += kRange) {
      first_ = static_cast<int32_t>(first);
      count_ = static_cast<int32_t>(end - first < kRange ? end - first : kRange);
      ProcessRange();
    }
    SetWait<HardEvent::MTE3_V>();
    Duplicate(part_, cells_with_voxel_, kBlockWords);
    SetWait<HardEvent::V_MTE3>();
    SetAtomicAdd<int32_t>();
    DataCopyPad(named_, part_, Words(1));
    SetAtomicNone();
  }

 private:
  __aicore__ inline void ProcessRange() {
    written_ = false;
    ClearList();
    if (tiling_.voxels > 0) Load(0);
    for (int32_t begin = 0; begin < tiling_.voxels; begin += kChunk) {
      if (tiling_.voxels - begin > kChunk) Load(begin + kChunk);
      FindVoxels(begin);
      if (words_ > kList - kChunk) Flush();
    }
    if (found_ > 0 || !written_) Flush();
  }

  __aicore__ inline int32_t Count(int32_t begin) const {
    return MinOf(kChunk, tiling_.voxels - begin);
  }

  __aicore__ inline void Load(int32_t begin) {
    const LocalTensor<int32_t> cell = queue_.AllocTensor<int32_t>();
    DataCopyPad(cell, cells_[begin], Words(Count(begin)), {false, 0, 0, 0});
    queue_.EnQue(cell);
  }

  // The found voxels: their cells, counted from the range's first, and their rows. In gaps, and
  // behind them, is kSortPad.
  __aicore__ inline LocalTensor<int32_t> keys() const { return list_; }
  __aicore__ inline LocalTensor<int32_t> rows() const { return list_[kTable]; }
  __aicore__ inline void ClearList() {
    Duplicate(keys(), kSortPad, kTable);
    Duplicate(rows(), 0, kTable);
    PipeBarrier<PIPE_V>();
    words_ = found_ = 0;
  }

  // Adds the voxels of a chunk that lie in the range to the list.
  __aicore__ inline void FindVoxels(int32_t begin) {
    const int32_t count = Count(begin), padded = RoundUp(count, kLanes);
    LocalTensor<int32_t> cell = queue_.DeQue<int32_t>();
    Adds(local_, cell, -first_, count);
    PipeBarrier<PIPE_V>();
    queue_.FreeTensor(cell);
    // What rounding does to numbers outside of the range leaves them outside.
    Cast(whole_, local_, RoundMode::CAST_RINT, count);
    PipeBarrier<PIPE_V>();
    CompareScalar(inside_, whole_, 0.0f, CMPMODE::GE, padded);
    CompareScalar(below_, whole_, static_cast<float>(count_), CMPMODE::LT, padded);
    PipeBarrier<PIPE_V>();
    const LocalTensor<uint16_t> bits = inside_.ReinterpretCast<uint16_t>();
    And(bits, bits, below_.ReinterpretCast<uint16_t>(), padded / 16);
    PipeBarrier<PIPE_V>();
    Compact(keys()[words_], local_, inside_, count);
    const int32_t found = Compact(rows()[words_], numbers_, inside_, count);
    if (found == 0) return;
    Adds(rows()[words_], rows()[words_], begin, found);
    PipeBarrier<PIPE_V>();
    words_ += RoundUp(found, kBlockWords);
    found_ += found;
  }

  __aicore__ inline int32_t Compact(const LocalTensor<int32_t>& to,
                                    const LocalTensor<int32_t>& from,
                                    const LocalTensor<uint8_t>& mask, int32_t count) const {
    uint64_t kept = 0;
    GatherMask(to, from, mask.ReinterpretCast<uint32_t>(), true, static_cast<uint32_t>(count),
               {1, 1, 8, 0}, kept);
    PipeBarrier<PIPE_V>();
    return static_cast<int32_t>(kept);
  }

  // Writes the list's voxels to the map.
  __aicore__ inline void Flush() {
    const int32_t count = RoundUp(words_, kSort32);
    const LocalTensor<int32_t> table = count > 0 ? SortList(count) : list_;
    int32_t first = kRange, last = -1;
    if (count > 0) {
      SetWait<HardEvent::V_S>();
      first = table.GetValue(kBlockWords);
      last = table.GetValue(kBlockWords + found_ - 1);
      SetWait<HardEvent::S_V>();
    }
    for (int32_t begin = 0; begin < count_; begin += kCells) {
      const int32_t cells = MinOf(kCells, count_ - begin);
      const bool meets = first < begin + cells && last >= begin;
      if (written_ && !meets) continue;
      LoadPart(begin, cells);
      if (meets) LookUp(table, begin, cells, PowerAbove(count));
      SetWait<HardEvent::V_MTE3>();
      DataCopyPad(map_[first_ + begin], part_, Words(cells));
    }
    written_ = true;
    ClearList();
  }

  __aicore__ inline void LoadPart(int32_t begin, int32_t cells) {
    if (written_) {
      SetWait<HardEvent::V_MTE2>();
      SetWait<HardEvent::MTE3_MTE2>();
      DataCopyPad(part_, map_[first_ + begin], Words(cells), {false, 0, 0, 0});
      SetWait<HardEvent::MTE2_V>();
    } else {
      SetWait<HardEvent::MTE3_V>();
      Duplicate(part_, -1, cells);
      PipeBarrier<PIPE_V>();
    }
  }

  // The list by cell, and by row where cells are equal: cells from word kBlockWords on, rows from
  // kRows on. Before the cells is one that no cell is, behind them larger ones.
  __aicore__ inline LocalTensor<int32_t> SortList(int32_t count) {
    const LocalTensor<float> pairs = pairs_.ReinterpretCast<float>();
    Adds(keys(), keys(), kKeyToScore, count);
    PipeBarrier<PIPE_V>();
    Sort32(pairs, keys().ReinterpretCast<float>(), rows().ReinterpretCast<uint32_t>(),
           count / kSort32);
    PipeBarrier<PIPE_V>();
    const LocalTensor<int32_t> sorted =
        MergeEqual(pairs, list_.ReinterpretCast<float>(), kSort32, count)
            .ReinterpretCast<int32_t>();
    const LocalTensor<int32_t> table = sorted.GetPhyAddr() == pairs_.GetPhyAddr() ? list_ : pairs_;
    const LocalTensor<int32_t> cells = table[kBlockWords];
    Duplicate(table, kNoCell, kBlockWords);
    Duplicate(table[kRows - kBlockWords], 0, kBlockWords);
    PairWords(cells, sorted, 0, count);
    PairWords(table[kRows], sorted, 1, count);
    PipeBarrier<PIPE_V>();
    Adds(cells, cells, -kKeyToScore, count);
    const int32_t power = PowerAbove(count);
    Duplicate(cells[count], kSortPad, power - count);
    PipeBarrier<PIPE_V>();
    return table;
  }

  // part_: the map of cells from `begin` on, with the list's voxels. Of several in a cell the last
  // one stays: the list has them in order, and later lists have later ones.
  __aicore__ inline void LookUp(const LocalTensor<int32_t>& table, int32_t begin, int32_t cells,
                                int32_t power) {
    const LocalTensor<uint32_t> position = position_.ReinterpretCast<uint32_t>();
    Adds(target_, numbers_, begin + 1, cells);
    PipeBarrier<PIPE_V>();
    CountBelow(position_, table[kBlockWords], target_, entry_, power, cells);
    // The last entry that is not above the cell.
    Gather(entry_, table, position, (kBlockWords - 1) * kWord, cells);
    Gather(row_, table, position, (kRows - 1) * kWord, cells);
    PipeBarrier<PIPE_V>();
    Sub(entry_, entry_, target_, cells);
    PipeBarrier<PIPE_V>();
    Adds(entry_, entry_, 1, cells);
    PipeBarrier<PIPE_V>();
    lanes_.MarkUnless(entry_, row_, false, cells);
    Mins(position_, part_, 0, cells);
    PipeBarrier<PIPE_V>();
    Max(part_, part_, row_, cells);
    PipeBarrier<PIPE_V>();
    Mins(target_, part_, 0, cells);
    PipeBarrier<PIPE_V>();
    Duplicate(row_, 0, RoundUp(cells, kLanes));
    PipeBarrier<PIPE_V>();
    Sub(row_, target_, position_, cells);  // 1 where the cell had no voxel
    PipeBarrier<PIPE_V>();
    CompareScalar(is_new_, row_, 1, CMPMODE::EQ, RoundUp(cells, kLanes));
    PipeBarrier<PIPE_V>();
    cells_with_voxel_ += Compact(entry_, row_, is_new_, cells);
  }

  static constexpr int32_t kNoCell = -2;

  const SparseDenseMapTiling tiling_;
  IntegerLanes lanes_;  // for what needs no scratch
  GlobalTensor<int32_t> cells_, map_, named_;
  TQue<TPosition::VECIN, 2> queue_;
  LocalTensor<int32_t> numbers_, local_, pairs_, list_;
  LocalTensor<int32_t> part_, target_, position_, entry_, row_;
  LocalTensor<float> whole_;
  LocalTensor<uint8_t> inside_, below_, is_new_;
  int32_t first_ = 0, count_ = 0;  // of the range
  bool written_ = false;           // whether the range's map has been written
  int32_t words_ = 0, found_ = 0;  // of the list, which has gaps; its voxels
  int32_t cells_with_voxel_ = 0;
};

}  // namespace
}  // namespace mxd::kernels

// cells int32 [voxels] to map int32 [cells]: the last voxel in each cell, -1 where there is none.
// How many cells have one is added to named int32 [1].
extern "C" __global__ __aicore__ void sparse_dense_map(GM_ADDR cells, GM_ADDR map, GM_ADDR named,
                                                       SparseDenseMapTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::DenseMap>(tiling, cells, map, named);
}
