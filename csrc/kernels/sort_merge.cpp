// The last step of the sort: each bucket's pieces of all runs, loaded and merged. Each block merges
// buckets of its own.
#include "common/buffers.h"
#include "common/events.h"
#include "common/run.h"
#include "sort/merge.h"
#include "sort/score.h"
#include "sort_tiling.h"

namespace mxd::kernels {
namespace {

class SortMerge {
  static constexpr int32_t kSlots = kSortList + 1 + 4 * kSortRuns;  // each piece begins a block
  static constexpr int32_t kOut = kSortList + 1;
  static_assert((2 * kPairWords * kSlots + 2 * kPairWords * kOut + kOut + 8 * kSortRuns) * kWord <=
                kUbBytes);

 public:
  __aicore__ inline SortMerge(TPipe& pipe, const SortMergeTiling& tiling, GM_ADDR pairs,
                              GM_ADDR positions, GM_ADDR merged, GM_ADDR sorted_keys,
                              GM_ADDR sorted_rows)
      : tiling_(tiling) {
    Bind(pairs_, pairs, positions_, positions, merged_, merged, sorted_keys_, sorted_keys,
         sorted_rows_, sorted_rows);
    Take(pipe, kPairWords * kSlots, first_, second_);
    Take(pipe, kPairWords * kOut, out_, words_);
    firsts_ = Take<int32_t>(pipe, kOut);
    bounds_ = Take<int32_t>(pipe, kBlockWords * kSortRuns);
  }

  __aicore__ inline void Process() {
    CreateVecIndex(words_, 0, kPairWords * kOut);
    PipeBarrier<PIPE_V>();
    Muls(firsts_, words_, kPairBytes, kOut);
    PipeBarrier<PIPE_V>();
    Muls(words_, words_, kWord, kPairWords * kOut);
    PipeBarrier<PIPE_V>();
    for (int32_t bucket = GetBlockIdx(); bucket < tiling_.buckets; bucket += GetBlockNum())
      Merge(bucket);
  }

 private:
  __aicore__ inline void Merge(int32_t bucket) {
    DataCopyPad(bounds_, positions_[bucket],
                {static_cast<uint16_t>(tiling_.runs), kPairBytes,
                 static_cast<uint32_t>((tiling_.pitch - kPairWords) * kWord), 0, 0},
                {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    const bool last = bucket + 1 == tiling_.buckets;
    int64_t begin = 0;  // of the bucket, among all pairs
    int32_t size = 0, end = 0, lists = 0;
    for (int32_t run = 0; run < tiling_.runs; run++) {
      const int64_t bounds =
          bounds_.template ReinterpretCast<int64_t>().GetValue(run * (kBlockBytes / 8));
      const int64_t first = static_cast<int64_t>(run) * tiling_.run;
      const int32_t run_size = static_cast<int32_t>(
          first + tiling_.run < tiling_.count ? tiling_.run : tiling_.count - first);
      const int32_t from = static_cast<int32_t>(bounds);
      const int32_t to = last ? run_size : static_cast<int32_t>(bounds >> 32);
      begin += from;
      size += to - from;
      // A core writes whole blocks of 32 bytes. It needs the next bucket's pairs up to that border.
      const int32_t piece = MinOf(to + kBlockWords - 1, run_size) - from;
      if (piece == 0) continue;
      DataCopyPad(first_[kPairWords * end], pairs_[kPairWords * (first + from)],
                  Words(kPairWords * piece), {false, 0, 0, 0});
      at_[lists] = end;
      length_[lists++] = piece;
      end += RoundUp(piece, kBlockBytes / kPairBytes);
    }
    SetWait<HardEvent::MTE2_V>();
    const int64_t write = (begin + kBlockWords - 1) / kBlockWords * kBlockWords;
    int64_t write_end = (begin + size + kBlockWords - 1) / kBlockWords * kBlockWords;
    if (write_end > tiling_.count) write_end = tiling_.count;
    if (write < write_end) {
      const LocalTensor<int32_t> sorted =
          MergeLists(first_.ReinterpretCast<float>(), second_.ReinterpretCast<float>(), at_,
                     length_, lists)
              .ReinterpretCast<int32_t>();
      Write(sorted, static_cast<int32_t>(write - begin), write,
            static_cast<int32_t>(write_end - write));
    }
    SetWait<HardEvent::S_MTE2>();
    SetWait<HardEvent::V_MTE2>();
  }

  // Writes pairs [from, from + count) of UB to [to, to + count) of the result.
  __aicore__ inline void Write(const LocalTensor<int32_t>& sorted, int32_t from, int64_t to,
                               int32_t count) {
    const LocalTensor<uint32_t> firsts = firsts_.ReinterpretCast<uint32_t>();
    if (!tiling_.last) {
      Gather(out_, sorted, words_.ReinterpretCast<uint32_t>(), from * kPairBytes,
             kPairWords * count);
      SetWait<HardEvent::V_MTE3>();
      DataCopyPad(merged_[kPairWords * to], out_, Words(kPairWords * count));
    } else {
      const LocalTensor<int32_t> rows = out_[kOut];
      Gather(out_, sorted, firsts, from * kPairBytes, count);
      Gather(rows, sorted, firsts, from * kPairBytes + kWord, count);
      PipeBarrier<PIPE_V>();
      Adds(out_, out_, -kKeyToScore, count);
      SetWait<HardEvent::V_MTE3>();
      DataCopyPad(sorted_keys_[to], out_, Words(count));
      DataCopyPad(sorted_rows_[to], rows, Words(count));
    }
    SetWait<HardEvent::MTE3_V>();
  }

  const SortMergeTiling tiling_;
  GlobalTensor<int32_t> pairs_, positions_, merged_, sorted_keys_, sorted_rows_;
  LocalTensor<int32_t> first_, second_, out_, words_, firsts_, bounds_;
  int32_t at_[kSortRuns], length_[kSortRuns];
};

}  // namespace
}  // namespace mxd::kernels

// Merges the runs of pairs, to merged or, the last time, to keys and rows.
extern "C" __global__ __aicore__ void sort_merge(GM_ADDR pairs, GM_ADDR positions, GM_ADDR merged,
                                                 GM_ADDR keys, GM_ADDR rows,
                                                 SortMergeTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::SortMerge>(tiling, pairs, positions, merged, keys, rows);
}
