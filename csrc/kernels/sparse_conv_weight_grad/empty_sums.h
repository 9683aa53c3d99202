// Writes zeros where a unit has no pairs of a kernel point: the cube core learns of pairs alone.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../sparse_conv_tiling.h"
#include "kernel_operator.h"

namespace mxd::kernels::sparse_conv_weight_grad {

class EmptySums {
  static constexpr int32_t kZeros = kFractalRows * kFractalRows;  // panels are multiples of 16

 public:
  static constexpr int32_t kUbBytes = kZeros * kWord;

  __aicore__ inline EmptySums(TPipe& pipe, const SparseConvWeightGradTiling& tiling, GM_ADDR parts)
      : tiling_(tiling), zeros_(Take<float>(pipe, kZeros)) {
    Bind(parts_, parts);
    Duplicate(zeros_, 0.0f, kZeros);
  }
  __aicore__ inline void Begin() { SetWait<HardEvent::V_MTE3>(); }

  // The sums of a unit's kernel point. Both vector cores know of them, one writes.
  __aicore__ inline void Write(int64_t unit, int32_t point) const {
    if (GetSubBlockIdx() != 0) return;
    const int32_t elements = tiling_.panel[0] * tiling_.panel[1];
    for (int32_t i = 0; i < elements; i += kZeros)
      DataCopy(parts_[PartOf(tiling_, unit, point) * elements + i], zeros_, kZeros);
  }

 private:
  const SparseConvWeightGradTiling& tiling_;
  GlobalTensor<float> parts_;
  LocalTensor<float> zeros_;
};

}  // namespace mxd::kernels::sparse_conv_weight_grad
