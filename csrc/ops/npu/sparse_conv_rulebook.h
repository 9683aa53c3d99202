// Shared by the two ways to build a rulebook on the NPU: by kernels
// (sparse_conv_rulebook_narrow.cpp), and by PyTorch's operators if the grid has more cells than
// int32 can number (sparse_conv_rulebook_wide.cpp).
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <tuple>

#include "../sparse_conv.h"

namespace mxd::sparse_conv::npu {

// How a grid's cells are numbered: shift plus the sum of step times batch index and coordinates.
struct Numbering {
  int64_t shift = 0;
  std::array<int64_t, kMaxDims + 1> step{};
};

// The kernel's points as cells: row r begins at shift + sum of digit d of r times step[d], in the
// mixed radix of kernel[], and has `run` points at consecutive cells.
struct KernelRows {
  int64_t rows = 1, run = 1, shift = 0;
  int dims = 0;
  std::array<int64_t, kMaxDims> kernel{}, step{};
};

// Cells in ascending order, and the rows of the voxels that they belong to (int32).
struct Voxels {
  at::Tensor cells, rows;
};

// The steps of a rulebook that depend on the cells' dtype.
struct Path {
  // Cells [N] of the rows of indices, -1 for those outside of the input's grid.
  at::Tensor (*cells)(const at::Tensor& indices, const Geometry& g, const Numbering& numbering);
  // Cells of all outputs that the voxels reach, in ascending order.
  at::Tensor (*reached)(const at::Tensor& indices, const Geometry& g, const KeySteps& steps);
  // Rows of indices for cells numbered by `steps`, and their cells by `numbering`.
  std::tuple<at::Tensor, at::Tensor> (*decode)(const at::Tensor& cells, const Geometry& g,
                                               const KeySteps& steps, const Numbering& numbering);
  // (pairs, bounds) of windows and the voxels in them; the pairs are (voxel's row, window's row).
  std::tuple<at::Tensor, at::Tensor> (*join)(const Voxels& windows, const Voxels& voxels,
                                             const KernelRows& kernel);
};
extern const Path narrow;  // int32: by kernels
extern const Path wide;    // int64: by PyTorch's operators

// (pairs, bounds) of pairs (in, out) in the order of their bins, tile * volume + kernel point, and
// within a bin in the order they have.
std::tuple<at::Tensor, at::Tensor> group(const at::Tensor& in, const at::Tensor& out,
                                         const at::Tensor& bins, int64_t tiles, int64_t volume);

}  // namespace mxd::sparse_conv::npu
