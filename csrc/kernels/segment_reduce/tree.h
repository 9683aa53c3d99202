// Reductions of rows in UB by halves, in place: few instructions, each on many rows.
#pragma once

#include "../common/buffers.h"
#include "kernel_operator.h"

namespace mxd::kernels::segment_reduce {

using namespace AscendC;

struct Plus {
  __aicore__ static inline void Apply(const LocalTensor<float>& to, const LocalTensor<float>& a,
                                      const LocalTensor<float>& b, int32_t count) {
    Add(to, a, b, count);
  }
};
struct Greatest {
  __aicore__ static inline void Apply(const LocalTensor<float>& to, const LocalTensor<float>& a,
                                      const LocalTensor<float>& b, int32_t count) {
    Max(to, a, b, count);
  }
};
struct Least {
  __aicore__ static inline void Apply(const LocalTensor<float>& to, const LocalTensor<float>& a,
                                      const LocalTensor<float>& b, int32_t count) {
    Min(to, a, b, count);
  }
};

// Reduces `count` rows (1 at least), `pitch` words each, to one. The rows are overwritten.
template <typename Operation>
__aicore__ inline void ReduceRows(const LocalTensor<float>& to, const LocalTensor<float>& rows,
                                  int32_t pitch, int32_t count) {
  if (count == 1) DataCopy(to, rows, static_cast<uint32_t>(pitch));
  while (count > 1) {
    const int32_t half_count = count / 2, rest = count - half_count;
    Operation::Apply(count == 2 ? to : rows, rows, rows[rest * pitch], half_count * pitch);
    PipeBarrier<PIPE_V>();
    count = rest;
  }
}

}  // namespace mxd::kernels::segment_reduce
