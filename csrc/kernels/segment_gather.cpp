// Rows of a matrix in the order of a list, zeros where the list has -1: a gradient of sums by
// segment. Rows that follow each other, or have one distance, are loaded by one DMA, and what is
// loaded is written by one.
#include "common/buffers.h"
#include "common/events.h"
#include "common/index_list.h"
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
    matrix_.SetGlobalBuffer((__gm__ T*)matrix);
    list_.SetGlobalBuffer((__gm__ int32_t*)list);
    out_.SetGlobalBuffer((__gm__ T*)out);
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
      width_ = MinOf(tiling_.slice, tiling_.columns - channel_);
      pitch_ = RoundUp(width_ * kSize, kBlockBytes) / kSize;
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
    const int32_t bytes = width_ * kSize;
    const bool dense = width_ == tiling_.columns && bytes == pitch_ * kSize;
    constexpr int32_t kMostBytes = 1 << 30;
    const int32_t farthest = MaxOf(kMostBytes / (tiling_.columns * kSize), 1);
    listed_.Wait(buffer);
    free_.Wait(buffer);
    bool nothing = false;
    Runs<int32_t> runs(lists_[buffer]);
    for (runs.Seek(0, count); !runs.Done();) {
      const int32_t slot = runs.at();
      const Run run = runs.Next(count, farthest);
      if (run.first < 0) {  // the first of its run, which may go on
        nothing = true;
        if (run.count > 1) Load(rows[(slot + 1) * pitch_], run.first + run.gap, run, 1, dense);
      } else {
        Load(rows[slot * pitch_], run.first, run, 0, dense);
      }
    }
    full_.SetWait(buffer);
    if (nothing) {
      IndexList<int32_t> list(lists_[buffer]);
      for (int32_t i = 0; i < count; i++)
        if (list.Get(i) < 0) Duplicate(rows[i * pitch_], T{}, pitch_);
    }
    filled_.SetWait(buffer);
    const int64_t to = begin * tiling_.columns + channel_;
    if (dense)
      DataCopyPad(out_[to], rows, {1, static_cast<uint32_t>(count * bytes), 0, 0, 0});
    else
      DataCopyPad(out_[to], rows,
                  {static_cast<uint16_t>(count), static_cast<uint32_t>(bytes), 0,
                   static_cast<uint32_t>((tiling_.columns - width_) * kSize), 0});
    free_.Set(buffer);
  }

  // The rows of a run from `first` on, without its first `skipped` ones.
  __aicore__ inline void Load(const LocalTensor<T>& to, int32_t first, const Run& run,
                              int32_t skipped, bool dense) {
    const int32_t count = run.count - skipped, bytes = width_ * kSize;
    const int64_t from = static_cast<int64_t>(first) * tiling_.columns + channel_;
    if (dense && run.gap == 1)
      DataCopyPad(to, matrix_[from], {1, static_cast<uint32_t>(count * bytes), 0, 0, 0},
                  {false, 0, 0, T{}});
    else
      DataCopyPad(to, matrix_[from],
                  {static_cast<uint16_t>(count), static_cast<uint32_t>(bytes),
                   static_cast<uint32_t>((run.gap * tiling_.columns - width_) * kSize), 0, 0},
                  {false, 0, 0, T{}});
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
  int32_t channel_ = 0, width_ = 0, pitch_ = 0;  // of the slice
};

}  // namespace
}  // namespace mxd::kernels

// out [count, columns]: the rows of matrix [.., columns] that list int32 [count] names. Words.
extern "C" __global__ __aicore__ void segment_gather_words(GM_ADDR matrix, GM_ADDR list,
                                                           GM_ADDR out,
                                                           SegmentGatherTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  AscendC::TPipe pipe;
  mxd::kernels::Gathered<int32_t>(pipe, tiling, matrix, list, out).Process();
}

// The same of 16-bit numbers.
extern "C" __global__ __aicore__ void segment_gather_halves(GM_ADDR matrix, GM_ADDR list,
                                                            GM_ADDR out,
                                                            SegmentGatherTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  AscendC::TPipe pipe;
  mxd::kernels::Gathered<int16_t>(pipe, tiling, matrix, list, out).Process();
}
