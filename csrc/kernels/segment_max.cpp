// Maxima of rows by segment, and the rows that they come from: the first of equal ones.
#include "segment_reduce/reducer.h"
#include "segment_reduce/tree.h"

namespace mxd::kernels::segment_reduce {
namespace {

template <typename T>
class Maximum : public Reducer<T, Maximum<T>> {
  using Base = Reducer<T, Maximum<T>>;
  friend Base;

 public:
  __aicore__ inline Maximum(TPipe& pipe, const SegmentReduceTiling& tiling, GM_ADDR x, GM_ADDR rows,
                            GM_ADDR begins, GM_ADDR splits, GM_ADDR out, GM_ADDR argmax,
                            GM_ADDR partials, GM_ADDR partial_args)
      : Base(pipe, tiling, x, rows, begins, splits, out, partials) {
    Bind(argmax_, argmax, partial_args_, partial_args);
    const int32_t most = this->most_;
    pipe.InitBuffer(arg_queue_, 2, most * kWord);
    Take(pipe, most, work_, wide_, place_, slot_, broken_);
    mask_ = Take<uint8_t>(pipe, most / 8);
    Take(pipe, kSegmentSlice, carried_arg_, scratch_);
    Duplicate(wide_, 0.0f, most);
    Duplicate(place_, 0.0f, most);
    Duplicate(slot_, 0.0f, most);
    Duplicate(broken_, 0.0f, most);
    this->Clear(this->out_queue_);
    if constexpr (Base::kConvert) Duplicate(this->sums_, 0.0f, most);
  }

 private:
  static constexpr float kInfinity = __builtin_huge_valf();
  static constexpr float kBehindAll = 1e9f;

  __aicore__ inline void Compute(const Chunk& chunk) {
    const int32_t pitch = this->pitch_;
    NumberSlots();
    const LocalTensor<float> values = this->Values(chunk);
    const Slots filled = this->Filled(chunk);
    const bool has_rows = filled.begin < filled.end;
    if (!has_rows && chunk.segments == 0) {
      this->FreeValues();
      return;
    }
    const LocalTensor<float> best = this->Results();
    // Whole repeats.
    const int32_t begin = has_rows ? filled.begin * pitch / kLanes * kLanes : 0;
    const int32_t count = RoundUp(has_rows ? filled.end * pitch - begin : pitch, kLanes);
    Compare(mask_, values[begin], values[begin], CMPMODE::NE, count);
    PipeBarrier<PIPE_V>();
    if (this->tiling_.nan) {
      Select(wide_[begin], mask_, slot_[begin], -1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
      PipeBarrier<PIPE_V>();
      Reduce<Greatest>(chunk, broken_, wide_, -1.0f);
      PipeBarrier<PIPE_V>();
    }
    Compare(mask_, values[begin], values[begin], CMPMODE::EQ, count);
    PipeBarrier<PIPE_V>();
    Select(values[begin], mask_, values[begin], -kInfinity, SELMODE::VSEL_TENSOR_SCALAR_MODE,
           count);
    PipeBarrier<PIPE_V>();
    DataCopy(work_[begin], values[begin], static_cast<uint32_t>(count));
    PipeBarrier<PIPE_V>();
    Reduce<Greatest>(chunk, best, work_, 0.0f);
    PipeBarrier<PIPE_V>();
    Spread(chunk, best);
    PipeBarrier<PIPE_V>();
    Compare(mask_, values[begin], wide_[begin], CMPMODE::EQ, count);
    PipeBarrier<PIPE_V>();
    Select(wide_[begin], mask_, slot_[begin], kBehindAll, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    PipeBarrier<PIPE_V>();
    Reduce<Least>(chunk, place_, wide_, -1.0f);
    PipeBarrier<PIPE_V>();
    this->FreeValues();
    const int32_t rows = chunk.segments + this->goes_on_;
    if (this->tiling_.nan) TakeBroken(best, RoundUp(rows * pitch, kLanes));
    args_ = arg_queue_.template AllocTensor<int32_t>();
    FindRows(chunk, rows * pitch);
    this->Write(chunk, best);
  }

  // Reduces the slots of each segment in `from` to a row in `to`. `from` is overwritten.
  template <typename Operation>
  __aicore__ inline void Reduce(const Chunk& chunk, const LocalTensor<float>& to,
                                const LocalTensor<float>& from, float nothing) {
    const int32_t pitch = this->pitch_;
    this->ForEachSegment(chunk, [&](int32_t row, Slots slots, int32_t segments,
                                    int32_t) __aicore__ {
      const int32_t count = slots.end - slots.begin;
      if (count == 0)
        Duplicate(to[row * pitch], nothing, segments * pitch);
      else if (segments > 1)
        DataCopy(to[row * pitch], from[slots.begin * pitch], static_cast<uint32_t>(count * pitch));
      else
        ReduceRows<Operation>(to[row * pitch], from[slots.begin * pitch], pitch, count);
    });
  }

  // Fills wide_: each slot gets the row of its segment.
  __aicore__ inline void Spread(const Chunk& chunk, const LocalTensor<float>& rows) {
    const int32_t pitch = this->pitch_;
    this->ForEachSegment(chunk, [&](int32_t row, Slots slots, int32_t segments,
                                    int32_t) __aicore__ {
      const int32_t count = slots.end - slots.begin;
      if (count == 0) return;
      const LocalTensor<float> to = wide_[slots.begin * pitch];
      DataCopy(to, rows[row * pitch], static_cast<uint32_t>(segments * pitch));
      for (int32_t have = segments; have < count; have *= 2) {
        PipeBarrier<PIPE_V>();
        DataCopy(to[have * pitch], to, static_cast<uint32_t>(MinOf(have, count - have) * pitch));
      }
    });
  }

  // Fills slot_: each slot gets its own number, in fp32.
  __aicore__ inline void NumberSlots() {
    const int32_t pitch = this->pitch_, slots = this->tiling_.chunk + 1;
    if (numbered_ == pitch) return;
    numbered_ = pitch;
    Duplicate(slot_, 0.0f, pitch);
    PipeBarrier<PIPE_V>();
    for (int32_t have = 1; have < slots; have *= 2) {
      Adds(slot_[have * pitch], slot_, static_cast<float>(have), MinOf(have, slots - have) * pitch);
      PipeBarrier<PIPE_V>();
    }
  }

  // Where a segment has a NaN, the last one is its maximum.
  __aicore__ inline void TakeBroken(const LocalTensor<float>& best, int32_t count) {
    CompareScalar(mask_, broken_, 0.0f, CMPMODE::LT, count);
    PipeBarrier<PIPE_V>();
    Select(best, mask_, best, __builtin_nanf(""), SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    Select(place_, mask_, place_, broken_, SELMODE::VSEL_TENSOR_TENSOR_MODE, count);
    PipeBarrier<PIPE_V>();
  }

  // Fills args_: the row that was in the slot which place_ names; -1 where it names none.
  __aicore__ inline void FindRows(const Chunk& chunk, int32_t count) {
    const int32_t pitch = this->pitch_;
    const LocalTensor<int32_t> place = work_.template ReinterpretCast<int32_t>();
    Cast(place, place_, RoundMode::CAST_RINT, count);
    PipeBarrier<PIPE_V>();
    if (this->carried_) {  // 1 where the first row comes from the slot of the carried one, else 0
      Mins(scratch_, place, 1, pitch);
      PipeBarrier<PIPE_V>();
      Muls(scratch_, scratch_, -1, pitch);
      PipeBarrier<PIPE_V>();
      Adds(scratch_, scratch_, 1, pitch);
    }
    Adds(place, place, Chunks::kHeader - 1, count);
    PipeBarrier<PIPE_V>();
    Muls(place, place, kWord, count);
    PipeBarrier<PIPE_V>();
    Gather(args_, this->chunks_.Rows(chunk), place.template ReinterpretCast<uint32_t>(), 0, count);
    PipeBarrier<PIPE_V>();
    if (this->carried_) {
      // The list has -1 for that slot.
      Adds(carried_arg_, carried_arg_, 1, pitch);
      PipeBarrier<PIPE_V>();
      Mul(scratch_, scratch_, carried_arg_, pitch);
      PipeBarrier<PIPE_V>();
      Add(args_, args_, scratch_, pitch);
      PipeBarrier<PIPE_V>();
    }
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
  TQue<TPosition::VECOUT, 2> arg_queue_;
  LocalTensor<int32_t> args_, carried_arg_, scratch_;
  LocalTensor<float> work_, wide_, slot_;  // by slot
  LocalTensor<float> place_, broken_;      // by segment: slots of the maximum, of the last NaN
  LocalTensor<uint8_t> mask_;
  int32_t numbered_ = 0;
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
