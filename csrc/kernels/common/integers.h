// Arithmetic of single integers, for the host and for kernels.
#pragma once

#include "machine.h"

namespace mxd::kernels {

__aicore__ constexpr int32_t MinOf(int32_t a, int32_t b) { return a < b ? a : b; }
__aicore__ constexpr int32_t MaxOf(int32_t a, int32_t b) { return a > b ? a : b; }
__aicore__ constexpr int32_t CeilDiv(int32_t value, int32_t by) { return (value + by - 1) / by; }
__aicore__ constexpr int32_t RoundUp(int32_t value, int32_t to) { return CeilDiv(value, to) * to; }

}  // namespace mxd::kernels
