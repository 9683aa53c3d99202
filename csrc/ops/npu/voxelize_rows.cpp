// Rows of a table in slots and back: tiling and launches of csrc/kernels/voxelize_gather.cpp
// and voxelize_scatter.cpp.
#include "voxelize_rows.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "launch.h"
#include "voxelize_tiling.h"
// The launches, which name the tiling.
#include "aclrtlaunch_voxelize_gather.h"
#include "aclrtlaunch_voxelize_scatter.h"

namespace mxd::npu {
namespace {

int64_t blocks_for(const at::Tensor& slots) { return npu::blocks_for(slots.numel(), 256); }

void check_sizes(const at::Tensor& table, const at::Tensor& slots) {
  TORCH_CHECK_VALUE(slots.numel() < kernels::kSortMaxKey && table.size(0) < kernels::kSortMaxKey,
                    "rows and slots must be below ", kernels::kSortMaxKey, " on an NPU, were ",
                    table.size(0), " and ", slots.numel());
}

int64_t log2(int64_t number) {
  int64_t log = 0;
  while (number >= int64_t{2} << log) log++;
  return log;
}

VoxelizeGatherTiling make_gather_tiling(const at::Tensor& table, const at::Tensor& slots) {
  constexpr int64_t kUnit = 16;  // so many rows of any width are whole blocks
  const int64_t size = table.element_size(), block = kernels::kBlockBytes / size;
  VoxelizeGatherTiling tiling{};
  tiling.number_bytes = size;
  tiling.slots = slots.numel();
  tiling.points = table.size(0);
  tiling.channels = table.size(1);
  tiling.width = std::min<int64_t>(tiling.channels, kernels::kVoxelizeGatherWidth);
  const int64_t padded = round_up(tiling.width, block);
  const bool narrow = tiling.width <= kernels::kVoxelizeNarrow;
  const int64_t most = std::min<int64_t>(
      kernels::kVoxelizeRowBytes / size / (narrow ? tiling.width : padded) / kUnit * kUnit,
      kernels::kVoxelizeGatherSlots);
  // As many for each block.
  const int64_t blocks = blocks_for(slots);
  const int64_t turns = ceil_div(tiling.slots, blocks * most);
  tiling.batch = round_up(ceil_div(tiling.slots, blocks * turns), kUnit);
  const int64_t tile =
      log2(std::max<int64_t>(kernels::kVoxelizeTileBytes / (tiling.width * size), 1));
  tiling.packed = narrow && int64_t{1} << tile >= kUnit;
  tiling.tile = tile;
  tiling.window =
      log2(kernels::kVoxelizeWindowBytes / ((tiling.packed ? tiling.width : padded) * size));
  tiling.inverse_width = a_little_less_than_inverse(tiling.width);
  return tiling;
}

VoxelizeScatterTiling make_scatter_tiling(const at::Tensor& table, const at::Tensor& slots) {
  const int64_t size = table.element_size(), block = kernels::kBlockBytes / size;
  const auto pitch = [&](int64_t width) { return round_up(width, block); };
  VoxelizeScatterTiling tiling{};
  tiling.number_bytes = size;
  tiling.slots = slots.numel();
  tiling.points = table.size(0);
  tiling.channels = table.size(1);
  tiling.width = std::min<int64_t>(tiling.channels, kernels::kVoxelizeWidth);
  const int64_t row = pitch(tiling.width);
  const int64_t share = ceil_div(tiling.slots, blocks_for(slots));
  tiling.batch = std::min<int64_t>(
      std::min<int64_t>(kernels::kVoxelizeElements / row, kernels::kVoxelizeSlots) / 2 * 2,
      pitch(share));
  tiling.farthest = std::clamp<int64_t>((1 << 30) / (tiling.channels * size), 1, 65535);
  tiling.inverse_width = a_little_less_than_inverse(tiling.width);
  tiling.inverse_pitch = a_little_less_than_inverse(row);
  tiling.inverse_last = a_little_less_than_inverse(pitch((tiling.channels - 1) % tiling.width + 1));
  return tiling;
}

}  // namespace

at::Tensor gather_slots(const at::Tensor& table, const at::Tensor& slots) {
  const at::Tensor out = at::empty({slots.numel(), table.size(1)}, table.options());
  if (out.numel() == 0) return out;
  check_sizes(table, slots);
  const VoxelizeGatherTiling tiling = make_gather_tiling(table, slots);
  launch(aclrtlaunch_voxelize_gather, "voxelize_gather", blocks_for(slots), table, slots, out,
         tiling);
  return out;
}

at::Tensor scatter_slots(const at::Tensor& rows, const at::Tensor& slots, int64_t count) {
  const at::Tensor out = at::zeros({count, rows.size(1)}, rows.options());
  if (out.numel() == 0 || slots.numel() == 0) return out;
  check_sizes(out, slots);
  const VoxelizeScatterTiling tiling = make_scatter_tiling(out, slots);
  launch(aclrtlaunch_voxelize_scatter, "voxelize_scatter", blocks_for(slots), rows, slots, out,
         tiling);
  return out;
}

}  // namespace mxd::npu
