// BEV pooling of lifted features on the NPU.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../bev_pool_fused.h"
#include "bev_pool.h"
#include "bev_pool_fused_tiling.h"
#include "dtype.h"
#include "integers.h"
#include "launch.h"
#include "segment_reduce.h"
// The launch, which names the tiling.
#include "aclrtlaunch_bev_pool_fused_grad.h"

namespace mxd::bev_pool {
namespace {

constexpr int64_t kUnits = 80;  // of the gradients' work, at least: two for each core
constexpr int64_t kWhole = kernels::kBlockWords;  // fp32 numbers

at::Tensor fused_npu(const at::Tensor& depth, const at::Tensor& context, const at::Tensor& cells,
                     const at::Tensor& ranks, const at::Tensor& intervals, int64_t B, int64_t D,
                     int64_t H, int64_t W) {
  check_fused(depth, context, cells, ranks, intervals, B, D, H, W);
  check_by_cell(intervals, {B, D, H, W});
  return npu::segment_sum_lifted(depth, context, ranks.contiguous(), intervals.contiguous())
      .view({B, D, H, W, context.size(2)});
}

// Where the rows of two units are not apart by whole blocks of 32 bytes, both add to zeros.
at::Tensor make_output(const at::Tensor& like, bool add) {
  return add ? at::zeros(like.sizes(), like.options()) : at::empty(like.sizes(), like.options());
}

// Of at most kFusedChannels channels; depth is fp32.
std::tuple<at::Tensor, at::Tensor> fused_grad_slice(const at::Tensor& grad, const at::Tensor& depth,
                                                    const at::Tensor& context,
                                                    const at::Tensor& cells) {
  constexpr int64_t kBlock = kernels::kBlockBytes;
  const int64_t channels = context.size(2), size = context.element_size();
  const int64_t pixels = depth.size(2), all_pixels = depth.size(0) * pixels;
  BevPoolFusedGradTiling t{};
  t.images = depth.size(0);
  t.depths = depth.size(1);
  t.pixels = pixels;
  t.channels = channels;
  t.dtype = npu::kernel_dtype("context", context);
  const int64_t in_ub = npu::round_up(channels * size, kBlock) / size;
  const int64_t wanted = npu::round_up(npu::ceil_div(all_pixels, kUnits), kWhole);
  int64_t group =
      std::min<int64_t>({kernels::kFusedElements / in_ub, kernels::kFusedGroup, wanted});
  if (group > kWhole) group = group / kWhole * kWhole;
  t.group = group;
  t.groups = npu::ceil_div(pixels, group);
  t.add_depth = group % kWhole != 0 || pixels % kWhole != 0;
  const int64_t row = channels * size;
  t.add_context = group * row % kBlock != 0 || pixels * row % kBlock != 0;
  const at::Tensor grad_depth = make_output(depth, t.add_depth),
                   grad_context = make_output(context, t.add_context);
  npu::launch(aclrtlaunch_bev_pool_fused_grad, "bev_pool_fused_grad",
              std::min<int64_t>(t.images * t.groups, npu::vector_cores()), grad, depth, context,
              cells, grad_depth, grad_context, t);
  return {grad_depth, grad_context};
}

std::tuple<at::Tensor, at::Tensor> fused_grad_npu(const at::Tensor& grad, const at::Tensor& depth,
                                                  const at::Tensor& context,
                                                  const at::Tensor& cells) {
  check_fused_grad(grad, depth, context, cells);
  npu::check_dtype("context", context);
  if (depth.numel() == 0 || context.numel() == 0)
    return {at::zeros(depth.sizes(), depth.options()),
            at::zeros(context.sizes(), context.options())};
  const at::Tensor weights = depth.to(at::kFloat).contiguous(), all_cells = cells.contiguous();
  at::Tensor grad_depth;
  std::vector<at::Tensor> grad_context;
  for (int64_t at = 0; at < context.size(2); at += kernels::kFusedChannels) {
    const int64_t width = std::min<int64_t>(kernels::kFusedChannels, context.size(2) - at);
    auto [of_depth, of_context] =
        fused_grad_slice(grad.narrow(1, at, width).contiguous(), weights,
                         context.narrow(2, at, width).contiguous(), all_cells);
    grad_depth = grad_depth.defined() ? grad_depth + of_depth : of_depth;
    grad_context.push_back(of_context);
  }
  return {grad_depth.to(depth.scalar_type()),
          grad_context.size() == 1 ? grad_context[0] : at::cat(grad_context, 2)};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("bev_pool_fused", TORCH_FN(fused_npu));
  m.impl("bev_pool_fused_grad", TORCH_FN(fused_grad_npu));
}

}  // namespace mxd::bev_pool
