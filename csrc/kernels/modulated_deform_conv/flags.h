// Cross-core flags of the kernels of modulated deformable convolution.
#pragma once

#include <cstdint>

namespace mxd::kernels::modulated_deform_conv {

// A step's columns are in the ring, and taken out of it; and, backward, the columns' gradient is in
// its own ring.
constexpr uint16_t kFilled = 0, kTaken = 1, kGradReady = 2;

}  // namespace mxd::kernels::modulated_deform_conv
