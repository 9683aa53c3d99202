// Runs a CPU function for tensors of a device: they are copied to the CPU, and what the function
// writes is copied back.
#pragma once

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "mmcv_ops.h"
#include "registry.h"

namespace mxd::mmcv_registry {

/// One warning for each op.
inline void warn_of_copies(const std::string& op) {
  static std::mutex mutex;
  static std::set<std::string> warned;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!warned.insert(op).second) return;
  TORCH_WARN("mmcv has no NPU kernel of ", op,
             ": it runs on the CPU, with a copy there and one back each time");
}

// float16 and bfloat16 become float32: mmcv's CPU kernels have float32 and float64 only. A copy
// waits until the tensor's stream has computed it.
template <typename T>
auto to_cpu(const T& argument) {
  if constexpr (std::is_same_v<T, Tensor>) {
    const auto type = argument.scalar_type();
    return argument.to(at::kCPU, type == at::kHalf || type == at::kBFloat16 ? at::kFloat : type);
  } else {
    return argument;
  }
}

/// `run` is the function to register. `written` are the positions of the arguments that the op
/// writes to.
template <auto op, typename Signature, int... written>
struct OnCpuImpl;

template <auto op, typename Return, typename... Args, int... written>
struct OnCpuImpl<op, Return (*)(Args...), written...> {
  static inline const char* name = nullptr;
  static inline decltype(op)* functions = nullptr;  // mmcv's, by device

  static Return run(Args... args) {
    warn_of_copies(name);
    at::NoGradGuard no_grad;
    const auto given = std::forward_as_tuple(args...);
    std::tuple<std::decay_t<Args>...> copies(to_cpu<std::decay_t<Args>>(args)...);
    const auto call = [&] { return std::apply(functions[static_cast<int>(at::kCPU)], copies); };
    if constexpr (std::is_void_v<Return>) {
      call();
      (std::get<written>(given).copy_(std::get<written>(copies)), ...);
    } else {
      static_assert(std::is_same_v<Return, Tensor> && sizeof...(written) == 0);
      return call().to(std::get<0>(given).device());
    }
  }
};

template <auto op, int... written>
using OnCpu = OnCpuImpl<op, decltype(op), written...>;

}  // namespace mxd::mmcv_registry
