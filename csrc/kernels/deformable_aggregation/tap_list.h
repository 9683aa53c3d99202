// Taps, listed: where they read and by which shares. A share is the bilinear weight of a pixel;
// "weights" are the operator's own.
//
// A sample is one point of an anchor in one camera; a tap is a sample inside of its image, at one
// scale. A tap reads a patch, the 2 x 2 pixels around it. Patches at the border are shifted inside;
// pixels outside weigh 0. All that a tap needs is computed by vector instructions for many taps at
// once, so that the scalar unit only starts DMAs.
#pragma once

#include "../common/bilinear.h"
#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/integer_lanes.h"
#include "../deformable_aggregation_tiling.h"
#include "kernel_operator.h"

namespace mxd::kernels::deformable_aggregation {

// The patch of a tap: its upper left pixel is row `row` of the maps of an element of the batch.
struct Patch {
  int32_t row, width;  // of the map
  bool right, down;    // whether the map has a second column, a second row
};

// Samples of which some are inside of their image, as they lie in UB.
struct Samples {
  LocalTensor<float> locations;  // [samples, 2]: x, y
  LocalTensor<float> inside;     // the numbers of those inside
  int32_t padded;                // samples of an anchor
  int32_t first;                 // of an anchor, the first one here
};

// Two lists, as one is made while the other is in use. `kSlopes`: with the slopes of the shares.
template <bool kSlopes>
class TapList {
 public:
  static constexpr int32_t kTile = 128;  // taps of a list
  // Floats of a tap's coefficients: the shares of its four corners, and four of no meaning; or
  // shares, slopes of the shares by x, slopes by y, and four of no meaning.
  static constexpr int32_t kCoefficients = kSlopes ? 16 : 8;
  static constexpr int32_t kFirstProduct = kSlopes ? 27 : 11;
  static constexpr int32_t kProducts = kSlopes ? 12 : 4;
  static constexpr int32_t kTemporaries = kSlopes ? kFirstProduct + kProducts : 23;
  static constexpr int32_t kList = 2 + kCoefficients;
  static constexpr int32_t kTileBytes =
      kTile * (2 * kList + kTemporaries + 1 + kCoefficients) * kWord;

  // `maps` [3, cams * scales]: widths, heights, first rows.
  __aicore__ inline void Init(TPipe& pipe, const DeformableAggregationTiling& tiling,
                              GM_ADDR maps) {
    scales_ = tiling.scales;
    cams_ = tiling.cams;
    map_stride_ = MapStride(tiling);
    maps_ = Take<int32_t>(pipe, 3 * map_stride_);
    lists_ = Take<float>(pipe, 2 * kTile * kList);
    temporary_ = Take<float>(pipe, kTile * kTemporaries);
    number_ = Take<float>(pipe, kTile);
    transposed_ = Take<uint32_t>(pipe, kTile * kCoefficients);
    made_.Init(pipe, 2);
    LoadMaps(maps, tiling.cams * tiling.scales);
    MakeConstants();
  }
  // Of UB.
  __aicore__ static inline int32_t Bytes(const DeformableAggregationTiling& tiling) {
    return 3 * MapStride(tiling) * kWord + kTileBytes;
  }

  // Begins the list of the taps [first, first + count) of the samples that are inside.
  __aicore__ inline void Make(int32_t list, int32_t first, int32_t count, const Samples& samples) {
    const auto size = Temporary(8), at = Temporary(6), second = Temporary(17);
    const Patches<kTile> patches{at, size, Temporary(11), Temporary(13), Integer(15), second};
    const auto start = Integer(10), width = Integer(3), down = Integer(4);
    const int32_t both = kTile + count;

    SetWait<HardEvent::S_V>();  // the list that was here has been read
    PipeBarrier<PIPE_V>();
    FindMaps(first, count, samples, at, size, start);
    Mul(at, at, size, both);
    LocatePatches(patches, 0.5f, both);
    Cast(width, size, RoundMode::CAST_RINT, count);
    Cast(down, second[kTile], RoundMode::CAST_RINT, count);
    PipeBarrier<PIPE_V>();
    const auto rows = Rows(list), widths = Widths(list);
    Mul(rows, patches.first[kTile], width, count);
    Add(start, start, patches.first, count);
    Add(widths, width, width, count);
    PipeBarrier<PIPE_V>();
    Add(rows, rows, start, count);
    Add(widths, widths, down, count);

    const auto share = Temporary(19), product = Temporary(kFirstProduct);
    WeighPixels(share, patches, both);
    MultiplyCorners<kTile>(product, share, share, count);
    if constexpr (kSlopes) {
      const auto slope = Temporary(23), flat = Temporary(0);
      SlopePixels(slope, flat, patches, both);
      // Locations are given in parts of the map.
      Mul(slope, slope, size, both);
      Mul(slope[2 * kTile], slope[2 * kTile], size, both);
      PipeBarrier<PIPE_V>();
      MultiplyCorners<kTile>(product[kCorners * kTile], slope, share, count);
      MultiplyCorners<kTile>(product[2 * kCorners * kTile], share, slope, count);
    }
    PipeBarrier<PIPE_V>();
    Gather(Coefficients(list), product, transposed_, 0, count * kCoefficients);
    made_.Set(list);
  }
  __aicore__ inline void WaitFor(int32_t list) { made_.Wait(list); }

  __aicore__ inline Patch GetPatch(int32_t list, int32_t tap) const {
    const int32_t width = Widths(list).GetValue(tap);
    return {Rows(list).GetValue(tap), width >> 1, width > 3, (width & 1) != 0};
  }
  __aicore__ inline LocalTensor<float> Coefficients(int32_t list) const {
    return lists_[list * kTile * kList + 2 * kTile];
  }

  // 0, 1 ... kTile - 1.
  __aicore__ inline const LocalTensor<float>& numbers() const { return number_; }
  // [kTemporaries, kTile], while no list is made.
  __aicore__ inline const LocalTensor<float>& scratch() const { return temporary_; }

 private:
  __aicore__ static inline int32_t MapStride(const DeformableAggregationTiling& tiling) {
    return RoundUp(tiling.cams * tiling.scales, kBlockWords);
  }
  __aicore__ inline LocalTensor<int32_t> Rows(int32_t list) const {
    return lists_[list * kTile * kList].template ReinterpretCast<int32_t>();
  }
  // Twice the width of the map, and whether it has a second row.
  __aicore__ inline LocalTensor<int32_t> Widths(int32_t list) const {
    return lists_[list * kTile * kList + kTile].template ReinterpretCast<int32_t>();
  }
  __aicore__ inline LocalTensor<float> Temporary(int32_t at) const {
    return temporary_[at * kTile];
  }
  __aicore__ inline LocalTensor<int32_t> Integer(int32_t at) const {
    return Temporary(at).template ReinterpretCast<int32_t>();
  }

  __aicore__ inline void LoadMaps(GM_ADDR maps, int32_t count) {
    GlobalTensor<int32_t> table;
    Bind(table, maps);
    const auto bytes = static_cast<uint32_t>(count * kWord);
    const auto padding = static_cast<uint8_t>(map_stride_ - count);
    DataCopyPad(maps_, table, DataCopyExtParams{3, bytes, 0, 0, 0},
                DataCopyPadExtParams<int32_t>{padding != 0, 0, padding, 0});
    SetWait<HardEvent::MTE2_V>();
    const auto sizes = maps_.template ReinterpretCast<float>();
    Cast(sizes, maps_, RoundMode::CAST_NONE, 2 * map_stride_);
  }

  // number_: 0, 1, 2 ...; transposed_: where in the products [kProducts, kTile] a coefficient comes
  // from, in bytes.
  __aicore__ inline void MakeConstants() {
    constexpr int32_t kCount = kTile * kCoefficients;
    const auto product = transposed_.template ReinterpretCast<float>();
    Duplicate(temporary_, 0.0f, kTile * kTemporaries);
    CreateVecIndex(number_, 0.0f, kTile);
    CreateVecIndex(product, 0.0f, kCount);
    PipeBarrier<PIPE_V>();
    for (int32_t begin = 0; begin < kCount; begin += kTile) {
      const auto tap = Temporary(0);
      DivideSmall(product[begin], tap, Integer(1), kCoefficients, kTile);
      Mins(product[begin], product[begin], static_cast<float>(kProducts - 1), kTile);
      PipeBarrier<PIPE_V>();
      Axpy(tap, product[begin], static_cast<float>(kTile), kTile);
      PipeBarrier<PIPE_V>();
      Muls(tap, tap, static_cast<float>(kWord), kTile);
      PipeBarrier<PIPE_V>();
      Cast(transposed_.template ReinterpretCast<int32_t>()[begin], tap, RoundMode::CAST_RINT,
           kTile);
      PipeBarrier<PIPE_V>();
    }
  }

  // The taps' locations, and the sizes and first rows of their maps.
  __aicore__ inline void FindMaps(int32_t first, int32_t count, const Samples& samples,
                                  const LocalTensor<float>& at, const LocalTensor<float>& size,
                                  const LocalTensor<int32_t>& start) {
    const auto scale = Temporary(0), which = Temporary(1), quotient = Temporary(2);
    const auto number = Temporary(5);
    const auto whole = Integer(3), offset = Integer(4);
    const auto address = offset.template ReinterpretCast<uint32_t>();
    Adds(scale, number_, static_cast<float>(first), count);
    PipeBarrier<PIPE_V>();
    DivideSmall(scale, which, whole, scales_, count);
    Muls(offset, whole, kWord, count);
    PipeBarrier<PIPE_V>();
    Gather(number, samples.inside, address, 0, count);
    PipeBarrier<PIPE_V>();
    Cast(whole, number, RoundMode::CAST_RINT, count);
    PipeBarrier<PIPE_V>();
    Muls(offset, whole, 2 * kWord, count);
    PipeBarrier<PIPE_V>();
    Gather(at, samples.locations, address, 0, count);
    Gather(at[kTile], samples.locations, address, kWord, count);
    // The sample's camera, then the map.
    DivideSmall(number, quotient, whole, samples.padded, count);
    Adds(number, number, static_cast<float>(samples.first % cams_), count);
    PipeBarrier<PIPE_V>();
    DivideSmall(number, quotient, whole, cams_, count);
    Axpy(scale, number, static_cast<float>(scales_), count);
    PipeBarrier<PIPE_V>();
    Muls(scale, scale, static_cast<float>(kWord), count);
    PipeBarrier<PIPE_V>();
    Cast(offset, scale, RoundMode::CAST_RINT, count);
    PipeBarrier<PIPE_V>();
    const auto sizes = maps_.template ReinterpretCast<float>();
    Gather(size, sizes, address, 0, count);
    Gather(size[kTile], sizes[map_stride_], address, 0, count);
    Gather(start, maps_[2 * map_stride_], address, 0, count);
    PipeBarrier<PIPE_V>();
  }

  int32_t cams_, scales_;
  int32_t map_stride_;            // maps, as they lie in UB
  LocalTensor<int32_t> maps_;     // widths and heights, as floats, and first rows
  LocalTensor<float> lists_;      // two of [rows, widths, coefficients]
  LocalTensor<float> temporary_;  // [kTemporaries, kTile]
  LocalTensor<float> number_;     // [kTile]
  LocalTensor<uint32_t> transposed_;
  Events<HardEvent::V_S> made_;
};

}  // namespace mxd::kernels::deformable_aggregation
