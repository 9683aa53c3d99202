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

// The short way of hard voxelization. Points are divided twice: each run of points is sorted by the
// buckets of their cells, key % buckets being a cell's bucket; each bucket is sorted by the ranges
// of the rows of its voxels' first points. Whoever takes a bucket or a range finds a piece of it in
// each run, or in each bucket. A core has a run, a bucket or some ranges in UB.
struct VoxelizeBucketsTiling {
  int32_t dtype;  // of the points: kFloat, kHalf or kBfloat16
  int32_t points, channels, ndim, max_points;
  float low[4], size[4], cells[4];
  int32_t step[4];                // dimension d adds step[d] times its coordinate to the key
  int32_t run, runs;              // points of a run, and runs
  int32_t buckets, bucket_cells;  // and the keys of a bucket, at most
  int32_t bucket_pitch;           // words of a run's list of where the buckets begin
  int32_t range, ranges;          // rows of a range, and ranges
  int32_t range_pitch;            // words of a bucket's list of where the ranges begin
  int32_t voxels;                 // that are asked for
  // A little less than 1 / what they are of.
  float inverse_buckets, inverse_bucket_cells, inverse_cells[4], inverse_max_points, inverse_ndim;
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

// Rows of points to slots: `batch` slots and `width` channels at once.
struct VoxelizeGatherTiling {
  int32_t number_bytes;  // 4, or 2
  int32_t slots, points, channels, width, batch;
  int32_t tile, window;  // rows of a DMA, and of what is in UB, as powers of two
  int32_t packed;        // whether rows follow each other there without a gap
  float inverse_width;   // a little less than 1 / width
};

// Rows of slots to points: `batch` slots and `width` channels at once.
struct VoxelizeScatterTiling {
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
constexpr int32_t kVoxelizeRun = 7552;          // points of a run, at most
constexpr int32_t kVoxelizeRuns = 128;          // at most
constexpr int32_t kVoxelizeBuckets = 128;       // at most
constexpr int32_t kVoxelizeBucket = 4096;       // points of a bucket, at most
constexpr int32_t kVoxelizeRanges = 2048;       // and their end, at most
constexpr int32_t kVoxelizeGatherSlots = 1536;  // at once of VoxelizeGatherTiling
constexpr int32_t kVoxelizeGatherLanes = 2048;  // elements of a gather
constexpr int32_t kVoxelizeGatherWidth = 448;   // channels; 16 rows of them fit
constexpr int32_t kVoxelizeNarrow = 64;         // channels of rows that are not padded
constexpr int32_t kVoxelizeRowBytes = 30720;    // of rows at once
constexpr int32_t kVoxelizeTileBytes = 3520;    // what a DMA of the shortest time moves
constexpr int32_t kVoxelizeWindowBytes = 20480;
constexpr int32_t kVoxelizeElements = 5120;  // of rows at once of VoxelizeScatterTiling
constexpr int32_t kVoxelizeSlots = 1024;
constexpr int32_t kVoxelizeWidth = 1024;
constexpr int32_t kVoxelizeOutside = kSortMaxKey;  // the key of points outside

static_assert(sizeof(VoxelizeCellsTiling::low) == kVoxelizeDims * sizeof(float) &&
              sizeof(VoxelizeCellsTiling::word) == kVoxelizeDims * sizeof(int32_t) &&
              sizeof(VoxelizeBucketsTiling::low) == kVoxelizeDims * sizeof(float));

}  // namespace mxd::kernels
