// Matrix product of tiles that lie in the cache of one core, by the compiler's own vectors.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bfloat16.h"
#include "simd.h"

namespace mxd::cpu {

// What a product is added to: what the output holds, zero, or a row of biases.
enum class Start { kAdd, kZero, kBias };

// The one kernel of all products: Rows rows by Vectors vectors of columns, summed in registers.
//   out(r)              the place of output row r
//   for_each_step(add)  calls add(left, right) for each step of the depth: left(r) is row r's
//                       factor, right the row of the right matrix
template <typename T, int Bytes, int Rows, int Vectors, typename Out, typename Steps>
MXD_INLINE void multiply_tile(const Out& out, Start start, const sum_t<T>* bias,
                              const Steps& for_each_step) {
  using V = Simd<T, Bytes>;
  using S = Simd<sum_t<T>, Bytes>;
  typename S::Vec sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) {
      if (start == Start::kAdd)
        sum[r][v] = S::load(out(r) + v * S::kLanes);
      else if (start == Start::kBias)
        sum[r][v] = S::load(bias + v * S::kLanes);
      else
        sum[r][v] = typename S::Vec{};
    }
  for_each_step([&](const auto& left, const T* right) MXD_INLINED {
    typename V::Vec row[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) row[v] = V::load(right + v * V::kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; v++) add_products(sum[r][v], left(r), row[v]);
  });
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) S::store(out(r) + v * S::kLanes, sum[r][v]);
}

// Calls body(rows, vectors), as compile-time constants, for a tile of at most W::kRows rows and
// `width` columns: whole vectors and at most a panel.
template <typename T, typename W, typename Body>
MXD_INLINE void with_tile(int64_t rows, int64_t width, const Body& body) {
  with_constant<W::kRows>(rows, [&](auto r) MXD_INLINED {
    with_constant<W::kVectors>(width / Simd<T, W::kBytes>::kLanes,
                               [&](auto v) MXD_INLINED { body(r, v); });
  });
}

// The left factor of a product: element (row, i) of block b is data[b * block_stride + row *
// row_stride + i * step]. The depth of the product is blocks * depth.
template <typename T>
struct Factor {
  const T* data;
  int64_t row_stride, step, depth, blocks = 1, block_stride = 0;
};

// The product of `rows` rows by one panel: `width` columns, whole vectors and at most a panel. The
// rows of `right` follow each other at right_stride.
template <typename T, typename W>
MXD_INLINE void multiply_panel(Factor<T> left, int64_t rows, const T* right, int64_t right_stride,
                               int64_t width, sum_t<T>* out, int64_t out_stride, Start start,
                               const sum_t<T>* bias = nullptr) {
  for (int64_t row = 0; row < rows; row += W::kRows) {
    with_tile<T, W>(
        std::min<int64_t>(W::kRows, rows - row), width, [&](auto count, auto vectors) MXD_INLINED {
          multiply_tile<T, W::kBytes, count, vectors>(
              [&](int r) MXD_INLINED { return out + r * out_stride; }, start, bias,
              [&](const auto& add) MXD_INLINED {
                const T* next = right;
                for (int64_t block = 0; block < left.blocks; block++) {
                  const T* a = left.data + block * left.block_stride;
                  for (int64_t i = 0; i < left.depth; i++, a += left.step, next += right_stride)
                    add([&](int r) MXD_INLINED { return a[r * left.row_stride]; }, next);
                }
              });
        });
    left.data += W::kRows * left.row_stride;
    out += W::kRows * out_stride;
  }
}

}  // namespace mxd::cpu
