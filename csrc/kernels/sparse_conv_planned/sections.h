// Blocks by section, for the plan.
#pragma once

#include "../common/machine.h"
#include "../sparse_conv_plan_tiling.h"
#include "kernel_operator.h"

namespace mxd::kernels::sparse_conv_planned {

using namespace AscendC;

// to: where in [volume, kPlanSections, kBlocks] fp32 the elements of [kPlanSections, volume,
// kBlocks] are, in bytes, kBlocks being the blocks of a section; `count` of both. `scratch` is
// three times as long.
__aicore__ inline void ListSections(const LocalTensor<int32_t>& to,
                                    const LocalTensor<int32_t>& scratch, int32_t volume,
                                    int32_t count) {
  constexpr int32_t kBlocks = kPlanBlocks / kPlanSections, kShift = 2;
  static_assert(kBlocks == 1 << kShift);
  const LocalTensor<int32_t> index = scratch, section = scratch[count], other = scratch[2 * count];
  CreateVecIndex(index, 0, count);
  Duplicate(section, 0, count);
  PipeBarrier<PIPE_V>();
  for (int32_t i = 1; i < kPlanSections; ++i) {  // adds 1 where the section is i or higher
    Adds(other, index, 1 - i * volume * kBlocks, count);
    PipeBarrier<PIPE_V>();
    Maxs(other, other, 0, count);
    PipeBarrier<PIPE_V>();
    Mins(other, other, 1, count);
    PipeBarrier<PIPE_V>();
    Add(section, section, other, count);
    PipeBarrier<PIPE_V>();
  }
  Muls(other, section, volume * kBlocks, count);
  PipeBarrier<PIPE_V>();
  Sub(index, index, other, count);  // in the section
  PipeBarrier<PIPE_V>();
  ShiftRight(other, index, kShift, count);  // the kernel point
  Muls(section, section, kBlocks, count);
  PipeBarrier<PIPE_V>();
  Muls(other, other, kPlanBlocks - kBlocks, count);
  Add(index, index, section, count);
  PipeBarrier<PIPE_V>();
  Add(index, index, other, count);
  PipeBarrier<PIPE_V>();
  Muls(to, index, kWord, count);
  PipeBarrier<PIPE_V>();
}

}  // namespace mxd::kernels::sparse_conv_planned
