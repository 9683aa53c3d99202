// Bumps on heatmaps on the NPU: tiling and launch of csrc/kernels/draw_gaussians.cpp.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>

#include "../draw_gaussians.h"
#include "draw_gaussians_tiling.h"
#include "launch.h"
// The launch, which names the tiling.
#include "aclrtlaunch_draw_gaussians.h"

namespace mxd::draw_gaussians {
namespace {

using kernels::kBlockWords;
using kernels::RoundUp;

at::Tensor draw_gaussians_npu(const at::Tensor& channels, const at::Tensor& centers,
                              const at::Tensor& radii, int64_t count, int64_t height,
                              int64_t width) {
  check(channels, centers, radii, count, height, width);
  const int64_t rows = count * height;
  TORCH_CHECK_VALUE(rows <= std::numeric_limits<int32_t>::max(),
                    "count times height must be at most 2**31 - 1 on an NPU, was ", rows);
  const at::Tensor maps = at::empty({count, height, width}, channels.options().dtype(at::kFloat));
  if (maps.numel() == 0) return maps;
  DrawGaussiansTiling tiling{};
  tiling.bumps = channels.size(0);
  tiling.rows = rows;
  tiling.height = height;
  tiling.width = width;
  tiling.tile_columns = std::min<int64_t>(width, kernels::kGaussianColumns);
  // Tiles are of 8 rows: no two blocks write into the same 32 bytes.
  const int32_t most = kernels::kGaussianTile / RoundUp(tiling.tile_columns, kBlockWords) /
                       kBlockWords * kBlockWords;
  const int64_t share = (rows + npu::vector_cores() - 1) / npu::vector_cores();
  tiling.tile_rows = std::min<int64_t>(RoundUp(share, kBlockWords), most);
  const int64_t tiles = (rows + tiling.tile_rows - 1) / tiling.tile_rows;
  npu::launch(aclrtlaunch_draw_gaussians, "draw_gaussians", std::min(tiles, npu::vector_cores()),
              channels.contiguous(), centers.contiguous(), radii.contiguous(), maps, tiling);
  return maps;
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) { m.impl("draw_gaussians", TORCH_FN(draw_gaussians_npu)); }

}  // namespace mxd::draw_gaussians
