// Rows of voxels to the planes of a dense grid, and back, by the map of its cells: what both
// directions share. Of a tile of cells the rows of its voxels lie in UB, one behind the other, and
// some channels of all its cells are gathered from them at once: that is the transposition, too. So
// each word of the grid is written once, or read once, in long pieces. Rows that lie at one
// distance share a DMA.
//
// Nothing is computed: a number is moved as bits, of 2 or 4 bytes. While a tile is gathered the
// next one is loaded.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/filled_slots.h"
#include "../common/matrix_rows.h"
#include "../sparse_dense_tiling.h"

namespace mxd::kernels {

struct Tile {
  int32_t sample, begin, cells;  // cells [begin, begin + cells) of a sample
  int32_t voxels, buffer;
};

// What both directions share: the tiles of a block, and their voxels.
template <typename T, typename Derived>
class DensePlanes {
 protected:
  static constexpr int32_t kSize = sizeof(T);
  static constexpr int32_t kElements = kBlockBytes / kSize;
  static constexpr int32_t kBuffers = 2;
  static constexpr int32_t kMostOutputs = 4;  // buffers of what is written
  static constexpr int32_t kUsedBytes =
      FilledSlots<kDenseTile>::kBytes + (1 + kBuffers) * kDenseTile * kWord;

 public:
  __aicore__ inline void Process() {
    loads_free_.SetAll();
    outputs_free_.SetAll();
    if (tiling_.add_output) SetAtomicAdd<T>();
    for (first_ = 0; first_ < tiling_.channels; first_ += tiling_.width) {
      rows_ = MatrixRows<T>(tiling_.channels, MinOf(tiling_.width, tiling_.channels - first_));
      ProcessChannels(*static_cast<Derived*>(this));
    }
    if (tiling_.add_output) SetAtomicNone();
    loads_free_.WaitAll();
    outputs_free_.WaitAll();
  }

 protected:
  __aicore__ inline DensePlanes(TPipe& pipe, const SparseDenseTiling& tiling, GM_ADDR map)
      : tiling_(tiling), filled_(pipe), numbers_(Take<int32_t>(pipe, kDenseTile)) {
    Bind(map_, map);
    CreateVecIndex(numbers_, 0, kDenseTile);
    for (int32_t i = 0; i < kBuffers; i++) {
      row_[i] = Take<int32_t>(pipe, kDenseTile);
      Duplicate(row_[i], 0, kDenseTile);  // it is read two numbers at a time
    }
    PipeBarrier<PIPE_V>();
    loaded_.Init(pipe, kBuffers);
    loads_free_.Init(pipe, kBuffers);
    gathered_.Init(pipe, kMostOutputs);
    outputs_free_.Init(pipe, kMostOutputs);
  }

  __aicore__ inline int32_t width() const {
    return MinOf(tiling_.width, tiling_.channels - first_);
  }
  // The first channel of a tile's first cell, in the grid.
  __aicore__ inline int64_t Place(const Tile& tile, int32_t channel) const {
    return (static_cast<int64_t>(tile.sample) * tiling_.channels + first_ + channel) *
               tiling_.plane +
           tile.begin;
  }
  // Bytes of the grid between a tile's cells in one plane and in the next.
  __aicore__ inline uint32_t Between(const Tile& tile) const {
    return static_cast<uint32_t>((tiling_.plane - tile.cells) * kSize);
  }

 private:
  __aicore__ inline void ProcessChannels(Derived& derived) {
    derived.Begin();
    span_ = static_cast<int32_t>(GetBlockIdx());
    EnterSpan();
    Fetch();
    Tile now, next;
    bool has_now = Next(derived, now);
    if (has_now) derived.Load(now);
    while (has_now) {
      const bool has_next = Next(derived, next);
      derived.Write(now);
      if (has_next) derived.Load(next);
      now = next, has_now = has_next;
    }
  }

  __aicore__ inline bool Done() const { return span_ >= tiling_.batch * tiling_.spans; }
  __aicore__ inline void EnterSpan() {
    cell_ = span_ % tiling_.spans * tiling_.span;
    end_ = MinOf(cell_ + tiling_.span, tiling_.plane);
  }
  // Loads the map of the cells that come next.
  __aicore__ inline void Fetch() {
    if (Done()) return;
    const int64_t first = static_cast<int64_t>(span_ / tiling_.spans) * tiling_.plane + cell_;
    filled_.Fetch(map_[first], MinOf(tiling_.tile, end_ - cell_));
  }

  // The next tile, with the rows of its voxels in row_; false behind the last one.
  __aicore__ inline bool Next(Derived& derived, Tile& tile) {
    if (Done()) return false;
    tile = {span_ / tiling_.spans, cell_, MinOf(tiling_.tile, end_ - cell_), 0, buffer_};
    buffer_ = 1 - buffer_;
    filled_.Find(tile.cells, tiling_.voxels);
    SetWait<HardEvent::S_V>();  // the scalar unit has read the last rows
    tile.voxels = filled_.Rows(row_[tile.buffer], tile.cells);
    derived.Arrange(tile);
    SetWait<HardEvent::V_S>();
    cell_ += tile.cells;
    if (cell_ >= end_) {
      span_ += static_cast<int32_t>(GetBlockNum());
      EnterSpan();
    }
    Fetch();
    return true;
  }

 protected:
  const SparseDenseTiling tiling_;
  FilledSlots<kDenseTile> filled_;
  LocalTensor<int32_t> numbers_, row_[kBuffers];
  MatrixRows<T> rows_;
  Events<HardEvent::MTE2_V> loaded_;
  Events<HardEvent::V_MTE2> loads_free_;
  Events<HardEvent::V_MTE3> gathered_;
  Events<HardEvent::MTE3_V> outputs_free_;
  int32_t first_ = 0;  // of the channels that are moved now

 private:
  GlobalTensor<int32_t> map_;
  int32_t span_ = 0, cell_ = 0, end_ = 0, buffer_ = 0;
};

}  // namespace mxd::kernels
