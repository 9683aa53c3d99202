// The dtypes of features that kernels work on.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "common/dtype.h"

namespace mxd::npu {

inline void check_dtype(const char* name, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kHalf || type == at::kBFloat16, name,
                   " must be float32, float16 or bfloat16 on an NPU, was ", type);
}

// What a tiling calls the dtype of the argument `name`.
inline int32_t kernel_dtype(const char* name, const at::Tensor& tensor) {
  check_dtype(name, tensor);
  const auto type = tensor.scalar_type();
  return type == at::kHalf       ? kernels::kHalf
         : type == at::kBFloat16 ? kernels::kBfloat16
                                 : kernels::kFloat;
}

}  // namespace mxd::npu
