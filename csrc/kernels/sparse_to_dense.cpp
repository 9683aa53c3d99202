// Rows of voxels to the planes of a dense grid.
#include "common/run.h"
#include "sparse_dense/planes.h"
#include "voxelize/scan.h"

namespace mxd::kernels {
namespace {

template <typename T>
class ToDense : public DensePlanes<T, ToDense<T>> {
  using Base = DensePlanes<T, ToDense<T>>;
  friend Base;
  using Base::kSize, Base::kElements, Base::kBuffers, Base::tiling_, Base::filled_, Base::rows_,
      Base::first_;
  static constexpr int32_t kOutputs = Base::kMostOutputs;  // a DMA's data is there long after it
  static constexpr int32_t kTogether = 4;                  // channels of a gather
  static constexpr int32_t kLeast = 16;                    // cells of a tile
  static_assert(Base::kUsedBytes + kBuffers * kDenseRowBytes + kOutputs * kDensePlaneBytes +
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
      offset_[i] = Take<int32_t>(pipe, kTogether * kDenseTile);
      // A cell of no voxel has the row of zeros before the others.
      Duplicate(voxels_[i], T{}, RoundUp(tiling.width, kElements));
    }
    for (int32_t i = 0; i < kOutputs; i++) planes_[i] = Take<T>(pipe, kDensePlaneBytes / kSize);
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
    for (int32_t channel = 0; channel < width;
         channel += most, output_ = (output_ + 1) % kOutputs) {
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
  LocalTensor<T> voxels_[kBuffers], planes_[kOutputs];
  int32_t output_ = 0;
};

}  // namespace
}  // namespace mxd::kernels

// dense [batch, channels, plane]: the rows [voxels, channels] that map int32 [batch,
// plane] names, zeros where it names none. Numbers of 4 bytes, or of 2.
extern "C" __global__ __aicore__ void sparse_to_dense(GM_ADDR rows, GM_ADDR map, GM_ADDR dense,
                                                      SparseDenseTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  mxd::kernels::RunForSize<mxd::kernels::ToDense>(tiling, rows, map, dense);
}
