// What the kernels of these tests share: y = x + x for 1,024 floats, each written out with one
// thing wrong or right.
#pragma once
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr int32_t kCount = 1024;

// x and y in global memory, a and b in UB.
struct Double {
  TPipe pipe;
  TBuf<TPosition::VECIN> a_buffer;
  TBuf<TPosition::VECOUT> b_buffer;
  GlobalTensor<float> x, y;
  LocalTensor<float> a, b;

  __aicore__ inline Double(GM_ADDR x_address, GM_ADDR y_address) {
    x.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(x_address));
    y.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(y_address));
    pipe.InitBuffer(a_buffer, kCount * sizeof(float));
    pipe.InitBuffer(b_buffer, kCount * sizeof(float));
    a = a_buffer.Get<float>();
    b = b_buffer.Get<float>();
  }
  __aicore__ inline void Load(int32_t from = 0, int32_t count = kCount) {
    DataCopy(a, x[from], count);
    SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
    WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
  }
  __aicore__ inline void Store(int32_t to = 0, int32_t count = kCount) {
    SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
    DataCopy(y[to], b, count);
  }
};

}  // namespace
