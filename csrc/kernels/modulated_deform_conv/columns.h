// Makes the columns of a step: the taps' pixels, copied patch by patch, times their weights.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/index_list.h"
#include "../common/nz.h"
#include "images.h"
#include "kernel_operator.h"
#include "taps.h"

namespace mxd::kernels::modulated_deform_conv {

// Channels that a vector instruction takes of each tap: 64 in fp32.
constexpr int32_t kPiece = kLanes;

template <typename T>
using ForwardTaps = Taps<T, kListTaps, false>;

template <typename T>
class Columns {
  static constexpr int32_t kLoads = 3;            // in flight
  static constexpr int32_t kLoadElements = 8192;  // of the patches of a load
  static constexpr int32_t kMostTaps = 32;        // of a load
  static constexpr int32_t kStageElements = kLoadElements / kCorners;
  static constexpr int32_t kSize = sizeof(T);
  static constexpr bool kConvert = sizeof(T) != sizeof(float);
  static_assert(kLoadElements >= kCorners * kMaxChunk * kBlockWords);

 public:
  static constexpr int32_t kUbBytes = kLoads * kLoadElements * kSize + 2 * kStageElements * kSize +
                                      kCorners * kMostTaps * kBlockBytes +
                                      (kConvert ? 2 * kStageElements * kWord : 0);

  // `ring`: that of the block.
  __aicore__ inline Columns(TPipe& pipe, GM_ADDR images, GM_ADDR ring,
                            const ModulatedDeformConvTiling& tiling)
      : tiling_(tiling),
        images_(images, kFractalColumns<T>, tiling),
        patches_(Take<T>(pipe, kLoads * kLoadElements)),
        stage_(Take<T>(pipe, 2 * kStageElements)),
        factors_(Take<float>(pipe, kCorners * kMostTaps * kBlockWords)) {
    Bind(ring_, ring);
    patches_free_.Init(pipe, kLoads);
    patches_full_.Init(pipe, kLoads);
    stage_free_.Init(pipe, 2);
    stage_full_.Init(pipe, 2);
    if constexpr (kConvert) {
      Take(pipe, kStageElements, pixels_, sums_);
    }
    // Instructions read beyond what is loaded.
    Duplicate(patches_.template ReinterpretCast<int32_t>(), 0,
              kLoads * kLoadElements * kSize / kWord);
  }
  __aicore__ inline void Begin() {
    patches_free_.SetAll();
    stage_free_.SetAll();
  }
  __aicore__ inline void End() {
    patches_free_.WaitAll();
    stage_free_.WaitAll();
  }

  // Writes this core's half of a step's columns, [blocks, tile, 32 B], into a slot of the ring. The
  // taps of `list` from `first` on are this core's positions, `count` of them.
  __aicore__ inline void Make(int32_t slot, const Batch& batch, const Step& step,
                              const ForwardTaps<T>& taps, int32_t list, int32_t count) {
    const int32_t own = tiling_.tile / 2, first = (step.point - batch.point) * own;
    constexpr int32_t kElements = kFractalColumns<T>;
    const int32_t patch = kCorners * step.blocks * kElements;
    int32_t together = kMostTaps;  // a power of two
    while (together * patch > kLoadElements) together /= 2;
    const LocalTensor<int32_t> pixels = taps.Pixels(list);
    IndexList<int32_t> list_of_pixels(pixels);
    images_.Open(
        static_cast<int64_t>(batch.unit.image) * tiling_.deform_groups + batch.deform_group,
        step.block - batch.deform_group * tiling_.deform_blocks, step.blocks);
    for (int32_t begin = 0; begin < count; begin += together) {
      const int32_t taken = MinOf(together, count - begin);
      const LocalTensor<T> patches = patches_[load_ * kLoadElements];
      patches_free_.Wait(load_);
      for (int32_t i = 0; i < taken; ++i)
        images_.CopyPatch(patches[i * patch], list_of_pixels.Get(first + begin + i));
      patches_full_.Set(load_);

      const LocalTensor<float> weights = taps.Weights(list)[first + begin];
      PipeBarrier<PIPE_V>();
      for (int32_t corner = 0; corner < kCorners; ++corner)
        Brcb(factors_[corner * kMostTaps * kBlockWords], weights[corner * kListTaps],
             together / kBlockWords, {1, kBlockWords});
      patches_full_.Wait(load_);
      stage_free_.Wait(buffer_);
      PipeBarrier<PIPE_V>();
      const LocalTensor<T> stage = stage_[buffer_ * kStageElements];
      if constexpr (kConvert)
        SumConverted(stage, patches, step.blocks, together);
      else
        Sum(stage, patches, step.blocks, together);
      patches_free_.Set(load_);
      stage_full_.SetWait(buffer_);
      const int32_t row = static_cast<int32_t>(GetSubBlockIdx()) * own + begin;
      DataCopy(ring_[(static_cast<int64_t>(slot) * tiling_.chunk_blocks * tiling_.tile + row) *
                     kElements],
               stage, DataCopyParams(step.blocks, together, 0, tiling_.tile - together));
      stage_free_.Set(buffer_);
      load_ = (load_ + 1) % kLoads;
      buffer_ = 1 - buffer_;
    }
  }

 private:
  // stage [blocks, taps, 32 B] = the sum over the corners of patches [taps, kCorners, blocks] times
  // factors.
  __aicore__ inline void Sum(const LocalTensor<float>& stage, const LocalTensor<float>& patches,
                             int32_t blocks, int32_t taps) {
    const BinaryRepeatParams strides(taps, 1, 0, 1, kCorners * blocks, 1);
    for (int32_t corner = 0; corner < kCorners; ++corner) {
      const auto factor = factors_[corner * kMostTaps * kBlockWords];
      for (int32_t block = 0; block < blocks; block += kPiece / kBlockWords) {
        const auto to = stage[block * taps * kBlockWords];
        const auto from = patches[(corner * blocks + block) * kBlockWords];
        const uint64_t lanes = MinOf(kPiece, (blocks - block) * kBlockWords);
        if (corner == 0)
          Mul(to, from, factor, lanes, taps, strides);
        else
          MulAddDst(to, from, factor, lanes, taps, strides);
      }
      PipeBarrier<PIPE_V>();
    }
  }

  // The same in fp32, of 16-bit patches; blocks are of 16 channels.
  __aicore__ inline void SumConverted(const LocalTensor<T>& stage, const LocalTensor<T>& patches,
                                      int32_t blocks, int32_t taps) {
    constexpr int32_t kElements = kFractalColumns<T>, kWide = 2;  // blocks of fp32 for one of T
    constexpr int32_t kBlocks = kPiece / kElements;
    for (int32_t corner = 0; corner < kCorners; ++corner) {
      for (int32_t block = 0; block < blocks; block += kBlocks) {
        const uint64_t lanes = MinOf(kPiece, (blocks - block) * kElements);
        Cast(pixels_[block * kElements], patches[(corner * blocks + block) * kElements],
             RoundMode::CAST_NONE, lanes, taps,
             UnaryRepeatParams(1, 1, kWide * blocks, kCorners * blocks));
      }
      PipeBarrier<PIPE_V>();
      const auto factor = factors_[corner * kMostTaps * kBlockWords];
      const BinaryRepeatParams strides(1, 1, 0, kWide * blocks, kWide * blocks, 1);
      for (int32_t block = 0; block < blocks; block += kBlocks) {
        const uint64_t lanes = MinOf(kPiece, (blocks - block) * kElements);
        const int32_t at = block * kElements;
        if (corner == 0)
          Mul(sums_[at], pixels_[at], factor, lanes, taps, strides);
        else
          MulAddDst(sums_[at], pixels_[at], factor, lanes, taps, strides);
      }
      PipeBarrier<PIPE_V>();
    }
    for (int32_t block = 0; block < blocks; block += kBlocks) {
      const uint64_t lanes = MinOf(kPiece, (blocks - block) * kElements);
      Cast(stage[block * taps * kElements], sums_[block * kElements], RoundMode::CAST_RINT, lanes,
           taps, UnaryRepeatParams(taps, 1, 1, kWide * blocks));
    }
  }

  const ModulatedDeformConvTiling& tiling_;
  Planes<T> images_;
  GlobalTensor<T> ring_;
  LocalTensor<T> patches_;            // [kLoads, taps, kCorners, channels]
  LocalTensor<T> stage_;              // two columns of a load
  LocalTensor<float> factors_;        // [kCorners, kMostTaps], a block each
  LocalTensor<float> pixels_, sums_;  // [taps, channels]
  Events<HardEvent::V_MTE2> patches_free_;
  Events<HardEvent::MTE2_V> patches_full_;
  Events<HardEvent::MTE3_V> stage_free_;
  Events<HardEvent::V_MTE3> stage_full_;
  int32_t load_ = 0, buffer_ = 0;
};

}  // namespace mxd::kernels::modulated_deform_conv
