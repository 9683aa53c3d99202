// Messages from a block's first vector core to its cube core, through a ring in global memory: what
// the step holds that the cube core is to work on. A slot is written again kSlots steps later; the
// kernel's cross-core flags see to it that the cube core has read it by then.
#pragma once

#include "buffers.h"
#include "events.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

template <typename Word, int32_t kBytes, int32_t kSlots>
class MessageSender {
  static constexpr int32_t kWords = kBytes / static_cast<int32_t>(sizeof(Word));
  static_assert(kBytes % kCacheLine == 0);

 public:
  static constexpr int32_t kUbBytes = kBytes * kSlots;

  // `ring` is that of the block.
  __aicore__ inline MessageSender(TPipe& pipe, GM_ADDR ring)
      : messages_(Take<Word>(pipe, kSlots * kWords)) {
    Bind(ring_, ring);
    sent_.Init(pipe, kSlots);
    sent_.SetAll();
    Duplicate(messages_.template ReinterpretCast<int32_t>(), 0, kUbBytes / kWord);
  }
  __aicore__ inline void End() { sent_.WaitAll(); }

  // The message of a step, to be filled by SetValue.
  __aicore__ inline LocalTensor<Word> Open(int32_t step) {
    sent_.Wait(step % kSlots);
    return messages_[step % kSlots * kWords];
  }
  // Sends the first `words` of it, whole blocks of 32 bytes.
  __aicore__ inline void Send(int32_t step, int32_t words) {
    SetWait<HardEvent::S_MTE3>();
    DataCopy(ring_[step % kSlots * kWords], messages_[step % kSlots * kWords],
             RoundUp(words, kBlockBytes / static_cast<int32_t>(sizeof(Word))));
    sent_.Set(step % kSlots);
  }

 private:
  GlobalTensor<Word> ring_;
  LocalTensor<Word> messages_;
  Events<HardEvent::MTE3_S> sent_;
};

template <int32_t kBytes, int32_t kSlots>
class MessageReceiver {
 public:
  __aicore__ inline explicit MessageReceiver(GM_ADDR ring) { Bind(ring_, ring); }
  // The message of a step, to be read 8 bytes at a time.
  __aicore__ inline GlobalTensor<uint64_t> Receive(int32_t step) {
    constexpr int32_t kWords = kBytes / static_cast<int32_t>(sizeof(uint64_t));
    const GlobalTensor<uint64_t> message = ring_[step % kSlots * kWords];
    // The data cache does not know that another core wrote.
    for (int32_t line = 0; line < kBytes; line += kCacheLine)
      DataCacheCleanAndInvalid<uint64_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(
          message[line / static_cast<int32_t>(sizeof(uint64_t))]);
    return message;
  }

 private:
  GlobalTensor<uint64_t> ring_;
};

}  // namespace mxd::kernels
