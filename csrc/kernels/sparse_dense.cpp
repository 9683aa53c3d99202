// Rows of voxels to the planes of a dense grid, and back, by the map of its cells. Of a tile of
// cells the rows of its voxels lie in UB, one behind the other, and some channels of all its cells
// are gathered from them at once: that is the transposition, too. So each word of the grid is
// written once, or read once, in long pieces. Rows that lie at one distance share a DMA.
//
// Nothing is computed: a number is moved as bits, of 2 or 4 bytes. While a tile is gathered the
// next one is loaded.
#include "common/buffers.h"
#include "common/events.h"
#include "common/filled_slots.h"
#include "common/matrix_rows.h"
#include "common/run.h"
#include "sparse_dense_tiling.h"
#include "voxelize/scan.h"

namespace mxd::kernels {
namespace {

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
    gathered_.Init(pipe, kBuffers);
    outputs_free_.Init(pipe, kBuffers);
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

template <typename T>
class ToDense : public DensePlanes<T, ToDense<T>> {
  using Base = DensePlanes<T, ToDense<T>>;
  friend Base;
  using Base::kSize, Base::kElements, Base::kBuffers, Base::tiling_, Base::filled_, Base::rows_,
      Base::first_;
  static constexpr int32_t kTogether = 4;  // channels of a gather
  static constexpr int32_t kLeast = 16;    // cells of a tile
  static_assert(Base::kUsedBytes + kBuffers * (kDenseRowBytes + kDensePlaneBytes) +
                    (1 + kBuffers * kTogether) * kDenseTile * kWord + Scan<kDenseTile>::kBytes <=
                kUbBytes);
  static_assert(kDenseRowBytes / (kDenseWidth * kWord) > kLeast);

 public:
  __aicore__ inline ToDense(TPipe& pipe, const SparseDenseTiling& tiling, GM_ADDR features,
                            GM_ADDR map, GM_ADDR dense)
      : Base(pipe, tiling, map),
        scan_(pipe, this->numbers_),
        position_(Take<int32_t>(pipe, kDenseTile)) {
    Bind(features_, features, dense_, dense);
    for (int32_t i = 0; i < kBuffers; i++) {
      voxels_[i] = Take<T>(pipe, kDenseRowBytes / kSize);
      planes_[i] = Take<T>(pipe, kDensePlaneBytes / kSize);
      offset_[i] = Take<int32_t>(pipe, kTogether * kDenseTile);
      // A cell of no voxel has the row of zeros before the others.
      Duplicate(voxels_[i], T{}, RoundUp(tiling.width, kElements));
    }
    PipeBarrier<PIPE_V>();
  }

 private:
  __aicore__ inline void Begin() {}

  // offset_: where each cell's row is in UB, in bytes, for some channels. The tile is cut to fewer
  // cells if the rows of all do not fit.
  __aicore__ inline void Arrange(Tile& tile) {
    const int32_t pitch = rows_.pitch(), most = kDenseRowBytes / kSize / pitch - 1;
    int32_t padded = RoundUp(tile.cells, kElements);
    Adds(position_, filled_.filled(), 0, padded);
    PipeBarrier<PIPE_V>();
    scan_.template Run<true>(position_, padded);
    if (tile.voxels > most) {
      SetWait<HardEvent::V_S>();
      while (tile.voxels > most) {
        tile.cells = RoundUp(tile.cells / 2, kLeast);
        tile.voxels = position_.GetValue(tile.cells - 1);
      }
      padded = tile.cells;
      SetWait<HardEvent::S_V>();
    }
    const LocalTensor<int32_t> offset = offset_[tile.buffer];
    Mul(offset, position_, filled_.filled(), padded);
    PipeBarrier<PIPE_V>();
    Muls(offset, offset, pitch * kSize, padded);
    PipeBarrier<PIPE_V>();
    for (int32_t i = 1; i < kTogether; i++) Adds(offset[i * padded], offset, i * kSize, padded);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void Load(const Tile& tile) {
    const int32_t pitch = rows_.pitch();
    this->loads_free_.Wait(tile.buffer);
    ForEachRun(this->row_[tile.buffer], 0, tile.voxels, rows_.farthest(),
               [&](int32_t at, const Run& run) __aicore__ {
                 rows_.Load(voxels_[tile.buffer][(1 + at) * pitch],
                            features_[static_cast<int64_t>(run.first) * tiling_.channels + first_],
                            run);
               });
    this->loaded_.Set(tile.buffer);
  }

  __aicore__ inline void Write(const Tile& tile) {
    const int32_t padded = RoundUp(tile.cells, kElements), width = this->width();
    const int32_t most = kDensePlaneBytes / kSize / padded;
    const LocalTensor<uint32_t> offset = offset_[tile.buffer].template ReinterpretCast<uint32_t>();
    this->loaded_.Wait(tile.buffer);
    for (int32_t channel = 0; channel < width; channel += most, output_ = 1 - output_) {
      const int32_t planes = MinOf(most, width - channel);
      this->outputs_free_.Wait(output_);
      for (int32_t i = 0; i < planes; i += kTogether)
        Gather(planes_[output_][i * padded], voxels_[tile.buffer], offset, (channel + i) * kSize,
               MinOf(kTogether, planes - i) * padded);
      this->gathered_.SetWait(output_);
      DataCopyPad(dense_[this->Place(tile, channel)], planes_[output_],
                  {static_cast<uint16_t>(planes), static_cast<uint32_t>(tile.cells * kSize), 0,
                   this->Between(tile), 0});
      this->outputs_free_.Set(output_);
    }
    this->loads_free_.Set(tile.buffer);
  }

  Scan<kDenseTile> scan_;
  GlobalTensor<T> features_, dense_;
  LocalTensor<int32_t> position_, offset_[kBuffers];
  LocalTensor<T> voxels_[kBuffers], planes_[kBuffers];
  int32_t output_ = 0;
};

template <typename T>
class FromDense : public DensePlanes<T, FromDense<T>> {
  using Base = DensePlanes<T, FromDense<T>>;
  friend Base;
  using Base::kSize, Base::kElements, Base::kBuffers, Base::tiling_, Base::filled_, Base::rows_,
      Base::first_, Base::numbers_;
  static constexpr int32_t kAtOnce = 2048;  // numbers of a gather
  static_assert(Base::kUsedBytes + kBuffers * (kDenseTileBytes + kDenseTile * kWord) +
                    kAtOnce * (3 * kWord + kBuffers * kWord) <=
                kUbBytes);
  static_assert(kDenseWidth <= kDenseTile && kDenseWidth <= kAtOnce);

 public:
  __aicore__ inline FromDense(TPipe& pipe, const SparseDenseTiling& tiling, GM_ADDR dense,
                              GM_ADDR map, GM_ADDR features)
      : Base(pipe, tiling, map),
        group_(Take<int32_t>(pipe, kAtOnce)),
        column_(Take<int32_t>(pipe, kAtOnce)),
        offset_(Take<int32_t>(pipe, kAtOnce)) {
    Bind(dense_, dense, features_, features);
    for (int32_t i = 0; i < kBuffers; i++) {
      planes_[i] = Take<T>(pipe, kDenseTileBytes / kSize);
      place_[i] = Take<int32_t>(pipe, kDenseTile);
      voxels_[i] = Take<T>(pipe, kAtOnce);
    }
  }

 private:
  // Lane i is channel column_[i] of voxel group_[i], both in bytes: the voxel as a word of a list,
  // the channel as a plane of a tile.
  __aicore__ inline void Begin() {
    const int32_t pitch = rows_.pitch();
    at_once_ = kAtOnce / pitch;
    Mins(column_, numbers_, this->width() - 1, pitch);
    Duplicate(group_, 0, pitch);
    PipeBarrier<PIPE_V>();
    Muls(column_, column_, tiling_.tile * kSize, pitch);
    PipeBarrier<PIPE_V>();
    for (int32_t have = 1; have < at_once_; have *= 2) {
      const int32_t count = MinOf(have, at_once_ - have) * pitch;
      Adds(group_[have * pitch], group_, have * kWord, count);
      Adds(column_[have * pitch], column_, 0, count);
      PipeBarrier<PIPE_V>();
    }
  }

  // place_: where each voxel's cell is in the tile, in bytes.
  __aicore__ inline void Arrange(Tile& tile) {
    const LocalTensor<int32_t> place = place_[tile.buffer];
    filled_.Compact(place, numbers_, tile.cells);
    if (tile.voxels == 0) return;
    Muls(place, place, kSize, tile.voxels);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void Load(const Tile& tile) {
    if (tile.voxels == 0) return;
    const int32_t bytes = tile.cells * kSize;
    const auto gap =
        static_cast<uint32_t>((tiling_.tile * kSize - RoundUp(bytes, kBlockBytes)) / kBlockBytes);
    this->loads_free_.Wait(tile.buffer);
    DataCopyPad(planes_[tile.buffer], dense_[this->Place(tile, 0)],
                {static_cast<uint16_t>(this->width()), static_cast<uint32_t>(bytes),
                 this->Between(tile), gap, 0},
                {false, 0, 0, T{}});
    this->loaded_.Set(tile.buffer);
  }

  __aicore__ inline void Write(const Tile& tile) {
    if (tile.voxels == 0) return;
    const int32_t pitch = rows_.pitch();
    this->loaded_.Wait(tile.buffer);
    for (int32_t first = 0; first < tile.voxels; first += at_once_, output_ = 1 - output_) {
      const int32_t voxels = MinOf(at_once_, tile.voxels - first), count = voxels * pitch;
      Gather(offset_, place_[tile.buffer], group_.ReinterpretCast<uint32_t>(), first * kWord,
             count);
      PipeBarrier<PIPE_V>();
      Add(offset_, offset_, column_, count);
      PipeBarrier<PIPE_V>();
      this->outputs_free_.Wait(output_);
      Gather(voxels_[output_], planes_[tile.buffer], offset_.ReinterpretCast<uint32_t>(), 0, count);
      PipeBarrier<PIPE_V>();
      this->gathered_.SetWait(output_);
      ForEachRun(this->row_[tile.buffer], first, first + voxels, rows_.farthest(),
                 [&](int32_t at, const Run& run) __aicore__ {
                   rows_.Store(
                       features_[static_cast<int64_t>(run.first) * tiling_.channels + first_],
                       voxels_[output_][(at - first) * pitch], run);
                 });
      this->outputs_free_.Set(output_);
    }
    this->loads_free_.Set(tile.buffer);
  }

  LocalTensor<int32_t> group_, column_, offset_, place_[kBuffers];
  LocalTensor<T> planes_[kBuffers], voxels_[kBuffers];
  GlobalTensor<T> dense_, features_;
  int32_t at_once_ = 0;  // voxels of a gather
  int32_t output_ = 0;
};

}  // namespace
}  // namespace mxd::kernels

// dense [batch, channels, plane]: the rows of features [voxels, channels] that map int32 [batch,
// plane] names, zeros where it names none. Numbers of 4 bytes, or of 2.
extern "C" __global__ __aicore__ void sparse_to_dense(GM_ADDR features, GM_ADDR map, GM_ADDR dense,
                                                      SparseDenseTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunForSize<mxd::kernels::ToDense>(tiling, features, map, dense);
}

// Those rows of features that the map names, of the same dense.
extern "C" __global__ __aicore__ void sparse_from_dense(GM_ADDR dense, GM_ADDR map,
                                                        GM_ADDR features,
                                                        SparseDenseTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunForSize<mxd::kernels::FromDense>(tiling, dense, map, features);
}
