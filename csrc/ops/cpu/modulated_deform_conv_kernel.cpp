// Modulated deformable convolution on the CPU. Images are worked on channels last, so that one
// sample's position and weights serve a whole vector of channels. A tile of output positions is
// sampled into columns for some kernel points at a time, few enough to stay in the core's cache,
// and multiplied there. The backward pass goes over the samples once: the gradient of the columns
// becomes the gradients of input, offset and mask, and is replaced by the columns, which the
// gradient of the weight needs. The work is divided by the sizes alone and partial sums are added
// in a fixed order, so results do not depend on the number of threads.
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "../modulated_deform_conv.h"
#include "compute_type.h"
#include "gemm.h"
#include "memory.h"
#include "parallel.h"
#include "simd.h"

namespace mxd::modulated_deform_conv {
namespace {

using cpu::compute_type;
using cpu::Factor;
using cpu::for_each_unit;
using cpu::multiply_panel;
using cpu::Simd;
using cpu::Start;

constexpr int64_t kTile = 96;                // output positions that are worked on together
constexpr int64_t kColumnBytes = 256 << 10;  // of columns, to stay in the second-level cache
constexpr int64_t kSampleSize = 15;          // numbers that are kept of a sample
constexpr int64_t kChunkBytes = 8 << 20;     // of images that are channels last at a time, at least
constexpr int64_t kTilesOfWorker = 8;        // of the forward pass in a chunk, at least
constexpr int64_t kPartialBytes = 64 << 20;  // of partial sums of the weight's gradient
constexpr int64_t kTilesInUnit = 8, kMinUnits = 8, kMaxUnits = 32;  // of the backward pass

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Sizes, and how channels lie. A pixel's channels are padded to whole vectors in each deform group,
// the output channels in each group: what vectors of channels go over needs no tail.
struct Layout {
  int64_t batch, channels, height, width, out_channels, out_height, out_width;
  int64_t kernel_h, kernel_w, points;
  std::array<int64_t, 2> stride, padding, dilation;
  int64_t groups, deform_groups, lanes, item;

  int64_t pixels, positions, tiles;        // of an image
  int64_t deform_channels, deform_padded;  // of a deform group
  int64_t in_row;                          // elements of a pixel
  int64_t group_out, group_out_padded;     // output channels of a group
  int64_t out_row;                         // elements of an output position
  int64_t block, column_stride;            // kernel points in a block of columns

  Layout(const at::Tensor& input, const at::Tensor& weight, at::IntArrayRef out_shape,
         at::IntArrayRef stride_, at::IntArrayRef padding_, at::IntArrayRef dilation_,
         int64_t groups_, int64_t deform_groups_)
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
        item(input.element_size()) {
    lanes = cpu::kMaxVectorBytes / item;
    auto whole = [&](int64_t count) { return (count + lanes - 1) / lanes * lanes; };
    pixels = height * width;
    positions = out_height * out_width;
    tiles = (positions + kTile - 1) / kTile;
    deform_channels = channels / deform_groups;
    deform_padded = whole(deform_channels);
    in_row = deform_groups * deform_padded;
    group_out = out_channels / groups;
    group_out_padded = whole(group_out);
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
  int64_t image_bytes() const { return (pixels + 1) * in_row * item; }
  // Images that are worked on at a time: few, to stay in the last-level cache, but enough work.
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

// Where a tile's positions meet the input before kernel point and offset are added.
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

// A tile's samples at one kernel point: the four pixels around each, in the order of the rows, and
// their weights times the mask. A pixel outside of the image is the one after its last, of zeros.
template <typename T>
struct Samples {
  Index<T> pixel[4][kTile];
  T weight[4][kTile], below[kTile], right[kTile];  // below, right: shares of the lower row and
  T mask[kTile];                                   // of the right column
  T dot[4][kTile];  // backward: products of the column's gradient and the pixels
};

template <typename T>
struct ForwardArgs {
  const T* input;   // [images, pixels + 1, in_row]
  const T* offset;  // [images, deform_groups, points, 2, positions]
  const T* mask;    // [images, deform_groups, points, positions] or null
  const T* weight;  // packed for the forward product
  const T* bias;    // [out_row] or null
  T* out;           // [images, out_channels, positions]
};

// A run of a unit's tiles that lie in one image, and the rows of the image that they touch.
struct Piece {
  int64_t image, first_tile, last_tile;
  Range rows{0, 0};
  int64_t begin = 0;  // of its partial gradient of the input, in pixels
};

template <typename T>
struct BackwardArgs {
  ForwardArgs<T> forward;      // but its weight, bias and out
  const T* grad;               // [images, out_channels, positions]
  const T* weight;             // packed for the product with grad, or null
  T* grad_input;               // of the pieces, each [pixels of its rows + 1, in_row]
  T *grad_offset, *grad_mask;  // like offset and mask; grad_mask may be null
  T* grad_weight;              // [units, points, in_row, group_out_padded] or null
  T* grad_bias;                // [units, out_row]
};

// What a worker keeps in its cache.
template <typename T>
struct Scratch {
  T* columns;  // [kTile, column_stride], of a position the kernel points of a block, each in_row
  T* rows;     // [kTile, out_row], the tile's outputs or their gradients
  Samples<T>* samples;  // of the kernel points of a block
};

// The scratch of all workers.
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

// to[column][row] = from[row][column], by blocks of a cache line.
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
    top += y < __builtin_convertvector(top, Vec);  // true is -1: from truncated to rounded down
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

// The samples of a deform group at `block` kernel points from `first` on.
template <typename T, int Bytes>
MXD_INLINE void locate(const Layout& layout, const Tile& tile, const Anchors<T>& anchors,
                       const ForwardArgs<T>& args, int64_t deform_group, int64_t first,
                       int64_t block, Samples<T>* samples) {
  const int64_t plane =
      (tile.image * layout.deform_groups + deform_group) * layout.points * layout.positions;
  for (int64_t k = 0; k < block; k++)
    locate_point<T, Bytes>(layout, tile, anchors, args.offset + 2 * plane,
                           args.mask ? args.mask + plane : nullptr, first + k, samples[k]);
}

// columns[p][k] = the sampled channels of one deform group, for the kernel points of a block. All
// points of a position come before the next position: they share pixels.
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

// Sum of a vector's elements, by halves.
template <typename T, int Bytes>
MXD_INLINE T sum(const typename Simd<T, Bytes>::Vec& vector) {
  if constexpr (Bytes == sizeof(T)) {
    return vector[0];
  } else {
    using Half = typename Simd<T, Bytes / 2>::Vec;
    Half low, high;
    std::memcpy(&low, &vector, Bytes / 2);
    std::memcpy(&high, reinterpret_cast<const char*>(&vector) + Bytes / 2, Bytes / 2);
    return sum<T, Bytes / 2>(low + high);
  }
}

// Scatters the columns' gradient to the pixels, puts its products with the pixels around each
// sample into `dot`, and replaces it by the columns themselves.
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
        // What is outside of the image goes behind the rows and is not read.
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
      for (int i = 0; i < 4; i++) samples[k].dot[i][p] = sum<T, Bytes>(dot[i]);
    }
}

// The gradients of offset and mask from the products of `scatter`.
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

template <typename T, typename W>
MXD_INLINE void forward_tile(const Layout& layout, const ForwardArgs<T>& args, int64_t index,
                             const Scratch<T>& scratch) {
  constexpr int64_t kPanel = W::kVectors * Simd<T, W::kBytes>::kLanes;
  const Tile tile(layout, index);
  const Anchors<T> anchors(layout, tile);
  T *columns = scratch.columns, *out = scratch.rows;
  Samples<T>* samples = scratch.samples;
  const T* input = args.input + tile.image * (layout.pixels + 1) * layout.in_row;
  for (int64_t first = 0; first < layout.points; first += layout.block) {
    const int64_t block = std::min(layout.block, layout.points - first);
    for (int64_t d = 0; d < layout.deform_groups; d++) {
      const int64_t at = d * layout.deform_padded;
      locate<T, W::kBytes>(layout, tile, anchors, args, d, first, block, samples);
      sample<T, W::kBytes>(layout, tile.count, block, samples, input + at, columns + at);
    }
    const Start start = first ? Start::kAdd : args.bias ? Start::kBias : Start::kZero;
    for (int64_t g = 0; g < layout.groups; g++) {
      const Range range = layout.group(g);
      const Factor<T> left{columns + range.begin, layout.column_stride, 1, range.size(), block,
                           layout.in_row};
      for (int64_t column = 0; column < layout.group_out_padded; column += kPanel) {
        const int64_t panel = std::min(kPanel, layout.group_out_padded - column);
        const T* weight = args.weight + layout.points * (range.begin * layout.group_out_padded +
                                                         range.size() * column);
        const int64_t at = g * layout.group_out_padded + column;
        multiply_panel<T, W>(left, tile.count, weight + first * range.size() * panel, panel, panel,
                             out + at, layout.out_row, start, args.bias ? args.bias + at : nullptr);
      }
    }
  }
  for (int64_t g = 0; g < layout.groups; g++)
    transpose(out + g * layout.group_out_padded, layout.out_row, tile.count, layout.group_out,
              args.out +
                  (tile.image * layout.out_channels + g * layout.group_out) * layout.positions +
                  tile.first,
              layout.positions);
}

template <typename T, typename W>
MXD_INLINE void backward_tile(const Layout& layout, const BackwardArgs<T>& args, int64_t index,
                              const Piece& piece, const Scratch<T>& scratch, T* grad_weight,
                              T* grad_bias) {
  constexpr int64_t kPanel = W::kVectors * Simd<T, W::kBytes>::kLanes;
  const Tile tile(layout, index);
  const Anchors<T> anchors(layout, tile);
  T *columns = scratch.columns, *grad = scratch.rows;
  Samples<T>* samples = scratch.samples;
  const T* input = args.forward.input + tile.image * (layout.pixels + 1) * layout.in_row;
  for (int64_t g = 0; g < layout.groups; g++)
    transpose(args.grad +
                  (tile.image * layout.out_channels + g * layout.group_out) * layout.positions +
                  tile.first,
              layout.positions, layout.group_out, tile.count, grad + g * layout.group_out_padded,
              layout.out_row);
  if (grad_bias)
    for (int64_t p = 0; p < tile.count; p++)
      for (int64_t o = 0; o < layout.out_row; o++) grad_bias[o] += grad[p * layout.out_row + o];

  const Range pixels{piece.rows.begin * layout.width, piece.rows.end * layout.width};
  for (int64_t first = 0; first < layout.points; first += layout.block) {
    const int64_t block = std::min(layout.block, layout.points - first);
    if (args.weight)  // the columns' gradient; the next product overwrites what reaches over an end
      for (int64_t k = 0; k < block; k++)
        for (int64_t g = 0; g < layout.groups; g++) {
          const Range range = layout.group(g);
          const Factor<T> left{grad + g * layout.group_out_padded, layout.out_row, 1,
                               layout.group_out};
          const int64_t size = layout.padded(range.size());
          const T* weight = args.weight + (g * layout.points + first + k) * layout.group_out *
                                              (layout.in_row + layout.lanes);
          for (int64_t column = 0; column < size; column += kPanel) {
            const int64_t panel = std::min(kPanel, size - column);
            multiply_panel<T, W>(left, tile.count, weight + column * layout.group_out, panel, panel,
                                 columns + k * layout.in_row + range.begin + column,
                                 layout.column_stride, Start::kZero);
          }
        }
    for (int64_t d = 0; d < layout.deform_groups; d++) {
      const int64_t at = d * layout.deform_padded;
      locate<T, W::kBytes>(layout, tile, anchors, args.forward, d, first, block, samples);
      if (!args.weight) {
        sample<T, W::kBytes>(layout, tile.count, block, samples, input + at, columns + at);
        continue;
      }
      scatter<T, W::kBytes>(layout, tile.count, block, samples, input + at, columns + at, pixels,
                            args.grad_input + piece.begin * layout.in_row + at);
      for (int64_t k = 0; k < block; k++) {
        const int64_t plane =
            ((tile.image * layout.deform_groups + d) * layout.points + first + k) *
            layout.positions;
        T* grad_y = args.grad_offset + 2 * plane + tile.first;
        offset_grad(tile.count, samples[k], grad_y, grad_y + layout.positions,
                    args.grad_mask ? args.grad_mask + plane + tile.first : nullptr);
      }
    }
    if (grad_weight)
      for (int64_t g = 0; g < layout.groups; g++) {
        const Range range = layout.group(g);
        for (int64_t k = 0; k < block; k++) {
          const Factor<T> left{columns + k * layout.in_row + range.begin, 1, layout.column_stride,
                               tile.count};
          for (int64_t column = 0; column < layout.group_out_padded; column += kPanel)
            multiply_panel<T, W>(
                left, range.size(), grad + g * layout.group_out_padded + column, layout.out_row,
                std::min(kPanel, layout.group_out_padded - column),
                grad_weight +
                    ((first + k) * layout.in_row + range.begin) * layout.group_out_padded + column,
                layout.group_out_padded, Start::kAdd);
        }
      }
  }
}

// One set of kernels for each vector width; the compiler makes the code of each for its own
// processor.
template <typename T>
struct Kernels {
  void (*forward)(const Layout&, const ForwardArgs<T>&, int64_t tile, const Scratch<T>&);
  void (*backward)(const Layout&, const BackwardArgs<T>&, int64_t tile, const Piece&,
                   const Scratch<T>&, T* grad_weight, T* grad_bias);
  int64_t panel;  // columns of a weight panel
};

#define MXD_KERNELS(W, TARGET)                                                                   \
  template <typename T>                                                                          \
  struct KernelsOf##W {                                                                          \
    TARGET static void forward(const Layout& layout, const ForwardArgs<T>& args, int64_t tile,   \
                               const Scratch<T>& scratch) {                                      \
      forward_tile<T, cpu::W>(layout, args, tile, scratch);                                      \
    }                                                                                            \
    TARGET static void backward(const Layout& layout, const BackwardArgs<T>& args, int64_t tile, \
                                const Piece& piece, const Scratch<T>& scratch, T* grad_weight,   \
                                T* grad_bias) {                                                  \
      backward_tile<T, cpu::W>(layout, args, tile, piece, scratch, grad_weight, grad_bias);      \
    }                                                                                            \
    static constexpr Kernels<T> kernels{&forward, &backward,                                     \
                                        cpu::W::kVectors * Simd<T, cpu::W::kBytes>::kLanes};     \
  };

MXD_EVERY_WIDTH(MXD_KERNELS)

// [out_channels, channels / groups, kernel_h, kernel_w] -> [points, in_row, group_out_padded]
at::Tensor pad_weight(const Layout& layout, const at::Tensor& weight) {
  const auto rows =
      weight.reshape({layout.groups, layout.group_out, -1, layout.points})
          .permute({3, 0, 2, 1})
          .reshape({layout.points, layout.deform_groups, layout.deform_channels, layout.group_out});
  return at::constant_pad_nd(rows, {0, layout.group_out_padded - layout.group_out, 0,
                                    layout.deform_padded - layout.deform_channels})
      .reshape({layout.points, layout.in_row, layout.group_out_padded})
      .contiguous();  // nothing to pad leaves it permuted
}

// The way back.
at::Tensor unpad_weight(const Layout& layout, const at::Tensor& padded, at::IntArrayRef shape) {
  return padded
      .view({layout.points, layout.deform_groups, layout.deform_padded, layout.group_out_padded})
      .narrow(2, 0, layout.deform_channels)
      .narrow(3, 0, layout.group_out)
      .reshape({layout.points, layout.groups, -1, layout.group_out})
      .permute({1, 3, 2, 0})
      .reshape(shape);
}

// [groups, panels, points, channels of the group, panel width], each panel in one run.
template <typename T>
at::Tensor pack_weight(const Layout& layout, const at::Tensor& weight) {
  const at::Tensor padded = pad_weight(layout, weight);
  auto packed = at::empty_like(padded);
  const T* from = padded.const_data_ptr<T>();
  T* to = packed.mutable_data_ptr<T>();
  at::parallel_for(0, layout.points, 1, [&](int64_t begin, int64_t end) {
    for (int64_t point = begin; point < end; point++)
      for (int64_t g = 0; g < layout.groups; g++) {
        const Range range = layout.group(g);
        for (int64_t column = 0; column < layout.group_out_padded; column += kernels<T>().panel) {
          const int64_t panel = std::min(kernels<T>().panel, layout.group_out_padded - column);
          T* rows =
              to + layout.points * (range.begin * layout.group_out_padded + range.size() * column) +
              point * range.size() * panel;
          for (int64_t c = range.begin; c < range.end; c++, rows += panel)
            std::copy_n(from + (point * layout.in_row + c) * layout.group_out_padded + column,
                        panel, rows);
        }
      }
  });
  return packed;
}

// [groups, points, in_row + lanes, group_out]: of each group and point the panels of the group's
// channels, each panel [group_out, panel width].
template <typename T>
at::Tensor pack_transposed(const Layout& layout, const at::Tensor& weight) {
  const at::Tensor padded = pad_weight(layout, weight);
  const int64_t unit = (layout.in_row + layout.lanes) * layout.group_out;
  auto packed = at::zeros({layout.groups, layout.points, unit}, weight.options());
  const T* from = padded.const_data_ptr<T>();
  T* to = packed.mutable_data_ptr<T>();
  at::parallel_for(0, layout.groups * layout.points, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; index++) {
      const Range range = layout.group(index / layout.points);
      const int64_t point = index % layout.points, size = layout.padded(range.size());
      for (int64_t column = 0; column < size; column += kernels<T>().panel) {
        const int64_t panel = std::min(kernels<T>().panel, size - column);
        transpose(from + (point * layout.in_row + range.begin + column) * layout.group_out_padded,
                  layout.group_out_padded, std::min(panel, range.size() - column), layout.group_out,
                  to + index * unit + column * layout.group_out, panel);
      }
    }
  });
  return packed;
}

// Images channels last, in the padded layout, each with a pixel of zeros at its end.
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

// Calls body(first image, how many) for one chunk of the batch after the other.
template <typename Body>
void for_each_chunk(const Layout& layout, int64_t chunk, const Body& body) {
  for (int64_t image = 0; image < layout.batch; image += chunk)
    body(image, std::min(chunk, layout.batch - image));
}

template <typename T>
ForwardArgs<T> chunk_of(const Layout& layout, ForwardArgs<T> args, int64_t image) {
  const int64_t samples = image * layout.deform_groups * layout.points * layout.positions;
  args.offset += 2 * samples;
  if (args.mask) args.mask += samples;
  if (args.out) args.out += image * layout.out_channels * layout.positions;
  return args;
}

template <typename T>
at::Tensor forward_in(const Layout& layout, const at::Tensor& input, const at::Tensor& offset,
                      const at::Tensor& mask, const at::Tensor& weight, const at::Tensor& bias) {
  auto out = cpu::empty_output(
      {layout.batch, layout.out_channels, layout.out_height, layout.out_width}, input.options());
  const at::Tensor packed = pack_weight<T>(layout, weight);
  at::Tensor padded_bias;
  if (bias.defined())
    padded_bias = at::constant_pad_nd(bias.view({layout.groups, layout.group_out}),
                                      {0, layout.group_out_padded - layout.group_out});
  const int64_t chunk = layout.images_in_chunk(kTilesOfWorker * at::get_num_threads());
  auto images = cpu::empty_output({chunk, layout.pixels + 1, layout.in_row}, input.options());
  Workers<T> workers(layout, input.options());
  const ForwardArgs<T> all{images.const_data_ptr<T>(),
                           offset.const_data_ptr<T>(),
                           mask.defined() ? mask.const_data_ptr<T>() : nullptr,
                           packed.const_data_ptr<T>(),
                           bias.defined() ? padded_bias.const_data_ptr<T>() : nullptr,
                           out.mutable_data_ptr<T>()};
  for_each_chunk(layout, chunk, [&](int64_t image, int64_t count) {
    to_channels_last(layout, input.const_data_ptr<T>() + image * layout.channels * layout.pixels,
                     count, images.mutable_data_ptr<T>());
    const ForwardArgs<T> args = chunk_of(layout, all, image);
    for_each_unit(count * layout.tiles, [&](int64_t tile, int64_t worker) {
      kernels<T>().forward(layout, args, tile, workers[worker]);
    });
  });
  return out;
}

// The rows of the image that the samples of a piece touch.
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
};

// grad_input [images, channels, pixels] = the sum of the pieces' parts of it, in their order.
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

using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

template <typename T>
Gradients backward_in(const Layout& layout, const at::Tensor& grad, const at::Tensor& input,
                      const at::Tensor& offset, const at::Tensor& mask, const at::Tensor& weight,
                      bool of_data, bool of_parameters) {
  const auto options = input.options();
  auto none = [&] { return at::empty({0}, options); };
  at::Tensor grad_input = none(), grad_offset = none(), grad_mask = none(), packed;
  if (of_data) {
    grad_input = cpu::empty_output(input.sizes(), options);
    grad_offset = cpu::empty_output(offset.sizes(), options);
    if (mask.defined()) grad_mask = cpu::empty_output(mask.sizes(), options);
    packed = pack_transposed<T>(layout, weight);
  }
  // Not by the number of threads, as the forward pass has it: the order of sums follows from it.
  const int64_t chunk = layout.images_in_chunk(kTilesInUnit * kMaxUnits);
  const int64_t weight_size = layout.points * layout.in_row * layout.group_out_padded;
  const int64_t most_units =
      std::clamp<int64_t>(kPartialBytes / (weight_size * layout.item), 2, kMaxUnits);
  const int64_t all_units =
      std::min(std::clamp<int64_t>(chunk * layout.tiles / kTilesInUnit, kMinUnits, kMaxUnits),
               of_parameters ? most_units : kMaxUnits);
  at::Tensor weight_parts, bias_parts;
  if (of_parameters) {
    weight_parts =
        at::zeros({all_units, layout.points, layout.in_row, layout.group_out_padded}, options);
    bias_parts = at::zeros({all_units, layout.out_row}, options);
  }
  auto images = cpu::empty_output({chunk, layout.pixels + 1, layout.in_row}, options);
  Workers<T> workers(layout, options);
  const ForwardArgs<T> all{images.const_data_ptr<T>(),
                           offset.const_data_ptr<T>(),
                           mask.defined() ? mask.const_data_ptr<T>() : nullptr,
                           nullptr,
                           nullptr,
                           nullptr};

  for_each_chunk(layout, chunk, [&](int64_t image, int64_t count) {
    to_channels_last(layout, input.const_data_ptr<T>() + image * layout.channels * layout.pixels,
                     count, images.mutable_data_ptr<T>());
    const int64_t samples = image * layout.deform_groups * layout.points * layout.positions;
    BackwardArgs<T> args{};
    args.forward = chunk_of(layout, all, image);
    args.grad = grad.const_data_ptr<T>() + image * layout.out_channels * layout.positions;
    const int64_t units = std::min(all_units, count * layout.tiles);
    Pieces work(layout, count, units);
    at::Tensor parts;
    if (of_data) {
      for_each_unit(work.pieces.size(), [&](int64_t p, int64_t) {
        work.pieces[p].rows = touched_rows(layout, args.forward.offset, work.pieces[p]);
      });
      int64_t pixels = 0;
      for (Piece& piece : work.pieces) {
        piece.begin = pixels;
        pixels += piece.rows.size() * layout.width + 1;
      }
      parts = cpu::empty_output({pixels, layout.in_row}, options);
      args.grad_input = parts.mutable_data_ptr<T>();
      args.weight = packed.const_data_ptr<T>();
      args.grad_offset = grad_offset.mutable_data_ptr<T>() + 2 * samples;
      args.grad_mask = mask.defined() ? grad_mask.mutable_data_ptr<T>() + samples : nullptr;
    }
    for_each_unit(units, [&](int64_t unit, int64_t worker) {
      for (int64_t p = work.bounds[unit]; p < work.bounds[unit + 1]; p++) {
        const Piece& piece = work.pieces[p];
        if (of_data)
          std::fill_n(args.grad_input + piece.begin * layout.in_row,
                      (piece.rows.size() * layout.width + 1) * layout.in_row, T(0));
        for (int64_t tile = piece.first_tile; tile < piece.last_tile; tile++)
          kernels<T>().backward(
              layout, args, piece.image * layout.tiles + tile, piece, workers[worker],
              of_parameters ? weight_parts.mutable_data_ptr<T>() + unit * weight_size : nullptr,
              of_parameters ? bias_parts.mutable_data_ptr<T>() + unit * layout.out_row : nullptr);
      }
    });
    if (of_data)
      collect(layout, work.pieces, args.grad_input, count,
              grad_input.mutable_data_ptr<T>() + image * layout.channels * layout.pixels);
  });
  if (!of_parameters) return {grad_input, grad_offset, grad_mask, none(), none()};
  return {grad_input, grad_offset, grad_mask,
          unpad_weight(layout, weight_parts.sum(0), weight.sizes()),
          bias_parts.sum(0)
              .view({layout.groups, layout.group_out_padded})
              .narrow(1, 0, layout.group_out)
              .reshape({layout.out_channels})};
}

at::Tensor prepare(const at::Tensor& tensor) {
  return tensor.to(compute_type(tensor.scalar_type())).contiguous();
}

at::Tensor prepare(const c10::optional<at::Tensor>& tensor) {
  return tensor ? prepare(*tensor) : at::Tensor();
}

void check_size(const at::Tensor& input) {
  TORCH_CHECK_VALUE(input.size(2) * input.size(3) < std::numeric_limits<int32_t>::max(),
                    "input must have fewer than 2**31 - 1 pixels, was ", input.sizes());
}

at::Tensor forward_cpu(const at::Tensor& input, const at::Tensor& offset,
                       const c10::optional<at::Tensor>& mask, const at::Tensor& weight,
                       const c10::optional<at::Tensor>& bias, at::IntArrayRef stride,
                       at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                       int64_t deform_groups) {
  const auto shape = check_forward(input, offset, mask, weight, bias, stride, padding, dilation,
                                   groups, deform_groups);
  check_size(input);
  const at::Tensor image = prepare(input);
  const Layout layout(image, weight, C10_AS_INTARRAYREF_SLOW(c10::SymIntArrayRef(shape)), stride,
                      padding, dilation, groups, deform_groups);
  const auto run = image.scalar_type() == at::kDouble ? &forward_in<double> : &forward_in<float>;
  return run(layout, image, prepare(offset), prepare(mask), prepare(weight), prepare(bias))
      .to(input.scalar_type());
}

Gradients backward_cpu(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& offset,
                       const c10::optional<at::Tensor>& mask, const at::Tensor& weight,
                       at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                       int64_t groups, int64_t deform_groups, bool of_data, bool of_parameters) {
  check_backward(grad, input, offset, mask, weight, stride, padding, dilation, groups,
                 deform_groups);
  check_size(input);
  const at::Tensor image = prepare(input);
  const Layout layout(image, weight, grad.sizes(), stride, padding, dilation, groups,
                      deform_groups);
  const auto run = image.scalar_type() == at::kDouble ? &backward_in<double> : &backward_in<float>;
  const auto grads = run(layout, prepare(grad), image, prepare(offset), prepare(mask),
                         prepare(weight), of_data, of_parameters);
  return std::apply([&](const auto&... each) { return Gradients{each.to(input.scalar_type())...}; },
                    grads);
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("modulated_deform_conv2d", TORCH_FN(forward_cpu));
  m.impl("modulated_deform_conv2d_backward", TORCH_FN(backward_cpu));
}

}  // namespace mxd::modulated_deform_conv
