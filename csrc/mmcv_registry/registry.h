// mmcv's C++ op registry. mmcv keeps the functions of each op, one for each device, in an object
// DeviceRegistry<type of the key, key>::instance(), a static variable of its library. It is found
// there by its symbol. So nothing is linked with mmcv, one build serves every mmcv, and an op that
// this mmcv does not have, or has with other arguments, is not found.
#pragma once

#include <ATen/core/Dict.h>
#include <c10/core/DeviceType.h>
#include <c10/util/Exception.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

// The name of mmcv's class, for its symbols; nothing of it is used.
template <typename Function, Function key>
class DeviceRegistry {};

namespace mxd::mmcv_registry {

/// The library of mmcv's ops, which Python has loaded from `path`.
inline void* find_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  TORCH_CHECK(library, "path must be the library of mmcv's ops, mmcv._ext.__file__, was ", path);
  return library;
}

/// The functions of one op, by device type; null where this mmcv has no such op.
template <auto op>
decltype(op)* find_functions(void* library) {
  const std::string instance =
      std::string("ZN") + typeid(DeviceRegistry<decltype(op), op>).name() + "8instanceEvE4inst";
  auto* functions = static_cast<decltype(op)*>(dlsym(library, ("_Z" + instance).c_str()));
  auto* guard = static_cast<abi::__guard*>(dlsym(library, ("_ZGV" + instance).c_str()));
  if (!functions || !guard) return nullptr;
  // mmcv makes the object when it first looks for a function of this op: now, if it has not yet.
  if (abi::__cxa_guard_acquire(guard)) {
    std::fill_n(functions, static_cast<int>(at::COMPILE_TIME_MAX_DEVICE_TYPES), nullptr);
    abi::__cxa_guard_release(guard);
  }
  return functions;
}

/// An op, and what serves it on a device.
using Served = std::pair<std::string, std::string>;

/// Fill in the function of one op for a device, if nothing serves it yet.
///
/// Returns: the op's name, and `server`, or who serves it else.
template <auto op>
Served fill(void* library, at::DeviceType device, const char* name, decltype(op) function,
            const char* server) {
  auto* functions = find_functions<op>(library);
  if (!functions) return {name, "nothing: this mmcv has no such op"};
  auto& served = functions[static_cast<int>(device)];
  if (served && served != function) return {name, "mmcv"};
  served = function;
  return {name, server};
}

inline c10::Dict<std::string, std::string> as_dict(const std::vector<Served>& table) {
  c10::Dict<std::string, std::string> servers;
  for (const auto& [op, server] : table) servers.insert(op, server);
  return servers;
}

}  // namespace mxd::mmcv_registry
