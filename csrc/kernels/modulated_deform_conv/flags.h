// Cross-core flags of the kernels of modulated deformable convolution.
#pragma once

#include <cstdint>

namespace mxd::kernels::modulated_deform_conv {

// A slot of the ring is filled by the vector cores, and taken by the cube core.
constexpr uint16_t kFilled = 0, kTaken = 1;

}  // namespace mxd::kernels::modulated_deform_conv
