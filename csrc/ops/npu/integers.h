// Sizes in whole parts.
#pragma once

#include <cstdint>

namespace mxd::npu {

inline int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }
inline int64_t round_up(int64_t value, int64_t to) { return ceil_div(value, to) * to; }

}  // namespace mxd::npu
