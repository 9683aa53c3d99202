// Deformable aggregation: the gradients of locations and weights. Both come from the products of
// the output's gradient and each corner of each patch of a load, summed over the channels of a
// group.
#include "deformable_aggregation/gradient.h"

namespace mxd::kernels::deformable_aggregation {
namespace {

template <typename T>
class SampleGrad : public Gradient<T, true, true, SampleGrad<T>> {
  using Base = Aggregation<T, true, true, SampleGrad<T>>;
  friend Base;

 public:
  __aicore__ inline SampleGrad(TPipe& pipe, const DeformableAggregationTiling& tiling, GM_ADDR grad,
                               GM_ADDR feature_maps, GM_ADDR locations, GM_ADDR weight,
                               GM_ADDR maps, GM_ADDR slopes, GM_ADDR grad_weight)
      : grad_(grad) {
    Bind(this->features_, feature_maps, slopes_, slopes, grad_weight_, grad_weight);
    this->Init(pipe, tiling, locations, weight, maps);
    AscendC::SetAtomicAdd<float>();
  }

 private:
  // Taps of one sample in a load.
  struct Piece {
    int64_t tap;
    int32_t first, count;
  };

  __aicore__ inline void MakeBuffers(int32_t rows) {
    static_assert(Base::kLoadBytes + SampleGrad::kGradBytes +
                      (kWeightBlocks * (kBlockWords + 1) +
                       3 * kCorners * kMaxPatches * kBlockWords +
                       2 * (kWeightBlocks / kCorners + kMaxPatches * kBlockWords)) *
                          kWord <=
                  kUbBytes);
    const int32_t weights = this->slice_.weights, patches = this->tiling_.patches;
    this->MakeGradBuffers(grad_);
    partial_ = this->TakeFloats(rows * weights * kBlockWords);
    dots_ = this->TakeFloats(rows * weights);
    change_ = this->TakeFloats(3 * rows * kBlockWords);
    this->MakeQueue(out_queue_, 2, patches * (weights + kBlockWords) * kWord);
  }

  // A slice may have fewer groups than lanes: the products of the missing ones stay zero.
  __aicore__ inline void StartSlice() {
    PipeBarrier<PIPE_V>();
    AscendC::Duplicate(partial_, 0.0f,
                       kCorners * this->tiling_.patches * this->slice_.weights * kBlockWords);
  }

  __aicore__ inline void Copy(const LocalTensor<T>& load, int32_t slot, int32_t listed) {
    this->CopyPatch(load, slot, listed);
  }
  __aicore__ inline void Started(int64_t tap, int32_t first, int32_t count) {
    if (first == 0) piece_count_ = 0;
    pieces_[piece_count_++] = {tap, first, count};
  }

  __aicore__ inline void Compute(int32_t count) {
    const auto dots = Dots(count);
    const auto weights = this->Weights(count), coefficients = this->CoefficientBlocks(count);
    PipeBarrier<PIPE_V>();
    auto out = out_queue_.template AllocTensor<float>();
    const auto grad_weight = out, slopes = out[this->tiling_.patches * this->slice_.weights];
    SumCorners(grad_weight, dots, coefficients, count);
    SumGroups(slopes, dots, weights, coefficients, count);
    out_queue_.EnQue(out);
    out = out_queue_.template DeQue<float>();
    for (int32_t i = 0; i < piece_count_; i++) Write(pieces_[i], grad_weight, slopes);
    out_queue_.FreeTensor(out);
  }

  // [patches, 4, weights]: gradient times pixel, summed over the channels of each group.
  __aicore__ inline LocalTensor<float> Dots(int32_t count) {
    const Slice& slice = this->slice_;
    const auto patches = this->Patches(count), grad = this->Grad();
    const auto stride = static_cast<uint8_t>(slice.blocks);
    const BinaryRepeatParams strides{1,
                                     stride,
                                     stride,
                                     static_cast<uint8_t>(slice.weights),
                                     static_cast<uint8_t>(slice.row_blocks),
                                     0};
    const int32_t rows = kCorners * count;
    // A block of eight groups each time.
    for (int32_t block = 0; block < slice.blocks; block++) {
      PipeBarrier<PIPE_V>();
      for (int32_t group = 0; group < slice.groups; group += kBlockWords) {
        const uint64_t mask = MinOf(slice.groups - group, kBlockWords) * kBlockWords;
        const auto sum = partial_[group * kBlockWords];
        const int32_t at = (group * slice.blocks + block) * kBlockWords;
        if (block == 0)
          AscendC::Mul(sum, patches[at], grad[at], mask, rows, strides);
        else
          AscendC::MulAddDst(sum, patches[at], grad[at], mask, rows, strides);
      }
    }
    PipeBarrier<PIPE_V>();
    AscendC::BlockReduceSum(dots_, partial_, rows * slice.weight_blocks(), 64, 1, 1, kBlockWords);
    return dots_;
  }

  // The gradient of the weights, [patches, weights]: of eight taps at a time.
  __aicore__ inline void SumCorners(const LocalTensor<float>& grad_weight,
                                    const LocalTensor<float>& dots,
                                    const LocalTensor<float>& shares, int32_t count) {
    const int32_t blocks = this->slice_.weight_blocks();
    const BinaryRepeatParams strides{static_cast<uint8_t>(blocks),
                                     static_cast<uint8_t>(kCorners * blocks),
                                     Base::Coefficients::kCoefficients,
                                     8,
                                     8,
                                     8};
    for (int32_t corner = 0; corner < kCorners; corner++) {
      for (int32_t first = 0; first < count; first += kBlockWords)
        for (int32_t block = 0; block < blocks; block++) {
          const uint64_t mask = MinOf(count - first, kBlockWords) * kBlockWords;
          const auto out = grad_weight[(first * blocks + block) * kBlockWords];
          const auto dot = dots[((first * kCorners + corner) * blocks + block) * kBlockWords];
          const auto share =
              shares[(first * Base::Coefficients::kCoefficients + corner) * kBlockWords];
          if (corner == 0)
            AscendC::Mul(out, dot, share, mask, 1, strides);
          else
            AscendC::MulAddDst(out, dot, share, mask, 1, strides);
        }
      PipeBarrier<PIPE_V>();
    }
  }

  // The gradient of the location that a tap brings, [patches, 8]: by x and by y.
  __aicore__ inline void SumGroups(const LocalTensor<float>& slopes, const LocalTensor<float>& dots,
                                   const LocalTensor<float>& weights,
                                   const LocalTensor<float>& coefficients, int32_t count) {
    const uint8_t blocks = this->slice_.weight_blocks();
    constexpr int32_t kMask = kCorners * kBlockWords;
    const int32_t size = this->tiling_.patches * kMask;
    const BinaryRepeatParams strides{
        1,
        blocks,
        0,
        kCorners,
        static_cast<uint8_t>(kCorners * blocks),
        static_cast<uint8_t>(this->slice_.loaded_weights / kBlockWords)};
    for (int32_t block = 0; block < blocks; block++) {
      const auto dot = dots[block * kBlockWords], weight = weights[block * kBlockWords];
      if (block == 0)
        AscendC::Mul(change_, dot, weight, kMask, count, strides);
      else
        AscendC::MulAddDst(change_, dot, weight, kMask, count, strides);
      PipeBarrier<PIPE_V>();
    }
    for (int32_t axis = 0; axis < 2; axis++)
      AscendC::Mul(change_[(1 + axis) * size], change_, coefficients[(1 + axis) * kMask], kMask,
                   count, {1, 1, 1, kCorners, kCorners, Base::Coefficients::kCoefficients});
    PipeBarrier<PIPE_V>();
    for (int32_t axis = 0; axis < 2; axis++)
      AscendC::WholeReduceSum(slopes[axis], change_[(1 + axis) * size], kMask, count, kBlockWords,
                              1, kCorners);
  }

  __aicore__ inline void Write(const Piece& piece, const LocalTensor<float>& grad_weight,
                               const LocalTensor<float>& slopes) {
    const auto count = static_cast<uint16_t>(piece.count);
    const int32_t groups = this->tiling_.groups, weights = this->slice_.weights;
    const uint32_t bytes = this->slice_.groups * kWord, gap = groups * kWord - bytes;
    const bool contiguous = gap == 0 && groups == weights;
    AscendC::DataCopyPad(grad_weight_[piece.tap * groups + this->slice_.group],
                         grad_weight[piece.first * weights],
                         DataCopyExtParams{contiguous ? uint16_t{1} : count,
                                           contiguous ? piece.count * bytes : bytes, 0, gap, 0});
    AscendC::DataCopyPad(slopes_[piece.tap * 2], slopes[piece.first * kBlockWords],
                         DataCopyExtParams{count, 2 * kWord, 0, 0, 0});
  }

  GM_ADDR grad_;
  Piece pieces_[kMaxPatches];
  int32_t piece_count_ = 0;
  GlobalTensor<float> slopes_, grad_weight_;
  TQue<TPosition::VECOUT, 1> out_queue_;
  LocalTensor<float> partial_;  // [patches, 4, groups], a block each
  LocalTensor<float> dots_;     // [patches, 4, weights]
  LocalTensor<float> change_;   // three of [patches, 4, 8]
};

}  // namespace
}  // namespace mxd::kernels::deformable_aggregation

// grad [batch, anchors, channels], feature_maps [batch, num_feat, channels], sample_locations
// [batch, anchors, samples, 2] (fp32), weight [batch, anchors, samples, scales, groups], maps
// [3, cams, scales] (int32: widths, heights, first rows). Adds to slopes [batch, anchors, samples,
// scales, 2], the gradient by x and y that each scale brings, and to grad_weight, both fp32.
extern "C" __global__ __aicore__ void deformable_aggregation_sample_grad(
    GM_ADDR grad, GM_ADDR feature_maps, GM_ADDR sample_locations, GM_ADDR weight, GM_ADDR maps,
    GM_ADDR slopes, GM_ADDR grad_weight, DeformableAggregationTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::kernels;
  RunFor<deformable_aggregation::SampleGrad>(tiling, grad, feature_maps, sample_locations, weight,
                                             maps, slopes, grad_weight);
}
