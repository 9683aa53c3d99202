// Sums and means of rows by segment, and sums of what comes from the row that a maximum names.
// Every sum is taken in an order that the lists alone decide: results are the same for any number
// of cores.
#include "segment_reduce/sums.h"

namespace mxd::kernels::segment_reduce {
namespace {

// `kWhere`: only those numbers of a row are summed whose `sources`, a matrix like x, name the
// segment.
template <typename T, bool kWhere>
class Sum : public Sums<T, Sum<T, kWhere>> {
  using Base = Sums<T, Sum<T, kWhere>>;
  friend Base;
  friend Reducer<T, Sum<T, kWhere>>;

 public:
  __aicore__ inline Sum(TPipe& pipe, const SegmentReduceTiling& tiling, GM_ADDR x, GM_ADDR sources,
                        GM_ADDR rows, GM_ADDR begins, GM_ADDR splits, GM_ADDR out, GM_ADDR partials)
      : Base(pipe, tiling, x, rows, begins, splits, out, partials) {
    if constexpr (kWhere) {
      Bind(sources_, sources);
      pipe.InitBuffer(source_queue_, Base::kInBuffers, this->most_ * kWord);
      segments_ = Take<int32_t>(pipe, this->most_);
      equal_ = Take<uint8_t>(pipe, this->most_ / 8);
      Duplicate(segments_, 0, this->most_);
      this->Clear(source_queue_, Base::kInBuffers);
    }
  }

 private:
  __aicore__ inline void LoadSlots(const Chunk& chunk, const LocalTensor<T>& slots) {
    Base::LoadSlots(chunk, slots);
    if constexpr (kWhere) {
      LocalTensor<int32_t> sources = source_queue_.template AllocTensor<int32_t>();
      this->LoadRows(chunk, sources_, sources);
      source_queue_.EnQue(sources);
    }
  }

  // Before the sums: numbers of other segments become 0.
  __aicore__ inline void Prepare(const Chunk& chunk, const LocalTensor<float>& values) {
    if constexpr (kWhere) KeepWhereNamed(chunk, values);
  }

  __aicore__ inline void KeepWhereNamed(const Chunk& chunk, const LocalTensor<float>& values) {
    const int32_t pitch = this->pitch_;
    LocalTensor<int32_t> sources = source_queue_.template DeQue<int32_t>();
    auto begins = this->chunks_.Begins(chunk);
    const int32_t to_slot = 1 - chunk.entry, last = 1 + chunk.loaded_end;
    int32_t slot = 1 + chunk.loaded;
    for (int32_t row = 0; row <= chunk.segments && slot < last; row++) {
      const int32_t end = row == chunk.segments ? last : MaxOf(begins.Get(row + 1) + to_slot, slot);
      if (end > slot) Duplicate(segments_[slot * pitch], chunk.segment + row, (end - slot) * pitch);
      slot = end;
    }
    const int32_t first = (1 + chunk.loaded) * pitch;
    const int32_t count = (chunk.loaded_end - chunk.loaded) * pitch;
    PipeBarrier<PIPE_V>();
    if (count > 0) {
      // Compare works on whole repeats. The buffers have room for the last one.
      const int32_t begin = first / kLanes * kLanes;
      const int32_t compared = RoundUp(first + count - begin, kLanes);
      Compare(equal_, sources[begin], segments_[begin], CMPMODE::EQ, compared);
      PipeBarrier<PIPE_V>();
      Select(values[begin], equal_, values[begin], 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE,
             compared);
      PipeBarrier<PIPE_V>();
      // The row that is carried over is a sum already.
      if (this->carried_) DataCopy(values, this->carry_, static_cast<uint32_t>(pitch));
      PipeBarrier<PIPE_V>();
    }
    source_queue_.FreeTensor(sources);
  }

  GlobalTensor<int32_t> sources_;
  TQue<TPosition::VECIN, Base::kInBuffers> source_queue_;
  LocalTensor<int32_t> segments_;
  LocalTensor<uint8_t> equal_;
};

template <typename T>
using SumAll = Sum<T, false>;
template <typename T>
using SumWhere = Sum<T, true>;

}  // namespace
}  // namespace mxd::kernels::segment_reduce

// out [segments, channels]: the sum, or the mean, of the rows of x [.., channels] that rows int32
// [entries] names, by begins int64 [segments + 1]. partials fp32 [units, 2, pitch] is for
// segment_combine.
extern "C" __global__ __aicore__ void segment_sum(GM_ADDR x, GM_ADDR rows, GM_ADDR begins,
                                                  GM_ADDR splits, GM_ADDR out, GM_ADDR partials,
                                                  SegmentReduceTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::kernels;
  RunFor<segment_reduce::SumAll>(tiling, x, nullptr, rows, begins, splits, out, partials);
}

// The same of the numbers alone whose sources int32 [.., channels] name the segment.
extern "C" __global__ __aicore__ void segment_sum_where(GM_ADDR x, GM_ADDR sources, GM_ADDR rows,
                                                        GM_ADDR begins, GM_ADDR splits, GM_ADDR out,
                                                        GM_ADDR partials,
                                                        SegmentReduceTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::kernels;
  RunFor<segment_reduce::SumWhere>(tiling, x, sources, rows, begins, splits, out, partials);
}
