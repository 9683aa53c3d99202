// The numbers that mmcv's Python passes beside the tensors must be the tensors' own.
#pragma once

#include <ATen/core/Tensor.h>

#include "../../ops/check.h"

namespace mxd::mmcv_registry::cpu {

inline void check_shape(const char* name, const at::Tensor& tensor, at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, name, " must have shape ", shape, ", was ",
                    tensor.sizes());
}

inline void check_int32_shape(const char* name, const at::Tensor& tensor, at::IntArrayRef shape) {
  check_int32(name, tensor);
  check_shape(name, tensor, shape);
}

/// How many rows of `rows_name` each batch has, one after the other.
inline void check_counts(const char* name, const at::Tensor& counts, const char* rows_name,
                         int64_t rows) {
  const int* count = counts.const_data_ptr<int>();
  int64_t sum = 0;
  for (int64_t i = 0; i < counts.numel(); i++) {
    TORCH_CHECK_VALUE(count[i] >= 0, name, " must not be negative, was ", count[i], " at ", i);
    sum += count[i];
  }
  TORCH_CHECK_VALUE(sum == rows, name, " must sum up to the ", rows, " rows of ", rows_name,
                    ", was ", sum);
}

}  // namespace mxd::mmcv_registry::cpu
