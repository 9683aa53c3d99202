// Tilings of the rulebook's kernels. A cell is the number of a place in a grid, row-major over
// batch index and coordinates: shift plus the sum of coordinate times step.
//
// What the host does not know yet is in stats, int32 [kRulebookStats]: whether a voxel is outside
// or there twice (not 0), the number of outputs, and as int64 that of the pairs. A count of -1 in a
// tiling means that number of outputs.
//
// CANN's launch stub repeats the structs without the constants: their array sizes are literals, and
// asserted below.
#pragma once

#include "common/integers.h"
#include "sort_tiling.h"

// Voxels to cells, -1 if outside of the grid.
struct SparseConvCellsTiling {
  int32_t voxels, columns;
  int32_t limit[5];  // what batch index and coordinates are below
  int32_t step[5];
  int32_t shift;
};

// Cells to voxels, and to their cells in another grid.
struct SparseConvDecodeTiling {
  int32_t cells, columns;
  int32_t divisor[5];
  float inverse[5];       // a little less than 1 / divisor
  float inverse_columns;  // the same of columns
  int32_t step[5];
  int32_t shift;
};

// The cells of the outputs that voxels reach, [slots, pitch], kRulebookNone if a slot reaches none.
// Along dimension d a voxel reaches at most slots[d] outputs.
struct SparseConvReachTiling {
  int32_t voxels, pitch, columns, transposed;
  int32_t limit[5];  // what batch index and coordinates are below
  int32_t slots[4], out_shape[4];
  int32_t kernel[4], stride[4], padding[4], dilation[4];
  float inverse[4];  // a little less than 1 / stride
  int32_t step[5];
};

// A sorted table of cells: its heads, and whether two cells are the same, or one is none, if
// `check`.
struct SparseConvTableTiling {
  int32_t voxels, check;
};

// The join of windows with the voxels of a table. A kernel row is `run` points at consecutive
// cells; row r begins at shift + sum of digit d of r times step[d], in the mixed radix of kernel[].
struct SparseConvJoinTiling {
  int32_t windows, voxels;
  int32_t rows, run, dims;
  int32_t kernel[4], step[4];
  int32_t shift;
};

// The places of pairs by kernel point: from counts [tiles, run, rows].
struct SparseConvBoundsTiling {
  int32_t windows, rows, run;
};

// Pairs to their bins: the input's tile times `volume`, plus the kernel point.
struct SparseConvBinsTiling {
  int32_t tiles, volume, num_in;
};

// The bounds of pairs sorted by bin.
struct SparseConvEdgesTiling {
  int32_t pairs, tiles, volume;
  float inverse_row;  // a little less than 1 / (volume + 1)
};

namespace mxd::kernels {

constexpr int32_t kTileRows = 512;  // output rows of a tile of the rulebook
constexpr int32_t kRulebookDims = 4;
constexpr int32_t kRulebookColumns = kRulebookDims + 1;  // batch index and coordinates
constexpr int32_t kRulebookRun = 16;                     // kernel points of a row, at most
constexpr int32_t kRulebookHeads = 4096;                 // cells that the join keeps at hand
constexpr int32_t kRulebookPoints = 1 << 15;             // kernel points, at most
// Words of stats, each in 32 bytes of its own, as some are read while others are written.
constexpr int32_t kRulebookBad = 0, kRulebookOutputs = 8, kRulebookPairs = 16, kRulebookStats = 24;
// "No cell": larger than every cell, by more than a run.
constexpr int32_t kRulebookNone = kSortMaxKey;
constexpr int32_t kRulebookMaxCell = kRulebookNone - 4 * kRulebookRun;

// The heads of a table are every so many of its cells.
__aicore__ constexpr int32_t HeadDistance(int32_t voxels) {
  return MaxOf(64, CeilDiv(voxels, kRulebookHeads));
}

static_assert(sizeof(SparseConvCellsTiling::limit) == kRulebookColumns * sizeof(int32_t) &&
              sizeof(SparseConvDecodeTiling::divisor) == kRulebookColumns * sizeof(int32_t) &&
              sizeof(SparseConvReachTiling::limit) == kRulebookColumns * sizeof(int32_t) &&
              sizeof(SparseConvReachTiling::slots) == kRulebookDims * sizeof(int32_t) &&
              sizeof(SparseConvJoinTiling::kernel) == kRulebookDims * sizeof(int32_t));

}  // namespace mxd::kernels
