// What a chunk has of each segment, in pieces of few slots, level by level: one instruction takes
// the k-th slots of all pieces. For that the pieces are sorted by length, the longest first.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../segment_reduce_tiling.h"
#include "../sort/merge.h"

namespace mxd::kernels::segment_reduce {

// A piece of a segment behind its first one; its result belongs to the row of that.
struct MorePiece {
  int32_t row, slot, length;
};

class Pieces {
  static constexpr int32_t kMostMore = kSegmentMaxChunk / kSegmentPiece + 1;
  static constexpr int32_t kSort32 = 32;
  static constexpr int32_t kLengthBits = 8;
  static_assert(kSegmentPiece < 1 << kLengthBits);

 public:
  // Of fewer than `room` pieces.
  __aicore__ inline Pieces(TPipe& pipe, int32_t room) : room_(room), most_(RoundUp(room, kSort32)) {
    for (int32_t i = 0; i < 2; i++) {
      words_[i] = Take<int32_t>(pipe, most_);
      pairs_[i] = Take<float>(pipe, kPairWords * most_);
    }
    Take(pipe, most_, numbers_, slot_, sorted_slot_, order_, score_);
    read_.Init(pipe, 2);
    Duplicate(slot_, 0, most_);
    CreateVecIndex(numbers_, 0, most_);
    PipeBarrier<PIPE_V>();
    Muls(numbers_, numbers_, kWord, most_);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Begin() { read_.SetAll(); }
  __aicore__ inline void End() { read_.WaitAll(); }

  // Between Open and Close the slots of rows are put, in the order of the rows.
  __aicore__ inline void Open() {
    buffer_ = 1 - buffer_;
    read_.Wait(buffer_);
    count_ = more_ = 0;
    for (int32_t i = 0; i <= kSegmentPiece; i++) longer_[i] = 0;
  }
  // Slots [begin, end) of a row; false where there is no room left. All but the first
  // kSegmentPiece become pieces of their own.
  __aicore__ inline bool Put(int32_t begin, int32_t end) {
    const int32_t row = count_;
    const int32_t pieces = MaxOf(CeilDiv(end - begin, kSegmentPiece), 1);
    if (count_ + more_ + pieces >= room_) return false;
    PutPiece(begin, MinOf(end - begin, kSegmentPiece));
    for (begin += kSegmentPiece; begin < end; begin += kSegmentPiece)
      more_piece_[more_++] = MorePiece{row, begin, MinOf(end - begin, kSegmentPiece)};
    return true;
  }
  __aicore__ inline void Close() {
    rows_ = count_;
    for (int32_t i = 0; i < more_; i++) PutPiece(more_piece_[i].slot, more_piece_[i].length);
    if (count_ % 2 == 1) WriteWord(count_, 0);
    for (int32_t level = kSegmentPiece - 1; level >= 0; level--)
      longer_[level] += longer_[level + 1];
  }

  __aicore__ inline int32_t count() const { return count_; }
  // How many rows they are for, and how many pieces come behind those of the rows.
  __aicore__ inline int32_t rows() const { return rows_; }
  __aicore__ inline int32_t more() const { return more_; }
  __aicore__ inline const MorePiece& more(int32_t i) const { return more_piece_[i]; }
  // How many pieces have more than `level` slots.
  __aicore__ inline int32_t Longer(int32_t level) const {
    return level < kSegmentPiece ? longer_[level] : 0;
  }

  // Sorts the pieces by length.
  __aicore__ inline void Sort() {
    const LocalTensor<int32_t> words = words_[buffer_];
    const LocalTensor<int32_t> length = order_;
    const int32_t padded = RoundUp(count_, kSort32);
    SetWait<HardEvent::S_V>();
    ShiftRight(slot_, words, kLengthBits, count_);
    Duplicate(score_, -1.0f, padded);
    PipeBarrier<PIPE_V>();
    ShiftLeft(length, slot_, kLengthBits, count_);
    PipeBarrier<PIPE_V>();
    Sub(length, words, length, count_);
    PipeBarrier<PIPE_V>();
    read_.Set(buffer_);
    Cast(score_, length, RoundMode::CAST_NONE, count_);
    PipeBarrier<PIPE_V>();
    SortScores(order_, padded);
    Gather(sorted_slot_, slot_, order_.ReinterpretCast<uint32_t>(), 0, padded);
    Cast(score_, order_, RoundMode::CAST_NONE, padded);
    PipeBarrier<PIPE_V>();
    Muls(score_, score_, -1.0f, padded);
    PipeBarrier<PIPE_V>();
    SortScores(order_, padded);
  }
  // The first slot of each sorted piece.
  __aicore__ inline const LocalTensor<int32_t>& slots() const { return sorted_slot_; }
  // The places of the pieces in their order before the sort, times 4.
  __aicore__ inline const LocalTensor<int32_t>& places() const { return order_; }

 private:
  __aicore__ inline void PutPiece(int32_t slot, int32_t length) {
    if (length > 0) ++longer_[length - 1];
    WriteWord(count_++, slot << kLengthBits | length);
  }
  // Writes 8 bytes at a time.
  __aicore__ inline void WriteWord(int32_t at, int32_t word) {
    if (at % 2 == 0)
      low_ = word;
    else
      words_[buffer_].ReinterpretCast<int64_t>().SetValue(
          at / 2, static_cast<int64_t>(word) << 32 | static_cast<int64_t>(low_));
  }

  // to = 4 * the places of the scores in descending order.
  __aicore__ inline void SortScores(const LocalTensor<int32_t>& to, int32_t padded) {
    Sort32(pairs_[0], score_, numbers_.ReinterpretCast<uint32_t>(), padded / kSort32);
    PipeBarrier<PIPE_V>();
    const LocalTensor<float> sorted = MergeEqual(pairs_[0], pairs_[1], kSort32, padded);
    PairWords(to, sorted.ReinterpretCast<int32_t>(), 1, padded);
    PipeBarrier<PIPE_V>();
  }

  const int32_t room_, most_;
  LocalTensor<int32_t> words_[2], numbers_, slot_, sorted_slot_, order_;
  LocalTensor<float> pairs_[2], score_;
  Events<HardEvent::V_S> read_;
  int32_t buffer_ = 0, count_ = 0, rows_ = 0, more_ = 0, low_ = 0;
  int32_t longer_[kSegmentPiece + 1];
  MorePiece more_piece_[kMostMore];
};

}  // namespace mxd::kernels::segment_reduce
