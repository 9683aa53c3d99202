// Maxima of rows by segment, and the rows that they come from: the first of equal ones.
#include "segment_reduce/pieces.h"
#include "segment_reduce/reducer.h"
#include "segment_reduce/row_blocks.h"

namespace mxd::kernels::segment_reduce {
namespace {

template <typename T>
class Maximum : public Reducer<T, Maximum<T>, 1> {
  using Base = Reducer<T, Maximum<T>, 1>;
  friend Base;

 public:
  __aicore__ inline Maximum(TPipe& pipe, const SegmentReduceTiling& tiling, GM_ADDR x, GM_ADDR rows,
                            GM_ADDR begins, GM_ADDR splits, GM_ADDR out, GM_ADDR argmax,
                            GM_ADDR partials, GM_ADDR partial_args)
      : Base(pipe, tiling, x, rows, begins, splits, out, partials, Most(tiling)),
        pieces_(pipe, Most(tiling)),
        blocks_(pipe, this->most_out_ / kBlockWords) {
    Bind(argmax_, argmax, partial_args_, partial_args);
    const int32_t most = this->most_out_;
    const int32_t words = RoundUp(Most(tiling), kLanes);
    pipe.InitBuffer(arg_queue_, 1, most * kWord);
    Take(pipe, most, best_, next_, place_);
    mask_ = Take<uint8_t>(pipe, MaxOf(this->most_, most) / 8);
    other_mask_ = Take<uint8_t>(pipe, most / 8);
    Take(pipe, RoundUp(most / kBlockWords, kLanes), from_, to_);
    Take(pipe, words, row_, offset_);
    spread_ = Take<float>(pipe, words * kBlockWords);
    Take(pipe, kSegmentSlice, carried_arg_, scratch_);
    Duplicate(best_, 0.0f, most);
    Duplicate(next_, 0.0f, most);
    if constexpr (Base::kConvert) Duplicate(this->sums_, 0.0f, most);
    this->Clear(this->out_queue_, 1);
    this->Clear(arg_queue_, 1);
  }

  __aicore__ inline void Process() {
    pieces_.Begin();
    Base::Process();
    pieces_.End();
  }

 private:
  static constexpr float kInfinity = __builtin_huge_valf();

  // Pieces worked on at a time, and one of no slots.
  __aicore__ inline static int32_t Most(const SegmentReduceTiling& tiling) {
    return tiling.chunk * 3 / 8 + 5;
  }

  __aicore__ inline void Compute(const Chunk& chunk) {
    blocks_.SetBlocks(this->pitch_ / kBlockWords, to_.template ReinterpretCast<float>());
    const LocalTensor<float> values = this->Values(chunk);
    const int32_t rows = chunk.segments + 1;
    Slots rest = this->Filled(chunk);
    if (!this->tiling_.nan && rest.begin < rest.end) DropNaN(values, rest);
    for (int32_t first = 0; first < rows;) {
      const int32_t next = FindPieces(chunk, first, rest);
      Reduce(chunk, values, first, next);
      first = next;
    }
  }

  // The results of the chunk's segments from `first` to before `next`.
  __aicore__ inline void Reduce(const Chunk& chunk, const LocalTensor<float>& values, int32_t first,
                                int32_t next) {
    const int32_t pitch = this->pitch_;
    const bool last = next > chunk.segments;
    pieces_.Sort();
    TakeGreatest(values);
    if (last) this->FreeValues();
    const LocalTensor<float> rows = this->Results();
    args_ = arg_queue_.template AllocTensor<int32_t>();
    FindRows(chunk);
    Unsort(rows);
    if (first == 0 && this->carried_) FindCarried();
    for (int32_t i = 0; i < pieces_.more(); i++) {
      const int32_t from = (pieces_.rows() + i) * pitch, to = pieces_.more(i).row * pitch;
      TakeGreater(rows[to], args_[to], rows[from], args_[from]);
    }
    this->Write(chunk, rows, first, MinOf(next, chunk.segments) - first, last);
  }

  // The pieces of as many segments as there is room for, from `first` on, whose slots are the first
  // of `rest`. Returns the next segment. The last one of a chunk goes on behind it.
  __aicore__ inline int32_t FindPieces(const Chunk& chunk, int32_t first, Slots& rest) {
    auto begins = this->chunks_.Begins(chunk);
    const int32_t to_slot = 1 - chunk.entry;
    int32_t row = first;
    pieces_.Open();
    for (; row <= chunk.segments; row++) {
      const int32_t end =
          row == chunk.segments ? rest.end : MaxOf(begins.Get(row + 1) + to_slot, rest.begin);
      if (!pieces_.Put(rest.begin, end)) break;
      this->goes_on_ = end > rest.begin;  // of the last row
      rest.begin = end;
    }
    pieces_.Close();
    return row;
  }

  // A NaN becomes minus infinity.
  __aicore__ inline void DropNaN(const LocalTensor<float>& values, const Slots& filled) {
    // Whole repeats.
    const int32_t begin = filled.begin * this->pitch_ / kLanes * kLanes;
    const int32_t count = RoundUp(filled.end * this->pitch_ - begin, kLanes);
    Compare(mask_, values[begin], values[begin], CMPMODE::EQ, count);
    PipeBarrier<PIPE_V>();
    Select(values[begin], mask_, values[begin], -kInfinity, SELMODE::VSEL_TENSOR_SCALAR_MODE,
           count);
    PipeBarrier<PIPE_V>();
  }

  // best_: the maxima of the sorted pieces; place_: 4 * their places in the piece.
  __aicore__ inline void TakeGreatest(const LocalTensor<float>& values) {
    const int32_t pitch = this->pitch_, pieces = pieces_.Longer(0);
    if (pieces > 0) {
      Muls(row_, pieces_.slots(), pitch * kWord, RoundUp(pieces, kBlockWords));
      PipeBarrier<PIPE_V>();
      blocks_.Find(from_, row_, pieces);
      blocks_.Gather(best_, values, from_, pieces);
      Duplicate(place_, 0.0f, pieces * pitch);
      PipeBarrier<PIPE_V>();
    }
    for (int32_t level = 1; pieces_.Longer(level) > 0; level++) TakeLevel(values, level);
  }

  __aicore__ inline void TakeLevel(const LocalTensor<float>& values, int32_t level) {
    const int32_t pieces = pieces_.Longer(level), count = pieces * this->pitch_;
    const int32_t compared = RoundUp(count, kLanes);
    LocalTensor<int32_t> from = from_;
    if (count % kLanes != 0) {
      // A repeat may end with blocks of shorter pieces: they must lie in the buffer.
      const int32_t last = this->most_ - level * this->pitch_ - kBlockWords;
      from = to_;
      Mins(from, from_, last / kBlockWords * kBlockBytes, compared / kBlockWords);
      PipeBarrier<PIPE_V>();
    }
    blocks_.Gather(next_, values[level * this->pitch_], from, pieces);
    PipeBarrier<PIPE_V>();
    if (this->tiling_.nan) {
      const LocalTensor<uint16_t> bits = mask_.template ReinterpretCast<uint16_t>();
      Compare(mask_, next_, best_, CMPMODE::GT, compared);
      Compare(other_mask_, next_, next_, CMPMODE::NE, compared);
      PipeBarrier<PIPE_V>();
      Or(bits, bits, other_mask_.template ReinterpretCast<uint16_t>(), compared / 16);
      PipeBarrier<PIPE_V>();
      Select(best_, mask_, next_, best_, SELMODE::VSEL_TENSOR_TENSOR_MODE, count);
      PipeBarrier<PIPE_V>();
      Not(bits, bits, compared / 16);
    } else {
      Compare(mask_, best_, next_, CMPMODE::GE, compared);
      PipeBarrier<PIPE_V>();
      Max(best_, best_, next_, count);
    }
    PipeBarrier<PIPE_V>();
    Select(place_, mask_, place_, static_cast<float>(level * kWord),
           SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    PipeBarrier<PIPE_V>();
  }

  // next_, as int32: the rows that the maxima of the sorted pieces come from; -1 for the slot that
  // was carried over. Behind them a piece of no slots.
  __aicore__ inline void FindRows(const Chunk& chunk) {
    const int32_t pitch = this->pitch_, pieces = pieces_.Longer(0), count = pieces * pitch;
    const LocalTensor<int32_t> place = place_.template ReinterpretCast<int32_t>();
    if (pieces > 0) {
      const int32_t whole = RoundUp(pieces, kBlockWords);
      Adds(row_, pieces_.slots(), Chunks::kHeader - 1, whole);
      PipeBarrier<PIPE_V>();
      Muls(row_, row_, kWord, whole);
      PipeBarrier<PIPE_V>();
      Cast(offset_, row_, RoundMode::CAST_NONE, whole);
      PipeBarrier<PIPE_V>();
      Brcb(spread_, offset_, static_cast<uint8_t>(whole / kBlockWords), {1, kBlockWords});
      PipeBarrier<PIPE_V>();
      const auto row = static_cast<uint8_t>(pitch / kBlockWords);
      for (int32_t at = 0; at < pitch; at += kLanes)
        Add(place_[at], place_[at], spread_, static_cast<uint64_t>(MinOf(kLanes, pitch - at)),
            static_cast<uint8_t>(pieces), {1, 1, 0, row, row, 1});
      PipeBarrier<PIPE_V>();
      Cast(place, place_, RoundMode::CAST_RINT, count);
    }
    Duplicate(place[count], 0, pitch);
    Duplicate(best_[count], 0.0f, pitch);
    PipeBarrier<PIPE_V>();
    Gather(next_.template ReinterpretCast<int32_t>(), this->chunks_.Rows(chunk),
           place.template ReinterpretCast<uint32_t>(), 0, count + pitch);
    PipeBarrier<PIPE_V>();
  }

  // Puts the results of the sorted pieces in the order of their rows: `rows` and args_.
  __aicore__ inline void Unsort(const LocalTensor<float>& rows) {
    const int32_t pitch = this->pitch_, pieces = pieces_.count();
    const int32_t places = RoundUp(pieces, kBlockWords);
    Mins(row_, pieces_.places(), pieces_.Longer(0) * kWord, places);
    PipeBarrier<PIPE_V>();
    Muls(row_, row_, pitch, places);
    PipeBarrier<PIPE_V>();
    blocks_.Find(to_, row_, pieces);
    blocks_.Gather(rows, best_, to_, pieces);
    blocks_.Gather(args_, next_.template ReinterpretCast<int32_t>(), to_, pieces);
    PipeBarrier<PIPE_V>();
  }

  // The first row's args, where it took the number that was carried over.
  __aicore__ inline void FindCarried() {
    const int32_t pitch = this->pitch_;
    Mins(scratch_, args_, 0, pitch);  // -1 there
    Adds(carried_arg_, carried_arg_, 1, pitch);
    PipeBarrier<PIPE_V>();
    Mul(scratch_, scratch_, carried_arg_, pitch);
    PipeBarrier<PIPE_V>();
    Sub(args_, args_, scratch_, pitch);
    PipeBarrier<PIPE_V>();
  }

  // Takes the numbers of `next`, and where they come from, that are greater than those of a row.
  __aicore__ inline void TakeGreater(const LocalTensor<float>& row, const LocalTensor<int32_t>& arg,
                                     const LocalTensor<float>& next,
                                     const LocalTensor<int32_t>& next_arg) {
    const int32_t pitch = this->pitch_;
    TakeWhere(CMPMODE::GT, row, row, arg, next, next_arg);
    if (this->tiling_.nan) TakeWhere(CMPMODE::NE, next, row, arg, next, next_arg);
  }
  __aicore__ inline void TakeWhere(CMPMODE mode, const LocalTensor<float>& other,
                                   const LocalTensor<float>& row, const LocalTensor<int32_t>& arg,
                                   const LocalTensor<float>& next,
                                   const LocalTensor<int32_t>& next_arg) {
    const int32_t pitch = this->pitch_;
    const LocalTensor<int32_t> taken = place_.template ReinterpretCast<int32_t>();
    Compare(mask_, next, other, mode, RoundUp(pitch, kLanes));
    Duplicate(place_, 1.0f, pitch);
    AscendC::Sub(scratch_, next_arg, arg, pitch);
    PipeBarrier<PIPE_V>();
    Select(row, mask_, next, row, SELMODE::VSEL_TENSOR_TENSOR_MODE, pitch);
    Select(place_, mask_, place_, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, pitch);
    PipeBarrier<PIPE_V>();
    Cast(taken, place_, RoundMode::CAST_RINT, pitch);
    PipeBarrier<PIPE_V>();
    Mul(scratch_, scratch_, taken, pitch);
    PipeBarrier<PIPE_V>();
    Add(arg, arg, scratch_, pitch);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void Carry(int32_t row) {
    DataCopy(carried_arg_, args_[row * this->pitch_], static_cast<uint32_t>(this->pitch_));
  }
  __aicore__ inline void WriteMorePartial(int32_t to, int32_t row) {
    this->StagePartial(partial_args_, to, args_[row * this->pitch_]);
  }
  __aicore__ inline void WriteMore(int32_t to, int32_t row, int32_t count) {
    arg_queue_.EnQue(args_);
    args_ = arg_queue_.template DeQue<int32_t>();
    this->WriteRows(argmax_, args_[row * this->pitch_], to, count);
    arg_queue_.FreeTensor(args_);
  }

  GlobalTensor<int32_t> argmax_, partial_args_;
  TQue<TPosition::VECOUT, 1> arg_queue_;
  Pieces pieces_;
  RowBlocks blocks_;
  LocalTensor<float> best_, next_, place_;  // by sorted piece
  LocalTensor<int32_t> from_, to_;          // the blocks of sorted pieces, and of rows
  LocalTensor<int32_t> row_;                // scratch, a word for each piece, and so are these
  LocalTensor<float> offset_, spread_;
  LocalTensor<uint8_t> mask_, other_mask_;
  LocalTensor<int32_t> args_, carried_arg_, scratch_;
};

}  // namespace
}  // namespace mxd::kernels::segment_reduce

// As segment_sum; argmax int32 [segments, channels]: the row that each maximum comes from, -1 in a
// segment of no entry, whose maximum is 0. partial_args int32 is like partials.
extern "C" __global__ __aicore__ void segment_max(GM_ADDR x, GM_ADDR rows, GM_ADDR begins,
                                                  GM_ADDR splits, GM_ADDR out, GM_ADDR argmax,
                                                  GM_ADDR partials, GM_ADDR partial_args,
                                                  SegmentReduceTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::kernels;
  RunFor<segment_reduce::Maximum>(tiling, x, rows, begins, splits, out, argmax, partials,
                                  partial_args);
}
