// The chunks that a core works on, unit by unit, and their lists in UB: rows and begins. Chunks are
// asked for ahead of their use, and their lists are loaded ahead of their rows.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/index_list.h"
#include "../segment_reduce_tiling.h"
#include "kernel_operator.h"
#include "list.h"

namespace mxd::kernels::segment_reduce {

struct Chunk {
  int32_t unit, list;  // which of the lists in UB
  bool begins_unit, ends_unit;
  int32_t segment, segments;  // the first one that does not end earlier, and how many end here
  int32_t entry, entries;
  int32_t loaded, loaded_end;  // entries of the chunk whose rows are loaded, counted from `entry`
};

class Chunks {
  static constexpr int32_t kLists = 3;
  static constexpr int32_t kSplits = RoundUp(kSegmentUnit + 1, kBlockWords);

 public:
  // Words before the row numbers, all -1. The last one stands for the row carried over.
  static constexpr int32_t kHeader = kBlockWords;

  __aicore__ inline Chunks(TPipe& pipe, const SegmentReduceTiling& tiling, GM_ADDR rows,
                           GM_ADDR begins, GM_ADDR splits)
      : tiling_(tiling),
        rows_words_(kHeader + RoundUp(tiling.chunk, kBlockWords)),
        begins_words_(RoundUp(2 * (tiling.chunk + 1), kBlockWords)),
        splits_in_ub_(Take<int32_t>(pipe, 2 * kSplits)),
        rows_in_ub_(Take<int32_t>(pipe, kLists * rows_words_)),
        begins_in_ub_(Take<int32_t>(pipe, kLists * begins_words_)) {
    Bind(rows_, rows, begins_, begins, splits_, splits);
    splits_loaded_.Init(pipe, 2);
    lists_loaded_.Init(pipe, kLists);
    lists_free_.Init(pipe, kLists);
    for (int32_t list = 0; list < kLists; list++)
      Duplicate(rows_in_ub_[list * rows_words_], -1, kHeader);
  }

  __aicore__ inline void Begin() {
    lists_free_.SetAll();
    unit_ = static_cast<int32_t>(GetBlockIdx());
    number_ = 0;
    chunk_ = chunks_end_ = 0;
    buffer_ = 0;
    LoadSplits();
  }
  __aicore__ inline void End() { lists_free_.WaitAll(); }

  // The next chunk, whose lists are being loaded then; false behind the last one.
  __aicore__ inline bool Next(Chunk& chunk) {
    const bool begins_unit = chunk_ == chunks_end_;
    if (begins_unit) {
      if (unit_ >= tiling_.units) return false;
      splits_loaded_.Wait(buffer_);
      unit_in_use_ = unit_;
      splits_in_use_ = buffer_ * kSplits;
      chunk_ = first_ = unit_ * tiling_.unit;
      chunks_end_ = MinOf(chunk_ + tiling_.unit, tiling_.chunks);
      unit_ += static_cast<int32_t>(GetBlockNum());
      buffer_ = 1 - buffer_;
      LoadSplits();
    }
    const int32_t at = splits_in_use_ + chunk_ - first_;
    const int32_t split = splits_in_ub_.GetValue(at), next = splits_in_ub_.GetValue(at + 1);
    chunk.unit = unit_in_use_;
    chunk.list = number_ % kLists;
    chunk.begins_unit = begins_unit;
    chunk.segment = split;
    chunk.segments = next - split;
    chunk.entry = chunk_ * tiling_.chunk - split;
    const int64_t end = static_cast<int64_t>(chunk_ + 1) * tiling_.chunk;
    const int64_t all = static_cast<int64_t>(tiling_.segments) + tiling_.entries;
    chunk.entries = static_cast<int32_t>((end < all ? end : all) - next) - chunk.entry;
    chunk_++;
    number_++;
    chunk.ends_unit = chunk_ == chunks_end_;
    LoadLists(chunk);
    return true;
  }

  // Waits for the lists, and says which of the entries belong to a segment.
  __aicore__ inline void Open(Chunk& chunk) {
    lists_loaded_.Wait(chunk.list);
    const int32_t first = Begins(chunk).Get(0);
    chunk.loaded = MinOf(MaxOf(first - chunk.entry, 0), chunk.entries);
    chunk.loaded_end = chunk.entries;
    const int32_t last = chunk.segment + chunk.segments;
    if (last == tiling_.segments) {
      const int32_t end = Begins(chunk).Get(chunk.segments) - chunk.entry;
      chunk.loaded_end = MaxOf(MinOf(end, chunk.entries), chunk.loaded);
    }
  }

  __aicore__ inline LocalTensor<int32_t> Rows(const Chunk& chunk) const {
    return rows_in_ub_[chunk.list * rows_words_];
  }
  // Low words of begins[segment], begins[segment + 1] ...
  class Begin64 {
   public:
    __aicore__ inline explicit Begin64(const LocalTensor<int32_t>& list)
        : words_(list.template ReinterpretCast<int64_t>()) {}
    __aicore__ inline int32_t Get(int32_t at) { return static_cast<int32_t>(words_.GetValue(at)); }

   private:
    LocalTensor<int64_t> words_;
  };
  __aicore__ inline Begin64 Begins(const Chunk& chunk) const {
    return Begin64(begins_in_ub_[chunk.list * begins_words_]);
  }
  __aicore__ inline void Free(const Chunk& chunk) { lists_free_.Set(chunk.list); }

  // The first entry of a chunk's unit.
  __aicore__ inline int32_t UnitEntry() const { return unit_entry_; }
  __aicore__ inline void Enter(const Chunk& chunk) {
    if (chunk.begins_unit) unit_entry_ = chunk.entry;
  }

 private:
  // Loads the splits of unit_.
  __aicore__ inline void LoadSplits() {
    if (unit_ >= tiling_.units) return;
    const int32_t first = unit_ * tiling_.unit;
    const int32_t count = MinOf(tiling_.unit, tiling_.chunks - first) + 1;
    SetWait<HardEvent::S_MTE2>();
    DataCopyPad(splits_in_ub_[buffer_ * kSplits], splits_[first], Words(count), {false, 0, 0, 0});
    splits_loaded_.Set(buffer_);
  }

  __aicore__ inline void LoadLists(const Chunk& chunk) {
    lists_free_.Wait(chunk.list);
    SetWait<HardEvent::S_MTE2>();
    if (chunk.entries > 0) LoadList(Rows(chunk)[kHeader], rows_[chunk.entry], chunk.entries);
    DataCopyPad(begins_in_ub_[chunk.list * begins_words_],
                begins_[2 * static_cast<int64_t>(chunk.segment)], Words(2 * (chunk.segments + 1)),
                {false, 0, 0, 0});
    lists_loaded_.Set(chunk.list);
  }

  const SegmentReduceTiling tiling_;
  const int32_t rows_words_, begins_words_;
  GlobalTensor<int32_t> rows_, begins_, splits_;
  LocalTensor<int32_t> splits_in_ub_, rows_in_ub_, begins_in_ub_;
  Events<HardEvent::MTE2_S> splits_loaded_, lists_loaded_;
  Events<HardEvent::V_MTE2> lists_free_;
  int32_t unit_ = 0, unit_in_use_ = 0, unit_entry_ = 0;  // unit_: whose splits are loaded
  int32_t buffer_ = 0, splits_in_use_ = 0;
  int32_t chunk_ = 0, first_ = 0, chunks_end_ = 0, number_ = 0;
};

}  // namespace mxd::kernels::segment_reduce
