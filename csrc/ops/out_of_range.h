// The refusal of a voxel outside of its grid, on every backend.
#pragma once

#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>

#include <cstdint>

namespace mxd {

// Says which of the batch index and the coordinates of a row is not allowed.
[[noreturn]] inline void fail_out_of_range(const int32_t* row, int64_t position, int64_t batch_size,
                                           c10::IntArrayRef shape) {
  TORCH_CHECK_VALUE(row[0] >= 0 && row[0] < batch_size, "indices[", position,
                    "] has the batch index ", row[0], "; allowed are 0 to ", batch_size - 1,
                    " (batch_size ", batch_size, ")");
  TORCH_CHECK_VALUE(false, "indices[", position, "] is ",
                    c10::ArrayRef<int32_t>(row, shape.size() + 1),
                    " (batch, then coordinates), outside of spatial_shape ", shape);
}

}  // namespace mxd
