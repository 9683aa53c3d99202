// Tiling of draw_gaussians: the maps as `rows` rows below each other, `tile_rows` of them and
// `tile_columns` columns at once.
#pragma once

#include "common/integers.h"

struct DrawGaussiansTiling {
  int32_t bumps, rows, height, width, tile_rows, tile_columns;
};

namespace mxd::kernels {

constexpr int32_t kGaussianTile = 24576;    // cells of a tile
constexpr int32_t kGaussianColumns = 3072;  // of a tile of 8 rows
constexpr int32_t kGaussianBumps = 1024;    // at once

}  // namespace mxd::kernels
