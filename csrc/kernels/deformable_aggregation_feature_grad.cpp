// Deformable aggregation: the gradient of the maps. The output's gradient, weighted for each corner
// of each patch of a load, is added to global memory by atomic DMAs, since any two anchors may read
// the same pixel.
#include "deformable_aggregation/gradient.h"

namespace mxd::kernels::deformable_aggregation {
namespace {

template <typename T>
class FeatureGrad : public Gradient<T, false, false, FeatureGrad<T>> {
  friend Aggregation<T, false, false, FeatureGrad<T>>;

 public:
  __aicore__ inline FeatureGrad(TPipe& pipe, const DeformableAggregationTiling& tiling,
                                GM_ADDR grad, GM_ADDR locations, GM_ADDR weight, GM_ADDR maps,
                                GM_ADDR grad_features)
      : grad_(grad) {
    Bind(grad_features_, grad_features);
    this->Init(pipe, tiling, locations, weight, maps);
    AscendC::SetAtomicAdd<float>();
  }

 private:
  __aicore__ inline void MakeBuffers(int32_t rows) {
    static_assert(FeatureGrad::kLoadBytes + FeatureGrad::kGradBytes +
                      (kWeightBlocks * (1 + kBlockWords) + 3 * kPatchFloats) * kWord <=
                  kUbBytes);
    this->MakeGradBuffers(grad_);
    products_ = this->TakeFloats(rows * this->slice_.weights);
    factors_ = this->TakeFloats(rows * this->slice_.weights * kBlockWords);
    this->MakeQueue(patch_queue_, 3, rows * this->slice_.row * kWord);
  }

  __aicore__ inline void StartSlice() {}
  __aicore__ inline void Copy(const LocalTensor<T>&, int32_t, int32_t) {}
  __aicore__ inline void Started(int64_t, int32_t, int32_t) {}

  __aicore__ inline void Compute(int32_t count) {
    const auto factors = this->Factors(products_, factors_, count);
    auto patches = patch_queue_.template AllocTensor<float>();
    this->template Multiply<false, true>(patches, this->Grad(), factors, kCorners * count);
    patch_queue_.EnQue(patches);
    patches = patch_queue_.template DeQue<float>();
    for (int32_t i = 0; i < count; i++)
      AddPatch(patches[i * kCorners * this->slice_.row], this->first_listed_ + i);
    patch_queue_.FreeTensor(patches);
  }

  __aicore__ inline void AddPatch(const LocalTensor<float>& from, int32_t listed) {
    const Patch patch = this->taps_.GetPatch(listed);
    const auto to = this->FirstChannel(this->first_row_ + patch.row);
    const int32_t row = this->slice_.row;
    if (this->pairs_ && patch.right && patch.down) {
      const uint32_t pair = 2 * row * kWord;
      const uint32_t gap = static_cast<uint32_t>(patch.width - 2) * row * kWord;
      AscendC::DataCopyPad(grad_features_[to], from, DataCopyExtParams{2, pair, 0, gap, 0});
      return;
    }
    for (int32_t corner = 0; corner < kCorners; corner++) {
      const int32_t down = corner / 2, right = corner % 2;
      if (down > patch.down || right > patch.right) continue;
      const int64_t pixel = static_cast<int64_t>(down) * patch.width + right;
      AscendC::DataCopyPad(grad_features_[to + pixel * this->Channels()], from[corner * row],
                           this->PixelOut(kWord));
    }
  }

  GM_ADDR grad_;
  GlobalTensor<float> grad_features_;
  TQue<TPosition::VECOUT, 1> patch_queue_;
  LocalTensor<float> products_, factors_;
};

}  // namespace
}  // namespace mxd::kernels::deformable_aggregation

// grad [batch, anchors, channels], sample_locations [batch, anchors, samples, 2] (fp32), weight
// [batch, anchors, samples, scales, groups], maps [3, cams, scales] (int32: widths, heights, first
// rows). Adds to grad_features [batch, num_feat, channels], fp32.
extern "C" __global__ __aicore__ void deformable_aggregation_feature_grad(
    GM_ADDR grad, GM_ADDR sample_locations, GM_ADDR weight, GM_ADDR maps, GM_ADDR grad_features,
    DeformableAggregationTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::kernels;
  RunFor<deformable_aggregation::FeatureGrad>(tiling, grad, sample_locations, weight, maps,
                                              grad_features);
}
