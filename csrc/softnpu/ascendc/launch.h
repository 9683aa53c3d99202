// Runs a kernel on the software NPU: what CANN's launch stubs do through rtKernelLaunch.
#pragma once

#include <cstdint>
#include <functional>

namespace softnpu {

// The cores that a block of a kernel runs on: one AIV, one AIC, one AIC and one AIV, one AIC and
// two.
enum class KernelType { kAiv, kAic, kMix11, kMix12 };

inline constexpr uint32_t kSuccess = 0;
inline constexpr uint32_t kKernelError = 507015;  // ACL_ERROR_RT_AICORE_EXCEPTION

// Runs `body` once for each core of each block. Returns kSuccess, or kKernelError where the kernel
// breaks a rule of the machine; the text is then that of softnpu_set_error.
uint32_t launch(const char* kernel, KernelType type, uint32_t block_dim, void* stream,
                const std::function<void()>& body);

}  // namespace softnpu

// What the runtime asks of libascendcl (csrc/softnpu/acl/memory.h), which a test may provide
// instead.
extern "C" {
struct softnpu_allocation {
  uintptr_t start;
  size_t bytes;
  int device;
};
int softnpu_find(const void* address, struct softnpu_allocation* out);
void softnpu_set_error(const char* message);
const char* softnpu_place();
}
