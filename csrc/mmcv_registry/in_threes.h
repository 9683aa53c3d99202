// Rows of more than three numbers where mmcv's CUDA kernels expect coordinates.
#pragma once

#include <ATen/core/Tensor.h>

namespace mxd::mmcv_registry {

/// The points that mmcv's CUDA kernels of knn and three_nn make of wider rows, as DGCNN and SASSD
/// pass them: they read the memory in threes from its begin. Weights that were trained with them
/// know no other neighbours.
inline at::Tensor in_threes(const at::Tensor& rows, int64_t batches, int64_t count) {
  if (rows.dim() != 3 || rows.size(2) <= 3 || rows.numel() < batches * count * 3) return rows;
  return rows.flatten().narrow(0, 0, batches * count * 3).view({batches, count, 3});
}

}  // namespace mxd::mmcv_registry
