// Bumps on heatmaps: what every backend shares. Argument checks and the bump.
//
// Cell (y, x) of a bump with its middle at (row, column) is exp(-(dy^2 + dx^2) / (2 sigma^2)),
// where dy and dx are the distances in cells and sigma = (2 radius + 1) / 6; beyond the radius
// along an axis it is 0. A map has the greatest of its bumps. mmdet3d's draw_heatmap_gaussian
// computes the same in float64 and rounds to float32.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "check.h"

namespace mxd::draw_gaussians {

inline void check(const at::Tensor& channels, const at::Tensor& centers, const at::Tensor& radii,
                  c10::SymInt count, c10::SymInt height, c10::SymInt width) {
  check_int32("channels", channels);
  check_dim("channels", channels, 1, "[bumps]");
  for (const auto& [name, tensor] : {std::pair{"centers", &centers}, std::pair{"radii", &radii}}) {
    check_int32(name, *tensor);
    check_same_device(name, *tensor, "channels", channels);
  }
  TORCH_CHECK_VALUE(centers.dim() == 2 && holds(centers.sym_size(0).sym_eq(channels.sym_size(0))) &&
                        centers.sym_size(1) == 2,
                    "centers must have shape [", channels.sym_size(0),
                    ", 2] (row and column), was ", centers.sym_sizes());
  TORCH_CHECK_VALUE(radii.dim() == 1 && holds(radii.sym_size(0).sym_eq(channels.sym_size(0))),
                    "radii must have shape [", channels.sym_size(0), "], was ", radii.sym_sizes());
  check_at_least("count", count, 0);
  check_at_least("height", height, 1);
  check_at_least("width", width, 1);
}

}  // namespace mxd::draw_gaussians
