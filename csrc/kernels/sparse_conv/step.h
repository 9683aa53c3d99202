// What the rooms of the convolution speak of: tiles, steps and their pieces.
#pragma once

#include "../sparse_conv_tiling.h"

namespace mxd::kernels::sparse_conv {

constexpr int32_t kLists = kLead + 3;  // steps between their preparation and their end

// A tile of output rows, as the rulebook has it.
struct Tile {
  int64_t index;
  int64_t row_pairs;  // the first of the pairs that name its rows, -1 where they are consecutive
  int32_t rows;
  int32_t full_offset;    // the offset that pairs every row; -1: none, or rows not consecutive
  int32_t window, first;  // which window holds its bounds, and from which offset on
};

// The pairs of one kernel offset in a step.
struct Piece {
  int32_t offset, slot, rows;
  int32_t first;  // of the pairs of the offset and the tile
};

// A part of a tile's pairs: at most step_rows rows, every piece's rounded up to 16.
struct Step {
  Tile tile;
  int32_t panel;
  int32_t pieces;  // -1 after the last step
  int32_t rows;
  bool first, last;  // of the tile and panel
  Piece piece[kMaxPieces];
};

}  // namespace mxd::kernels::sparse_conv
