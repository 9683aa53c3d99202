// Bilinear taps in lanes: which 2 x 2 pixels of its map a point is interpolated from, and by which
// weights. Arrays hold x from 0 on and y from kTile on; those of two pixels hold the first pixel's
// x and y, then the second's. `both`: kTile and the number of points.
#pragma once

#include "in_order.h"
#include "kernel_operator.h"
#include "machine.h"

namespace mxd::kernels {

using namespace AscendC;

constexpr int32_t kCorners = 4;  // upper left, upper right, lower left, lower right

// Where a patch begins, inside of its map. Where the map has one column or row only, that is both
// pixels' and the second one weighs nothing.
template <int32_t kTile>
struct Patches {
  LocalTensor<float> at;       // given: the points, in pixels
  LocalTensor<float> size;     // given: of the maps
  LocalTensor<float> pixel;    // the point's pixel, rounded down; it may lie outside
  LocalTensor<float> origin;   // the patch's first pixel
  LocalTensor<int32_t> first;  // the same as int32
  LocalTensor<float> second;   // whether there is a second pixel: 1 or 0
};

// `centre`: where in `at` the centre of pixel 0 is; it is subtracted. `first` comes last: the
// caller needs a barrier before it is read.
template <int32_t kTile>
__aicore__ inline void LocatePatches(const Patches<kTile>& patches, float centre, int32_t both) {
  const auto &at = patches.at, &pixel = patches.pixel, &origin = patches.origin;
  const auto& second = patches.second;
  Adds(origin, patches.size, -2.0f, both);
  Adds(second, patches.size, -1.0f, both);
  PipeBarrier<PIPE_V>();
  Adds(at, at, -centre, both);
  Mins(second, second, 1.0f, both);
  PipeBarrier<PIPE_V>();
  Cast(patches.first, at, RoundMode::CAST_FLOOR, both);
  PipeBarrier<PIPE_V>();
  Cast(pixel, patches.first, RoundMode::CAST_NONE, both);
  PipeBarrier<PIPE_V>();
  Min(origin, origin, pixel, both);
  PipeBarrier<PIPE_V>();
  Maxs(origin, origin, 0.0f, both);
  PipeBarrier<PIPE_V>();
  Cast(patches.first, origin, RoundMode::CAST_RINT, both);
}

// The weights of the two pixels by x and y: 1 - |distance|, at least 0. A pixel beyond the map has
// none, whichever pixel stands in for it.
template <int32_t kTile>
__aicore__ inline void WeighPixels(const LocalTensor<float>& weight, const Patches<kTile>& patches,
                                   int32_t both) {
  const int32_t four = 2 * kTile + both;
  const InOrder two(both), all(four);
  two.Sub(weight, patches.at, patches.origin);
  two.Adds(weight[2 * kTile], weight, -1.0f);
  all.Abs(weight, weight);
  all.Muls(weight, weight, -1.0f);
  all.Adds(weight, weight, 1.0f);
  all.Maxs(weight, weight, 0.0f);
  two.Mul(weight[2 * kTile], weight[2 * kTile], patches.second);
}

// How the weights change with the point: by -1 and 1 for the two pixels around it. `flat` is
// scratch for as much.
template <int32_t kTile>
__aicore__ inline void SlopePixels(const LocalTensor<float>& slope, const LocalTensor<float>& flat,
                                   const Patches<kTile>& patches, int32_t both) {
  const int32_t four = 2 * kTile + both;
  const InOrder two(both), all(four);
  two.Sub(slope, patches.origin, patches.pixel);
  two.Muls(slope, slope, 2.0f);
  Adds(slope[2 * kTile], slope, 1.0f, both);
  Adds(slope, slope, -1.0f, both);  // -1 for the first around it, 1 for the second
  PipeBarrier<PIPE_V>();
  all.Abs(flat, slope);
  all.Muls(flat, flat, -1.0f);
  all.Adds(flat, flat, 2.0f);
  all.Mins(flat, flat, 1.0f);
  all.Maxs(flat, flat, 0.0f);  // 1 for both, 0 for others
  all.Mul(slope, slope, flat);
  two.Mul(slope[2 * kTile], slope[2 * kTile], patches.second);
}

// The four corners' products, [kCorners, kTile], of a factor by x (from the x halves of `x`) and
// one by y.
template <int32_t kTile>
__aicore__ inline void MultiplyCorners(const LocalTensor<float>& product,
                                       const LocalTensor<float>& x, const LocalTensor<float>& y,
                                       int32_t count) {
  for (int32_t corner = 0; corner < kCorners; corner++)
    Mul(product[corner * kTile], x[corner % 2 * 2 * kTile], y[kTile + corner / 2 * 2 * kTile],
        count);
}

}  // namespace mxd::kernels
