// The rulebook's elementwise kernels: voxels to cells and back, and the cells of the outputs that
// voxels reach. The join is in sparse_conv_rulebook.cpp.
//
// Every block works on a range of voxels of its own, in chunks. All of it is elementwise.
#include "common/buffers.h"
#include "common/chunks.h"
#include "common/integer_lanes.h"
#include "common/run.h"
#include "sparse_conv_rulebook/heads.h"
#include "sparse_conv_rulebook_tiling.h"

namespace mxd::kernels {
namespace {

constexpr int32_t kChunk = 1024;  // voxels at once
constexpr int32_t kColumns = kRulebookColumns, kDims = kRulebookDims;

// Loads rows of indices and hands out their columns.
class Rows {
 public:
  __aicore__ inline Rows(TPipe& pipe, GM_ADDR indices, int32_t columns) : columns_(columns) {
    Bind(indices_, indices);
    pipe.InitBuffer(queue_, 2, kChunk * columns * kWord);
    offsets_ = Take<int32_t>(pipe, kChunk);
    CreateVecIndex(offsets_, 0, kChunk);
    PipeBarrier<PIPE_V>();
    Muls(offsets_, offsets_, columns * kWord, kChunk);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void Load(int32_t begin, int32_t count) {
    rows_ = queue_.AllocTensor<int32_t>();
    DataCopyPad(rows_, indices_[static_cast<int64_t>(begin) * columns_], Words(count * columns_),
                {false, 0, 0, 0});
    queue_.EnQue(rows_);
    rows_ = queue_.DeQue<int32_t>();
  }

  __aicore__ inline void Column(const LocalTensor<int32_t>& to, int32_t column, int32_t count) {
    Gather(to, rows_, offsets_.ReinterpretCast<uint32_t>(), column * kWord, count);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void Free() { queue_.FreeTensor(rows_); }

 private:
  const int32_t columns_;
  GlobalTensor<int32_t> indices_;
  TQue<TPosition::VECIN, 2> queue_;
  LocalTensor<int32_t> offsets_, rows_;
};

__aicore__ inline void Cells(TPipe& pipe, const SparseConvCellsTiling& tiling, GM_ADDR indices,
                             GM_ADDR cells) {
  GlobalTensor<int32_t> to;
  Bind(to, cells);
  IntegerLanes lanes(pipe, kChunk * kColumns);
  Rows rows(pipe, indices, tiling.columns);
  TQue<TPosition::VECOUT, 2> queue;
  pipe.InitBuffer(queue, 2, kChunk * kWord);
  const auto value = Take<int32_t>(pipe, kChunk), inside = Take<int32_t>(pipe, kChunk);

  ForEachChunk(tiling.voxels, kChunk, [&](int32_t begin, int32_t count) __aicore__ {
    rows.Load(begin, count);
    LocalTensor<int32_t> cell = queue.AllocTensor<int32_t>();
    Duplicate(cell, tiling.shift, count);
    Duplicate(inside, 0, count);
    PipeBarrier<PIPE_V>();
    for (int32_t column = 0; column < tiling.columns; column++) {
      const int32_t limit = tiling.limit[column];
      rows.Column(value, column, count);
      Maxs(value, value, -1, count);
      PipeBarrier<PIPE_V>();
      lanes.AndInside(inside, value, limit, count);
      lanes.Clamp(value, limit, count);
      lanes.MulAdd(cell, value, tiling.step[column], count);
    }
    lanes.MarkUnless(inside, cell, false, count);
    rows.Free();
    queue.EnQue(cell);
    cell = queue.DeQue<int32_t>();
    DataCopyPad(to[begin], cell, Words(count));
    queue.FreeTensor(cell);
  });
}

__aicore__ inline void Decode(TPipe& pipe, const SparseConvDecodeTiling& tiling, GM_ADDR cells,
                              GM_ADDR indices, GM_ADDR others, GM_ADDR stats) {
  const int32_t columns = tiling.columns;
  GlobalTensor<int32_t> from, to, to_others;
  Bind(from, cells, to, indices, to_others, others);
  IntegerLanes lanes(pipe, kChunk * kColumns);
  TQue<TPosition::VECIN, 2> in_queue;
  TQue<TPosition::VECOUT, 1> row_queue, other_queue;
  pipe.InitBuffer(in_queue, 2, kChunk * kWord);
  pipe.InitBuffer(row_queue, 1, kChunk * columns * kWord);
  pipe.InitBuffer(other_queue, 1, kChunk * kWord);
  // The coordinates are made column by column; word j of the rows is word j / columns of column
  // j % columns.
  const auto value = Take<int32_t>(pipe, kChunk * columns);
  const auto offsets = Take<int32_t>(pipe, kChunk * columns);
  CreateVecIndex(value, 0, kChunk * columns);
  PipeBarrier<PIPE_V>();
  lanes.Divide(offsets, value, columns, tiling.inverse_columns, kChunk * columns);
  Muls(offsets, offsets, kWord, kChunk * columns);
  PipeBarrier<PIPE_V>();
  lanes.MulAdd(offsets, value, kChunk * kWord, kChunk * columns);

  const int32_t cell_count = Resolve(tiling.cells, stats);
  ForEachChunk(cell_count, kChunk, [&](int32_t begin, int32_t count) __aicore__ {
    LocalTensor<int32_t> rest = in_queue.AllocTensor<int32_t>();
    DataCopyPad(rest, from[begin], Words(count), {false, 0, 0, 0});
    in_queue.EnQue(rest);
    rest = in_queue.DeQue<int32_t>();
    LocalTensor<int32_t> other = other_queue.AllocTensor<int32_t>();
    Duplicate(other, tiling.shift, count);
    PipeBarrier<PIPE_V>();
    for (int32_t column = 0; column < columns; column++) {
      const LocalTensor<int32_t> coordinate = value[column * kChunk];
      lanes.Divide(coordinate, rest, tiling.divisor[column], tiling.inverse[column], count);
      lanes.MulAdd(other, coordinate, tiling.step[column], count);
    }
    in_queue.FreeTensor(rest);
    other_queue.EnQue(other);
    other = other_queue.DeQue<int32_t>();
    DataCopyPad(to_others[begin], other, Words(count));
    other_queue.FreeTensor(other);

    LocalTensor<int32_t> rows = row_queue.AllocTensor<int32_t>();
    Gather(rows, value, offsets.ReinterpretCast<uint32_t>(), 0, count * columns);
    row_queue.EnQue(rows);
    rows = row_queue.DeQue<int32_t>();
    DataCopyPad(to[static_cast<int64_t>(begin) * columns], rows, Words(count * columns));
    row_queue.FreeTensor(rows);
    PipeBarrier<PIPE_V>();
  });
}

// The outputs that a voxel reaches, numbered by slots. Along a dimension with dilation 1 its slots
// are consecutive outputs, the last one first; else, or transposed, a slot is a kernel point.
class Reach {
  // Words of UB for each voxel of a chunk: scratch of lanes_, rows_, queue_, and what follows.
  static constexpr int32_t kWords = 2 * kColumns + 2 * kColumns + 1 + 2 + 4 * kDims + 4;
  static_assert(kWords * kChunk * kWord <= kUbBytes);

 public:
  __aicore__ inline Reach(TPipe& pipe, const SparseConvReachTiling& tiling, GM_ADDR indices,
                          GM_ADDR cells)
      : tiling_(tiling), lanes_(pipe, kChunk * kColumns), rows_(pipe, indices, tiling.columns) {
    Bind(cells_, cells);
    pipe.InitBuffer(queue_, 2, kChunk * kWord);
    Take(pipe, kDims * kChunk, coordinate_, quotient_, cell_);
    there_ = Take<int32_t>(pipe, (kDims + 1) * kChunk);
    Take(pipe, kChunk, place_, condition_, rest_);
  }

  __aicore__ inline void Process() {
    ForEachChunk(tiling_.voxels, kChunk,
                 [&](int32_t begin, int32_t count) __aicore__ { ProcessChunk(begin, count); });
  }

 private:
  __aicore__ inline void ProcessChunk(int32_t begin, int32_t count) {
    const int32_t dims = tiling_.columns - 1;
    rows_.Load(begin, count);
    rows_.Column(cell_, 0, count);
    lanes_.Clamp(cell_, tiling_.limit[0], count);
    for (int32_t d = 0; d < dims; d++) Prepare(d, count);
    rows_.Free();
    Muls(cell_, cell_, tiling_.step[0], count);
    Duplicate(there_, 0, (dims + 1) * kChunk);
    PipeBarrier<PIPE_V>();

    int32_t slots = 1;
    for (int32_t d = 0; d < dims; d++) slots *= tiling_.slots[d];
    for (int32_t slot = 0; slot < slots; slot++) {
      LocalTensor<int32_t> cell = queue_.AllocTensor<int32_t>();
      if (count % kBlockWords) {  // whole blocks are written
        Duplicate(cell, kRulebookNone, RoundUp(count, kBlockWords));
        PipeBarrier<PIPE_V>();
      }
      // Dimensions are the digits of the slot: only those that changed are computed again.
      int32_t volume = slots;
      for (int32_t d = 0; d < dims; d++) {
        volume /= tiling_.slots[d];
        if (slot % volume != 0) continue;
        Extend(d, slot / volume % tiling_.slots[d], d + 1 < dims ? cell_[(d + 1) * kChunk] : cell,
               count);
      }
      lanes_.MarkUnless(there_[dims * kChunk], cell, true, RoundUp(count, kBlockWords));
      Mins(cell, cell, kRulebookNone, RoundUp(count, kBlockWords));
      queue_.EnQue(cell);
      cell = queue_.DeQue<int32_t>();
      DataCopyPad(cells_[static_cast<int64_t>(slot) * tiling_.pitch + begin], cell,
                  Words(RoundUp(count, kBlockWords)));
      queue_.FreeTensor(cell);
    }
  }

  // From the cell of the dimensions before d: the cell with d, and whether it is reached
  // (there_[d + 1]).
  __aicore__ inline void Extend(int32_t d, int32_t slot, const LocalTensor<int32_t>& cell,
                                int32_t count) {
    const int32_t limit = tiling_.out_shape[d];
    const LocalTensor<int32_t> there = there_[(d + 1) * kChunk];
    FindPlace(d, slot, count);
    Maxs(place_, place_, -1, count);
    PipeBarrier<PIPE_V>();
    lanes_.AndInside(condition_, place_, limit, count);
    Min(there, there_[d * kChunk], condition_, count);
    lanes_.Clamp(place_, limit, count);
    Muls(place_, place_, tiling_.step[1 + d], count);
    PipeBarrier<PIPE_V>();
    Add(cell, cell_[d * kChunk], place_, count);
    PipeBarrier<PIPE_V>();
  }

  // coordinate_[d]: the voxel's coordinate, plus the padding unless transposed. With dilation 1 it
  // is divided by the stride: the quotient goes to quotient_, the remainder stays.
  __aicore__ inline void Prepare(int32_t d, int32_t count) {
    const LocalTensor<int32_t> coordinate = coordinate_[d * kChunk];
    rows_.Column(coordinate, 1 + d, count);
    lanes_.Clamp(coordinate, tiling_.limit[1 + d], count);
    if (tiling_.transposed) return;
    Adds(coordinate, coordinate, tiling_.padding[d], count);
    PipeBarrier<PIPE_V>();
    if (tiling_.dilation[d] == 1)
      lanes_.Divide(quotient_[d * kChunk], coordinate, tiling_.stride[d], tiling_.inverse[d],
                    count);
  }

  // place_ of a slot, and condition_ whether it is one of the kernel's points.
  __aicore__ inline void FindPlace(int32_t d, int32_t slot, int32_t count) {
    const LocalTensor<int32_t> coordinate = coordinate_[d * kChunk];
    const int32_t stride = tiling_.stride[d], dilated = slot * tiling_.dilation[d];
    if (tiling_.transposed) {
      Muls(place_, coordinate, stride, count);
      PipeBarrier<PIPE_V>();
      Adds(place_, place_, dilated - tiling_.padding[d], count);
      Duplicate(condition_, 0, count);
      PipeBarrier<PIPE_V>();
    } else if (tiling_.dilation[d] == 1) {  // kernel point remainder + slot * stride
      Adds(place_, quotient_[d * kChunk], -slot, count);
      lanes_.IsBelow(condition_, coordinate, tiling_.kernel[d] - slot * stride, count);
    } else {
      Adds(condition_, coordinate, -dilated, count);
      PipeBarrier<PIPE_V>();
      Maxs(rest_, condition_, 0, count);
      PipeBarrier<PIPE_V>();
      lanes_.Divide(place_, rest_, stride, tiling_.inverse[d], count);
      lanes_.IsBelow(rest_, rest_, 1, count);  // negative where there is a remainder
      Min(condition_, condition_, rest_, count);
      PipeBarrier<PIPE_V>();
    }
  }

  const SparseConvReachTiling tiling_;
  IntegerLanes lanes_;
  Rows rows_;
  GlobalTensor<int32_t> cells_;
  TQue<TPosition::VECOUT, 2> queue_;
  LocalTensor<int32_t> coordinate_, quotient_;  // by dimension
  LocalTensor<int32_t> cell_, there_;           // by the dimensions before
  LocalTensor<int32_t> place_, condition_, rest_;
};

}  // namespace
}  // namespace mxd::kernels

// indices int32 [voxels, columns] to cells int32 [voxels].
extern "C" __global__ __aicore__ void sparse_conv_rulebook_cells(GM_ADDR indices, GM_ADDR cells,
                                                                 SparseConvCellsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  AscendC::TPipe pipe;
  mxd::kernels::Cells(pipe, tiling, indices, cells);
}

// cells int32 [N] to indices int32 [N, columns] and others int32 [N], cells of another grid.
extern "C" __global__ __aicore__ void sparse_conv_rulebook_decode(GM_ADDR cells, GM_ADDR stats,
                                                                  GM_ADDR indices, GM_ADDR others,
                                                                  SparseConvDecodeTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  AscendC::TPipe pipe;
  mxd::kernels::Decode(pipe, tiling, cells, indices, others, stats);
}

// indices int32 [voxels, columns] to the cells they reach, int32 [slots, pitch].
extern "C" __global__ __aicore__ void sparse_conv_rulebook_reach(GM_ADDR indices, GM_ADDR cells,
                                                                 SparseConvReachTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::Reach>(tiling, indices, cells);
}
