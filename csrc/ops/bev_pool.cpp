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

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  define(m,
         "bev_pool_plan(Tensor coords, SymInt B, SymInt D, SymInt H, SymInt W) -> (Tensor cells, "
         "Tensor ranks, Tensor intervals)",
         check_plan, plan_meta);
  define(m,
         "bev_pool(Tensor feats, Tensor cells, Tensor ranks, Tensor intervals, SymInt B, SymInt D, "
         "SymInt H, SymInt W) -> Tensor",
         check_pool, pool_meta);
  define(m, "bev_pool_grad(Tensor grad, Tensor cells) -> Tensor", check_grad, grad_meta);
}

}  // namespace mxd::bev_pool
