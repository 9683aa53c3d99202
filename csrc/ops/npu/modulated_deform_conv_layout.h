// Modulated deformable convolution on the NPU: how images and channels are laid out and the work is
// divided, for the forward and the backward pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>

#include "integers.h"
#include "modulated_deform_conv_tiling.h"

namespace mxd::modulated_deform_conv {

namespace sizes = kernels::modulated_deform_conv;

using npu::ceil_div;
using npu::round_up;

// How the channels lie: cut at every border of a group or a deform group into slices, each padded
// to whole fractals.
struct Channels {
  int64_t groups, deform_groups, slice, slices;  // channels of a slice, and how many there are
  int64_t padded;                                // channels of a slice with padding
  int64_t element_size;

  Channels(const at::Tensor& input, int64_t groups, int64_t deform_groups);

  int64_t block() const { return kernels::kBlockBytes / element_size; }
  int64_t blocks_of(int64_t parts) const { return slices / parts * padded / block(); }
};

// Zeros behind the tensor's own numbers, to `size` along `dim`.
at::Tensor pad(const at::Tensor& tensor, int64_t dim, int64_t size);

// [N, channels, height, width] -> [N, deform_groups, height, width, channels of it], with zeros to
// at least 2 x 2 pixels.
at::Tensor to_images(const at::Tensor& input, const Channels& channels);

// [out_channels, channels / groups, kernel height, kernel width] -> [groups, panels * panel,
// group_blocks * block, points], with zeros where channels are padded.
at::Tensor to_rows(const at::Tensor& weight, const Channels& channels,
                   const ModulatedDeformConvTiling& tiling);

ModulatedDeformConvTiling make_tiling(const at::Tensor& input, const at::Tensor& weight,
                                      at::IntArrayRef out_size, const Channels& channels,
                                      at::IntArrayRef stride, at::IntArrayRef padding,
                                      at::IntArrayRef dilation);

// What the kernels ask for beyond the operator's own checks.
void check_npu(const at::Tensor& input, at::IntArrayRef out_size);

// Of an image with its padding.
int64_t image_elements(const ModulatedDeformConvTiling& tiling, const Channels& channels);

// Calls body(first, count) for chunks of the images, of `bytes` each, that stay in the L2.
template <typename Body>
void for_each_chunk(int64_t images, int64_t bytes, Body body) {
  constexpr int64_t kCacheBytes = 150 << 20;  // of the L2, for what a launch works on
  const int64_t most = std::max<int64_t>(kCacheBytes / bytes, 1), chunks = ceil_div(images, most);
  for (int64_t i = 0; i < chunks; i++) {
    const int64_t first = images * i / chunks;
    body(first, images * (i + 1) / chunks - first);
  }
}

}  // namespace mxd::modulated_deform_conv
