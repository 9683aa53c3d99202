// The dtypes that the operators compute in.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

namespace mxd {

inline void check_float(const char* name, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16, name,
      " must be float32, float64, float16 or bfloat16, was ", type);
}

}  // namespace mxd
