// Vector arithmetic where each instruction needs the result of the one before: all lanes of
// `count`, and a barrier behind each.
#pragma once

#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

class InOrder {
  using Lanes = LocalTensor<float>;

 public:
  __aicore__ inline explicit InOrder(int32_t count) : count_(count) {}

  __aicore__ inline void Add(const Lanes& to, const Lanes& a, const Lanes& b) const {
    AscendC::Add(to, a, b, count_);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Sub(const Lanes& to, const Lanes& a, const Lanes& b) const {
    AscendC::Sub(to, a, b, count_);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Mul(const Lanes& to, const Lanes& a, const Lanes& b) const {
    AscendC::Mul(to, a, b, count_);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Div(const Lanes& to, const Lanes& a, const Lanes& b) const {
    AscendC::Div(to, a, b, count_);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Min(const Lanes& to, const Lanes& a, const Lanes& b) const {
    AscendC::Min(to, a, b, count_);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Max(const Lanes& to, const Lanes& a, const Lanes& b) const {
    AscendC::Max(to, a, b, count_);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Adds(const Lanes& to, const Lanes& a, float number) const {
    AscendC::Adds(to, a, number, count_);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Muls(const Lanes& to, const Lanes& a, float number) const {
    AscendC::Muls(to, a, number, count_);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Mins(const Lanes& to, const Lanes& a, float number) const {
    AscendC::Mins(to, a, number, count_);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Maxs(const Lanes& to, const Lanes& a, float number) const {
    AscendC::Maxs(to, a, number, count_);
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Abs(const Lanes& to, const Lanes& a) const {
    AscendC::Abs(to, a, count_);
    PipeBarrier<PIPE_V>();
  }

 private:
  int32_t count_;
};

}  // namespace mxd::kernels
