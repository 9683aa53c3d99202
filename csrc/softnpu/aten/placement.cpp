#include "placement.h"

#include <ATen/native/TypeProperties.h>

#include <cmath>
#include <unordered_set>

namespace softnpu {
namespace {

std::unordered_set<c10::OperatorName>& lacking() {
  static auto* names = new std::unordered_set<c10::OperatorName>;
  return *names;
}

// Indices are of an integer dtype whatever the operator computes in; results are written.
const std::set<std::string> kNotPromoted = {"index",  "indices", "mask",   "condition",
                                            "target", "out",     "repeats"};
const std::set<std::string> kPromoted = {"self", "other", "min", "max", "exponent", "value"};

// What all tensors and numbers of a call promote to, if there are tensors.
std::optional<c10::ScalarType> promoted(const Call& call) {
  at::native::ResultTypeState state = {};
  bool any = false;
  for (size_t i = 0; i < call.arguments.size(); i++) {
    const auto& name = call.op.schema().arguments()[i].name();
    const auto& value = call.arguments[i];
    if (value.isScalar() && kPromoted.count(name))
      state = at::native::update_result_type_state(value.toScalar(), state);
    else if (!kNotPromoted.count(name))
      for_each_tensor(value, [&](const at::Tensor& tensor) {
        state = at::native::update_result_type_state(tensor, state);
        any = true;
      });
  }
  return any ? std::optional(at::native::result_type(state)) : std::nullopt;
}

// aclnnIndex takes indices of one shape, for axes that follow each other.
bool alike(const Call& call) {
  const auto indices = call.tensors("indices");
  for (const auto& index : indices)
    if (index.sizes() != indices[0].sizes()) return false;
  int groups = 0;
  bool before = false;
  for (const c10::IValue& index : call.argument("indices")->toListRef()) {
    const bool given = index.isTensor() && index.toTensor().defined();
    groups += given && !before;
    before = given;
  }
  return groups < 2;
}

bool is_square(const Call& call) { return call.argument("exponent")->toScalar().toDouble() == 2; }

// The casts between dtypes of the AI core that it has no kernel for.
bool cast_of_aicpu(const Call& call) {
  static const std::set<std::pair<at::ScalarType, at::ScalarType>> pairs = {
      {at::kByte, at::kBool},      {at::kShort, at::kBool},     {at::kBool, at::kShort},
      {at::kBFloat16, at::kShort}, {at::kShort, at::kBFloat16},
  };
  const auto from = call.tensors("src"), to = call.tensors("self");
  return pairs.count({from[0].scalar_type(), to[0].scalar_type()});
}

// torch_npu compares with each test element where there are few, and sorts where there are many.
bool many(const Call& call) {
  const auto elements = call.tensors("elements"), tests = call.tensors("test_elements");
  return static_cast<double>(tests[0].numel()) >=
         10 * std::pow(static_cast<double>(elements[0].numel()), 0.145);
}

// Whether it is not the dtypes that send the call to the AI CPU.
bool wants_aicpu(const Call& call) {
  if (call.rule("alike") && !alike(call)) return true;
  if (call.rule("many") && many(call)) return true;
  const auto self = call.tensors("self");
  if (self.empty()) return false;
  if (call.rule("no-scalar") && self[0].dim() == 0) return true;
  return call.rule("no-single") && self[0].dim() &&
         self[0].size(call.argument("dim")->toInt()) == 1;
}

}  // namespace

const c10::IValue* Call::argument(const std::string& name) const {
  for (size_t i = 0; i < arguments.size(); i++)
    if (op.schema().arguments()[i].name() == name) return &arguments[i];
  return nullptr;
}

std::vector<at::Tensor> Call::tensors(const std::string& name) const {
  std::vector<at::Tensor> found;
  if (const c10::IValue* value = argument(name))
    for_each_tensor(*value, [&](const at::Tensor& tensor) { found.push_back(tensor); });
  return found;
}

std::set<c10::ScalarType> judged(const Call& call) {
  std::set<c10::ScalarType> dtypes;
  const auto names = call.row ? call.row->judged : std::set<std::string>{};
  for (const auto& name : names)
    for (const auto& tensor : call.tensors(name)) dtypes.insert(tensor.scalar_type());
  if (names.empty())
    if (const auto dtype = promoted(call)) dtypes.insert(*dtype);
  if (dtypes.empty() && !call.results.empty() && call.results[0].isTensor())
    dtypes.insert(call.results[0].toTensor().scalar_type());
  return dtypes;
}

std::string place_of(const Call& call, const std::set<c10::ScalarType>& dtypes) {
  const Operator* row = call.row;
  if (lacking().count(call.op.operator_name()) || (row && row->unit == "host")) return "host";
  if (!row) return "unknown";
  if (row->unit == "view") return "view";
  if (call.rule("casts") && dtypes.size() == 1) return "AI core";
  if (call.rule("square") && is_square(call) && at::isIntegralType(*dtypes.begin(), true))
    return "AI core";
  if (call.rule("casts") && cast_of_aicpu(call)) return "AI CPU";
  std::string on = wants_aicpu(call) ? "AI CPU" : "AI core";
  for (const auto dtype : dtypes) {
    if (row->core.has(dtype)) continue;
    if (!row->aicpu.has(dtype)) return "refused";
    on = "AI CPU";
  }
  return on;
}

// A boolean index becomes a list of places first.
bool waits(const Call& call) {
  if (call.rule("waits") || (call.rule("many") && many(call))) return true;
  if (call.rule("mask-waits"))
    for (const auto& index : call.tensors("indices"))
      if (index.scalar_type() == at::kBool || index.scalar_type() == at::kByte) return true;
  return false;
}

void lacks_kernel(const c10::OperatorHandle& op) { lacking().insert(op.operator_name()); }

}  // namespace softnpu
