// Slots that name rows of a table, or none.
#pragma once

#include "buffers.h"
#include "events.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

// Which slots of a batch are filled.
template <int32_t kCapacity>
class FilledSlots {
 public:
  static constexpr int32_t kBytes = 3 * kCapacity * kWord + kCapacity / 8;

  __aicore__ inline explicit FilledSlots(TPipe& pipe)
      : slot_(Take<int32_t>(pipe, kCapacity)),
        filled_(Take<int32_t>(pipe, kCapacity)),
        scratch_(Take<int32_t>(pipe, kCapacity)),
        mask_(Take<uint8_t>(pipe, kCapacity / 8)) {}

  __aicore__ inline void Fetch(const GlobalTensor<int32_t>& slots, int32_t count) {
    SetWait<HardEvent::V_MTE2>();
    DataCopyPad(slot_, slots, Words(count), {false, 0, 0, 0});
  }

  // Of the slots fetched: which ones name one of the table's `rows`.
  __aicore__ inline void Find(int32_t count, int32_t rows) {
    const int32_t whole = RoundUp(count, kLanes);
    Duplicate(filled_, 0, whole);
    PipeBarrier<PIPE_V>();
    SetWait<HardEvent::MTE2_V>();
    Muls(scratch_, slot_, -1, count);
    Maxs(filled_, slot_, -1, count);
    PipeBarrier<PIPE_V>();
    Adds(scratch_, scratch_, rows, count);
    Adds(filled_, filled_, 1, count);
    PipeBarrier<PIPE_V>();
    Maxs(scratch_, scratch_, 0, count);
    PipeBarrier<PIPE_V>();
    Min(filled_, filled_, scratch_, count);
    PipeBarrier<PIPE_V>();
    Mins(filled_, filled_, 1, count);
    PipeBarrier<PIPE_V>();
    CompareScalar(mask_, filled_, 1, CMPMODE::EQ, whole);
    PipeBarrier<PIPE_V>();
  }

  // The rows that the filled ones of `count` slots name. How many.
  __aicore__ inline int32_t Rows(const LocalTensor<int32_t>& to, int32_t count) const {
    return Compact(to, slot_, count);
  }
  // Those of `count` numbers whose slots are filled.
  __aicore__ inline int32_t Compact(const LocalTensor<int32_t>& to,
                                    const LocalTensor<int32_t>& from, int32_t count) const {
    uint64_t kept = 0;
    GatherMask(to, from, mask_.template ReinterpretCast<uint32_t>(), true,
               static_cast<uint32_t>(count), {1, 1, 8, 0}, kept);
    PipeBarrier<PIPE_V>();
    return static_cast<int32_t>(kept);
  }

  // 1 for a filled slot, else 0, in whole repeats.
  __aicore__ inline const LocalTensor<int32_t>& filled() const { return filled_; }

 private:
  LocalTensor<int32_t> slot_, filled_, scratch_;
  LocalTensor<uint8_t> mask_;
};

}  // namespace mxd::kernels
