// Overlaps of rotated boxes, of all pairs or of each row's. Each block works on its own range of
// the result, chunk by chunk: the boxes of a chunk's pairs are taken from UB, lane by lane.
#include "common/buffers.h"
#include "common/chunks.h"
#include "common/events.h"
#include "common/integer_lanes.h"
#include "common/run.h"
#include "rotated_iou/rows.h"
#include "rotated_iou_tiling.h"

namespace mxd::kernels {
namespace {

class RotatedIou {
  static constexpr int32_t kTable = 1024;  // second boxes that stay in UB
  static constexpr int32_t kRowBytes = kBoxNumbers * kWord;
  static_assert(Overlap::Bytes(kPairsAtOnce) +
                    ((kPairsAtOnce + kBlockWords + kTable) * kBoxNumbers + 6 * kPairsAtOnce) *
                        kWord <=
                kUbBytes);

 public:
  __aicore__ inline RotatedIou(TPipe& pipe, const RotatedIouTiling& tiling, GM_ADDR boxes1,
                               GM_ADDR boxes2, GM_ADDR out)
      : tiling_(tiling), overlap_(pipe, kPairsAtOnce), integers_(pipe, kPairsAtOnce) {
    Bind(boxes1_, boxes1, boxes2_, boxes2, out_, out);
    rows1_ = Take<float>(pipe, (kPairsAtOnce + kBlockWords) * kBoxNumbers);
    rows2_ = Take<float>(pipe, kTable * kBoxNumbers);
    Take(pipe, kPairsAtOnce, numbers_, row_, column_, scratch_);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(numbers_, 0, kPairsAtOnce);
    PipeBarrier<PIPE_V>();
    const int32_t pairs = tiling_.aligned ? tiling_.rows : tiling_.rows * tiling_.columns;
    bool loaded = false;
    ForEachChunk(pairs, kPairsAtOnce, [&](int32_t begin, int32_t count) __aicore__ {
      const int32_t lanes = RoundUp(count, kLanes);
      SetWait<HardEvent::V_MTE2>();
      if (tiling_.aligned) {
        LoadAligned(begin, count);
      } else {
        const int32_t row = begin / tiling_.columns, column = begin - row * tiling_.columns;
        const int32_t rows = (column + count - 1) / tiling_.columns + 1;
        Load(rows1_, boxes1_, row, rows);
        if (tiling_.columns > kTable)
          LoadPieces(column, count);
        else if (!loaded)
          Load(rows2_, boxes2_, 0, tiling_.columns);
        loaded = true;
        Locate(column, rows, count, lanes);
      }
      SetWait<HardEvent::MTE2_V>();
      TakeNumbers(overlap_, 0, kBoxNumbers, rows1_, row_, lanes);
      TakeNumbers(overlap_, lanes, kBoxNumbers, rows2_, column_, lanes);
      overlap_.Prepare(0, 2 * lanes);
      const LocalTensor<float> measure = overlap_.Measure(tiling_.mode, lanes);
      SetWait<HardEvent::V_MTE3>();
      DataCopyPad(out_[begin], measure, Words(count));
      SetWait<HardEvent::MTE3_V>();
    });
  }

 private:
  __aicore__ inline void Load(const LocalTensor<float>& to, const GlobalTensor<float>& boxes,
                              int64_t first, int32_t count) {
    DataCopyPad(to, boxes[first * kBoxNumbers], Words(count * kBoxNumbers), {false, 0, 0, 0});
  }

  __aicore__ inline void LoadAligned(int32_t begin, int32_t count) {
    Load(rows1_, boxes1_, begin, count);
    Load(rows2_, boxes2_, begin, count);
    Mins(row_, numbers_, count - 1, kPairsAtOnce);
    PipeBarrier<PIPE_V>();
    Muls(row_, row_, kRowBytes, kPairsAtOnce);
    PipeBarrier<PIPE_V>();
    Adds(column_, row_, 0, kPairsAtOnce);
    PipeBarrier<PIPE_V>();
  }

  // The second boxes of a chunk that touches two rows at most: first those of its first row, from
  // `column` on, then those of its second row.
  __aicore__ inline void LoadPieces(int32_t column, int32_t count) {
    const int32_t first = FirstPiece(column, count);
    Load(rows2_, boxes2_, column, first);
    if (first < count)
      Load(rows2_[RoundUp(first, kBlockWords) * kBoxNumbers], boxes2_, 0, count - first);
  }
  __aicore__ inline int32_t FirstPiece(int32_t column, int32_t count) const {
    return MinOf(count, tiling_.columns - column);
  }

  // Fills row_ and column_: where the boxes of each pair begin in rows1_ and rows2_, in bytes.
  __aicore__ inline void Locate(int32_t column, int32_t rows, int32_t count, int32_t lanes) {
    Adds(column_, numbers_, column, lanes);
    PipeBarrier<PIPE_V>();
    integers_.Divide(row_, column_, tiling_.columns, tiling_.inverse_columns, lanes);
    if (tiling_.columns > kTable) {
      const int32_t first = FirstPiece(column, count), second = RoundUp(first, kBlockWords);
      const int32_t last = first < count ? second + count - first : first;
      Muls(scratch_, row_, second + column, lanes);
      PipeBarrier<PIPE_V>();
      Add(column_, column_, scratch_, lanes);
      PipeBarrier<PIPE_V>();
      Adds(column_, column_, -column, lanes);
      PipeBarrier<PIPE_V>();
      Mins(column_, column_, last - 1, lanes);
      PipeBarrier<PIPE_V>();
    }
    Mins(row_, row_, rows - 1, lanes);  // lanes behind the last pair take some row
    Muls(column_, column_, kRowBytes, lanes);
    PipeBarrier<PIPE_V>();
    Muls(row_, row_, kRowBytes, lanes);
    PipeBarrier<PIPE_V>();
  }

  const RotatedIouTiling tiling_;
  const Overlap overlap_;
  IntegerLanes integers_;
  GlobalTensor<float> boxes1_, boxes2_, out_;
  LocalTensor<float> rows1_, rows2_;
  LocalTensor<int32_t> numbers_, row_, column_, scratch_;
};

}  // namespace
}  // namespace mxd::kernels

// boxes1 [rows, 5] and boxes2 [columns, 5], out [rows, columns], or [rows] if aligned; fp32.
extern "C" __global__ __aicore__ void rotated_iou(GM_ADDR boxes1, GM_ADDR boxes2, GM_ADDR out,
                                                  RotatedIouTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::RotatedIou>(tiling, boxes1, boxes2, out);
}
