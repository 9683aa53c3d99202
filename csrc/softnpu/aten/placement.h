// Where CANN runs a call of an ATen operator, by the table of operators.h.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <set>
#include <string>
#include <vector>

#include "operators.h"

namespace softnpu {

using Values = c10::ArrayRef<c10::IValue>;

// Calls a function with each tensor of a value, lists included.
template <class Function>
void for_each_tensor(const c10::IValue& value, const Function& function) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) function(value.toTensor());
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) for_each_tensor(element, function);
  }
}

// One call: the operator, its row of the table or nullptr, and its values.
struct Call {
  const c10::OperatorHandle& op;
  const Operator* row;
  Values arguments, results;

  // The argument of a name, nullptr where there is none.
  const c10::IValue* argument(const std::string& name) const;
  std::vector<at::Tensor> tensors(const std::string& name) const;
  bool rule(const char* name) const { return row && row->rules.count(name); }
};

// The dtypes that decide where the call runs.
std::set<c10::ScalarType> judged(const Call& call);

// "AI core", "AI CPU", "host", "refused", "view" (it launches nothing) or "unknown".
std::string place_of(const Call& call, const std::set<c10::ScalarType>& dtypes);

// Whether the host waits for the device: the call hands it a number, or a shape that depends on
// values.
bool waits(const Call& call);

// That torch_npu has no kernel for an operator: its fallback runs it on the host.
void lacks_kernel(const c10::OperatorHandle& op);

}  // namespace softnpu
