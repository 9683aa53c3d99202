// Rows of one side in UB: row r is at place r % rows(), so that the rows of one chunk make room for
// those of the next one as both move on.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../sparse_conv/pairs.h"
#include "kernel_operator.h"

namespace mxd::kernels::sparse_conv_weight_grad {

// A use of rows: Load, or StartList, LoadList and EndList; then Wait, what reads them, and Free.
// The rows of a use may be loaded before those of the last one are read.
template <typename T>
class RowRing {
  static constexpr int32_t kSize = static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kUses = 3;  // that are not over

 public:
  // Of `channels` a row, `taken` are wanted.
  __aicore__ inline RowRing(TPipe& pipe, GM_ADDR rows, int64_t channels, int32_t taken,
                            int32_t ring_rows)
      : from_(rows, channels, taken),
        taken_(taken),
        rows_(ring_rows),
        ring_(Take<T>(pipe, (ring_rows + 1) * taken)) {
    free_.Init(pipe, kUses);
    full_.Init(pipe, kUses);
    // The place behind the last one is a row of zeros.
    Duplicate(ring_[rows_ * taken_].template ReinterpretCast<int32_t>(), 0, row_bytes() / kWord);
  }
  __aicore__ inline void End() { WaitUntilOver(loaded_ - 1); }

  __aicore__ inline const LocalTensor<T>& Get() const { return ring_; }
  __aicore__ inline int32_t rows() const { return rows_; }
  __aicore__ inline int32_t row_bytes() const { return taken_ * kSize; }

  // From now on, channels from `column` on are wanted.
  __aicore__ inline void Open(int64_t column) {
    if (column == column_) return;
    column_ = column;
    Forget();
  }

  // Whether the rows from `low` to `high` fit, and cost less than `wanted` rows one by one.
  __aicore__ inline bool Holds(int32_t low, int32_t high, int32_t wanted) const {
    constexpr int32_t kShortest = 32 * 110;  // bytes that a core reads in the time of a short DMA
    if (high - low >= rows_) return false;
    const int64_t missing = high + 1 - (Continues(low) ? MinOf(end_, high + 1) : low);
    return missing * row_bytes() <= static_cast<int64_t>(wanted) * kShortest;
  }
  // Loads those rows from `low` to `high` that are not there.
  __aicore__ inline void Load(int32_t low, int32_t high) {
    const bool continues = Continues(low);
    const int32_t begin = continues ? end_ : low, end = MaxOf(begin, high + 1);
    WaitUntilOver(LastInTheWay(low, high));
    CopyRows(begin, end - begin);
    begin_ = MaxOf(continues ? begin_ : low, end - rows_);
    end_ = end;
    low_[loaded_ % kUses] = low;
    by_list_ = false;
    full_.Set(loaded_++ % kUses);
  }
  // Whether Load is possible before the current use is over.
  __aicore__ inline bool HasRoom(int32_t low, int32_t high) const {
    return LastInTheWay(low, high) < freed_;
  }

  // Rows by list, one behind the other, take one half of the places, and then the other. Returns
  // the first place.
  __aicore__ inline int32_t StartList() {
    WaitUntilOver(loaded_ - (by_list_ ? 2 : 1));
    by_list_ = true;
    Forget();
    return loaded_ % 2 * (rows_ / 2);
  }
  // Loads the rows of the list's entries [begin, end), from `place` on.
  __aicore__ inline void LoadList(const LocalTensor<int32_t>& list, int32_t begin, int32_t end,
                                  int32_t place) {
    Runs<int32_t> runs(list);
    runs.Seek(begin, end);
    while (!runs.Done()) {
      const int32_t at = place + runs.at() - begin;
      from_.Copy(ring_[at * taken_], runs.Next(end - begin, from_.farthest()), column_);
    }
  }
  __aicore__ inline void EndList() { full_.Set(loaded_++ % kUses); }

  // Holds back the vector unit until the rows of the next use are there.
  __aicore__ inline void Wait() { full_.Wait(freed_ % kUses); }
  __aicore__ inline void Free() { free_.Set(freed_++ % kUses); }

 private:
  __aicore__ inline bool Continues(int32_t low) const { return low >= begin_ && low <= end_; }
  __aicore__ inline void Forget() { begin_ = end_ = -1; }

  // The last use that must be over when rows are loaded: its own are written over, or its event is
  // set again.
  __aicore__ inline int32_t LastInTheWay(int32_t low, int32_t high) const {
    int32_t last = loaded_ - kUses;
    for (int32_t use = MaxOf(last, 0); use < loaded_; ++use)
      if (!Continues(low) || low_[use % kUses] < high + 1 - rows_) last = use;
    return last;
  }

  __aicore__ inline void CopyRows(int32_t begin, int32_t count) {
    for (int32_t copied; count > 0; begin += copied, count -= copied) {
      const int32_t place = begin % rows_;
      copied = MinOf(count, rows_ - place);
      from_.Copy(ring_[place * taken_], Run{begin, 1, copied}, column_);
    }
  }

  __aicore__ inline void WaitUntilOver(int32_t use) {
    for (; over_ <= use; ++over_) free_.Wait(over_ % kUses);
  }

  const sparse_conv::Rows<T> from_;
  const int32_t taken_, rows_;
  LocalTensor<T> ring_;
  Events<HardEvent::V_MTE2> free_;
  Events<HardEvent::MTE2_V> full_;
  int64_t column_ = -1;
  bool by_list_ = false;                       // the last use
  int32_t begin_ = -1, end_ = -1;              // the rows that are there
  int32_t loaded_ = 0, freed_ = 0, over_ = 0;  // number of uses; `over_` were waited for
  int32_t low_[kUses];                         // the first row of the last uses
};

}  // namespace mxd::kernels::sparse_conv_weight_grad
