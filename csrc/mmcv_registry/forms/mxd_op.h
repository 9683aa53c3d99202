// Calls of this package's own operators.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>

namespace mxd::mmcv_registry {

/// Call `torch.ops.mxd.NAME`.
template <typename Signature, typename... Args>
auto mxd_op(const char* name, const Args&... args) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow((std::string("mxd::") + name).c_str(), "")
      .typed<Signature>()
      .call(args...);
}

}  // namespace mxd::mmcv_registry
