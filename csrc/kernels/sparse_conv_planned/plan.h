// The blocks of a tile, as its record in the plan has them.
#pragma once

#include "../sparse_conv_tiling.h"
#include "kernel_operator.h"

namespace mxd::kernels::sparse_conv_planned {

using namespace AscendC;

// Cross-core flags: a step's rows are gathered, and taken out of the workspace; the sums of two
// tiles are written.
constexpr uint16_t kGathered = 0, kTaken = 1, kSummed = 2;

__aicore__ inline int32_t CountBits(uint32_t bits) {
  bits -= bits >> 1 & 0x5555;
  bits = (bits & 0x3333) + (bits >> 2 & 0x3333);
  bits = (bits + (bits >> 4)) & 0x0f0f;
  return static_cast<int32_t>((bits + (bits >> 8)) & 0x1f);
}

// Goes through a tile's blocks by kernel point, then by place.
class Blocks {
  static constexpr int32_t kInWord = 4;  // masks of an int64

 public:
  // `record`: of int64 in UB or in global memory; nothing for a tile that is not there.
  template <typename Record>
  __aicore__ inline void Open(const Record& record, int32_t volume, bool there) {
    volume_ = there ? volume : 0;
    count_ = taken_ = 0;
    int64_t word = 0;
    for (int32_t k = 0; k < volume_; ++k) {
      if (k % kInWord == 0) word = record.GetValue(kPlanMasks / 2 + k / kInWord);
      mask_[k] = static_cast<uint32_t>(word >> (k % kInWord * 16)) & 0xffff;
      count_ += CountBits(mask_[k]);
    }
    point_ = 0;
    left_ = volume_ > 0 ? mask_[0] : 0;
    begun_ = 0;
  }
  __aicore__ inline int32_t count() const { return count_; }
  __aicore__ inline int32_t left() const { return count_ - taken_; }
  // The kernel point of the next block.
  __aicore__ inline int32_t Point() {
    while (left_ == 0) left_ = mask_[++point_];
    return point_;
  }
  // The place of the next block, and whether it is its first.
  __aicore__ inline int32_t Take(bool& first) {
    Point();
    int32_t place = 0;
    while ((left_ >> place & 1) == 0) ++place;
    left_ &= left_ - 1;
    ++taken_;
    first = (begun_ >> place & 1) == 0;
    begun_ |= 1u << place;
    return place;
  }
  // Leaves out the next blocks; returns the kernel point of the last one.
  __aicore__ inline int32_t Skip(int32_t blocks) {
    taken_ += blocks;
    for (;; left_ = mask_[++point_]) {
      const int32_t here = CountBits(left_);
      if (here >= blocks) break;
      blocks -= here;
    }
    for (; blocks > 0; --blocks) left_ &= left_ - 1;
    return point_;
  }

 private:
  int32_t volume_ = 0, count_ = 0, taken_ = 0, point_ = 0;
  uint32_t left_ = 0, begun_ = 0;
  uint32_t mask_[kPlanPoints];
};

// Steps for the blocks of two tiles.
__aicore__ inline int32_t Steps(const Blocks (&blocks)[2], const SparseConvTiling& tiling) {
  const int32_t most = MaxOf(blocks[0].count(), blocks[1].count());
  return CeilDiv(most, tiling.step_rows / kFractalRows);
}

}  // namespace mxd::kernels::sparse_conv_planned
