// What the kernels of the sparse convolution share.
#pragma once

#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr int32_t kTileRows = 512;  // output rows of a tile of the rulebook
constexpr int32_t kFractalRows = 16;
constexpr int32_t kFractalBytes = 512;
constexpr int32_t kBlockBytes = 32;
constexpr int32_t kBlockWords = kBlockBytes / 4;  // of int32 and fp32
constexpr int32_t kLanes = 64;                    // of fp32
constexpr int32_t kMaxFlags = 8;

__aicore__ inline int32_t Least(int32_t a, int32_t b) { return a < b ? a : b; }
__aicore__ inline int32_t RoundUp(int32_t value, int32_t to) { return (value + to - 1) / to * to; }

// Reads a list of integers 8 bytes at a time.
template <typename T>
class Reader {
 public:
  __aicore__ inline explicit Reader(const LocalTensor<T>& list)
      : words_(list.template ReinterpretCast<int64_t>()) {}
  __aicore__ inline T Get(int32_t index) {
    constexpr int32_t kInWord = 8 / sizeof(T);
    if (index / kInWord != at_) {
      at_ = index / kInWord;
      word_ = words_.GetValue(at_);
    }
    return static_cast<T>(word_ >> (index % kInWord * 8 * static_cast<int32_t>(sizeof(T))));
  }

 private:
  LocalTensor<int64_t> words_;
  int64_t word_ = 0;
  int32_t at_ = -1;
};

// Flags of buffers, numbered: raised by pipe A when it is done with a buffer, awaited by pipe B.
template <HardEvent kEvent>
class Flags {
 public:
  __aicore__ inline void Init(TPipe& pipe, int32_t count) {
    count_ = count;
    for (int32_t i = 0; i < count; ++i) id_[i] = static_cast<event_t>(pipe.AllocEventID<kEvent>());
  }
  __aicore__ inline void Raise(int32_t i = 0) { SetFlag<kEvent>(id_[i]); }
  __aicore__ inline void Await(int32_t i = 0) { WaitFlag<kEvent>(id_[i]); }
  __aicore__ inline void Pass(int32_t i = 0) {
    Raise(i);
    Await(i);
  }
  __aicore__ inline void RaiseAll() {
    for (int32_t i = 0; i < count_; ++i) Raise(i);
  }
  __aicore__ inline void AwaitAll() {
    for (int32_t i = 0; i < count_; ++i) Await(i);
  }

 private:
  event_t id_[kMaxFlags];
  int32_t count_ = 0;
};

// Loads pairs of a rulebook.
__aicore__ inline void LoadPairs(const LocalTensor<int32_t>& to, const GlobalTensor<int32_t>& pairs,
                                 int64_t begin, int32_t count) {
  const uint8_t padding = (4 - count % 4) % 4 * 2;
  DataCopyPad(to, pairs[begin * 2], DataCopyExtParams(1, count * 8, 0, 0, 0),
              DataCopyPadExtParams<int32_t>(true, 0, padding, 0));
}

// The input rows (part 0) or the output rows (part 1) of pairs.
__aicore__ inline void Split(const LocalTensor<int32_t>& pairs, int32_t part,
                             const LocalTensor<int32_t>& to, int32_t count) {
  uint64_t kept = 0;
  GatherMask(to, pairs, static_cast<uint8_t>(part + 1), false, 0,
             GatherMaskParams(1, (count * 2 + kLanes - 1) / kLanes, 8, 0), kept);
}

}  // namespace
