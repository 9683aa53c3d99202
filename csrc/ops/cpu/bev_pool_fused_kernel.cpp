// BEV pooling of lifted features on the CPU. Their rows are made where they are added.
#include <torch/library.h>

#include <vector>

#include "../bev_pool_fused.h"
#include "bev_pool.h"
#include "compute_type.h"
#include "rows.h"

namespace mxd::bev_pool {
namespace {

// Rows that a depth and a context make.
template <typename T>
struct Lifted {
  const T *depth, *context;
  int64_t depths, pixels, channels;

  const T* row(int64_t point) const {
    const auto at = static_cast<uint32_t>(point), width = static_cast<uint32_t>(pixels);
    const uint32_t plane = at / width, image = plane / static_cast<uint32_t>(depths);
    return context + (image * pixels + at - plane * width) * channels;
  }
  void prefetch(int64_t) const {}  // a context is read for each of its depths: it is in the cache
  void add(int64_t point, at::opmath_type<T>* sum) const {
    const at::opmath_type<T> weight = cpu::widen(depth[point]);
    const T* from = row(point);
    for (int64_t c = 0; c < channels; c++) sum[c] += weight * cpu::widen(from[c]);
  }
};

template <typename T>
Lifted<T> lift(const at::Tensor& depth, const at::Tensor& context) {
  return {depth.const_data_ptr<T>(), context.const_data_ptr<T>(), depth.size(1), depth.size(2),
          context.size(2)};
}

at::Tensor fused_cpu(const at::Tensor& depth, const at::Tensor& context, const at::Tensor& cells,
                     const at::Tensor& ranks, const at::Tensor& intervals, int64_t B, int64_t D,
                     int64_t H, int64_t W) {
  check_fused(depth, context, cells, ranks, intervals, B, D, H, W);
  const at::Tensor weights = depth.contiguous(), rows = context.contiguous();
  return MXD_DISPATCH_FLOAT(depth.scalar_type(), "bev_pool_fused", [&] {
    return pool<scalar_t>(lift<scalar_t>(weights, rows), depth.numel(), context.options(), cells,
                          ranks, intervals, {B, D, H, W});
  });
}

// The sum of a[c] * b[c] in kLanes parts, which vectorise.
template <typename T>
T dot(const T* a, const T* b, int64_t count) {
  constexpr int64_t kLanes = 16;
  T parts[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes)
    for (int64_t lane = 0; lane < kLanes; lane++) parts[lane] += a[c + lane] * b[c + lane];
  for (int64_t lane = 0; c < count; lane++, c++) parts[lane] += a[c] * b[c];
  T sum = 0;
  for (const T part : parts) sum += part;
  return sum;
}

// The gradients of a group of neighbouring pixels of an image, depth by depth: pixels side by side
// mostly see the same cell.
template <typename T>
class LiftGrad {
 public:
  static constexpr int64_t kPixels = 16;

  LiftGrad(const Lifted<T>& points, const T* grad, const int32_t* cells, T* grad_depth,
           T* grad_context)
      : points_(points),
        grad_(grad),
        cells_(cells),
        grad_depth_(grad_depth),
        grad_context_(grad_context) {}

  int64_t groups() const { return (points_.pixels + kPixels - 1) / kPixels; }

  void operator()(int64_t image, int64_t group) const {
    using Wide = at::opmath_type<T>;
    const int64_t channels = points_.channels, first = group * kPixels;
    const int64_t count = std::min(kPixels, points_.pixels - first);
    const int64_t row = (image * points_.pixels + first) * channels;
    std::vector<Wide> context(count * channels), sum(count * channels), cell_grad(channels);
    for (int64_t i = 0; i < count * channels; i++)
      context[i] = cpu::widen(points_.context[row + i]);
    int32_t loaded = -1;
    for (int64_t d = 0; d < points_.depths; d++) {
      const int64_t point = (image * points_.depths + d) * points_.pixels + first;
      for (int64_t i = 0; i < count; i++) {
        const int32_t cell = cells_[point + i];
        grad_depth_[point + i] = 0;
        if (cell < 0) continue;
        if (cell != loaded)
          for (int64_t c = 0; c < channels; c++)
            cell_grad[c] = cpu::widen(grad_[cell * channels + c]);
        loaded = cell;
        const Wide weight = cpu::widen(points_.depth[point + i]);
        Wide* to = sum.data() + i * channels;
        for (int64_t c = 0; c < channels; c++) to[c] += weight * cell_grad[c];
        grad_depth_[point + i] = dot(context.data() + i * channels, cell_grad.data(), channels);
      }
    }
    std::copy(sum.begin(), sum.end(), grad_context_ + row);
  }

 private:
  const Lifted<T> points_;
  const T* grad_;
  const int32_t* cells_;
  T *grad_depth_, *grad_context_;
};

std::tuple<at::Tensor, at::Tensor> fused_grad_cpu(const at::Tensor& grad, const at::Tensor& depth,
                                                  const at::Tensor& context,
                                                  const at::Tensor& cells) {
  check_fused_grad(grad, depth, context, cells);
  const at::Tensor weights = depth.contiguous(), rows = context.contiguous(),
                   cell_grads = grad.contiguous(), all_cells = cells.contiguous();
  cpu::check_rows("cells", all_cells, -1, grad.size(0));
  auto grad_depth = cpu::empty_output(depth.sizes(), depth.options()),
       grad_context = cpu::empty_output(context.sizes(), context.options());
  MXD_DISPATCH_FLOAT(depth.scalar_type(), "bev_pool_fused_grad", [&] {
    const LiftGrad<scalar_t> run(
        lift<scalar_t>(weights, rows), cell_grads.const_data_ptr<scalar_t>(),
        all_cells.const_data_ptr<int32_t>(), grad_depth.mutable_data_ptr<scalar_t>(),
        grad_context.mutable_data_ptr<scalar_t>());
    cpu::for_each_unit(depth.size(0) * run.groups(), [&](int64_t unit, int64_t) {
      run(unit / run.groups(), unit % run.groups());
    });
  });
  return {grad_depth, grad_context};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("bev_pool_fused", TORCH_FN(fused_cpu));
  m.impl("bev_pool_fused_grad", TORCH_FN(fused_grad_cpu));
}

}  // namespace mxd::bev_pool
