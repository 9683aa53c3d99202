// The plan of a sparse convolution whose sums stay in the cube cores, int32: a record for each tile
// of kPlanRows output rows, in an order that gives core blocks equal shares, and behind the records
// the blocks of each tile, by section, kernel point and place. A section of a tile has its rows in
// an order in which those with the same kernel points are together; a block is the input rows of
// kPlanBlockRows of them for one kernel point, -1 for none, and is there if one of them has a pair.
//
// Input rows come to UB by windows. A tile is one section where a window has room for the rows of
// each kernel point; else it is kPlanSections, of rows that follow each other, whose neighbours are
// nearer to each other.
#pragma once

#include "common/integers.h"

struct SparseConvPlanTiling {
  int32_t rows;    // of input and output
  int32_t volume;  // kernel points
  int32_t window;  // input rows of a window
};

struct SparseConvPlanSharesTiling {
  int32_t tiles;
  int32_t shares;  // core blocks of the convolution, kMostShares at most
};

namespace mxd::kernels::sparse_conv_planned {

constexpr int32_t kPlanRows = 256;
constexpr int32_t kPlanBlockRows = 16;
constexpr int32_t kPlanBlocks = kPlanRows / kPlanBlockRows;
constexpr int32_t kPlanPoints = 27;  // at most; always an odd number, so a mask of a word is free
constexpr int32_t kPlanSections = 4;
constexpr int32_t kPlanRanges = 112;  // of kernel points and sections, in whole blocks
// A record: which tile it is; for every kernel point a bit for each block of the tile, and behind
// them whether it has sections; the lowest and the highest input row of every kernel point and
// section, above all rows and -1 where it has none; where in the order each row is.
constexpr int32_t kPlanTile = 0, kPlanMasks = 8, kPlanMaskWords = (kPlanPoints + 1) / 2,
                  kPlanLowest = 24, kPlanHighest = kPlanLowest + kPlanRanges,
                  kPlanPlaces = kPlanHighest + kPlanRanges, kPlanWords = kPlanPlaces + kPlanRows;
static_assert(2 * kPlanBlocks == 32 && kPlanMasks + kPlanMaskWords <= kPlanLowest &&
              kPlanPoints * kPlanSections < kPlanRanges);

constexpr int32_t kMostShares = 32;  // that one Sort32 puts in order

// Two windows are in UB, or four halves of them, each with a row of zeros on both sides.
constexpr int32_t kWindowBytes = 41984;
constexpr int32_t kMostWindowRows = 2048;
__aicore__ constexpr int32_t WindowRows(int32_t row_bytes) {
  return MinOf(kWindowBytes / row_bytes / 2 * 2 - 2, kMostWindowRows);
}

// Words of a tile's blocks, at most, and where in the plan they are.
__aicore__ constexpr int64_t ListWords(int32_t volume) {
  return static_cast<int64_t>(volume) * kPlanRows;
}
__aicore__ constexpr int64_t ListOf(int32_t tile, int32_t tiles, int32_t volume) {
  return static_cast<int64_t>(tiles) * kPlanWords + tile * ListWords(volume);
}

}  // namespace mxd::kernels::sparse_conv_planned
