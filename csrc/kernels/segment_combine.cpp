// Segments that lie in several units of a reduction: the units' parts are put together in the order
// of the units. The core that works on the unit with a segment's end writes the segment's row.
#include "common/buffers.h"
#include "common/events.h"
#include "common/run.h"
#include "segment_reduce_tiling.h"

namespace mxd::kernels {
namespace {

template <typename T, bool kMax>
class Combine {
  static constexpr int32_t kAtOnce = 16;    // rows
  static constexpr int32_t kTogether = 16;  // units of a core
  static constexpr int32_t kKnown = 512;    // units whose splits are in UB
  static constexpr bool kConvert = sizeof(T) != sizeof(float);

 public:
  __aicore__ inline Combine(TPipe& pipe, const SegmentReduceTiling& tiling, GM_ADDR begins,
                            GM_ADDR splits, GM_ADDR partials, GM_ADDR partial_args, GM_ADDR out,
                            GM_ADDR argmax)
      : tiling_(tiling) {
    Bind(begins_, begins, splits_, splits, partials_, partials, partial_args_, partial_args, out_,
         out, argmax_, argmax);
    splits_in_ub_ = Take<int32_t>(pipe, (kKnown + 1) * kBlockWords);
    begins_in_ub_ = Take<int32_t>(pipe, kTogether * kBlockWords);
    rows_ = Take<float>(pipe, kAtOnce * kSegmentSlice);
    result_ = Take<float>(pipe, kSegmentSlice);
    if constexpr (kConvert) rounded_ = Take<T>(pipe, kSegmentSlice);
    if constexpr (kMax) {
      args_ = Take<int32_t>(pipe, kAtOnce * kSegmentSlice);
      Take(pipe, kSegmentSlice, arg_, taken_, step_, mask_);
      Duplicate(rows_, 0.0f, kAtOnce * kSegmentSlice);
      Duplicate(result_, 0.0f, kSegmentSlice);
    }
  }

  __aicore__ inline void Process() {
    LoadSplits();
    const auto step = static_cast<int32_t>(GetBlockNum());
    for (int32_t unit = GetBlockIdx(); unit < tiling_.units; unit += kTogether * step) {
      for (int32_t i = 0; i < kTogether; i++) LoadBegins(unit + i * step, i);
      SetWait<HardEvent::MTE2_S>();
      for (int32_t i = 0; i < kTogether; i++) ProcessUnit(unit + i * step, i);
      SetWait<HardEvent::S_MTE2>();
    }
  }

 private:
  // A scalar access of global memory takes hundreds of cycles: what units ask for is loaded to UB,
  // for many at once, each in a block of its own.
  __aicore__ inline void LoadSplits() {
    known_ = MinOf(tiling_.units, kKnown);
    const auto skip = static_cast<uint32_t>((tiling_.unit - 1) * kWord);
    DataCopyPad(splits_in_ub_, splits_, {static_cast<uint16_t>(known_), kWord, skip, 0, 0},
                {false, 0, 0, 0});
    DataCopyPad(splits_in_ub_[known_ * kBlockWords],
                splits_[MinOf(known_ * tiling_.unit, tiling_.chunks)], Words(1), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
  }
  __aicore__ inline void LoadBegins(int32_t unit, int32_t place) {
    if (unit >= tiling_.units || !HasEnd(unit)) return;
    DataCopyPad(begins_in_ub_[place * kBlockWords], begins_[2 * static_cast<int64_t>(Split(unit))],
                Words(4), {false, 0, 0, 0});
  }

  __aicore__ inline void ProcessUnit(int32_t unit, int32_t place) {
    if (unit >= tiling_.units || !HasEnd(unit)) return;
    const int32_t segment = Split(unit), entry = Entry(unit);
    const int32_t begin = begins_in_ub_.GetValue(place * kBlockWords);
    if (begin >= entry) return;
    const int32_t end = begins_in_ub_.GetValue(place * kBlockWords + 2);
    int32_t first = unit - 1;
    while (Entry(first) > begin) --first;
    for (int32_t channel = 0; channel < tiling_.channels; channel += kSegmentSlice) {
      width_ = MinOf(kSegmentSlice, tiling_.channels - channel);
      count_ = 0;
      for (int32_t from = first; from < unit; from += kAtOnce)
        Add(2 * from + 1, MinOf(kAtOnce, unit - from), channel);
      if (end > entry) Add(2 * unit, 1, channel);
      Write(segment, channel, end - begin);
    }
  }

  // Whether a segment ends in a unit.
  __aicore__ inline bool HasEnd(int32_t unit) { return Split(unit + 1) != Split(unit); }
  // How many segments end before a unit, and the unit's first entry.
  __aicore__ inline int32_t Split(int32_t unit) {
    return unit <= known_ ? splits_in_ub_.GetValue(unit * kBlockWords)
                          : splits_.GetValue(MinOf(unit * tiling_.unit, tiling_.chunks));
  }
  __aicore__ inline int32_t Entry(int32_t unit) {
    return unit * tiling_.unit * tiling_.chunk - Split(unit);
  }

  // Adds `rows` rows of partials, every second one from `row` on, to the result.
  __aicore__ inline void Add(int32_t row, int32_t rows, int32_t channel) {
    const int32_t padded = RoundUp(width_, kBlockWords);
    const int64_t from = static_cast<int64_t>(row) * tiling_.pitch + channel;
    const DataCopyExtParams load{static_cast<uint16_t>(rows), static_cast<uint32_t>(width_ * kWord),
                                 static_cast<uint32_t>((2 * tiling_.pitch - width_) * kWord),
                                 static_cast<uint32_t>((kSegmentSlice - padded) / kBlockWords), 0};
    const auto padding = static_cast<uint8_t>(padded - width_);
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(rows_, partials_[from], load, {padding != 0, 0, padding, 0});
    if constexpr (kMax)
      DataCopyPad(args_, partial_args_[from], load, {padding != 0, 0, padding, 0});
    SetWait<HardEvent::MTE2_V>();
    for (int32_t i = 0; i < rows; i++, count_++) {
      const LocalTensor<float> next = rows_[i * kSegmentSlice];
      if (count_ == 0) {
        SetWait<HardEvent::MTE3_V>();
        DataCopy(result_, next, static_cast<uint32_t>(padded));
        if constexpr (kMax) DataCopy(arg_, args_[i * kSegmentSlice], static_cast<uint32_t>(padded));
      } else if constexpr (kMax) {
        TakeGreater(next, args_[i * kSegmentSlice], padded);
      } else {
        AscendC::Add(result_, result_, next, padded);
      }
      PipeBarrier<PIPE_V>();
    }
  }

  // Of equal numbers the first stays. A NaN replaces any number, if NaNs count.
  __aicore__ inline void TakeGreater(const LocalTensor<float>& next,
                                     const LocalTensor<int32_t>& next_arg, int32_t padded) {
    const int32_t count = RoundUp(padded, kLanes);
    TakeWhere(next, result_, CMPMODE::GT, next, next_arg, padded, count);
    if (tiling_.nan) TakeWhere(next, next, CMPMODE::NE, next, next_arg, padded, count);
  }
  __aicore__ inline void TakeWhere(const LocalTensor<float>& a, const LocalTensor<float>& b,
                                   CMPMODE mode, const LocalTensor<float>& next,
                                   const LocalTensor<int32_t>& next_arg, int32_t padded,
                                   int32_t count) {
    Compare(mask_, a, b, mode, count);
    Duplicate(taken_, 1.0f, count);
    AscendC::Sub(step_, next_arg, arg_, padded);
    PipeBarrier<PIPE_V>();
    Select(result_, mask_, next, result_, SELMODE::VSEL_TENSOR_TENSOR_MODE, count);
    Select(taken_, mask_, taken_, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    PipeBarrier<PIPE_V>();
    const LocalTensor<int32_t> taken = taken_.template ReinterpretCast<int32_t>();
    Cast(taken, taken_, RoundMode::CAST_RINT, padded);
    PipeBarrier<PIPE_V>();
    Mul(step_, step_, taken, padded);
    PipeBarrier<PIPE_V>();
    AscendC::Add(arg_, arg_, step_, padded);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void Write(int32_t segment, int32_t channel, int32_t entries) {
    const int32_t padded = RoundUp(width_, kBlockWords);
    if (tiling_.mean) {
      Muls(result_, result_, 1.0f / static_cast<float>(entries), padded);
      PipeBarrier<PIPE_V>();
    }
    const int64_t to = static_cast<int64_t>(segment) * tiling_.channels + channel;
    LocalTensor<T> row;
    if constexpr (kConvert) {
      Cast(rounded_, result_, RoundMode::CAST_RINT, padded);
      row = rounded_;
    } else {
      row = result_;
    }
    SetWait<HardEvent::V_MTE3>();
    if (tiling_.add_output) SetAtomicAdd<T>();
    DataCopyPad(out_[to], row, {1, static_cast<uint32_t>(width_ * sizeof(T)), 0, 0, 0});
    if (tiling_.add_output) SetAtomicNone();
    if constexpr (kMax) {
      if (tiling_.add_output) SetAtomicAdd<int32_t>();
      DataCopyPad(argmax_[to], arg_, Words(width_));
      if (tiling_.add_output) SetAtomicNone();
    }
  }

  const SegmentReduceTiling tiling_;
  GlobalTensor<int32_t> begins_, splits_, partial_args_, argmax_;
  LocalTensor<int32_t> splits_in_ub_, begins_in_ub_;
  GlobalTensor<float> partials_;
  GlobalTensor<T> out_;
  LocalTensor<float> rows_, result_, taken_;
  LocalTensor<int32_t> args_, arg_, step_;
  LocalTensor<T> rounded_;
  LocalTensor<uint8_t> mask_;
  int32_t known_ = 0;              // units whose splits are in UB
  int32_t width_ = 0, count_ = 0;  // channels of the slice; rows taken in
};

template <typename T>
using CombineSums = Combine<T, false>;
template <typename T>
using CombineMaxima = Combine<T, true>;

}  // namespace
}  // namespace mxd::kernels

// Completes segment_sum.
extern "C" __global__ __aicore__ void segment_combine_sum(GM_ADDR begins, GM_ADDR splits,
                                                          GM_ADDR partials, GM_ADDR out,
                                                          SegmentReduceTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::kernels;
  RunFor<CombineSums>(tiling, begins, splits, partials, nullptr, out, nullptr);
}

// Completes segment_max.
extern "C" __global__ __aicore__ void segment_combine_max(GM_ADDR begins, GM_ADDR splits,
                                                          GM_ADDR partials, GM_ADDR partial_args,
                                                          GM_ADDR out, GM_ADDR argmax,
                                                          SegmentReduceTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::kernels;
  RunFor<CombineMaxima>(tiling, begins, splits, partials, partial_args, out, argmax);
}
