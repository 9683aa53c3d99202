// Modulated deformable convolution on the CPU: the weight's layout for the matrix products, and the
// products of a tile with it.
#pragma once

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "gemm.h"
#include "modulated_deform_conv_layout.h"

namespace mxd::modulated_deform_conv {

using cpu::Factor;
using cpu::multiply_panel;
using cpu::Start;

// [out_channels, channels / groups, kernel_h, kernel_w] -> [points, in_row, group_out_padded]
inline at::Tensor pad_weight(const Layout& layout, const at::Tensor& weight) {
  const auto rows =
      weight.reshape({layout.groups, layout.group_out, -1, layout.points})
          .permute({3, 0, 2, 1})
          .reshape({layout.points, layout.deform_groups, layout.deform_channels, layout.group_out});
  return at::constant_pad_nd(rows, {0, layout.group_out_padded - layout.group_out, 0,
                                    layout.deform_padded - layout.deform_channels})
      .reshape({layout.points, layout.in_row, layout.group_out_padded})
      .contiguous();  // where there is nothing to pad, the permuted view comes back
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
        for (int64_t column = 0; column < layout.group_out_padded;
             column += cpu::panel_columns<T>()) {
          const int64_t panel = std::min(cpu::panel_columns<T>(), layout.group_out_padded - column);
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
      for (int64_t column = 0; column < size; column += cpu::panel_columns<T>()) {
        const int64_t panel = std::min(cpu::panel_columns<T>(), size - column);
        transpose(from + (point * layout.in_row + range.begin + column) * layout.group_out_padded,
                  layout.group_out_padded, std::min(panel, range.size() - column), layout.group_out,
                  to + index * unit + column * layout.group_out, panel);
      }
    }
  });
  return packed;
}

// out [count, out_row] (+)= columns of `block` kernel points from `first` on, times the weight of
// pack_weight.
template <typename T, typename W>
MXD_INLINE void multiply_columns(const Layout& layout, const Tile& tile, int64_t first,
                                 int64_t block, const T* columns, const T* weight, Start start,
                                 const T* bias, T* out) {
  constexpr int64_t kPanel = W::template kPanel<T>;
  for (int64_t g = 0; g < layout.groups; g++) {
    const Range range = layout.group(g);
    const Factor<T> left{columns + range.begin, layout.column_stride, 1, range.size(), block,
                         layout.in_row};
    for (int64_t column = 0; column < layout.group_out_padded; column += kPanel) {
      const int64_t panel = std::min(kPanel, layout.group_out_padded - column);
      const T* right =
          weight + layout.points * (range.begin * layout.group_out_padded + range.size() * column);
      const int64_t at = g * layout.group_out_padded + column;
      multiply_panel<T, W>(left, tile.count, right + first * range.size() * panel, panel, panel,
                           out + at, layout.out_row, start, bias ? bias + at : nullptr);
    }
  }
}

// columns = grad [count, out_row] times the weight of pack_transposed: the columns' gradient. What
// a product writes beyond its group's channels is overwritten by the next product.
template <typename T, typename W>
MXD_INLINE void multiply_transposed(const Layout& layout, const Tile& tile, int64_t first,
                                    int64_t block, const T* grad, const T* weight, T* columns) {
  constexpr int64_t kPanel = W::template kPanel<T>;
  for (int64_t k = 0; k < block; k++)
    for (int64_t g = 0; g < layout.groups; g++) {
      const Range range = layout.group(g);
      const Factor<T> left{grad + g * layout.group_out_padded, layout.out_row, 1, layout.group_out};
      const int64_t size = layout.padded(range.size());
      const T* right = weight + (g * layout.points + first + k) * layout.group_out *
                                    (layout.in_row + layout.lanes);
      for (int64_t column = 0; column < size; column += kPanel) {
        const int64_t panel = std::min(kPanel, size - column);
        multiply_panel<T, W>(left, tile.count, right + column * layout.group_out, panel, panel,
                             columns + k * layout.in_row + range.begin + column,
                             layout.column_stride, Start::kZero);
      }
    }
}

}  // namespace mxd::modulated_deform_conv
