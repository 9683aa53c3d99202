// Argument checks that several operators have. Each names the argument, what is allowed and what it
// was. Sizes may be symbolic (torch.compile), so that the same checks serve every backend and Meta.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <c10/util/Exception.h>
#include <torch/library.h>
#include <torch/version.h>

#include <limits>
#include <string>
#include <utility>

namespace mxd {

// Defines an operator NAME with its Meta kernel, if it has one, and an operator _check_NAME with
// the same arguments that only checks them. The plain PyTorch form of NAME calls it; C++ kernels
// call `check` themselves.
template <typename Check, typename... Meta>
void define(torch::Library& library, const std::string& schema, Check&& check, Meta*... meta) {
  library.def(schema.c_str());
  const std::string name = schema.substr(0, schema.find('('));
  (library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::Meta, meta)), ...);
  const std::string arguments = schema.substr(0, schema.rfind(" -> "));
  library.def(("_check_" + arguments + " -> ()").c_str(), std::forward<Check>(check));
}

// Whether a condition on sizes holds. While torch.compile traces, some sizes are not known yet
// (they depend on data); the condition is then checked when the compiled program runs. Such
// programs can be traced since PyTorch 2.4.
inline bool holds(const c10::SymBool& condition) {
#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 4
  return condition.guard_bool(__FILE__, __LINE__);
#else
  return condition.expect_true(__FILE__, __LINE__);
#endif
}

// The dtypes that the operators compute in.
inline void check_float(const char* name, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16, name,
      " must be float32, float64, float16 or bfloat16, was ", type);
}

inline void check_int32(const char* name, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(type == at::kInt, name, " must be int32, was ", type,
                   at::isIntegralType(type, false) ? ": convert with .int()" : "");
}

inline void check_int64(const char* name, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(type == at::kLong, name, " must be int64, was ", type,
                   at::isIntegralType(type, false) ? ": convert with .long()" : "");
}

inline void check_int32_or_int64(const char* name, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(type == at::kInt || type == at::kLong, name, " must be int32 or int64, was ",
                   type);
}

inline void check_same_dtype(const char* name, const at::Tensor& tensor, const char* model_name,
                             const at::Tensor& model) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == model.scalar_type(), name, " must have the dtype of ",
                   model_name, ", ", model.scalar_type(), ", was ", tensor.scalar_type());
}

inline void check_same_device(const char* name, const at::Tensor& tensor, const char* model_name,
                              const at::Tensor& model) {
  TORCH_CHECK_VALUE(tensor.device() == model.device(), name, " must be on the device of ",
                    model_name, ", ", model.device(), ", was on ", tensor.device());
}

// `shape` names the dimensions, as in "[voxels, channels]".
inline void check_dim(const char* name, const at::Tensor& tensor, int64_t dim, const char* shape) {
  TORCH_CHECK_VALUE(tensor.dim() == dim, name, " must have shape ", shape, ", was ",
                    tensor.sym_sizes());
}

inline void check_at_least(const char* name, const c10::SymInt& value, int64_t least) {
  TORCH_CHECK_VALUE(holds(value.sym_ge(least)), name, " must be at least ", least, ", was ", value);
}

// Rows are numbered in int32.
inline void check_row_number(const char* name, const c10::SymInt& rows) {
  check_at_least(name, rows, 0);
  TORCH_CHECK_VALUE(holds(rows.sym_lt(std::numeric_limits<int32_t>::max())), name,
                    " must be below 2**31 - 1, was ", rows);
}

inline void check_row_count(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_VALUE(holds(tensor.sym_size(0).sym_lt(std::numeric_limits<int32_t>::max())), name,
                    " must have fewer than 2**31 - 1 rows, was ", tensor.sym_size(0));
}

inline void check_grid_shape(c10::SymIntArrayRef spatial_shape, const c10::SymInt& batch_size) {
  bool good = !spatial_shape.empty();
  for (const c10::SymInt& size : spatial_shape) good = good && holds(size.sym_ge(1));
  TORCH_CHECK_VALUE(good, "spatial_shape must have at least 1 in every dimension, was ",
                    spatial_shape);
  check_at_least("batch_size", batch_size, 0);
}

}  // namespace mxd
