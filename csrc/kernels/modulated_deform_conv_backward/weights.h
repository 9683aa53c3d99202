// The weight of the backward pass in L1.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/matrix_unit.h"
#include "../common/nz.h"
#include "../modulated_deform_conv/schedule.h"
#include "kernel_operator.h"

namespace mxd::kernels::modulated_deform_conv_backward {

using namespace AscendC;
using namespace modulated_deform_conv;

// The weight in L1: all of it where it fits, else what is needed next, in two places in turn. In
// global memory [groups, points, output channels in blocks, input channels of a group, 32 B].
template <typename T>
class Weights {
 public:
  __aicore__ inline Weights(TPipe& pipe, GM_ADDR weight, int32_t room_bytes,
                            const ModulatedDeformConvTiling& tiling)
      : tiling_(tiling),
        rows_(tiling.group_blocks * kElements),
        out_blocks_(tiling.panels * tiling.panel / kElements),
        total_(static_cast<int64_t>(tiling.groups) * Points(tiling) * out_blocks_ * rows_ *
               kElements),
        room_(Take<T, TPosition::B1>(pipe, room_bytes / static_cast<int32_t>(sizeof(T)))),
        resident_(total_ <= room_bytes / static_cast<int32_t>(sizeof(T))) {
    Bind(weight_, weight);
    free_.Init(pipe, 2);
    full_.Init(pipe, 1);
  }
  __aicore__ inline void Begin() {
    free_.SetAll();
    if (!resident_) return;
    DataCopy(room_, weight_, static_cast<uint32_t>(total_));
    full_.SetWait();
  }
  __aicore__ inline void End() { free_.WaitAll(); }

  // Loads the right operand: `blocks` of the output channels from `block` on, `rows` of the input
  // channels of a group from `row` on.
  __aicore__ inline void Load(MatrixUnit<T>& matrix, int32_t group, int32_t point, int32_t block,
                              int32_t blocks, int32_t row, int32_t rows) {
    const int64_t from =
        ((static_cast<int64_t>(group) * Points(tiling_) + point) * out_blocks_ + block) * rows_ +
        row;
    if (resident_) {
      const int32_t fractal = static_cast<int32_t>(from / kFractalRows);
      if (rows == rows_) {
        matrix.LoadRight(room_, fractal, blocks * rows / kFractalRows);
        return;
      }
      for (int32_t i = 0; i < blocks; ++i)
        matrix.LoadRight(room_, fractal + i * rows_ / kFractalRows, rows / kFractalRows,
                         i * rows / kFractalRows);
      return;
    }
    const LocalTensor<T> to = room_[buffer_ * kContractionBlocks * kMatrixColumns * kElements];
    free_.Wait(buffer_);
    DataCopy(to, weight_[from * kElements], DataCopyParams(blocks, rows, rows_ - rows, 0));
    full_.SetWait();
    matrix.LoadRight(to, 0, blocks * rows / kFractalRows);
    free_.Set(buffer_);
    buffer_ = 1 - buffer_;
  }

 private:
  static constexpr int32_t kElements = kFractalColumns<T>;

  const ModulatedDeformConvTiling& tiling_;
  const int32_t rows_, out_blocks_;
  const int64_t total_;
  GlobalTensor<T> weight_;
  LocalTensor<T> room_;
  const bool resident_;
  Events<HardEvent::MTE1_MTE2> free_;
  Events<HardEvent::MTE2_MTE1> full_;
  int32_t buffer_ = 0;
};

}  // namespace mxd::kernels::modulated_deform_conv_backward
