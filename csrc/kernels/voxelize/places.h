// Lists of scores in UB (sort/score.h), sorted together with the places where they were, and what
// is asked of a sorted list.
#pragma once

#include "../common/buffers.h"
#include "../common/numbers.h"
#include "../sort/merge.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

constexpr int32_t kPadScore = kSortPad + kKeyToScore;  // behind all scores, as a number and as bits

// 0, 1 ... up to `used` of a list of `count` words.
__aicore__ inline LocalTensor<int32_t> TakeNumbers(TPipe& pipe, int32_t count, int32_t used) {
  const LocalTensor<int32_t> numbers = Take<int32_t>(pipe, count);
  CreateVecIndex(numbers, 0, kLanes);
  PipeBarrier<PIPE_V>();
  ExtendNumbers(numbers, kLanes, used);
  return numbers;
}

// The lanes of `count` that the mask names. How many.
__aicore__ inline int32_t Compact(const LocalTensor<int32_t>& to, const LocalTensor<int32_t>& from,
                                  const LocalTensor<uint8_t>& mask, int32_t count) {
  uint64_t kept = 0;
  GatherMask(to, from, mask.ReinterpretCast<uint32_t>(), true, static_cast<uint32_t>(count),
             {1, 1, 8, 0}, kept);
  PipeBarrier<PIPE_V>();
  return static_cast<int32_t>(kept);
}

// A stable sort of up to `capacity` scores. Two halves of pairs: behind a sort one of them holds
// its result, the other one is free.
class PlaceSort {
  static constexpr int32_t kSort32 = 32, kMaxSort32 = 128;  // keys of a Sort32, repeats at once
  static constexpr int32_t kMargin = kLanes;                // before a list, in words

 public:
  static __aicore__ constexpr int32_t Words(int32_t capacity) { return 4 * (capacity + kMargin); }

  __aicore__ inline PlaceSort(TPipe& pipe, const LocalTensor<int32_t>& numbers, int32_t capacity)
      : capacity_(capacity),
        numbers_(numbers),
        free_(Take<int32_t>(pipe, Words(capacity) / 2)),
        spare_(Take<int32_t>(pipe, Words(capacity) / 2)) {}

  // Up to a multiple of 32 the scores behind `count` are kPadScore. They lie outside of the halves.
  __aicore__ inline void Sort(const LocalTensor<int32_t>& score, int32_t count) {
    const int32_t padded = RoundUp(count, kSort32);
    const LocalTensor<float> pairs = free_.ReinterpretCast<float>();
    for (int32_t at = 0; at < padded; at += kSort32 * kMaxSort32) {
      Sort32(pairs[kPairWords * at], score[at].ReinterpretCast<float>(),
             numbers_[at].ReinterpretCast<uint32_t>(), MinOf(kMaxSort32, (padded - at) / kSort32));
    }
    PipeBarrier<PIPE_V>();
    const LocalTensor<int32_t> sorted =
        MergeEqual(pairs, spare_.ReinterpretCast<float>(), kSort32, padded)
            .ReinterpretCast<int32_t>();
    if (sorted.GetPhyAddr() == free_.GetPhyAddr()) {
      free_ = spare_;
      spare_ = sorted;
    }
    Duplicate(free_, 0, kMargin);
    Duplicate(scores(), kPadScore, MinOf(capacity_, 2 * RoundUp(count, kLanes)));
    PipeBarrier<PIPE_V>();
    PairWords(scores(), sorted, 0, padded);
    PairWords(places(), sorted, 1, padded);
    PipeBarrier<PIPE_V>();
  }

  // The result: scores, as many times kPadScore behind them and zeros before them; and their
  // places. There are as many words of each as the capacity.
  __aicore__ inline LocalTensor<int32_t> scores() const { return free_[kMargin]; }
  __aicore__ inline LocalTensor<int32_t> places() const { return free_[kMargin + capacity_]; }
  // Two lists more that a sort leaves alone only until the next one.
  __aicore__ inline LocalTensor<int32_t> list(int32_t i) const {
    return spare_[kMargin + i * capacity_];
  }

  // mask: a bit for each lane of the result whose score is not that of `back` lanes before. Uses
  // both lists.
  __aicore__ inline void MarkChanges(const LocalTensor<uint8_t>& mask, int32_t back,
                                     int32_t count) const {
    const int32_t whole = RoundUp(count, kLanes);
    Adds(list(0), numbers_, kMargin - back, whole);
    PipeBarrier<PIPE_V>();
    if (back > kMargin) {
      Maxs(list(0), list(0), 0, whole);
      PipeBarrier<PIPE_V>();
    }
    Muls(list(0), list(0), kWord, whole);
    PipeBarrier<PIPE_V>();
    Gather(list(1), free_, list(0).ReinterpretCast<uint32_t>(), 0, whole);
    PipeBarrier<PIPE_V>();
    Compare(mask, scores().ReinterpretCast<float>(), list(1).ReinterpretCast<float>(), CMPMODE::NE,
            whole);
    PipeBarrier<PIPE_V>();
  }

  // The greatest of each lane of the result and of those up to at least `reach` - 1 before, or all.
  // Uses places() and both lists.
  __aicore__ inline LocalTensor<int32_t> ScanMax(int32_t reach, int32_t count) const {
    const LocalTensor<int32_t> offsets = list(1), shifted = places();
    Duplicate(spare_, 0, kMargin);
    Muls(offsets, numbers_, kWord, count);
    PipeBarrier<PIPE_V>();
    LocalTensor<int32_t> from = free_, to = spare_;
    for (int32_t shift = 1; shift < MinOf(reach, count); shift *= 2) {
      const LocalTensor<int32_t> value = from[kMargin], max = to[kMargin];
      if (shift <= kMargin) {
        Gather(shifted, from, offsets.ReinterpretCast<uint32_t>(), (kMargin - shift) * kWord,
               count);
        PipeBarrier<PIPE_V>();
        Max(max, value, shifted, count);
      } else {
        Adds(max, value, 0, shift);
        Max(max[shift], value[shift], value, count - shift);
      }
      PipeBarrier<PIPE_V>();
      const LocalTensor<int32_t> last = from;
      from = to;
      to = last;
    }
    return from[kMargin];
  }

 private:
  const int32_t capacity_;
  const LocalTensor<int32_t> numbers_;
  LocalTensor<int32_t> free_, spare_;
};

}  // namespace mxd::kernels
