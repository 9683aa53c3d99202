// Merges of sorted lists of pairs in UB; equal keys stay in the order of the lists.
#pragma once

#include "score.h"

namespace mxd::kernels {

// One MrgSort of `lists` (2 to 4) lists.
__aicore__ inline void MergeUpTo4(const LocalTensor<float>& to, const LocalTensor<float>& from,
                                  const int32_t* at, const int32_t* length, int32_t lists,
                                  int32_t repeats) {
  uint16_t lengths[4] = {0, 0, 0, 0};
  for (int32_t i = 0; i < lists; i++) lengths[i] = static_cast<uint16_t>(length[i]);
  const auto list = [&](int32_t i) __aicore__ { return from[kPairWords * at[i < lists ? i : 0]]; };
  const MrgSortSrcList<float> sources(list(0), list(1), list(2), list(3));
  MrgSort(to, sources,
          MrgSort4Info(lengths, false, static_cast<uint16_t>((1 << lists) - 1),
                       static_cast<uint16_t>(repeats)));
}

// Merges lists of `length` pairs, a multiple of 4, that follow each other; the last one may be
// shorter, by a multiple of 4. `other` is scratch of the same size; returns the one of both that
// holds the result.
__aicore__ inline LocalTensor<float> MergeEqual(const LocalTensor<float>& lists,
                                                const LocalTensor<float>& other, int32_t length,
                                                int32_t count) {
  LocalTensor<float> from = lists, to = other;
  for (; length < count; length *= 4) {
    const int32_t at[4] = {0, length, 2 * length, 3 * length};
    const int32_t full[4] = {length, length, length, length};
    const int32_t groups = count / (4 * length), done = groups * 4 * length, rest = count - done;
    if (groups > 0) MergeUpTo4(to, from, at, full, 4, groups);
    if (rest > length) {
      const int32_t lists_left = CeilDiv(rest, length);
      int32_t lengths[4] = {length, length, length, length};
      lengths[lists_left - 1] = rest - (lists_left - 1) * length;
      MergeUpTo4(to[kPairWords * done], from[kPairWords * done], at, lengths, lists_left, 1);
    } else if (rest > 0) {
      DataCopy(to[kPairWords * done], from[kPairWords * done],
               static_cast<uint32_t>(kPairWords * rest));
    }
    PipeBarrier<PIPE_V>();
    const LocalTensor<float> merged = to;
    to = from;
    from = merged;
  }
  return from;
}

// The same of `lists` lists of any lengths, which begin at multiples of 4 pairs. Both arrays are
// overwritten.
__aicore__ inline LocalTensor<float> MergeLists(const LocalTensor<float>& pairs,
                                                const LocalTensor<float>& other, int32_t* at,
                                                int32_t* length, int32_t lists) {
  LocalTensor<float> from = pairs, to = other;
  while (lists > 1) {
    int32_t merged = 0, end = 0;
    for (int32_t i = 0; i < lists;) {
      const int32_t left = lists - i;
      const int32_t together = left == 5 ? 3 : MinOf(left, 4);  // no list stays alone
      int32_t total = 0;
      for (int32_t j = 0; j < together; j++) total += length[i + j];
      MergeUpTo4(to[kPairWords * end], from, at + i, length + i, together, 1);
      at[merged] = end;
      length[merged++] = total;
      end += RoundUp(total, 4);
      i += together;
    }
    PipeBarrier<PIPE_V>();
    lists = merged;
    const LocalTensor<float> result = to;
    to = from;
    from = result;
  }
  return from;
}

}  // namespace mxd::kernels
