// The short way of hard voxelization: csrc/kernels/voxelize_split.cpp, voxelize_group.cpp and
// voxelize_collect.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "../voxelize.h"

namespace mxd::voxelize {

struct FoundVoxels {
  at::Tensor coors, num_points, slots;
};

// None where it does not fit: too many points or slots of a voxel, a grid of 2**30 cells or more,
// or more points in some cells than chance has it. Waits for the device once.
std::optional<FoundVoxels> find_in_buckets(const at::Tensor& points, const Grid& grid,
                                           int64_t max_points, int64_t max_voxels);

}  // namespace mxd::voxelize
