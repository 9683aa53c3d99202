// Tilings of the kernels between voxels and a dense grid with channels first. A cell is the number
// of a place in the grid, row-major over batch index and coordinates.
#pragma once

#include "common/integers.h"

// Cells of voxels, -1 outside of the grid, to a map of the grid's cells: the last voxel in each, -1
// where there is none.
struct SparseDenseMapTiling {
  int32_t voxels, cells;
};

// Planes of a grid and rows of voxels. A sample's cells are cut into spans; a block works on one at
// a time, tile by tile.
struct SparseDenseTiling {
  int32_t number_bytes;  // 4, or 2
  int32_t voxels, channels, batch;
  int32_t plane;        // cells of a sample
  int32_t span, spans;  // cells of a span, and spans of a sample
  int32_t tile, width;  // cells and channels at once, at most
  int32_t add_output;   // whether two DMAs of the output may share 32 B: then all add to zeros
};

namespace mxd::kernels {

constexpr int32_t kDenseTile = 512;          // cells
constexpr int32_t kDenseWidth = 128;         // channels
constexpr int32_t kDenseReadWidth = 64;      // channels where planes are read: in long pieces
constexpr int32_t kDenseRowBytes = 40960;    // of a tile's voxels
constexpr int32_t kDensePlaneBytes = 16384;  // of some planes of a tile, to be written
constexpr int32_t kDenseTileBytes = 61440;   // of all planes of a tile, read
constexpr int32_t kDensePlane = 1 << 28;     // cells of a plane: strides of DMAs are of 32 bits

}  // namespace mxd::kernels
