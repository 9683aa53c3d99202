#include "account.h"

#include <ATen/SequenceNumber.h>
#include <ATen/native/TypeProperties.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <sstream>
#include <unordered_set>

#include "operators.h"
#include "place.h"

extern "C" void softnpu_set_place(const char* (*place)());

namespace softnpu {
namespace {

bool is_set(const char* variable) {
  const char* text = std::getenv(variable);
  return text && *text && std::string(text) != "0";
}

std::unordered_set<c10::OperatorName>& lacking() {
  static auto* names = new std::unordered_set<c10::OperatorName>;
  return *names;
}

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

  // The tensors of the argument of a name.
  std::vector<at::Tensor> tensors(const std::string& name) const {
    std::vector<at::Tensor> found;
    for (size_t i = 0; i < arguments.size(); i++)
      if (op.schema().arguments()[i].name() == name)
        for_each_tensor(arguments[i], [&](const at::Tensor& tensor) { found.push_back(tensor); });
    return found;
  }

  bool rule(const char* name) const { return row && row->rules.count(name); }
};

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

// The dtypes that decide where the call runs.
std::set<c10::ScalarType> judged(const Call& call) {
  std::set<c10::ScalarType> dtypes;
  if (!call.row) return dtypes;
  for (const auto& name : call.row->judged)
    for (const auto& tensor : call.tensors(name)) dtypes.insert(tensor.scalar_type());
  if (call.row->judged.empty())
    if (const auto dtype = promoted(call)) dtypes.insert(*dtype);
  if (dtypes.empty() && !call.results.empty() && call.results[0].isTensor())
    dtypes.insert(call.results[0].toTensor().scalar_type());
  return dtypes;
}

// aclnnIndex takes indices of one shape, for axes that follow each other.
bool alike(const Call& call) {
  std::vector<at::Tensor> indices = call.tensors("indices");
  for (const auto& index : indices)
    if (index.sizes() != indices[0].sizes()) return false;
  int groups = 0;
  bool before = false;
  for (const auto& value : call.arguments)
    if (value.isList())
      for (const c10::IValue& index : value.toListRef()) {
        groups += !index.isNone() && !before;
        before = !index.isNone();
      }
  return groups < 2;
}

bool is_square(const Call& call) {
  for (size_t i = 0; i < call.arguments.size(); i++)
    if (call.op.schema().arguments()[i].name() == "exponent")
      return call.arguments[i].toScalar().toDouble() == 2;
  return false;
}

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
  if (!call.rule("no-single") || self[0].dim() == 0) return false;
  int64_t axis = -1;
  for (size_t i = 0; i < call.arguments.size(); i++)
    if (call.op.schema().arguments()[i].name() == "dim") axis = call.arguments[i].toInt();
  return self[0].size(axis) == 1;
}

std::string target(const Call& call, const std::set<c10::ScalarType>& dtypes) {
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

// Whether an operator waits for the device: it hands the host a number or a shape that depends on
// values. A boolean index becomes a list of places first.
bool waits(const Call& call) {
  if (call.rule("waits") || (call.rule("many") && many(call))) return true;
  if (call.rule("mask-waits"))
    for (const auto& index : call.tensors("indices"))
      if (index.scalar_type() == at::kBool || index.scalar_type() == at::kByte) return true;
  return false;
}

bool allowed(const std::string& name, const std::string& where) {
  const char* text = std::getenv("MXD_SOFTNPU_ALLOW");
  std::istringstream entries(text ? text : "");
  for (std::string entry; std::getline(entries, entry, ';');) {
    const size_t at = entry.find('@');
    const auto op = entry.substr(0, at);
    if ((op == "*" || name == op || name.rfind(op + ".", 0) == 0) &&
        where.find(entry.substr(at + 1)) != std::string::npos)
      return true;
  }
  return false;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

std::string as_json(const Place& place) {
  return ", \"phase\": " + quoted(place.phase) + ", \"module\": " + quoted(place.module) +
         ", \"line\": " + quoted(place.line);
}

// [["float32", [2, 3]], ...]: the npu tensors of a call.
std::string tensors(Values values) {
  std::ostringstream out;
  const char* separator = "[";
  for (const auto& value : values)
    for_each_tensor(value, [&](const at::Tensor& tensor) {
      if (!tensor.is_privateuseone()) return;
      out << separator << "[\"" << dtype_name(tensor.scalar_type()) << "\", " << tensor.sizes()
          << "]";
      separator = ", ";
    });
  return *separator == '[' ? "[]" : out.str() + "]";
}

void write(const std::string& name, const std::string& on, bool sync, const Place& place,
           Values arguments, Values results) {
  const char* path = std::getenv("MXD_SOFTNPU_PROFILE");
  if (!path || !*path) return;
  std::string line = "{\"operator\": " + quoted(name) + ", \"on\": \"" + on +
                     "\", \"syncs\": " + (sync ? "1" : "0") + ", \"inputs\": " + tensors(arguments) +
                     ", \"outputs\": " + tensors(results);
  if (sync || on != "AI core") line += ", \"native\": " + quoted(native_caller());
  line += as_json(place) + "}\n";
  if (std::FILE* file = std::fopen(path, "a")) {
    std::fwrite(line.data(), 1, line.size(), file);
    std::fclose(file);
  }
}

// Of kernels, for their lines of the profile.
const char* place_of_kernel() {
  thread_local std::string text;
  text = as_json(current_place());
  return text.c_str();
}

thread_local int parts = 0;  // how many PartsOfOneCall there are

[[maybe_unused]] const bool registered = (softnpu_set_place(place_of_kernel), true);

}  // namespace

PartsOfOneCall::PartsOfOneCall() {
  if (parts++ == 0 && (is_set("MXD_SOFTNPU_STRICT") || is_set("MXD_SOFTNPU_PROFILE")))
    note_forward_place(current_place(), at::sequence_number::peek());
}

PartsOfOneCall::~PartsOfOneCall() { parts--; }

void lacks_kernel(const c10::OperatorHandle& op) { lacking().insert(op.operator_name()); }

void account(const c10::OperatorHandle& op, Values arguments, Values results) {
  if (parts) return;
  const Call call{op, find_operator(op.operator_name()), arguments, results};
  const auto dtypes = judged(call);
  const auto on = target(call, dtypes);
  if (on == "view") return;
  const bool strict = is_set("MXD_SOFTNPU_STRICT"), profiled = is_set("MXD_SOFTNPU_PROFILE");
  if (!strict && !profiled && on != "refused") return;

  const auto place = current_place();
  if (const uint64_t next = at::sequence_number::peek()) note_forward_place(place, next - 1);
  const auto name = short_name(op.operator_name());
  const auto where = place.line + (place.phase == "backward" ? " in the backward pass" : "");
  std::string of;
  for (const auto dtype : dtypes) of += (of.empty() ? " of " : ", ") + dtype_name(dtype);
  TORCH_CHECK(on != "refused", "call ", call.row->aclnn, " failed: CANN has no ", name, of,
              "; the AI core has ", call.row->core_names, ". At ", where);
  const bool elsewhere = on == "AI CPU" || on == "host";
  TORCH_CHECK(!strict || !elsewhere || allowed(name, where), "MXD_SOFTNPU_STRICT: ", name, of,
              " runs on the ", on, "; the AI core has ",
              call.row && !call.row->core_names.empty() ? call.row->core_names : "no kernel for it",
              ". At ", where);
  write(name, on, waits(call), place, arguments, results);
}

void account_transfer(const at::Tensor& to, const at::Tensor& from, bool blocking) {
  if (!is_set("MXD_SOFTNPU_PROFILE") && !is_set("MXD_SOFTNPU_STRICT")) return;
  const c10::IValue source = from, target = to;
  write("copy_", to.is_privateuseone() ? "to device" : "to host", blocking, current_place(), source,
        target);
}

}  // namespace softnpu
