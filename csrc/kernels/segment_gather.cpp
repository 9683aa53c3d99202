// Rows of a matrix in the order of a list, zeros where the list has -1: a gradient of sums by
// segment. Rows that follow each other, or have one distance, are loaded by one DMA, and what is
// loaded is written by one.
#include "common/buffers.h"
#include "common/events.h"
#include "common/index_list.h"
#include "common/matrix_rows.h"
#include "common/run.h"
#include "segment_reduce/list.h"
#include "segment_reduce_tiling.h"

namespace mxd::kernels {
namespace {

template <typename T>
class Gathered {
  static constexpr int32_t kSize = static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kBuffers = 2;
  static constexpr int32_t kShare = 16;  // rows that no two blocks write into the same 32 B of

 public:
  __aicore__ inline Gathered(TPipe& pipe, const SegmentGatherTiling& tiling, GM_ADDR matrix,
                             GM_ADDR list, GM_ADDR out)
      : tiling_(tiling) {
    Bind(matrix_, matrix, list_, list, out_, out);
    for (int32_t i = 0; i < kBuffers; i++) {
      lists_[i] = Take<int32_t>(pipe, kSegmentGatherRows);
      rows_[i] = Take<T>(pipe, kSegmentGatherBytes / kSize);
    }
    listed_.Init(pipe, kBuffers);
    full_.Init(pipe, kBuffers);
    filled_.Init(pipe, kBuffers);
    free_.Init(pipe, kBuffers);
  }

  __aicore__ inline void Process() {
    free_.SetAll();
    const int64_t share =
        RoundUp(CeilDiv(tiling_.count, static_cast<int32_t>(GetBlockNum())), kShare);
    const int64_t first = GetBlockIdx() * share;
    end_ = first + share < tiling_.count ? first + share : tiling_.count;
    for (channel_ = 0; channel_ < tiling_.columns; channel_ += tiling_.slice) {
      matrix_rows_ =
          MatrixRows<T>(tiling_.columns, MinOf(tiling_.slice, tiling_.columns - channel_));
      int32_t buffer = 0;
      if (first < end_) LoadList(first, buffer);
      for (int64_t begin = first; begin < end_; begin += tiling_.rows, buffer = 1 - buffer) {
        if (begin + tiling_.rows < end_) LoadList(begin + tiling_.rows, 1 - buffer);
        Copy(begin, Count(begin), buffer);
      }
    }
    free_.WaitAll();
  }

 private:
  __aicore__ inline int32_t Count(int64_t begin) const {
    return static_cast<int32_t>(end_ - begin < tiling_.rows ? end_ - begin : tiling_.rows);
  }

  __aicore__ inline void LoadList(int64_t begin, int32_t buffer) {
    SetWait<HardEvent::S_MTE2>();
    segment_reduce::LoadList(lists_[buffer], list_[begin], Count(begin));
    listed_.Set(buffer);
  }

  __aicore__ inline void Copy(int64_t begin, int32_t count, int32_t buffer) {
    const LocalTensor<T> rows = rows_[buffer];
    const int32_t pitch = matrix_rows_.pitch();
    listed_.Wait(buffer);
    free_.Wait(buffer);
    bool nothing = false;
    ForEachRun(lists_[buffer], 0, count, matrix_rows_.farthest(),
               [&](int32_t slot, Run run) __aicore__ {
                 if (run.first < 0) {  // the first of its run, which may go on
                   nothing = true;
                   if (run.count == 1) return;
                   run = {run.first + run.gap, run.gap, run.count - 1};
                   ++slot;
                 }
                 const int64_t first = static_cast<int64_t>(run.first) * tiling_.columns;
                 matrix_rows_.Load(rows[slot * pitch], matrix_[first + channel_], run);
               });
    full_.SetWait(buffer);
    if (nothing) {
      IndexList<int32_t> list(lists_[buffer]);
      for (int32_t i = 0; i < count; i++)
        if (list.Get(i) < 0) Duplicate(rows[i * pitch], T{}, pitch);
    }
    filled_.SetWait(buffer);
    matrix_rows_.Store(out_[begin * tiling_.columns + channel_], rows, {0, 1, count});
    free_.Set(buffer);
  }

  const SegmentGatherTiling tiling_;
  GlobalTensor<T> matrix_, out_;
  GlobalTensor<int32_t> list_;
  LocalTensor<int32_t> lists_[kBuffers];
  LocalTensor<T> rows_[kBuffers];
  Events<HardEvent::MTE2_S> listed_;
  Events<HardEvent::MTE2_V> full_;
  Events<HardEvent::V_MTE3> filled_;
  Events<HardEvent::MTE3_MTE2> free_;
  int64_t end_ = 0;
  int32_t channel_ = 0;  // of the slice
  MatrixRows<T> matrix_rows_;
};

}  // namespace
}  // namespace mxd::kernels

// out [count, columns]: the rows of matrix [.., columns] that list int32 [count] names. Numbers of
// 4 bytes, or of 2.
extern "C" __global__ __aicore__ void segment_gather(GM_ADDR matrix, GM_ADDR list, GM_ADDR out,
                                                     SegmentGatherTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunForSize<mxd::kernels::Gathered>(tiling, matrix, list, out);
}
