// Words of a table in global memory, taken by their places. The table streams through UB part by
// part, and each word is taken from the part that has it: a gather from UB costs a cycle for 64
// words, one from global memory a DMA for each.
#pragma once

#include "buffers.h"
#include "events.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

template <int32_t kPart>  // words of the table in UB at once
class WordTable {
 public:
  static constexpr int32_t kUbWords = kPart + 2 * kBlockWords;  // with a zero before and behind

  __aicore__ inline explicit WordTable(TPipe& pipe) : part_(Take<int32_t>(pipe, kUbWords)) {
    Duplicate(part_, 0, kBlockWords);
  }

  // out = the words of the table at `place`; 0 where a place is outside of [first, end). `scratch`
  // holds as many words.
  __aicore__ inline void Look(const GlobalTensor<int32_t>& table, int32_t first, int32_t end,
                              const LocalTensor<int32_t>& place, const LocalTensor<int32_t>& out,
                              const LocalTensor<int32_t>& scratch, int32_t count) const {
    Duplicate(out, 0, count);
    for (int32_t at = first; at < end; at += kPart) {
      const int32_t size = MinOf(kPart, end - at);
      const int32_t padding = RoundUp(size, kBlockWords) - size;
      SetWait<HardEvent::V_MTE2>();
      DataCopyPad(part_[kBlockWords], table[at], Words(size),
                  {true, 0, static_cast<uint8_t>(padding), 0});
      Adds(scratch, place, 1 - at, count);
      PipeBarrier<PIPE_V>();
      Maxs(scratch, scratch, 0, count);  // of the zero before
      PipeBarrier<PIPE_V>();
      Mins(scratch, scratch, size + 1, count);  // of the zero behind
      PipeBarrier<PIPE_V>();
      Muls(scratch, scratch, kWord, count);
      SetWait<HardEvent::MTE2_V>();
      if (padding == 0) Duplicate(part_[kBlockWords + size], 0, kBlockWords);
      PipeBarrier<PIPE_V>();
      Gather(scratch, part_, scratch.ReinterpretCast<uint32_t>(), (kBlockWords - 1) * kWord, count);
      PipeBarrier<PIPE_V>();
      Add(out, out, scratch, count);
      PipeBarrier<PIPE_V>();
    }
  }

 private:
  LocalTensor<int32_t> part_;
};

}  // namespace mxd::kernels
