// Reduction of points by voxel on the CPU: a radix sort groups the points; each voxel is reduced by
// one thread, in the order of its points.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <functional>
#include <vector>

#include "../dynamic_scatter.h"
#include "compute_type.h"
#include "radix_sort.h"
#include "rows.h"

namespace mxd::dynamic_scatter {
namespace {

template <typename Index>
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> make_plan(const at::Tensor& coors) {
  const int64_t count = coors.size(0), ndim = coors.size(1);
  const Index* coor = coors.const_data_ptr<Index>();
  // Points with a voxel, and the greatest coordinates.
  std::vector<int32_t> order;
  std::vector<uint64_t> extent(ndim, 1);
  for (int64_t i = 0; i < count; i++) {
    const Index* row = coor + i * ndim;
    if (std::any_of(row, row + ndim, [](Index c) { return c < 0; })) continue;
    order.push_back(static_cast<int32_t>(i));
    for (int64_t d = 0; d < ndim; d++)
      extent[d] = std::max(extent[d], static_cast<uint64_t>(row[d]) + 1);
  }
  uint64_t limit = 1;
  bool overflow = false;
  for (const uint64_t size : extent) overflow |= __builtin_mul_overflow(limit, size, &limit);
  TORCH_CHECK_VALUE(!overflow && limit < uint64_t{1} << 63,
                    "coors must span fewer than 2**63 cells");

  std::vector<uint64_t> keys(order.size());
  at::parallel_for(0, keys.size(), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      for (int64_t d = 0; d < ndim; d++)
        keys[i] = keys[i] * extent[d] + static_cast<uint64_t>(coor[order[i] * ndim + d]);
  });
  cpu::radix_sort(keys, &order, limit);

  std::vector<int64_t> starts;
  for (int64_t i = 0; i < static_cast<int64_t>(keys.size()); i++)
    if (i == 0 || keys[i] != keys[i - 1]) starts.push_back(i);
  const int64_t voxels = starts.size();
  starts.push_back(keys.size());

  const auto ints = coors.options().dtype(at::kInt);
  auto voxel_coors = at::empty({voxels, ndim}, coors.options());
  auto point_voxel = at::empty({count}, ints).fill_(-1);
  auto ranks = at::empty({static_cast<int64_t>(order.size())}, ints);
  auto intervals = at::empty({voxels + 1}, coors.options().dtype(at::kLong));
  std::copy(order.begin(), order.end(), ranks.mutable_data_ptr<int32_t>());
  std::copy(starts.begin(), starts.end(), intervals.mutable_data_ptr<int64_t>());
  Index* out = voxel_coors.mutable_data_ptr<Index>();
  int32_t* voxel_of = point_voxel.mutable_data_ptr<int32_t>();
  at::parallel_for(0, voxels, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; v++) {
      std::copy_n(coor + order[starts[v]] * ndim, ndim, out + v * ndim);
      for (int64_t i = starts[v]; i < starts[v + 1]; i++)
        voxel_of[order[i]] = static_cast<int32_t>(v);
    }
  });
  return {voxel_coors, point_voxel, ranks, intervals};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> plan_cpu(const at::Tensor& coors) {
  check_plan(coors);
  const at::Tensor rows = coors.contiguous();
  return coors.scalar_type() == at::kInt ? make_plan<int32_t>(rows) : make_plan<int64_t>(rows);
}

// What the points of one voxel give.
template <typename T>
class VoxelReduce {
  using Float = at::opmath_type<T>;

 public:
  VoxelReduce(const T* feats, int64_t channels)
      : feats_(feats), channels_(channels), best_(channels) {}

  void add(const int32_t* ranks, int64_t count, bool mean, T* out) {
    std::fill(best_.begin(), best_.end(), Float(0));
    for (int64_t i = 0; i < count; i++)
      cpu::add_row(feats_ + ranks[i] * channels_, channels_, best_.data());
    for (int64_t c = 0; c < channels_; c++)
      out[c] = static_cast<T>(mean ? best_[c] / static_cast<Float>(count) : best_[c]);
  }

  // The first of equal points counts, and NaN never does.
  void max(const int32_t* ranks, int64_t count, T* out, int32_t* argmax) {
    std::fill(best_.begin(), best_.end(), -std::numeric_limits<Float>::infinity());
    std::fill_n(argmax, channels_, ranks[0]);
    for (int64_t i = 0; i < count; i++) {
      const T* row = feats_ + ranks[i] * channels_;
      for (int64_t c = 0; c < channels_; c++) {
        const Float value = cpu::widen(row[c]);
        const bool better = value > best_[c];
        best_[c] = better ? value : best_[c];
        argmax[c] = better ? ranks[i] : argmax[c];
      }
    }
    for (int64_t c = 0; c < channels_; c++) out[c] = static_cast<T>(best_[c]);
  }

 private:
  const T* feats_;
  int64_t channels_;
  std::vector<Float> best_;
};

std::tuple<at::Tensor, at::Tensor> reduce_cpu(const at::Tensor& feats, const at::Tensor& ranks,
                                              const at::Tensor& intervals,
                                              c10::string_view reduce_type) {
  check_reduce(feats, ranks, intervals, reduce_type);
  const Reduce reduce = parse_reduce(reduce_type);
  const at::Tensor rows = feats.contiguous(), all_ranks = ranks.contiguous(),
                   all_intervals = intervals.contiguous();
  const int64_t voxels = intervals.size(0) - 1, channels = feats.size(1);
  const int64_t* bound = all_intervals.const_data_ptr<int64_t>();
  // A voxel has a point at least.
  const int64_t* end = bound + voxels + 1;
  TORCH_CHECK_VALUE(std::adjacent_find(bound, end, std::greater_equal<int64_t>()) == end &&
                        bound[0] == 0 && bound[voxels] == ranks.size(0),
                    "intervals must ascend from 0 to the number of ranks, ", ranks.size(0));
  cpu::check_rows("ranks", all_ranks, 0, feats.size(0));
  const int32_t* rank = all_ranks.const_data_ptr<int32_t>();
  const bool max = reduce == Reduce::kMax;
  auto out = cpu::empty_output({voxels, channels}, feats.options());
  auto argmax = at::empty({max ? voxels : 0, channels}, feats.options().dtype(at::kInt));
  int32_t* arg = argmax.mutable_data_ptr<int32_t>();
  MXD_DISPATCH_FLOAT(feats.scalar_type(), "dynamic_scatter", [&] {
    const auto* from = rows.const_data_ptr<scalar_t>();
    auto* to = out.mutable_data_ptr<scalar_t>();
    constexpr int64_t kUnit = 128;
    cpu::for_each_unit((voxels + kUnit - 1) / kUnit, [&](int64_t unit, int64_t) {
      VoxelReduce<scalar_t> voxel(from, channels);
      for (int64_t v = unit * kUnit; v < std::min((unit + 1) * kUnit, voxels); v++) {
        const int32_t* points = rank + bound[v];
        const int64_t count = bound[v + 1] - bound[v];
        if (max)
          voxel.max(points, count, to + v * channels, arg + v * channels);
        else
          voxel.add(points, count, reduce == Reduce::kMean, to + v * channels);
      }
    });
  });
  return {out, argmax};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("dynamic_scatter_plan", TORCH_FN(plan_cpu));
  m.impl("dynamic_scatter", TORCH_FN(reduce_cpu));
}

}  // namespace mxd::dynamic_scatter
