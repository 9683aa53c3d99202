// Accounts for the calls of ATen operators as CANN would serve them: what it refuses is an error;
// what runs on the AI CPU or the host is one with MXD_SOFTNPU_STRICT=1, except where
// MXD_SOFTNPU_ALLOW ("sort@ops/sparse_conv.py;unique_dim@") has the operator and a part of its
// place. With MXD_SOFTNPU_PROFILE each call is a line of JSON in that file.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

namespace softnpu {

using Values = c10::ArrayRef<c10::IValue>;

// An operator that torch_npu has no kernel for: its fallback runs it on the host.
void lacks_kernel(const c10::OperatorHandle& op);

// A call that has just run, with its arguments and results.
void account(const c10::OperatorHandle& op, Values arguments, Values results);

// While it lives, the operators that this thread calls are parts of one call on the NPU, which
// `account` takes when it is gone.
class PartsOfOneCall {
 public:
  PartsOfOneCall();
  ~PartsOfOneCall();
  PartsOfOneCall(const PartsOfOneCall&) = delete;
};

// A copy between host and device, either way. A blocking one waits for the device.
void account_transfer(const at::Tensor& to, const at::Tensor& from, bool blocking);

}  // namespace softnpu
