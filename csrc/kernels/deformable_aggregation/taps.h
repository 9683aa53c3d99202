// The taps of a block's anchors, in their order. Anchor i belongs to block i % blocks.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/numbers.h"
#include "../deformable_aggregation_tiling.h"
#include "kernel_operator.h"
#include "tap_list.h"

namespace mxd::kernels::deformable_aggregation {

template <bool kSlopes>
class Taps {
  using List = TapList<kSlopes>;
  static constexpr int32_t kChunkStep = 64;  // samples: what a compare takes at a time

 public:
  static constexpr int32_t kCoefficients = List::kCoefficients;
  // Most bytes of UB that all of it takes with the smallest chunk of samples.
  static constexpr int32_t kLeastBytes =
      List::kTileBytes + 3 * kMaxMaps * kWord + kChunkStep * 3 * kWord + 4 * kBlockBytes;

  // `locations` [all_anchors, samples, 2]; `maps` [3, cams * scales]: widths, heights, first rows.
  // `used` bytes of UB are taken.
  __aicore__ inline void Init(TPipe& pipe, const DeformableAggregationTiling& tiling,
                              GM_ADDR locations, GM_ADDR maps, int32_t used) {
    tiling_ = tiling;
    Bind(locations_, locations);
    blocks_ = GetBlockNum();
    block_ = GetBlockIdx();
    own_ = block_ < tiling.all_anchors ? CeilDiv(tiling.all_anchors - block_, blocks_) : 0;
    padded_ = Padded(tiling.samples);

    // Each sample of a chunk takes three floats and four bits, the latter in blocks.
    const int32_t fixed = used + List::Bytes(tiling) + 4 * kBlockBytes;
    const int32_t room = (kUbBytes - fixed) * 2 / (6 * kWord + 1);
    const int32_t most = MinOf(room, kTile * List::kTemporaries) / kChunkStep * kChunkStep;
    const int32_t anchors = MinOf(own_, most / padded_ + 1);
    chunk_ = MaxOf(kChunkStep, MinOf(most, RoundUp(anchors * padded_, kChunkStep)));
    mask_ = RoundUp(chunk_, 8 * kBlockBytes) / 16;

    pipe.InitBuffer(location_queue_, 1, chunk_ * 2 * kWord);
    inside_ = Take<float>(pipe, chunk_);
    masks_ = Take<uint16_t>(pipe, 4 * mask_);
    list_.Init(pipe, tiling, maps);
  }

  // Calls, for each anchor of this block in order, sink.Add(anchor, tap, first, count) for runs of
  // taps of one sample, the first of them tap number `tap` = sample * scales + scale and in the
  // list at `first`, then sink.End(anchor). sink.Flush() says that the list is about to go.
  template <typename Sink>
  __aicore__ inline void Walk(Sink& sink) {
    anchor_ = 0;
    const int32_t together = tiling_.samples <= chunk_ ? chunk_ / padded_ : 1;
    const int32_t length = MinOf(tiling_.samples, chunk_);
    for (int32_t anchor = 0; anchor < own_; anchor += together)
      for (int32_t sample = 0; sample < tiling_.samples; sample += length)
        WalkChunk(sink, anchor, MinOf(together, own_ - anchor), sample,
                  MinOf(length, tiling_.samples - sample));
    for (; anchor_ < own_; anchor_++) sink.End(Anchor(anchor_));
  }

  // Of the list in use.
  __aicore__ inline Patch GetPatch(int32_t tap) const { return list_.GetPatch(in_use_, tap); }
  __aicore__ inline LocalTensor<float> GetCoefficients(int32_t tap) const {
    return list_.Coefficients(in_use_)[tap * kCoefficients];
  }

 private:
  static constexpr int32_t kTile = List::kTile;

  __aicore__ static inline int32_t Padded(int32_t samples) {
    return RoundUp(samples, kBlockBytes / (2 * kWord));
  }
  __aicore__ inline int64_t Anchor(int32_t own) const {
    return block_ + static_cast<int64_t>(own) * blocks_;
  }

  // Samples [sample, sample + length) of the block's anchors [anchor, anchor + count).
  template <typename Sink>
  __aicore__ inline void WalkChunk(Sink& sink, int32_t anchor, int32_t count, int32_t sample,
                                   int32_t length) {
    const int32_t padded = Padded(length);
    const auto locations = location_queue_.template AllocTensor<float>();
    const uint32_t bytes = length * 2 * kWord;
    const uint32_t gap = (static_cast<int64_t>(blocks_) * tiling_.samples - length) * 2 * kWord;
    const uint8_t padding = (padded - length) * 2;
    DataCopyPad(locations, locations_[(Anchor(anchor) * tiling_.samples + sample) * 2],
                DataCopyExtParams{static_cast<uint16_t>(count), bytes, count > 1 ? gap : 0, 0, 0},
                DataCopyPadExtParams<float>{padding != 0, 0, padding, 0.0f});
    location_queue_.EnQue(locations);
    const Samples samples{location_queue_.template DeQue<float>(), inside_, padded, sample};
    const int32_t taps = Compact(samples.locations, count * padded) * tiling_.scales;

    if (taps > 0) list_.Make(0, 0, MinOf(kTile, taps), samples);
    for (int32_t first = 0, list = 0; first < taps; first += kTile, list = 1 - list) {
      list_.WaitFor(list);
      const int32_t next = first + kTile;
      if (next < taps) list_.Make(1 - list, next, MinOf(kTile, taps - next), samples);
      in_use_ = list;
      AddTaps(sink, first, MinOf(next, taps), padded, anchor, sample);
      sink.Flush();
    }
    LocalTensor<float> loaded = samples.locations;
    location_queue_.FreeTensor(loaded);
  }

  template <typename Sink>
  __aicore__ inline void AddTaps(Sink& sink, int32_t begin, int32_t end, int32_t padded,
                                 int32_t anchor, int32_t sample) {
    for (int32_t tap = begin; tap < end;) {
      const int32_t which = tap / tiling_.scales, scale = tap - which * tiling_.scales;
      const int32_t run = MinOf(tiling_.scales - scale, end - tap);
      const int32_t number = static_cast<int32_t>(inside_.GetValue(which));
      const int32_t offset = number / padded;
      for (; anchor_ < anchor + offset; anchor_++) sink.End(Anchor(anchor_));
      const int64_t all = Anchor(anchor_) * tiling_.samples + sample + number - offset * padded;
      sink.Add(Anchor(anchor_), all * tiling_.scales + scale, tap - begin, run);
      tap += run;
    }
  }

  // Which of the `count` samples are strictly inside of their image: their numbers go to inside_.
  // Returns how many there are.
  __aicore__ inline int32_t Compact(const LocalTensor<float>& locations, int32_t count) {
    const GatherMaskParams whole{1, 1, 8, 8};
    const auto value = list_.scratch();
    uint64_t kept = 0;
    for (uint8_t axis = 0; axis < 2; axis++) {
      const auto above = masks_[2 * axis * mask_], below = masks_[(2 * axis + 1) * mask_];
      PipeBarrier<PIPE_V>();
      GatherMask(value, locations, static_cast<uint8_t>(1 + axis), true, 2 * count, whole, kept);
      PipeBarrier<PIPE_V>();
      CompareAll(above, value, 0.0f, CMPMODE::GT, count);
      CompareAll(below, value, 1.0f, CMPMODE::LT, count);
      PipeBarrier<PIPE_V>();
      And(above, above, below, RoundUp(count, kChunkStep) / 16);
    }
    Adds(value, list_.numbers(), 0.0f, MinOf(kTile, count));
    PipeBarrier<PIPE_V>();
    ExtendNumbers(value, kTile, count);
    And(masks_, masks_, masks_[2 * mask_], RoundUp(count, kChunkStep) / 16);
    SetWait<HardEvent::S_V>();  // the numbers that were here have been read
    PipeBarrier<PIPE_V>();
    GatherMask(inside_, value, masks_.template ReinterpretCast<uint32_t>(), true, count, whole,
               kept);
    return static_cast<int32_t>(kept);
  }

  __aicore__ inline void CompareAll(const LocalTensor<uint16_t>& bits,
                                    const LocalTensor<float>& value, float bound, CMPMODE mode,
                                    int32_t count) {
    CompareScalar(bits.template ReinterpretCast<uint8_t>(), value, bound, mode,
                  RoundUp(count, kChunkStep));
  }

  DeformableAggregationTiling tiling_;
  List list_;
  int32_t block_, blocks_;
  int32_t own_;     // anchors of this block
  int32_t padded_;  // samples of an anchor, as they lie in UB
  int32_t chunk_;   // samples whose locations are in UB at a time
  int32_t mask_;    // words of a bit for each of them
  int32_t anchor_;  // of this block's, the one whose taps are next
  int32_t in_use_;  // the list

  GlobalTensor<float> locations_;
  TQue<TPosition::VECIN, 1> location_queue_;
  LocalTensor<float> inside_;    // [chunk_]: the numbers of samples inside
  LocalTensor<uint16_t> masks_;  // [4, mask_]: a bit for each sample
};

}  // namespace mxd::kernels::deformable_aggregation
