// Rows of a table in slots and back, by csrc/kernels/voxelize_gather.cpp: numbers of 2 or 4 bytes
// are moved as bits. A slot that names no row is empty. Nothing here waits for the device.
#pragma once

#include <ATen/core/Tensor.h>

namespace mxd::npu {

// [slots, channels]: the rows of table [rows, channels] that slots int32 name, of any shape; zeros
// in empty ones. Both contiguous.
at::Tensor gather_slots(const at::Tensor& table, const at::Tensor& slots);

// [count, channels]: zeros, but for the rows that slots int32 name, each of them once: those of
// rows [slots, channels]. Both contiguous.
at::Tensor scatter_slots(const at::Tensor& rows, const at::Tensor& slots, int64_t count);

}  // namespace mxd::npu
