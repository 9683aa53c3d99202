// Accounts for the calls of ATen operators as CANN would serve them: what it refuses is an error;
// what runs on the AI CPU or the host is one with MXD_SOFTNPU_STRICT=1. MXD_SOFTNPU_ALLOW names
// exceptions, each an operator and a part of its place: "sort@ops/sparse_conv.py;*@models/". With
// MXD_SOFTNPU_PROFILE_ATEN=1 each call is a line of JSON in the file MXD_SOFTNPU_PROFILE.
#pragma once
#include "placement.h"

namespace softnpu {

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
