// The types that the CPU kernels compute in: float32 for float16 and bfloat16, else the tensor's
// own. A kernel either converts its tensors first (with_compute_type), or reads the numbers as they
// are and sums in the wider type (MXD_DISPATCH_FLOAT and at::opmath_type).
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>

// Runs a lambda, in which scalar_t is the C++ type of a floating dtype.
#define MXD_DISPATCH_FLOAT(type, name, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, type, name, __VA_ARGS__)

namespace mxd::cpu {

inline at::ScalarType compute_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

// Returns body(number, convert). `number` has the type that tensors like this one are computed in;
// convert(tensor) is the tensor in this type, contiguous.
template <typename Body>
auto with_compute_type(const at::Tensor& like, const Body& body) {
  const at::ScalarType type = compute_type(like.scalar_type());
  const auto convert = [type](const at::Tensor& tensor) { return tensor.to(type).contiguous(); };
  return type == at::kDouble ? body(double{}, convert) : body(float{}, convert);
}

}  // namespace mxd::cpu
