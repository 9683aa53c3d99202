// The first step of a stable sort of int32 keys with their rows: runs of keys, each sorted in UB.
#include "common/buffers.h"
#include "common/events.h"
#include "common/run.h"
#include "sort/merge.h"
#include "sort/score.h"
#include "sort_tiling.h"

namespace mxd::kernels {
namespace {

class SortRuns {
  static constexpr int32_t kWords = kPairWords * kSortRun;  // of a buffer of pairs
  static_assert((2 * kWords + kSortRun) * kWord <= kUbBytes);

 public:
  __aicore__ inline SortRuns(TPipe& pipe, const SortRunsTiling& tiling, GM_ADDR keys, GM_ADDR rows,
                             GM_ADDR pairs, GM_ADDR samples, GM_ADDR sorted_keys,
                             GM_ADDR sorted_rows)
      : tiling_(tiling), has_rows_(rows != nullptr) {
    Bind(keys_, keys, rows_, rows, pairs_, pairs, samples_, samples, sorted_keys_, sorted_keys,
         sorted_rows_, sorted_rows);
    Take(pipe, kWords, first_, second_);
    numbers_ = Take<int32_t>(pipe, kSortRun);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(numbers_, 0, kSortRun);
    PipeBarrier<PIPE_V>();
    const int32_t runs = CeilDiv(tiling_.count, tiling_.run);
    for (int32_t run = GetBlockIdx(); run < runs; run += GetBlockNum()) {
      const int32_t begin = run * tiling_.run;
      const int32_t count = MinOf(tiling_.run, tiling_.count - begin);
      const LocalTensor<int32_t> sorted = Sort(begin, count);
      const LocalTensor<int32_t> free =
          sorted.GetPhyAddr() == first_.GetPhyAddr() ? second_ : first_;
      if (runs == 1)
        WriteSorted(sorted, free, count);
      else
        WritePairs(sorted, free, begin, count);
      SetWait<HardEvent::V_MTE2>();
      SetWait<HardEvent::MTE3_MTE2>();
      SetWait<HardEvent::MTE3_V>();
    }
  }

 private:
  __aicore__ inline LocalTensor<int32_t> Sort(int32_t begin, int32_t count) {
    const LocalTensor<int32_t> score = second_, row = second_[kSortRun];
    const int32_t whole = RoundUp(count, kBlockWords), padded = RoundUp(count, kSort32);
    DataCopyPad(score, keys_[begin], Words(count),
                {true, 0, static_cast<uint8_t>(whole - count), kSortPad});
    if (has_rows_)
      DataCopyPad(row, rows_[begin], Words(count),
                  {true, 0, static_cast<uint8_t>(whole - count), 0});
    SetWait<HardEvent::MTE2_V>();
    if (whole < padded) {
      Duplicate(score[whole], kSortPad, padded - whole);
      if (has_rows_) Duplicate(row[whole], 0, padded - whole);
    }
    if (!has_rows_) Adds(row, numbers_, begin, padded);
    PipeBarrier<PIPE_V>();
    Adds(score, score, kKeyToScore, padded);
    PipeBarrier<PIPE_V>();
    const LocalTensor<float> pairs = first_.ReinterpretCast<float>();
    for (int32_t at = 0; at < padded; at += kSort32 * kMaxSort32) {
      Sort32(pairs[kPairWords * at], score[at].ReinterpretCast<float>(),
             row[at].ReinterpretCast<uint32_t>(), MinOf(kMaxSort32, (padded - at) / kSort32));
    }
    PipeBarrier<PIPE_V>();
    return MergeEqual(pairs, second_.ReinterpretCast<float>(), kSort32, padded)
        .ReinterpretCast<int32_t>();
  }

  __aicore__ inline void WriteSorted(const LocalTensor<int32_t>& sorted,
                                     const LocalTensor<int32_t>& free, int32_t count) {
    PairWords(free, sorted, 0, count);
    PairWords(free[kSortRun], sorted, 1, count);
    PipeBarrier<PIPE_V>();
    Adds(free, free, -kKeyToScore, count);
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(sorted_keys_, free, Words(count));
    DataCopyPad(sorted_rows_, free[kSortRun], Words(count));
  }

  __aicore__ inline void WritePairs(const LocalTensor<int32_t>& sorted,
                                    const LocalTensor<int32_t>& free, int32_t begin,
                                    int32_t count) {
    const int32_t samples = CeilDiv(count, tiling_.sample_distance);
    const LocalTensor<int32_t> offsets = free, sample = free[kSortRun];
    Muls(offsets, numbers_, tiling_.sample_distance * kPairBytes, samples);
    PipeBarrier<PIPE_V>();
    Gather(sample, sorted, offsets.ReinterpretCast<uint32_t>(), 0, samples);
    PipeBarrier<PIPE_V>();
    Adds(sample, sample, -kKeyToScore, samples);
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(pairs_[static_cast<int64_t>(kPairWords) * begin], sorted,
                Words(kPairWords * count));
    DataCopyPad(samples_[begin / tiling_.sample_distance], sample, Words(samples));
  }

  static constexpr int32_t kSort32 = 32, kMaxSort32 = 128;  // keys of a Sort32, repeats at once

  const SortRunsTiling tiling_;
  const bool has_rows_;
  GlobalTensor<int32_t> keys_, rows_, pairs_, samples_, sorted_keys_, sorted_rows_;
  LocalTensor<int32_t> first_, second_, numbers_;
};

}  // namespace
}  // namespace mxd::kernels

// Sorts each run of keys int32 [count] with rows int32 [count] (null: 0, 1, 2 ...). A single run
// goes to sorted_keys and sorted_rows; of several the pairs are written, 8 bytes [count], and
// samples int32 [count / sample_distance].
extern "C" __global__ __aicore__ void sort_runs(GM_ADDR keys, GM_ADDR rows, GM_ADDR pairs,
                                                GM_ADDR samples, GM_ADDR sorted_keys,
                                                GM_ADDR sorted_rows, SortRunsTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::SortRuns>(tiling, keys, rows, pairs, samples, sorted_keys,
                                                  sorted_rows);
}
