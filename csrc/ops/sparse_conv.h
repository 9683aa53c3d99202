// Sparse convolution: what every backend shares. Argument checks, geometry, and the rulebook's
// layout.
//
// A rulebook lists, for every kernel offset k, the pairs (input row, output row) it connects:
//   pairs  int32 [P, 2]          (input row, output row), grouped by tile, then by k
//   bounds int64 [tiles, K + 1]  tile t's pairs for offset k are pairs[bounds[t, k] : bounds[t, k +
//   1]]
// A tile is a set of at most kTileRows output rows, so that one thread works on rows that stay in
// its cache. It is rows [t * kTileRows, (t + 1) * kTileRows), except where one offset pairs every
// row of the tile (the centre of a submanifold convolution): then the tile's rows are the ones that
// this offset names.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <c10/util/Optional.h>  // std::optional since PyTorch 2.3, its own before

#include <algorithm>
#include <array>
#include <limits>

#include "check.h"

namespace mxd::sparse_conv {

constexpr int64_t kTileRows = 512;
constexpr int kMaxDims = 4;
// Coordinates are int32: cells along a dimension, samples of a batch.
constexpr int64_t kMaxSize = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxPoints = 1 << 15;  // of a kernel

// A row of `pairs`.
struct Pair {
  int32_t in, out;
};

inline int64_t tile_count(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

// The geometry of a convolution: output o and kernel offset k meet input o * stride - padding + k *
// dilation; transposed, input i and offset k meet output i * stride - padding + k * dilation.
struct Geometry {
  int ndim = 0;
  int64_t batch_size = 0, kernel_volume = 1;
  bool subm = false, transposed = false;
  std::array<int64_t, kMaxDims> in_shape{}, out_shape{}, kernel{}, stride{}, padding{}, dilation{};
};

inline Geometry make_geometry(int64_t batch_size, at::IntArrayRef spatial_shape,
                              at::IntArrayRef kernel_size, at::IntArrayRef stride,
                              at::IntArrayRef padding, at::IntArrayRef dilation,
                              at::IntArrayRef output_padding, bool subm, bool transposed) {
  Geometry g;
  g.ndim = static_cast<int>(spatial_shape.size());
  g.subm = subm;
  g.transposed = transposed;
  g.batch_size = batch_size;
  TORCH_CHECK_VALUE(g.ndim >= 1 && g.ndim <= kMaxDims, "spatial_shape must have 1 to ", kMaxDims,
                    " numbers, was ", spatial_shape);
  TORCH_CHECK_VALUE(batch_size >= 0, "batch_size must be at least 0, was ", batch_size);
  TORCH_CHECK_VALUE(batch_size <= kMaxSize, "batch_size must be at most 2**31 - 1, was ",
                    batch_size);
  TORCH_CHECK_VALUE(!subm || !transposed, "transposed must be false where subm is true");
  auto check = [&](const char* name, at::IntArrayRef values, int64_t least) {
    TORCH_CHECK_VALUE(static_cast<int>(values.size()) == g.ndim, name, " must have ", g.ndim,
                      " numbers, one for each of spatial_shape, was ", values);
    for (int64_t value : values)
      TORCH_CHECK_VALUE(value >= least && value <= kMaxSize, name, " must be at least ", least,
                        " and at most 2**31 - 1 in every dimension, was ", values);
  };
  check("spatial_shape", spatial_shape, 1);
  check("kernel_size", kernel_size, 1);
  check("stride", stride, 1);
  check("padding", padding, 0);
  check("dilation", dilation, 1);
  check("output_padding", output_padding, 0);
  for (int64_t size : kernel_size) {
    // With a kernel this small no sum of products below leaves int64.
    TORCH_CHECK_VALUE(size <= kMaxPoints && g.kernel_volume * size <= kMaxPoints,
                      "kernel_size must hold at most ", kMaxPoints, " points, was ", kernel_size);
    g.kernel_volume *= size;
  }
  for (int d = 0; d < g.ndim; d++) {
    g.in_shape[d] = spatial_shape[d];
    g.kernel[d] = kernel_size[d];
    g.dilation[d] = dilation[d];
    // A submanifold convolution keeps its voxels and centres the kernel: stride and padding are not
    // used.
    g.stride[d] = subm ? 1 : stride[d];
    g.padding[d] = subm ? kernel_size[d] / 2 * dilation[d] : padding[d];
    const int64_t reach = dilation[d] * (kernel_size[d] - 1);
    const int64_t slack =
        transposed ? (g.in_shape[d] - 1) * stride[d] - 2 * padding[d] + reach + output_padding[d]
                   : g.in_shape[d] + 2 * padding[d] - reach - 1;
    TORCH_CHECK_VALUE(subm || slack >= 0, "kernel_size ", kernel_size, " with dilation ", dilation,
                      " and padding ", padding, " must leave an output of spatial_shape ",
                      spatial_shape, ", and does not in dimension ", d);
    g.out_shape[d] = subm ? g.in_shape[d] : transposed ? slack + 1 : slack / stride[d] + 1;
    TORCH_CHECK_VALUE(g.out_shape[d] <= kMaxSize, "the output of spatial_shape ", spatial_shape,
                      " must have at most 2**31 - 1 cells in every dimension, as coordinates are "
                      "int32, and has ",
                      g.out_shape[d], " in dimension ", d);
  }
  return g;
}

// A voxel's key is its row-major number: batch index * batch_step + the sum of coordinate[d] *
// step[d].
struct KeySteps {
  std::array<uint64_t, kMaxDims> step{};
  uint64_t batch_step = 1, limit = 0;

  KeySteps(const std::array<int64_t, kMaxDims>& extent, int ndim, int64_t batch_size) {
    bool overflow = false;
    for (int d = ndim - 1; d >= 0; d--) {
      step[d] = batch_step;
      overflow |= __builtin_mul_overflow(batch_step, static_cast<uint64_t>(extent[d]), &batch_step);
    }
    overflow |= __builtin_mul_overflow(batch_step, static_cast<uint64_t>(batch_size), &limit);
    TORCH_CHECK_VALUE(
        !overflow && limit < uint64_t{1} << 63,
        "spatial_shape times batch_size must stay below 2**63 cells, padding included; "
        "in this dimension order the extents were ",
        at::IntArrayRef(extent.data(), ndim), " and batch_size ", batch_size);
  }
};

// Steps of keys for a grid that is large enough for all cells of `shape`, padding included, and for
// every kernel window that begins at one of `windows` places.
inline KeySteps window_steps(const std::array<int64_t, kMaxDims>& shape,
                             const std::array<int64_t, kMaxDims>& windows, const Geometry& g) {
  std::array<int64_t, kMaxDims> extent{};
  for (int d = 0; d < g.ndim; d++)
    extent[d] = std::max(shape[d] + g.padding[d],
                         (windows[d] - 1) * g.stride[d] + (g.kernel[d] - 1) * g.dilation[d] + 1);
  return {extent, g.ndim, g.batch_size};
}

inline void check_indices(const at::Tensor& indices, int64_t ndim) {
  TORCH_CHECK_VALUE(indices.dim() == 2 && indices.sym_size(1) == ndim + 1,
                    "indices must have shape [voxels, ", ndim + 1, "] (batch and ", ndim,
                    " coordinates), was ", indices.sym_sizes());
  check_int32("indices", indices);
  check_row_count("indices", indices);
}

inline void check_output_count(int64_t count) {
  TORCH_CHECK_VALUE(count < std::numeric_limits<int32_t>::max(),
                    "the convolution must have fewer than 2**31 - 1 output voxels, had ", count);
}

inline void check_rulebook(const at::Tensor& pairs, const at::Tensor& bounds) {
  TORCH_CHECK_VALUE(pairs.dim() == 2 && pairs.sym_size(1) == 2,
                    "pairs must have shape [P, 2], was ", pairs.sym_sizes());
  TORCH_CHECK_VALUE(bounds.dim() == 2 && bounds.sym_size(1) >= 2,
                    "bounds must have shape [tiles, kernel points + 1], was ", bounds.sym_sizes());
  check_int32("pairs", pairs);
  check_int64("bounds", bounds);
}

inline void check_transpose(const at::Tensor& pairs, const at::Tensor& bounds, c10::SymInt num_in) {
  check_rulebook(pairs, bounds);
  check_row_number("num_in", num_in);
}

// For kernels, which need kTileRows rows in a tile. (The plain PyTorch form puts all in one tile.)
inline void check_tiles(const at::Tensor& bounds, int64_t num_out) {
  TORCH_CHECK_VALUE(bounds.size(0) == tile_count(num_out), "bounds must have ", tile_count(num_out),
                    " tiles for ", num_out, " output rows, had ", bounds.size(0));
}

inline void check_features(const at::Tensor& features) {
  check_float("features", features);
  check_dim("features", features, 2, "[voxels, channels]");
}

inline void check_given_plan(const c10::optional<at::Tensor>& plan, const at::Tensor& features) {
  if (!plan) return;
  check_int32("plan", *plan);
  check_same_device("plan", *plan, "features", features);
}

inline void check_forward(const at::Tensor& features, const at::Tensor& weight,
                          const c10::optional<at::Tensor>& bias, const at::Tensor& pairs,
                          const at::Tensor& bounds, c10::SymInt num_out, int64_t groups,
                          const c10::optional<at::Tensor>& plan) {
  check_features(features);
  check_dim("weight", weight, 3, "[kernel points, in_channels / groups, out_channels]");
  check_same_dtype("weight", weight, "features", features);
  check_at_least("groups", groups, 1);
  TORCH_CHECK_VALUE(weight.sym_size(1) * groups == features.sym_size(1), "features must have ",
                    weight.sym_size(1) * groups, " channels (in_channels of the weight), was ",
                    features.sym_size(1));
  TORCH_CHECK_VALUE(weight.sym_size(2) % groups == 0, "groups must divide out_channels ",
                    weight.sym_size(2), ", was ", groups);
  if (bias) {
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->sym_size(0) == weight.sym_size(2),
                      "bias must have shape [", weight.sym_size(2), "], was ", bias->sym_sizes());
    check_same_dtype("bias", *bias, "features", features);
    check_same_device("bias", *bias, "features", features);
  }
  check_row_number("num_out", num_out);
  check_rulebook(pairs, bounds);
  TORCH_CHECK_VALUE(bounds.sym_size(1) == weight.sym_size(0) + 1, "bounds must have shape [tiles, ",
                    weight.sym_size(0) + 1, "] for a weight of ", weight.sym_size(0),
                    " kernel points, was ", bounds.sym_sizes());
  check_given_plan(plan, features);
  check_same_device("weight", weight, "features", features);
  check_same_device("pairs", pairs, "features", features);
  check_same_device("bounds", bounds, "features", features);
}

inline void check_plan(const at::Tensor& features, const at::Tensor& weight,
                       const at::Tensor& pairs, const at::Tensor& bounds, c10::SymInt num_out,
                       int64_t groups, bool /*in_order*/) {
  check_forward(features, weight, c10::nullopt, pairs, bounds, num_out, groups, c10::nullopt);
}

inline void check_weight_grad(const at::Tensor& features, const at::Tensor& grad,
                              const at::Tensor& pairs, const at::Tensor& bounds, int64_t groups,
                              const c10::optional<at::Tensor>& plan) {
  check_features(features);
  check_dim("grad", grad, 2, "[output voxels, channels]");
  check_same_dtype("grad", grad, "features", features);
  TORCH_CHECK_VALUE(
      groups >= 1 && features.sym_size(1) % groups == 0 && grad.sym_size(1) % groups == 0,
      "groups must divide the channels of features, ", features.sym_size(1), ", and of grad, ",
      grad.sym_size(1), ", was ", groups);
  check_rulebook(pairs, bounds);
  check_given_plan(plan, features);
  check_same_device("grad", grad, "features", features);
  check_same_device("pairs", pairs, "features", features);
  check_same_device("bounds", bounds, "features", features);
}

}  // namespace mxd::sparse_conv
