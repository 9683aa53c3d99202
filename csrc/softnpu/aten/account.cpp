#include "account.h"

#include <ATen/SequenceNumber.h>
#include <c10/util/Exception.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "place.h"

extern "C" void softnpu_set_place(const char* (*place)());

namespace softnpu {
namespace {

bool is_set(const char* variable) {
  const char* text = std::getenv(variable);
  return text && *text && std::string(text) != "0";
}

// The file that takes a line for each call, nullptr for none.
const char* profile() {
  return is_set("MXD_SOFTNPU_PROFILE_ATEN") && is_set("MXD_SOFTNPU_PROFILE")
             ? std::getenv("MXD_SOFTNPU_PROFILE")
             : nullptr;
}

// Whether places are asked for.
bool observed() { return profile() || is_set("MXD_SOFTNPU_STRICT"); }

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
  const char* path = profile();
  if (!path) return;
  std::string line = "{\"operator\": " + quoted(name) + ", \"on\": \"" + on +
                     "\", \"syncs\": " + (sync ? "1" : "0") +
                     ", \"inputs\": " + tensors(arguments) + ", \"outputs\": " + tensors(results);
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
  if (parts++ == 0 && observed()) note_forward_place(current_place(), at::sequence_number::peek());
}

PartsOfOneCall::~PartsOfOneCall() { parts--; }

void account(const c10::OperatorHandle& op, Values arguments, Values results) {
  if (parts) return;
  const Call call{op, find_operator(op.operator_name()), arguments, results};
  const auto dtypes = judged(call);
  const auto on = place_of(call, dtypes);
  if (on == "view") return;
  if (!observed() && on != "refused") return;

  const auto place = current_place();
  if (const uint64_t next = at::sequence_number::peek()) note_forward_place(place, next - 1);
  const auto name = short_name(op.operator_name());
  const auto where = (place.line.empty() ? "an unknown line" : place.line) +
                     (place.phase == "backward" ? " in the backward pass" : "");
  std::string of;
  for (const auto dtype : dtypes) of += (of.empty() ? " of " : ", ") + dtype_name(dtype);
  if ((on == "refused" || (is_set("MXD_SOFTNPU_STRICT") && (on == "AI CPU" || on == "host"))) &&
      !allowed(name, where)) {
    const auto core =
        call.row && !call.row->core_names.empty() ? call.row->core_names : "no kernel";
    TORCH_CHECK(on != "refused", "call ", call.row->aclnn, " failed: CANN has no ", name, of,
                "; the AI core has ", core, ". At ", where);
    TORCH_CHECK(false, "MXD_SOFTNPU_STRICT: ", name, of, " runs on the ", on, "; the AI core has ",
                core, ". At ", where);
  }
  write(name, on, waits(call), place, arguments, results);
}

void account_transfer(const at::Tensor& to, const at::Tensor& from, bool blocking) {
  if (!profile()) return;
  const c10::IValue source = from, target = to;
  write("copy_", to.is_privateuseone() ? "to device" : "to host", blocking, current_place(), source,
        target);
}

}  // namespace softnpu
