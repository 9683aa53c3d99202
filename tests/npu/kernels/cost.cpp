// Kernels whose cost is worked out by hand in test_cost.py.
#include "double.h"

// What each block reads of x.
struct StreamSize {
  int32_t bytes_a_core;
};

extern "C" __global__ __aicore__ void cost_bursts(GM_ADDR x) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, x);
  DataCopy(op.a, op.x, DataCopyParams(16, 2, 6, 0));
}

extern "C" __global__ __aicore__ void cost_stream(GM_ADDR x, StreamSize size) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  constexpr int32_t kTile = 65536;
  TPipe pipe;
  TQue<TPosition::VECIN, 2> queue;
  pipe.InitBuffer(queue, 2, kTile);
  GlobalTensor<int32_t> in;
  in.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(x + GetBlockIdx() * size.bytes_a_core));
  for (int32_t at = 0; at < size.bytes_a_core; at += kTile) {
    LocalTensor<int32_t> tile = queue.AllocTensor<int32_t>();
    DataCopy(tile, in[at / 4], kTile / 4);
    queue.EnQue(tile);
    tile = queue.DeQue<int32_t>();
    queue.FreeTensor(tile);
  }
}
