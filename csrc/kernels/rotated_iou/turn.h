// Cosines and sines in lanes. CANN's Cos and Sin compute one of both, with more steps.
#pragma once

#include "../common/buffers.h"
#include "../common/in_order.h"

namespace mxd::kernels {

class Turns {
 public:
  __aicore__ inline Turns(TPipe& pipe, int32_t capacity)
      : half_turns_(Take<float>(pipe, capacity)),
        square_(Take<float>(pipe, capacity)),
        whole_(Take<int32_t>(pipe, capacity)) {}

  // Of angles in radians, which are overwritten. They are brought to [-pi / 2, pi / 2] by half
  // turns, each of which changes the signs; the product of their number, below 2**13, and the first
  // part of pi is exact.
  __aicore__ inline void CosSin(const LocalTensor<float>& cosine, const LocalTensor<float>& sine,
                                const LocalTensor<float>& angle, int32_t count) const {
    const InOrder lanes(count);
    lanes.Muls(half_turns_, angle, 0.318309886f);
    Whole(RoundMode::CAST_RINT, half_turns_, half_turns_, count);
    Subtract(angle, half_turns_, 3.140625f, count);
    Subtract(angle, half_turns_, 9.67502593994140625e-4f, count);
    Subtract(angle, half_turns_, 1.509957990978376e-7f, count);
    lanes.Mins(angle, angle, 2.0f);  // of angles beyond all measure
    lanes.Maxs(angle, angle, -2.0f);
    // The sign: 1 - 2 (half turns mod 2).
    lanes.Muls(square_, half_turns_, 0.5f);
    Whole(RoundMode::CAST_FLOOR, square_, square_, count);
    Subtract(half_turns_, square_, 2.0f, count);
    lanes.Muls(half_turns_, half_turns_, -2.0f);
    lanes.Adds(half_turns_, half_turns_, 1.0f);

    lanes.Mul(square_, angle, angle);
    lanes.Mul(angle, angle, half_turns_);
    constexpr float kCosine[] = {1.0f / 479001600.0f, -1.0f / 3628800.0f, 1.0f / 40320.0f,
                                 -1.0f / 720.0f,      1.0f / 24.0f,       -0.5f};
    constexpr float kSine[] = {1.0f / 6227020800.0f, -1.0f / 39916800.0f, 1.0f / 362880.0f,
                               -1.0f / 5040.0f,      1.0f / 120.0f,       -1.0f / 6.0f};
    Series(cosine, kCosine, count);
    Series(sine, kSine, count);
    lanes.Mul(cosine, cosine, half_turns_);
    lanes.Mul(sine, sine, angle);
  }

 private:
  static constexpr int32_t kTerms = 6;

  __aicore__ inline void Whole(RoundMode mode, const LocalTensor<float>& to,
                               const LocalTensor<float>& from, int32_t count) const {
    Cast(whole_, from, mode, count);
    PipeBarrier<PIPE_V>();
    Cast(to, whole_, RoundMode::CAST_NONE, count);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Subtract(const LocalTensor<float>& from, const LocalTensor<float>& times,
                                  float number, int32_t count) const {
    Axpy(from, times, -number, count);
    PipeBarrier<PIPE_V>();
  }
  // 1 + the sum of the terms, the highest one first, of the square.
  __aicore__ inline void Series(const LocalTensor<float>& sum, const float (&terms)[kTerms],
                                int32_t count) const {
    const InOrder lanes(count);
    lanes.Muls(sum, square_, terms[0]);
    for (int32_t i = 1; i < kTerms; i++) {
      lanes.Adds(sum, sum, terms[i]);
      lanes.Mul(sum, sum, square_);
    }
    lanes.Adds(sum, sum, 1.0f);
  }

  LocalTensor<float> half_turns_, square_;
  LocalTensor<int32_t> whole_;
};

}  // namespace mxd::kernels
