// Bumps on heatmaps: schema and Meta kernel.
//   draw_gaussians  float32 [count, height, width] from int32 channels [bumps], centers [bumps, 2]
//                   (row and column) and radii [bumps]
#include "draw_gaussians.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace mxd::draw_gaussians {
namespace {

at::Tensor meta(const at::Tensor& channels, const at::Tensor& centers, const at::Tensor& radii,
                c10::SymInt count, c10::SymInt height, c10::SymInt width) {
  check(channels, centers, radii, count, height, width);
  return at::empty_symint({count, height, width}, channels.options().dtype(at::kFloat));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  define(m,
         "draw_gaussians(Tensor channels, Tensor centers, Tensor radii, SymInt count, SymInt "
         "height, SymInt width) -> Tensor",
         check, meta);
}

}  // namespace mxd::draw_gaussians
