// Sums and maxima of all lanes before, in log(n) steps.
#pragma once

#include "../common/buffers.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

// Inclusive scans of int32 lanes. Shifts by whole blocks of 32 bytes are offsets of an operand; the
// three smaller ones are gathers.
template <int32_t kCapacity>
class Scan {
  static constexpr int32_t kSmall = 3;  // shifts by 1, 2 and 4

 public:
  static constexpr int32_t kBytes = (kCapacity + kBlockWords) * (2 + kSmall) * kWord;

  // `numbers`: 0, 1 ... kCapacity - 1
  __aicore__ inline Scan(TPipe& pipe, const LocalTensor<int32_t>& numbers)
      : one_(Take<int32_t>(pipe, kCapacity + kBlockWords)),
        other_(Take<int32_t>(pipe, kCapacity + kBlockWords)),
        shifted_(Take<int32_t>(pipe, kSmall * kCapacity)) {
    // The 8 words before the lanes are zeros.
    Duplicate(one_, 0, kBlockWords);
    Duplicate(other_, 0, kBlockWords);
    for (int32_t i = 0; i < kSmall; i++) {
      const LocalTensor<int32_t> shifted = shifted_[i * kCapacity];
      Adds(shifted, numbers, kBlockWords - (1 << i), kCapacity);
      PipeBarrier<PIPE_V>();
      Muls(shifted, shifted, kWord, kCapacity);
      PipeBarrier<PIPE_V>();
    }
  }

  // value[i] = value[0] + ... + value[i], or their maximum, of values of at least 0
  template <bool kSum>
  __aicore__ inline void Run(const LocalTensor<int32_t>& value, int32_t count) {
    LocalTensor<int32_t> from = one_[kBlockWords], to = other_[kBlockWords];
    Adds(from, value, 0, count);
    PipeBarrier<PIPE_V>();
    for (int32_t i = 0; i < kSmall && (1 << i) < count; i++) {
      Gather(value, i % 2 == 0 ? one_ : other_,
             shifted_[i * kCapacity].template ReinterpretCast<uint32_t>(), 0, count);
      PipeBarrier<PIPE_V>();
      Join<kSum>(to, from, value, count);
      const LocalTensor<int32_t> last = from;
      from = to;
      to = last;
    }
    for (int32_t shift = 1 << kSmall; shift < count; shift *= 2) {
      Adds(to, from, 0, shift);
      Join<kSum>(to[shift], from[shift], from, count - shift);
      const LocalTensor<int32_t> last = from;
      from = to;
      to = last;
    }
    Adds(value, from, 0, count);
    PipeBarrier<PIPE_V>();
  }

 private:
  template <bool kSum>
  __aicore__ inline void Join(const LocalTensor<int32_t>& to, const LocalTensor<int32_t>& a,
                              const LocalTensor<int32_t>& b, int32_t count) {
    if constexpr (kSum)
      Add(to, a, b, count);
    else
      Max(to, a, b, count);
    PipeBarrier<PIPE_V>();
  }

  LocalTensor<int32_t> one_, other_, shifted_;
};

}  // namespace mxd::kernels
