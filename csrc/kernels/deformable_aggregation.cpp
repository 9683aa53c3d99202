// Deformable aggregation: the output. Each corner of each patch of a load adds to a row of its own;
// the rows are summed when an anchor ends.
#include "deformable_aggregation.h"

namespace mxd::deformable_aggregation {
namespace {

template <typename T>
class Forward : public Aggregation<T, true, false, Forward<T>> {
  using Base = Aggregation<T, true, false, Forward<T>>;
  friend Base;

 public:
  __aicore__ inline Forward(GM_ADDR feature_maps, GM_ADDR locations, GM_ADDR weight, GM_ADDR maps,
                            GM_ADDR out, const DeformableAggregationTiling& tiling) {
    out_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(out));
    this->features_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(feature_maps));
    this->Init(locations, weight, maps, tiling);
    if (tiling.add_output) AscendC::SetAtomicAdd<T>();
  }

  __aicore__ inline void End(int64_t anchor) {
    this->Flush();
    const int32_t row = this->slice_.row;
    auto out = out_queue_.template AllocTensor<T>();
    Then();
    if (rows_ == 0) {
      AscendC::Duplicate(out, static_cast<T>(0.0f), row);
    } else {
      const auto sum = sum_buffer_.template Get<float>();
      while (rows_ > 2) {
        const int32_t left = (rows_ + 1) / 2;
        AscendC::Add(sum, sum, sum[left * row], (rows_ - left) * row);
        rows_ = left;
        Then();
      }
      if constexpr (Base::kConvert) {
        AscendC::Add(sum, sum, sum[row], row);
        Then();
        AscendC::Cast(out, sum, RoundMode::CAST_RINT, row);
      } else {
        AscendC::Add(out, sum, sum[row], row);
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
    this->MakeBuffer(sum_buffer_, rows * this->slice_.row);
    this->MakeBuffer(product_buffer_, rows * this->slice_.weights);
    this->MakeBuffer(factor_buffer_, rows * this->slice_.weights * kBlockFloats);
    this->MakeQueue(out_queue_, 2, this->slice_.row * sizeof(T));
  }

  __aicore__ inline void StartSlice() {}
  __aicore__ inline void Begin(int64_t) {}
  __aicore__ inline void Copy(const LocalTensor<T>& load, int32_t slot, int32_t listed) {
    this->CopyPatch(load, slot, listed);
  }
  __aicore__ inline void Started(int64_t, int32_t, int32_t) {}

  __aicore__ inline void Compute(int32_t count) {
    const auto factors = this->Factors(product_buffer_, factor_buffer_, count);
    const auto patches = this->Patches(count);
    const auto sum = sum_buffer_.template Get<float>();
    Then();
    const int32_t rows = kCorners * count, old = Least(rows_, rows);
    if (old > 0) this->template Multiply<true, false>(sum, patches, factors, old);
    if (old < rows) {
      const int32_t at = old * this->slice_.row;
      this->template Multiply<false, false>(
          sum[at], patches[at], factors[old * this->slice_.weights * kBlockFloats], rows - old);
      rows_ = rows;
    }
  }

  int32_t rows_ = 0;  // of sum_buffer_ that hold the anchor's sum
  GlobalTensor<T> out_;
  TQue<TPosition::VECOUT, 1> out_queue_;
  TBuf<TPosition::VECCALC> sum_buffer_, product_buffer_, factor_buffer_;
};

}  // namespace
}  // namespace mxd::deformable_aggregation

// feature_maps [batch, num_feat, channels], sample_locations [batch, anchors, samples, 2] (fp32),
// weight [batch, anchors, samples, scales, groups], maps [3, cams, scales] (int32: widths, heights,
// first rows), out [batch, anchors, channels].
extern "C" __global__ __aicore__ void deformable_aggregation(GM_ADDR feature_maps,
                                                             GM_ADDR sample_locations,
                                                             GM_ADDR weight, GM_ADDR maps,
                                                             GM_ADDR out,
                                                             DeformableAggregationTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::deformable_aggregation;
  if (tiling.is_half)
    Forward<half>(feature_maps, sample_locations, weight, maps, out, tiling).Run();
  else
    Forward<float>(feature_maps, sample_locations, weight, maps, out, tiling).Run();
  AscendC::SetAtomicNone();
}
