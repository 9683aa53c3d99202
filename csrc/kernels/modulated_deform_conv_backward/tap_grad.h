// The gradients of offset and mask of a batch, from the products of the columns' gradient with the
// four pixels of each tap, summed over channels.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../modulated_deform_conv/taps.h"
#include "kernel_operator.h"

namespace mxd::kernels::modulated_deform_conv_backward {

using namespace AscendC;
using namespace modulated_deform_conv;
using modulated_deform_conv_backward::kListTaps;

template <typename T>
using BackwardTaps = Taps<T, modulated_deform_conv_backward::kListTaps, true>;

template <typename T>
class TapGrad {
  static constexpr int32_t kTile = modulated_deform_conv_backward::kListTaps;
  static constexpr bool kConvert = sizeof(T) != sizeof(float);

 public:
  static constexpr int32_t kUbBytes = 11 * kTile * kWord + (kConvert ? 3 * kTile * 2 : 0);

  __aicore__ inline TapGrad(TPipe& pipe, GM_ADDR grad_offset, GM_ADDR grad_mask,
                            const ModulatedDeformConvTiling& tiling)
      : tiling_(tiling),
        dots_(Take<float>(pipe, kCorners * kTile)),
        between_(Take<float>(pipe, kCorners * kTile)),
        grad_(Take<float>(pipe, 3 * kTile)) {
    Bind(grad_offset_, grad_offset, grad_mask_, grad_mask);
    if constexpr (kConvert) converted_ = Take<T>(pipe, 3 * kTile);
    written_.Init(pipe, 1);
    // Instructions work on whole lists.
    Duplicate(dots_, 0.0f, kCorners * kTile);
    Duplicate(grad_, 0.0f, 3 * kTile);
  }
  __aicore__ inline void Begin() { written_.Set(); }
  __aicore__ inline void End() { written_.Wait(); }

  // [kCorners, kTile]
  __aicore__ inline const LocalTensor<float>& dots() const { return dots_; }

  // Writes the gradients of a batch: of the unit's positions [first, first + count).
  __aicore__ inline void Write(const Batch& batch, const BackwardTaps<T>& taps, int32_t list,
                               int32_t first, int32_t count) {
    const int32_t own = tiling_.tile / 2, size = batch.points * own;
    const auto shares = taps.Shares(list), slopes = taps.Slopes(list), mask = taps.Mask(list);
    const auto x = grad_, y = grad_[kTile], modulation = grad_[2 * kTile];
    const auto top = between_, bottom = between_[kTile];
    const auto left = between_[2 * kTile], right = between_[3 * kTile];
    written_.Wait();
    PipeBarrier<PIPE_V>();
    Blend(top, dots_, dots_[kTile], shares, size);
    Blend(bottom, dots_[2 * kTile], dots_[3 * kTile], shares, size);
    Blend(left, dots_, dots_[2 * kTile], shares[kTile], size);
    Blend(right, dots_[kTile], dots_[3 * kTile], shares[kTile], size);
    Blend(modulation, top, bottom, shares[kTile], size);
    Blend(y, top, bottom, slopes[kTile], size);
    Blend(x, left, right, slopes, size);
    Mul(x, x, mask, size);
    Mul(y, y, mask, size);
    PipeBarrier<PIPE_V>();
    if constexpr (kConvert) Cast(converted_, grad_, RoundMode::CAST_RINT, 3 * kTile);
    SetWait<HardEvent::V_MTE3>();
    Store(batch, first, count);
    written_.Set();
  }

 private:
  // to = a * shares of the first pixels + b * shares of the second ones.
  __aicore__ inline void Blend(const LocalTensor<float>& to, const LocalTensor<float>& a,
                               const LocalTensor<float>& b, const LocalTensor<float>& shares,
                               int32_t size) {
    Mul(to, a, shares, size);
    PipeBarrier<PIPE_V>();
    MulAddDst(to, b, shares[2 * kTile], size);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void Store(const Batch& batch, int32_t first, int32_t count) {
    constexpr int32_t kSize = sizeof(T);
    LocalTensor<T> from;
    if constexpr (kConvert)
      from = converted_;
    else
      from = grad_;
    const int64_t stride = tiling_.out_stride;
    const int64_t plane =
        static_cast<int64_t>(batch.unit.image) * tiling_.deform_groups + batch.deform_group;
    const int64_t point = plane * Points(tiling_) + batch.point;
    const auto bytes = static_cast<uint32_t>(count * kSize);
    const auto gap =
        static_cast<uint32_t>(tiling_.tile / 2 * kSize - RoundUp(count * kSize, kBlockBytes)) /
        kBlockBytes;
    const auto points = static_cast<uint16_t>(batch.points);
    const auto rest = static_cast<uint32_t>((stride - count) * kSize);
    const auto whole = static_cast<uint32_t>(stride * kSize);
    for (int32_t axis = 0; axis < 2; ++axis)  // y comes first
      DataCopyPad(grad_offset_[(point * 2 + axis) * stride + first], from[(1 - axis) * kTile],
                  DataCopyExtParams{points, bytes, gap, rest + whole, 0});
    if (tiling_.has_mask)
      DataCopyPad(grad_mask_[point * stride + first], from[2 * kTile],
                  DataCopyExtParams{points, bytes, gap, rest, 0});
  }

  const ModulatedDeformConvTiling& tiling_;
  GlobalTensor<T> grad_offset_, grad_mask_;
  LocalTensor<float> dots_, between_;  // [kCorners, kTile]
  LocalTensor<float> grad_;            // [3, kTile]: by x, by y, of the mask
  LocalTensor<T> converted_;
  Events<HardEvent::MTE3_V> written_;
};

}  // namespace mxd::kernels::modulated_deform_conv_backward
