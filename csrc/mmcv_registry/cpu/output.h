// A tensor that a kernel writes: contiguous and in the type of the kernel, which may be another one
// than that of the caller's tensor.
#pragma once

#include <ATen/core/Tensor.h>

namespace mxd::mmcv_registry::cpu {

template <typename T>
class Output {
 public:
  explicit Output(const at::Tensor& given)
      : given_(given), written_(given.to(c10::CppTypeToScalarType<T>::value).contiguous()) {}
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output() {
    if (!written_.is_same(given_)) given_.copy_(written_);
  }

  T* data() { return written_.template mutable_data_ptr<T>(); }

 private:
  at::Tensor given_, written_;
};

/// Contiguous numbers of type T that a kernel reads.
template <typename T>
at::Tensor input(const at::Tensor& given) {
  return given.to(c10::CppTypeToScalarType<T>::value).contiguous();
}

}  // namespace mxd::mmcv_registry::cpu
