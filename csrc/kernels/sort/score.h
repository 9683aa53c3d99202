// Keys as scores. Sort32 and MrgSort put fp32 numbers in descending order; the bits of negative
// numbers, read as unsigned integers, ascend as the numbers descend. So a key becomes the bits of a
// negative number by one addition, exactly, and no two keys the same. Subnormal numbers, which
// hardware may take for zero, are left out.
#pragma once

#include "../common/buffers.h"
#include "../sort_tiling.h"

namespace mxd::kernels {

constexpr int32_t kSortPad = kSortMaxKey + 1;  // its score is minus infinity: behind all keys
constexpr int32_t kPairWords = 2, kPairBytes = 8;

// The first or second words of `count` pairs.
__aicore__ inline void PairWords(const LocalTensor<int32_t>& to, const LocalTensor<int32_t>& pairs,
                                 int32_t word, int32_t count) {
  uint64_t kept = 0;
  GatherMask(to, pairs, static_cast<uint8_t>(1 + word), true,
             static_cast<uint32_t>(kPairWords * count), {1, 1, 8, 0}, kept);
}

}  // namespace mxd::kernels
