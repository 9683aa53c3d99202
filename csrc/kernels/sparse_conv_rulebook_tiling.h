// Tilings of the rulebook's kernels. A cell is the number of a place in a grid, row-major over
// batch index and coordinates: shift plus the sum of coordinate times step.
//
// CANN's launch stub repeats the structs without the constants: their array sizes are literals, and
// asserted below.
#pragma once

#include "common/machine.h"

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

// The join of windows with the voxels of a table. A kernel row is `run` points at consecutive
// cells; row r begins at shift + sum of digit d of r times step[d], in the mixed radix of kernel[].
struct SparseConvJoinTiling {
  int32_t windows, voxels;
  int32_t heads, head_distance;  // of the table: every head_distance-th cell
  int32_t rows, run, dims;
  int32_t kernel[4], step[4];
  int32_t shift;
};

namespace mxd::kernels {

constexpr int32_t kTileRows = 512;  // output rows of a tile of the rulebook
constexpr int32_t kRulebookDims = 4;
constexpr int32_t kRulebookColumns = kRulebookDims + 1;  // batch index and coordinates
constexpr int32_t kRulebookRun = 16;                     // kernel points of a row, at most
constexpr int32_t kRulebookHeads = 4096;                 // cells that the join keeps at hand
// "No cell": larger than every cell, by more than a run.
constexpr int32_t kRulebookNone = 0x7fffffff;
constexpr int32_t kRulebookMaxCell = kRulebookNone - 4 * kRulebookRun;

static_assert(sizeof(SparseConvCellsTiling::limit) == kRulebookColumns * sizeof(int32_t) &&
              sizeof(SparseConvDecodeTiling::divisor) == kRulebookColumns * sizeof(int32_t) &&
              sizeof(SparseConvReachTiling::limit) == kRulebookColumns * sizeof(int32_t) &&
              sizeof(SparseConvReachTiling::slots) == kRulebookDims * sizeof(int32_t) &&
              sizeof(SparseConvJoinTiling::kernel) == kRulebookDims * sizeof(int32_t));

}  // namespace mxd::kernels
