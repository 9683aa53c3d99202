// The base of sums by segment. Every sum is taken in an order that the lists alone decide: results
// are the same for any number of cores.
#pragma once

#include "reducer.h"
#include "tree.h"

namespace mxd::kernels::segment_reduce {

// `Derived` prepares the slots that are summed.
template <typename T, typename Derived>
class Sums : public Reducer<T, Derived> {
 public:
  __aicore__ inline Sums(TPipe& pipe, const SegmentReduceTiling& tiling, GM_ADDR x, GM_ADDR rows,
                         GM_ADDR begins, GM_ADDR splits, GM_ADDR out, GM_ADDR partials)
      : Reducer<T, Derived>(pipe, tiling, x, rows, begins, splits, out, partials) {}

 protected:
  __aicore__ inline void Compute(const Chunk& chunk) {
    const int32_t pitch = this->pitch_;
    const LocalTensor<float> values = this->Values(chunk);
    const LocalTensor<float> sums = this->Results();
    static_cast<Derived*>(this)->Prepare(chunk, values);
    this->ForEachSegment(
        chunk, [&](int32_t row, Slots slots, int32_t segments, int32_t entries) __aicore__ {
          const LocalTensor<float> to = sums[row * pitch];
          const int32_t count = slots.end - slots.begin;
          if (count == 0) {
            Duplicate(to, 0.0f, segments * pitch);
          } else if (segments > 1) {
            DataCopy(to, values[slots.begin * pitch], static_cast<uint32_t>(count * pitch));
          } else {
            ReduceRows<Plus>(to, values[slots.begin * pitch], pitch, count);
            if (this->tiling_.mean && entries > 1 && row < chunk.segments &&
                !(row == 0 && this->IsHead(chunk))) {
              PipeBarrier<PIPE_V>();
              Muls(to, to, 1.0f / static_cast<float>(entries), pitch);
            }
          }
        });
    PipeBarrier<PIPE_V>();
    this->FreeValues();
    this->Write(chunk, sums, 0, chunk.segments, true);
  }
};

}  // namespace mxd::kernels::segment_reduce
