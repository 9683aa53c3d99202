// The products of the backward pass: the gradient of a step's columns, from the output's gradient
// and the weight; and the gradient of the weight, from the output's gradient and the columns.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/matrix_unit.h"
#include "../common/nz.h"
#include "../common/squares.h"
#include "../modulated_deform_conv/flags.h"
#include "../modulated_deform_conv/schedule.h"
#include "kernel_operator.h"
#include "output_grads.h"
#include "weights.h"

namespace mxd::kernels::modulated_deform_conv_backward {

using namespace AscendC;
using namespace modulated_deform_conv;

template <typename T>
class CubeCore {
  static constexpr int32_t kElements = kFractalColumns<T>;
  static constexpr int32_t kLead = kSlots - 1;  // steps between a gradient and its columns

 public:
  __aicore__ inline CubeCore(TPipe& pipe, const ModulatedDeformConvTiling& tiling, GM_ADDR grad,
                             GM_ADDR weight, GM_ADDR column_grads, GM_ADDR ring, GM_ADDR parts)
      : tiling_(tiling),
        step_elements_(StepBytes(tiling) / static_cast<int32_t>(sizeof(T))),
        columns_(Take<T, TPosition::B1>(pipe, 2 * step_elements_)),
        grads_(pipe, grad, tiling_),
        weights_(pipe, weight, kL1Bytes - 2 * StepBytes(tiling) - OutputGrads<T>::Bytes(tiling),
                 tiling_),
        matrix_(pipe) {
    const int64_t first = GetBlockIdx() * kSlots * static_cast<int64_t>(step_elements_);
    ring_.SetGlobalBuffer(reinterpret_cast<__gm__ Bits<T>*>(ring) + first);
    grad_ring_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(column_grads) + first);
    Bind(parts_, parts);
    columns_free_.Init(pipe, 2);
    columns_full_.Init(pipe, 2);
  }

  __aicore__ inline void Process() {
    columns_free_.SetAll();
    grads_.Begin();
    weights_.Begin();
    matrix_.Begin();
    const auto block = static_cast<int32_t>(GetBlockIdx());
    Steps<Lanes> next(tiling_, block, modulated_deform_conv_backward::kListTaps);
    for (Steps<Lanes> steps(tiling_, block, modulated_deform_conv_backward::kListTaps);
         !steps.Done(); steps.Next()) {
      for (; !next.Done() && next.number() < steps.number() + kLead; next.Next())
        if (tiling_.of_data) MakeColumnGrad(next);
      CrossCoreWaitFlag(kFilled);
      if (tiling_.of_parameters) AddWeightGrad(steps);
    }
    columns_free_.WaitAll();
    weights_.End();
    matrix_.End();
  }

 private:
  // Calls body(group, block in it, blocks, channel of the step) for the parts of a step that are of
  // one group.
  template <typename Body>
  __aicore__ inline void ForEachGroup(const Step& step, const Body& body) {
    const int32_t end = step.block + step.blocks;
    for (int32_t block = step.block, taken; block < end; block += taken) {
      const int32_t group = block / tiling_.group_blocks;
      const int32_t in_group = block - group * tiling_.group_blocks;
      taken = MinOf(end - block, tiling_.group_blocks - in_group);
      body(group, in_group, taken, (block - step.block) * kElements);
    }
  }

  // Columns' gradient = output's gradient @ weight, [positions, channels].
  __aicore__ inline void MakeColumnGrad(const Steps<Lanes>& steps) {
    const Step& step = steps.Get();
    const Unit& unit = steps.unit();
    const int32_t rows = RoundUp(unit.count, kFractalRows), high = rows / kFractalRows;
    const int32_t panel_blocks = tiling_.panel / kElements;
    matrix_.WaitForSums();
    ForEachGroup(step,
                 [&](int32_t group, int32_t block, int32_t blocks, int32_t channel) __aicore__ {
                   const int32_t channels = blocks * kElements;
                   for (int32_t panel = 0; panel < tiling_.panels; ++panel) {
                     const LocalTensor<T> grad =
                         grads_.Get(steps.unit_number(), unit, group * tiling_.panels + panel);
                     for (int32_t out = 0; out < panel_blocks; out += kContractionBlocks) {
                       const int32_t deep = MinOf(kContractionBlocks, panel_blocks - out);
                       matrix_.WaitForOperands();
                       // Rows that follow each other in L1 take one instruction.
                       const int32_t loads = deep == panel_blocks ? 1 : high;
                       for (int32_t i = 0; i < loads; ++i)
                         LoadData(matrix_.left()[i * deep * kFractalElements<T>], grad,
                                  LoadData2DParams(i * panel_blocks + out, high / loads * deep, 1,
                                                   0, 0, false, 0));
                       weights_.Load(matrix_, group, step.point, panel * panel_blocks + out, deep,
                                     block * kElements, channels);
                       matrix_.OperandsLoaded();
                       matrix_.Multiply(rows, channels, deep * kElements, panel == 0 && out == 0,
                                        channel * rows);
                     }
                   }
                 });
    const int32_t channels = step.blocks * kElements;
    Fixpipe<float, float, CFG_ROW_MAJOR>(
        grad_ring_[steps.number() % kSlots * step_elements_], matrix_.FinishSums(),
        FixpipeParamsV220(channels, unit.count, rows, channels, false));
    matrix_.FreeSums();
    CrossCoreSetFlag<2, PIPE_FIX>(kGradReady);
  }

  // Adds output's gradient, turned, @ columns to the gradient of the weight.
  __aicore__ inline void AddWeightGrad(const Steps<Lanes>& steps) {
    const Step& step = steps.Get();
    const Unit& unit = steps.unit();
    const int32_t number = steps.number(), buffer = number % 2;
    const int32_t channels = step.blocks * kElements, sixteens = CeilDiv(unit.count, kFractalRows);
    const LocalTensor<T> columns = columns_[buffer * step_elements_];
    columns_free_.Wait(buffer);
    LoadSquares(columns, ring_[number % kSlots * step_elements_], sixteens * kFractalRows, channels,
                channels);
    CrossCoreSetFlag<2, PIPE_MTE2>(kTaken);
    columns_full_.SetWait(buffer);
    ForEachGroup(
        step, [&](int32_t group, int32_t block, int32_t blocks, int32_t channel) __aicore__ {
          for (int32_t panel = 0; panel < tiling_.panels; ++panel) {
            const int32_t which = group * tiling_.panels + panel;
            const LocalTensor<T> grad = grads_.Get(steps.unit_number(), unit, which);
            matrix_.WaitForSums();
            MultiplyTurned(matrix_, grad, tiling_.panel / kFractalRows, columns,
                           channels / kFractalRows, channel / kFractalRows, blocks / kSquare<T>, 0,
                           sixteens, true);
            const int32_t width = tiling_.group_blocks * kElements;
            const int64_t part =
                (static_cast<int64_t>(unit.part) * tiling_.groups * tiling_.panels + which) *
                    Points(tiling_) +
                step.point;
            SetAtomicAdd<float>();
            Fixpipe<float, float, CFG_ROW_MAJOR>(
                parts_[part * tiling_.panel * width + block * kElements], matrix_.FinishSums(),
                FixpipeParamsV220(blocks * kElements, tiling_.panel, tiling_.panel, width, false));
            SetAtomicNone();
            matrix_.FreeSums();
          }
        });
    columns_free_.Set(buffer);
  }

  const ModulatedDeformConvTiling tiling_;
  const int32_t step_elements_;
  LocalTensor<T> columns_;  // of two steps
  OutputGrads<T> grads_;
  Weights<T> weights_;
  MatrixUnit<T> matrix_;
  GlobalTensor<Bits<T>> ring_;
  GlobalTensor<float> grad_ring_, parts_;
  Events<HardEvent::MTE1_MTE2> columns_free_;
  Events<HardEvent::MTE2_MTE1> columns_full_;
};

}  // namespace mxd::kernels::modulated_deform_conv_backward
