// Modulated deformable convolution on the CPU: the gradients of weight and bias. Each unit of the
// work has a sum of its own; the sums are added at the end, in their order.
#pragma once

#include "gemm.h"
#include "modulated_deform_conv_layout.h"

namespace mxd::modulated_deform_conv {

constexpr int64_t kPartialBytes = 64 << 20;  // of all units' sums of the weight's gradient

inline int64_t weight_grad_size(const Layout& layout) {
  return layout.points * layout.in_row * layout.group_out_padded;
}

// Units whose sums fit kPartialBytes: at least 2, at most `most`.
inline int64_t most_weight_parts(const Layout& layout, int64_t most) {
  return std::clamp<int64_t>(kPartialBytes / (weight_grad_size(layout) * layout.item), 2, most);
}

template <typename T>
struct WeightGrad {
  T* weight;  // [units, points, in_row, group_out_padded]
  T* bias;    // [units, out_row]

  // `grad` is the tile's, [count, out_row].
  MXD_INLINE void add_bias(const Layout& layout, const Tile& tile, const T* grad,
                           int64_t unit) const {
    T* sum = bias + unit * layout.out_row;
    for (int64_t p = 0; p < tile.count; p++)
      for (int64_t o = 0; o < layout.out_row; o++) sum[o] += grad[p * layout.out_row + o];
  }

  // Adds the transposed columns of `block` kernel points from `first` on, times grad.
  template <typename W>
  MXD_INLINE void add_weight(const Layout& layout, const Tile& tile, int64_t first, int64_t block,
                             const T* columns, const T* grad, int64_t unit) const {
    constexpr int64_t kPanel = W::template kPanel<T>;
    for (int64_t g = 0; g < layout.groups; g++) {
      const Range range = layout.group(g);
      for (int64_t k = 0; k < block; k++) {
        const cpu::Factor<T> left{columns + k * layout.in_row + range.begin, 1,
                                  layout.column_stride, tile.count};
        T* sum = weight + unit * weight_grad_size(layout) +
                 ((first + k) * layout.in_row + range.begin) * layout.group_out_padded;
        for (int64_t column = 0; column < layout.group_out_padded; column += kPanel)
          cpu::multiply_panel<T, W>(left, range.size(), grad + g * layout.group_out_padded + column,
                                    layout.out_row,
                                    std::min(kPanel, layout.group_out_padded - column),
                                    sum + column, layout.group_out_padded, cpu::Start::kAdd);
      }
    }
  }
};

// [points, in_row, group_out_padded] -> the shape of the weight.
inline at::Tensor unpad_weight(const Layout& layout, const at::Tensor& padded,
                               at::IntArrayRef shape) {
  return padded
      .view({layout.points, layout.deform_groups, layout.deform_padded, layout.group_out_padded})
      .narrow(2, 0, layout.deform_channels)
      .narrow(3, 0, layout.group_out)
      .reshape({layout.points, layout.groups, -1, layout.group_out})
      .permute({1, 3, 2, 0})
      .reshape(shape);
}

}  // namespace mxd::modulated_deform_conv
