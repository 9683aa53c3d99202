// Modulated deformable convolution: the gradients.
//
// A block (one cube core, two vector cores) takes a tile of output positions at a time, and of it
// one kernel point and some channels, a step:
//   1. the cube core multiplies the output's gradient by the weight, which stays in L1 where it
//      fits: that is the gradient of the step's columns, passed through a ring that stays in L2;
//   2. the vector cores, each with its half of the positions, read it and the four pixels of each
//      tap, add it to the gradient of the image by DMAs that add, and sum up its products with the
//      pixels, of which the gradients of offset and mask are made; and they make the columns again,
//      passed through another ring;
//   3. the cube core multiplies the output's gradient by them: that is the gradient of the weight.
//
// The DMAs' additions must have an order. So the tiles are cut into lanes, by the sizes alone, and
// a lane is worked on by one block, in order. Each of its vector cores adds to a gradient of the
// image of its own, and the cube core to one of the weight; the host adds them up. Results are the
// same from run to run, for any number of blocks.
//
// modulated_deform_conv_backward/ holds the stages: step_grad, tap_grad; output_grads, weights,
// cube; the schedule and the lists of taps are those of the forward pass.
#include "common/run.h"
#include "modulated_deform_conv/tap_lists.h"
#include "modulated_deform_conv_backward/cube.h"
#include "modulated_deform_conv_backward/step_grad.h"
#include "modulated_deform_conv_backward/tap_grad.h"
#include "modulated_deform_conv_tiling.h"

namespace mxd::kernels::modulated_deform_conv_backward {
namespace {

template <typename T>
class VectorCore {
  static constexpr int32_t kReserved = kernels::kUbBytes - TMP_UB_OFFSET;  // Select's own
  static_assert(BackwardTaps<T>::kUbBytes + TapGrad<T>::kUbBytes + StepGrad<T>::kUbBytes +
                    kReserved <=
                kernels::kUbBytes);

 public:
  __aicore__ inline VectorCore(TPipe& pipe, const ModulatedDeformConvTiling& tiling, GM_ADDR images,
                               GM_ADDR offset, GM_ADDR mask, GM_ADDR column_grads, GM_ADDR ring,
                               GM_ADDR grad_images, GM_ADDR grad_offset, GM_ADDR grad_mask)
      : tiling_(tiling),
        taps_(pipe, offset, mask, tiling_),
        tap_grad_(pipe, grad_offset, grad_mask, tiling_),
        step_grad_(pipe, images,
                   column_grads + GetBlockIdx() / 2 * kSlots * StepBytes(tiling) /
                                      static_cast<int32_t>(sizeof(T)) * kWord,
                   ring + GetBlockIdx() / 2 * kSlots * StepBytes(tiling), grad_images, tiling_) {}

  __aicore__ inline void Process() {
    SetWait<HardEvent::V_MTE2>();  // zeros are written
    taps_.Begin();
    tap_grad_.Begin();
    step_grad_.Begin();
    int32_t number = 0;
    ForEachBatch<Lanes>(tiling_, modulated_deform_conv_backward::kListTaps, taps_,
                        [&](const Batch& batch, const Span& span, int32_t list) __aicore__ {
                          ForEachStep(tiling_, batch, [&](const Step& step) __aicore__ {
                            if (tiling_.of_data) CrossCoreWaitFlag(kGradReady);
                            if (tiling_.of_parameters && number >= kSlots)
                              CrossCoreWaitFlag(kTaken);
                            step_grad_.Run(number % kSlots, batch, step, taps_, list, span.count,
                                           tap_grad_.dots());
                            CrossCoreSetFlag<2, PIPE_MTE3>(kFilled);
                            ++number;
                          });
                          if (tiling_.of_data && span.count > 0)
                            tap_grad_.Write(batch, taps_, list, span.first, span.count);
                        });
    if (tiling_.of_parameters)
      for (int32_t left = MinOf(number, kSlots); left > 0; --left) CrossCoreWaitFlag(kTaken);
    step_grad_.End();
    tap_grad_.End();
    taps_.End();
  }

 private:
  const ModulatedDeformConvTiling tiling_;
  BackwardTaps<T> taps_;
  TapGrad<T> tap_grad_;
  StepGrad<T> step_grad_;
};

}  // namespace
}  // namespace mxd::kernels::modulated_deform_conv_backward

// grad [batch, positions, groups, panels, panel], images [batch, deform_groups, height * width,
// channels], offset [batch, deform_groups, points, 2, positions], mask [batch, deform_groups,
// points, positions], weight [groups, points, output channels in blocks, input channels, 32 B],
// column_grads (fp32) and ring [blocks, kSlots, step]. Adds to grad_images [batch, copies, 2,
// deform_groups, height * width, channels] and grad_weight [lanes, groups, panels, points, panel,
// input channels], both fp32; writes grad_offset and grad_mask, as offset and mask with out_stride
// positions.
extern "C" __global__ __aicore__ void modulated_deform_conv_backward(
    GM_ADDR grad, GM_ADDR images, GM_ADDR offset, GM_ADDR mask, GM_ADDR weight,
    GM_ADDR column_grads, GM_ADDR ring, GM_ADDR grad_images, GM_ADDR grad_offset, GM_ADDR grad_mask,
    GM_ADDR grad_weight, ModulatedDeformConvTiling tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  using namespace mxd::kernels;
  if ASCEND_IS_AIC {
    RunFor<modulated_deform_conv_backward::CubeCore>(tiling, grad, weight, column_grads, ring,
                                                     grad_weight);
  }
  if ASCEND_IS_AIV {
    RunFor<modulated_deform_conv_backward::VectorCore>(tiling, images, offset, mask, column_grads,
                                                       ring, grad_images, grad_offset, grad_mask);
  }
}
