// The output's gradient in L1.
#pragma once

#include "../common/buffers.h"
#include "../common/events.h"
#include "../common/squares.h"
#include "../modulated_deform_conv/schedule.h"
#include "kernel_operator.h"

namespace mxd::kernels::modulated_deform_conv_backward {

using namespace AscendC;
using namespace modulated_deform_conv;

// For some units and panels what was loaded last stays.
template <typename T>
class OutputGrads {
  static constexpr int32_t kPlaces = 4;

 public:
  __aicore__ static constexpr int32_t Bytes(const ModulatedDeformConvTiling& tiling) {
    return kPlaces * tiling.tile * tiling.panel * static_cast<int32_t>(sizeof(T));
  }

  // `grad` [batch, positions, groups, panels, panel]
  __aicore__ inline OutputGrads(TPipe& pipe, GM_ADDR grad, const ModulatedDeformConvTiling& tiling)
      : tiling_(tiling),
        panels_(tiling.groups * tiling.panels),
        place_elements_(tiling.tile * tiling.panel),
        places_(Take<T, TPosition::A1>(pipe, kPlaces * place_elements_)) {
    grad_.SetGlobalBuffer(reinterpret_cast<__gm__ Bits<T>*>(grad));
  }
  __aicore__ inline void Begin() {
    // Missing rows are multiplied by 0. That gives 0 only if they hold finite numbers.
    InitConstValue(places_.template ReinterpretCast<uint32_t>(),
                   InitConstValueParams<uint32_t>(
                       1, static_cast<uint16_t>(Bytes(tiling_) / kBlockBytes), 0, 0));
    PipeBarrier<PIPE_MTE2>();
  }

  // The positions of a unit, of one panel, as squares.
  __aicore__ inline LocalTensor<T> Get(int32_t unit_number, const Unit& unit, int32_t panel) {
    const int64_t wanted = static_cast<int64_t>(unit_number) * panels_ + panel;
    const int32_t place = static_cast<int32_t>(wanted % kPlaces);
    const LocalTensor<T> to = places_[place * place_elements_];
    if (held_[place] == wanted) return to;
    held_[place] = wanted;
    const int64_t position = static_cast<int64_t>(unit.image) * Positions(tiling_) + unit.first;
    SetWait<HardEvent::MTE1_MTE2>();
    LoadSquares(to, grad_[(position * panels_ + panel) * tiling_.panel], unit.count, tiling_.panel,
                panels_ * tiling_.panel);
    SetWait<HardEvent::MTE2_MTE1>();
    return to;
  }

 private:
  const ModulatedDeformConvTiling& tiling_;
  const int32_t panels_, place_elements_;
  GlobalTensor<Bits<T>> grad_;
  LocalTensor<T> places_;
  int64_t held_[kPlaces] = {-1, -1, -1, -1};
};

}  // namespace mxd::kernels::modulated_deform_conv_backward
