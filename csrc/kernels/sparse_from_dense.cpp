// Planes of a dense grid to the rows of its voxels.
#include "common/run.h"
#include "sparse_dense/planes.h"

namespace mxd::kernels {
namespace {

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

// rows [voxels, channels]: of the voxels that map int32 [batch, plane] names, from dense
// [batch, channels, plane]. Numbers of 4 bytes, or of 2.
extern "C" __global__ __aicore__ void sparse_from_dense(GM_ADDR dense, GM_ADDR map, GM_ADDR rows,
                                                        SparseDenseTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunForSize<mxd::kernels::FromDense>(tiling, dense, map, rows);
}
