// Which tiles a block works on, and where their pairs lie.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "kernel_operator.h"
#include "step.h"

namespace mxd::kernels::sparse_conv {

// Units of work are the tiles for the first panel of columns, then for the second, and so on.
class Schedule {
  static constexpr int32_t kWindows = 3;   // of the unit at hand, the next one, and the one after
  static constexpr int32_t kBounds = 128;  // offsets of a window
  static constexpr int32_t kWindow = kBounds + 4;

 public:
  static constexpr int32_t kUbBytes = kWindows * kWindow * static_cast<int32_t>(sizeof(int64_t));

  __aicore__ inline Schedule(TPipe& pipe, GM_ADDR bounds, const SparseConvTiling& tiling)
      : tiling_(tiling), windows_(Take<int64_t>(pipe, kWindows * kWindow)) {
    Bind(bounds_, bounds);
    loaded_.Init(pipe, kWindows);
  }

  // Gives each block equal work, counted in pairs and output rows. `scratch` is of any size.
  __aicore__ inline void Share(const LocalTensor<int64_t>& scratch) {
    constexpr int32_t kEntry = kBlockBytes / sizeof(int64_t);
    const int32_t most =
        MinOf(4095, scratch.GetSize() * static_cast<int32_t>(sizeof(int64_t)) / kBlockBytes);
    const int32_t tiles = CeilDiv(tiling_.tiles, most);  // of an entry
    const int32_t entries = CeilDiv(tiling_.tiles, tiles);
    const int64_t stride = (tiling_.volume + 1) * static_cast<int64_t>(sizeof(int64_t)) * tiles;
    DataCopyPad(scratch.ReinterpretCast<int32_t>(), bounds_,
                DataCopyExtParams(entries, 8, stride - 8, 0, 0), DataCopyPadExtParams<int32_t>());
    SetWait<HardEvent::MTE2_S>();
    const int64_t panel = tiling_.pairs + static_cast<int64_t>(tiling_.tiles) * kTileRows;
    const int64_t all = panel * tiling_.groups * tiling_.panels;
    for (int32_t end = 0; end < 2; ++end) {
      const int64_t wanted = all * (GetBlockIdx() / 2 + end) / GetBlockNum();
      const int64_t rest = wanted % panel;
      int32_t low = 0, high = entries;
      while (low < high) {
        const int32_t middle = (low + high) / 2;
        const int64_t work =
            scratch.GetValue(middle * kEntry) + static_cast<int64_t>(middle) * tiles * kTileRows;
        if (work < rest)
          low = middle + 1;
        else
          high = middle;
      }
      (end == 0 ? unit_ : unit_end_) =
          wanted / panel * tiling_.tiles + MinOf(low * tiles, tiling_.tiles);
    }
    SetWait<HardEvent::S_V>();
    if (!Done()) LoadBounds(unit_ % tiling_.tiles, 0, unit_ % kWindows);
  }

  __aicore__ inline bool Done() const { return unit_ >= unit_end_; }
  __aicore__ inline int32_t panel() const { return static_cast<int32_t>(unit_ / tiling_.tiles); }
  __aicore__ inline void Advance() { ++unit_; }

  // Describes the tile of the unit `ahead` of this one, as far as the bounds tell: an offset that
  // pairs every row names the tile's rows. Loads the bounds of the tile after it.
  __aicore__ inline bool Describe(int32_t ahead, Tile& tile) {
    const int64_t unit = unit_ + ahead;
    if (unit >= unit_end_) return false;
    tile.index = unit % tiling_.tiles;
    const int64_t left = tiling_.num_out - tile.index * kTileRows;
    tile.rows = left < kTileRows ? static_cast<int32_t>(left) : kTileRows;
    tile.window = unit % kWindows;
    tile.first = 0;
    tile.row_pairs = tile.full_offset = -1;
    loaded_.Wait(tile.window);
    for (int32_t k = 0; k < tiling_.volume && tile.row_pairs < 0; ++k) {
      const int64_t begin = PairsBegin(tile, k);
      if (PairsEnd(tile, k) - begin == tile.rows) {
        tile.row_pairs = begin;
        tile.full_offset = k;
      }
    }
    if (unit + 1 < unit_end_) LoadBounds((unit + 1) % tiling_.tiles, 0, (unit + 1) % kWindows);
    return true;
  }

  // Where the tile's pairs for an offset begin and, after that was asked, where they end.
  __aicore__ inline int64_t PairsBegin(Tile& tile, int32_t offset) {
    if (offset < tile.first || offset >= tile.first + kBounds) {
      tile.first = offset / kBounds * kBounds;
      LoadBounds(tile.index, tile.first, tile.window);
      loaded_.Wait(tile.window);
    }
    return windows_.GetValue(tile.window * kWindow + offset - tile.first);
  }
  __aicore__ inline int64_t PairsEnd(const Tile& tile, int32_t offset) {
    return windows_.GetValue(tile.window * kWindow + offset - tile.first + 1);
  }

 private:
  // Loads the bounds of a tile from offset `first` on into a window.
  __aicore__ inline void LoadBounds(int64_t tile, int32_t first, int32_t window) {
    SetWait<HardEvent::S_MTE2>();
    DataCopyPad(windows_[window * kWindow].ReinterpretCast<int32_t>(),
                bounds_[(tile * (tiling_.volume + 1) + first) * 2],
                DataCopyExtParams(1, (MinOf(kBounds, tiling_.volume - first) + 1) * 8, 0, 0, 0),
                DataCopyPadExtParams<int32_t>());
    loaded_.Set(window);
  }

  const SparseConvTiling& tiling_;
  GlobalTensor<int32_t> bounds_;
  LocalTensor<int64_t> windows_;
  Events<HardEvent::MTE2_S> loaded_;
  int64_t unit_ = 0, unit_end_ = 0;
};

}  // namespace mxd::kernels::sparse_conv
