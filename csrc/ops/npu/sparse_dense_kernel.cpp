// Voxels to a dense grid and back on the NPU. With channels first a map of the grid's cells tells
// the planes which rows to gather (csrc/kernels/sparse_dense*.cpp); with channels last rows are
// gathered as they are.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>

#include "../sparse_dense.h"
#include "../voxel_check.h"
#include "cells.h"
#include "integers.h"
#include "launch.h"
#include "segment_reduce.h"
#include "sort.h"
#include "sort_tiling.h"
#include "sparse_dense_tiling.h"
// The launches, which name the tilings.
#include "aclrtlaunch_sparse_dense_map.h"
#include "aclrtlaunch_sparse_from_dense.h"
#include "aclrtlaunch_sparse_to_dense.h"

namespace mxd::sparse_dense {
namespace {

using kernels::kBlockBytes;
using npu::ceil_div;
using npu::launch;
using npu::round_up;

constexpr int64_t kCellUnit = 16;  // cells of tiles: whole blocks of 32 bytes, whatever the dtype

struct Grid {
  int64_t batch, plane = 1;  // samples, and the cells of one
  at::IntArrayRef shape;
  std::vector<int64_t> limit, step;  // of the batch index and the coordinates

  Grid(int64_t batch_size, at::IntArrayRef spatial_shape)
      : batch(batch_size), shape(spatial_shape), limit(1, batch_size), step(shape.size() + 1) {
    TORCH_CHECK_VALUE(shape.size() <= sparse_conv::kMaxDims, "spatial_shape must have at most ",
                      sparse_conv::kMaxDims, " dimensions on an NPU, was ", shape);
    limit.insert(limit.end(), shape.begin(), shape.end());
    bool overflow = false;
    for (size_t d = shape.size(); d > 0; d--) {
      step[d] = plane;
      overflow |= __builtin_mul_overflow(plane, shape[d - 1], &plane);
    }
    step[0] = plane;
    int64_t cells;
    overflow |= __builtin_mul_overflow(plane, batch, &cells);
    TORCH_CHECK_VALUE(!overflow && plane <= kernels::kDensePlane && cells <= kernels::kSortMaxKey,
                      "spatial_shape must have at most ", kernels::kDensePlane,
                      " cells and times batch_size ", kernels::kSortMaxKey, " on an NPU, was ",
                      shape, " and ", batch);
  }

  int64_t cells() const { return batch * plane; }

  // The cell of each voxel, -1 outside.
  at::Tensor find(const at::Tensor& indices) const {
    if (indices.size(0) == 0) return at::empty({0}, indices.options());
    return npu::find_cells(indices.contiguous(), limit, step);
  }

  // Refuses voxels outside. The device is waited for.
  void check(const at::Tensor& indices, const at::Tensor& cells) const {
    if (cells.size(0) > 0 && cells.lt(0).any().item<bool>()) check_voxels(indices, batch, shape);
  }
};

// The last voxel in each cell of a grid, int32 [cells], -1 where there is none; and how many cells
// have one.
struct Map {
  at::Tensor voxels, named;

  Map(const Grid& grid, const at::Tensor& cells)
      : voxels(at::empty({grid.cells()}, cells.options())), named(at::zeros({1}, cells.options())) {
    SparseDenseMapTiling tiling{};
    tiling.voxels = cells.size(0);
    tiling.cells = grid.cells();
    launch(aclrtlaunch_sparse_dense_map, "sparse_dense_map", npu::blocks_for(tiling.cells, 256),
           cells, voxels, named, tiling);
  }

  // Whether each voxel is inside and has a cell of its own. The device is waited for.
  bool is_whole(int64_t count) const { return named.item<int>() == count; }
};

// `most`: cells of a tile.
SparseDenseTiling make_tiling(const Grid& grid, int64_t voxels, int64_t channels, int64_t most) {
  SparseDenseTiling tiling{};
  tiling.voxels = voxels;
  tiling.channels = channels;
  tiling.batch = grid.batch;
  tiling.plane = grid.plane;
  const int64_t spans = std::max<int64_t>(npu::vector_cores() / grid.batch, 1);
  tiling.span = round_up(ceil_div(grid.plane, spans), kCellUnit);
  tiling.spans = ceil_div(grid.plane, tiling.span);
  tiling.tile = round_up(ceil_div(tiling.span, ceil_div(tiling.span, most)), kCellUnit);
  tiling.width = std::min<int64_t>(channels, kernels::kDenseWidth);
  return tiling;
}

int64_t blocks_for(const SparseDenseTiling& tiling) {
  return std::min(int64_t{tiling.batch} * tiling.spans, npu::vector_cores());
}

at::Tensor make_output(const SparseDenseTiling& tiling, at::IntArrayRef sizes,
                       const at::Tensor& like) {
  return tiling.add_output ? at::zeros(sizes, like.options()) : at::empty(sizes, like.options());
}

// Rows of numbers of 2 or 4 bytes to planes [batch, channels, cells of a sample].
at::Tensor fill_planes(const at::Tensor& features, const Grid& grid, const Map& map) {
  const int64_t channels = features.size(1), size = features.element_size();
  SparseDenseTiling tiling = make_tiling(grid, features.size(0), channels, kernels::kDenseTile);
  tiling.number_bytes = size;
  tiling.add_output = grid.plane * size % kBlockBytes != 0;
  const at::Tensor out = make_output(tiling, {grid.batch, channels, grid.plane}, features);
  launch(aclrtlaunch_sparse_to_dense, "sparse_to_dense", blocks_for(tiling), features, map.voxels,
         out, tiling);
  return out;
}

// The other way: the rows of those of `voxels` voxels that the map names.
at::Tensor take_planes(const at::Tensor& planes, int64_t voxels, const Grid& grid, const Map& map) {
  const int64_t channels = planes.size(1), size = planes.element_size();
  const int64_t width = std::min<int64_t>(channels, kernels::kDenseReadWidth);
  const int64_t most =
      std::min<int64_t>(kernels::kDenseTileBytes / (width * size), kernels::kDenseTile);
  SparseDenseTiling tiling = make_tiling(grid, voxels, channels, most / kCellUnit * kCellUnit);
  tiling.width = width;
  tiling.number_bytes = size;
  tiling.add_output = channels * size % kBlockBytes != 0;
  const at::Tensor out = make_output(tiling, {voxels, channels}, planes);
  launch(aclrtlaunch_sparse_from_dense, "sparse_from_dense", blocks_for(tiling), planes, map.voxels,
         out, tiling);
  return out;
}

void check_size(const at::Tensor& tensor) {
  const int64_t size = tensor.element_size();
  TORCH_CHECK_TYPE(size == 1 || size == 2 || size == 4 || size == 8,
                   "numbers must have 1, 2, 4 or 8 bytes, were ", tensor.scalar_type());
}

// [.., 2 * channels], the words of numbers [.., channels] of 8 bytes: bits, whatever they are
// called.
at::Tensor to_words(const at::Tensor& numbers) { return numbers.contiguous().view(at::kFloat); }

at::Tensor to_dense_npu(const at::Tensor& features, const at::Tensor& indices, int64_t batch_size,
                        at::IntArrayRef spatial_shape, bool channels_first) {
  check_to_dense(features, indices, batch_size, c10::fromIntArrayRefSlow(spatial_shape),
                 channels_first);
  check_size(features);
  const Grid grid(batch_size, spatial_shape);
  const int64_t voxels = features.size(0), channels = features.size(1);
  std::vector<int64_t> sizes{batch_size};
  sizes.insert(sizes.end(), spatial_shape.begin(), spatial_shape.end());
  sizes.insert(channels_first ? sizes.begin() + 1 : sizes.end(), channels);
  const at::Tensor cells = grid.find(indices);
  if (voxels == 0 || channels == 0 || grid.cells() == 0) {
    grid.check(indices, cells);
    return at::zeros(sizes, features.options());
  }
  const Map map(grid, cells);
  at::Tensor out;
  const auto type = features.scalar_type();
  const int64_t size = features.element_size();
  const at::Tensor rows = size == 1   ? features.view(at::kByte).to(at::kHalf)
                          : size == 8 ? to_words(features)
                                      : features.contiguous();
  if (!channels_first) {
    out = npu::gather_rows(rows, map.voxels);
  } else {
    out = fill_planes(rows, grid, map);
    if (size == 8)
      out = out.view({grid.batch, channels, 2, grid.plane}).transpose(2, 3).contiguous();
  }
  if (size == 1) out = out.to(at::kByte);
  if (!map.is_whole(voxels)) grid.check(indices, cells);
  return out.view(type).view(sizes);
}

at::Tensor from_dense_npu(const at::Tensor& dense, const at::Tensor& indices, bool channels_first) {
  check_from_dense(dense, indices, channels_first);
  check_size(dense);
  const int64_t channels = dense.size(channels_first ? 1 : -1), voxels = indices.size(0);
  const Grid grid(dense.size(0), dense.sizes().slice(channels_first ? 2 : 1, dense.dim() - 2));
  const at::Tensor cells = grid.find(indices);
  if (voxels == 0 || dense.numel() == 0) {
    grid.check(indices, cells);
    return at::empty({voxels, channels}, dense.options());
  }
  const auto type = dense.scalar_type();
  const int64_t size = dense.element_size();
  at::Tensor in = size == 1 ? dense.view(at::kByte).to(at::kHalf) : dense;
  at::Tensor out;
  if (!channels_first) {
    in = in.contiguous().view({grid.cells(), channels});
    out = npu::gather_rows(size == 8 ? to_words(in) : in, cells);
    grid.check(indices, cells);
  } else {
    in = in.contiguous().view({grid.batch, channels, grid.plane});
    if (size == 8)
      in = to_words(in)
               .view({grid.batch, channels, grid.plane, 2})
               .transpose(2, 3)
               .contiguous()
               .view({grid.batch, 2 * channels, grid.plane});
    const Map map(grid, cells);
    out = take_planes(in, voxels, grid, map);
    if (!map.is_whole(voxels)) {
      grid.check(indices, cells);
      out = npu::gather_rows(out, npu::take_rows(map.voxels, cells));
    }
  }
  if (size == 1) out = out.to(at::kByte);
  return out.view(type);
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("sparse_to_dense", TORCH_FN(to_dense_npu));
  m.impl("sparse_from_dense", TORCH_FN(from_dense_npu));
}

}  // namespace mxd::sparse_dense
