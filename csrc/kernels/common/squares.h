// Matrices in L1 as squares of 16 x 16 elements, which the matrix unit turns as it loads: rows, of
// which there are many, are what a product sums over.
#pragma once

#include <type_traits>

#include "kernel_operator.h"
#include "matrix_unit.h"
#include "nz.h"

namespace mxd::kernels {

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

// Adds turned left @ right to the sums from element `at` on, over `sixteens` times 16 rows of two
// matrices of squares, from square row `begin` on. The left one has `high` squares in a row; the
// right one `width`, of which `wide` from `first` on are wanted.
template <typename T>
__aicore__ inline void MultiplyTurned(MatrixUnit<T>& matrix, const LocalTensor<T>& left,
                                      int32_t high, const LocalTensor<T>& right, int32_t width,
                                      int32_t first, int32_t wide, int32_t begin, int32_t sixteens,
                                      bool fresh, int32_t at = 0) {
  constexpr int32_t kMost = kContractionBlocks / kSquare<T>;
  for (const int32_t end = begin + sixteens; begin < end; begin += kMost) {
    const int32_t taken = MinOf(kMost, end - begin), deep = taken * kSquare<T>;
    matrix.WaitForOperands();
    // The shorter way: an instruction for each 16 rows, or for each 16 columns.
    if (high < taken) {
      for (int32_t i = 0; i < high; ++i)
        LoadDataWithTranspose(
            matrix.left()[i * deep * kFractalElements<T>], left,
            LoadData2dTransposeParams(begin * high + i, taken, high, kSquare<T> - 1, 0));
    } else {
      for (int32_t i = 0; i < taken; ++i)
        LoadDataWithTranspose(matrix.left()[i * kSquare<T> * kFractalElements<T>], left,
                              LoadData2dTransposeParams((begin + i) * high, high, 1, deep - 1, 0));
    }
    if (wide < taken) {
      for (int32_t i = 0; i < wide; ++i)
        LoadDataWithTranspose(matrix.right()[i * kFractalElements<T>], right,
                              LoadData2dTransposeParams(begin * width + first + i, taken, width,
                                                        kSquare<T> * wide - 1, wide - 1));
    } else {
      for (int32_t i = 0; i < taken; ++i)
        LoadDataWithTranspose(
            matrix.right()[i * kSquare<T> * wide * kFractalElements<T>], right,
            LoadData2dTransposeParams((begin + i) * width + first, wide, 1, 0, wide - 1));
    }
    matrix.OperandsLoaded();
    matrix.Multiply(high * kFractalRows, wide * kFractalRows, taken * kFractalRows, fresh, at);
    fresh = false;
  }
}

}  // namespace mxd::kernels
