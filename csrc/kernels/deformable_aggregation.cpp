// Deformable aggregation: the output. Each corner of each patch of a load adds to a row of its own;
// the rows are summed when an anchor ends.
#include "deformable_aggregation/aggregation.h"

namespace mxd::kernels::deformable_aggregation {
namespace {

template <typename T>
class Forward : public Aggregation<T, true, false, Forward<T>> {
  using Base = Aggregation<T, true, false, Forward<T>>;
  friend Base;

 public:
  __aicore__ inline Forward(TPipe& pipe, const DeformableAggregationTiling& tiling,
                            GM_ADDR feature_maps, GM_ADDR locations, GM_ADDR weight, GM_ADDR maps,
                            GM_ADDR out) {
    Bind(out_, out, this->features_, feature_maps);
    this->Init(pipe, tiling, locations, weight, maps);
    if (tiling.add_output) AscendC::SetAtomicAdd<T>();
  }

  __aicore__ inline void End(int64_t anchor) {
    this->Flush();
    const int32_t row = this->slice_.row;
    auto out = out_queue_.template AllocTensor<T>();
    PipeBarrier<PIPE_V>();
    if (rows_ == 0) {
      AscendC::Duplicate(out, T{}, row);
    } else {
      while (rows_ > 2) {
        const int32_t left = (rows_ + 1) / 2;
        AscendC::Add(sums_, sums_, sums_[left * row], (rows_ - left) * row);
        rows_ = left;
        PipeBarrier<PIPE_V>();
      }
      if constexpr (Base::kConvert) {
        AscendC::Add(sums_, sums_, sums_[row], row);
        PipeBarrier<PIPE_V>();
        AscendC::Cast(out, sums_, RoundMode::CAST_RINT, row);
      } else {
        AscendC::Add(out, sums_, sums_[row], row);
      }
      rows_ = 0;
    }
    out_queue_.EnQue(out);
    out = out_queue_.template DeQue<T>();
    AscendC::DataCopyPad(out_[this->FirstChannel(anchor)], out, this->PixelOut(sizeof(T)));
    out_queue_.FreeTensor(out);
  }

 private:
  __aicore__ inline void MakeBuffers(int32_t rows) {
    static_assert(Base::kLoadBytes +
                      (kPatchFloats + kWeightBlocks * (1 + kBlockWords) + 2 * kMaxRow) * kWord <=
                  kUbBytes);
    sums_ = this->TakeFloats(rows * this->slice_.row);
    products_ = this->TakeFloats(rows * this->slice_.weights);
    factors_ = this->TakeFloats(rows * this->slice_.weights * kBlockWords);
    this->MakeQueue(out_queue_, 2, this->slice_.row * sizeof(T));
  }

  __aicore__ inline void StartSlice() {}
  __aicore__ inline void Begin(int64_t) {}
  __aicore__ inline void Copy(const LocalTensor<T>& load, int32_t slot, int32_t listed) {
    this->CopyPatch(load, slot, listed);
  }
  __aicore__ inline void Started(int64_t, int32_t, int32_t) {}

  __aicore__ inline void Compute(int32_t count) {
    const auto factors = this->Factors(products_, factors_, count);
    const auto patches = this->Patches(count);
    PipeBarrier<PIPE_V>();
    const int32_t rows = kCorners * count, old = MinOf(rows_, rows);
    if (old > 0) this->template Multiply<true, false>(sums_, patches, factors, old);
    if (old < rows) {
      const int32_t at = old * this->slice_.row;
      this->template Multiply<false, false>(
          sums_[at], patches[at], factors[old * this->slice_.weights * kBlockWords], rows - old);
      rows_ = rows;
    }
  }

  int32_t rows_ = 0;  // of sums_ that hold the anchor's sum
  GlobalTensor<T> out_;
  TQue<TPosition::VECOUT, 1> out_queue_;
  LocalTensor<float> sums_, products_, factors_;
};

}  // namespace
}  // namespace mxd::kernels::deformable_aggregation

// feature_maps [batch, num_feat, channels], sample_locations [batch, anchors, samples, 2] (fp32),
// weight [batch, anchors, samples, scales, groups], maps [3, cams, scales] (int32: widths, heights,
// first rows), out [batch, anchors, channels].
extern "C" __global__ __aicore__ void deformable_aggregation(GM_ADDR feature_maps,
                                                             GM_ADDR sample_locations,
                                                             GM_ADDR weight, GM_ADDR maps,
                                                             GM_ADDR out,
                                                             DeformableAggregationTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::kernels;
  RunFor<deformable_aggregation::Forward>(tiling, feature_maps, sample_locations, weight, maps,
                                          out);
}
