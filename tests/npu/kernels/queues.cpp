// Queues: buffers allocated and freed in pairs, tensors enqueued once.
#include "double.h"

namespace {

template <int32_t depth>
struct Queued {
  TPipe pipe;
  TQue<TPosition::VECIN, depth> in;
  TQue<TPosition::VECOUT, depth> out;
  GlobalTensor<float> x, y;

  __aicore__ inline Queued(GM_ADDR x_address, GM_ADDR y_address) {
    x.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(x_address));
    y.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(y_address));
    pipe.InitBuffer(in, depth, kCount / 4 * sizeof(float));
    pipe.InitBuffer(out, depth, kCount / 4 * sizeof(float));
  }
  __aicore__ inline void Load(int32_t from) {
    LocalTensor<float> a = in.template AllocTensor<float>();
    DataCopy(a, x[from], kCount / 4);
    in.EnQue(a);
  }
  __aicore__ inline void Compute() {
    LocalTensor<float> a = in.template DeQue<float>();
    LocalTensor<float> b = out.template AllocTensor<float>();
    Add(b, a, a, kCount / 4);
    out.EnQue(b);
    in.FreeTensor(a);
  }
  __aicore__ inline void Store(int32_t to) {
    LocalTensor<float> b = out.template DeQue<float>();
    DataCopy(y[to], b, kCount / 4);
    out.FreeTensor(b);
  }
};

}  // namespace

extern "C" __global__ __aicore__ void queue_right(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Queued<2> op(x, y);
  for (int32_t i = 0; i < kCount; i += kCount / 4) {
    op.Load(i);
    op.Compute();
    op.Store(i);
  }
}

extern "C" __global__ __aicore__ void queue_of_depth_one(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Queued<1> op(x, y);
  for (int32_t i = 0; i < kCount; i += kCount / 4) {
    op.Load(i);
    op.Compute();
    op.Store(i);
  }
}

extern "C" __global__ __aicore__ void queue_free_missing(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Queued<2> op(x, y);
  op.Load(0);
  // error: dequeued at line .*, is never freed: FreeTensor is missing
  LocalTensor<float> a = op.in.DeQue<float>();
}

extern "C" __global__ __aicore__ void queue_alloc_beyond_its_buffers(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Queued<2> op(x, y);
  LocalTensor<float> a = op.in.AllocTensor<float>();
  LocalTensor<float> b = op.in.AllocTensor<float>();
  // error: AllocTensor of a queue whose 2 buffers are all taken
  LocalTensor<float> c = op.in.AllocTensor<float>();
}

extern "C" __global__ __aicore__ void queue_enque_of_a_free_tensor(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Queued<2> op(x, y);
  LocalTensor<float> a = op.in.AllocTensor<float>();
  op.in.FreeTensor(a);
  // error: EnQue of a tensor that is not allocated
  op.in.EnQue(a);
}

extern "C" __global__ __aicore__ void queue_enque_of_another_queue(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Queued<2> op(x, y);
  LocalTensor<float> a = op.in.AllocTensor<float>();
  // error: EnQue of a tensor that is not of this queue
  op.out.EnQue(a);
}

extern "C" __global__ __aicore__ void queue_deque_of_an_empty_queue(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Queued<2> op(x, y);
  // error: DeQue of an empty queue: EnQue is missing
  LocalTensor<float> a = op.in.DeQue<float>();
}

extern "C" __global__ __aicore__ void queue_freed_twice(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Queued<2> op(x, y);
  LocalTensor<float> a = op.in.AllocTensor<float>();
  op.in.FreeTensor(a);
  // error: FreeTensor of a tensor that is free already
  op.in.FreeTensor(a);
}

extern "C" __global__ __aicore__ void queue_use_after_free(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Queued<1> op(x, y);
  op.Load(0);
  LocalTensor<float> a = op.in.DeQue<float>();
  op.in.FreeTensor(a);
  op.Load(256);
  LocalTensor<float> b = op.out.AllocTensor<float>();
  // error: race: reads .* DataCopy of pipe MTE2
  Add(b, a, a, kCount / 4);
}

extern "C" __global__ __aicore__ void queue_event_taken_by_hand(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Queued<2> op(x, y);
  op.Load(0);
  // error: event 0 of MTE2_V belongs to a queue at present
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
}
