// The different rows that a chunk's entries name, in ascending order: two rows of any distance, or
// more of one, are loaded by one DMA, and a row that several entries name is loaded once.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../sort/merge.h"

namespace mxd::kernels::segment_reduce {

class SortedRows {
  static constexpr int32_t kSort32 = 32;

 public:
  // Words of Places before that of the first entry; the last one is 0, the place of slot 0.
  static constexpr int32_t kHeader = kBlockWords;

  // Of lists of at most `most` entries. Behind the places of entries are `more` ones.
  __aicore__ inline SortedRows(TPipe& pipe, int32_t most, int32_t more)
      : most_(RoundUp(most, kLanes)) {
    for (int32_t i = 0; i < 2; i++) {
      pairs_[i] = Take<float>(pipe, kPairWords * most_);
      places_[i] = Take<int32_t>(pipe, kHeader + most_ + more);
      Duplicate(places_[i], 0, kHeader + most_ + more);
    }
    Take(pipe, most_, numbers_, score_, entry_, different_);
    Take(pipe, kHeader + most_, rows_, sums_);
    mask_ = Take<uint8_t>(pipe, most_ / 8);
    Duplicate(rows_, -1, kHeader);
    Duplicate(different_, 0, most_);
    Duplicate(sums_, 0, kHeader + most_);
    CreateVecIndex(numbers_, 0, most_);
    PipeBarrier<PIPE_V>();
    Muls(numbers_, numbers_, kWord, most_);
    PipeBarrier<PIPE_V>();
  }

  // Sorts `count` entries of a list, from the word `first` on.
  __aicore__ inline void Sort(const LocalTensor<int32_t>& list, int32_t first, int32_t count) {
    const int32_t padded = RoundUp(count, kSort32);
    count_ = count;
    SetWait<HardEvent::S_V>();
    Duplicate(score_, kSortPad + kKeyToScore, padded);
    PipeBarrier<PIPE_V>();
    Gather(score_, list, numbers_.ReinterpretCast<uint32_t>(), first * kWord, count);
    PipeBarrier<PIPE_V>();
    Adds(score_, score_, kKeyToScore, count);
    PipeBarrier<PIPE_V>();
    const LocalTensor<int32_t> sorted = SortPairs(numbers_, padded);
    PairWords(score_, sorted, 0, padded);
    PairWords(entry_, sorted, 1, padded);
    PipeBarrier<PIPE_V>();
    Adds(rows_[kHeader], score_, -kKeyToScore, count);
    PipeBarrier<PIPE_V>();
    // 1 where a row differs from the one before.
    Gather(score_, rows_, numbers_.ReinterpretCast<uint32_t>(), (kHeader - 1) * kWord, count);
    PipeBarrier<PIPE_V>();
    Sub(score_, rows_[kHeader], score_, count);
    PipeBarrier<PIPE_V>();
    Mins(sums_[kHeader], score_, 1, count);
    PipeBarrier<PIPE_V>();
    CompareScalar(mask_, sums_[kHeader], 1, CMPMODE::EQ, RoundUp(count, kLanes));
    PipeBarrier<PIPE_V>();
    uint64_t kept = 0;
    GatherMask(different_, rows_[kHeader], mask_.ReinterpretCast<uint32_t>(), true,
               static_cast<uint32_t>(count), {1, 1, 8, 0}, kept);
    kept_ = static_cast<int32_t>(kept);
  }

  // Waits for the sort. The different rows, and how many they are.
  __aicore__ inline void Wait() { SetWait<HardEvent::V_S>(); }
  __aicore__ inline const LocalTensor<int32_t>& rows() const { return different_; }
  __aicore__ inline int32_t kept() const { return kept_; }

  // Finds where the rows of the entries are, in bytes, where the different rows come one after the
  // other behind slot 0, `pitch` bytes each.
  __aicore__ inline void FindPlaces(int32_t pitch) {
    const int32_t padded = RoundUp(count_, kSort32);
    buffer_ = 1 - buffer_;
    if (kept_ < count_) {
      SumUp();
      Muls(sums_[kHeader], sums_[kHeader], pitch, count_);
    } else {  // 1, 2, 3 ...
      Muls(sums_[kHeader], numbers_, pitch / kWord, count_);
      PipeBarrier<PIPE_V>();
      Adds(sums_[kHeader], sums_[kHeader], pitch, count_);
    }
    const LocalTensor<float> score = score_.ReinterpretCast<float>();
    Cast(score, entry_, RoundMode::CAST_NONE, padded);
    PipeBarrier<PIPE_V>();
    Muls(score, score, -1.0f, padded);
    PipeBarrier<PIPE_V>();
    PairWords(places_[buffer_][kHeader], SortPairs(sums_[kHeader], padded), 1, count_);
    PipeBarrier<PIPE_V>();
  }
  // What FindPlaces found last.
  __aicore__ inline const LocalTensor<int32_t>& places() const { return places_[buffer_]; }

 private:
  // The pairs of score_ and `numbers`, the highest score first.
  __aicore__ inline LocalTensor<int32_t> SortPairs(const LocalTensor<int32_t>& numbers,
                                                   int32_t padded) {
    Sort32(pairs_[0], score_.ReinterpretCast<float>(), numbers.ReinterpretCast<uint32_t>(),
           padded / kSort32);
    PipeBarrier<PIPE_V>();
    return MergeEqual(pairs_[0], pairs_[1], kSort32, padded).ReinterpretCast<int32_t>();
  }

  // Each number of sums_ becomes the sum of all up to it.
  __aicore__ inline void SumUp() {
    const LocalTensor<int32_t> sums = sums_[kHeader];
    for (int32_t step = 1; step < count_; step *= 2) {
      if (step < kBlockWords) {
        Gather(score_, sums_, numbers_.ReinterpretCast<uint32_t>(), (kHeader - step) * kWord,
               count_);
        PipeBarrier<PIPE_V>();
        Add(sums, sums, score_, count_);
      } else {
        Adds(score_, sums, 0, count_ - step);
        PipeBarrier<PIPE_V>();
        Add(sums[step], sums[step], score_, count_ - step);
      }
      PipeBarrier<PIPE_V>();
    }
  }

  const int32_t most_;
  LocalTensor<float> pairs_[2];
  LocalTensor<int32_t> places_[2];
  LocalTensor<int32_t> numbers_;  // 0, 4, 8 ...
  LocalTensor<int32_t> score_, entry_, rows_, different_, sums_;
  LocalTensor<uint8_t> mask_;
  int32_t count_ = 0, kept_ = 0, buffer_ = 0;
};

}  // namespace mxd::kernels::segment_reduce
