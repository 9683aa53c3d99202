// A range of elements shared among the blocks of a launch.
#pragma once

#include "integers.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

// Calls body(begin, count) for each chunk, of at most `chunk` elements, of this block's share of
// `total`. Shares begin at multiples of kBlockWords: no two blocks write into the same 32 bytes.
template <typename Body>
__aicore__ inline void ForEachChunk(int32_t total, int32_t chunk, const Body& body) {
  const int64_t share = RoundUp(CeilDiv(total, static_cast<int32_t>(GetBlockNum())), kBlockWords);
  const int64_t first = GetBlockIdx() * share;
  const int64_t end = first + share < total ? first + share : total;
  for (int64_t begin = first; begin < end; begin += chunk)
    body(static_cast<int32_t>(begin),
         static_cast<int32_t>(end - begin < chunk ? end - begin : chunk));
}

}  // namespace mxd::kernels
