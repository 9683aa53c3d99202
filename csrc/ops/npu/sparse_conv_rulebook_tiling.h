// Tilings of the rulebook's kernels. A cell is the number of a place in a grid, row-major over
// batch index and coordinates: shift plus the sum of coordinate times step.
#pragma once

#include <cstdint>

constexpr int32_t kRulebookDims = 4;
constexpr int32_t kRulebookColumns = kRulebookDims + 1;  // batch index and coordinates
constexpr int32_t kRulebookTile = 512;                   // output rows of a tile (kTileRows)
constexpr int32_t kRulebookRun = 16;                     // kernel points of a row, at most
constexpr int32_t kRulebookHeads = 4096;                 // cells that the join keeps at hand
// The cell of what is not there; all others are below by more than a run.
constexpr int32_t kRulebookNone = 0x7fffffff;
constexpr int32_t kRulebookMaxCell = kRulebookNone - 4 * kRulebookRun;

// Voxels to cells; those outside of the grid to -1.
struct SparseConvCellsTiling {
  int32_t voxels, columns;
  int32_t limit[kRulebookColumns];  // what batch index and coordinates are below
  int32_t step[kRulebookColumns];
  int32_t shift;
};

// Cells to voxels, and to their cells in another grid.
struct SparseConvDecodeTiling {
  int32_t cells, columns;
  int32_t divisor[kRulebookColumns];
  float inverse[kRulebookColumns];  // a little less than 1 / divisor
  float inverse_columns;            // the same of columns
  int32_t step[kRulebookColumns];
  int32_t shift;
};

// The cells of the outputs that voxels reach, [slots, pitch], kRulebookNone where there is none. A
// voxel reaches at most slots[d] places along dimension d.
struct SparseConvReachTiling {
  int32_t voxels, pitch, columns, transposed;
  int32_t limit[kRulebookColumns];  // what batch index and coordinates are below
  int32_t slots[kRulebookDims], out_shape[kRulebookDims];
  int32_t kernel[kRulebookDims], stride[kRulebookDims], padding[kRulebookDims],
      dilation[kRulebookDims];
  float inverse[kRulebookDims];  // a little less than 1 / stride
  int32_t step[kRulebookColumns];
};

// The join of windows with the voxels of a table. A kernel row is `run` points at consecutive
// cells; row r begins at shift + sum of digit d of r times step[d], in the mixed radix of kernel[].
struct SparseConvJoinTiling {
  int32_t windows, voxels;
  int32_t heads, head_distance;  // of the table: every head_distance-th cell
  int32_t rows, run, dims;
  int32_t kernel[kRulebookDims], step[kRulebookDims];
  int32_t shift;
};
