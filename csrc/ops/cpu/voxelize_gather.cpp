// The points of the voxels on the CPU: gathered into the voxels' slots, and their gradient back.
#include <ATen/OpMathType.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <vector>

#include "../voxelize.h"
#include "compute_type.h"
#include "rows.h"

namespace mxd::voxelize {
namespace {

at::Tensor gather_cpu(const at::Tensor& points, const at::Tensor& slots, bool empty_mean) {
  check_gather(points, slots, empty_mean);
  const at::Tensor rows = points.contiguous(), all_slots = slots.contiguous();
  const int64_t count = rows.size(0), max_points = slots.size(1), channels = points.size(1);
  auto voxels = cpu::empty_output({slots.size(0), max_points, channels}, points.options());
  const int32_t* slot = all_slots.const_data_ptr<int32_t>();
  MXD_DISPATCH_FLOAT(points.scalar_type(), "voxelize_gather", [&] {
    using Float = at::opmath_type<scalar_t>;
    const auto* from = rows.const_data_ptr<scalar_t>();
    auto* out = voxels.mutable_data_ptr<scalar_t>();
    std::atomic<bool> inside{true};
    at::parallel_for(0, slots.size(0), 512, [&](int64_t begin, int64_t end) {
      std::vector<Float> sum(channels);
      for (int64_t voxel = begin; voxel < end; voxel++) {
        const int32_t* named = slot + voxel * max_points;
        scalar_t* to = out + voxel * max_points * channels;
        std::fill_n(to, max_points * channels, scalar_t(0));
        std::fill(sum.begin(), sum.end(), Float(0));
        int64_t filled = 0;
        for (int64_t s = 0; s < max_points; s++) {
          if (named[s] == -1) continue;
          if (named[s] < 0 || named[s] >= count) {
            inside = false;
            continue;
          }
          const scalar_t* row = from + named[s] * channels;
          for (int64_t c = 0; c < channels; c++) to[s * channels + c] = row[c];
          if (empty_mean) cpu::add_row(row, channels, sum.data());
          filled++;
        }
        if (!empty_mean || filled == 0) continue;
        for (int64_t s = 0; s < max_points; s++)
          if (named[s] == -1)
            for (int64_t c = 0; c < channels; c++)
              to[s * channels + c] = static_cast<scalar_t>(sum[c] / filled);
      }
    });
    TORCH_CHECK_VALUE(inside, "slots must be at least -1 and below ", count, ", and some are not");
  });
  return voxels;
}

at::Tensor gather_grad_cpu(const at::Tensor& grad, const at::Tensor& slots, int64_t num_points) {
  check_gather_grad(grad, slots, num_points);
  const at::Tensor rows = grad.contiguous(), all_slots = slots.contiguous();
  cpu::check_rows("slots", all_slots, -1, num_points);
  const int64_t channels = grad.size(2);
  auto grad_points = at::zeros({num_points, channels}, grad.options());
  const int32_t* slot = all_slots.const_data_ptr<int32_t>();
  MXD_DISPATCH_FLOAT(grad.scalar_type(), "voxelize_gather_grad", [&] {
    const auto* from = rows.const_data_ptr<scalar_t>();
    auto* to = grad_points.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, slots.numel(), 8192, [&](int64_t begin, int64_t end) {
      // A point is in one slot at most.
      for (int64_t i = begin; i < end; i++)
        if (slot[i] >= 0)
          for (int64_t c = 0; c < channels; c++)
            to[slot[i] * channels + c] = from[i * channels + c];
    });
  });
  return grad_points;
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("voxelize_gather", TORCH_FN(gather_cpu));
  m.impl("voxelize_gather_grad", TORCH_FN(gather_grad_cpu));
}

}  // namespace mxd::voxelize
