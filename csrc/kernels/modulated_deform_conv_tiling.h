// How the kernels of modulated deformable convolution divide the work; the host fills it in.
#pragma once

#include "common/dtype.h"
#include "common/integers.h"
#include "common/matrix_tile.h"

// Channels are counted in blocks of 32 bytes. The host cuts them at every border of a group or a
// deform group into slices of equal width and pads each to whole blocks. Pairs are of height and
// width.
struct ModulatedDeformConvTiling {
  int32_t dtype;  // of images, offsets, masks and weights: kFloat, kHalf or kBfloat16
  int32_t batch;
  int32_t size[2];  // of the images, with zeros to at least 2 x 2
  int32_t out_size[2];
  int32_t kernel[2];
  int32_t stride[2];
  int32_t padding[2];
  int32_t dilation[2];
  int32_t deform_groups;
  int32_t groups;
  int32_t deform_blocks;  // channels of a deform group
  int32_t group_blocks;   // input channels of a group
  int32_t out_channels;   // of a group, without padding
  int32_t panels;         // parts of the output channels of a group
  int32_t panel;          // channels of a part, a multiple of 16, at most kMatrixRows
  int32_t pass_groups;    // groups worked on at a time
  int32_t pass_panels;    // panels of each of them
  int32_t tile;           // output positions worked on at a time, 64 or 128
  int32_t chunk_blocks;   // channels of a step at most
  int32_t out_stride;     // positions from an output channel to the next, a multiple of 16
  int32_t has_mask;
  int32_t has_bias;
  // Of the backward pass alone.
  int32_t lanes;          // parts of all tiles, each worked on in order
  int32_t copies;         // of the gradient of an image, one for each lane that works on it
  int32_t of_data;        // whether the gradients of input, offset and mask are wanted
  int32_t of_parameters;  // whether that of the weight is
};

namespace mxd::kernels::modulated_deform_conv {

constexpr int32_t kMaxTile = 128;
constexpr int32_t kSums = kSumBytes / kWord;  // of a pass and a tile, at most
constexpr int32_t kMaxChunk = 256;            // channels of a step
constexpr int32_t kSlots = 4;                 // steps that a ring holds
constexpr int32_t kListTaps = 576;            // taps that are located at a time

__aicore__ constexpr int32_t Points(const ModulatedDeformConvTiling& tiling) {
  return tiling.kernel[0] * tiling.kernel[1];
}
__aicore__ constexpr int32_t Tiles(const ModulatedDeformConvTiling& tiling) {
  return CeilDiv(tiling.out_size[0] * tiling.out_size[1], tiling.tile);
}
__aicore__ constexpr int32_t Positions(const ModulatedDeformConvTiling& tiling) {
  return tiling.out_size[0] * tiling.out_size[1];
}
// The lanes of the backward pass: the first tile of one, and which one a tile is of. None is empty.
__aicore__ constexpr int64_t LaneBegin(const ModulatedDeformConvTiling& tiling, int32_t lane) {
  return static_cast<int64_t>(tiling.batch) * Tiles(tiling) * lane / tiling.lanes;
}
__aicore__ constexpr int32_t LaneOf(const ModulatedDeformConvTiling& tiling, int64_t tile) {
  return static_cast<int32_t>(((tile + 1) * tiling.lanes - 1) /
                              (static_cast<int64_t>(tiling.batch) * Tiles(tiling)));
}
// Of the columns of a step in the dtype of the images.
__aicore__ constexpr int32_t StepBytes(const ModulatedDeformConvTiling& tiling) {
  return tiling.tile * tiling.chunk_blocks * kBlockBytes;
}

}  // namespace mxd::kernels::modulated_deform_conv

namespace mxd::kernels::modulated_deform_conv_backward {

constexpr int32_t kMaxChunk = 128;  // channels of a step
constexpr int32_t kListTaps = 192;  // taps that are located at a time
constexpr int32_t kMaxLanes = 20;   // so many cube cores are kept busy

}  // namespace mxd::kernels::modulated_deform_conv_backward
