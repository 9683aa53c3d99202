// Exact integer arithmetic in vector lanes. The vector unit has no int32 division and no int32
// comparison but for equality: quotients are estimated in fp32 and corrected, and a condition is a
// number that is negative where it does not hold, so that Min joins conditions.
#pragma once

#include "buffers.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

// quotient = floor(value / divisor), value -= divisor * quotient, of whole numbers below 2**20 in
// fp32. `whole`: the quotient as int32.
__aicore__ inline void DivideSmall(const LocalTensor<float>& value,
                                   const LocalTensor<float>& quotient,
                                   const LocalTensor<int32_t>& whole, int32_t divisor,
                                   int32_t count) {
  Adds(quotient, value, 0.5f, count);
  PipeBarrier<PIPE_V>();
  Muls(quotient, quotient, 1.0f / static_cast<float>(divisor), count);
  PipeBarrier<PIPE_V>();
  Cast(whole, quotient, RoundMode::CAST_FLOOR, count);
  PipeBarrier<PIPE_V>();
  Cast(quotient, whole, RoundMode::CAST_NONE, count);
  PipeBarrier<PIPE_V>();
  Axpy(value, quotient, -static_cast<float>(divisor), count);
  PipeBarrier<PIPE_V>();
}

// int32 lanes, with the scratch that their arithmetic needs.
class IntegerLanes {
 public:
  __aicore__ inline IntegerLanes(TPipe& pipe, int32_t capacity)
      : IntegerLanes(Take<int32_t>(pipe, capacity), Take<int32_t>(pipe, capacity)) {}
  // In two buffers of its user.
  __aicore__ inline IntegerLanes(const LocalTensor<int32_t>& scratch,
                                 const LocalTensor<int32_t>& estimate)
      : scratch_(scratch), estimate_(estimate.ReinterpretCast<float>()) {}

  // quotient = rest / divisor and rest = rest % divisor, of rest >= 0. `inverse` is a little less
  // than 1 / divisor: neither of the two estimates in fp32 is too large; the first is too small by
  // a millionth of the quotient at most, the second by 1.
  __aicore__ inline void Divide(const LocalTensor<int32_t>& quotient,
                                const LocalTensor<int32_t>& rest, int32_t divisor, float inverse,
                                int32_t count) {
    Estimate(quotient, rest, inverse, count);
    Muls(scratch_, quotient, -divisor, count);
    PipeBarrier<PIPE_V>();
    Add(rest, rest, scratch_, count);
    PipeBarrier<PIPE_V>();
    Estimate(scratch_, rest, inverse, count);
    Add(quotient, quotient, scratch_, count);
    PipeBarrier<PIPE_V>();
    Muls(scratch_, scratch_, -divisor, count);
    PipeBarrier<PIPE_V>();
    Add(rest, rest, scratch_, count);
    PipeBarrier<PIPE_V>();
    IsBelow(scratch_, rest, divisor, count);
    ShiftRight(scratch_, scratch_, 31, count);  // -1 where one more divisor fits
    PipeBarrier<PIPE_V>();
    Sub(quotient, quotient, scratch_, count);
    PipeBarrier<PIPE_V>();
    Muls(scratch_, scratch_, divisor, count);
    PipeBarrier<PIPE_V>();
    Add(rest, rest, scratch_, count);
    PipeBarrier<PIPE_V>();
  }

  // condition = value < limit
  __aicore__ inline void IsBelow(const LocalTensor<int32_t>& condition,
                                 const LocalTensor<int32_t>& value, int32_t limit, int32_t count) {
    Muls(condition, value, -1, count);
    PipeBarrier<PIPE_V>();
    Adds(condition, condition, limit - 1, count);
    PipeBarrier<PIPE_V>();
  }

  // condition = condition and 0 <= value < limit, of value >= -1
  __aicore__ inline void AndInside(const LocalTensor<int32_t>& condition,
                                   const LocalTensor<int32_t>& value, int32_t limit,
                                   int32_t count) {
    IsBelow(scratch_, value, limit, count);
    Min(condition, condition, value, count);
    PipeBarrier<PIPE_V>();
    Min(condition, condition, scratch_, count);
    PipeBarrier<PIPE_V>();
  }

  // value = value cut to [0, limit - 1]
  __aicore__ inline void Clamp(const LocalTensor<int32_t>& value, int32_t limit, int32_t count) {
    Maxs(value, value, 0, count);
    PipeBarrier<PIPE_V>();
    Mins(value, value, limit - 1, count);
    PipeBarrier<PIPE_V>();
  }

  // sum += value * factor
  __aicore__ inline void MulAdd(const LocalTensor<int32_t>& sum, const LocalTensor<int32_t>& value,
                                int32_t factor, int32_t count) {
    Muls(scratch_, value, factor, count);
    PipeBarrier<PIPE_V>();
    Add(sum, sum, scratch_, count);
    PipeBarrier<PIPE_V>();
  }

  // Where the condition does not hold: value = -1, or, of value >= 0, 0x7fffffff if `keep_sign`.
  // The condition's buffer is overwritten.
  __aicore__ inline void MarkUnless(const LocalTensor<int32_t>& condition,
                                    const LocalTensor<int32_t>& value, bool keep_sign,
                                    int32_t count) {
    ShiftRight(condition, condition, 31, count);
    PipeBarrier<PIPE_V>();
    const LocalTensor<uint32_t> bits = condition.ReinterpretCast<uint32_t>();
    ShiftRight(bits, bits, static_cast<uint32_t>(keep_sign), count);
    PipeBarrier<PIPE_V>();
    const LocalTensor<uint16_t> halves = value.ReinterpretCast<uint16_t>();
    Or(halves, halves, condition.ReinterpretCast<uint16_t>(), 2 * count);
    PipeBarrier<PIPE_V>();
  }

 private:
  __aicore__ inline void Estimate(const LocalTensor<int32_t>& quotient,
                                  const LocalTensor<int32_t>& rest, float inverse, int32_t count) {
    Cast(estimate_, rest, RoundMode::CAST_NONE, count);
    PipeBarrier<PIPE_V>();
    Muls(estimate_, estimate_, inverse, count);
    PipeBarrier<PIPE_V>();
    Cast(quotient, estimate_, RoundMode::CAST_FLOOR, count);
    PipeBarrier<PIPE_V>();
  }

  LocalTensor<int32_t> scratch_;
  LocalTensor<float> estimate_;
};

}  // namespace mxd::kernels
