// Adds up the products of all steps of a unit in L0C, for each of its kernel points: input rows,
// turned, times gradient rows.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/matrix_unit.h"
#include "../common/squares.h"
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
        rows_(Take<T, TPosition::A1>(pipe, kLoadedSteps * step_elements_)),
        matrix_(pipe),
        receiver_(messages + GetBlockIdx() * kSteps * kMessageBytes) {
    gathered_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gathered) +
                              GetBlockIdx() * kSteps * step_elements_);
    Bind(parts_, parts);
    rows_free_.Init(pipe, kLoadedSteps);
    rows_full_.Init(pipe, kLoadedSteps);
  }

  __aicore__ inline void Process() {
    rows_free_.SetAll();
    matrix_.Begin();
    int64_t unit = -1;
    for (int32_t step = 0;; ++step) {
      CrossCoreWaitFlag(kGathered);
      const Product product = ReceiveStep(receiver_, step);
      if (product.unit != unit && unit >= 0) Write(unit);
      if (product.unit < 0) break;
      if (product.unit != unit) matrix_.WaitForSums();
      unit = product.unit;
      Multiply(step, product);
    }
    rows_free_.WaitAll();
    matrix_.End();
  }

 private:
  // Adds the products of a step's pairs, each kernel point's to its own sums.
  __aicore__ inline void Multiply(int32_t step, const Product& product) {
    const int32_t buffer = step % kLoadedSteps, rows = product.rows();
    const LocalTensor<T> in = rows_[buffer * step_elements_];
    const LocalTensor<T> grad = in[SideElements(tiling_, 0)];
    const GlobalTensor<T> from = gathered_[step % kSteps * step_elements_];
    SetWait<HardEvent::S_MTE2>();  // the next message here is written when this step is taken
    rows_free_.Wait(buffer);
    DataCopy(in, from, rows * tiling_.panel[0]);
    DataCopy(grad, from[SideElements(tiling_, 0)], rows * tiling_.panel[1]);
    CrossCoreSetFlag<2, PIPE_MTE2>(kTaken);
    rows_full_.SetWait(buffer);
    const int32_t high = tiling_.panel[0] / kFractalRows, wide = tiling_.panel[1] / kFractalRows;
    int32_t begin = 0;
    for (int32_t j = 0; j < kPoints; ++j) {
      if (product.sixteens[j] == 0) continue;
      MultiplyTurned(matrix_, in, high, grad, wide, 0, wide, begin, product.sixteens[j],
                     !summed_[j], j * tiling_.panel[0] * tiling_.panel[1]);
      summed_[j] = true;
      begin += product.sixteens[j];
    }
    rows_free_.Set(buffer);
  }

  // Writes the sums of a unit's kernel points that had pairs; those of the others: EmptySums.
  __aicore__ inline void Write(int64_t unit) {
    const int32_t elements = tiling_.panel[0] * tiling_.panel[1];
    const LocalTensor<float> sums = matrix_.FinishSums();
    for (int32_t j = 0; j < kPoints; ++j) {
      if (summed_[j])
        Fixpipe<float, float, CFG_ROW_MAJOR>(
            parts_[PartOf(tiling_, unit, j) * elements], sums[j * elements],
            FixpipeParamsV220(tiling_.panel[1], tiling_.panel[0], tiling_.panel[0],
                              tiling_.panel[1], false));
      summed_[j] = false;
    }
    matrix_.FreeSums();
  }

  const SparseConvWeightGradTiling tiling_;
  const int64_t step_elements_;
  LocalTensor<T> rows_;  // [kLoadedSteps]
  MatrixUnit<T> matrix_;
  Receiver receiver_;
  GlobalTensor<T> gathered_;
  GlobalTensor<float> parts_;
  Events<HardEvent::MTE1_MTE2> rows_free_;
  Events<HardEvent::MTE2_MTE1> rows_full_;
  bool summed_[kPoints] = {};  // whether there are sums of the unit's kernel points
};

}  // namespace mxd::kernels::sparse_conv_weight_grad
