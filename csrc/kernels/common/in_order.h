// Vector arithmetic where each instruction needs the result of the one before: all lanes of
// `count`, and a barrier behind each.
#pragma once

#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

class InOrder {
 public:
  __aicore__ inline explicit InOrder(int32_t count) : count_(count) {}

// Operands are those of the AscendC function, without the count.
#define MXD_IN_ORDER(Name)                                         \
  template <typename... Operands>                                  \
  __aicore__ inline void Name(const Operands&... operands) const { \
    AscendC::Name(operands..., count_);                            \
    PipeBarrier<PIPE_V>();                                         \
  }
  MXD_IN_ORDER(Add)
  MXD_IN_ORDER(Sub)
  MXD_IN_ORDER(Mul)
  MXD_IN_ORDER(Div)
  MXD_IN_ORDER(Min)
  MXD_IN_ORDER(Max)
  MXD_IN_ORDER(Adds)
  MXD_IN_ORDER(Muls)
  MXD_IN_ORDER(Mins)
  MXD_IN_ORDER(Maxs)
  MXD_IN_ORDER(Abs)
  MXD_IN_ORDER(ShiftRight)
#undef MXD_IN_ORDER

 private:
  int32_t count_;
};

}  // namespace mxd::kernels
