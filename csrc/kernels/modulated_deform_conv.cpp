// Modulated deformable convolution (DCN v2; without a mask, DCN v1).
//
// A block (one cube core, two vector cores) takes a tile of output positions at a time:
//   1. the vector cores find where the taps of a batch of kernel points read, copy the 2 x 2 pixels
//      of each by one DMA, and sum them up into columns, which go through a ring of a few steps (it
//      stays in L2); each makes those of its half of the positions;
//   2. the cube core multiplies them by the weight, which stays in L1 where it fits, sums up all
//      steps in L0C, [output channels, positions], beginning with the bias, and writes the sums.
//
// A sum's order depends on the sizes alone: results are the same from run to run, for any number of
// blocks.
//
// modulated_deform_conv/ holds the stages: schedule; taps, tap_lists, images, columns; weights,
// cube.
#include "common/run.h"
#include "modulated_deform_conv/columns.h"
#include "modulated_deform_conv/cube.h"
#include "modulated_deform_conv/flags.h"
#include "modulated_deform_conv/schedule.h"
#include "modulated_deform_conv/tap_lists.h"
#include "modulated_deform_conv/taps.h"
#include "modulated_deform_conv_tiling.h"

namespace mxd::kernels::modulated_deform_conv {
namespace {

template <typename T>
class VectorCore {
  static constexpr int32_t kReserved = kUbBytes - TMP_UB_OFFSET;  // what Select needs for itself
  static_assert(ForwardTaps<T>::kUbBytes + Columns<T>::kUbBytes + kReserved <= kUbBytes);

 public:
  __aicore__ inline VectorCore(TPipe& pipe, const ModulatedDeformConvTiling& tiling, GM_ADDR images,
                               GM_ADDR offset, GM_ADDR mask, GM_ADDR ring)
      : tiling_(tiling),
        taps_(pipe, offset, mask, tiling_),
        columns_(pipe, images, ring + GetBlockIdx() / 2 * kSlots * StepBytes(tiling), tiling_) {}

  __aicore__ inline void Process() {
    SetWait<HardEvent::V_MTE2>();  // zeros are written
    taps_.Begin();
    columns_.Begin();
    int32_t number = 0;
    ForEachBatch<Passes>(tiling_, kListTaps, taps_,
                         [&](const Batch& batch, const Span& span, int32_t list) __aicore__ {
                           ForEachStep(tiling_, batch, [&](const Step& step) __aicore__ {
                             if (number >= kSlots) CrossCoreWaitFlag(kTaken);
                             columns_.Make(number % kSlots, batch, step, taps_, list, span.count);
                             CrossCoreSetFlag<2, PIPE_MTE3>(kFilled);
                             ++number;
                           });
                         });
    for (int32_t left = MinOf(number, kSlots); left > 0; --left) CrossCoreWaitFlag(kTaken);
    columns_.End();
    taps_.End();
  }

 private:
  const ModulatedDeformConvTiling tiling_;
  ForwardTaps<T> taps_;
  Columns<T> columns_;
};

}  // namespace
}  // namespace mxd::kernels::modulated_deform_conv

// images [batch, deform_groups, height * width, channels], offset [batch, deform_groups, points, 2,
// positions], mask [batch, deform_groups, points, positions], weight [groups, panels, points,
// group_blocks, panel, 32 B], bias [groups, panels, panel, 32 B] and as many ones as the blocks of
// a tile hold, ring [blocks, kSlots, step], out [batch, groups, out_channels, out_stride].
extern "C" __global__ __aicore__ void modulated_deform_conv(GM_ADDR images, GM_ADDR offset,
                                                            GM_ADDR mask, GM_ADDR weight,
                                                            GM_ADDR bias, GM_ADDR ring, GM_ADDR out,
                                                            ModulatedDeformConvTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  using namespace mxd::kernels;
  if ASCEND_IS_AIC {
    RunFor<modulated_deform_conv::CubeCore>(tiling, weight, bias, ring, out);
  }
  if ASCEND_IS_AIV {
    RunFor<modulated_deform_conv::VectorCore>(tiling, images, offset, mask, ring);
  }
}
