// Modulated deformable convolution on the CPU: the gradients of input, offset and mask.
#pragma once

#include "modulated_deform_conv_sampling.h"

namespace mxd::modulated_deform_conv {

// The tiles of a unit that lie in one image. They add to a gradient of the input of their own,
// which has only those rows of the image that their samples touch; collect() adds up all pieces.
struct Piece {
  int64_t image, first_tile, last_tile;
  Range rows{0, 0};
  int64_t begin = 0;  // its first pixel in the buffer of all pieces

  // Pixels of its gradient: those of its rows, and one for samples outside of the image.
  int64_t pixels(const Layout& layout) const { return rows.size() * layout.width + 1; }
};

// Where the gradients of input, offset and mask are written.
template <typename T>
struct DataGrad {
  T* input;   // of the pieces, each [its pixels, in_row]
  T* offset;  // [images, deform_groups, points, 2, positions]
  T* mask;    // [images, deform_groups, points, positions] or null
};

// From the columns' gradient: adds the gradient of the pixels around each sample, writes the dot
// products with these pixels to `dot`, and replaces the columns' gradient by the columns.
template <typename T, int Bytes>
MXD_INLINE void scatter(const Layout& layout, int64_t count, int64_t block, Samples<T>* samples,
                        const T* input, T* columns, const Range& pixels, T* grad_input) {
  using V = Simd<T, Bytes>;
  for (int64_t p = 0; p < count; p++, columns += layout.column_stride)
    for (int64_t k = 0; k < block; k++) {
      const T* from[4];
      T *to[4], weight[4];
      typename V::Vec dot[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        const int64_t pixel = samples[k].pixel[i][p];
        from[i] = input + pixel * layout.in_row;
        // Outside of the image: to the pixel after the piece's rows, which nobody reads.
        to[i] = grad_input + (std::min(pixel, pixels.end) - pixels.begin) * layout.in_row;
        weight[i] = samples[k].weight[i][p];
        dot[i] = typename V::Vec{};
      }
      T* column = columns + k * layout.in_row;
      for (int64_t c = 0; c < layout.deform_padded; c += V::kLanes) {
        const auto grad = V::load(column + c);
        typename V::Vec value{};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
          const auto around = V::load(from[i] + c);
          value += weight[i] * around;
          dot[i] += grad * around;
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) V::store(to[i] + c, V::load(to[i] + c) + weight[i] * grad);
        V::store(column + c, value);
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) samples[k].dot[i][p] = cpu::sum_of_lanes<T, Bytes>(dot[i]);
    }
}

// The gradients of offset and mask from the dot products of `scatter`.
template <typename T>
MXD_INLINE void offset_grad(int64_t count, const Samples<T>& samples, T* grad_y, T* grad_x,
                            T* grad_mask) {
  const auto& dots = samples.dot;
  for (int64_t p = 0; p < count; p++) {
    const T b = samples.below[p], r = samples.right[p], m = samples.mask[p];
    const T top = dots[0][p] + r * (dots[1][p] - dots[0][p]);
    const T bottom = dots[2][p] + r * (dots[3][p] - dots[2][p]);
    const T left = dots[0][p] + b * (dots[2][p] - dots[0][p]);
    const T right = dots[1][p] + b * (dots[3][p] - dots[1][p]);
    grad_y[p] = m * (bottom - top);
    grad_x[p] = m * (right - left);
    if (grad_mask) grad_mask[p] = top + b * (bottom - top);
  }
}

// All three gradients for one deform group and `block` kernel points from `first` on. Replaces the
// columns' gradient by the columns.
template <typename T, int Bytes>
MXD_INLINE void data_grad(const Layout& layout, const Tile& tile, const Piece& piece,
                          int64_t deform_group, int64_t first, int64_t block, Samples<T>* samples,
                          const T* input, T* columns, const DataGrad<T>& out) {
  const int64_t at = deform_group * layout.deform_padded;
  const Range pixels{piece.rows.begin * layout.width, piece.rows.end * layout.width};
  scatter<T, Bytes>(layout, tile.count, block, samples, input + at, columns + at, pixels,
                    out.input + piece.begin * layout.in_row + at);
  for (int64_t k = 0; k < block; k++) {
    const int64_t plane = tile.image * layout.samples() +
                          (deform_group * layout.points + first + k) * layout.positions;
    T* grad_y = out.offset + 2 * plane + tile.first;
    offset_grad(tile.count, samples[k], grad_y, grad_y + layout.positions,
                out.mask ? out.mask + plane + tile.first : nullptr);
  }
}

// The rows of the image that a piece's samples touch.
template <typename T>
Range touched_rows(const Layout& layout, const T* offset, const Piece& piece) {
  const int64_t first = piece.first_tile * kTile;
  const int64_t last = std::min(piece.last_tile * kTile, layout.positions);
  const int64_t first_row = first / layout.out_width, last_row = (last - 1) / layout.out_width;
  T least = layout.height, most = -1;
  for (int64_t d = 0; d < layout.deform_groups; d++)
    for (int64_t point = 0; point < layout.points; point++) {
      const T* y =
          offset + (((piece.image * layout.deform_groups + d) * layout.points + point) * 2) *
                       layout.positions;
      for (int64_t row = first_row; row <= last_row; row++) {
        const int64_t begin = std::max(first, row * layout.out_width);
        const int64_t end = std::min(last, (row + 1) * layout.out_width);
        const T anchor = static_cast<T>(row * layout.stride[0] - layout.padding[0] +
                                        point / layout.kernel_w * layout.dilation[0]);
        T low = layout.height, high = -1;
        for (int64_t p = begin; p < end; p++) {
          const T at = anchor + y[p];
          const bool inside = (at > -1) & (at < layout.height);
          low = inside & (at < low) ? at : low;
          high = inside & (at > high) ? at : high;
        }
        least = std::min(least, low);
        most = std::max(most, high);
      }
    }
  if (most < least) return {0, 0};
  return {std::max<int64_t>(static_cast<int64_t>(std::floor(least)), 0),
          std::min<int64_t>(static_cast<int64_t>(std::floor(most)) + 2, layout.height)};
}

// The pieces of the units of a chunk: unit u has pieces[bounds[u]] to pieces[bounds[u + 1]].
struct Pieces {
  std::vector<Piece> pieces;
  std::vector<int64_t> bounds{0};

  Pieces(const Layout& layout, int64_t images, int64_t units) {
    const int64_t tiles = images * layout.tiles;
    for (int64_t unit = 0; unit < units; unit++) {
      const int64_t end = (unit + 1) * tiles / units;
      for (int64_t tile = unit * tiles / units; tile < end;) {
        const int64_t image = tile / layout.tiles, start = image * layout.tiles;
        const int64_t next = std::min(end, start + layout.tiles);
        pieces.push_back({image, tile - start, next - start});
        tile = next;
      }
      bounds.push_back(pieces.size());
    }
  }

  // Finds the rows of each piece and its place in the buffer. Returns the buffer's size in pixels.
  template <typename T>
  int64_t place(const Layout& layout, const T* offset) {
    for_each_unit(pieces.size(), [&](int64_t p, int64_t) {
      pieces[p].rows = touched_rows(layout, offset, pieces[p]);
    });
    int64_t pixels = 0;
    for (Piece& piece : pieces) {
      piece.begin = pixels;
      pixels += piece.pixels(layout);
    }
    return pixels;
  }
};

// grad_input [images, channels, pixels] = the sum of the pieces' gradients, in their order.
template <typename T>
void collect(const Layout& layout, const std::vector<Piece>& pieces, const T* parts, int64_t images,
             T* grad_input) {
  std::vector<int64_t> first(images + 1, pieces.size());
  for (int64_t p = pieces.size() - 1; p >= 0; p--) first[pieces[p].image] = p;
  for_each_unit(images * layout.height, [&](int64_t unit, int64_t) {
    const int64_t image = unit / layout.height, row = unit % layout.height;
    const int64_t size = layout.width * layout.in_row;
    std::vector<T> sum(size, T(0));
    for (int64_t p = first[image]; p < first[image + 1]; p++) {
      const Piece& piece = pieces[p];
      if (row < piece.rows.begin || row >= piece.rows.end) continue;
      const T* part =
          parts + (piece.begin + (row - piece.rows.begin) * layout.width) * layout.in_row;
      for (int64_t i = 0; i < size; i++) sum[i] += part[i];
    }
    for (int64_t d = 0; d < layout.deform_groups; d++)
      transpose(sum.data() + d * layout.deform_padded, layout.in_row, layout.width,
                layout.deform_channels,
                grad_input +
                    (image * layout.channels + d * layout.deform_channels) * layout.pixels +
                    row * layout.width,
                layout.pixels);
  });
}

}  // namespace mxd::modulated_deform_conv
