// Modulated deformable convolution on the CPU: where the samples lie, and reading them into
// columns.
#pragma once

#include <cmath>
#include <type_traits>

#include "modulated_deform_conv_layout.h"

namespace mxd::modulated_deform_conv {

// Where a tile's positions lie in the input, before kernel point and offset are added.
template <typename T>
struct Anchors {
  T y[kTile], x[kTile];
  Anchors(const Layout& layout, const Tile& tile) {
    int64_t row = tile.first / layout.out_width, column = tile.first % layout.out_width;
    for (int64_t p = 0; p < tile.count; p++) {
      y[p] = static_cast<T>(row * layout.stride[0] - layout.padding[0]);
      x[p] = static_cast<T>(column * layout.stride[1] - layout.padding[1]);
      if (++column == layout.out_width) column = 0, row++;
    }
  }
};

// An integer as wide as T.
template <typename T>
using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// A tile's samples at one kernel point: the four pixels around each, row by row, and their bilinear
// weights times the mask. Every pixel outside of the image is replaced by the pixel of zeros that
// follows the image.
template <typename T>
struct Samples {
  Index<T> pixel[4][kTile];
  T weight[4][kTile];
  T below[kTile], right[kTile];  // bilinear weights of the lower row and of the right column
  T mask[kTile];
  T dot[4][kTile];  // backward: dot products of the column's gradient with the pixels
};

// What the samples are made from.
template <typename T>
struct Inputs {
  const T* input;   // [images, pixels + 1, in_row]
  const T* offset;  // [images, deform_groups, points, 2, positions]
  const T* mask;    // [images, deform_groups, points, positions] or null

  Inputs() = default;
  Inputs(const at::Tensor& images, const at::Tensor& offset_, const at::Tensor& mask_)
      : input(images.const_data_ptr<T>()),
        offset(offset_.const_data_ptr<T>()),
        mask(mask_.defined() ? mask_.const_data_ptr<T>() : nullptr) {}

  const T* image(const Layout& layout, int64_t n) const {
    return input + n * (layout.pixels + 1) * layout.in_row;
  }
  // The same with offset and mask of the images from number n on. `input` is the buffer of every
  // chunk of images, so it stays.
  Inputs from(const Layout& layout, int64_t n) const {
    Inputs rest = *this;
    rest.offset += 2 * n * layout.samples();
    if (mask) rest.mask += n * layout.samples();
    return rest;
  }
};

// A worker's buffers, which stay in its cache.
template <typename T>
struct Scratch {
  T* columns;           // [kTile, column_stride]: for each position [block, in_row]
  T* rows;              // [kTile, out_row], the tile's outputs or their gradients
  Samples<T>* samples;  // of the kernel points of a block
};

// The buffers of all workers.
template <typename T>
class Workers {
 public:
  Workers(const Layout& layout, const at::TensorOptions& options)
      : columns_(at::empty({at::get_num_threads(), kTile, layout.column_stride}, options)),
        rows_(at::zeros({at::get_num_threads(), kTile, layout.out_row}, options)),
        samples_(at::get_num_threads() * layout.block),
        block_(layout.block) {}
  Scratch<T> operator[](int64_t worker) {
    return {columns_.mutable_data_ptr<T>() + worker * columns_.stride(0),
            rows_.mutable_data_ptr<T>() + worker * rows_.stride(0), &samples_[worker * block_]};
  }

 private:
  at::Tensor columns_, rows_;
  std::vector<Samples<T>> samples_;
  int64_t block_;
};

template <typename T, int Bytes>
MXD_INLINE void locate_point(const Layout& layout, const Tile& tile, const Anchors<T>& anchors,
                             const T* offset, const T* mask, int64_t point, Samples<T>& samples) {
  using V = Simd<T, Bytes>;
  using I = Simd<Index<T>, Bytes>;
  using Vec = typename V::Vec;
  using IVec = typename I::Vec;
  const T dy = static_cast<T>(point / layout.kernel_w * layout.dilation[0]);
  const T dx = static_cast<T>(point % layout.kernel_w * layout.dilation[1]);
  const T* offset_y = offset + point * 2 * layout.positions + tile.first;
  const T* offset_x = offset_y + layout.positions;
  T all_y[kTile] = {}, all_x[kTile] = {};
  for (int64_t p = 0; p < tile.count; p++) {
    all_y[p] = anchors.y[p] + dy + offset_y[p];
    all_x[p] = anchors.x[p] + dx + offset_x[p];
  }
  if (mask)
    std::copy_n(mask + point * layout.positions + tile.first, tile.count, samples.mask);
  else
    std::fill_n(samples.mask, kTile, T(1));

  const T low = -1, height = static_cast<T>(layout.height), width = static_cast<T>(layout.width);
  const Index<T> rows = layout.height, columns = layout.width;
  const IVec outside = IVec{} + static_cast<Index<T>>(layout.pixels);
  for (int64_t p = 0; p < tile.count; p += V::kLanes) {
    Vec y = V::load(all_y + p), x = V::load(all_x + p);
    const Vec m = V::load(samples.mask + p);
    const IVec inside = (y > low) & (y < height) & (x > low) & (x < width);
    y = inside ? y : Vec{};
    x = inside ? x : Vec{};
    IVec top = __builtin_convertvector(y, IVec), left = __builtin_convertvector(x, IVec);
    top += y < __builtin_convertvector(top, Vec);  // rounded down: a comparison gives -1 where true
    left += x < __builtin_convertvector(left, Vec);
    const Vec b = y - __builtin_convertvector(top, Vec), r = x - __builtin_convertvector(left, Vec);
    V::store(samples.below + p, b);
    V::store(samples.right + p, r);
    V::store(samples.weight[0] + p, (1 - b) * (1 - r) * m);
    V::store(samples.weight[1] + p, (1 - b) * r * m);
    V::store(samples.weight[2] + p, b * (1 - r) * m);
    V::store(samples.weight[3] + p, b * r * m);
    const IVec pixel = top * columns + left;
    const IVec has_top = inside & (top >= 0), has_bottom = inside & (top + 1 < rows);
    const IVec has_left = left >= 0, has_right = left + 1 < columns;
    I::store(samples.pixel[0] + p, has_top & has_left ? pixel : outside);
    I::store(samples.pixel[1] + p, has_top & has_right ? pixel + 1 : outside);
    I::store(samples.pixel[2] + p, has_bottom & has_left ? pixel + columns : outside);
    I::store(samples.pixel[3] + p, has_bottom & has_right ? pixel + columns + 1 : outside);
  }
}

// Finds the samples of a deform group at `block` kernel points from `first` on.
template <typename T, int Bytes>
MXD_INLINE void locate(const Layout& layout, const Tile& tile, const Anchors<T>& anchors,
                       const Inputs<T>& inputs, int64_t deform_group, int64_t first, int64_t block,
                       Samples<T>* samples) {
  const int64_t plane =
      tile.image * layout.samples() + deform_group * layout.points * layout.positions;
  for (int64_t k = 0; k < block; k++)
    locate_point<T, Bytes>(layout, tile, anchors, inputs.offset + 2 * plane,
                           inputs.mask ? inputs.mask + plane : nullptr, first + k, samples[k]);
}

// columns[p][k] = the sampled channels of one deform group, for the kernel points k of a block. The
// inner loop is over the kernel points, because those of one position share pixels.
template <typename T, int Bytes>
MXD_INLINE void sample(const Layout& layout, int64_t count, int64_t block,
                       const Samples<T>* samples, const T* input, T* columns) {
  using V = Simd<T, Bytes>;
  for (int64_t p = 0; p < count; p++, columns += layout.column_stride)
    for (int64_t k = 0; k < block; k++) {
      const T* from[4];
      T weight[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        from[i] = input + samples[k].pixel[i][p] * layout.in_row;
        weight[i] = samples[k].weight[i][p];
      }
      T* column = columns + k * layout.in_row;
      for (int64_t c = 0; c < layout.deform_padded; c += V::kLanes) {
        typename V::Vec value{};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) value += weight[i] * V::load(from[i] + c);
        V::store(column + c, value);
      }
    }
}

}  // namespace mxd::modulated_deform_conv
