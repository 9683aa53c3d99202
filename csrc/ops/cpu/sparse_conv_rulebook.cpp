// Rulebook of a sparse convolution on the CPU, by sorting: memory grows with the voxels, never with
// the grid.
//
// Input voxels are sorted by a key that is linear in their coordinates. The keys have room around
// the grid, so that a kernel that reaches over an edge meets no voxel of the next row. The outputs
// are in ascending order. How the pairs are found is told in sparse_conv_rulebook_pairs.h.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <numeric>
#include <vector>

#include "../sparse_conv.h"
#include "parallel.h"
#include "radix_sort.h"
#include "rulebook.h"
#include "sparse_conv_rulebook_pairs.h"
#include "voxels.h"

namespace mxd::sparse_conv {
namespace {

SortedVoxels sort_voxels(const int32_t* indices, int64_t count, const Geometry& g,
                         const KeySteps& steps) {
  SortedVoxels voxels;
  voxels.keys.resize(count);
  const int64_t parts = at::get_num_threads(), width = g.ndim + 1;
  std::vector<int64_t> first_bad(parts, count);
  std::vector<char> ascending(parts, 1);
  cpu::for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int32_t* row = indices + i * width;
      bool inside = row[0] >= 0 && row[0] < g.batch_size;
      uint64_t key = row[0] * steps.batch_step;
      for (int d = 0; d < g.ndim; d++) {
        inside &= row[1 + d] >= 0 && row[1 + d] < g.in_shape[d];
        key += (row[1 + d] + g.padding[d]) * steps.step[d];
      }
      if (!inside) {
        first_bad[part] = i;
        break;
      }
      voxels.keys[i] = key;
      if (i > begin && key < voxels.keys[i - 1]) ascending[part] = 0;
    }
  });
  const int64_t bad = *std::min_element(first_bad.begin(), first_bad.end());
  if (bad < count)
    fail_out_of_range(indices + bad * width, bad, g.batch_size,
                      at::IntArrayRef(g.in_shape.data(), g.ndim));

  bool sorted = std::all_of(ascending.begin(), ascending.end(), [](char part) { return part; });
  for (int64_t part = 1; part < parts; part++) {
    const int64_t begin = part * count / parts;
    if (begin > 0 && begin < count) sorted &= voxels.keys[begin - 1] <= voxels.keys[begin];
  }
  if (!sorted) {
    voxels.rows.resize(count);
    std::iota(voxels.rows.begin(), voxels.rows.end(), 0);
    cpu::radix_sort(voxels.keys, &voxels.rows, steps.limit);
  }
  const auto twin = std::adjacent_find(voxels.keys.begin(), voxels.keys.end());
  if (twin != voxels.keys.end()) {
    const int64_t position = twin - voxels.keys.begin();
    fail_twins(indices + voxels.row(position) * width, width, voxels.row(position),
               voxels.row(position + 1));
  }
  return voxels;
}

// Keys of all outputs that at least one of the voxels in [begin, end) reaches, possibly several
// times.
std::vector<uint64_t> reached_outputs(const int32_t* indices, const SortedVoxels& voxels,
                                      int64_t begin, int64_t end, const Geometry& g,
                                      const KeySteps& out_steps) {
  const int last = g.ndim - 1;
  const int64_t kernel_rows = g.kernel_volume / g.kernel[last];
  std::vector<uint64_t> found;
  found.reserve((end - begin) * 2);
  // With dilation 1 a voxel reaches a run of outputs along the last dimension. For one row of the
  // kernel these runs ascend with the voxels, so that outputs below `reached` were found before.
  const bool runs = g.dilation[last] == 1;
  std::vector<uint64_t> reached(kernel_rows, 0);
  std::vector<uint64_t> prefixes(kernel_rows), along_last;

  for (int64_t i = begin; i < end; i++) {
    const int32_t* row = indices + static_cast<int64_t>(voxels.row(i)) * (g.ndim + 1);
    // The coordinate of the output that kernel index k along d joins to this voxel, or -1.
    auto output = [&](int d, int64_t k) -> int64_t {
      if (g.transposed) {
        const int64_t to = row[1 + d] * g.stride[d] - g.padding[d] + k * g.dilation[d];
        return to >= 0 && to < g.out_shape[d] ? to : -1;
      }
      const int64_t from = row[1 + d] + g.padding[d] - k * g.dilation[d];
      return from >= 0 && from % g.stride[d] == 0 && from / g.stride[d] < g.out_shape[d]
                 ? from / g.stride[d]
                 : -1;
    };
    along_last.clear();
    for (int64_t k = 0; k < g.kernel[last]; k++)
      if (const int64_t o = output(last, k); o >= 0) along_last.push_back(o);
    // A kernel that moves forward over the outputs moves backward over the inputs.
    if (!g.transposed) std::reverse(along_last.begin(), along_last.end());
    if (along_last.empty()) continue;

    constexpr uint64_t kNone = ~uint64_t{0};
    int64_t filled = 1;
    prefixes[0] = row[0] * out_steps.batch_step;
    for (int d = 0; d < last; d++) {
      // Expands in place from the back: entry e becomes entries e * kernel[d] ... + kernel[d] - 1.
      for (int64_t e = filled - 1; e >= 0; e--) {
        const uint64_t prefix = prefixes[e];
        for (int64_t k = g.kernel[d] - 1; k >= 0; k--) {
          const int64_t o = prefix == kNone ? -1 : output(d, k);
          prefixes[e * g.kernel[d] + k] = o < 0 ? kNone : prefix + o * out_steps.step[d];
        }
      }
      filled *= g.kernel[d];
    }
    for (int64_t r = 0; r < kernel_rows; r++) {
      if (prefixes[r] == kNone) continue;
      for (const uint64_t o : along_last) {
        const uint64_t key = prefixes[r] + o;
        if (runs && key < reached[r]) continue;
        found.push_back(key);
        reached[r] = key + 1;
      }
    }
  }
  return found;
}

std::vector<uint64_t> output_keys(const int32_t* indices, const SortedVoxels& voxels,
                                  const Geometry& g, const KeySteps& out_steps) {
  const int64_t count = voxels.keys.size(), parts = at::get_num_threads();
  std::vector<std::vector<uint64_t>> found(parts);
  cpu::for_each_part(parts, count, [&](int64_t part, int64_t begin, int64_t end) {
    found[part] = reached_outputs(indices, voxels, begin, end, g, out_steps);
  });
  std::vector<uint64_t> keys = std::move(found[0]);
  for (int64_t part = 1; part < parts; part++)
    keys.insert(keys.end(), found[part].begin(), found[part].end());
  cpu::radix_sort(keys, nullptr, out_steps.limit);
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  check_output_count(keys.size());
  return keys;
}

// Fills out_indices with the outputs' coordinates.
void decode(const std::vector<uint64_t>& out_keys, const Geometry& g, const KeySteps& out_steps,
            int32_t* out_indices) {
  at::parallel_for(0, out_keys.size(), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      int32_t* row = out_indices + i * (g.ndim + 1);
      uint64_t rest = out_keys[i];
      row[0] = static_cast<int32_t>(rest / out_steps.batch_step);
      rest %= out_steps.batch_step;
      for (int d = 0; d < g.ndim; d++) {
        row[1 + d] = static_cast<int32_t>(rest / out_steps.step[d]);
        rest %= out_steps.step[d];
      }
    }
  });
}

// Keys of the cells coordinate * scale + shift, of `count` rows of indices in the order of `rows`
// (empty: as they are).
std::vector<uint64_t> cell_keys(const int32_t* indices, int64_t count,
                                const std::vector<int32_t>& rows, const Geometry& g,
                                const KeySteps& steps, const std::array<int64_t, kMaxDims>& scale,
                                const std::array<int64_t, kMaxDims>& shift) {
  std::vector<uint64_t> keys(count);
  at::parallel_for(0, count, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int32_t* row = indices + (rows.empty() ? i : rows[i]) * (g.ndim + 1);
      keys[i] = row[0] * steps.batch_step;
      for (int d = 0; d < g.ndim; d++)
        keys[i] += (row[1 + d] * scale[d] + shift[d]) * steps.step[d];
    }
  });
  return keys;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> rulebook_cpu(
    const at::Tensor& indices, int64_t batch_size, at::IntArrayRef spatial_shape,
    at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, at::IntArrayRef output_padding, bool subm, bool transposed) {
  const Geometry g = make_geometry(batch_size, spatial_shape, kernel_size, stride, padding,
                                   dilation, output_padding, subm, transposed);
  check_indices(indices, g.ndim);
  const at::Tensor rows = indices.contiguous();
  const int32_t* data = rows.const_data_ptr<int32_t>();
  const KeySteps steps = window_steps(g.in_shape, g.transposed ? g.in_shape : g.out_shape, g);
  const SortedVoxels voxels = sort_voxels(data, rows.size(0), g, steps);
  const at::Device device = indices.device();

  if (subm) {
    auto [pairs, bounds] = find_own_pairs(voxels, g, steps, device);
    return {rows.clone(), pairs, bounds};
  }

  const KeySteps out_steps(g.out_shape, g.ndim, batch_size);
  const std::vector<uint64_t> out_keys = output_keys(data, voxels, g, out_steps);
  const int64_t count = out_keys.size();
  auto out_indices = at::empty({count, g.ndim + 1}, indices.options());
  int32_t* out_data = out_indices.mutable_data_ptr<int32_t>();
  decode(out_keys, g, out_steps, out_data);
  if (transposed) {
    // Windows of the inputs into the outputs, exchanged.
    const KeySteps windows = window_steps(g.out_shape, g.in_shape, g);
    const auto starts = cell_keys(data, rows.size(0), voxels.rows, g, windows, g.stride, {});
    std::array<int64_t, kMaxDims> one;
    one.fill(1);
    const SortedVoxels outputs{cell_keys(out_data, count, {}, g, windows, one, g.padding), {}};
    auto [exchanged, tiles] = find_pairs(starts, voxels.rows, outputs, g, windows, device);
    auto [pairs, bounds] = transpose_rulebook(exchanged, tiles, count);
    return {out_indices, pairs, bounds};
  }
  const auto starts = cell_keys(out_data, count, {}, g, steps, g.stride, {});
  auto [pairs, bounds] = find_pairs(starts, {}, voxels, g, steps, device);
  return {out_indices, pairs, bounds};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) { m.impl("sparse_conv_rulebook", TORCH_FN(rulebook_cpu)); }

}  // namespace mxd::sparse_conv
