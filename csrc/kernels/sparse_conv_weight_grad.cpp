// Gradient of a sparse convolution's weight: for every kernel offset k the sum over its pairs (i,
// o) of the outer products of in[i] and grad[o].
//
// A block (one cube core, two vector cores) takes a few kernel points, a panel of input and one of
// output channels, and a slab of the rulebook's tiles at a time: a unit. Points that follow each
// other name much the same rows. One vector core gathers the input's rows, the other the
// gradient's, a chunk of pairs at a time; they pass to the cube core in steps of at most step_rows,
// which adds up all steps of the unit in L0C. The host adds up the slabs, in their order: results
// are the same from run to run.
//
// sparse_conv_weight_grad/ holds the stages: chunks, empty_sums, row_ring, gather, message, cube.
#include "common/run.h"
#include "sparse_conv_tiling.h"
#include "sparse_conv_weight_grad/chunks.h"
#include "sparse_conv_weight_grad/cube.h"
#include "sparse_conv_weight_grad/empty_sums.h"
#include "sparse_conv_weight_grad/gather.h"
#include "sparse_conv_weight_grad/message.h"

namespace mxd::kernels::sparse_conv_weight_grad {
namespace {

template <typename T>
class VectorCore {
  static_assert(kRingBytes + kRowBytes<sizeof(T)> + Gatherer<T>::kUbBytes + Chunks::kUbBytes +
                    Sender::kUbBytes + EmptySums::kUbBytes <=
                kUbBytes);

 public:
  __aicore__ inline VectorCore(TPipe& pipe, const SparseConvWeightGradTiling& tiling,
                               GM_ADDR features, GM_ADDR grad, GM_ADDR pairs, GM_ADDR bounds,
                               GM_ADDR gathered, GM_ADDR messages, GM_ADDR parts)
      : tiling_(tiling),
        empty_(pipe, tiling_, parts),
        chunks_(pipe, pairs, bounds, tiling_, empty_),
        gatherer_(pipe, GetSubBlockIdx() == 0 ? features : grad, gathered, tiling_),
        sender_(pipe, messages + GetBlockIdx() / 2 * kSteps * kMessageBytes) {}

  __aicore__ inline void Process() {
    // Tables and zeros are written.
    SetWait<HardEvent::V_S>();
    SetWait<HardEvent::V_MTE2>();
    empty_.Begin();
    gatherer_.Begin();
    chunks_.Begin();
    for (int32_t i = 0; i < Chunks::kBuffers; ++i) chunks_.Load(i);
    List(0);
    Load(0);
    for (int32_t i = 0; chunks_.Get(i).unit >= 0; ++i) {
      chunks_.Load(i + Chunks::kBuffers);
      List(i + 1);
      // Rows by list take the ring for themselves.
      const bool ahead =
          gatherer_.Loaded(i, chunks_.Get(i)) && gatherer_.HasRoom(chunks_.Get(i + 1));
      if (ahead) Load(i + 1);
      Gather(i);
      if (!ahead) Load(i + 1);
    }
    if (step_ >= kSteps) CrossCoreWaitFlag(kTaken);
    Send(Chunk{-1, {}, {}, 0}, 0, 0);
    for (int32_t left = MaxOf(0, step_ - kSteps); left < step_ - 1; ++left)
      CrossCoreWaitFlag(kTaken);
    gatherer_.End();
    chunks_.End();
    sender_.End();
  }

 private:
  __aicore__ inline void List(int32_t i) {
    if (chunks_.Get(i).unit >= 0) gatherer_.List(i, chunks_);
  }
  __aicore__ inline void Load(int32_t i) {
    if (chunks_.Get(i).unit >= 0) gatherer_.Load(i, chunks_.Get(i));
  }
  // Gathers a chunk in as many steps as it takes.
  __aicore__ inline void Gather(int32_t i) {
    const Chunk& chunk = chunks_.Get(i);
    gatherer_.Open(i, chunk);
    for (int32_t first = 0; first < chunk.slots(); first += tiling_.step_rows) {
      const int32_t rows = MinOf(tiling_.step_rows, chunk.slots() - first);
      if (step_ >= kSteps) CrossCoreWaitFlag(kTaken);
      gatherer_.Gather(step_, i, chunk, first, rows);
      Send(chunk, first, rows);
    }
    gatherer_.Finish(i);
  }
  // Tells the cube core what a step holds, and that it is there.
  __aicore__ inline void Send(const Chunk& chunk, int32_t first, int32_t rows) {
    if (GetSubBlockIdx() == 0) SendStep(sender_, step_, chunk, first, rows);
    CrossCoreSetFlag<2, PIPE_MTE3>(kGathered);
    ++step_;
  }

  const SparseConvWeightGradTiling tiling_;
  EmptySums empty_;
  Chunks chunks_;
  Gatherer<T> gatherer_;
  Sender sender_;
  int32_t step_ = 0;
};

}  // namespace
}  // namespace mxd::kernels::sparse_conv_weight_grad

extern "C" __global__ __aicore__ void sparse_conv_weight_grad(GM_ADDR features, GM_ADDR grad,
                                                              GM_ADDR pairs, GM_ADDR bounds,
                                                              GM_ADDR gathered, GM_ADDR messages,
                                                              GM_ADDR parts,
                                                              SparseConvWeightGradTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  using namespace mxd::kernels;
  if ASCEND_IS_AIC {
    RunFor<sparse_conv_weight_grad::CubeCore>(tiling, gathered, messages, parts);
  }
  if ASCEND_IS_AIV {
    RunFor<sparse_conv_weight_grad::VectorCore>(tiling, features, grad, pairs, bounds, gathered,
                                                messages, parts);
  }
}
