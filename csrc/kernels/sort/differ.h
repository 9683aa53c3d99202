// Where a key is not the one before it.
#pragma once

#include "../common/in_order.h"
#include "kernel_operator.h"

namespace mxd::kernels {

// Makes those lanes of `differs`, of which none is below 0, positive where a word of a key differs
// from that of the key before. Overwrites `before` and `scratch`, which may be `word` itself.
__aicore__ inline void MarkDifferent(const LocalTensor<int32_t>& differs,
                                     const LocalTensor<int32_t>& word,
                                     const LocalTensor<int32_t>& before,
                                     const LocalTensor<int32_t>& scratch, int32_t count) {
  const InOrder lanes(count);
  lanes.Sub(before, word, before);
  lanes.Muls(scratch, before, -1);
  lanes.Max(scratch, scratch, before);
  lanes.Max(differs, differs, scratch);
}

}  // namespace mxd::kernels
