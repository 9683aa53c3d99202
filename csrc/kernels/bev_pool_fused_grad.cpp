// Gradients of depth and context from that of the cells, in the order of the points: nothing is
// sorted, and no gradient of a point's features is written.
//
// A unit has the rows of its pixels in UB, and sums their gradients there, depth by depth. Pixels
// that follow each other in one cell are a piece: the cell's gradient is loaded once for all of
// them, and each instruction works on all their rows.
#include "bev_pool_fused_tiling.h"
#include "common/buffers.h"
#include "common/events.h"
#include "common/index_list.h"
#include "common/run.h"

namespace mxd::kernels {
namespace {

template <typename T>
class FusedGrad {
  static constexpr bool kConvert = sizeof(T) != sizeof(float);
  static constexpr int32_t kSize = static_cast<int32_t>(sizeof(T));
  static constexpr int32_t kBlockElements = kBlockBytes / kSize;
  static constexpr int32_t kBuffers = 2;

  // Pixels [first, first + count) of the unit at a depth of those in UB, all in one cell.
  struct Piece {
    int32_t depth, first, count;
  };
  // Of some depths: weights, their gradients, and cells of the unit's pixels, a line for each
  // depth.
  struct Lines {
    LocalTensor<float> weights, dots;
    LocalTensor<int32_t> cells;
  };

 public:
  __aicore__ inline FusedGrad(TPipe& pipe, const BevPoolFusedGradTiling& tiling, GM_ADDR grad,
                              GM_ADDR depth, GM_ADDR context, GM_ADDR cells, GM_ADDR grad_depth,
                              GM_ADDR grad_context)
      : tiling_(tiling),
        pitch_(RoundUp(tiling.channels, kBlockElements)),
        line_(RoundUp(tiling.group, kBlockWords)),
        pieces_at_once_(MinOf(kFusedPieces, kFusedGradWords / pitch_)) {
    Bind(grad_, grad, depth_, depth, context_, context, cells_, cells, grad_depth_, grad_depth,
         grad_context_, grad_context);
    Take(pipe, kFusedElements, context_rows_, sums_);
    products_ = Take<float>(pipe, kFusedGroup * kLanes);
    factors_ = Take<float>(pipe, kFusedGroup * kBlockWords);
    for (int32_t i = 0; i < kBuffers; i++) {
      Take(pipe, kFusedDepths * kFusedGroup, lines_[i].weights, lines_[i].dots, lines_[i].cells);
      Duplicate(lines_[i].weights, 0.0f, kFusedDepths * kFusedGroup);
      grads_[i] = Take<T>(pipe, kFusedGradWords);
    }
    if constexpr (kConvert) {
      wide_grads_ = Take<float>(pipe, kFusedGradWords);
      rows_ = Take<T>(pipe, kFusedElements);
      Duplicate(rows_, T{}, kFusedElements);
      for (int32_t i = 0; i < kBuffers; i++) Duplicate(grads_[i], T{}, kFusedGradWords);
    }
    PipeBarrier<PIPE_V>();
    loaded_.Init(pipe, kBuffers);
    free_.Init(pipe, kBuffers);
    weighed_.Init(pipe, kBuffers);
    listed_.Init(pipe, kBuffers);
    weights_free_.Init(pipe, kBuffers);
    cells_free_.Init(pipe, kBuffers);
    dots_free_.Init(pipe, kBuffers);
  }

  __aicore__ inline void Process() {
    free_.SetAll();
    weights_free_.SetAll();
    cells_free_.SetAll();
    dots_free_.SetAll();
    const int32_t units = tiling_.images * tiling_.groups;
    for (int32_t unit = GetBlockIdx(); unit < units; unit += GetBlockNum()) {
      image_ = unit / tiling_.groups;
      pixel_ = (unit - image_ * tiling_.groups) * tiling_.group;
      count_ = MinOf(tiling_.group, tiling_.pixels - pixel_);
      LoadContext();
      LoadLines(0, 0);
      for (int32_t depth = 0, buffer = 0; depth < tiling_.depths; depth += kFusedDepths) {
        if (depth + kFusedDepths < tiling_.depths) LoadLines(depth + kFusedDepths, 1 - buffer);
        ComputeLines(depth, buffer);
        buffer = 1 - buffer;
      }
      WriteSums();
    }
    free_.WaitAll();
    weights_free_.WaitAll();
    cells_free_.WaitAll();
    dots_free_.WaitAll();
    SetAtomicNone();
  }

 private:
  __aicore__ inline int64_t FirstRow() const {
    return static_cast<int64_t>(image_) * tiling_.pixels + pixel_;
  }
  __aicore__ inline int64_t FirstPoint(int32_t depth) const {
    return (static_cast<int64_t>(image_) * tiling_.depths + depth) * tiling_.pixels + pixel_;
  }
  __aicore__ inline int32_t Depths(int32_t first) const {
    return MinOf(kFusedDepths, tiling_.depths - first);
  }
  // Rows of `pitch_` in UB, of `channels` in global memory.
  __aicore__ inline DataCopyExtParams Rows(int32_t count) const {
    return {static_cast<uint16_t>(count), static_cast<uint32_t>(tiling_.channels * kSize), 0, 0, 0};
  }
  __aicore__ inline DataCopyPadExtParams<T> Padding() const {
    const auto padding = static_cast<uint8_t>(pitch_ - tiling_.channels);
    return {padding != 0, 0, padding, T{}};
  }

  __aicore__ inline void LoadContext() {
    LocalTensor<T> rows;
    if constexpr (kConvert)
      rows = rows_;
    else
      rows = context_rows_;
    SetWait<HardEvent::V_MTE2>();
    SetWait<HardEvent::MTE3_MTE2>();
    DataCopyPad(rows, context_[FirstRow() * tiling_.channels], Rows(count_), Padding());
    SetWait<HardEvent::MTE2_V>();
    if constexpr (kConvert) Cast(context_rows_, rows, RoundMode::CAST_NONE, count_ * pitch_);
    SetWait<HardEvent::MTE3_V>();
    Duplicate(sums_, 0.0f, count_ * pitch_);
    PipeBarrier<PIPE_V>();
  }

  // Weights and cells of the depths from `first` on, a line for each.
  __aicore__ inline void LoadLines(int32_t first, int32_t buffer) {
    const auto padding = static_cast<uint8_t>(RoundUp(count_, kBlockWords) - count_);
    const auto gap = static_cast<uint32_t>((line_ - RoundUp(count_, kBlockWords)) / kBlockWords);
    const DataCopyExtParams lines{static_cast<uint16_t>(Depths(first)),
                                  static_cast<uint32_t>(count_ * kWord),
                                  static_cast<uint32_t>((tiling_.pixels - count_) * kWord), gap, 0};
    cells_free_.Wait(buffer);
    DataCopyPad(lines_[buffer].cells, cells_[FirstPoint(first)], lines,
                {padding != 0, 0, padding, -1});
    listed_.Set(buffer);
    weights_free_.Wait(buffer);
    DataCopyPad(lines_[buffer].weights, depth_[FirstPoint(first)], lines,
                {padding != 0, 0, padding, 0.0f});
    weighed_.Set(buffer);
  }

  __aicore__ inline void ComputeLines(int32_t first, int32_t buffer) {
    now_ = buffer;
    depths_ = Depths(first);
    dots_free_.Wait(buffer);
    Duplicate(lines_[buffer].dots, 0.0f, depths_ * line_);
    weighed_.Wait(buffer);
    listed_.Wait(buffer);
    PipeBarrier<PIPE_V>();
    ComputePieces();
    cells_free_.Set(buffer);
    weights_free_.Set(buffer);
    WriteDots(first);
    dots_free_.Set(buffer);
  }

  __aicore__ inline void ComputePieces() {
    IndexList<int32_t> cells(lines_[now_].cells);
    depth_at_ = at_ = 0;
    spread_ = -1;
    int32_t buffer = 0;
    int32_t now = FillPieces(cells, buffer);
    while (now > 0) {
      const int32_t next = FillPieces(cells, 1 - buffer);
      Compute(buffer, now);
      now = next;
      buffer = 1 - buffer;
    }
  }

  // Finds the next pieces, and begins to load the gradients of their cells. How many there are.
  __aicore__ inline int32_t FillPieces(IndexList<int32_t>& cells, int32_t buffer) {
    int32_t pieces = 0;
    while (depth_at_ < depths_ && pieces < pieces_at_once_) {
      const int32_t line = depth_at_ * line_, first = at_, cell = cells.Get(line + first);
      do {
        ++at_;
      } while (at_ < count_ && cells.Get(line + at_) == cell);
      if (cell >= 0) {
        if (pieces == 0) free_.Wait(buffer);
        pieces_[buffer][pieces] = Piece{depth_at_, first, at_ - first};
        DataCopyPad(grads_[buffer][pieces * pitch_],
                    grad_[static_cast<int64_t>(cell) * tiling_.channels], Rows(1), Padding());
        ++pieces;
      }
      if (at_ == count_) {
        at_ = 0;
        ++depth_at_;
      }
    }
    if (pieces > 0) loaded_.Set(buffer);
    return pieces;
  }

  __aicore__ inline void Compute(int32_t buffer, int32_t pieces) {
    loaded_.Wait(buffer);
    LocalTensor<float> grads;
    if constexpr (kConvert) {
      grads = wide_grads_;
      Cast(grads, grads_[buffer], RoundMode::CAST_NONE, pieces * pitch_);
      PipeBarrier<PIPE_V>();
    } else {
      grads = grads_[buffer];
    }
    for (int32_t i = 0; i < pieces; i++) AddPiece(pieces_[buffer][i], grads[i * pitch_]);
    free_.Set(buffer);
  }

  __aicore__ inline void AddPiece(const Piece& piece, const LocalTensor<float>& grad) {
    const int32_t line = piece.depth * line_, first = piece.first * pitch_;
    const auto row = static_cast<uint8_t>(pitch_ / kBlockWords);
    const auto count = static_cast<uint8_t>(piece.count);
    if (piece.depth != spread_) {  // each weight to a block
      Brcb(factors_, lines_[now_].weights[line], static_cast<uint8_t>(line_ / kBlockWords),
           {1, kBlockWords});
      PipeBarrier<PIPE_V>();
      spread_ = piece.depth;
    }
    const LocalTensor<float> products = products_[piece.first * kLanes];
    for (int32_t at = 0; at < pitch_; at += kLanes) {
      const auto lanes = static_cast<uint64_t>(MinOf(kLanes, pitch_ - at));
      if (at == 0) {
        Mul(products, context_rows_[first], grad, lanes, count, {1, 1, 1, kBlockWords, row, 0});
      } else {
        PipeBarrier<PIPE_V>();
        MulAddDst(products, context_rows_[first + at], grad[at], lanes, count,
                  {1, 1, 1, kBlockWords, row, 0});
      }
      MulAddDst(sums_[first + at], grad[at], factors_[piece.first * kBlockWords], lanes, count,
                {1, 1, 0, row, 0, 1});
    }
    PipeBarrier<PIPE_V>();
    WholeReduceSum(lines_[now_].dots[line + piece.first], products, MinOf(kLanes, pitch_),
                   piece.count, 1, 1, kBlockWords);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void WriteDots(int32_t first) {
    const DataCopyExtParams lines{
        static_cast<uint16_t>(depths_), static_cast<uint32_t>(count_ * kWord),
        static_cast<uint32_t>((line_ - RoundUp(count_, kBlockWords)) / kBlockWords),
        static_cast<uint32_t>((tiling_.pixels - count_) * kWord), 0};
    SetWait<HardEvent::V_MTE3>();
    if (tiling_.add_depth) SetAtomicAdd<float>();
    DataCopyPad(grad_depth_[FirstPoint(first)], lines_[now_].dots, lines);
    if (tiling_.add_depth) SetAtomicNone();
  }

  __aicore__ inline void WriteSums() {
    LocalTensor<T> rows;
    if constexpr (kConvert) {
      rows = rows_;
      PipeBarrier<PIPE_V>();
      Cast(rows, sums_, RoundMode::CAST_RINT, count_ * pitch_);
    } else {
      rows = sums_;
    }
    SetWait<HardEvent::V_MTE3>();
    if (tiling_.add_context) SetAtomicAdd<T>();
    DataCopyPad(grad_context_[FirstRow() * tiling_.channels], rows, Rows(count_));
    if (tiling_.add_context) SetAtomicNone();
  }

  const BevPoolFusedGradTiling tiling_;
  const int32_t pitch_, line_, pieces_at_once_;  // elements of a row in UB, words of a line
  int32_t image_ = 0, pixel_ = 0, count_ = 0;    // the unit
  int32_t now_ = 0, depths_ = 0;                 // the lines that are worked on
  int32_t depth_at_ = 0, at_ = 0;                // where the next piece begins
  int32_t spread_ = -1;                          // the depth whose weights are in factors_
  Piece pieces_[kBuffers][kFusedPieces];
  GlobalTensor<float> depth_, grad_depth_;
  GlobalTensor<T> grad_, context_, grad_context_;
  GlobalTensor<int32_t> cells_;
  LocalTensor<float> context_rows_, sums_, products_, factors_, wide_grads_;
  Lines lines_[kBuffers];
  LocalTensor<T> grads_[kBuffers], rows_;
  Events<HardEvent::V_MTE2> free_, weights_free_;
  Events<HardEvent::MTE2_V> loaded_, weighed_;
  Events<HardEvent::MTE2_S> listed_;
  Events<HardEvent::S_MTE2> cells_free_;
  Events<HardEvent::MTE3_V> dots_free_;
};

}  // namespace
}  // namespace mxd::kernels

// grad [cells, channels], depth fp32 [images, depths, pixels], context [images, pixels, channels],
// cells int32 like depth, -1 where a point is in none. grad_depth fp32 like depth, grad_context
// like context.
extern "C" __global__ __aicore__ void bev_pool_fused_grad(GM_ADDR grad, GM_ADDR depth,
                                                          GM_ADDR context, GM_ADDR cells,
                                                          GM_ADDR grad_depth, GM_ADDR grad_context,
                                                          BevPoolFusedGradTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  using namespace mxd::kernels;
  RunFor<FusedGrad>(tiling, grad, depth, context, cells, grad_depth, grad_context);
}
