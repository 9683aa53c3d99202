// Launches of the Ascend C kernels of csrc/kernels on the current stream, inside torch_npu's queue.
#pragma once

#include <ATen/core/Tensor.h>
#include <acl/acl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "integers.h"
#include "torch_npu/csrc/core/npu/NPUStream.h"
#include "torch_npu/csrc/framework/OpCommand.h"

namespace mxd::npu {

// The number of blocks that MXD_NPU_BLOCKS asks for, 0 if it is not set. Tests ask for few.
inline int64_t forced_blocks() {
  const char* text = std::getenv("MXD_NPU_BLOCKS");
  return text ? std::max<int64_t>(std::atoll(text), 1) : 0;
}

inline int64_t device_cores(aclDeviceInfo kind, int64_t otherwise) {
  if (const int64_t forced = forced_blocks()) return forced;
  int64_t count = 0;
  int device = 0;
  const bool known = aclrtGetDevice(&device) == ACL_SUCCESS &&
                     aclGetDeviceCapability(device, kind, &count) == ACL_SUCCESS && count > 0;
  return known ? count : otherwise;
}

// With it kernels divide whole numbers in float32, rounding down: never above the true quotient.
inline float a_little_less_than_inverse(int64_t divisor) {
  return static_cast<float>((1 - 0x1p-21) / static_cast<double>(divisor));
}

// Blocks that keep every vector core of the current device busy; 40 on an Ascend910B3.
inline int64_t vector_cores() { return device_cores(ACL_DEVICE_INFO_VECTOR_CORE_NUM, 40); }

// As many, but for small work: each block has at least `least` of its units, and there is one.
inline int64_t blocks_for(int64_t units, int64_t least) {
  return std::clamp<int64_t>(ceil_div(units, least), 1, vector_cores());
}

// The same for kernels with a cube core in each block; 20 on an Ascend910B3.
inline int64_t cube_cores() { return device_cores(ACL_DEVICE_INFO_AI_CORE_NUM, 20); }

// If the kernels were compiled for another SoC, CANN's launch stubs print an error, do nothing and
// report success. So the first launch compares the names. MXD_SOC_VERSION comes from CMake.
inline void check_soc() {
  static const bool checked = [] {
    const char* soc = aclrtGetSocName();
    TORCH_CHECK(soc == nullptr || std::string_view(soc) == MXD_SOC_VERSION,
                "the kernels of mxd_mmplugin were compiled for ", MXD_SOC_VERSION,
                ", and this NPU is a ", soc, ": set SOC_VERSION=", soc, " and install it again");
    return true;
  }();
  static_cast<void>(checked);
}

namespace detail {

template <typename Argument>
auto captured(const Argument& argument) {
  if constexpr (std::is_same_v<Argument, at::Tensor>)
    return argument.defined() ? argument.data_ptr() : static_cast<void*>(nullptr);
  else
    return argument;  // the tiling, by value: it outlives the call in torch_npu's queue
}

template <typename Argument>
auto passed(Argument& argument) {
  if constexpr (std::is_pointer_v<Argument>)
    return argument;
  else
    return &argument;
}

}  // namespace detail

// Queues `kernel` (an aclrtlaunch_... of CANN's ascendc_library) with `blocks` blocks. Arguments
// are contiguous npu tensors (an undefined one becomes a null pointer), and last the tiling struct.
template <typename Kernel, typename... Arguments>
void launch(Kernel kernel, const char* name, int64_t blocks, const Arguments&... arguments) {
  check_soc();
  const aclrtStream stream = c10_npu::getCurrentNPUStream().stream(false);
  auto values = std::make_tuple(detail::captured(arguments)...);
  at_npu::native::OpCommand::RunOpApiV2(name, [=]() mutable -> int {
    return std::apply(
        [&](auto&... value) {
          return kernel(static_cast<uint32_t>(blocks), stream, detail::passed(value)...);
        },
        values);
  });
}

}  // namespace mxd::npu
