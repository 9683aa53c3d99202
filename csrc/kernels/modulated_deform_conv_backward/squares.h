// Matrices in L1 as squares of 16 x 16 elements, which the matrix unit turns as it loads.
#pragma once

#include <type_traits>

#include "../common/nz.h"
#include "kernel_operator.h"

namespace mxd::kernels::modulated_deform_conv_backward {

using namespace AscendC;

// Fractals that make a square.
template <typename T>
constexpr int32_t kSquare = kFractalRows / kFractalColumns<T>;

// What a copy takes T for: CANN 8.1's headers do not compile it for bf16.
template <typename T>
using Bits = std::conditional_t<sizeof(T) == sizeof(half), half, float>;

// Rows of a matrix in L1, as squares: [rows / 16, columns / 16, kSquare fractals]. Missing rows of
// the last 16 keep what was there.
template <typename T>
__aicore__ inline void LoadSquares(const LocalTensor<T>& squares, const GlobalTensor<Bits<T>>& from,
                                   int32_t rows, int32_t columns, int32_t stride) {
  const LocalTensor<Bits<T>> to = squares.template ReinterpretCast<Bits<T>>();
  constexpr int32_t kFarthest = 0xffff;  // elements, of the instruction's strides
  const int32_t whole = rows / kFractalRows, sixteen = kFractalRows * columns;
  if (whole > 0 && stride * kFractalRows <= kFarthest) {
    DataCopy(to, from,
             Nd2NzParams(whole, kFractalRows, columns, kFractalRows * stride, stride, kFractalRows,
                         1, sixteen));
  } else {
    for (int32_t i = 0; i < whole; ++i)
      DataCopy(to[i * sixteen], from[static_cast<int64_t>(i) * kFractalRows * stride],
               Nd2NzParams(1, kFractalRows, columns, 0, stride, kFractalRows, 1, 0));
  }
  if (rows > whole * kFractalRows)
    DataCopy(to[whole * sixteen], from[static_cast<int64_t>(whole) * kFractalRows * stride],
             Nd2NzParams(1, rows - whole * kFractalRows, columns, 0, stride, kFractalRows, 1, 0));
}

}  // namespace mxd::kernels::modulated_deform_conv_backward
