// The units of a core block, and the blocks of a tile, as the plan has them.
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

// The bits of each quarter of a mask, a byte each.
__aicore__ inline uint32_t CountByQuarter(uint32_t bits) {
  bits -= bits >> 1 & 0x5555;
  bits = (bits & 0x3333) + (bits >> 2 & 0x3333);
  return (bits & 0xf) | (bits & 0xf0) << 4 | (bits & 0xf00) << 8 | (bits & 0xf000) << 12;
}

// The units that a core block takes, one after the other: of each panel some couples of tiles. The
// plan's order makes those that are `core_blocks` apart about equal shares. Every other panel is
// shared from the other end, which evens out the rest; one that has no couple for each core block,
// from where the panel before has ended.
class Units {
 public:
  __aicore__ inline Units(const SparseConvTiling& tiling, int32_t core_block)
      : couples_(CeilDiv(tiling.tiles, 2)),
        panels_(tiling.groups * tiling.panels),
        core_blocks_(GetBlockNum()),
        core_block_(core_block) {
    couple_ = First();
    Skip();
  }
  __aicore__ inline bool IsThere() const { return panel_ < panels_; }
  __aicore__ inline int32_t couple() const { return couple_; }
  __aicore__ inline int32_t panel() const { return panel_; }
  __aicore__ inline Units Next() const {
    Units next = *this;
    next.couple_ += core_blocks_;
    next.Skip();
    return next;
  }

 private:
  __aicore__ inline int32_t First() const {
    if (couples_ >= core_blocks_)
      return panel_ % 2 == 0 ? core_block_ : core_blocks_ - 1 - core_block_;
    const int32_t begun = panel_ * couples_ % core_blocks_;
    return (core_block_ + core_blocks_ - begun) % core_blocks_;
  }
  __aicore__ inline void Skip() {
    while (couple_ >= couples_ && ++panel_ < panels_) couple_ = First();
  }

  int32_t couples_, panels_, core_blocks_, core_block_, couple_, panel_ = 0;
};

// Goes through a tile's blocks by section, by kernel point, then by place.
class Blocks {
  static constexpr int32_t kInWord = 64 / kPlanBlocks;  // masks of an int64

 public:
  static constexpr int32_t kQuarters = 4, kInQuarter = kPlanBlocks / kQuarters;
  static_assert(kInQuarter == 4 && kPlanPoints * kInQuarter < 256);

  // int64s with the masks of a tile.
  __aicore__ static inline int32_t Words(int32_t volume) { return CeilDiv(volume, kInWord); }

  // Reads a tile; `volume`: 0 for one that is not there.
  __aicore__ inline void Open(int32_t volume) {
    volume_ = volume;
    count_ = 0;
    begun_ = 0;
    sections_ = 1;
    mask_[0] = 0;
    in_quarters_ = 0;
  }
  // The masks of a tile follow, word by word, and behind them whether it has sections.
  __aicore__ inline void Add(int32_t index, uint64_t word) {
    for (int32_t k = index * kInWord; k < (index + 1) * kInWord && k <= volume_; ++k) {
      const uint32_t mask = static_cast<uint32_t>(word) & kAll;
      if (k == volume_) {
        sections_ = mask != 0 ? kPlanSections : 1;
      } else {
        mask_[k] = mask;
        count_ += CountBits(mask);
        in_quarters_ += CountByQuarter(mask);
      }
      word >>= kPlanBlocks;
    }
  }
  // Begins with the first block, once all masks are there.
  __aicore__ inline void Begin() {
    taken_ = point_ = section_ = 0;
    left_ = InSection(0);
    left_in_quarters_ = in_quarters_;
  }
  __aicore__ inline int32_t count() const { return count_; }
  __aicore__ inline int32_t left() const { return count_ - taken_; }
  // Whether `Take` has taken all blocks at the places of a quarter of the tile.
  __aicore__ inline bool IsDone(int32_t quarter) const {
    return (left_in_quarters_ >> quarter * 8 & 0xff) == 0;
  }
  __aicore__ inline int32_t sections() const { return sections_; }
  // The kernel point of the next block.
  __aicore__ inline int32_t Point() {
    while (left_ == 0) {
      if (++point_ == volume_) {
        point_ = 0;
        ++section_;
      }
      left_ = InSection(point_);
    }
    return point_;
  }
  // The same and its section: which of the ranges of input rows it has.
  __aicore__ inline int32_t Range() {
    Point();
    return section_ * volume_ + point_;
  }
  // The place of the next block in the tile, and whether it is its first.
  __aicore__ inline int32_t Take(bool& first) {
    Point();
    int32_t place = 0;
    while ((left_ >> place & 1) == 0) ++place;
    left_ &= left_ - 1;
    ++taken_;
    first = (begun_ >> place & 1) == 0;
    begun_ |= 1u << place;
    left_in_quarters_ -= 1u << place / kInQuarter * 8;
    return place;
  }
  // Takes the blocks that the next one's kernel point still has in its section, at most so many;
  // returns how many.
  __aicore__ inline int32_t TakePoint(int32_t most) {
    Point();
    const int32_t count = MinOf(most, CountBits(left_));
    for (int32_t i = 0; i < count; ++i) left_ &= left_ - 1;
    taken_ += count;
    return count;
  }

 private:
  static constexpr uint32_t kAll = (1u << kPlanBlocks) - 1;
  static constexpr int32_t kInSection = kPlanBlocks / kPlanSections;

  __aicore__ inline uint32_t InSection(int32_t point) const {
    if (sections_ == 1) return mask_[point];
    return mask_[point] & ((1u << kInSection) - 1) << section_ * kInSection;
  }

  int32_t volume_ = 0, count_ = 0, taken_ = 0, sections_ = 1, section_ = 0, point_ = 0;
  uint32_t left_ = 0, begun_ = 0;
  uint32_t mask_[kPlanPoints];
  uint32_t in_quarters_ = 0, left_in_quarters_ = 0;  // blocks of each quarter, a byte each
};

// Parts of the input channels, which are gathered and multiplied one after the other.
__aicore__ inline int32_t Parts(const SparseConvTiling& tiling) {
  return tiling.in_channels / tiling.in_step;
}

// Steps for the blocks of two tiles, for each part of the channels.
__aicore__ inline int32_t Steps(const Blocks (&blocks)[2], const SparseConvTiling& tiling) {
  const int32_t most = MaxOf(blocks[0].count(), blocks[1].count());
  return CeilDiv(most, tiling.step_rows / kPlanBlockRows);
}

}  // namespace mxd::kernels::sparse_conv_planned
