// BEV pooling: schema and Meta kernels. The layout of a plan is told in bev_pool.h.
#include "bev_pool.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace mxd::bev_pool {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor> plan_meta(const at::Tensor& coords, c10::SymInt B,
                                                         c10::SymInt D, c10::SymInt H,
                                                         c10::SymInt W) {
  check_plan(coords, B, D, H, W);
  const auto ints = coords.options().dtype(at::kInt);
  return {at::empty_symint({coords.sym_size(0)}, ints),
          at::empty_symint({coords.sym_size(0)}, ints),
          at::empty_symint({tile_count(B, D, H, W) + 1}, coords.options().dtype(at::kLong))};
}

at::Tensor pool_meta(const at::Tensor& feats, const at::Tensor& cells, const at::Tensor& ranks,
                     const at::Tensor& intervals, c10::SymInt B, c10::SymInt D, c10::SymInt H,
                     c10::SymInt W) {
  check_pool(feats, cells, ranks, intervals, B, D, H, W);
  return at::empty_symint({B, D, H, W, feats.sym_size(1)}, feats.options());
}

at::Tensor grad_meta(const at::Tensor& grad, const at::Tensor& cells) {
  check_grad(grad, cells);
  return at::empty_symint({cells.sym_size(0), grad.sym_size(1)}, grad.options());
}

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
         "bev_pool_plan(Tensor coords, SymInt B, SymInt D, SymInt H, SymInt W) -> (Tensor cells, "
         "Tensor ranks, Tensor intervals)",
         check_plan);
  define(m,
         "bev_pool(Tensor feats, Tensor cells, Tensor ranks, Tensor intervals, SymInt B, SymInt D, "
         "SymInt H, SymInt W) -> Tensor",
         check_pool);
  define(m, "bev_pool_grad(Tensor grad, Tensor cells) -> Tensor", check_grad);
  define(m,
         "bev_pool_fused(Tensor depth, Tensor context, Tensor cells, Tensor ranks, Tensor "
         "intervals, SymInt B, SymInt D, SymInt H, SymInt W) -> Tensor",
         check_fused);
  define(m,
         "bev_pool_fused_grad(Tensor grad, Tensor depth, Tensor context, Tensor cells) -> (Tensor "
         "grad_depth, Tensor grad_context)",
         check_fused_grad);
}

TORCH_LIBRARY_IMPL(mxd, Meta, m) {
  m.impl("bev_pool_plan", TORCH_FN(plan_meta));
  m.impl("bev_pool", TORCH_FN(pool_meta));
  m.impl("bev_pool_grad", TORCH_FN(grad_meta));
  m.impl("bev_pool_fused", TORCH_FN(fused_meta));
  m.impl("bev_pool_fused_grad", TORCH_FN(fused_grad_meta));
}

}  // namespace mxd::bev_pool
