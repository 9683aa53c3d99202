// Sums by segment of rows times weights, which are never written: a depth and a context make the
// features of points. The entries are points, elements of depth [images, depths, pixels]; point p
// weighs depth[p] and has the row of its pixel in context [images, pixels, channels].
//
// Points that follow each other in a segment and in memory share a DMA of rows and one of weights.
// Each weight is then spread to a block of 32 bytes, by which the vector unit multiplies its row.
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
    Bind(depth_, depth);
    pipe.InitBuffer(weight_queue_, Base::kInBuffers, kSlots * kBlockBytes);
    this->Clear(weight_queue_, Base::kInBuffers);
    weights_ = Take<float>(pipe, kSlots);
    factors_ = Take<float>(pipe, (kSlots + kBlockWords) * kBlockWords);
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

  // The weights of slots [slot, slot + count), from word `at` of a buffer on: one after the other,
  // or each in a block of its own.
  struct Stretch {
    int32_t slot, count, at;
    bool apart;
  };

  __aicore__ inline void LoadSlots(const Chunk& chunk, const LocalTensor<T>& slots) {
    const LocalTensor<float> weights = weight_queue_.template AllocTensor<float>();
    loading_ = 1 - loading_;
    stretches_[loading_] = words_ = 0;
    auto begins = this->chunks_.Begins(chunk);
    IndexList<int32_t> points(this->chunks_.Rows(chunk));
    int32_t entry = chunk.loaded;
    for (int32_t i = 1; entry < chunk.loaded_end; i++) {
      const int32_t end = i > chunk.segments ? chunk.loaded_end
                                             : MinOf(begins.Get(i) - chunk.entry, chunk.loaded_end);
      while (entry < end) {
        Run run = NextRun(points, entry, end);
        LoadLifted(weights, slots, 1 + entry, run);
        entry += run.count;
      }
    }
    weight_queue_.EnQue(weights);
  }

  // The points of a segment ascend: where one that is n entries behind another is n greater, all
  // between them follow each other. So the end of a run is found by bisection.
  __aicore__ inline Run NextRun(IndexList<int32_t>& points, int32_t entry, int32_t end) {
    constexpr int32_t kMostGap = 1 << 16;  // points
    const auto point = [&](int32_t i) __aicore__ { return points.Get(Chunks::kHeader + i); };
    Run run{point(entry), 1, 1};
    if (end - entry == 1) return run;
    int32_t low = 1, high = end - entry;  // the first `low` follow each other, not `high` + 1
    if (point(entry + high - 1) - run.first == high - 1) low = high;
    while (low < high) {
      const int32_t middle = (low + high) / 2;
      if (point(entry + middle) - run.first == middle)
        low = middle + 1;
      else
        high = middle;
    }
    run.count = low;
    if (low > 1) return run;
    const int32_t gap = point(entry + 1) - run.first;
    if (gap > kMostGap) return run;
    run.gap = gap;
    for (int32_t next = run.first; entry + run.count < end; run.count++) {
      next += gap;
      if (point(entry + run.count) != next) break;
    }
    return run;
  }

  __aicore__ inline void LoadLifted(const LocalTensor<float>& weights, const LocalTensor<T>& slots,
                                    int32_t slot, Run run) {
    const int32_t pixels = this->tiling_.pixels, depths = this->tiling_.depths;
    // Of one depth of one image at a time: within it rows are as far apart as points.
    for (int32_t left = run.count; left > 0; left -= run.count) {
      const int32_t plane = run.first / pixels, pixel = run.first - plane * pixels;
      run.count = MinOf(left, CeilDiv(pixels - pixel, run.gap));
      const bool apart = run.gap != 1;
      stretch_[loading_][stretches_[loading_]++] = Stretch{slot, run.count, words_, apart};
      if (apart)
        DataCopyPad(weights[words_], depth_[run.first],
                    {static_cast<uint16_t>(run.count), kWord,
                     static_cast<uint32_t>((run.gap - 1) * kWord), 0, 0},
                    {false, 0, 0, 0.0f});
      else
        DataCopyPad(weights[words_], depth_[run.first], Words(run.count), {false, 0, 0, 0.0f});
      words_ += apart ? run.count * kBlockWords : RoundUp(run.count, kBlockWords);
      this->LoadRun(this->x_, slots, slot,
                    Run{plane / depths * pixels + pixel, run.gap, run.count});
      slot += run.count;
      run.first += run.count * run.gap;
    }
  }

  // Before the sums: each row times its weight.
  __aicore__ inline void Prepare(const Chunk& chunk, const LocalTensor<float>& values) {
    LocalTensor<float> weights = weight_queue_.template DeQue<float>();
    computing_ = 1 - computing_;
    const int32_t first = 1 + chunk.loaded, count = chunk.loaded_end - chunk.loaded;
    for (int32_t i = 0; i < stretches_[computing_]; i++) Spread(stretch_[computing_][i], weights);
    if (count > 0) {
      const auto row = static_cast<uint8_t>(this->pitch_ / kBlockWords);
      for (int32_t at = 0; at < this->pitch_; at += kLanes) {
        const LocalTensor<float> part = values[first * this->pitch_ + at];
        Mul(part, part, factors_[first * kBlockWords],
            static_cast<uint64_t>(MinOf(kLanes, this->pitch_ - at)), static_cast<uint8_t>(count),
            {1, 1, 0, row, row, 1});
      }
      PipeBarrier<PIPE_V>();
    }
    weight_queue_.FreeTensor(weights);
  }

  // Each weight fills the block of its slot. Eight blocks are written at a time: some of the next
  // slots', whose turn comes after.
  __aicore__ inline void Spread(const Stretch& stretch, const LocalTensor<float>& weights) {
    LocalTensor<float> from = weights[stretch.at];
    if (stretch.apart) {
      from = weights_;
      Gather(from, weights[stretch.at], block_.template ReinterpretCast<uint32_t>(), 0,
             stretch.count);
      PipeBarrier<PIPE_V>();
    }
    Brcb(factors_[stretch.slot * kBlockWords], from,
         static_cast<uint8_t>(CeilDiv(stretch.count, kBlockWords)), {1, kBlockWords});
    PipeBarrier<PIPE_V>();
  }

  GlobalTensor<float> depth_;
  TQue<TPosition::VECIN, Base::kInBuffers> weight_queue_;
  Stretch stretch_[Base::kInBuffers][kSlots];
  int32_t stretches_[Base::kInBuffers];
  int32_t loading_ = 1, computing_ = 1;  // whose stretches were made and used last
  int32_t words_ = 0;                    // of the weights that are loaded
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
                                                         GM_ADDR splits, GM_ADDR partials,
                                                         GM_ADDR out, SegmentReduceTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::kernels;
  RunFor<segment_reduce::LiftedSum>(tiling, depth, context, points, begins, splits, out, partials);
}
