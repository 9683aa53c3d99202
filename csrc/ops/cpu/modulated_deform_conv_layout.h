// Modulated deformable convolution on the CPU: sizes, how channels lie in memory, and the tiles
// that the work is divided into. Images are worked on channels last, so that one sample's position
// and weights serve a whole vector of channels.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "../modulated_deform_conv.h"
#include "memory.h"
#include "parallel.h"
#include "simd.h"

namespace mxd::modulated_deform_conv {

using cpu::for_each_unit;
using cpu::Simd;

constexpr int64_t kTile = 96;                // output positions that are computed together
constexpr int64_t kColumnBytes = 256 << 10;  // of columns: they stay in the second-level cache
constexpr int64_t kSampleSize = 15;          // numbers that are kept of a sample
constexpr int64_t kChunkBytes =
    8 << 20;  // of images converted to channels last at a time, at least

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Sizes, and how channels lie. The channels of each deform group are padded to whole vectors, and
// so are the output channels of each group: loops over vectors of channels need no tail.
struct Layout {
  int64_t batch, channels, height, width, out_channels, out_height, out_width;
  int64_t kernel_h, kernel_w, points;
  std::array<int64_t, 2> stride, padding, dilation;
  int64_t groups, deform_groups;
  int64_t lanes, item;  // numbers in the widest vector, bytes of a number

  int64_t pixels, positions, tiles;        // of an image
  int64_t deform_channels, deform_padded;  // of a deform group
  int64_t in_row;                          // elements of a pixel
  int64_t group_out, group_out_padded;     // output channels of a group
  int64_t out_row;                         // elements of an output position
  int64_t block, column_stride;            // kernel points in a block of columns

  Layout(const at::Tensor& input, const at::Tensor& weight, at::IntArrayRef out_shape,
         at::IntArrayRef stride_, at::IntArrayRef padding_, at::IntArrayRef dilation_,
         int64_t groups_, int64_t deform_groups_, int64_t item_)
      : batch(input.size(0)),
        channels(input.size(1)),
        height(input.size(2)),
        width(input.size(3)),
        out_channels(weight.size(0)),
        out_height(out_shape[2]),
        out_width(out_shape[3]),
        kernel_h(weight.size(2)),
        kernel_w(weight.size(3)),
        points(kernel_h * kernel_w),
        stride{stride_[0], stride_[1]},
        padding{padding_[0], padding_[1]},
        dilation{dilation_[0], dilation_[1]},
        groups(groups_),
        deform_groups(deform_groups_),
        lanes(cpu::kMaxVectorBytes / item_),
        item(item_) {
    pixels = height * width;
    TORCH_CHECK_VALUE(pixels < std::numeric_limits<int32_t>::max(),
                      "input must have fewer than 2**31 - 1 pixels, was ", input.sizes());
    positions = out_height * out_width;
    tiles = (positions + kTile - 1) / kTile;
    deform_channels = channels / deform_groups;
    deform_padded = padded(deform_channels);
    in_row = deform_groups * deform_padded;
    group_out = out_channels / groups;
    group_out_padded = padded(group_out);
    out_row = groups * group_out_padded;
    block = std::clamp<int64_t>(kColumnBytes / (kTile * (in_row + kSampleSize) * item), 1, points);
    column_stride = block * in_row + lanes;  // a group's last vector may reach over its end
  }
  int64_t place(int64_t channel) const {
    return channel / deform_channels * deform_padded + channel % deform_channels;
  }
  // Elements of a pixel that are the input channels of a group, with the padding that follows.
  Range group(int64_t g) const {
    const int64_t size = channels / groups;
    return {place(g * size), g + 1 < groups ? place((g + 1) * size) : in_row};
  }
  int64_t padded(int64_t count) const { return (count + lanes - 1) / lanes * lanes; }
  // Samples of an image, whose offsets and mask lie as [deform_groups, points, positions].
  int64_t samples() const { return deform_groups * points * positions; }
  // Where the outputs of a group begin in [images, out_channels, positions].
  int64_t out_plane(int64_t image, int64_t g) const {
    return (image * out_channels + g * group_out) * positions;
  }
  int64_t image_bytes() const { return (pixels + 1) * in_row * item; }
  // Images that are converted to channels last at a time: few, so that they stay in the last-level
  // cache, but at least `least_tiles` of work.
  int64_t images_in_chunk(int64_t least_tiles) const {
    const int64_t images = std::max(kChunkBytes / image_bytes(), (least_tiles + tiles - 1) / tiles);
    return std::clamp<int64_t>(images, 1, std::max<int64_t>(batch, 1));
  }
};

// Output positions [first, first + count) of an image.
struct Tile {
  int64_t image, first, count;
  Tile(const Layout& layout, int64_t index)
      : image(index / layout.tiles),
        first(index % layout.tiles * kTile),
        count(std::min(kTile, layout.positions - first)) {}
};

// to[column][row] = from[row][column], in blocks of a cache line.
template <typename T>
MXD_INLINE void transpose(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to,
                          int64_t to_stride) {
  constexpr int64_t kBlock = cpu::kMaxVectorBytes / sizeof(T);
  for (int64_t row = 0; row < rows; row += kBlock)
    for (int64_t column = 0; column < columns; column += kBlock) {
      const int64_t row_end = std::min(rows, row + kBlock);
      const int64_t column_end = std::min(columns, column + kBlock);
      for (int64_t c = column; c < column_end; c++)
        for (int64_t r = row; r < row_end; r++) to[c * to_stride + r] = from[r * from_stride + c];
    }
}

// Converts images to channels last, in the padded layout, each with a pixel of zeros at its end.
template <typename T>
void to_channels_last(const Layout& layout, const T* from, int64_t images, T* to) {
  constexpr int64_t kPixels = 256;
  const int64_t parts = (layout.pixels + kPixels - 1) / kPixels;
  for_each_unit(images * parts, [&](int64_t unit, int64_t) {
    const int64_t image = unit / parts, first = unit % parts * kPixels;
    const int64_t count = std::min(kPixels, layout.pixels - first);
    T* pixel = to + (image * (layout.pixels + 1) + first) * layout.in_row;
    for (int64_t d = 0; d < layout.deform_groups; d++)
      transpose(
          from + (image * layout.channels + d * layout.deform_channels) * layout.pixels + first,
          layout.pixels, layout.deform_channels, count, pixel + d * layout.deform_padded,
          layout.in_row);
    if (layout.deform_padded > layout.deform_channels)
      for (int64_t p = 0; p < count; p++)
        for (int64_t d = 0; d < layout.deform_groups; d++)
          std::fill_n(pixel + p * layout.in_row + d * layout.deform_padded + layout.deform_channels,
                      layout.deform_padded - layout.deform_channels, T(0));
    if (first + count == layout.pixels)
      std::fill_n(pixel + count * layout.in_row, layout.in_row, T(0));
  });
}

// Calls body(first image, number of images) for each chunk of the batch, one after the other.
template <typename Body>
void for_each_chunk(const Layout& layout, int64_t chunk, const Body& body) {
  for (int64_t image = 0; image < layout.batch; image += chunk)
    body(image, std::min(chunk, layout.batch - image));
}

}  // namespace mxd::modulated_deform_conv
