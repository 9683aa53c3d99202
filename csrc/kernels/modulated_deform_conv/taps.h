// Where the taps of a batch read, and by which weights: vector instructions work on all of them at
// once. A tap is an output position at a kernel point; it reads the 2 x 2 pixels around it. Taps
// lie point by point, each with the positions of one vector core.
#pragma once

#include "../common/bilinear.h"
#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/index_list.h"
#include "../common/integer_lanes.h"
#include "kernel_operator.h"
#include "schedule.h"

namespace mxd::kernels::modulated_deform_conv {

// Two lists of kTile taps, as one is made while the other is in use. `kSlopes`: with what the
// gradients of offset and mask need.
template <typename T, int32_t kTile, bool kSlopes>
class Taps {
  static constexpr int32_t kHalf = kMaxTile / 2;
  // Of a list, each of kTile words: the pixel; the corners' weights; and the pixels' weights by x
  // and y without the mask, their slopes, and the mask.
  static constexpr int32_t kFactors = 1, kShares = 5, kSlope = 9, kMask = 13;
  static constexpr int32_t kList = kSlopes ? 14 : 5;
  static constexpr int32_t kScratch = 16;  // of kTile words
  static constexpr bool kConvert = sizeof(T) != sizeof(float);

 public:
  static constexpr int32_t kUbBytes = kTile * (2 * kList + kScratch) * kWord +
                                      3 * kTile * static_cast<int32_t>(sizeof(T)) +
                                      6 * kHalf * kWord + RoundUp(2 * kTile / 8, kBlockBytes);

  __aicore__ inline Taps(TPipe& pipe, GM_ADDR offset, GM_ADDR mask,
                         const ModulatedDeformConvTiling& tiling)
      : tiling_(tiling),
        half_(tiling.tile / 2),
        lists_(Take<float>(pipe, 2 * kList * kTile)),
        scratch_(Take<float>(pipe, kScratch * kTile)),
        loaded_(Take<T>(pipe, 3 * kTile)),
        numbers_(Take<float>(pipe, kHalf)),
        anchors_(Take<float>(pipe, 5 * kHalf)),
        inside_(Take<uint8_t>(pipe, 2 * kTile / 8)) {
    Bind(offset_, offset, mask_, mask);
    made_.Init(pipe, 2);
    loaded_free_.Init(pipe, 1);
    // Instructions work on whole lists.
    Duplicate(scratch_, 0.0f, kScratch * kTile);
    Duplicate(lists_, 0.0f, 2 * kList * kTile);
    Duplicate(loaded_, T{}, 3 * kTile);
    CreateVecIndex(numbers_, 0.0f, kHalf);
    PipeBarrier<PIPE_V>();
    Duplicate(Scratch(kSize), static_cast<float>(tiling.size[1]), kTile);
    Duplicate(Scratch(kSize + 1), static_cast<float>(tiling.size[0]), kTile);
    if constexpr (kSlopes) {
      for (int32_t list = 0; list < 2; ++list) Duplicate(Get(list, kMask), 1.0f, kTile);
    }
  }
  __aicore__ inline void Begin() { loaded_free_.Set(); }
  __aicore__ inline void End() { loaded_free_.Wait(); }

  // Begins a list: of the positions [first, first + count) of the unit, at the batch's kernel
  // points.
  __aicore__ inline void Make(int32_t list, const Batch& batch, int32_t first, int32_t count) {
    Load(batch, first, count);
    const int32_t taps = batch.points * half_, both = kTile + taps;
    SetWait<HardEvent::S_V>();  // the list that was here has been read
    PipeBarrier<PIPE_V>();
    FindAnchors(first);
    const auto at = Scratch(kAt), place = Scratch(kOrigin);
    for (int32_t i = 0; i < batch.points; ++i) {
      const int32_t point = batch.point + i, row = point / tiling_.kernel[1];
      const int32_t column = point - row * tiling_.kernel[1];
      Adds(place[i * half_], anchors_, static_cast<float>(column * tiling_.dilation[1]), half_);
      Adds(place[kTile + i * half_], anchors_[kHalf], static_cast<float>(row * tiling_.dilation[0]),
           half_);
    }
    PipeBarrier<PIPE_V>();
    SetWait<HardEvent::MTE2_V>();
    const auto weights = Scratch(kWeights), pixel = Scratch(kPixel);
    if constexpr (kConvert) {
      Cast(at, loaded_, RoundMode::CAST_NONE, both);
      PipeBarrier<PIPE_V>();
      Add(at, at, place, both);
    } else {
      Add(at, loaded_, place, both);
    }
    PipeBarrier<PIPE_V>();
    // A tap that is not a number, or above or left of the image: then no pixel is near.
    CompareScalar(inside_, at, -1.0f, CMPMODE::GT, RoundUp(both, kLanes));
    PipeBarrier<PIPE_V>();
    Select(at, inside_, at, -2.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, both);
    PipeBarrier<PIPE_V>();
    const auto first_pixel = Scratch(kFirst).template ReinterpretCast<int32_t>();
    const Patches<kTile> patches{at, Scratch(kSize), pixel, place, first_pixel, Scratch(kSecond)};
    LocatePatches(patches, 0.0f, both);
    PipeBarrier<PIPE_V>();
    const auto pixels = Pixels(list);
    Muls(pixels, first_pixel[kTile], tiling_.size[1], taps);
    PipeBarrier<PIPE_V>();
    Add(pixels, pixels, first_pixel, taps);
    WeighPixels(weights, patches, both);
    if constexpr (kSlopes) {
      Adds(Get(list, kShares), weights, 0.0f, 4 * kTile);
      SlopePixels(Get(list, kSlope), at, patches, both);  // at and what follows is free
    }
    if (tiling_.has_mask) {
      const auto mask = kSlopes ? Get(list, kMask) : pixel;
      if constexpr (kConvert)
        Cast(mask, loaded_[2 * kTile], RoundMode::CAST_NONE, taps);
      else
        Adds(mask, loaded_[2 * kTile], 0.0f, taps);
      PipeBarrier<PIPE_V>();
      // It goes into the weights of both pixels by y.
      Mul(weights[kTile], weights[kTile], mask, taps);
      Mul(weights[3 * kTile], weights[3 * kTile], mask, taps);
      PipeBarrier<PIPE_V>();
    }
    loaded_free_.Set();
    MultiplyCorners<kTile>(Weights(list), weights, weights, taps);
    made_.Set(list);
  }
  __aicore__ inline void WaitFor(int32_t list) { made_.Wait(list); }

  // Of each tap the number of the upper left pixel in its image.
  __aicore__ inline LocalTensor<int32_t> Pixels(int32_t list) const {
    return Get(list, 0).template ReinterpretCast<int32_t>();
  }
  // [kCorners, kTile], times the mask.
  __aicore__ inline LocalTensor<float> Weights(int32_t list) const { return Get(list, kFactors); }
  // [4, kTile]: weights of the left and the upper pixels, of the right and the lower ones, without
  // the mask; and how they change with x and y.
  __aicore__ inline LocalTensor<float> Shares(int32_t list) const { return Get(list, kShares); }
  __aicore__ inline LocalTensor<float> Slopes(int32_t list) const { return Get(list, kSlope); }
  __aicore__ inline LocalTensor<float> Mask(int32_t list) const { return Get(list, kMask); }

 private:
  // Of the scratch, each of x and of y.
  static constexpr int32_t kSize = 0, kPixel = 2, kOrigin = 4, kSecond = 6, kAt = 8, kFirst = 10;
  static constexpr int32_t kWeights = 12;  // of two pixels

  __aicore__ inline LocalTensor<float> Scratch(int32_t at) const { return scratch_[at * kTile]; }
  __aicore__ inline LocalTensor<float> Get(int32_t list, int32_t which) const {
    return lists_[(list * kList + which) * kTile];
  }

  __aicore__ inline void Load(const Batch& batch, int32_t first, int32_t count) {
    constexpr int32_t kSize = sizeof(T);
    const int64_t positions = Positions(tiling_);
    const int64_t plane =
        static_cast<int64_t>(batch.unit.image) * tiling_.deform_groups + batch.deform_group;
    const int64_t point = plane * Points(tiling_) + batch.point;
    const auto bytes = static_cast<uint32_t>(count * kSize);
    const auto gap =
        static_cast<uint32_t>(half_ * kSize - RoundUp(count * kSize, kBlockBytes)) / kBlockBytes;
    const auto points = static_cast<uint16_t>(batch.points);
    const auto rest = static_cast<uint32_t>((positions - count) * kSize);
    const auto whole = static_cast<uint32_t>(positions * kSize);
    const DataCopyPadExtParams<T> no_padding{false, 0, 0, T{}};
    loaded_free_.Wait();
    for (int32_t axis = 0; axis < 2; ++axis)  // y comes first
      DataCopyPad(loaded_[(1 - axis) * kTile], offset_[(point * 2 + axis) * positions + first],
                  DataCopyExtParams{points, bytes, rest + whole, gap, 0}, no_padding);
    if (tiling_.has_mask)
      DataCopyPad(loaded_[2 * kTile], mask_[point * positions + first],
                  DataCopyExtParams{points, bytes, rest, gap, 0}, no_padding);
  }

  // anchors_: where in the image the positions from `first` on lie, x then y.
  __aicore__ inline void FindAnchors(int32_t first) {
    const int32_t width = tiling_.out_size[1], row = first / width;
    const auto x = anchors_, y = anchors_[kHalf];
    const auto whole = anchors_[2 * kHalf].template ReinterpretCast<int32_t>();
    Adds(x, numbers_, static_cast<float>(first - row * width), half_);
    PipeBarrier<PIPE_V>();
    DivideSmall(x, y, whole, width, half_);
    Adds(y, y, static_cast<float>(row), half_);
    Muls(x, x, static_cast<float>(tiling_.stride[1]), half_);
    PipeBarrier<PIPE_V>();
    Muls(y, y, static_cast<float>(tiling_.stride[0]), half_);
    Adds(x, x, static_cast<float>(-tiling_.padding[1]), half_);
    PipeBarrier<PIPE_V>();
    Adds(y, y, static_cast<float>(-tiling_.padding[0]), half_);
    PipeBarrier<PIPE_V>();
  }

  const ModulatedDeformConvTiling& tiling_;
  const int32_t half_;
  GlobalTensor<T> offset_, mask_;
  LocalTensor<float> lists_;    // [2, kList, kTile]
  LocalTensor<float> scratch_;  // [kScratch, kTile]
  LocalTensor<T> loaded_;       // [3, kTile]: offsets by x, by y, and the mask
  LocalTensor<float> numbers_;  // 0, 1 ...
  LocalTensor<float> anchors_;  // [5, kHalf]
  LocalTensor<uint8_t> inside_;
  Events<HardEvent::V_S> made_;
  Events<HardEvent::V_MTE2> loaded_free_;
};

}  // namespace mxd::kernels::modulated_deform_conv
