// What two rotated boxes share, for pairs of boxes in lanes; the geometry is told in
// csrc/ops/rotated_iou.h. Lists of a pair's second box, and of its sides, follow those of the first
// one, `lanes` numbers apart, so that one instruction serves all of them.
#pragma once

#include "turn.h"

namespace mxd::kernels {

enum BoxNumber { kX, kY, kWidth, kHeight, kAngle, kBoxNumbers };
enum OverlapMode { kIou, kIof, kArea };

class Overlap {
  static constexpr int32_t kCorners = 5;  // the last one is the first one again

 public:
  __aicore__ inline Overlap(TPipe& pipe, int32_t capacity)
      : capacity_(capacity),
        boxes_(Take<float>(pipe, 2 * kBoxNumbers * capacity)),
        areas_(Take<float>(pipe, 2 * capacity)),
        finite_(Take<uint8_t>(pipe, 2 * capacity / 8)),
        large_(Take<uint8_t>(pipe, 2 * capacity / 8)),
        turns_(pipe, 2 * capacity),
        turn_(Take<float>(pipe, 2 * capacity)),
        cosine_(Take<float>(pipe, 2 * capacity)),
        sine_(Take<float>(pipe, 2 * capacity)),
        u_(Take<float>(pipe, capacity)),
        v_(Take<float>(pipe, capacity)),
        center_(Take<float>(pipe, capacity)),
        x_(Take<float>(pipe, kCorners * capacity)),
        y_(Take<float>(pipe, kCorners * capacity)),
        inside_(Take<float>(pipe, kCorners * capacity)),
        limit_(Take<float>(pipe, 8 * capacity)),
        opposite_(Take<float>(pipe, 8 * capacity)),
        ends_(Take<float>(pipe, 8 * capacity)),
        work_(Take<float>(pipe, 8 * capacity)) {}

  // UB that the constructor takes.
  __aicore__ static constexpr int32_t Bytes(int32_t capacity) {
    return (2 * kBoxNumbers + 2 + 3 * 2 + 3 * 2 + 3 + 3 * kCorners + 4 * 8) * capacity * kWord +
           4 * capacity / 8;
  }

  // One number of the first boxes; those of the second ones begin `lanes` behind.
  __aicore__ inline LocalTensor<float> Numbers(int32_t number) const {
    return boxes_[number * 2 * capacity_];
  }

  // Of boxes in lanes [first, first + count), multiples of 64: a box that overlaps nothing becomes
  // zeros.
  __aicore__ inline void Prepare(int32_t first, int32_t count) const {
    const InOrder lanes(count);
    const auto area = areas_[first], sum = turn_;
    lanes.Maxs(Numbers(kWidth)[first], Numbers(kWidth)[first], 0.0f);
    lanes.Maxs(Numbers(kHeight)[first], Numbers(kHeight)[first], 0.0f);
    lanes.Mul(area, Numbers(kWidth)[first], Numbers(kHeight)[first]);
    lanes.Add(sum, Numbers(kX)[first], Numbers(kY)[first]);
    lanes.Add(sum, sum, Numbers(kAngle)[first]);
    lanes.Add(sum, sum, area);
    lanes.Muls(sum, sum, 0.0f);
    CompareScalar(finite_, sum, 0.0f, CMPMODE::EQ, count);
    CompareScalar(large_, area, kLeastArea, CMPMODE::GE, count);
    PipeBarrier<PIPE_V>();
    And(large_.ReinterpretCast<uint16_t>(), large_.ReinterpretCast<uint16_t>(),
        finite_.ReinterpretCast<uint16_t>(), count / 16);
    PipeBarrier<PIPE_V>();
    for (int32_t number = 0; number < kBoxNumbers; number++)
      Select(Numbers(number)[first], large_, Numbers(number)[first], 0.0f,
             SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    Select(area, large_, area, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    PipeBarrier<PIPE_V>();
  }

  // What `mode` tells of the pairs, `count` of them, a multiple of 64.
  __aicore__ inline LocalTensor<float> Measure(int32_t mode, int32_t count) const {
    Turn(count);
    PlaceCorners(count);
    CutSides(count);
    Integrate(count);
    const auto shared = x_, whole = y_;
    const InOrder lanes(count);
    if (mode == kArea) return shared;
    if (mode == kIof) {
      lanes.Maxs(whole, areas_, kLeastArea);
    } else {
      lanes.Add(whole, areas_, areas_[count]);
      lanes.Sub(whole, whole, shared);
      lanes.Maxs(whole, whole, kLeastArea);
    }
    lanes.Div(shared, shared, whole);
    return shared;
  }

 private:
  static constexpr float kLeastArea = 1e-14f, kTiny = 1.17549435e-38f;
  static constexpr float kFar = 1e18f;  // farther away than this is as far away

  // Directions of the first boxes, and of the second ones as seen from them.
  __aicore__ inline void Turn(int32_t n) const {
    const auto angle = Numbers(kAngle);
    Adds(turn_, angle, 0.0f, n);
    Sub(turn_[n], angle[n], angle, n);
    PipeBarrier<PIPE_V>();
    turns_.CosSin(cosine_, sine_, turn_, 2 * n);
  }

  // x_, y_: the second box's corners in the frame of the first one.
  __aicore__ inline void PlaceCorners(int32_t n) const {
    const InOrder lanes(n);
    const auto dx = ends_, dy = ends_[n], a = limit_;
    Sub(dx, Numbers(kX)[n], Numbers(kX), n);
    Sub(dy, Numbers(kY)[n], Numbers(kY), n);
    PipeBarrier<PIPE_V>();
    InOrder(2 * n).Mins(ends_, ends_, kFar);
    InOrder(2 * n).Maxs(ends_, ends_, -kFar);
    lanes.Mul(u_, cosine_, dx);
    lanes.Mul(work_, sine_, dy);
    lanes.Add(u_, u_, work_);
    lanes.Mul(v_, cosine_, dy);
    lanes.Mul(work_, sine_, dx);
    lanes.Sub(v_, v_, work_);
    // Half sides as vectors: px, py of the width, qx, qy of the height.
    const auto px = work_, py = work_[n], qx = work_[2 * n], qy = work_[3 * n];
    const auto width = ends_[2 * n], height = ends_[3 * n];
    Muls(width, Numbers(kWidth)[n], 0.5f, n);
    Muls(height, Numbers(kHeight)[n], 0.5f, n);
    Muls(a, Numbers(kWidth), 0.5f, n);
    PipeBarrier<PIPE_V>();
    Mul(px, width, cosine_[n], n);
    Mul(py, width, sine_[n], n);
    Mul(qx, height, sine_[n], n);
    Mul(qy, height, cosine_[n], n);
    Min(center_, u_, a, n);
    Muls(a, a, -1.0f, n);
    PipeBarrier<PIPE_V>();
    Max(center_, center_, a, n);
    Muls(qx, qx, -1.0f, n);
    Sub(x_, u_, px, n);
    Sub(y_, v_, py, n);
    Add(x_[n], u_, px, n);
    Add(y_[n], v_, py, n);
    PipeBarrier<PIPE_V>();
    // Behind the first two corners, which still lie in the middle, those of the other side.
    Add(x_[2 * n], x_[n], qx, n);
    Add(y_[2 * n], y_[n], qy, n);
    Add(x_[3 * n], x_, qx, n);
    Add(y_[3 * n], y_, qy, n);
    PipeBarrier<PIPE_V>();
    Sub(x_, x_, qx, n);
    Sub(y_, y_, qy, n);
    Sub(x_[n], x_[n], qx, n);
    Sub(y_[n], y_[n], qy, n);
    PipeBarrier<PIPE_V>();
    Adds(x_[4 * n], x_, 0.0f, n);
    Adds(y_[4 * n], y_, 0.0f, n);
    PipeBarrier<PIPE_V>();
  }

  // limit_ and opposite_: half a side of the first boxes and its opposite, `times` times.
  __aicore__ inline void SetLimits(int32_t number, int32_t times, int32_t n) const {
    Muls(limit_, Numbers(number), 0.5f, n);
    PipeBarrier<PIPE_V>();
    for (int32_t have = 1; have < times; have *= 2) {
      Adds(limit_[have * n], limit_, 0.0f, MinOf(have, times - have) * n);
      PipeBarrier<PIPE_V>();
    }
    InOrder(times * n).Muls(opposite_, limit_, -1.0f);
  }

  // inside_: y of the corners, cut to where |y| < b; ends_: x where the sides begin and end there.
  __aicore__ inline void CutSides(int32_t n) const {
    const InOrder sides(4 * n), both(8 * n), corners(kCorners * n);
    const auto rise = work_, run = work_[4 * n], begin = ends_, end = ends_[4 * n];
    SetLimits(kHeight, kCorners, n);
    corners.Min(inside_, y_, limit_);
    corners.Max(inside_, inside_, opposite_);
    Sub(begin, inside_, y_, 4 * n);
    Sub(end, inside_[n], y_[n], 4 * n);
    Sub(rise, y_[n], y_, 4 * n);
    Sub(run, x_[n], x_, 4 * n);
    PipeBarrier<PIPE_V>();
    both.Abs(ends_, ends_);
    sides.Abs(rise, rise);
    sides.Maxs(rise, rise, kTiny);
    sides.Div(begin, begin, rise);
    sides.Div(end, end, rise);
    both.Mins(ends_, ends_, 1.0f);
    sides.Mul(begin, begin, run);
    sides.Mul(end, end, run);
    sides.Add(begin, x_, begin);
    sides.Sub(end, x_[n], end);
  }

  // x_: the shared area.
  __aicore__ inline void Integrate(int32_t n) const {
    const InOrder sides(4 * n), both(8 * n);
    const auto low = work_, high = work_[4 * n], above = x_, below = y_;
    const auto first = ends_, second = ends_[4 * n];
    SetLimits(kWidth, 8, n);
    Min(low, first, second, 4 * n);
    Max(high, first, second, 4 * n);
    PipeBarrier<PIPE_V>();
    both.Max(ends_, work_, limit_);
    sides.Sub(above, second, first);
    both.Min(ends_, work_, opposite_);
    sides.Sub(below, second, first);
    both.Max(ends_, work_, opposite_);
    both.Min(ends_, ends_, limit_);
    const auto mean = first;
    sides.Add(mean, first, second);
    sides.Muls(mean, mean, 0.5f);
    sides.Sub(second, limit_, mean);
    sides.Mul(above, above, second);
    sides.Add(second, limit_, mean);
    sides.Mul(below, below, second);
    sides.Sub(above, above, below);
    sides.Sub(low, high, low);
    sides.Maxs(low, low, kTiny);
    sides.Div(above, above, low);
    sides.Add(mean, mean, above);
    for (int32_t side = 0; side < 4; side++) Sub(mean[side * n], mean[side * n], center_, n);
    sides.Sub(below, inside_[n], inside_);
    sides.Mul(mean, mean, below);
    InOrder(2 * n).Add(mean, mean, mean[2 * n]);
    InOrder(n).Add(x_, mean, mean[n]);
    InOrder(n).Maxs(x_, x_, 0.0f);
  }

  const int32_t capacity_;
  LocalTensor<float> boxes_, areas_;
  LocalTensor<uint8_t> finite_, large_;
  Turns turns_;
  LocalTensor<float> turn_, cosine_, sine_;
  LocalTensor<float> u_, v_, center_;  // the second box's middle in the frame of the first one
  LocalTensor<float> x_, y_, inside_, limit_, opposite_, ends_, work_;
};

}  // namespace mxd::kernels
