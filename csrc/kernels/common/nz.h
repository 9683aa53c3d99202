// The NZ (fractal) layout of matrices in L1 and L0: columns of fractals, a fractal being 16 rows of
// 32 bytes.
#pragma once

#include "integers.h"
#include "kernel_operator.h"
#include "numbers.h"

namespace mxd::kernels {

using namespace AscendC;

template <typename T>
constexpr int32_t kFractalColumns = kBlockBytes / static_cast<int32_t>(sizeof(T));
template <typename T>
constexpr int32_t kFractalElements = kFractalBytes / static_cast<int32_t>(sizeof(T));

// Byte offsets with which Gatherb turns rows into NZ and back: offsets[i] = i / side * outer + i %
// side * inner, where each i stands for `parts` (1 or 2) blocks that follow each other. `scratch`
// holds three times kCount words.
template <int32_t kCount>
__aicore__ inline void ArrangeBlocks(const LocalTensor<uint32_t>& offsets, int32_t side,
                                     int32_t outer, int32_t inner, int32_t parts,
                                     const NumberTable<kCount>& numbers,
                                     const LocalTensor<float>& scratch) {
  const int32_t count = offsets.GetSize(), shift = parts / 2;
  const LocalTensor<int32_t> to = offsets.ReinterpretCast<int32_t>();
  const LocalTensor<int32_t> index = scratch.ReinterpretCast<int32_t>();
  const LocalTensor<int32_t> quotient = scratch[kCount].ReinterpretCast<int32_t>();
  const LocalTensor<float> ratio = scratch[2 * kCount];
  numbers.Write(index);
  PipeBarrier<PIPE_V>();
  ShiftRight(quotient, index, shift, count);
  PipeBarrier<PIPE_V>();
  // Which of the parts, in `to`; then the number of the whole, its quotient and its remainder.
  Muls(to, quotient, -parts, count);
  PipeBarrier<PIPE_V>();
  Add(to, to, index, count);
  Cast(ratio, quotient, RoundMode::CAST_RINT, count);
  PipeBarrier<PIPE_V>();
  Muls(to, to, kBlockBytes, count);
  Adds(ratio, ratio, 0.5f, count);
  Muls(index, quotient, inner, count);
  PipeBarrier<PIPE_V>();
  Muls(ratio, ratio, 1.0f / side, count);
  Add(to, to, index, count);
  PipeBarrier<PIPE_V>();
  Cast(quotient, ratio, RoundMode::CAST_FLOOR, count);
  PipeBarrier<PIPE_V>();
  Muls(quotient, quotient, outer - side * inner, count);
  PipeBarrier<PIPE_V>();
  Add(to, to, quotient, count);
  PipeBarrier<PIPE_V>();
}

}  // namespace mxd::kernels
