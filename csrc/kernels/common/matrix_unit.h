// The matrix unit of a cube core: L0A, L0B and L0C, each in two halves that are used in turn.
#pragma once

#include "buffers.h"
#include "events.h"
#include "kernel_operator.h"
#include "matrix_tile.h"
#include "nz.h"

namespace mxd::kernels {

using namespace AscendC;

// A sum: WaitForSums, then for every part of the contraction WaitForOperands, LoadLeft, LoadRight
// and Multiply, at last FinishSums, a Fixpipe of what it returns, and FreeSums. Several sums may be
// made at once, each from its element `at` on.
template <typename T>
class MatrixUnit {
 public:
  __aicore__ inline explicit MatrixUnit(TPipe& pipe)
      : left_(Take<T, TPosition::A2>(pipe, kL0Bytes / sizeof(T))),
        right_(Take<T, TPosition::B2>(pipe, kL0Bytes / sizeof(T))),
        sums_(Take<float, TPosition::CO1>(pipe, kL0cBytes / sizeof(float))) {
    operands_free_.Init(pipe, 2);
    operands_full_.Init(pipe, 2);
    sums_free_.Init(pipe, 2);
    sums_full_.Init(pipe, 2);
  }
  __aicore__ inline void Begin() {
    SetHF32Mode(false);  // plain fp32, whatever the kernel before left set
    operands_free_.SetAll();
    sums_free_.SetAll();
  }
  __aicore__ inline void End() {
    operands_free_.WaitAll();
    sums_free_.WaitAll();
  }

  __aicore__ inline void WaitForSums() { sums_free_.Wait(sum_); }
  __aicore__ inline void WaitForOperands() { operands_free_.Wait(operand_); }

  // Loads `high` times `deep` fractals of an NZ matrix in L1 whose columns have `column` fractals,
  // from fractal `start` on, in as few instructions as possible.
  __aicore__ inline void LoadLeft(const LocalTensor<T>& from, int32_t start, int32_t high,
                                  int32_t deep, int32_t column) {
    const LocalTensor<T> left = left_[operand_ * kOperand];
    if (high < deep) {
      for (int32_t i = 0; i < high; ++i)
        LoadData(left[i * deep * kFractalElements<T>], from,
                 LoadData2DParams(start + i, deep, column, 0, 0, false, 0));
    } else {
      for (int32_t i = 0; i < deep; ++i)
        LoadData(left[i * kFractalElements<T>], from,
                 LoadData2DParams(start + i * column, high, 1, 0, deep - 1, false, 0));
    }
  }
  // Loads `count` fractals that follow each other, behind `at` fractals.
  __aicore__ inline void LoadRight(const LocalTensor<T>& from, int32_t start, int32_t count,
                                   int32_t at = 0) {
    LoadData(right()[at * kFractalElements<T>], from,
             LoadData2DParams(start, count, 1, 0, 0, false, 0));
  }
  // The operands, for loads of another kind.
  __aicore__ inline LocalTensor<T> left() const { return left_[operand_ * kOperand]; }
  __aicore__ inline LocalTensor<T> right() const { return right_[operand_ * kOperand]; }

  __aicore__ inline void OperandsLoaded() { operands_full_.SetWait(operand_); }
  // sums = left @ right where `first`, else sums += left @ right.
  __aicore__ inline void Multiply(int32_t rows, int32_t columns, int32_t contraction, bool first,
                                  int32_t at = 0) {
    if (!first) PipeBarrier<PIPE_M>();
    Mmad(sums_[sum_ * kSum + at], left_[operand_ * kOperand], right_[operand_ * kOperand],
         MmadParams(rows, columns, contraction, 0, false, first));
    operands_free_.Set(operand_);
    operand_ = 1 - operand_;
  }

  __aicore__ inline LocalTensor<float> FinishSums() {
    sums_full_.SetWait(sum_);
    return sums_[sum_ * kSum];
  }
  __aicore__ inline void FreeSums() {
    sums_free_.Set(sum_);
    sum_ = 1 - sum_;
  }

 private:
  static constexpr int32_t kOperand = kOperandBytes / static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kSum = kSumBytes / static_cast<int32_t>(sizeof(float));

  LocalTensor<T> left_, right_;
  LocalTensor<float> sums_;
  Events<HardEvent::M_MTE1> operands_free_;
  Events<HardEvent::MTE1_M> operands_full_;
  Events<HardEvent::FIX_M> sums_free_;
  Events<HardEvent::M_FIX> sums_full_;
  int32_t operand_ = 0, sum_ = 0;
};

}  // namespace mxd::kernels
