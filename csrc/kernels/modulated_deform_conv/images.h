// Patches of 2 x 2 pixels between global memory and UB.
#pragma once

#include "../common/nz.h"
#include "kernel_operator.h"
#include "schedule.h"

namespace mxd::kernels::modulated_deform_conv {

// Planes of pixels: [planes, height * width, channels of a deform group].
template <typename T>
class Planes {
 public:
  // Blocks of 32 bytes are those of the images, each of `block` channels.
  __aicore__ inline Planes(GM_ADDR planes, int32_t block, const ModulatedDeformConvTiling& tiling)
      : tiling_(tiling), block_(block) {
    Bind(planes_, planes);
  }

  // A plane, and channels of it in blocks.
  __aicore__ inline void Open(int64_t plane, int32_t first, int32_t blocks) {
    pixel_ = static_cast<int64_t>(tiling_.deform_blocks) * block_;
    first_ = plane * tiling_.size[0] * tiling_.size[1] * pixel_ + first * block_;
    row_ = tiling_.size[1] * pixel_;
    taken_ = blocks * block_;
    pairs_ = blocks == tiling_.deform_blocks;
    bytes_ = static_cast<uint32_t>(taken_ * (pairs_ ? 2 : 1) * static_cast<int32_t>(sizeof(T)));
    const int64_t step = pairs_ ? row_ : pixel_;
    gap_ = static_cast<uint32_t>(step * static_cast<int32_t>(sizeof(T))) - bytes_;
  }

  // Copies the 2 x 2 pixels from number `pixel` on, [kCorners, channels].
  __aicore__ inline void CopyPatch(const LocalTensor<T>& to, int32_t pixel) const {
    const auto from = planes_[first_ + pixel * pixel_];
    const DataCopyExtParams how{2, bytes_, gap_, 0, 0};
    const DataCopyPadExtParams<T> no_padding{false, 0, 0, T{}};
    DataCopyPad(to, from, how, no_padding);
    if (!pairs_) DataCopyPad(to[2 * taken_], from[row_], how, no_padding);
  }
  // Writes them, or adds them where atomics are on.
  __aicore__ inline void WritePatch(const LocalTensor<T>& from, int32_t pixel) const {
    const auto to = planes_[first_ + pixel * pixel_];
    const DataCopyExtParams how{2, bytes_, 0, gap_, 0};
    DataCopyPad(to, from, how);
    if (!pairs_) DataCopyPad(to[row_], from[2 * taken_], how);
  }

 private:
  const ModulatedDeformConvTiling& tiling_;
  const int32_t block_;
  GlobalTensor<T> planes_;
  int64_t first_ = 0, pixel_ = 0, row_ = 0;
  int32_t taken_ = 0;
  bool pairs_ = false;  // two neighbouring pixels are one burst
  uint32_t bytes_ = 0, gap_ = 0;
};

}  // namespace mxd::kernels::modulated_deform_conv
