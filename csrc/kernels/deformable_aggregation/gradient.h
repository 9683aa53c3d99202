// What the kernels of deformable aggregation's gradients share.
#pragma once

#include "aggregation.h"

namespace mxd::kernels::deformable_aggregation {

// Holds an anchor's row of the output's gradient, in fp32, while its taps are worked on.
template <typename T, bool kPatches, bool kSlopes, typename Derived>
class Gradient : public Aggregation<T, kPatches, kSlopes, Derived> {
 public:
  __aicore__ inline void Begin(int64_t anchor) {
    if (held_) return;
    held_ = true;
    loaded_ = queue_.template AllocTensor<T>();
    AscendC::DataCopyPad(loaded_, grad_[this->FirstChannel(anchor)], this->PixelIn(sizeof(T)),
                         this->Padding());
    queue_.EnQue(loaded_);
    loaded_ = queue_.template DeQue<T>();
    if constexpr (Base::kConvert) {
      PipeBarrier<PIPE_V>();
      AscendC::Cast(converted_row_, loaded_, RoundMode::CAST_NONE, this->slice_.row);
    }
  }

  __aicore__ inline void End(int64_t) {
    this->Flush();
    if (held_) queue_.FreeTensor(loaded_);
    held_ = false;
  }

 protected:
  using Base = Aggregation<T, kPatches, kSlopes, Derived>;
  static constexpr int32_t kGradBytes = 2 * kMaxRow * kWord;  // at most

  __aicore__ inline void MakeGradBuffers(GM_ADDR grad) {
    Bind(grad_, grad);
    this->MakeQueue(queue_, 2, this->slice_.row * sizeof(T));
    if constexpr (Base::kConvert) converted_row_ = this->TakeFloats(this->slice_.row);
  }

  __aicore__ inline LocalTensor<float> Grad() {
    if constexpr (Base::kConvert)
      return converted_row_;
    else
      return loaded_;
  }

 private:
  bool held_ = false;
  LocalTensor<T> loaded_;
  GlobalTensor<T> grad_;
  TQue<TPosition::VECIN, 1> queue_;
  LocalTensor<float> converted_row_;
};

}  // namespace mxd::kernels::deformable_aggregation
