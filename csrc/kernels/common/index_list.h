// Lists of indices in UB, and the runs of equal distance in them.
#pragma once

#include "integers.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

// Reads a list of integers 8 bytes at a time: a scalar access of UB takes ten cycles.
template <typename T>
class IndexList {
 public:
  __aicore__ inline explicit IndexList(const LocalTensor<T>& list)
      : words_(list.template ReinterpretCast<int64_t>()) {}
  __aicore__ inline T Get(int32_t at) {
    constexpr int32_t kInWord = 8 / sizeof(T);
    if (at / kInWord != loaded_) {
      loaded_ = at / kInWord;
      word_ = words_.GetValue(loaded_);
    }
    return static_cast<T>(word_ >> (at % kInWord * 8 * static_cast<int32_t>(sizeof(T))));
  }

 private:
  LocalTensor<int64_t> words_;
  int64_t word_ = 0;
  int32_t loaded_ = -1;
};

// Entries of a list that follow each other: first, first + gap, first + 2 * gap ... One instruction
// with a stride moves or adds the rows that they name.
struct Run {
  int32_t first, gap, count;
};

// The runs of a part of a list.
template <typename T>
class Runs {
 public:
  __aicore__ inline explicit Runs(const LocalTensor<T>& list) : list_(list) {}

  // Goes to the list's entries [begin, end).
  __aicore__ inline void Seek(int32_t begin, int32_t end) {
    at_ = begin;
    end_ = end;
    index_ = begin < end ? list_.Get(begin) : 0;
  }
  // The entry that the next run begins with.
  __aicore__ inline int32_t at() const { return at_; }
  __aicore__ inline bool Done() const { return at_ >= end_; }

  // The next run: at most `most` entries, whose distance is from 1 to `farthest`.
  __aicore__ inline Run Next(int32_t most, int32_t farthest) {
    most = MinOf(most, end_ - at_);
    Run run{index_, 1, 1};
    int32_t next = at_ + 1 < end_ ? list_.Get(at_ + 1) : 0;
    if (most > 1 && next > index_ && next - index_ <= farthest) {
      run.gap = next - index_;
      do {
        index_ = next;
        ++run.count;
        next = at_ + run.count < end_ ? list_.Get(at_ + run.count) : 0;
      } while (run.count < most && next - index_ == run.gap);
    }
    index_ = next;
    at_ += run.count;
    return run;
  }

 private:
  IndexList<T> list_;
  int32_t at_ = 0, end_ = 0, index_ = 0;
};

}  // namespace mxd::kernels
