// BEV pooling of lifted features: schema and Meta kernels.
#include "bev_pool_fused.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace mxd::bev_pool {
namespace {

at::Tensor fused_meta(const at::Tensor& depth, const at::Tensor& context, const at::Tensor& cells,
                      const at::Tensor& ranks, const at::Tensor& intervals, c10::SymInt B,
                      c10::SymInt D, c10::SymInt H, c10::SymInt W) {
  check_fused(depth, context, cells, ranks, intervals, B, D, H, W);
  return at::empty_symint({B, D, H, W, context.sym_size(2)}, context.options());
}

std::tuple<at::Tensor, at::Tensor> fused_grad_meta(const at::Tensor& grad, const at::Tensor& depth,
                                                   const at::Tensor& context,
                                                   const at::Tensor& cells) {
  check_fused_grad(grad, depth, context, cells);
  return {at::empty_symint(depth.sym_sizes(), depth.options()),
          at::empty_symint(context.sym_sizes(), context.options())};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  define(m,
         "bev_pool_fused(Tensor depth, Tensor context, Tensor cells, Tensor ranks, Tensor "
         "intervals, SymInt B, SymInt D, SymInt H, SymInt W) -> Tensor",
         check_fused, fused_meta);
  define(m,
         "bev_pool_fused_grad(Tensor grad, Tensor depth, Tensor context, Tensor cells) -> (Tensor "
         "grad_depth, Tensor grad_context)",
         check_fused_grad, fused_grad_meta);
}

}  // namespace mxd::bev_pool
