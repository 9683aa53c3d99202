// Multiplies columns by the weight: sums [output channels, positions] of a unit in L0C.
#pragma once

#include <type_traits>

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/matrix_unit.h"
#include "../common/nz.h"
#include "flags.h"
#include "kernel_operator.h"
#include "schedule.h"
#include "weights.h"

namespace mxd::kernels::modulated_deform_conv {

template <typename T>
class CubeCore {
  // Of L1: the columns of two steps, the bias as a block of the contraction, and ones for it.
  static constexpr int32_t kBiasBytes = kSums / (kMaxTile / 2) * kBlockBytes;
  static constexpr int32_t kOnesBytes = kMaxTile * kBlockBytes;

 public:
  __aicore__ inline CubeCore(TPipe& pipe, const ModulatedDeformConvTiling& tiling, GM_ADDR weight,
                             GM_ADDR bias, GM_ADDR ring, GM_ADDR out)
      : tiling_(tiling),
        step_elements_(StepBytes(tiling) / static_cast<int32_t>(sizeof(T))),
        columns_(Take<T, TPosition::A1>(pipe, 2 * step_elements_)),
        bias_(Take<T, TPosition::A1>(pipe, kBiasBytes / static_cast<int32_t>(sizeof(T)))),
        ones_(Take<T, TPosition::A1>(pipe, kOnesBytes / static_cast<int32_t>(sizeof(T)))),
        weights_(pipe, weight, kL1Bytes - 2 * StepBytes(tiling) - kBiasBytes - kOnesBytes, tiling),
        matrix_(pipe) {
    Bind(all_bias_, bias);
    ring_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(ring) +
                          GetBlockIdx() * kSlots * step_elements_);
    Bind(out_, out);
    columns_free_.Init(pipe, 2);
    columns_full_.Init(pipe, 2);
    bias_free_.Init(pipe, 1);
  }

  __aicore__ inline void Process() {
    columns_free_.SetAll();
    weights_.Begin();
    matrix_.Begin();
    if (tiling_.has_bias) {
      bias_free_.Set();
      DataCopy(ones_, all_bias_[tiling_.groups * tiling_.panels * tiling_.panel * kElements],
               tiling_.tile * kElements);
    }
    for (Steps<Passes> steps(tiling_, static_cast<int32_t>(GetBlockIdx()), kListTaps);
         !steps.Done(); steps.Next()) {
      if (steps.First()) Begin(steps.unit());
      Multiply(steps.number(), steps.unit(), steps.Get());
      if (steps.Last()) Write(steps.unit());
    }
    if (tiling_.has_bias) bias_free_.Wait();
    columns_free_.WaitAll();
    weights_.End();
    matrix_.End();
  }

 private:
  static constexpr int32_t kElements = kFractalColumns<T>;

  // Opens the sums of a unit.
  __aicore__ inline void Begin(const Unit& unit) {
    weights_.Open(unit);
    matrix_.WaitForSums();
    if (!tiling_.has_bias) return;
    const int32_t panel = tiling_.panel * kElements,
                  first = unit.group * tiling_.panels + unit.panel;
    const int32_t panels = unit.groups * unit.panels;
    bias_free_.Wait();
    DataCopy(bias_, all_bias_[first * panel], panels * panel);
    SetWait<HardEvent::MTE2_MTE1>();
    for (int32_t i = 0; i < panels; ++i) {
      matrix_.WaitForOperands();
      matrix_.LoadLeft(bias_[i * panel], 0, tiling_.panel / kFractalRows, 1,
                       tiling_.panel / kFractalRows);
      matrix_.LoadRight(ones_, 0, tiling_.tile / kFractalRows);
      matrix_.OperandsLoaded();
      matrix_.Multiply(tiling_.panel, tiling_.tile, kElements, true, SumAt(i));
    }
    bias_free_.Set();
  }

  __aicore__ inline void Multiply(int32_t number, const Unit& unit, const Step& step) {
    const int32_t buffer = number % 2, high = tiling_.tile / kFractalRows;
    const LocalTensor<T> columns = columns_[buffer * step_elements_];
    CrossCoreWaitFlag(kFilled);
    columns_free_.Wait(buffer);
    DataCopy(columns, ring_[number % kSlots * step_elements_],
             step.blocks * tiling_.tile * kElements);
    CrossCoreSetFlag<2, PIPE_MTE2>(kTaken);
    columns_full_.SetWait(buffer);
    const int32_t end = step.block + step.blocks;
    for (int32_t block = step.block, taken; block < end; block += taken) {
      const int32_t group = block / tiling_.group_blocks;
      const int32_t in_group = block - group * tiling_.group_blocks;
      taken = MinOf(kContractionBlocks, MinOf(end - block, tiling_.group_blocks - in_group));
      const bool first = !tiling_.has_bias && step.point == 0 && in_group == 0;
      for (int32_t i = 0; i < unit.panels; ++i) {
        const LocalTensor<T> weight =
            weights_.Load(group, unit.panel + i, step.point, in_group, taken);
        matrix_.WaitForOperands();
        matrix_.LoadLeft(weight, 0, tiling_.panel / kFractalRows, taken,
                         tiling_.panel / kFractalRows);
        weights_.Free();
        matrix_.LoadRight(columns, (block - step.block) * high, taken * high);
        matrix_.OperandsLoaded();
        matrix_.Multiply(tiling_.panel, tiling_.tile, taken * kElements, first,
                         SumAt((group - unit.group) * unit.panels + i));
      }
    }
    columns_free_.Set(buffer);
  }

  // Writes the sums of a unit.
  __aicore__ inline void Write(const Unit& unit) {
    const LocalTensor<float> sums = matrix_.FinishSums();
    FixpipeParamsV220 how(unit.count, 0, tiling_.panel, tiling_.out_stride, false);
    if constexpr (std::is_same_v<T, half>) how.quantPre = F322F16;
    if constexpr (std::is_same_v<T, bfloat16_t>) how.quantPre = F322BF16;
    for (int32_t i = 0; i < unit.groups * unit.panels; ++i) {
      const int32_t group = unit.group + i / unit.panels, panel = unit.panel + i % unit.panels;
      const int32_t channel = panel * tiling_.panel;
      how.mSize = MinOf(tiling_.panel, tiling_.out_channels - channel);
      const int64_t row =
          (static_cast<int64_t>(unit.image) * tiling_.groups + group) * tiling_.out_channels +
          channel;
      Fixpipe<T, float, CFG_ROW_MAJOR>(out_[row * tiling_.out_stride + unit.first], sums[SumAt(i)],
                                       how);
    }
    matrix_.FreeSums();
  }

  // The sums of a panel in those of a unit.
  __aicore__ inline int32_t SumAt(int32_t panel) const {
    return panel * tiling_.panel * tiling_.tile;
  }

  const ModulatedDeformConvTiling tiling_;
  const int32_t step_elements_;
  LocalTensor<T> columns_, bias_, ones_;
  Weights<T> weights_;
  MatrixUnit<T> matrix_;
  GlobalTensor<T> all_bias_, ring_, out_;
  Events<HardEvent::MTE1_MTE2> columns_free_, bias_free_;
  Events<HardEvent::MTE2_MTE1> columns_full_;
};

}  // namespace mxd::kernels::modulated_deform_conv
