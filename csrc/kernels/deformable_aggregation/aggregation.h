// The base of the kernels of deformable aggregation. Channels are worked on in slices, and taps of
// one anchor in loads: the patches and weights of several taps at a time.
#pragma once

#include "../common/bilinear.h"
#include "../common/buffers.h"
#include "../common/run.h"
#include "../deformable_aggregation_tiling.h"
#include "kernel_operator.h"
#include "taps.h"

namespace mxd::kernels::deformable_aggregation {

// The groups and channels worked on. In UB a pixel is a row: each group in blocks of its own.
struct Slice {
  int32_t group, groups;   // the first and how many
  int32_t channel, width;  // of each group, the first and how many
  int32_t blocks;          // of 8 elements that a group takes in a row
  int32_t row;             // elements of a row
  int32_t row_blocks;      // blocks of 8 elements of it
  int32_t weights;         // groups, rounded up to eights: floats of a row's weights
  int32_t loaded_weights;  // groups, as they lie in a load

  __aicore__ inline int32_t weight_blocks() const { return weights / kBlockWords; }
};

// A load holds the weights of its taps and, where `kPatches`, their patches. `Derived` has
//   MakeBuffers(rows)                  what it needs for loads of so many rows
//   StartSlice()
//   Begin(anchor), End(anchor)         Begin only for anchors that have taps
//   Copy(load, slot, listed)           the DMA of a listed tap
//   Started(tap, slot, count)          taps of one sample are in the load from `slot` on
//   Compute(count)                     of the load
template <typename T, bool kPatches, bool kSlopes, typename Derived>
class Aggregation {
 public:
  // For each slice of the channels, all taps.
  __aicore__ inline void Process() {
    for (int32_t group = 0; group < tiling_.groups; group += tiling_.slice_groups)
      for (int32_t channel = 0; channel < tiling_.width; channel += tiling_.slice_width) {
        SetSlice(group, channel);
        static_cast<Derived*>(this)->StartSlice();
        taps_.Walk(*static_cast<Derived*>(this));
      }
    SetAtomicNone();
  }

  // What Taps::Walk calls: `count` taps of one sample.
  __aicore__ inline void Add(int64_t anchor, int64_t tap, int32_t listed, int32_t count) {
    first_row_ = anchor / tiling_.anchors * tiling_.num_feat;
    static_cast<Derived*>(this)->Begin(anchor);
    while (count > 0) {
      if (filled_ == 0) {
        load_ = loads_.template AllocTensor<T>();
        first_listed_ = listed;
      }
      const int32_t run = MinOf(count, tiling_.patches - filled_);
      CopyWeights(tap, run);
      for (int32_t i = 0; i < run; i++)
        static_cast<Derived*>(this)->Copy(load_, filled_ + i, listed + i);
      static_cast<Derived*>(this)->Started(tap, filled_, run);
      filled_ += run, tap += run, listed += run, count -= run;
      if (filled_ == tiling_.patches) Flush();
    }
  }

  __aicore__ inline void Flush() {
    if (filled_ == 0) return;
    loads_.EnQue(load_);
    load_ = loads_.template DeQue<T>();
    static_cast<Derived*>(this)->Compute(filled_);
    loads_.FreeTensor(load_);
    filled_ = 0;
  }

 protected:
  static constexpr int32_t kLoads = 3;  // in flight
  // Most bytes of UB that loads of fp32, their coefficients and the taps take.
  static constexpr int32_t kLoadBytes =
      kLoads * ((kPatches ? kPatchFloats : 0) + kWeightBlocks / kCorners) * kWord +
      kMaxPatches * Taps<kSlopes>::kCoefficients * kBlockBytes + Taps<kSlopes>::kLeastBytes;
  static constexpr int32_t kBlockElements = kBlockBytes / sizeof(T);
  static constexpr bool kConvert = sizeof(T) != sizeof(float);
  using Coefficients = Taps<kSlopes>;

  __aicore__ inline void Init(TPipe& pipe, const DeformableAggregationTiling& tiling,
                              GM_ADDR locations, GM_ADDR weight, GM_ADDR maps) {
    pipe_ = &pipe;
    tiling_ = tiling;
    Bind(weight_, weight);
    SetSlice(0, 0);  // the largest
    const int32_t rows = kCorners * tiling.patches;
    const int32_t load =
        (kPatches ? rows * slice_.row : 0) + tiling.patches * slice_.loaded_weights;
    MakeQueue(loads_, kLoads, load * sizeof(T));
    coefficients_ = TakeFloats(tiling.patches * Coefficients::kCoefficients * kBlockWords);
    if constexpr (kConvert) {
      converted_weights_ = TakeFloats(tiling.patches * slice_.loaded_weights);
      if constexpr (kPatches) converted_patches_ = TakeFloats(rows * slice_.row);
    }
    static_cast<Derived*>(this)->MakeBuffers(rows);
    taps_.Init(pipe, tiling, locations, maps, used_);
  }

  __aicore__ inline LocalTensor<float> TakeFloats(int32_t count) {
    used_ += count * kWord;
    return Take<float>(*pipe_, count);
  }

  template <typename Queue>
  __aicore__ inline void MakeQueue(Queue& queue, int32_t count, int32_t bytes) {
    pipe_->InitBuffer(queue, count, bytes);
    used_ += count * bytes;
  }

  __aicore__ inline void SetSlice(int32_t group, int32_t channel) {
    slice_.group = group;
    slice_.groups = MinOf(tiling_.slice_groups, tiling_.groups - group);
    slice_.channel = channel;
    slice_.width = MinOf(tiling_.slice_width, tiling_.width - channel);
    const int32_t elements = RoundUp(slice_.width, kBlockElements);
    slice_.blocks = elements / kBlockWords;
    slice_.row = slice_.groups * elements;
    slice_.row_blocks = slice_.row / kBlockWords;
    slice_.weights = RoundUp(slice_.groups, kBlockWords);
    slice_.loaded_weights = RoundUp(slice_.groups, kBlockElements);
    whole_ = slice_.width == tiling_.width && slice_.width == elements;
    pairs_ = whole_ && slice_.groups == tiling_.groups;
  }

  __aicore__ inline int32_t Channels() const { return tiling_.groups * tiling_.width; }
  // Of the slice in a pixel of `feature_maps` or its gradient, or in an anchor's output.
  __aicore__ inline int64_t FirstChannel(int64_t row) const {
    return row * Channels() + slice_.group * tiling_.width + slice_.channel;
  }

  // One pixel from and to global memory, where its element takes `size` bytes: bursts and the gap
  // between them.
  __aicore__ inline DataCopyExtParams PixelIn(int32_t size) const {
    if (whole_) return {1, static_cast<uint32_t>(slice_.row * size), 0, 0, 0};
    return {static_cast<uint16_t>(slice_.groups), static_cast<uint32_t>(slice_.width * size),
            static_cast<uint32_t>((tiling_.width - slice_.width) * size), 0, 0};
  }
  __aicore__ inline DataCopyExtParams PixelOut(int32_t size) const {
    DataCopyExtParams pixel = PixelIn(size);
    if (whole_) return pixel;
    pixel.dstStride = pixel.srcStride;
    // In UB a group may take more blocks than its channels fill.
    pixel.srcStride = slice_.blocks * kBlockWords * size / kBlockBytes -
                      CeilDiv(slice_.width * size, kBlockBytes);
    return pixel;
  }
  // What follows a group's channels in UB is zero.
  __aicore__ inline DataCopyPadExtParams<T> Padding() const {
    const auto padding = static_cast<uint8_t>(slice_.blocks * kBlockWords - slice_.width);
    return {!whole_ && padding != 0, 0, whole_ ? uint8_t{0} : padding, T{}};
  }

  // Copies the 2 x 2 pixels of a listed tap. A map's only column or row is copied twice.
  __aicore__ inline void CopyPatch(const LocalTensor<T>& load, int32_t slot, int32_t listed) {
    const Patch patch = taps_.GetPatch(listed);
    const auto to = load[slot * kCorners * slice_.row];
    const auto from = FirstChannel(first_row_ + patch.row);
    if (pairs_ && patch.right && patch.down) {
      const uint32_t pair = 2 * slice_.row * sizeof(T);
      const uint32_t gap = static_cast<uint32_t>(patch.width - 2) * slice_.row * sizeof(T);
      AscendC::DataCopyPad(to, features_[from], DataCopyExtParams{2, pair, gap, 0, 0}, Padding());
      return;
    }
    for (int32_t corner = 0; corner < kCorners; corner++) {
      const int64_t row = (corner / 2 * patch.down) * patch.width + corner % 2 * patch.right;
      AscendC::DataCopyPad(to[corner * slice_.row], features_[from + row * Channels()],
                           PixelIn(sizeof(T)), Padding());
    }
  }

  // The weights of the load that Compute is called for, [patches, loaded_weights].
  __aicore__ inline LocalTensor<float> Weights(int32_t count) {
    const auto weights = load_[WeightsAt()];
    if constexpr (kConvert) {
      PipeBarrier<PIPE_V>();
      AscendC::Cast(converted_weights_, weights, RoundMode::CAST_NONE,
                    count * slice_.loaded_weights);
      return converted_weights_;
    } else {
      return weights;
    }
  }

  // Its patches, [patches, 4, row].
  __aicore__ inline LocalTensor<float> Patches(int32_t count) {
    if constexpr (kConvert) {
      PipeBarrier<PIPE_V>();
      AscendC::Cast(converted_patches_, load_, RoundMode::CAST_NONE, count * kCorners * slice_.row);
      return converted_patches_;
    } else {
      return load_;
    }
  }

  // The coefficients of its taps, each of them a block.
  __aicore__ inline LocalTensor<float> CoefficientBlocks(int32_t count) {
    PipeBarrier<PIPE_V>();
    AscendC::Brcb(coefficients_, taps_.GetCoefficients(first_listed_),
                  count * (Coefficients::kCoefficients / kBlockWords), {1, kBlockWords});
    return coefficients_;
  }

  // The shares of the corners times the weights of the groups, [patches, 4, weights], each a block.
  __aicore__ inline LocalTensor<float> Factors(const LocalTensor<float>& products,
                                               const LocalTensor<float>& factors, int32_t count) {
    const auto weights = Weights(count), shares = CoefficientBlocks(count);
    const int32_t blocks = slice_.weight_blocks();
    const uint8_t stride = blocks;
    PipeBarrier<PIPE_V>();
    for (int32_t block = 0; block < blocks; block++)
      AscendC::Mul(
          products[block * kBlockWords], weights[block * kBlockWords], shares,
          kCorners * kBlockWords, count,
          {stride, 0, 1, static_cast<uint8_t>(kCorners * stride),
           static_cast<uint8_t>(slice_.loaded_weights / kBlockWords), Coefficients::kCoefficients});
    PipeBarrier<PIPE_V>();
    AscendC::Brcb(factors, products, count * kCorners * blocks, {1, kBlockWords});
    PipeBarrier<PIPE_V>();
    return factors;
  }

  // out = in * factors, or out += in * factors, for `rows` rows; `in` is one row for all of them
  // where `kOneRow`. One instruction takes a block of each of eight groups, or eight blocks of one
  // group: the way that needs fewer instructions is chosen.
  template <bool kAdd, bool kOneRow>
  __aicore__ inline void Multiply(const LocalTensor<float>& out, const LocalTensor<float>& in,
                                  const LocalTensor<float>& factors, int32_t rows) {
    const int32_t groups = slice_.groups, blocks = slice_.blocks;
    const bool across =
        CeilDiv(groups, kBlockWords) * blocks <= groups * CeilDiv(blocks, kBlockWords);
    const int32_t group_step = across ? kBlockWords : 1, block_step = across ? 1 : kBlockWords;
    const uint8_t stride = across ? blocks : 1, row = slice_.row_blocks;
    const BinaryRepeatParams strides{stride,
                                     stride,
                                     static_cast<uint8_t>(across ? 1 : 0),
                                     row,
                                     kOneRow ? uint8_t{0} : row,
                                     static_cast<uint8_t>(slice_.weights)};
    for (int32_t group = 0; group < groups; group += group_step)
      for (int32_t block = 0; block < blocks; block += block_step) {
        const int32_t taken = across ? groups - group : blocks - block;
        const uint64_t mask = MinOf(taken, kBlockWords) * kBlockWords;
        const int32_t at = (group * blocks + block) * kBlockWords;
        const auto factor = factors[group * kBlockWords];
        if constexpr (kAdd)
          AscendC::MulAddDst(out[at], in[at], factor, mask, rows, strides);
        else
          AscendC::Mul(out[at], in[at], factor, mask, rows, strides);
      }
  }

  TPipe* pipe_;
  DeformableAggregationTiling tiling_;
  Taps<kSlopes> taps_;
  Slice slice_;
  bool whole_;  // the slice has all channels of its groups, without padding: a pixel is one burst
  bool pairs_;  // the slice has all channels: two neighbouring pixels are one burst
  int32_t used_ = 0;
  int64_t first_row_;     // of the anchor's element of the batch
  int32_t first_listed_;  // the load's first tap in the list
  int32_t filled_ = 0;    // taps in the load
  LocalTensor<T> load_;
  GlobalTensor<T> features_, weight_;
  TQue<TPosition::VECIN, 1> loads_;
  LocalTensor<float> coefficients_, converted_weights_, converted_patches_;

 private:
  __aicore__ inline int32_t WeightsAt() const {
    return kPatches ? kCorners * tiling_.patches * slice_.row : 0;
  }

  __aicore__ inline void CopyWeights(int64_t tap, int32_t count) {
    const auto to = load_[WeightsAt() + filled_ * slice_.loaded_weights];
    const auto from = weight_[tap * tiling_.groups + slice_.group];
    const uint8_t padding = slice_.loaded_weights - slice_.groups;
    const uint32_t bytes = slice_.groups * sizeof(T);
    const uint32_t gap = tiling_.groups * sizeof(T) - bytes;
    const bool contiguous = padding == 0 && gap == 0;
    AscendC::DataCopyPad(to, from,
                         DataCopyExtParams{static_cast<uint16_t>(contiguous ? 1 : count),
                                           contiguous ? count * bytes : bytes, gap, 0, 0},
                         DataCopyPadExtParams<T>{padding != 0, 0, padding, T{}});
  }
};

}  // namespace mxd::kernels::deformable_aggregation
