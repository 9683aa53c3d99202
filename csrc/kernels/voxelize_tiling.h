// Tilings of the voxelization's kernels.
//
// CANN's launch stub repeats the structs without the constants: array sizes are literals, and
// asserted below.
#pragma once

#include "common/dtype.h"
#include "common/integers.h"
#include "sort_tiling.h"

// Points to cells: as coordinates z, y, x, and as keys of `words` words that sort in any order that
// keeps cells apart. Dimension d adds step[d] times its coordinate to word word[d]; with step 0 the
// word is the coordinate's bits as fp32, which int32 holds for every grid.
struct VoxelizeCellsTiling {
  int32_t dtype;  // of the points: kFloat, kHalf or kBfloat16
  int32_t points, channels, ndim, words, pitch;
  float low[4], size[4], cells[4];
  int32_t word[4], step[4];
  float inverse_ndim;  // a little less than 1 / ndim
};

// Runs of equal keys among `count` sorted ones: `words` lists of them, `pitch` words apart. Voxels
// from `limit` on are none.
struct VoxelizeRunsTiling {
  int32_t count, words, pitch, limit;
};

// Slots, coordinates and numbers of points of the first `voxels` of `groups` voxels.
struct VoxelizeSlotsTiling {
  int32_t voxels, groups, inside, max_points, ndim;
  int32_t width;  // slots of a voxel at once
  int32_t batch;  // voxels at once
  float inverse_width, inverse_ndim;
};

// Rows of points to slots and back: `batch` slots and `width` channels at once.
struct VoxelizeGatherTiling {
  int32_t number_bytes;  // 4, or 2
  int32_t slots, points, channels, width, batch;
  int32_t farthest;  // rows between two that one DMA moves
  // A little less than 1 / width, 1 / width as whole blocks of 32 bytes, and the same for the last
  // slice of the channels.
  float inverse_width, inverse_pitch, inverse_last;
};

namespace mxd::kernels {

constexpr int32_t kVoxelizeDims = 4;
constexpr int32_t kVoxelizeLanes = 4096;  // slots at once of VoxelizeSlotsTiling
constexpr int32_t kVoxelizeVoxels = 1024;
constexpr int32_t kVoxelizeElements = 5120;  // of rows at once of VoxelizeGatherTiling
constexpr int32_t kVoxelizeSlots = 1024;
constexpr int32_t kVoxelizeWidth = 1024;
constexpr int32_t kVoxelizeOutside = kSortMaxKey;  // the key of points outside

static_assert(sizeof(VoxelizeCellsTiling::low) == kVoxelizeDims * sizeof(float) &&
              sizeof(VoxelizeCellsTiling::word) == kVoxelizeDims * sizeof(int32_t));

}  // namespace mxd::kernels
