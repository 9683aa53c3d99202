// Rows of a matrix [rows, channels]: what the operators that reduce points by cell share.
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "memory.h"
#include "parallel.h"

namespace mxd::cpu {

// A number in the type that it is summed in.
template <typename T>
at::opmath_type<T> widen(T value) {
  return value;
}

// c10's conversion does not vectorise.
template <>
inline float widen(c10::Half value) {
  const uint32_t magnitude = static_cast<uint32_t>(value.x & 0x7fff) << 13;
  const float scaled = c10::bit_cast<float>(magnitude) * 0x1p112f;  // the exponents' biases differ
  const uint32_t not_finite = magnitude >= 0x0f800000 ? 0x7f800000 : 0;
  const uint32_t sign = static_cast<uint32_t>(value.x & 0x8000) << 16;
  return c10::bit_cast<float>(c10::bit_cast<uint32_t>(scaled) | not_finite | sign);
}

// Fetches a row into the cache: rows are read in an order that the processor cannot predict.
template <typename T>
void prefetch_row(const T* row, int64_t channels) {
  constexpr int64_t kLine = 64;
  const char* data = reinterpret_cast<const char*>(row);
  for (int64_t at = 0; at < channels * static_cast<int64_t>(sizeof(T)); at += kLine)
    __builtin_prefetch(data + at);
}

// How many rows ahead prefetch_row is called.
constexpr int64_t kRowsAhead = 8;

template <typename T>
void add_row(const T* row, int64_t channels, at::opmath_type<T>* sum) {
  for (int64_t c = 0; c < channels; c++) sum[c] += widen(row[c]);
}

// Refuses an int32 tensor that has a number outside of [least, limit).
inline void check_rows(const char* name, const at::Tensor& rows, int64_t least, int64_t limit) {
  const int32_t* row = rows.const_data_ptr<int32_t>();
  const auto low = static_cast<int32_t>(least);
  const auto high =
      static_cast<int32_t>(std::min<int64_t>(limit, std::numeric_limits<int32_t>::max()));
  std::atomic<bool> inside{true};
  at::parallel_for(0, rows.numel(), 65536, [&](int64_t begin, int64_t end) {
    bool good = true;
    for (int64_t i = begin; i < end; i++) good &= (row[i] >= low) & (row[i] < high);
    if (!good) inside = false;
  });
  TORCH_CHECK_VALUE(inside, name, " must be at least ", least, " and below ", limit,
                    ", and some are not");
}

// out[i] = matrix[rows[i]], zero where rows[i] is -1; both contiguous, `rows` int32.
inline at::Tensor gather_rows(const at::Tensor& matrix, const at::Tensor& rows) {
  const int64_t bytes = matrix.size(1) * matrix.element_size();
  auto out = empty_output({rows.numel(), matrix.size(1)}, matrix.options());
  if (out.numel() == 0) return out;  // its pointers are null, which memcpy refuses
  const auto* from = static_cast<const char*>(matrix.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  const int32_t* row = rows.const_data_ptr<int32_t>();
  at::parallel_for(0, rows.numel(), 1024, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      if (row[i] < 0)
        std::memset(to + i * bytes, 0, bytes);
      else
        std::memcpy(to + i * bytes, from + row[i] * bytes, bytes);
    }
  });
  return out;
}

}  // namespace mxd::cpu
