// Shared by the parts of the NPU's rulebook.
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

// Cells, and the rows of the voxels that they belong to (int32; undefined: 0, 1, 2 ...). A join
// needs them in ascending order. `count` is -1 for as many as the outputs, whose number only the
// device knows; the lists then have room for all there may be.
struct Voxels {
  at::Tensor cells, rows;
  int64_t count;
};

// A join of windows with voxels: its pairs are counted, not yet written.
struct Join {
  Voxels windows, voxels;
  KernelRows kernel;
  at::Tensor heads, bounds;
};

// The steps of a rulebook by kernels, for grids whose cells int32 can number. None of them waits
// for the device. `stats` (csrc/kernels/sparse_conv_rulebook_tiling.h) is what the host reads once,
// between count_pairs and write_pairs.
namespace narrow {

// The cells of voxels in the order that they have, -1 for those outside.
Voxels find_voxels(const at::Tensor& indices, const Geometry& g, const Numbering& numbering);

// Voxels in the order of their cells.
Voxels sort_voxels(const Voxels& voxels);

// Cells of all outputs that the voxels reach, in ascending order; their number comes to stats.
Voxels reached(const at::Tensor& indices, const Geometry& g, const KeySteps& steps,
               const at::Tensor& stats);

// (indices, cells by `numbering`) of cells numbered by `steps`.
std::tuple<at::Tensor, Voxels> decode(const Voxels& outputs, const Geometry& g,
                                      const KeySteps& steps, const Numbering& numbering,
                                      const at::Tensor& stats);

// That the inputs' cells are not in order, one of them is none or there twice, comes to stats; if
// not, the number of pairs.
Join count_pairs(const Voxels& windows, const Voxels& voxels, const KernelRows& kernel,
                 const at::Tensor& stats);

// (pairs, bounds); the pairs are (voxel's row, window's row). `outputs` is what stats say.
std::tuple<at::Tensor, at::Tensor> write_pairs(const Join& join, int64_t outputs, int64_t pairs);

}  // namespace narrow

// (out_indices, pairs, bounds)
using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// The rulebook of no outputs.
Result nothing(const at::Tensor& indices, const Geometry& g);

Numbering number_cells(const KeySteps& steps, const Geometry& g,
                       const std::array<int64_t, kMaxDims>& scale,
                       const std::array<int64_t, kMaxDims>& offset);
KernelRows kernel_rows(const KeySteps& steps, const Geometry& g, int64_t shift);

namespace wide {

// The rulebook of a grid with more cells than int32 can number: these are int64, and found by
// PyTorch's operators.
Result build(const at::Tensor& indices, const Geometry& g, const KeySteps& steps);

}  // namespace wide

// (pairs, bounds) of pairs int32 [P, 2] in the order of their bins int32 [P], tile * volume +
// kernel point, and within a bin in the order they have; the numbers of each pair are exchanged if
// `flip`.
std::tuple<at::Tensor, at::Tensor> group(const at::Tensor& pairs, const at::Tensor& bins,
                                         int64_t tiles, int64_t volume, bool flip);

// Refuses more bins than int32 can number.
void check_bins(const at::Tensor& pairs, int64_t tiles, int64_t volume);

// The rulebook with inputs and outputs exchanged. Unless `trusted`, pairs are checked, for which
// the device is waited for.
std::tuple<at::Tensor, at::Tensor> transpose(const at::Tensor& pairs, const at::Tensor& bounds,
                                             int64_t num_in, bool trusted);

}  // namespace mxd::sparse_conv::npu
