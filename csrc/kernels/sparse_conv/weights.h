// The weights of kernel offsets in L1.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../sparse_conv_tiling.h"
#include "kernel_operator.h"

namespace mxd::kernels::sparse_conv {

// The weights of a panel in L1, a block for each offset and part of the contraction: the first ones
// stay there, the others are loaded when they are needed, to two places in turn.
template <typename T>
class Weights {
 public:
  __aicore__ inline Weights(TPipe& pipe, GM_ADDR weight, const LocalTensor<T>& room,
                            const SparseConvTiling& tiling)
      : in_blocks_(tiling.in_channels / tiling.in_step),
        block_elements_(tiling.in_step * tiling.panel),
        panel_elements_(static_cast<int64_t>(tiling.volume) * in_blocks_ * block_elements_),
        room_(room) {
    Bind(weight_, weight);
    const int32_t places = static_cast<int32_t>(room.GetSize()) / block_elements_;
    const int32_t wanted = tiling.volume * in_blocks_;
    resident_ = MinOf(places >= wanted ? wanted : places - 2, kMaxResident);
    free_.Init(pipe, 2);
    full_.Init(pipe, 1);
  }
  __aicore__ inline void Begin() { free_.SetAll(); }
  __aicore__ inline void End() { free_.WaitAll(); }

  __aicore__ inline void Open(int32_t panel) {
    if (panel == panel_) return;
    panel_ = panel;
    for (int32_t i = 0; i < resident_; ++i) loaded_[i] = false;
    SetWait<HardEvent::MTE1_MTE2>();
  }
  __aicore__ inline LocalTensor<T> Load(int32_t offset, int32_t block) {
    const int32_t index = offset * in_blocks_ + block;
    const bool stays = index < resident_;
    const LocalTensor<T> to = room_[(stays ? index : resident_ + buffer_) * block_elements_];
    if (!stays) free_.Wait(buffer_);
    if (!stays || !loaded_[index]) {
      DataCopy(to,
               weight_[panel_ * panel_elements_ + static_cast<int64_t>(index) * block_elements_],
               block_elements_);
      full_.SetWait();
      if (stays) loaded_[index] = true;
    }
    return to;
  }
  __aicore__ inline void Free(int32_t offset, int32_t block) {
    if (offset * in_blocks_ + block < resident_) return;
    free_.Set(buffer_);
    buffer_ = 1 - buffer_;
  }
  __aicore__ inline int32_t in_blocks() const { return in_blocks_; }
  __aicore__ inline int32_t block_elements() const { return block_elements_; }

 private:
  static constexpr int32_t kMaxResident = 512;

  const int32_t in_blocks_, block_elements_;
  const int64_t panel_elements_;
  GlobalTensor<T> weight_;
  LocalTensor<T> room_;
  Events<HardEvent::MTE1_MTE2> free_;
  Events<HardEvent::MTE2_MTE1> full_;
  int32_t resident_ = 0, buffer_ = 0, panel_ = -1;
  bool loaded_[kMaxResident];
};

}  // namespace mxd::kernels::sparse_conv
