// The ATen ops of the software NPU: one boxed kernel runs an op's CPU kernel over the npu tensors'
// own memory. Memory, views, and copies between host and device stay torch_npu's.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/_to_copy_native.h>
#include <ATen/ops/clone_native.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <set>

#include "account.h"
#include "alias.h"

namespace softnpu {
namespace {

using torch::jit::Stack;
using Key = c10::DispatchKey;

struct Silence : c10::WarningHandler {
  void process(const c10::Warning&) override {}
} silence;

// Products, which the cube cores add up in float. PyTorch's CPU kernels of half are slow, and round
// in between.
const std::set<std::string> kProducts = {
    "aten::convolution", "aten::convolution_backward",
    "aten::mm",          "aten::bmm",
    "aten::addmm",       "aten::baddbmm",
    "aten::linear",
};

bool is_short(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
}

// What an op was called with: the arguments as given, and the CPU tensors in their place.
struct Call {
  bool is_product = false;
  std::optional<at::ScalarType> short_type;  // of a product's results
  std::vector<at::Tensor> given, lowered;
  std::vector<bool> writes;
  std::optional<at::Device> device;

  at::Tensor lower(const at::Tensor& tensor, bool write) {
    if (!tensor.defined() || !tensor.is_privateuseone()) return tensor;
    if (!device) device = tensor.device();
    given.push_back(tensor);
    lowered.push_back(as_cpu(tensor));
    if (is_product && is_short(tensor)) {
      short_type = tensor.scalar_type();
      lowered.back() = lowered.back().to(at::kFloat);
    }
    writes.push_back(write);
    return lowered.back();
  }

  // The npu tensor for a result: the argument itself, a view of an argument, or a new tensor.
  at::Tensor raise(const at::Tensor& result) const {
    if (!result.defined() || !device->is_privateuseone()) return result;
    for (size_t i = 0; i < given.size(); i++)
      if (result.is_same(lowered[i])) return given[i];
    for (size_t i = 0; i < given.size(); i++)
      if (result.storage().is_alias_of(lowered[i].storage())) return view_as(given[i], result);
    return to_npu(short_type ? result.to(*short_type) : result, *device);
  }

  // Gives back to the arguments that were resized (out=) their new size and values.
  void write_back() const {
    for (size_t i = 0; i < given.size(); i++) {
      if (!writes[i] || (lowered[i].sizes() == given[i].sizes() &&
                         lowered[i].storage().data() == given[i].storage().data()))
        continue;
      given[i].resize_(lowered[i].sizes());
      if (lowered[i].numel()) as_cpu(given[i]).copy_(lowered[i]);
    }
  }
};

void run_on_cpu(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  const auto& schema = op.schema();
  const size_t count = schema.arguments().size(), first = stack->size() - count;
  const std::vector<c10::IValue> arguments(stack->begin() + first, stack->end());
  Call call;
  call.is_product = kProducts.count(schema.name()) && schema.overload_name().empty();
  std::vector<size_t> generators;
  for (size_t i = 0; i < count; i++) {
    auto& value = (*stack)[first + i];
    const auto& argument = schema.arguments()[i];
    const bool write = argument.alias_info() && argument.alias_info()->isWrite();
    if (value.isTensor()) {
      value = call.lower(value.toTensor(), write);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector())
        list.push_back(call.lower(tensor, write));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
        list.push_back(tensor ? std::optional(call.lower(*tensor, write)) : std::nullopt);
      value = list;
    } else if (value.isDevice()) {
      call.device = value.toDevice();
      value = c10::Device(at::kCPU);
    } else if (argument.name() == "generator") {
      generators.push_back(first + i);
    } else if (argument.name() == "pin_memory") {
      value = false;
    }
  }
  if (!call.device) call.device = at::Device(at::kPrivateUse1, 0);
  for (size_t i : generators) {
    auto& value = (*stack)[i];
    const auto given = value.isNone() ? std::nullopt : std::optional(value.toGenerator());
    value = as_cpu(given, *call.device);
  }

  op.redispatchBoxed(c10::DispatchKeySet(Key::CPU), stack);

  call.write_back();
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); i++) {
    auto& value = (*stack)[i];
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(call.raise(tensor));
      value = list;
    } else if (value.isTensor()) {
      value = call.raise(value.toTensor());
    }
  }
  account(op, arguments, Values(*stack).slice(stack->size() - schema.returns().size()));
}

// torch_npu's own kernels, kept for what crosses between host and device.
std::optional<c10::SafeKernelFunction> transfer_kernel, read_kernel;

std::optional<c10::SafeKernelFunction> npu_kernel(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").getComputedKernelForDispatchKey(
      Key::PrivateUse1);
}

void call(const c10::SafeKernelFunction& kernel, Stack* stack) {
  kernel.callBoxed(kernel.opHandle(), c10::DispatchKeySet(Key::PrivateUse1), stack);
}

void transfer(const at::Tensor& to, const at::Tensor& from, bool non_blocking) {
  Stack stack{to, from, non_blocking};
  call(*transfer_kernel, &stack);
  account_transfer(to, from, /*blocking=*/!non_blocking);
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  if (self.numel() == 0 && source.numel() == 0) return self;
  if (self.device() == source.device()) {
    as_cpu(self).copy_(as_cpu(source));
    account(transfer_kernel->opHandle(), {self, source, non_blocking}, {c10::IValue(self)});
  } else if (self.dtype() == source.dtype() && self.sizes() == source.sizes() &&
             self.is_contiguous() && source.is_contiguous()) {
    transfer(self, source, non_blocking);
  } else {  // only dense tensors of one dtype cross over; the rest is done on either side
    auto dense = source.to(self.dtype()).expand_as(self).contiguous();
    auto arrived =
        self.is_contiguous() ? self : at::empty_like(dense, dense.options().device(self.device()));
    transfer(arrived, dense, /*non_blocking=*/false);
    if (!arrived.is_same(self)) self.copy_(arrived);
  }
  return self;
}

at::Scalar local_scalar_dense(const at::Tensor& self) {
  Stack stack{self};
  call(*read_kernel, &stack);
  account_transfer(at::empty({}, self.options().device(at::kCPU)), self, /*blocking=*/true);
  return stack[0].toScalar();
}

// The second result, the sizes of the batches, stays on the host.
std::tuple<at::Tensor, at::Tensor> pack_padded_sequence(const at::Tensor& input,
                                                        const at::Tensor& lengths,
                                                        bool batch_first) {
  auto [data, sizes] = at::_pack_padded_sequence(as_cpu(input), lengths, batch_first);
  return {to_npu(data, input.device()), sizes};
}

// PyTorch's own gradient in place of torch_npu's, whose formulas end in operators of CANN: the
// kernel that serves CPU tensors records its formula and goes on to the device of its arguments.
// What PyTorch makes of several operators there can be one of torch_npu's: matmul, one_hot.
void differentiate_as_on_cpu(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                             Stack* stack) {
  const auto& schema = op.schema();
  const bool composite = op.hasKernelForDispatchKey(Key::CompositeImplicitAutograd);
  const std::vector<c10::IValue> arguments(stack->end() - schema.arguments().size(), stack->end());
  {
    std::optional<PartsOfOneCall> parts;
    if (composite) parts.emplace();
    op.getComputedKernelForDispatchKey(Key::AutogradCPU).callBoxed(op, keys, stack);
  }
  const auto results = Values(*stack).slice(stack->size() - schema.returns().size());
  const bool given = results.size() == 1 && results[0].isTensor() && arguments[0].isTensor() &&
                     results[0].toTensor().is_same(arguments[0].toTensor());
  if (composite && !given) account(op, arguments, results);
}

// What torch_npu does itself: memory and views of it.
const std::set<std::string> kTorchNpu = {
    "empty.memory_format",
    "empty_strided",
    "empty_like",
    "new_empty_strided",
    "_copy_from",
    "_copy_from_and_resize",
    "set_.source_Storage",
    "set_.source_Storage_storage_offset",
    "set_.source_Tensor",
    "set_",
    "resize_",
    "resize_as_",
    "as_strided",
    "as_strided_",
    "view",
    "_reshape_alias",
    "unfold",
    "record_stream",
    "is_pinned",
    "_pin_memory",
};

// All ops of PyTorch itself, by what they are registered as: "add.Tensor".
std::vector<std::pair<std::string, c10::OperatorHandle>> aten_ops() {
  std::vector<std::pair<std::string, c10::OperatorHandle>> ops;
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames())
    if (name.name.rfind("aten::", 0) == 0)
      if (auto op = c10::Dispatcher::singleton().findSchema(name))
        ops.emplace_back(
            name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name),
            *op);
  return ops;
}

// Registered with a function of their own, below or in formulas.cpp.
const std::set<std::string> kWritten = {"copy_", "_local_scalar_dense",   "_to_copy",
                                        "clone", "_pack_padded_sequence", "native_dropout"};

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  transfer_kernel = npu_kernel("aten::copy_");
  read_kernel = npu_kernel("aten::_local_scalar_dense");
  // torch_npu has these ops too: that they are replaced is the purpose, not worth a warning.
  c10::WarningUtils::WarningHandlerGuard quiet(&silence);
  library.impl("copy_", copy_);
  library.impl("_local_scalar_dense", local_scalar_dense);
  library.impl("_to_copy", at::native::_to_copy);
  library.impl("clone", at::native::clone);
  library.impl("_pack_padded_sequence", pack_padded_sequence);
  for (const auto& [name, op] : aten_ops()) {
    if (kTorchNpu.count(name) || kWritten.count(name)) continue;
    const bool on_cpu = op.hasKernelForDispatchKey(Key::CPU);
    bool composite = false;
    for (auto key : {Key::CompositeExplicitAutograd, Key::CompositeExplicitAutogradNonFunctional,
                     Key::CompositeImplicitAutograd})
      composite |= op.hasKernelForDispatchKey(key);
    // An op that torch_npu leaves alone is made of others, or else runs on the host.
    const bool on_npu = op.hasKernelForDispatchKey(Key::PrivateUse1);
    if (on_npu ? !on_cpu && !composite : composite || !on_cpu) continue;
    if (!on_npu) lacks_kernel(op);
    library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
  }
}

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, library) {
  c10::WarningUtils::WarningHandlerGuard quiet(&silence);
  for (const auto& [name, op] : aten_ops())
    if (op.hasKernelForDispatchKey(Key::AutogradPrivateUse1))
      library.impl(name.c_str(),
                   torch::CppFunction::makeFromBoxedFunction<&differentiate_as_on_cpu>());
}

}  // namespace
}  // namespace softnpu
