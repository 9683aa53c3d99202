// Sums by segment of rows times weights, which are never written: a depth and a context make the
// features of points. The entries are points, elements of depth [images, depths, pixels]; point p
// weighs depth[p] and has the row of its pixel in context [images, pixels, channels].
//
// Points that follow each other in a segment and in memory share a DMA of rows and one of weights.
// Each weight comes into a block of 32 bytes of its own; there the vector unit gathers them, and
// spreads each to a block to multiply its row by.
#include "segment_reduce/sums.h"

namespace mxd::kernels::segment_reduce {
namespace {

template <typename T>
class LiftedSum : public Sums<T, LiftedSum<T>> {
  using Base = Sums<T, LiftedSum<T>>;
  friend Base;
  friend Reducer<T, LiftedSum<T>>;

 public:
  __aicore__ inline LiftedSum(TPipe& pipe, const SegmentReduceTiling& tiling, GM_ADDR depth,
                              GM_ADDR context, GM_ADDR points, GM_ADDR begins, GM_ADDR splits,
                              GM_ADDR out, GM_ADDR partials)
      : Base(pipe, tiling, context, points, begins, splits, out, partials) {
    depth_.SetGlobalBuffer((__gm__ float*)depth);
    pipe.InitBuffer(weight_queue_, Base::kInBuffers, kSlots * kBlockBytes);
    weights_ = Take<float>(pipe, kSlots);
    factors_ = Take<float>(pipe, kSlots * kBlockWords);
    block_ = Take<int32_t>(pipe, kSlots);
    Duplicate(weights_, 0.0f, kSlots);
    CreateVecIndex(block_, 0, kSlots);
    PipeBarrier<PIPE_V>();
    Muls(block_, block_, kBlockBytes, kSlots);
    PipeBarrier<PIPE_V>();
  }

 private:
  static constexpr int32_t kSlots = RoundUp(kSegmentLiftedChunk + 1, kBlockWords);
  static_assert(kSlots <= kMaxRepeats + 1);

  __aicore__ inline void LoadSlots(const Chunk& chunk, const LocalTensor<T>& slots) {
    const int32_t pixels = this->tiling_.pixels, depths = this->tiling_.depths;
    const int32_t size = MaxOf(this->tiling_.channels * static_cast<int32_t>(sizeof(T)), kWord);
    const LocalTensor<float> weights = weight_queue_.template AllocTensor<float>();
    this->ForEachRun(chunk, size, [&](int32_t slot, Run run) __aicore__ {
      // Of one depth of one image at a time: within it rows are as far apart as points.
      for (int32_t left = run.count; left > 0; left -= run.count) {
        const int32_t plane = run.first / pixels, pixel = run.first - plane * pixels;
        run.count = MinOf(left, CeilDiv(pixels - pixel, run.gap));
        DataCopyPad(weights[slot * kBlockWords], depth_[run.first],
                    {static_cast<uint16_t>(run.count), kWord,
                     static_cast<uint32_t>((run.gap - 1) * kWord), 0, 0},
                    {false, 0, 0, 0.0f});
        this->LoadRun(this->x_, slots, slot,
                      Run{plane / depths * pixels + pixel, run.gap, run.count});
        slot += run.count;
        run.first += run.count * run.gap;
      }
    });
    weight_queue_.EnQue(weights);
  }

  // Before the sums: each row times its weight.
  __aicore__ inline void Prepare(const Chunk& chunk, const LocalTensor<float>& values) {
    LocalTensor<float> weights = weight_queue_.template DeQue<float>();
    const int32_t first = 1 + chunk.loaded, count = chunk.loaded_end - chunk.loaded;
    if (count > 0) {
      Gather(weights_, weights, block_.template ReinterpretCast<uint32_t>(), first * kBlockBytes,
             count);
      PipeBarrier<PIPE_V>();
      Brcb(factors_, weights_, static_cast<uint8_t>(CeilDiv(count, kBlockWords)), {1, kBlockWords});
      PipeBarrier<PIPE_V>();
      const auto row = static_cast<uint8_t>(this->pitch_ / kBlockWords);
      for (int32_t at = 0; at < this->pitch_; at += kLanes) {
        const LocalTensor<float> part = values[first * this->pitch_ + at];
        Mul(part, part, factors_, static_cast<uint64_t>(MinOf(kLanes, this->pitch_ - at)),
            static_cast<uint8_t>(count), {1, 1, 0, row, row, 1});
      }
      PipeBarrier<PIPE_V>();
    }
    weight_queue_.FreeTensor(weights);
  }

  GlobalTensor<float> depth_;
  TQue<TPosition::VECIN, Base::kInBuffers> weight_queue_;
  LocalTensor<float> weights_, factors_;
  LocalTensor<int32_t> block_;  // where each slot's block begins, in bytes
};

}  // namespace
}  // namespace mxd::kernels::segment_reduce

// out [segments, channels]: sums by segment of depth[p] * context[row(p)]; depth is fp32, points
// int32 [entries] names the points of the segments, by begins int64 [segments + 1]. partials fp32
// [units, 2, pitch] is for segment_combine.
extern "C" __global__ __aicore__ void segment_sum_lifted(GM_ADDR depth, GM_ADDR context,
                                                         GM_ADDR points, GM_ADDR begins,
                                                         GM_ADDR splits, GM_ADDR out,
                                                         GM_ADDR partials,
                                                         SegmentReduceTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::kernels;
  using mxd::kernels::segment_reduce::LiftedSum;
  AscendC::TPipe pipe;
  if (tiling.dtype == kSegmentHalf)
    LiftedSum<half>(pipe, tiling, depth, context, points, begins, splits, out, partials).Process();
  else if (tiling.dtype == kSegmentBfloat16)
    LiftedSum<bfloat16_t>(pipe, tiling, depth, context, points, begins, splits, out, partials)
        .Process();
  else
    LiftedSum<float>(pipe, tiling, depth, context, points, begins, splits, out, partials).Process();
}
