// Sparse convolution: out[o] = bias + sum over the pairs (i, o) of every kernel offset k of
// in[i] @ weight[k].
//
// A block (one cube core, two vector cores) takes a tile of the rulebook's output rows and a panel
// of output columns at a time, and the tile's pairs in steps of at most step_rows rows:
//   1. the vector cores gather the step's input rows, half of every offset's each, into a workspace
//      (it stays in L2);
//   2. the cube core multiplies every offset's rows by its weight, which stays in L1 where it fits,
//      and writes the products, fp32, to a second workspace, each vector core's columns apart;
//   3. the vector cores add the products to the tile's rows, which lie in their UB in fp32.
// This is a pipeline: step s is gathered while the products of step s - kLead are added.
//
// An output row takes its products in the order of the rulebook, whatever the number of blocks:
// results are the same from run to run. Rows are moved and added in runs of equal distance, one
// instruction for each: the 190,000 pairs of a LiDAR sweep's sorted voxels, their centres aside,
// are 72,000 runs, and an instruction costs 14 to 32 cycles but a further row of it 1 to 4.
//
// sparse_conv/ holds the stages: schedule, tile_rows, steps; gather; cube; epilogue.
#include "common/run.h"
#include "sparse_conv/cube.h"
#include "sparse_conv/epilogue.h"
#include "sparse_conv/gather.h"
#include "sparse_conv/message.h"
#include "sparse_conv/schedule.h"
#include "sparse_conv/steps.h"
#include "sparse_conv/tile_rows.h"
#include "sparse_conv_tiling.h"

namespace mxd::kernels::sparse_conv {
namespace {

template <typename T>
class VectorCore {
  static_assert(Schedule::kUbBytes + TileRows::kUbBytes + Steps::kUbBytes + Gatherer<T>::kUbBytes +
                    Epilogue<T>::kUbBytes + Sender::kUbBytes <=
                kernels::kUbBytes);

 public:
  __aicore__ inline VectorCore(TPipe& pipe, const SparseConvTiling& tiling, GM_ADDR features,
                               GM_ADDR bias, GM_ADDR pairs, GM_ADDR bounds, GM_ADDR gathered,
                               GM_ADDR products, GM_ADDR messages, GM_ADDR out)
      : tiling_(tiling),
        schedule_(pipe, bounds, tiling_),
        tile_rows_(pipe, pairs),
        steps_(pipe, pairs, tiling_, schedule_, tile_rows_),
        gatherer_(pipe, features, gathered, tiling_, tile_rows_.numbers(), tile_rows_.scratch()),
        epilogue_(pipe, products, bias, out, tiling_, tile_rows_),
        sender_(pipe, messages + GetBlockIdx() / 2 * kSteps * kMessageBytes) {}

  __aicore__ inline void Process() {
    SetWait<HardEvent::V_S>();  // tables and zeros are written
    epilogue_.Begin();
    schedule_.Share(epilogue_.sums().template ReinterpretCast<int64_t>());
    gatherer_.Begin();
    steps_.Begin();
    int32_t step = 0, prepared = 0;
    for (bool more = true; more || step < prepared; ++step) {
      for (; more && prepared < step + 3; prepared += more) more = steps_.Prepare(prepared);
      if (step == prepared) break;
      if (step >= kLead) AddProducts(step - kLead);
      gatherer_.Gather(step, steps_.Get(step), steps_.WaitForRows(step));
      Send(step);
    }
    for (int32_t left = MaxOf(0, step - kLead); left < step; ++left) AddProducts(left);
    Send(step);
    steps_.End();
    gatherer_.End();
    epilogue_.End();
    sender_.End();
  }

 private:
  // Tells the cube core what a step holds, and that it is there.
  __aicore__ inline void Send(int32_t step) {
    if (GetSubBlockIdx() == 0) SendStep(sender_, step, steps_.Get(step));
    SetWait<HardEvent::MTE2_MTE3>();  // the products of step - kSteps are read, too
    CrossCoreSetFlag<2, PIPE_MTE3>(kGathered);
  }
  __aicore__ inline void AddProducts(int32_t step) {
    CrossCoreWaitFlag(kMultiplied);
    epilogue_.AddProducts(step, steps_.Get(step), steps_.Places(step));
  }

  const SparseConvTiling tiling_;
  Schedule schedule_;
  TileRows tile_rows_;
  Steps steps_;
  Gatherer<T> gatherer_;
  Epilogue<T> epilogue_;
  Sender sender_;
};

}  // namespace
}  // namespace mxd::kernels::sparse_conv

extern "C" __global__ __aicore__ void sparse_conv(GM_ADDR features, GM_ADDR weight, GM_ADDR bias,
                                                  GM_ADDR pairs, GM_ADDR bounds, GM_ADDR gathered,
                                                  GM_ADDR products, GM_ADDR messages, GM_ADDR out,
                                                  SparseConvTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  using namespace mxd::kernels;
  if ASCEND_IS_AIC {
    RunFor<sparse_conv::CubeCore>(tiling, weight, gathered, products, messages);
  }
  if ASCEND_IS_AIV {
    RunFor<sparse_conv::VectorCore>(tiling, features, bias, pairs, bounds, gathered, products,
                                    messages, out);
  }
}
