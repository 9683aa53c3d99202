// Adds up the products of all steps of a unit in L0C: input rows, turned, times gradient rows.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/matrix_unit.h"
#include "../common/nz.h"
#include "kernel_operator.h"
#include "message.h"

namespace mxd::kernels::sparse_conv_weight_grad {

template <typename T>
class CubeCore {
 public:
  __aicore__ inline CubeCore(TPipe& pipe, const SparseConvWeightGradTiling& tiling,
                             GM_ADDR gathered, GM_ADDR messages, GM_ADDR parts)
      : tiling_(tiling),
        step_elements_(StepElements(tiling)),
        rows_(Take<T, TPosition::A1>(pipe, 2 * step_elements_)),
        matrix_(pipe),
        receiver_(messages + GetBlockIdx() * kSteps * kMessageBytes) {
    gathered_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gathered) +
                              GetBlockIdx() * kSteps * step_elements_);
    Bind(parts_, parts);
    rows_free_.Init(pipe, 2);
    rows_full_.Init(pipe, 2);
  }

  __aicore__ inline void Process() {
    rows_free_.SetAll();
    matrix_.Begin();
    int64_t unit = -1;
    for (int32_t step = 0;; ++step) {
      CrossCoreWaitFlag(kGathered);
      const Product product = ReceiveStep(receiver_, step);
      const bool first = product.unit != unit;
      if (first && unit >= 0) Write(unit);
      if (product.unit < 0) break;
      if (first) matrix_.WaitForSums();
      Multiply(step, product.rows, first);
      unit = product.unit;
    }
    rows_free_.WaitAll();
    matrix_.End();
  }

 private:
  // Adds the products of a step's `rows` pairs.
  __aicore__ inline void Multiply(int32_t step, int32_t rows, bool first) {
    const int32_t buffer = step % 2;
    const LocalTensor<T> in = rows_[buffer * step_elements_];
    const LocalTensor<T> grad = in[SideElements(tiling_, 0)];
    const GlobalTensor<T> from = gathered_[step % kSteps * step_elements_];
    SetWait<HardEvent::S_MTE2>();  // the next message here is written when this step is taken
    rows_free_.Wait(buffer);
    DataCopy(in, from, rows * tiling_.panel[0]);
    DataCopy(grad, from[SideElements(tiling_, 0)], rows * tiling_.panel[1]);
    CrossCoreSetFlag<2, PIPE_MTE2>(kTaken);
    rows_full_.SetWait(buffer);
    constexpr int32_t kDepth = kFractalColumns<T>;
    constexpr int32_t kContraction = kContractionBytes / static_cast<int32_t>(sizeof(T));
    const int32_t high = tiling_.panel[0] / kFractalRows, wide = tiling_.panel[1] / kFractalRows;
    for (int32_t row = 0; row < rows; row += kContraction) {
      const int32_t count = MinOf(kContraction, rows - row), deep = count / kDepth;
      matrix_.WaitForOperands();
      matrix_.LoadLeft(in, row / kDepth * high, high, deep, high);
      matrix_.LoadRight(grad, row / kDepth * wide, deep * wide);
      matrix_.OperandsLoaded();
      matrix_.Multiply(tiling_.panel[0], tiling_.panel[1], count, first && row == 0);
    }
    rows_free_.Set(buffer);
  }

  // Writes the sums of a unit.
  __aicore__ inline void Write(int64_t unit) {
    Fixpipe<float, float, CFG_ROW_MAJOR>(
        parts_[unit * tiling_.panel[0] * tiling_.panel[1]], matrix_.FinishSums(),
        FixpipeParamsV220(tiling_.panel[1], tiling_.panel[0], tiling_.panel[0], tiling_.panel[1],
                          false));
    matrix_.FreeSums();
  }

  const SparseConvWeightGradTiling tiling_;
  const int64_t step_elements_;
  LocalTensor<T> rows_;  // of two steps
  MatrixUnit<T> matrix_;
  Receiver receiver_;
  GlobalTensor<T> gathered_;
  GlobalTensor<float> parts_;
  Events<HardEvent::MTE1_MTE2> rows_free_;
  Events<HardEvent::MTE2_MTE1> rows_full_;
};

}  // namespace mxd::kernels::sparse_conv_weight_grad
