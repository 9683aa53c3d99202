// The neighbour join of a sparse convolution's rulebook: which voxels lie in each window.
//
// Windows and voxels are cells in ascending order, so the voxels that a tile of windows meets with
// one kernel row, or with several that follow each other, are one stretch of the table. It comes by
// one DMA. All lanes (window x kernel row) search it in lockstep, by halves, for the first voxel
// that is not before the row, and look at the row's points from there on. The first pass counts the
// pairs of every (tile, kernel point), the second one writes them where their bounds say.
#include "common/buffers.h"
#include "common/events.h"
#include "common/run.h"
#include "sort/search.h"
#include "sparse_conv_rulebook/heads.h"
#include "sparse_conv_rulebook_tiling.h"

namespace mxd::kernels {
namespace {

constexpr int32_t kRun = kRulebookRun;
constexpr int32_t kRows = 9;  // kernel rows that are searched for at once
constexpr int32_t kSearchLanes = kRows * kTileRows;
constexpr int32_t kCells = 8192;                    // of the table at once
constexpr int32_t kStretch = kCells - kBlockWords;  // of them voxels; sentinels follow
constexpr int32_t kTable = kRun + kCells;           // the first kRun entries are not used
// Sentinels, more than a run above and below all cells: kBehind pads the table, kNever is what idle
// lanes search for.
constexpr int32_t kBehind = kRulebookMaxCell + kRun, kNever = -kRun - 1;
constexpr int32_t kPitch = 16;  // sums of a kernel point: kRows, in whole blocks
constexpr int32_t kBoundWords = kRows * kRun * 2 + kBlockWords;  // where pairs are to be written

template <bool kFill>
class Join {
  // Of UB. The second pass has the windows' and the voxels' rows beside their cells.
  static constexpr int32_t kTableDepth = kFill ? 1 : 2, kOutDepth = kFill ? 4 : 2;
  static constexpr int32_t kWindowBytes = (kFill ? 2 : 1) * kTileRows * kWord;
  static constexpr int32_t kTableBytes = (kFill ? 2 : 1) * kTable * kWord;
  static constexpr int32_t kOutBytes = (kFill ? 2 * kTileRows : kRun * kPitch) * kWord;
  static constexpr int32_t kFillWords = 5 * kTileRows + kSearchLanes / 32 + kBoundWords;
  static constexpr int32_t kCountWords = kRun * kPitch + 2 * kLanes;
  static_assert(2 * kWindowBytes + kTableDepth * kTableBytes + kOutDepth * kOutBytes +
                    Heads::kBytes +
                    (4 * kSearchLanes + (kFill ? kFillWords : kCountWords)) * kWord <=
                kUbBytes);

 public:
  __aicore__ inline Join(TPipe& pipe, const SparseConvJoinTiling& tiling, GM_ADDR windows,
                         GM_ADDR window_rows, GM_ADDR voxels, GM_ADDR voxel_rows, GM_ADDR heads,
                         GM_ADDR stats, GM_ADDR bounds, GM_ADDR out)
      : tiling_(tiling),
        names_windows_(window_rows != nullptr),
        names_voxels_(voxel_rows != nullptr),
        all_windows_(kFill || InOrder(stats) ? Resolve(tiling.windows, stats) : 0),
        heads_(pipe, heads, Resolve(tiling.voxels, stats)) {
    Bind(windows_, windows, window_rows_, window_rows, voxels_, voxels, voxel_rows_, voxel_rows,
         bounds_, bounds, out_, out);

    pipe.InitBuffer(window_queue_, 2, kWindowBytes);
    pipe.InitBuffer(table_queue_, kTableDepth, kTableBytes);
    pipe.InitBuffer(out_queue_, kOutDepth, kOutBytes);
    Take(pipe, kSearchLanes, target_, position_, cell_, found_);
    if constexpr (kFill) {
      Take(pipe, 2 * kTileRows, compact_, interleave_);
      Take(pipe, kTileRows, index_);
      hits_ = Take<uint8_t>(pipe, kSearchLanes / 8);
      bound_ = Take<int32_t>(pipe, kBoundWords);
    } else {
      sums_ = Take<float>(pipe, kCountWords);
      partial_ = sums_[kRun * kPitch];
    }
  }

  __aicore__ inline void Process() {
    heads_.Load();
    if constexpr (kFill) {
      CreateVecIndex(index_, 0, kTileRows);
      MakeInterleave();
    } else {
      Duplicate(sums_, 0.0f, kCountWords);
    }
    PipeBarrier<PIPE_V>();
    const int32_t tiles = CeilDiv(all_windows_, kTileRows);
    for (int32_t tile = GetBlockIdx(); tile < tiles; tile += GetBlockNum()) ProcessTile(tile);
  }

 private:
  // Byte offsets that take the halves of compact_ in turn: 0, kTileRows, 1, kTileRows + 1, ...
  // words.
  __aicore__ inline void MakeInterleave() {
    CreateVecIndex(interleave_, 0, 2 * kTileRows);
    PipeBarrier<PIPE_V>();
    ShiftRight(cell_, interleave_, 1, 2 * kTileRows);
    Muls(interleave_, interleave_, kTileRows * kWord, 2 * kTileRows);
    PipeBarrier<PIPE_V>();
    Muls(cell_, cell_, (2 * kTileRows - 1) * kWord, 2 * kTileRows);
    PipeBarrier<PIPE_V>();
    Sub(interleave_, interleave_, cell_, 2 * kTileRows);
  }

  // Where kernel row `row` begins, seen from a window.
  __aicore__ inline int32_t RowStart(int32_t row) {
    int32_t start = tiling_.shift;
    for (int32_t d = tiling_.dims - 1; d >= 0; d--) {
      start += row % tiling_.kernel[d] * tiling_.step[d];
      row /= tiling_.kernel[d];
    }
    return start;
  }

  __aicore__ inline void ProcessTile(int32_t tile) {
    const int32_t begin = tile * kTileRows;
    const int32_t count = MinOf(kTileRows, all_windows_ - begin);
    LocalTensor<int32_t> windows = window_queue_.AllocTensor<int32_t>();
    DataCopyPad(windows, windows_[begin], Words(count), {false, 0, 0, 0});
    if (kFill && names_windows_)
      DataCopyPad(windows[kTileRows], window_rows_[begin], Words(count), {false, 0, 0, 0});
    window_queue_.EnQue(windows);
    windows = window_queue_.DeQue<int32_t>();
    if (kFill && !names_windows_) Adds(windows[kTileRows], index_, begin, count);
    SetWait<HardEvent::MTE2_S>();
    const int32_t first = windows.GetValue(0), last = windows.GetValue(count - 1);
    SetWait<HardEvent::S_MTE2>();

    int32_t rows;
    for (int32_t row = 0; row < tiling_.rows; row += rows) {
      // As many kernel rows as there are lanes for and one stretch of the table holds, with the
      // reach of a search behind it; a row that is longer takes several stretches.
      const int32_t start = heads_.LowerBound(first + RowStart(row));
      int32_t end = start, longest = 0;
      for (rows = 0; rows < kRows && row + rows < tiling_.rows; rows++) {
        const int32_t from = heads_.LowerBound(first + RowStart(row + rows));
        const int32_t to = heads_.UpperBound(last + RowStart(row + rows) + tiling_.run - 1);
        const int32_t most = MaxOf(longest, to - from);
        if (rows > 0 && to - start + Power(most) > kCells) break;
        begin_[rows] = from - start;
        end = to;
        longest = most;
      }
      if (start >= end) continue;

      if (count < kTileRows) {
        Duplicate(target_, kNever, rows * kTileRows);
        PipeBarrier<PIPE_V>();
      }
      for (int32_t r = 0; r < rows; r++)
        Adds(target_[r * kTileRows], windows, RowStart(row + r), count);
      PipeBarrier<PIPE_V>();
      if constexpr (kFill) LoadBounds(tile, row, rows);
      for (int32_t at = start; at < end; at += kStretch)
        Search(tile, row, rows, windows, count, at, MinOf(kStretch, end - at),
               Power(MinOf(kStretch, longest)));
    }
    window_queue_.FreeTensor(windows);
  }

  // Where the next pair of each kernel point of the rows is to be written.
  __aicore__ inline void LoadBounds(int32_t tile, int32_t row, int32_t rows) {
    const int64_t from =
        static_cast<int64_t>(tile) * (tiling_.rows * tiling_.run + 1) + row * tiling_.run;
    DataCopyPad(bound_, bounds_[2 * from], Words(2 * rows * tiling_.run), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    const LocalTensor<int64_t> bound = bound_.template ReinterpretCast<int64_t>();
    for (int32_t k = 0; k < rows * tiling_.run; k++) next_[k] = bound.GetValue(k);
    SetWait<HardEvent::S_MTE2>();
  }

  // A power of two above `size`, of whole blocks.
  __aicore__ inline int32_t Power(int32_t size) { return PowerAbove(MaxOf(size, kBlockWords - 1)); }

  // Joins the tile's `count` windows with kernel rows [row, row + rows) and voxels [at, at + size),
  // of which less than `power` matter to a row.
  __aicore__ inline void Search(int32_t tile, int32_t row, int32_t rows,
                                const LocalTensor<int32_t>& windows, int32_t count, int32_t at,
                                int32_t size, int32_t power) {
    LocalTensor<int32_t> table = LoadTable(at, size, power);
    FindRows(table, rows, power);
    LookAlongRows(table, at, rows, kFill ? windows[kTileRows] : windows, count);
    table_queue_.FreeTensor(table);
    if constexpr (!kFill) AddCounts(tile, row, rows);
  }

  // The voxels [at, at + size): cells, and in the second pass their rows behind.
  __aicore__ inline LocalTensor<int32_t> LoadTable(int32_t at, int32_t size, int32_t power) {
    const int32_t padding = RoundUp(size, kBlockWords) - size;
    LocalTensor<int32_t> table = table_queue_.template AllocTensor<int32_t>();
    DataCopyPad(table[kRun], voxels_[at], Words(size),
                {true, 0, static_cast<uint8_t>(padding), kBehind});
    if (kFill && names_voxels_)
      DataCopyPad(table[kTable + kRun], voxel_rows_[at], Words(size),
                  {true, 0, static_cast<uint8_t>(padding), 0});
    table_queue_.EnQue(table);
    table = table_queue_.template DeQue<int32_t>();
    // With sentinels behind the voxels neither the search nor the look along a row needs to know
    // the end.
    Duplicate(table[kRun + size + padding], kBehind, MinOf(power, kCells - size) - padding);
    if (kFill && names_voxels_) Duplicate(table[kTable + kRun + size + padding], 0, kBlockWords);
    return table;
  }

  // position_: of the first voxel not below each lane's target, in bytes: binary search.
  __aicore__ inline void FindRows(const LocalTensor<int32_t>& table, int32_t rows, int32_t power) {
    const int32_t lanes = rows * kTileRows;
    for (int32_t r = 0; r < rows; r++)
      Duplicate(position_[r * kTileRows], (kRun + begin_[r]) * kWord, kTileRows);
    PipeBarrier<PIPE_V>();
    AddCountBelow(position_, table, target_, cell_, power, lanes);
  }

  // The points of a row follow each other, and so do those of its voxels that are there: a lane
  // goes on in the table where it finds its point.
  __aicore__ inline void LookAlongRows(const LocalTensor<int32_t>& table, int32_t at, int32_t rows,
                                       const LocalTensor<int32_t>& window_rows, int32_t count) {
    const int32_t lanes = rows * kTileRows;
    const LocalTensor<uint32_t> position = position_.template ReinterpretCast<uint32_t>();
    for (int32_t point = 0; point < tiling_.run; point++) {
      Gather(cell_, table, position, point * kWord, lanes);
      if constexpr (kFill) {
        if (names_voxels_) {
          Gather(found_, table[kTable], position, point * kWord, lanes);
        } else {
          ShiftRight(found_, position_, 2, lanes);
          PipeBarrier<PIPE_V>();
          Adds(found_, found_, at + point - kRun, lanes);
        }
      }
      PipeBarrier<PIPE_V>();
      Sub(cell_, cell_, target_, lanes);
      PipeBarrier<PIPE_V>();
      if (point > 0) {
        Adds(cell_, cell_, -point, lanes);
        PipeBarrier<PIPE_V>();
      }
      Mins(cell_, cell_, 1, lanes);  // 0 where the voxel is there, else 1
      PipeBarrier<PIPE_V>();
      if constexpr (kFill)
        Write(point, rows, window_rows, count);
      else
        Sum(point, rows);
      if (point + 1 < tiling_.run) {
        ShiftLeft(cell_, cell_, 2, lanes);
        PipeBarrier<PIPE_V>();
        Sub(position_, position_, cell_, lanes);
        PipeBarrier<PIPE_V>();
      }
    }
  }

  // sums_[point]: how many lanes of each row miss their voxel.
  __aicore__ inline void Sum(int32_t point, int32_t rows) {
    const LocalTensor<float> missing = found_.template ReinterpretCast<float>();
    const int32_t repeats = rows * (kTileRows / kLanes);
    Cast(missing, cell_, RoundMode::CAST_NONE, rows * kTileRows);
    PipeBarrier<PIPE_V>();
    WholeReduceSum(partial_, missing, kLanes, repeats, 1, 1, 8);
    PipeBarrier<PIPE_V>();
    BlockReduceSum(sums_[point * kPitch], partial_, CeilDiv(repeats, kLanes), kLanes, 1, 1, 8);
    PipeBarrier<PIPE_V>();
  }

  // Adds the pairs found to counts [tiles, run, rows].
  __aicore__ inline void AddCounts(int32_t tile, int32_t row, int32_t rows) {
    const int32_t words = tiling_.run * kPitch;
    LocalTensor<int32_t> counts = out_queue_.template AllocTensor<int32_t>();
    Muls(sums_, sums_, -1.0f, words);
    PipeBarrier<PIPE_V>();
    Adds(sums_, sums_, static_cast<float>(kTileRows), words);
    PipeBarrier<PIPE_V>();
    Cast(counts, sums_, RoundMode::CAST_RINT, words);
    out_queue_.EnQue(counts);
    counts = out_queue_.template DeQue<int32_t>();
    const int64_t to = static_cast<int64_t>(tile) * tiling_.run * tiling_.rows + row;
    const uint32_t gap = rows > kBlockWords ? 0 : (kPitch - kBlockWords) / kBlockWords;
    SetAtomicAdd<int32_t>();
    DataCopyPad(out_[to], counts,
                {static_cast<uint16_t>(tiling_.run), static_cast<uint32_t>(rows * kWord), gap,
                 static_cast<uint32_t>((tiling_.rows - rows) * kWord), 0});
    SetAtomicNone();
    out_queue_.FreeTensor(counts);
  }

  // Writes the pairs (row of the voxel, row of the window) of one point of each kernel row. Two
  // tiles may write into the same 32 bytes: both add to zeros, so that none overwrites the other.
  __aicore__ inline void Write(int32_t point, int32_t rows, const LocalTensor<int32_t>& window_rows,
                               int32_t windows) {
    CompareScalar(hits_, cell_, 0, CMPMODE::EQ, rows * kTileRows);
    PipeBarrier<PIPE_V>();
    for (int32_t r = 0; r < rows; r++) {
      const LocalTensor<uint32_t> hits =
          hits_[r * (kTileRows / 8)].template ReinterpretCast<uint32_t>();
      uint64_t count = 0;
      GatherMask(compact_, found_[r * kTileRows], hits, true, windows, {1, 1, 8, 0}, count);
      GatherMask(compact_[kTileRows], window_rows, hits, true, windows, {1, 1, 8, 0}, count);
      if (count == 0) continue;
      PipeBarrier<PIPE_V>();
      const int32_t words = 2 * static_cast<int32_t>(count);
      LocalTensor<int32_t> pairs = out_queue_.template AllocTensor<int32_t>();
      Gather(pairs, compact_, interleave_.template ReinterpretCast<uint32_t>(), 0, words);
      out_queue_.EnQue(pairs);
      pairs = out_queue_.template DeQue<int32_t>();
      int64_t& next = next_[r * tiling_.run + point];
      SetAtomicAdd<int32_t>();
      DataCopyPad(out_[2 * next], pairs, Words(words));
      SetAtomicNone();
      out_queue_.FreeTensor(pairs);
      next += count;
      PipeBarrier<PIPE_V>();
    }
  }

  const SparseConvJoinTiling tiling_;
  const bool names_windows_, names_voxels_;  // else their rows are 0, 1, 2 ...
  const int32_t all_windows_;
  Heads heads_;
  GlobalTensor<int32_t> windows_, window_rows_, voxels_, voxel_rows_, bounds_, out_;
  TQue<TPosition::VECIN, 2> window_queue_;
  TQue<TPosition::VECIN, kTableDepth> table_queue_;
  TQue<TPosition::VECOUT, kOutDepth> out_queue_;
  LocalTensor<int32_t> target_, position_, cell_, found_;      // by lanes
  LocalTensor<int32_t> compact_, interleave_, index_, bound_;  // second pass
  LocalTensor<uint8_t> hits_;
  LocalTensor<float> sums_, partial_;  // first pass
  int32_t begin_[kRows];               // of each kernel row in the stretch
  int64_t next_[kRows * kRun];
};

}  // namespace
}  // namespace mxd::kernels

// Counts the pairs: adds to counts int32 [tiles, run, rows], which must hold zeros. Counts none
// where stats say that voxels are not in order.
extern "C" __global__ __aicore__ void sparse_conv_rulebook_count(GM_ADDR windows, GM_ADDR voxels,
                                                                 GM_ADDR heads, GM_ADDR stats,
                                                                 GM_ADDR counts,
                                                                 SparseConvJoinTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::Join<false>>(tiling, windows, nullptr, voxels, nullptr,
                                                     heads, stats, nullptr, counts);
}

// Writes the pairs: adds to pairs int32 [P, 2], which must hold zeros. The rows are what windows
// and voxels are called in the pairs, 0, 1, 2 ... where there are none; bounds int64 [tiles, rows *
// run + 1].
extern "C" __global__ __aicore__ void sparse_conv_rulebook_fill(GM_ADDR windows,
                                                                GM_ADDR window_rows, GM_ADDR voxels,
                                                                GM_ADDR voxel_rows, GM_ADDR heads,
                                                                GM_ADDR bounds, GM_ADDR pairs,
                                                                SparseConvJoinTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::Join<true>>(tiling, windows, window_rows, voxels,
                                                    voxel_rows, heads, nullptr, bounds, pairs);
}
