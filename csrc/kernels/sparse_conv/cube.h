// Multiplies a step's gathered rows by the weights of their kernel offsets.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/matrix_unit.h"
#include "../common/nz.h"
#include "kernel_operator.h"
#include "message.h"
#include "step.h"
#include "weights.h"

namespace mxd::kernels::sparse_conv {

template <typename T>
class CubeCore {
 public:
  __aicore__ inline CubeCore(TPipe& pipe, const SparseConvTiling& tiling, GM_ADDR weight,
                             GM_ADDR gathered, GM_ADDR products, GM_ADDR messages)
      : tiling_(tiling),
        step_elements_(GatheredElements(tiling)),
        rows_(Take<T, TPosition::A1>(pipe, 2 * step_elements_)),
        weights_(pipe, weight,
                 Take<T, TPosition::A1>(pipe, kL1Bytes / sizeof(T) - 2 * step_elements_), tiling),
        matrix_(pipe),
        receiver_(messages + GetBlockIdx() * kSteps * kMessageBytes) {
    gathered_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gathered) +
                              GetBlockIdx() * kSteps * step_elements_);
    products_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(products) +
                              GetBlockIdx() * kSteps * ProductElements(tiling));
    rows_free_.Init(pipe, 2);
    rows_full_.Init(pipe, 2);
  }

  __aicore__ inline void Process() {
    rows_free_.SetAll();
    weights_.Begin();
    matrix_.Begin();
    for (int32_t step = 0;; ++step) {
      CrossCoreWaitFlag(kGathered);
      if (!Multiply(step)) break;
      CrossCoreSetFlag<2, PIPE_FIX>(kMultiplied);
    }
    rows_free_.WaitAll();
    weights_.End();
    matrix_.End();
  }

 private:
  __aicore__ inline bool Multiply(int32_t step) {
    Product product;
    ReceiveStep(receiver_, step, product);
    if (product.pieces < 0) return false;
    // The vector core writes over this message when this step's products are there.
    SetWait<HardEvent::S_MTE2>();
    SetWait<HardEvent::MTE2_FIX>();
    if (product.pieces == 0) return true;
    weights_.Open(product.panel);

    const int32_t buffer = step % 2;
    rows_free_.Wait(buffer);
    DataCopy(rows_[buffer * step_elements_], gathered_[step % kSteps * step_elements_],
             DataCopyParams(tiling_.in_channels / kFractalColumns<T>, product.rows,
                            tiling_.step_rows - product.rows, 0));
    rows_full_.SetWait(buffer);
    int32_t slot = 0;
    for (int32_t p = 0; p < product.pieces; ++p) {
      const int32_t rows = RoundUp(product.count[p], kFractalRows);
      for (int32_t first = 0; first < rows; first += kMatrixRows)
        MultiplyRows(step, product.rows, product.offset[p], slot + first,
                     MinOf(kMatrixRows, rows - first),
                     MinOf(kMatrixRows, product.count[p] - first));
      slot += rows;
    }
    rows_free_.Set(buffer);
    return true;
  }

  // Products of `rows` rows from `slot` on, a multiple of 16; the first `count` of them are
  // written.
  __aicore__ inline void MultiplyRows(int32_t step, int32_t step_rows, int32_t offset, int32_t slot,
                                      int32_t rows, int32_t count) {
    const LocalTensor<T> from = rows_[step % 2 * step_elements_];
    const int32_t deep = tiling_.in_step / kFractalColumns<T>, high = rows / kFractalRows;
    const int32_t column = step_rows / kFractalRows;
    for (int32_t block = 0; block < weights_.in_blocks(); ++block) {
      const LocalTensor<T> weight = weights_.Load(offset, block);
      matrix_.WaitForOperands();
      matrix_.LoadLeft(from, block * deep * column + slot / kFractalRows, high, deep, column);
      matrix_.LoadRight(weight, 0, weights_.block_elements() / kFractalElements<T>);
      weights_.Free(offset, block);
      matrix_.OperandsLoaded();
      if (block == 0) matrix_.WaitForSums();
      matrix_.Multiply(rows, tiling_.panel, tiling_.in_step, block == 0);
    }
    Fixpipe<float, float, CFG_NZ>(
        products_[step % kSteps * ProductElements(tiling_) + slot * kFractalRows],
        matrix_.FinishSums(),
        FixpipeParamsV220(tiling_.panel, count, rows, tiling_.step_rows * 2, false));
    matrix_.FreeSums();
  }

  const SparseConvTiling tiling_;
  const int64_t step_elements_;
  LocalTensor<T> rows_;  // of two steps
  Weights<T> weights_;
  MatrixUnit<T> matrix_;
  Receiver receiver_;
  GlobalTensor<T> gathered_;
  GlobalTensor<float> products_;
  Events<HardEvent::MTE1_MTE2> rows_free_;
  Events<HardEvent::MTE2_MTE1> rows_full_;
};

}  // namespace mxd::kernels::sparse_conv
