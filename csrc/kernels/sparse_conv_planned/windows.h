// Windows of input rows in UB, which blocks are gathered from: rows that follow each other. Some
// are loaded ahead while another is in use.
//
// A range is the input rows of a kernel point and section. A window holds one range, and those
// behind it as long as there is room. It takes two of the four slots that there are, or one where
// ranges are short: those of a tile with sections are, and lie apart.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../sparse_conv/pairs.h"
#include "kernel_operator.h"
#include "plan.h"

namespace mxd::kernels::sparse_conv_planned {

template <typename T>
class Windows {
  static constexpr int32_t kSize = static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kSlots = 4, kWide = 2;  // of a window, at most

 public:
  static constexpr int32_t kUbBytes = kSlots / kWide * kWindowBytes;

  __aicore__ inline Windows(TPipe& pipe, GM_ADDR features, const SparseConvTiling& tiling)
      : tiling_(tiling),
        features_(features, tiling.in_step, tiling.in_step),
        slot_rows_((WindowRows(tiling.in_step * kSize) + 2) / kWide),
        slots_(Take<T>(pipe, kSlots * slot_rows_ * tiling.in_step)) {
    free_.Init(pipe, kSlots);
    full_.Init(pipe, kSlots);
    Clear(0);
  }
  __aicore__ inline void FreeAll() { free_.SetAll(); }
  __aicore__ inline void End() {
    Drop();
    Leave();
    free_.WaitAll();
  }

  __aicore__ inline int32_t row_blocks() const { return features_.row_blocks(); }
  __aicore__ inline int32_t row_bytes() const { return row_blocks() * kBlockBytes; }
  __aicore__ inline int32_t most_rows() const { return RoomOf(kWide); }
  // The window in use: its rows [begin, end), in UB between two rows of zeros.
  __aicore__ inline int32_t begin() const { return used_.begin; }
  __aicore__ inline int32_t end() const { return used_.end; }
  __aicore__ inline LocalTensor<T> rows() const { return Slot(used_.slot); }

  // Takes over the ranges of a tile from its record.
  __aicore__ inline void Open(const LocalTensor<int64_t>& record, int32_t sections) {
    short_ranges_ = sections > 1;
    ranges_ = tiling_.volume * sections;
    for (int32_t i = 0; i < ranges_; i += 2) {
      const uint64_t low = record.GetValue((kPlanLowest + i) / 2);
      const uint64_t high = record.GetValue((kPlanHighest + i) / 2);
      const int32_t here = i % sections * tiling_.volume + i / sections;
      const int32_t next = sections == 1 ? here + 1 : here + tiling_.volume;
      lowest_[here] = static_cast<int32_t>(low);
      lowest_[next] = static_cast<int32_t>(low >> 32);
      highest_[here] = static_cast<int32_t>(high);
      highest_[next] = static_cast<int32_t>(high >> 32);
    }
  }
  // Begins with the first range, of the rows from element `column` of the features on.
  __aicore__ inline void Begin(int64_t column) {
    Drop();
    column_ = column;
    used_.begin = used_.end = 0;
    ahead_ = 0;
    LoadAhead();
  }

  // Whether a range is from `low` to `high`; in the window.
  __aicore__ inline bool Within(int32_t low, int32_t high, int32_t range) const {
    return lowest_[range] >= low && highest_[range] <= high;
  }
  __aicore__ inline bool Holds(int32_t range) const { return Within(begin(), end() - 1, range); }
  // The input rows of a range, and of those behind it as long as that takes no more windows.
  __aicore__ inline void FindRange(int32_t range, int32_t& low, int32_t& high) const {
    low = lowest_[range];
    high = highest_[range];
    const bool is_short = short_ranges_ && high - low < RoomOf(1);
    const int32_t room = RoomOf(is_short ? 1 : kWide), windows = (high - low) / room;
    while (++range < ranges_) {
      const int32_t lower = MinOf(low, lowest_[range]), higher = MaxOf(high, highest_[range]);
      if ((higher - lower) / room > windows) break;
      low = lower;
      high = higher;
    }
  }

  // Goes on to the window of rows [begin, end), which a range needs; it is the next one, if that
  // was loaded ahead.
  __aicore__ inline void Use(int32_t range, int32_t begin, int32_t end) {
    const bool is_next = loading_ > 0 && next().begin == begin && next().end == end;
    if (!is_next) Drop();
    Leave();
    if (!is_next) {
      Load(begin, end);
      ahead_ = range + 1;
    }
    used_ = next();
    first_ = (first_ + 1) % kSlots;
    --loading_;
    full_.Wait(used_.slot);
    Clear(0);  // a window of two slots may have been here before
    Clear(end - begin + 1);
    PipeBarrier<PIPE_V>();
  }
  // Begins to load rows [begin, end), for which there must be room.
  __aicore__ inline void Load(int32_t begin, int32_t end) {
    const Window window{begin, end, NextSlot(end - begin), Width(end - begin)};
    for (int32_t i = 0; i < window.width; ++i) free_.Wait(window.slot + i);
    features_.Copy(Slot(window.slot)[tiling_.in_step], Run{begin, 1, end - begin}, column_);
    full_.Set(window.slot);
    next_slot_ = window.slot + window.width;
    windows_[(first_ + loading_++) % kSlots] = window;
  }
  // Begins to load what the ranges need that no window before serves, as long as there is room.
  __aicore__ inline void LoadAhead() {
    for (;;) {
      const Window& last = loading_ > 0 ? windows_[(first_ + loading_ - 1) % kSlots] : used_;
      while (ahead_ < ranges_ && Within(last.begin, last.end - 1, ahead_)) ++ahead_;
      if (ahead_ == ranges_) return;
      int32_t low, high;
      FindRange(ahead_, low, high);
      if (high - low >= most_rows() || !HasRoom(high - low + 1)) return;
      Load(low, high + 1);
    }
  }

 private:
  struct Window {
    int32_t begin, end, slot, width;
  };

  __aicore__ inline LocalTensor<T> Slot(int32_t slot) const {
    return slots_[slot * slot_rows_ * tiling_.in_step];
  }
  __aicore__ inline const Window& next() const { return windows_[first_]; }
  // Rows that a window of so many slots holds, and slots that a window of so many rows takes.
  __aicore__ inline int32_t RoomOf(int32_t width) const { return width * slot_rows_ - 2; }
  __aicore__ inline int32_t Width(int32_t rows) const { return rows <= RoomOf(1) ? 1 : kWide; }
  __aicore__ inline int32_t NextSlot(int32_t rows) const {
    return RoundUp(next_slot_, Width(rows)) % kSlots;
  }
  // Whether the slots of so many rows are free.
  __aicore__ inline bool HasRoom(int32_t rows) const {
    const int32_t begin = NextSlot(rows), end = begin + Width(rows);
    bool room = begin >= used_.slot + used_.width || end <= used_.slot;
    for (int32_t i = 0; i < loading_; ++i) {
      const Window& other = windows_[(first_ + i) % kSlots];
      room = room && (begin >= other.slot + other.width || end <= other.slot);
    }
    return room;
  }
  __aicore__ inline void Clear(int32_t row) {
    Duplicate(rows()[row * tiling_.in_step].template ReinterpretCast<int32_t>(), 0,
              tiling_.in_step * kSize / kWord);
  }
  // Leaves the window in use.
  __aicore__ inline void Leave() {
    for (int32_t i = 0; i < used_.width; ++i) free_.Set(used_.slot + i);
    used_.width = 0;
  }
  // Gives up what is being loaded.
  __aicore__ inline void Drop() {
    for (; loading_ > 0; --loading_) {
      full_.Wait(next().slot);
      for (int32_t i = 0; i < next().width; ++i) free_.Set(next().slot + i);
      first_ = (first_ + 1) % kSlots;
    }
  }

  const SparseConvTiling& tiling_;
  const sparse_conv::Rows<T> features_;
  const int32_t slot_rows_;
  LocalTensor<T> slots_;  // [kSlots, slot_rows_, in_step]
  Events<HardEvent::V_MTE2> free_;
  Events<HardEvent::MTE2_V> full_;
  Window used_{0, 0, 0, 0};
  Window windows_[kSlots];  // being loaded: `loading_`, from first_ on, in turn
  int32_t first_ = 0, loading_ = 0, next_slot_ = 0;
  int64_t column_ = 0;
  int32_t ranges_ = 0, ahead_ = 0;  // that the windows until now do not serve
  bool short_ranges_ = false;
  int32_t lowest_[kPlanRanges], highest_[kPlanRanges];
};

}  // namespace mxd::kernels::sparse_conv_planned
