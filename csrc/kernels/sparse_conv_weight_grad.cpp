// Gradient of a sparse convolution's weight: for every kernel offset k the sum over its pairs (i,
// o) of the outer products of in[i] and grad[o].
//
// A block (one cube core, two vector cores) takes a kernel offset, a panel of input and one of
// output channels, and a slab of the rulebook's tiles at a time, and their pairs in steps of at
// most step_rows. One vector core gathers the input's rows, the other the gradient's, and turns
// them so that a channel's values lie side by side, as the matrix instruction wants its
// contraction; the cube core adds up all steps of the unit in L0C. The host adds up the slabs, in
// their order: results are the same from run to run.
//
// sparse_conv_weight_grad/ holds the stages: steps, gather, cube.
#include "common/run.h"
#include "sparse_conv_tiling.h"
#include "sparse_conv_weight_grad/cube.h"
#include "sparse_conv_weight_grad/gather.h"
#include "sparse_conv_weight_grad/message.h"
#include "sparse_conv_weight_grad/steps.h"

namespace mxd::kernels::sparse_conv_weight_grad {
namespace {

template <typename T>
class VectorCore {
  static_assert(Gatherer<T>::kUbBytes + Steps::UbBytes(StepRows(sizeof(T))) + Sender::kUbBytes <=
                kUbBytes);

 public:
  __aicore__ inline VectorCore(TPipe& pipe, const SparseConvWeightGradTiling& tiling,
                               GM_ADDR features, GM_ADDR grad, GM_ADDR pairs, GM_ADDR bounds,
                               GM_ADDR gathered, GM_ADDR messages)
      : tiling_(tiling),
        steps_(pipe, pairs, bounds, tiling_),
        gatherer_(pipe, GetSubBlockIdx() == 0 ? features : grad, gathered, tiling_),
        sender_(pipe, messages + GetBlockIdx() / 2 * kSteps * kMessageBytes) {}

  __aicore__ inline void Process() {
    SetWait<HardEvent::V_S>();  // tables and zeros are written
    gatherer_.Begin();
    steps_.Begin();
    int32_t step = 0;
    steps_.Prepare(0);
    for (; steps_.Get(step).pieces > 0; ++step) {
      steps_.Prepare(step + 1);
      if (step >= kSteps) CrossCoreWaitFlag(kTaken);
      gatherer_.Gather(step, steps_.Get(step), steps_.WaitForRows(step));
      steps_.FreeRows(step);
      Send(step);
    }
    if (step >= kSteps) CrossCoreWaitFlag(kTaken);
    Send(step);
    for (int32_t left = MaxOf(0, step - kSteps + 1); left < step; ++left) CrossCoreWaitFlag(kTaken);
    gatherer_.End();
    steps_.End();
    sender_.End();
  }

 private:
  // Tells the cube core what a step holds, and that it is there.
  __aicore__ inline void Send(int32_t step) {
    if (GetSubBlockIdx() == 0) SendStep(sender_, step, steps_.Get(step));
    CrossCoreSetFlag<2, PIPE_MTE3>(kGathered);
  }

  const SparseConvWeightGradTiling tiling_;
  Steps steps_;
  Gatherer<T> gatherer_;
  Sender sender_;
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
                                                messages);
  }
}
