// The pairs of a rulebook on the CPU: for each output the voxels in its window.
//
// The windows of each row of the kernel ascend with the outputs. One cursor for each row goes over
// the sorted keys once and finds all neighbours; no hash table is needed.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>
#include <vector>

#include "../sparse_conv.h"

namespace mxd::sparse_conv {

// Input voxels in the order of their keys.
struct SortedVoxels {
  std::vector<uint64_t> keys;
  std::vector<int32_t> rows;  // empty where the voxels came sorted

  int32_t row(int64_t position) const {
    return rows.empty() ? static_cast<int32_t>(position) : rows[position];
  }
};

// The voxels in the windows that begin at `starts`, which ascend. Window i belongs to row
// out_rows[i] (empty: i). Returns the rulebook's pairs and bounds.
std::tuple<at::Tensor, at::Tensor> find_pairs(const std::vector<uint64_t>& starts,
                                              const std::vector<int32_t>& out_rows,
                                              const SortedVoxels& voxels, const Geometry& g,
                                              const KeySteps& steps, const at::Device& device);

// The same where the outputs are the voxels themselves, each in the middle of its window. Where the
// kernel has a middle, i has j at offset k if j has i at the opposite one: only half of the pairs
// are looked for.
std::tuple<at::Tensor, at::Tensor> find_own_pairs(const SortedVoxels& voxels, const Geometry& g,
                                                  const KeySteps& steps, const at::Device& device);

}  // namespace mxd::sparse_conv
