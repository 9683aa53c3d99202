// Bumps on heatmaps: a core clears a tile of rows in UB, draws what reaches into it, and writes it.
//
// A cell has exp(-(dy^2 + dx^2) * 18 / (2 radius + 1)^2) in fp32. The exponent is above -9, and
// three roundings are in it: the value is within 2e-6 of its own size.
#include "common/buffers.h"
#include "common/events.h"
#include "common/index_list.h"
#include "common/run.h"
#include "draw_gaussians_tiling.h"

namespace mxd::kernels {
namespace {

class DrawGaussians {
  static constexpr float kNever = 1e30f;  // a square that is nothing after exp
  static_assert((kGaussianTile + 4 * kGaussianColumns + 4 * kGaussianBumps) * kWord <= kUbBytes);

 public:
  __aicore__ inline DrawGaussians(TPipe& pipe, const DrawGaussiansTiling& tiling, GM_ADDR channels,
                                  GM_ADDR centers, GM_ADDR radii, GM_ADDR maps)
      : tiling_(tiling), pitch_(RoundUp(tiling.tile_columns, kBlockWords)) {
    Bind(channels_, channels, centers_, centers, radii_, radii, maps_, maps);
    tile_ = Take<float>(pipe, kGaussianTile);
    Take(pipe, kGaussianColumns, numbers_, beyond_, square_, value_);
    channel_ = Take<int32_t>(pipe, kGaussianBumps);
    center_ = Take<int32_t>(pipe, 2 * kGaussianBumps);
    radius_ = Take<int32_t>(pipe, kGaussianBumps);
    CreateVecIndex(numbers_, 0.0f, pitch_);
    // The lists are read two numbers at a time.
    Duplicate(channel_, 0, kGaussianBumps);
    Duplicate(center_, 0, 2 * kGaussianBumps);
    Duplicate(radius_, 0, kGaussianBumps);
    PipeBarrier<PIPE_V>();
    SetWait<HardEvent::V_MTE2>();
    SetWait<HardEvent::V_S>();
  }

  __aicore__ inline void Process() {
    const int32_t step = static_cast<int32_t>(GetBlockNum()) * tiling_.tile_rows;
    for (int64_t row = GetBlockIdx() * tiling_.tile_rows; row < tiling_.rows; row += step)
      for (int32_t column = 0; column < tiling_.width; column += tiling_.tile_columns)
        ProcessTile(static_cast<int32_t>(row), column);
  }

 private:
  // The part of the maps that is in UB.
  struct Tile {
    int32_t row, rows, column, columns;
  };

  __aicore__ inline void ProcessTile(int32_t row, int32_t column) {
    const Tile tile{row, MinOf(tiling_.tile_rows, tiling_.rows - row), column,
                    MinOf(tiling_.tile_columns, tiling_.width - column)};
    SetWait<HardEvent::MTE3_V>();
    Duplicate(tile_, 0.0f, tile.rows * pitch_);
    PipeBarrier<PIPE_V>();
    for (int32_t begin = 0; begin < tiling_.bumps; begin += kGaussianBumps)
      DrawBumps(begin, MinOf(kGaussianBumps, tiling_.bumps - begin), tile);
    SetWait<HardEvent::V_MTE3>();
    DataCopyPad(maps_[static_cast<int64_t>(row) * tiling_.width + column], tile_,
                {static_cast<uint16_t>(tile.rows), static_cast<uint32_t>(tile.columns * kWord),
                 static_cast<uint32_t>((pitch_ - RoundUp(tile.columns, kBlockWords)) / kBlockWords),
                 static_cast<uint32_t>((tiling_.width - tile.columns) * kWord), 0});
  }

  __aicore__ inline void DrawBumps(int32_t begin, int32_t count, const Tile& tile) {
    SetWait<HardEvent::S_MTE2>();
    DataCopyPad(channel_, channels_[begin], Words(count), {false, 0, 0, 0});
    DataCopyPad(center_, centers_[2 * static_cast<int64_t>(begin)], Words(2 * count),
                {false, 0, 0, 0});
    DataCopyPad(radius_, radii_[begin], Words(count), {false, 0, 0, 0});
    SetWait<HardEvent::MTE2_S>();
    const int32_t first = tile.row / tiling_.height;
    const int32_t last = (tile.row + tile.rows - 1) / tiling_.height;
    IndexList<int32_t> channels(channel_), centers(center_), radii(radius_);
    for (int32_t i = 0; i < count; i++) {
      const int32_t channel = channels.Get(i);
      if (channel >= first && channel <= last)
        DrawBump(channel, centers.Get(2 * i), centers.Get(2 * i + 1), radii.Get(i), tile);
    }
  }

  __aicore__ inline void DrawBump(int32_t channel, int64_t row, int64_t column, int64_t radius,
                                  const Tile& tile) {
    // Rows and columns of the tile.
    const int64_t map = static_cast<int64_t>(channel) * tiling_.height - tile.row;
    const int64_t top = Largest(map + Largest(row - radius, 0), 0);
    const int64_t bottom =
        Least(map + Least(row + radius + 1, tiling_.height), static_cast<int64_t>(tile.rows));
    const int64_t left = Largest(column - radius - tile.column, 0);
    const int64_t right = Least(column + radius + 1 - tile.column, tile.columns);
    if (top >= bottom || left >= right) return;
    // Lanes begin at a whole block: those before the bump have nothing.
    const int32_t begin = static_cast<int32_t>(left) / kBlockWords * kBlockWords;
    const int32_t count = static_cast<int32_t>(right) - begin;
    Adds(square_, numbers_, static_cast<float>(begin + tile.column - column), count);
    PipeBarrier<PIPE_V>();
    Adds(beyond_, square_, static_cast<float>(radius), count);
    Mul(square_, square_, square_, count);
    PipeBarrier<PIPE_V>();
    Mins(beyond_, beyond_, 0.0f, count);
    PipeBarrier<PIPE_V>();
    Muls(beyond_, beyond_, -kNever, count);
    PipeBarrier<PIPE_V>();
    Add(square_, square_, beyond_, count);
    PipeBarrier<PIPE_V>();
    const float size = static_cast<float>(2 * radius + 1), factor = -18.0f / (size * size);
    for (int64_t y = top; y < bottom; y++) {
      const float distance = static_cast<float>(y - map - row);
      const LocalTensor<float> cells = tile_[static_cast<int32_t>(y) * pitch_ + begin];
      Adds(value_, square_, distance * distance, count);
      PipeBarrier<PIPE_V>();
      Muls(value_, value_, factor, count);
      PipeBarrier<PIPE_V>();
      Exp(value_, value_, count);
      PipeBarrier<PIPE_V>();
      Max(cells, cells, value_, count);
      PipeBarrier<PIPE_V>();
    }
  }

  __aicore__ static inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
  __aicore__ static inline int64_t Largest(int64_t a, int64_t b) { return a > b ? a : b; }

  const DrawGaussiansTiling tiling_;
  const int32_t pitch_;  // of a row of the tile
  GlobalTensor<int32_t> channels_, centers_, radii_;
  GlobalTensor<float> maps_;
  LocalTensor<float> tile_, numbers_, beyond_, square_, value_;
  LocalTensor<int32_t> channel_, center_, radius_;
};

}  // namespace
}  // namespace mxd::kernels

// maps float32 [rows, width], of `height` rows each, from int32 channels [bumps], centers
// [bumps, 2] and radii [bumps].
extern "C" __global__ __aicore__ void draw_gaussians(GM_ADDR channels, GM_ADDR centers,
                                                     GM_ADDR radii, GM_ADDR maps,
                                                     DrawGaussiansTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunKernel<mxd::kernels::DrawGaussians>(tiling, channels, centers, radii, maps);
}
