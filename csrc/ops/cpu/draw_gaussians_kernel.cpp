// Bumps on heatmaps on the CPU: a thread clears a map and draws what is on it.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>

#include "../draw_gaussians.h"
#include "parallel.h"

namespace mxd::draw_gaussians {
namespace {

struct Bump {
  int64_t row, column, radius;
};

void draw(const Bump& bump, float* map, int64_t height, int64_t width) {
  const double sigma = static_cast<double>(2 * bump.radius + 1) / 6;
  const int64_t top = std::max<int64_t>(bump.row - bump.radius, 0),
                bottom = std::min(bump.row + bump.radius + 1, height),
                left = std::max<int64_t>(bump.column - bump.radius, 0),
                right = std::min(bump.column + bump.radius + 1, width);
  for (int64_t y = top; y < bottom; y++)
    for (int64_t x = left; x < right; x++) {
      const auto dy = static_cast<double>(y - bump.row), dx = static_cast<double>(x - bump.column);
      const auto value = static_cast<float>(std::exp(-(dx * dx + dy * dy) / (2 * sigma * sigma)));
      map[y * width + x] = std::max(map[y * width + x], value);
    }
}

at::Tensor draw_gaussians_cpu(const at::Tensor& channels, const at::Tensor& centers,
                              const at::Tensor& radii, int64_t count, int64_t height,
                              int64_t width) {
  check(channels, centers, radii, count, height, width);
  const at::Tensor channel = channels.contiguous(), center = centers.contiguous(),
                   radius = radii.contiguous();
  const int64_t bumps = channel.size(0), cells = height * width;
  const auto* channel_of = channel.const_data_ptr<int32_t>();
  const auto* center_of = center.const_data_ptr<int32_t>();
  const auto* radius_of = radius.const_data_ptr<int32_t>();
  auto maps = at::empty({count, height, width}, channels.options().dtype(at::kFloat));
  float* out = maps.mutable_data_ptr<float>();
  cpu::for_each_unit(count, [&](int64_t map, int64_t) {
    float* cell = out + map * cells;
    std::fill_n(cell, cells, 0.0f);
    for (int64_t i = 0; i < bumps; i++)
      if (channel_of[i] == map)
        draw({center_of[i * 2], center_of[i * 2 + 1], radius_of[i]}, cell, height, width);
  });
  return maps;
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) { m.impl("draw_gaussians", TORCH_FN(draw_gaussians_cpu)); }

}  // namespace mxd::draw_gaussians
