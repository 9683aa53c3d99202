// How the kernels of deformable aggregation divide the work; the host fills it in.
#pragma once

#include "common/dtype.h"
#include "common/integers.h"

// Channels are worked on in slices: some groups with all of their channels, or a part of one group.
// A slice of a pixel is a row of UB, each group of it in 32 B blocks of its own.
struct DeformableAggregationTiling {
  int64_t num_feat;     // rows of feature_maps
  int32_t dtype;        // of maps, weights and gradients: kFloat, kHalf or kBfloat16
  int32_t all_anchors;  // of the whole batch
  int32_t anchors;      // of one element of it
  int32_t samples;      // of an anchor: points x cameras
  int32_t cams;
  int32_t scales;
  int32_t groups;
  int32_t width;         // channels of a group
  int32_t slice_groups;  // most groups of a slice
  int32_t slice_width;   // most channels of each group in a slice
  int32_t patches;       // most patches (2 x 2 pixels) worked on at a time
  int32_t add_output;    // whether two anchors' outputs may share 32 B: then both add to zeros
};

namespace mxd::kernels::deformable_aggregation {

constexpr int32_t kMaxMaps = 256;  // cameras x scales, whose sizes are kept in UB
constexpr int32_t kMaxRow = 1024;  // elements of a row
constexpr int32_t kMaxPatches = 16;
constexpr int32_t kPatchFloats = 8192;  // elements of the patches worked on at a time
constexpr int32_t kWeightBlocks = 512;  // 32 B blocks of their weights, one a row and group

}  // namespace mxd::kernels::deformable_aggregation
