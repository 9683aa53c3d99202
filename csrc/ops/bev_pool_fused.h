// BEV pooling of lifted features, fused: what every backend shares, argument checks.
//
// It pools what a depth and a context make, and never writes it. Its points are the
// elements of depth [images, depths, pixels], in this order; point p has the features depth[p] *
// context[row(p)], where context is [images, pixels, channels] and row(p) the row of its pixel.
#pragma once

#include "bev_pool.h"

namespace mxd::bev_pool {

inline void check_lifting(const at::Tensor& depth, const at::Tensor& context,
                          const at::Tensor& cells) {
  check_float("depth", depth);
  check_dim("depth", depth, 3, "[images, depths, pixels]");
  check_same_dtype("context", context, "depth", depth);
  check_dim("context", context, 3, "[images, pixels, channels]");
  TORCH_CHECK_VALUE(context.sym_size(0) == depth.sym_size(0), "context must have the ",
                    depth.sym_size(0), " images of depth, was ", context.sym_sizes());
  TORCH_CHECK_VALUE(context.sym_size(1) == depth.sym_size(2), "context must have the ",
                    depth.sym_size(2), " pixels of depth, was ", context.sym_sizes());
  check_points("depth", depth, "a number", depth.sym_numel(), "cells", cells);
}

inline void check_fused(const at::Tensor& depth, const at::Tensor& context, const at::Tensor& cells,
                        const at::Tensor& ranks, const at::Tensor& intervals, c10::SymInt B,
                        c10::SymInt D, c10::SymInt H, c10::SymInt W) {
  check_grid(B, D, H, W);
  check_lifting(depth, context, cells);
  check_points("depth", depth, "a number", depth.sym_numel(), "ranks", ranks);
  check_intervals(intervals, B, D, H, W);
}

inline void check_fused_grad(const at::Tensor& grad, const at::Tensor& depth,
                             const at::Tensor& context, const at::Tensor& cells) {
  check_lifting(depth, context, cells);
  check_same_dtype("grad", grad, "depth", depth);
  TORCH_CHECK_VALUE(grad.dim() == 2 && grad.sym_size(1) == context.sym_size(2),
                    "grad must have shape [cells, ", context.sym_size(2), "], was ",
                    grad.sym_sizes());
}

}  // namespace mxd::bev_pool
