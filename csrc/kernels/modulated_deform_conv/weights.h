// The weight of the forward pass in L1.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/nz.h"
#include "kernel_operator.h"
#include "schedule.h"

namespace mxd::kernels::modulated_deform_conv {

// The weight of a pass in L1: all of it where it fits, else what is needed next, in two places in
// turn. In global memory [groups, panels, points, group_blocks, panel, 32 B].
template <typename T>
class Weights {
 public:
  __aicore__ inline Weights(TPipe& pipe, GM_ADDR weight, int32_t room_bytes,
                            const ModulatedDeformConvTiling& tiling)
      : tiling_(tiling),
        block_(tiling.panel * kFractalColumns<T>),
        panel_(static_cast<int64_t>(Points(tiling)) * tiling.group_blocks * block_),
        room_(Take<T, TPosition::A1>(pipe, room_bytes / static_cast<int32_t>(sizeof(T)))),
        resident_(panel_ * tiling.pass_groups * tiling.pass_panels <=
                  room_bytes / static_cast<int32_t>(sizeof(T))) {
    Bind(weight_, weight);
    free_.Init(pipe, 2);
    full_.Init(pipe, 1);
  }
  __aicore__ inline void Begin() { free_.SetAll(); }
  __aicore__ inline void End() { free_.WaitAll(); }

  __aicore__ inline void Open(const Unit& unit) {
    if (!resident_ || unit.part == pass_) return;
    pass_ = unit.part;
    first_ = static_cast<int64_t>(unit.group) * tiling_.panels + unit.panel;
    SetWait<HardEvent::MTE1_MTE2>();
    DataCopy(room_, weight_[first_ * panel_],
             static_cast<uint32_t>(unit.groups * unit.panels * panel_));
    full_.SetWait();
  }
  // The weight of some blocks of a group, [blocks, panel, 32 B].
  __aicore__ inline LocalTensor<T> Load(int32_t group, int32_t panel, int32_t point, int32_t block,
                                        int32_t blocks) {
    const int64_t which = static_cast<int64_t>(group) * tiling_.panels + panel;
    const int64_t at = (static_cast<int64_t>(point) * tiling_.group_blocks + block) * block_;
    if (resident_) return room_[static_cast<int32_t>((which - first_) * panel_ + at)];
    const LocalTensor<T> to = room_[buffer_ * kContractionBlocks * block_];
    free_.Wait(buffer_);
    DataCopy(to, weight_[which * panel_ + at], static_cast<uint32_t>(blocks * block_));
    full_.SetWait();
    return to;
  }
  __aicore__ inline void Free() {
    if (resident_) return;
    free_.Set(buffer_);
    buffer_ = 1 - buffer_;
  }

 private:
  const ModulatedDeformConvTiling& tiling_;
  const int32_t block_;  // elements of a block of all channels of a panel
  const int64_t panel_;  // elements of a panel
  GlobalTensor<T> weight_;
  LocalTensor<T> room_;
  const bool resident_;
  Events<HardEvent::MTE1_MTE2> free_;
  Events<HardEvent::MTE2_MTE1> full_;
  int64_t first_ = 0;  // the panel that `room_` begins with
  int32_t buffer_ = 0, pass_ = -1;
};

}  // namespace mxd::kernels::modulated_deform_conv
