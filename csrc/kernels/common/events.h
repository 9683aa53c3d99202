// Order between the pipes of a core.
#pragma once

#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

// Numbered events from one pipe to another: Set by the first, when all its work until then is done;
// Wait holds back the second. A buffer that two pipes hand to each other has two of them, "full"
// and "free".
template <HardEvent kEvent>
class Events {
 public:
  __aicore__ inline void Init(TPipe& pipe, int32_t count) {
    count_ = count;
    for (int32_t i = 0; i < count; ++i)
      id_[i] = static_cast<event_t>(pipe.template AllocEventID<kEvent>());
  }
  __aicore__ inline void Set(int32_t i = 0) { SetFlag<kEvent>(id_[i]); }
  __aicore__ inline void Wait(int32_t i = 0) { WaitFlag<kEvent>(id_[i]); }
  __aicore__ inline void SetWait(int32_t i = 0) {
    Set(i);
    Wait(i);
  }
  // Every Set needs its Wait: a kernel begins with all buffers free, and ends when they are.
  __aicore__ inline void SetAll() {
    for (int32_t i = 0; i < count_; ++i) Set(i);
  }
  __aicore__ inline void WaitAll() {
    for (int32_t i = 0; i < count_; ++i) Wait(i);
  }

 private:
  static constexpr int32_t kMaxEvents = 8;  // that the machine has, from one pipe to another
  event_t id_[kMaxEvents];
  int32_t count_ = 0;
};

// Holds back the event's second pipe until all work of the first until now is done.
template <HardEvent kEvent>
__aicore__ inline void SetWait() {
  const event_t id = static_cast<event_t>(GetTPipePtr()->FetchEventID(kEvent));
  SetFlag<kEvent>(id);
  WaitFlag<kEvent>(id);
}

}  // namespace mxd::kernels
