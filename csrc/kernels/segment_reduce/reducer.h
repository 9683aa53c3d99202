// The base of the reductions by segment: rows in, rows out, and what a unit has of segments that
// are not wholly in it.
//
// In UB a chunk's entries are slots: slot 0 for what is carried over from the chunk before, then an
// entry each. `Derived` reduces the slots of each segment to a row.
#pragma once

#include "../common/run.h"
#include "chunks.h"

namespace mxd::kernels::segment_reduce {

// Slots [begin, end) of a segment.
struct Slots {
  int32_t begin, end;
};

template <typename T, typename Derived, int32_t kOutBuffers = 2>
class Reducer {
 public:
  __aicore__ inline void Process() {
    for (channel_ = 0; channel_ < tiling_.channels; channel_ += tiling_.slice) {
      width_ = MinOf(tiling_.slice, tiling_.channels - channel_);
      pitch_ = Pitch(width_);
      chunks_.Begin();
      carried_ = false;
      Chunk now, next, after;
      bool has_now = chunks_.Next(now);
      bool has_next = has_now && chunks_.Next(next);
      if (has_now) Load(now);
      while (has_now) {
        const bool has_after = has_next && chunks_.Next(after);
        if (has_next) Load(next);
        chunks_.Enter(now);
        static_cast<Derived*>(this)->Compute(now);
        chunks_.Free(now);
        now = next, next = after;
        has_now = has_next, has_next = has_after;
      }
      chunks_.End();
    }
    SetAtomicNone();
  }

 protected:
  static constexpr bool kConvert = sizeof(T) != sizeof(float);
  static constexpr int32_t kBlockElements = kBlockBytes / static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kInBuffers = 2;

  __aicore__ inline Reducer(TPipe& pipe, const SegmentReduceTiling& tiling, GM_ADDR x, GM_ADDR rows,
                            GM_ADDR begins, GM_ADDR splits, GM_ADDR out, GM_ADDR partials,
                            int32_t most_rows = 0)
      : pipe_(pipe), tiling_(tiling), chunks_(pipe, tiling, rows, begins, splits) {
    Bind(x_, x, out_, out, partials_, partials);
    const int32_t pitch = Pitch(MinOf(tiling.slice, tiling.channels));
    most_ = RoundUp((tiling.chunk + 1) * pitch, kLanes);
    most_out_ = most_rows > 0 ? RoundUp(most_rows * pitch, kLanes) + kLanes : most_;
    pipe.InitBuffer(in_queue_, kInBuffers, most_ * sizeof(T));
    pipe.InitBuffer(out_queue_, kOutBuffers, most_out_ * sizeof(T));
    pipe.InitBuffer(partial_queue_, 2, Pitch(kSegmentSlice) * kWord);
    carry_ = Take<float>(pipe, Pitch(kSegmentSlice));
    if constexpr (kConvert) {
      values_ = Take<float>(pipe, most_);
      sums_ = Take<float>(pipe, most_out_);
      Duplicate(values_, 0.0f, most_);
    }
    Clear(in_queue_, kInBuffers);
  }

  // Vector instructions work on whole repeats, so they also read lanes behind the rows: these must
  // hold numbers.
  template <typename Queue>
  __aicore__ inline void Clear(Queue& queue, int32_t buffers) {
    for (int32_t i = 0; i < buffers; i++) {
      LocalTensor<int32_t> buffer = queue.template AllocTensor<int32_t>();
      Duplicate(buffer, 0, static_cast<int32_t>(buffer.GetSize()));
      queue.EnQue(buffer);
      buffer = queue.template DeQue<int32_t>();
      PipeBarrier<PIPE_V>();
      queue.FreeTensor(buffer);
    }
  }

  // Elements of a row in UB.
  __aicore__ inline static int32_t Pitch(int32_t width) { return RoundUp(width, kBlockElements); }

  // Calls body(slot, run) for each run of the chunk's entries, whose rows are `bytes` apart or
  // several times that.
  template <typename Body>
  __aicore__ inline void ForEachRun(const Chunk& chunk, int32_t bytes, const Body& body) {
    constexpr int32_t kMostBytes = 1 << 30;
    Runs<int32_t> runs(chunks_.Rows(chunk));
    runs.Seek(Chunks::kHeader + chunk.loaded, Chunks::kHeader + chunk.loaded_end);
    while (!runs.Done()) {
      const int32_t slot = runs.at() - Chunks::kHeader + 1;
      body(slot, runs.Next(chunk.entries, MaxOf(kMostBytes / bytes, 1)));
    }
  }

  // The rows of a run to their slots.
  template <typename U>
  __aicore__ inline void LoadRun(const GlobalTensor<U>& from, const LocalTensor<U>& to,
                                 int32_t slot, const Run& run) {
    constexpr int32_t kSize = static_cast<int32_t>(sizeof(U));
    const int32_t channels = tiling_.channels, bytes = width_ * kSize;
    const int32_t padded = RoundUp(bytes, kBlockBytes);
    const uint16_t gap_in_ub = static_cast<uint16_t>((pitch_ * kSize - padded) / kBlockBytes);
    const bool dense = width_ == channels && bytes == pitch_ * kSize;
    const auto padding = static_cast<uint8_t>((padded - bytes) / kSize);
    const DataCopyPadExtParams<U> pad{padding != 0, 0, padding, U{}};
    const int64_t first = static_cast<int64_t>(run.first) * channels + channel_;
    if (dense && run.gap == 1)
      DataCopyPad(to[slot * pitch_], from[first],
                  {1, static_cast<uint32_t>(run.count * bytes), 0, 0, 0}, pad);
    else
      DataCopyPad(to[slot * pitch_], from[first],
                  {static_cast<uint16_t>(run.count), static_cast<uint32_t>(bytes),
                   static_cast<uint32_t>(run.gap * channels * kSize - bytes), gap_in_ub, 0},
                  pad);
  }

  template <typename U>
  __aicore__ inline void LoadRows(const Chunk& chunk, const GlobalTensor<U>& from,
                                  const LocalTensor<U>& to) {
    ForEachRun(chunk, tiling_.channels * static_cast<int32_t>(sizeof(U)),
               [&](int32_t slot, const Run& run) __aicore__ { LoadRun(from, to, slot, run); });
  }

  __aicore__ inline void Load(Chunk& chunk) {
    chunks_.Open(chunk);
    LocalTensor<T> rows = in_queue_.template AllocTensor<T>();
    static_cast<Derived*>(this)->LoadSlots(chunk, rows);
    in_queue_.EnQue(rows);
  }
  __aicore__ inline void LoadSlots(const Chunk& chunk, const LocalTensor<T>& slots) {
    LoadRows(chunk, x_, slots);
  }

  // The chunk's slots in fp32, that of the carried row included.
  __aicore__ inline LocalTensor<float> Values(const Chunk& chunk) {
    rows_ = in_queue_.template DeQue<T>();
    LocalTensor<float> values;
    if constexpr (kConvert) {
      values = values_;
      const int32_t begin = (1 + chunk.loaded) * pitch_;
      const int32_t count = (chunk.loaded_end - chunk.loaded) * pitch_;
      if (count > 0) Cast(values[begin], rows_[begin], RoundMode::CAST_NONE, count);
    } else {
      values = rows_;
    }
    if (carried_) DataCopy(values, carry_, static_cast<uint32_t>(pitch_));
    PipeBarrier<PIPE_V>();
    return values;
  }
  __aicore__ inline void FreeValues() { in_queue_.FreeTensor(rows_); }

  // Where the chunk's results go: a row for each segment that ends here, then one for the segment
  // that goes on behind the chunk.
  __aicore__ inline LocalTensor<float> Results() {
    results_ = out_queue_.template AllocTensor<T>();
    if constexpr (kConvert)
      return sums_;
    else
      return results_;
  }

  // The slots that have a row.
  __aicore__ inline Slots Filled(const Chunk& chunk) const {
    return {carried_ ? 0 : 1 + chunk.loaded, 1 + chunk.loaded_end};
  }

  // Calls body(row, slots, segments, entries) for each segment that ends here, and for the part
  // here of the segment that goes on behind the chunk. Neighbours with one slot each, or with none,
  // come in one call: `segments` of them. `entries` is how many entries a segment has in all
  // chunks.
  template <typename Body>
  __aicore__ inline void ForEachSegment(const Chunk& chunk, const Body& body) {
    auto begins = chunks_.Begins(chunk);
    const Slots filled = Filled(chunk);
    const int32_t to_slot = 1 - chunk.entry;
    int32_t slot = filled.begin, begin = begins.Get(0);
    for (int32_t row = 0; row < chunk.segments;) {
      int32_t end = begins.Get(row + 1);
      const int32_t last = MaxOf(end + to_slot, filled.begin), slots = last - slot;
      int32_t together = 1;
      const int32_t entries = end - begin;
      if (row > 0 && slots <= 1) {
        while (row + together < chunk.segments) {
          const int32_t next = begins.Get(row + together + 1);
          if (next - end != slots) break;
          end = next;
          ++together;
        }
      }
      body(row, Slots{slot, slot + together * slots}, together, entries);
      row += together;
      slot += together * slots;
      begin = end;
    }
    if (slot < filled.end) body(chunk.segments, Slots{slot, filled.end}, 1, 0);
    goes_on_ = slot < filled.end;
  }

  // Whether the first segment that ends here began in an earlier unit.
  __aicore__ inline bool IsHead(const Chunk& chunk) {
    return chunk.segments > 0 && chunks_.Begins(chunk).Get(0) < chunks_.UnitEntry();
  }

  // Writes `values`, and what Derived keeps beside them: `count` of the chunk's segments from the
  // one with the number `first` on, which end here, to the output. Behind the `last` of them comes
  // what goes on: to the partials or to the next chunk.
  __aicore__ inline void Write(const Chunk& chunk, const LocalTensor<float>& values, int32_t first,
                               int32_t count, bool last) {
    const int32_t head = first == 0 && IsHead(chunk);
    Derived* const derived = static_cast<Derived*>(this);
    if (last) carried_ = goes_on_ && !chunk.ends_unit;
    if (last && carried_) {
      DataCopy(carry_, values[count * pitch_], static_cast<uint32_t>(pitch_));
      derived->Carry(count);
      PipeBarrier<PIPE_V>();
    }
    if (head) {
      WritePartial(2 * chunk.unit, values);
      derived->WriteMorePartial(2 * chunk.unit, 0);
    }
    if (last && goes_on_ && chunk.ends_unit) {
      WritePartial(2 * chunk.unit + 1, values[count * pitch_]);
      derived->WriteMorePartial(2 * chunk.unit + 1, count);
    }
    const int32_t whole = count - head;
    if constexpr (kConvert) {
      if (whole > 0) Cast(results_, values[head * pitch_], RoundMode::CAST_RINT, whole * pitch_);
    }
    out_queue_.EnQue(results_);
    results_ = out_queue_.template DeQue<T>();
    WriteRows(out_, results_[kConvert ? 0 : head * pitch_], chunk.segment + first + head, whole);
    out_queue_.FreeTensor(results_);
    derived->WriteMore(chunk.segment + first + head, head, whole);
  }
  __aicore__ inline void Carry(int32_t) {}
  __aicore__ inline void WriteMorePartial(int32_t, int32_t) {}
  __aicore__ inline void WriteMore(int32_t, int32_t, int32_t) {}

  template <typename U>
  __aicore__ inline void WriteRows(const GlobalTensor<U>& to, const LocalTensor<U>& from,
                                   int32_t row, int32_t count) {
    if (count == 0) return;
    constexpr int32_t kSize = static_cast<int32_t>(sizeof(U));
    const int32_t bytes = width_ * kSize, in_ub = pitch_ * kSize;
    const int64_t first = static_cast<int64_t>(row) * tiling_.channels + channel_;
    if (tiling_.add_output) SetAtomicAdd<U>();
    if (width_ == tiling_.channels && bytes == in_ub)
      DataCopyPad(to[first], from, {1, static_cast<uint32_t>(count * bytes), 0, 0, 0});
    else
      DataCopyPad(to[first], from,
                  {static_cast<uint16_t>(count), static_cast<uint32_t>(bytes),
                   static_cast<uint32_t>((in_ub - RoundUp(bytes, kBlockBytes)) / kBlockBytes),
                   static_cast<uint32_t>((tiling_.channels - width_) * kSize), 0});
    if (tiling_.add_output) SetAtomicNone();
  }

  __aicore__ inline void WritePartial(int32_t row, const LocalTensor<float>& from) {
    StagePartial(partials_, row, from);
  }
  template <typename U>
  __aicore__ inline void StagePartial(const GlobalTensor<U>& to, int32_t row,
                                      const LocalTensor<U>& from) {
    LocalTensor<U> staged = partial_queue_.template AllocTensor<U>();
    DataCopy(staged, from, static_cast<uint32_t>(pitch_));
    partial_queue_.EnQue(staged);
    staged = partial_queue_.template DeQue<U>();
    DataCopyPad(to[static_cast<int64_t>(row) * tiling_.pitch + channel_], staged, Words(width_));
    partial_queue_.FreeTensor(staged);
  }

  TPipe& pipe_;
  const SegmentReduceTiling tiling_;
  Chunks chunks_;
  int32_t channel_ = 0, width_ = 0, pitch_ = 0;  // of the slice
  int32_t most_, most_out_;                      // elements of a buffer of slots, of results
  bool carried_ = false;                         // whether carry_ holds a row of the chunk before
  bool goes_on_ = false;                         // whether a segment goes on behind the chunk
  GlobalTensor<T> x_, out_;
  GlobalTensor<float> partials_;
  TQue<TPosition::VECIN, kInBuffers> in_queue_;
  TQue<TPosition::VECOUT, kOutBuffers> out_queue_;
  TQue<TPosition::VECOUT, 2> partial_queue_;
  LocalTensor<T> rows_, results_;
  LocalTensor<float> values_, sums_, carry_;
};

}  // namespace mxd::kernels::segment_reduce
