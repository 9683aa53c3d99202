// Tiling of the gradients of the fused BEV pooling.
#pragma once

#include "common/dtype.h"
#include "common/machine.h"

// Depth [images, depths, pixels], context [images, pixels, channels]. A unit is a group of pixels
// of an image, at all depths.
struct BevPoolFusedGradTiling {
  int32_t images, depths, pixels, channels;
  int32_t group, groups;  // pixels of a unit, and units of an image
  int32_t dtype;          // of context and gradients: kFloat, kHalf or kBfloat16
  // Whether two units may write into the same 32 B: then both add to zeros.
  int32_t add_depth, add_context;
};

namespace mxd::kernels {

constexpr int32_t kFusedGroup = 64;        // pixels of a unit, at most
constexpr int32_t kFusedElements = 6144;   // of a unit's rows
constexpr int32_t kFusedChannels = 2048;   // at most
constexpr int32_t kFusedDepths = 32;       // depths whose lists are in UB together
constexpr int32_t kFusedPieces = 32;       // cells whose gradients are loaded together
constexpr int32_t kFusedGradWords = 4096;  // of these gradients

}  // namespace mxd::kernels
