// Matrix product of tiles that lie in the cache of one core, by the compiler's own vectors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "simd.h"

namespace mxd::cpu {

// Calls body(constant) with the compile-time constant that equals value, one of 1 ... Most.
template <int Most, typename Body>
MXD_INLINE void with_constant(int64_t value, const Body& body) {
  if constexpr (Most > 1) {
    if (value < Most) return with_constant<Most - 1>(value, body);
  }
  body(std::integral_constant<int, Most>{});
}

// The left factor of a product: element (row, i) of block b is data[b * block_stride + row *
// row_stride + i * step]. The depth of the product is blocks * depth.
template <typename T>
struct Factor {
  const T* data;
  int64_t row_stride, step, depth, blocks = 1, block_stride = 0;
};

// How a product begins: with what the output holds, with zero, or with a row of biases.
enum class Start { kAdd, kZero, kBias };

// out[r] (+)= left[r] @ right for Rows rows and Vectors vectors of columns; the rows of `right`
// follow each other at right_stride.
template <typename T, int Bytes, int Rows, int Vectors>
MXD_INLINE void multiply_block(const Factor<T>& left, const T* right, int64_t right_stride, T* out,
                               int64_t out_stride, Start start, const T* bias) {
  using V = Simd<T, Bytes>;
  typename V::Vec sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) {
      if (start == Start::kAdd)
        sum[r][v] = V::load(out + r * out_stride + v * V::kLanes);
      else if (start == Start::kBias)
        sum[r][v] = V::load(bias + v * V::kLanes);
      else
        sum[r][v] = typename V::Vec{};
    }
  for (int64_t block = 0; block < left.blocks; block++) {
    const T* a = left.data + block * left.block_stride;
    for (int64_t i = 0; i < left.depth; i++, a += left.step, right += right_stride) {
      typename V::Vec b[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; v++) b[v] = V::load(right + v * V::kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; v++) sum[r][v] += a[r * left.row_stride] * b[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) V::store(out + r * out_stride + v * V::kLanes, sum[r][v]);
}

// The product of `rows` rows by one panel: `width` columns, whole vectors and at most a panel.
template <typename T, typename W>
MXD_INLINE void multiply_panel(Factor<T> left, int64_t rows, const T* right, int64_t right_stride,
                               int64_t width, T* out, int64_t out_stride, Start start,
                               const T* bias = nullptr) {
  with_constant<W::kVectors>(
      width / Simd<T, W::kBytes>::kLanes, [&](auto vectors) __attribute__((always_inline)) {
        for (int64_t row = 0; row < rows; row += W::kRows) {
          with_constant<W::kRows>(std::min<int64_t>(W::kRows, rows - row),
                                  [&](auto count) __attribute__((always_inline)) {
                                    multiply_block<T, W::kBytes, count, vectors>(
                                        left, right, right_stride, out, out_stride, start, bias);
                                  });
          left.data += W::kRows * left.row_stride;
          out += W::kRows * out_stride;
        }
      });
}

}  // namespace mxd::cpu
