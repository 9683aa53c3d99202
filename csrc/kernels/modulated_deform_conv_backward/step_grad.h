// What a vector core does for a step: from the columns' gradient and the taps' pixels it makes the
// gradient of the image, which it adds to global memory patch by patch, the dot products that the
// gradients of offset and mask come from, and the columns again, for the gradient of the weight.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/index_list.h"
#include "../modulated_deform_conv/images.h"
#include "kernel_operator.h"
#include "tap_grad.h"

namespace mxd::kernels::modulated_deform_conv_backward {

template <typename T>
class StepGrad {
  static constexpr int32_t kTile = modulated_deform_conv_backward::kListTaps;
  static constexpr int32_t kLoadElements = 8192;  // of the patches of a load, of two in flight
  static constexpr int32_t kMostTaps = 32;        // of a load
  static constexpr int32_t kRowElements = kLoadElements / kCorners;  // of its columns
  static constexpr int32_t kSize = sizeof(T);
  static constexpr int32_t kElements = kFractalColumns<T>;
  static constexpr bool kConvert = sizeof(T) != sizeof(float);
  // A load has at least 16 taps, whole fractals of the columns.
  static_assert(kFractalRows * kCorners * modulated_deform_conv_backward::kMaxChunk <=
                kLoadElements);

 public:
  static constexpr int32_t kUbBytes = 2 * (kLoadElements + kRowElements) * kSize +
                                      2 * kRowElements * kWord + kLoadElements * kWord +
                                      kCorners * kMostTaps * (kBlockBytes + kWord) +
                                      (kConvert ? (kLoadElements + kRowElements) * kWord : 0);

  // The rings are those of the block, `grad_images` all copies.
  __aicore__ inline StepGrad(TPipe& pipe, GM_ADDR images, GM_ADDR column_grads, GM_ADDR ring,
                             GM_ADDR grad_images, const ModulatedDeformConvTiling& tiling)
      : tiling_(tiling),
        images_(images, kElements, tiling),
        grad_images_(grad_images, kElements, tiling),
        patches_(Take<T>(pipe, 2 * kLoadElements)),
        column_grads_(Take<float>(pipe, 2 * kRowElements)),
        stage_(Take<T>(pipe, 2 * kRowElements)),
        shares_(Take<float>(pipe, kLoadElements)),
        factors_(Take<float>(pipe, kCorners * kMostTaps * kBlockWords)),
        part_(Take<float>(pipe, kCorners * kMostTaps)) {
    Bind(ring_, ring, grad_ring_, column_grads);
    loads_free_.Init(pipe, 2);
    grads_free_.Init(pipe, 2);
    loads_full_.Init(pipe, 2);
    stage_free_.Init(pipe, 2);
    stage_full_.Init(pipe, 2);
    shares_free_.Init(pipe, 2);
    shares_full_.Init(pipe, 2);
    if constexpr (kConvert) {
      wide_ = Take<float>(pipe, kLoadElements);
      sums_ = Take<float>(pipe, kRowElements);
    }
    // Instructions read beyond what is loaded.
    Duplicate(patches_.template ReinterpretCast<int32_t>(), 0, 2 * kLoadElements * kSize / kWord);
    Duplicate(column_grads_, 0.0f, 2 * kRowElements);
  }
  __aicore__ inline void Begin() {
    loads_free_.SetAll();
    if (tiling_.of_data) grads_free_.SetAll();
    stage_free_.SetAll();
    shares_free_.SetAll();
  }
  __aicore__ inline void End() {
    loads_free_.WaitAll();
    if (tiling_.of_data) grads_free_.WaitAll();
    stage_free_.WaitAll();
    shares_free_.WaitAll();
  }

  // Works on this core's half of a step. The taps of `list` from `first` on are this core's
  // positions, `count` of them. `dots` [kCorners, kTile].
  __aicore__ inline void Run(int32_t slot, const Batch& batch, const Step& step,
                             const BackwardTaps<T>& taps, int32_t list, int32_t count,
                             const LocalTensor<float>& dots) {
    const int32_t own = tiling_.tile / 2, first = (step.point - batch.point) * own;
    const bool first_blocks = step.block == batch.block;
    Open(batch, step);
    int32_t together = kMostTaps;  // a power of two
    while (together * kCorners * channels_ > kLoadElements) together /= 2;
    IndexList<int32_t> pixels(taps.Pixels(list));
    for (int32_t begin = 0; begin < count; begin += together) {
      const int32_t taken = MinOf(together, count - begin), tap = first + begin;
      const int64_t row = static_cast<int64_t>(slot) * tiling_.tile * most_channels_ +
                          (static_cast<int64_t>(GetSubBlockIdx()) * own + begin) * channels_;
      Load(pixels, tap, taken, row);
      const LocalTensor<float> weights = taps.Weights(list)[tap];
      PipeBarrier<PIPE_V>();
      for (int32_t corner = 0; corner < kCorners; ++corner)
        Brcb(factors_[corner * kMostTaps * kBlockWords], weights[corner * kTile],
             together / kBlockWords, {1, kBlockWords});
      loads_full_.Wait(load_);
      PipeBarrier<PIPE_V>();
      LocalTensor<float> patches;
      if constexpr (kConvert) {
        Cast(wide_, patches_[load_ * kLoadElements], RoundMode::CAST_NONE,
             together * kCorners * channels_);
        PipeBarrier<PIPE_V>();
        patches = wide_;
      } else {
        patches = patches_[load_ * kLoadElements];
      }
      // The additions of one half of the taps go on meanwhile.
      const LocalTensor<float> grad = column_grads_[load_ * kRowElements];
      if (tiling_.of_data) Share(0, pixels, tap, taken, grad, together);
      if (tiling_.of_parameters) MakeColumns(patches, taken, together, row);
      if (tiling_.of_data) MultiplyPixels(patches, grad, dots[tap], together, first_blocks);
      loads_free_.Set(load_);
      if (tiling_.of_data) {
        Share(1, pixels, tap, taken, grad, together);
        grads_free_.Set(load_);
      }
      load_ = 1 - load_;
    }
  }

 private:
  __aicore__ inline void Open(const Batch& batch, const Step& step) {
    const int32_t block = step.block - batch.deform_group * tiling_.deform_blocks;
    const int64_t image = batch.unit.image;
    const int64_t copy = (image * tiling_.copies + batch.unit.copy) * 2 + GetSubBlockIdx();
    images_.Open(image * tiling_.deform_groups + batch.deform_group, block, step.blocks);
    grad_images_.Open(copy * tiling_.deform_groups + batch.deform_group, block, step.blocks);
    channels_ = step.blocks * kElements;
    most_channels_ = tiling_.chunk_blocks * kElements;
  }

  __aicore__ inline void Load(IndexList<int32_t>& pixels, int32_t tap, int32_t taken, int64_t row) {
    const LocalTensor<T> patches = patches_[load_ * kLoadElements];
    loads_free_.Wait(load_);
    if (tiling_.of_data) {
      grads_free_.Wait(load_);
      DataCopy(column_grads_[load_ * kRowElements], grad_ring_[row],
               static_cast<uint32_t>(taken * channels_));
    }
    for (int32_t i = 0; i < taken; ++i)
      images_.CopyPatch(patches[i * kCorners * channels_], pixels.Get(tap + i));
    loads_full_.Set(load_);
  }

  // Calls body(at, lanes) for the channels, piece by piece.
  template <typename Body>
  __aicore__ inline void ForEachPiece(const Body& body) {
    for (int32_t at = 0; at < channels_; at += kLanes)
      body(at, static_cast<uint64_t>(MinOf(kLanes, channels_ - at)));
  }

  // Adds the columns' gradient times each weight to the gradient of the image, of one half of the
  // taps: the other half is on its way meanwhile.
  __aicore__ inline void Share(int32_t part, IndexList<int32_t>& pixels, int32_t tap, int32_t taken,
                               const LocalTensor<float>& grad, int32_t together) {
    const uint8_t row = channels_ / kBlockWords;
    const BinaryRepeatParams strides(1, 1, 0, kCorners * row, row, 1);
    const int32_t middle = together / 2, begin = part * middle;
    if (begin >= taken) return;
    const LocalTensor<float> shares = shares_[part * kLoadElements / 2];
    shares_free_.Wait(part);
    PipeBarrier<PIPE_V>();
    for (int32_t corner = 0; corner < kCorners; ++corner) {
      const auto factor = factors_[(corner * kMostTaps + begin) * kBlockWords];
      ForEachPiece([&](int32_t at, uint64_t lanes) __aicore__ {
        Mul(shares[corner * channels_ + at], grad[begin * channels_ + at], factor, lanes, middle,
            strides);
      });
    }
    shares_full_.SetWait(part);
    SetAtomicAdd<float>();
    const int32_t count = MinOf(middle, taken - begin);
    for (int32_t i = 0; i < count; ++i)
      grad_images_.WritePatch(shares[i * kCorners * channels_], pixels.Get(tap + begin + i));
    SetAtomicNone();
    shares_free_.Set(part);
  }

  // Writes the columns, [taps, channels]; those of taps that are none are 0.
  __aicore__ inline void MakeColumns(const LocalTensor<float>& patches, int32_t taken,
                                     int32_t together, int64_t row) {
    const LocalTensor<T> stage = stage_[buffer_ * kRowElements];
    LocalTensor<float> sums;
    if constexpr (kConvert)
      sums = sums_;
    else
      sums = stage;
    const uint8_t blocks = channels_ / kBlockWords;
    const BinaryRepeatParams strides(1, 1, 0, blocks, kCorners * blocks, 1);
    stage_free_.Wait(buffer_);
    PipeBarrier<PIPE_V>();
    for (int32_t corner = 0; corner < kCorners; ++corner) {
      const auto factor = factors_[corner * kMostTaps * kBlockWords];
      ForEachPiece([&](int32_t at, uint64_t lanes) __aicore__ {
        const auto from = patches[corner * channels_ + at];
        if (corner == 0)
          Mul(sums[at], from, factor, lanes, together, strides);
        else
          MulAddDst(sums[at], from, factor, lanes, together, strides);
      });
      PipeBarrier<PIPE_V>();
    }
    if (taken < together) {
      Duplicate(sums[taken * channels_], 0.0f, (together - taken) * channels_);
      PipeBarrier<PIPE_V>();
    }
    if constexpr (kConvert) Cast(stage, sums, RoundMode::CAST_RINT, together * channels_);
    stage_full_.SetWait(buffer_);
    DataCopy(ring_[row], stage, static_cast<uint32_t>(together * channels_));
    stage_free_.Set(buffer_);
    buffer_ = 1 - buffer_;
  }

  // dots = the sums over channels of the patches times the columns' gradient; added to what is
  // there unless `first`. The patches are overwritten.
  __aicore__ inline void MultiplyPixels(const LocalTensor<float>& patches,
                                        const LocalTensor<float>& grad,
                                        const LocalTensor<float>& dots, int32_t together,
                                        bool first) {
    const uint8_t blocks = channels_ / kBlockWords, patch = kCorners * blocks;
    const BinaryRepeatParams strides(1, 1, 1, patch, patch, blocks);
    const BinaryRepeatParams fold(1, 1, 1, patch, patch, patch);
    PipeBarrier<PIPE_V>();
    for (int32_t corner = 0; corner < kCorners; ++corner)
      ForEachPiece([&](int32_t at, uint64_t lanes) __aicore__ {
        const auto pixels = patches[corner * channels_ + at];
        Mul(pixels, pixels, grad[at], lanes, together, strides);
      });
    PipeBarrier<PIPE_V>();
    for (int32_t at = kLanes; at < channels_; at += kLanes) {
      for (int32_t corner = 0; corner < kCorners; ++corner) {
        const auto to = patches[corner * channels_];
        Add(to, to, to[at], static_cast<uint64_t>(MinOf(kLanes, channels_ - at)), together, fold);
      }
      PipeBarrier<PIPE_V>();
    }
    const LocalTensor<float> sums = first ? dots : part_;
    const int32_t stride = first ? kTile : kMostTaps;
    for (int32_t corner = 0; corner < kCorners; ++corner)
      WholeReduceSum(sums[corner * stride], patches[corner * channels_], MinOf(kLanes, channels_),
                     together, 1, 1, patch);
    if (first) return;
    PipeBarrier<PIPE_V>();
    for (int32_t corner = 0; corner < kCorners; ++corner)
      Add(dots[corner * kTile], dots[corner * kTile], sums[corner * stride], together);
  }

  const ModulatedDeformConvTiling& tiling_;
  Planes<T> images_;
  Planes<float> grad_images_;
  GlobalTensor<T> ring_;
  GlobalTensor<float> grad_ring_;
  LocalTensor<T> patches_;           // [2, taps, kCorners, channels]
  LocalTensor<float> column_grads_;  // [2, taps, channels]
  LocalTensor<T> stage_;             // two columns of a load
  LocalTensor<float> shares_;        // [2, taps / 2, kCorners, channels]
  LocalTensor<float> factors_;       // [kCorners, kMostTaps], a block each
  LocalTensor<float> part_;          // [kCorners, kMostTaps], products of some channels
  LocalTensor<float> wide_, sums_;   // patches and columns in fp32
  Events<HardEvent::V_MTE2> loads_free_, grads_free_;
  Events<HardEvent::MTE2_V> loads_full_;
  Events<HardEvent::MTE3_V> stage_free_, shares_free_;
  Events<HardEvent::V_MTE3> stage_full_, shares_full_;
  int32_t load_ = 0, buffer_ = 0;
  int32_t channels_ = 0, most_channels_ = 0;  // of the step, and of the largest
};

}  // namespace mxd::kernels::modulated_deform_conv_backward
