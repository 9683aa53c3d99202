// What the Ascend C kernels of deformable aggregation share: the taps, where they read and with
// which shares.
//
// A sample is one point of an anchor in one camera, a tap a sample inside of its image at one
// scale. A tap reads a patch, the 2 x 2 pixels around it, moved inside of the map at a border: what
// lies beside the map has no share, and a pixel that takes its place has the share zero. Anchor i
// belongs to block i % blocks. All that a tap needs is computed by vector instructions for many
// taps at once, so that the scalar unit only starts DMAs.
#pragma once

#include "deformable_aggregation_tiling.h"
#include "kernel_operator.h"

namespace mxd::deformable_aggregation {

using AscendC::BinaryRepeatParams;
using AscendC::DataCopyExtParams;
using AscendC::DataCopyPadExtParams;
using AscendC::GlobalTensor;
using AscendC::HardEvent;
using AscendC::LocalTensor;
using AscendC::RoundMode;
using AscendC::TBuf;
using AscendC::TPipe;
using AscendC::TPosition;
using AscendC::TQue;

constexpr int32_t kUnifiedBuffer = 196608;
constexpr int32_t kBlockBytes = 32;
constexpr int32_t kCorners = 4;  // upper left, upper right, lower left, lower right
constexpr int32_t kFloat = sizeof(float);

__aicore__ inline int32_t Least(int32_t a, int32_t b) { return a < b ? a : b; }
__aicore__ inline int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }
__aicore__ inline int32_t RoundUp(int32_t a, int32_t b) { return CeilDiv(a, b) * b; }

// Between vector instructions of which one reads what the other wrote.
__aicore__ inline void Then() { AscendC::PipeBarrier<PIPE_V>(); }

// Holds the pipe of the event's second half until that of the first has done all before.
template <HardEvent kEvent>
__aicore__ inline void Await() {
  AscendC::SetFlag<kEvent>(EVENT_ID0);
  AscendC::WaitFlag<kEvent>(EVENT_ID0);
}

// The patch of a tap: its upper left pixel is row `row` of the maps of an element of the batch.
struct Patch {
  int32_t row, width;  // of the map
  bool right, down;    // whether the map has a second column, a second row
};

// The taps of this block's anchors. `kSlopes`: with the slopes of their shares.
template <bool kSlopes>
class Taps {
 public:
  // Floats of a tap's coefficients: the shares of its four corners, and four of no meaning; or
  // shares, slopes of the shares by x, slopes by y, and four of no meaning.
  static constexpr int32_t kCoefficients = kSlopes ? 16 : 8;

  // `locations` [all_anchors, samples, 2]; `maps` [3, cams * scales]: widths, heights, first rows.
  // `used` bytes of UB are taken.
  __aicore__ inline void Init(TPipe& pipe, const DeformableAggregationTiling& tiling,
                              GM_ADDR locations, GM_ADDR maps, int32_t used) {
    tiling_ = tiling;
    locations_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(locations));
    blocks_ = AscendC::GetBlockNum();
    block_ = AscendC::GetBlockIdx();
    own_ = block_ < tiling.all_anchors ? CeilDiv(tiling.all_anchors - block_, blocks_) : 0;
    padded_ = RoundUp(tiling.samples, kBlockBytes / (2 * kFloat));
    const int32_t map_count = tiling.cams * tiling.scales;
    map_stride_ = RoundUp(map_count, kBlockFloats);

    const int32_t fixed = used + kFloat * (3 * map_stride_ + kTile * kTileFloats);
    // Each sample of a chunk takes three floats and four bits, the latter in blocks.
    const int32_t room = (kUnifiedBuffer - fixed - 4 * kBlockBytes) * 2 / (6 * kFloat + 1);
    const int32_t most = Least(room, kTile * kTemporaries) / kChunkStep * kChunkStep;
    const int32_t anchors = Least(own_, most / padded_ + 1);
    chunk_ = Least(most, RoundUp(anchors * padded_, kChunkStep));
    chunk_ = chunk_ < kChunkStep ? kChunkStep : chunk_;
    mask_ = RoundUp(chunk_, 8 * kBlockBytes) / 16;

    pipe.InitBuffer(map_buffer_, 3 * map_stride_ * kFloat);
    pipe.InitBuffer(tile_buffer_, kTile * kTileFloats * kFloat);
    pipe.InitBuffer(location_queue_, 1, chunk_ * 2 * kFloat);
    pipe.InitBuffer(inside_buffer_, chunk_ * kFloat);
    pipe.InitBuffer(mask_buffer_, 4 * mask_ * sizeof(uint16_t));

    maps_ = map_buffer_.Get<int32_t>();
    const auto tile = tile_buffer_.Get<float>();
    lists_ = tile;
    temporary_ = tile[kTile * 2 * kList];
    number_ = temporary_[kTile * kTemporaries];
    transposed_ = number_[kTile].template ReinterpretCast<uint32_t>();
    inside_ = inside_buffer_.Get<float>();
    masks_ = mask_buffer_.Get<uint16_t>();
    LoadMaps(maps, map_count);
    MakeConstants();
  }

  // Calls, for each anchor of this block in order, sink.Add(anchor, tap, first, count) for runs of
  // taps of one sample, the first of them tap number `tap` = sample * scales + scale and in the
  // list at `first`, then sink.End(anchor). sink.Flush() says that the list is about to go.
  template <typename Sink>
  __aicore__ inline void Walk(Sink& sink) {
    anchor_ = 0;
    const int32_t together = tiling_.samples <= chunk_ ? chunk_ / padded_ : 1;
    const int32_t length = Least(tiling_.samples, chunk_);
    for (int32_t anchor = 0; anchor < own_; anchor += together)
      for (int32_t sample = 0; sample < tiling_.samples; sample += length)
        WalkChunk(sink, anchor, Least(together, own_ - anchor), sample,
                  Least(length, tiling_.samples - sample));
    for (; anchor_ < own_; anchor_++) sink.End(Anchor(anchor_));
  }

  __aicore__ inline Patch GetPatch(int32_t tap) const {
    const int32_t width = Widths(list_).GetValue(tap);
    return {Rows(list_).GetValue(tap), width >> 1, width > 3, (width & 1) != 0};
  }

  __aicore__ inline LocalTensor<float> GetCoefficients(int32_t tap) const {
    return Coefficients(list_)[tap * kCoefficients];
  }

 private:
  static constexpr int32_t kTile = 128;      // taps that are listed at a time
  static constexpr int32_t kChunkStep = 64;  // what a compare takes at a time
  static constexpr int32_t kList = 2 + kCoefficients;
  static constexpr int32_t kProducts = kSlopes ? 12 : 4;
  static constexpr int32_t kFirstProduct = kSlopes ? 27 : 11;
  static constexpr int32_t kTemporaries = kSlopes ? kFirstProduct + kProducts : 23;
  static constexpr int32_t kTileFloats = 2 * kList + kTemporaries + 1 + kCoefficients;

  __aicore__ inline int64_t Anchor(int32_t own) const {
    return block_ + static_cast<int64_t>(own) * blocks_;
  }

  // Of two lists, as one is made while the other is in use.
  __aicore__ inline LocalTensor<int32_t> Rows(int32_t list) const {
    return lists_[list * kTile * kList].template ReinterpretCast<int32_t>();
  }
  __aicore__ inline LocalTensor<int32_t> Widths(int32_t list) const {
    return lists_[list * kTile * kList + kTile].template ReinterpretCast<int32_t>();
  }
  __aicore__ inline LocalTensor<float> Coefficients(int32_t list) const {
    return lists_[list * kTile * kList + 2 * kTile];
  }
  __aicore__ inline LocalTensor<float> Temporary(int32_t at) const {
    return temporary_[at * kTile];
  }

  __aicore__ inline void LoadMaps(GM_ADDR maps, int32_t count) {
    GlobalTensor<int32_t> table;
    table.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(maps));
    const auto bytes = static_cast<uint32_t>(count * kFloat);
    const auto padding = static_cast<uint8_t>(map_stride_ - count);
    AscendC::DataCopyPad(maps_, table, DataCopyExtParams{3, bytes, 0, 0, 0},
                         DataCopyPadExtParams<int32_t>{padding != 0, 0, padding, 0});
    Await<HardEvent::MTE2_V>();
    const auto sizes = maps_.template ReinterpretCast<float>();
    AscendC::Cast(sizes, maps_, RoundMode::CAST_NONE, 2 * map_stride_);
  }

  // number_: 0, 1, 2 ...; transposed_: where in the products [kProducts, kTile] a coefficient comes
  // from, in bytes.
  __aicore__ inline void MakeConstants() {
    constexpr int32_t kCount = kTile * kCoefficients;
    const auto product = transposed_.template ReinterpretCast<float>();
    AscendC::Duplicate(temporary_, 0.0f, kTile * kTemporaries);
    AscendC::CreateVecIndex(number_, 0.0f, kTile);
    AscendC::CreateVecIndex(product, 0.0f, kCount);
    Then();
    for (int32_t begin = 0; begin < kCount; begin += kTile) {
      const auto tap = Temporary(0);
      Divide(product[begin], tap, Temporary(1).template ReinterpretCast<int32_t>(), kCoefficients,
             kTile);
      AscendC::Mins(product[begin], product[begin], static_cast<float>(kProducts - 1), kTile);
      Then();
      AscendC::Axpy(tap, product[begin], static_cast<float>(kTile), kTile);
      Then();
      AscendC::Muls(tap, tap, static_cast<float>(kFloat), kTile);
      Then();
      AscendC::Cast(transposed_.template ReinterpretCast<int32_t>()[begin], tap,
                    RoundMode::CAST_RINT, kTile);
      Then();
    }
  }

  // quotient = floor(value / divisor), value -= divisor * quotient, of whole numbers below 2**20.
  __aicore__ inline void Divide(const LocalTensor<float>& value, const LocalTensor<float>& quotient,
                                const LocalTensor<int32_t>& whole, int32_t divisor, int32_t count) {
    AscendC::Adds(quotient, value, 0.5f, count);
    Then();
    AscendC::Muls(quotient, quotient, 1.0f / static_cast<float>(divisor), count);
    Then();
    AscendC::Cast(whole, quotient, RoundMode::CAST_FLOOR, count);
    Then();
    AscendC::Cast(quotient, whole, RoundMode::CAST_NONE, count);
    Then();
    AscendC::Axpy(value, quotient, -static_cast<float>(divisor), count);
    Then();
  }

  // Samples [sample, sample + length) of the block's anchors [anchor, anchor + count).
  template <typename Sink>
  __aicore__ inline void WalkChunk(Sink& sink, int32_t anchor, int32_t count, int32_t sample,
                                   int32_t length) {
    const int32_t padded = RoundUp(length, kBlockBytes / (2 * kFloat));
    const auto locations = location_queue_.AllocTensor<float>();
    const uint32_t bytes = length * 2 * kFloat;
    const uint32_t gap = (static_cast<int64_t>(blocks_) * tiling_.samples - length) * 2 * kFloat;
    const uint8_t padding = (padded - length) * 2;
    AscendC::DataCopyPad(
        locations, locations_[(Anchor(anchor) * tiling_.samples + sample) * 2],
        DataCopyExtParams{static_cast<uint16_t>(count), bytes, count > 1 ? gap : 0, 0, 0},
        DataCopyPadExtParams<float>{padding != 0, 0, padding, 0.0f});
    location_queue_.EnQue(locations);
    loaded_ = location_queue_.DeQue<float>();
    const int32_t taps = Compact(count * padded) * tiling_.scales;

    if (taps > 0) List(0, 0, Least(kTile, taps), padded, sample);
    for (int32_t first = 0, list = 0; first < taps; first += kTile, list = 1 - list) {
      AscendC::WaitFlag<HardEvent::V_S>(list);
      const int32_t next = first + kTile;
      if (next < taps) List(1 - list, next, Least(kTile, taps - next), padded, sample);
      list_ = list;
      AddTaps(sink, first, Least(next, taps), padded, anchor, sample);
      sink.Flush();
    }
    location_queue_.FreeTensor(loaded_);
  }

  template <typename Sink>
  __aicore__ inline void AddTaps(Sink& sink, int32_t begin, int32_t end, int32_t padded,
                                 int32_t anchor, int32_t sample) {
    for (int32_t tap = begin; tap < end;) {
      const int32_t which = tap / tiling_.scales, scale = tap - which * tiling_.scales;
      const int32_t run = Least(tiling_.scales - scale, end - tap);
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
  __aicore__ inline int32_t Compact(int32_t count) {
    const AscendC::GatherMaskParams whole{1, 1, 8, 8};
    const auto value = temporary_;
    uint64_t kept = 0;
    for (uint8_t axis = 0; axis < 2; axis++) {
      const auto above = masks_[2 * axis * mask_], below = masks_[(2 * axis + 1) * mask_];
      Then();
      AscendC::GatherMask(value, loaded_, static_cast<uint8_t>(1 + axis), true, 2 * count, whole,
                          kept);
      Then();
      Compare(above, value, 0.0f, AscendC::CMPMODE::GT, count);
      Compare(below, value, 1.0f, AscendC::CMPMODE::LT, count);
      Then();
      AscendC::And(above, above, below, RoundUp(count, kChunkStep) / 16);
    }
    // 0, 1, 2 ...: not by CreateVecIndex, whose scalar writes would not wait for the reads above.
    AscendC::Adds(value, number_, 0.0f, Least(kTile, count));
    Then();
    for (int32_t have = kTile; have < count; have *= 2) {
      AscendC::Adds(value[have], value, static_cast<float>(have), Least(have, count - have));
      Then();
    }
    AscendC::And(masks_, masks_, masks_[2 * mask_], RoundUp(count, kChunkStep) / 16);
    Await<HardEvent::S_V>();  // the numbers that were here have been read
    Then();
    AscendC::GatherMask(inside_, value, masks_.template ReinterpretCast<uint32_t>(), true, count,
                        whole, kept);
    return static_cast<int32_t>(kept);
  }

  __aicore__ inline void Compare(const LocalTensor<uint16_t>& bits, const LocalTensor<float>& value,
                                 float bound, AscendC::CMPMODE mode, int32_t count) {
    AscendC::CompareScalar(bits.template ReinterpretCast<uint8_t>(), value, bound, mode,
                           RoundUp(count, 64));
  }

  // Makes the list of the chunk's taps [first, first + count). Arrays of two halves hold x, then y.
  __aicore__ inline void List(int32_t list, int32_t first, int32_t count, int32_t padded,
                              int32_t sample) {
    const auto scale = Temporary(0), which = Temporary(1), quotient = Temporary(2);
    const auto whole = Temporary(3).template ReinterpretCast<int32_t>();
    const auto offset = Temporary(4).template ReinterpretCast<int32_t>();
    const auto address = Temporary(4).template ReinterpretCast<uint32_t>();
    const auto number = Temporary(5), at = Temporary(6), size = Temporary(8);
    const auto start = Temporary(10).template ReinterpretCast<int32_t>();
    const int32_t both = kTile + count;

    Await<HardEvent::S_V>();  // the list that was here has been read
    Then();
    // The sample, its camera and its location.
    AscendC::Adds(scale, number_, static_cast<float>(first), count);
    Then();
    Divide(scale, which, whole, tiling_.scales, count);
    AscendC::Muls(offset, whole, kFloat, count);
    Then();
    AscendC::Gather(number, inside_, address, 0, count);
    Then();
    AscendC::Cast(whole, number, RoundMode::CAST_RINT, count);
    Then();
    AscendC::Muls(offset, whole, 2 * kFloat, count);
    Then();
    AscendC::Gather(at, loaded_, address, 0, count);
    AscendC::Gather(at[kTile], loaded_, address, kFloat, count);
    Divide(number, quotient, whole, padded, count);
    AscendC::Adds(number, number, static_cast<float>(sample % tiling_.cams), count);
    Then();
    Divide(number, quotient, whole, tiling_.cams, count);
    // Its map.
    AscendC::Axpy(scale, number, static_cast<float>(tiling_.scales), count);
    Then();
    AscendC::Muls(scale, scale, static_cast<float>(kFloat), count);
    Then();
    AscendC::Cast(offset, scale, RoundMode::CAST_RINT, count);
    Then();
    const auto sizes = maps_.template ReinterpretCast<float>();
    AscendC::Gather(size, sizes, address, 0, count);
    AscendC::Gather(size[kTile], sizes[map_stride_], address, 0, count);
    AscendC::Gather(start, maps_[2 * map_stride_], address, 0, count);
    Then();

    // Its pixel, the upper left one of the patch, and whether there is another beside it.
    const auto pixel = Temporary(11), origin = Temporary(13), second = Temporary(17);
    const auto integer = Temporary(15).template ReinterpretCast<int32_t>();
    AscendC::Mul(at, at, size, both);
    AscendC::Adds(origin, size, -2.0f, both);
    AscendC::Adds(second, size, -1.0f, both);
    Then();
    AscendC::Adds(at, at, -0.5f, both);
    AscendC::Mins(second, second, 1.0f, both);
    Then();
    AscendC::Cast(integer, at, RoundMode::CAST_FLOOR, both);
    Then();
    AscendC::Cast(pixel, integer, RoundMode::CAST_NONE, both);
    Then();
    AscendC::Min(origin, origin, pixel, both);
    Then();
    AscendC::Maxs(origin, origin, 0.0f, both);
    Then();
    AscendC::Cast(integer, origin, RoundMode::CAST_RINT, both);
    AscendC::Cast(whole, size, RoundMode::CAST_RINT, count);
    AscendC::Cast(offset, second[kTile], RoundMode::CAST_RINT, count);
    Then();
    const auto rows = Rows(list), widths = Widths(list);
    AscendC::Mul(rows, integer[kTile], whole, count);
    AscendC::Add(start, start, integer, count);
    AscendC::Add(widths, whole, whole, count);
    Then();
    AscendC::Add(rows, rows, start, count);
    AscendC::Add(widths, widths, offset, count);

    // Shares of the first pixel by x and y, then of the second: 1 - |distance|, at least 0.
    const auto share = Temporary(19);
    AscendC::Sub(share, at, origin, both);
    Then();
    AscendC::Adds(share[2 * kTile], share, -1.0f, both);
    Then();
    const int32_t four = 2 * kTile + both;
    AscendC::Abs(share, share, four);
    Then();
    AscendC::Muls(share, share, -1.0f, four);
    Then();
    AscendC::Adds(share, share, 1.0f, four);
    Then();
    AscendC::Maxs(share, share, 0.0f, four);
    Then();
    AscendC::Mul(share[2 * kTile], share[2 * kTile], second, both);
    Then();
    const auto product = Temporary(kFirstProduct);
    Multiply(product, share, share, count);
    if constexpr (kSlopes) {
      const auto slope = Temporary(23), flat = Temporary(0);
      MakeSlopes(slope, flat, pixel, origin, size, second, both);
      Multiply(product[kCorners * kTile], slope, share, count);
      Multiply(product[2 * kCorners * kTile], share, slope, count);
    }
    Then();
    AscendC::Gather(Coefficients(list), product, transposed_, 0, count * kCoefficients);
    AscendC::SetFlag<HardEvent::V_S>(list);
  }

  // How the shares change with x and y: -size and size for the two pixels around the location.
  __aicore__ inline void MakeSlopes(const LocalTensor<float>& slope, const LocalTensor<float>& flat,
                                    const LocalTensor<float>& pixel,
                                    const LocalTensor<float>& origin,
                                    const LocalTensor<float>& size,
                                    const LocalTensor<float>& second, int32_t both) {
    const int32_t four = 2 * kTile + both;
    AscendC::Sub(slope, origin, pixel, both);
    Then();
    AscendC::Muls(slope, slope, 2.0f, both);
    Then();
    AscendC::Adds(slope[2 * kTile], slope, 1.0f, both);
    AscendC::Adds(slope, slope, -1.0f, both);  // -1 for the first around it, 1 for the second
    Then();
    AscendC::Abs(flat, slope, four);
    Then();
    AscendC::Muls(flat, flat, -1.0f, four);
    Then();
    AscendC::Adds(flat, flat, 2.0f, four);
    Then();
    AscendC::Mins(flat, flat, 1.0f, four);
    Then();
    AscendC::Maxs(flat, flat, 0.0f, four);  // 1 for both, 0 for others
    Then();
    AscendC::Mul(slope, slope, flat, four);
    Then();
    AscendC::Mul(slope, slope, size, both);
    AscendC::Mul(slope[2 * kTile], slope[2 * kTile], size, both);
    Then();
    AscendC::Mul(slope[2 * kTile], slope[2 * kTile], second, both);
    Then();
  }

  // The four corners' products of a factor of x (from the x halves of `x`) and one of y.
  __aicore__ inline void Multiply(const LocalTensor<float>& product, const LocalTensor<float>& x,
                                  const LocalTensor<float>& y, int32_t count) {
    for (int32_t corner = 0; corner < kCorners; corner++)
      AscendC::Mul(product[corner * kTile], x[corner % 2 * 2 * kTile],
                   y[kTile + corner / 2 * 2 * kTile], count);
  }

  DeformableAggregationTiling tiling_;
  int32_t block_, blocks_;
  int32_t own_;         // anchors of this block
  int32_t padded_;      // samples of an anchor, as they lie in UB
  int32_t map_stride_;  // maps, as they lie in UB
  int32_t chunk_;       // samples whose locations are in UB at a time
  int32_t mask_;        // words of a bit for each of them
  int32_t anchor_;      // of this block's, the one whose taps are next
  int32_t list_;        // the one in use

  GlobalTensor<float> locations_;
  TQue<TPosition::VECIN, 1> location_queue_;
  TBuf<TPosition::VECCALC> map_buffer_, tile_buffer_, inside_buffer_, mask_buffer_;
  LocalTensor<int32_t> maps_;     // widths and heights, as floats, and first rows
  LocalTensor<float> lists_;      // two of [rows, widths, coefficients]
  LocalTensor<float> temporary_;  // [kTemporaries, kTile]
  LocalTensor<float> number_;     // [kTile]
  LocalTensor<uint32_t> transposed_;
  LocalTensor<float> loaded_;    // [chunk_, 2]: x, y
  LocalTensor<float> inside_;    // [chunk_]: the numbers of samples inside
  LocalTensor<uint16_t> masks_;  // [4, mask_]: a bit for each sample
};

}  // namespace mxd::deformable_aggregation
