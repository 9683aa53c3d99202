// Order within a core: flags and barriers. A line with a comment "error:" is where the kernel must
// be rejected, and why.
#include "double.h"

extern "C" __global__ __aicore__ void order_right(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Add(op.b, op.a, op.a, kCount);
  op.Store();
}

extern "C" __global__ __aicore__ void order_flag_after_load_missing(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  DataCopy(op.a, op.x, kCount);
  // error: race: reads .* DataCopy of pipe MTE2 .* WaitFlag<HardEvent::MTE2_V>
  Add(op.b, op.a, op.a, kCount);
  op.Store();
}

extern "C" __global__ __aicore__ void order_flag_before_store_missing(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Add(op.b, op.a, op.a, kCount);
  // error: race: reads .* Add of pipe V .* WaitFlag<HardEvent::V_MTE3>
  DataCopy(op.y, op.b, kCount);
}

extern "C" __global__ __aicore__ void order_load_over_what_is_read(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load(kCount / 2, kCount / 2);
  Add(op.b[kCount / 2], op.a, op.a, kCount / 2);
  // error: race: writes over .* Add of pipe V .* WaitFlag<HardEvent::V_MTE2>
  DataCopy(op.a, op.x, kCount / 2);
}

extern "C" __global__ __aicore__ void order_load_after_it_is_read(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load(kCount / 2, kCount / 2);
  Add(op.b[kCount / 2], op.a, op.a, kCount / 2);
  SetFlag<HardEvent::V_MTE2>(EVENT_ID3);
  WaitFlag<HardEvent::V_MTE2>(EVENT_ID3);
  op.Load(0, kCount / 2);
  Add(op.b, op.a, op.a, kCount / 2);
  op.Store();
}

extern "C" __global__ __aicore__ void order_vector_barrier_missing(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Muls(op.b, op.a, 3.0f, kCount);
  // error: race: reads .* Muls .* PipeBarrier<PIPE_V> is missing
  Sub(op.b, op.b, op.a, kCount);
  op.Store();
}

extern "C" __global__ __aicore__ void order_vector_barrier(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Muls(op.b, op.a, 3.0f, kCount);
  PipeBarrier<PIPE_V>();
  Sub(op.b, op.b, op.a, kCount);
  op.Store();
}

extern "C" __global__ __aicore__ void order_disjoint_vector_work_needs_no_barrier(GM_ADDR x,
                                                                                  GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Add(op.b, op.a, op.a, kCount / 2);
  Add(op.b[kCount / 2], op.a[kCount / 2], op.a[kCount / 2], kCount / 2);
  op.Store();
}

extern "C" __global__ __aicore__ void order_strided_halves_are_disjoint(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  BinaryRepeatParams every_other(2, 2, 2, 16, 16, 16);
  Add(op.b, op.a, op.a, 64, kCount / 128, every_other);
  Add(op.b[8], op.a[8], op.a[8], 64, kCount / 128, every_other);
  op.Store();
}

extern "C" __global__ __aicore__ void order_results_of_one_block_by_two_instructions(GM_ADDR x,
                                                                                     GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Add(op.b, op.a, op.a, kCount);
  PipeBarrier<PIPE_V>();
  WholeReduceSum(op.a, op.b, 1, 1, 1, 1, 8);
  WholeReduceSum(op.a[1], op.b[8], 1, 1, 1, 1, 8);
  op.Store();
}

extern "C" __global__ __aicore__ void order_scalar_read_of_a_load(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  // error: race: reads .* DataCopy of pipe MTE2 .*HardEvent::MTE2_S
  Muls(op.b, op.a, op.a.GetValue(1), kCount);
  op.Store();
}

extern "C" __global__ __aicore__ void order_scalar_read_after_its_flag(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  SetFlag<HardEvent::MTE2_S>(EVENT_ID1);
  WaitFlag<HardEvent::MTE2_S>(EVENT_ID1);
  const float zero = op.a.GetValue(0) - op.a.GetValue(0);
  Adds(op.b, op.a, zero, kCount);
  PipeBarrier<PIPE_V>();
  Add(op.b, op.b, op.a, kCount);
  op.Store();
}

extern "C" __global__ __aicore__ void order_scalar_write_before_vector(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  for (int i = 0; i < 8; ++i) op.b.SetValue(i, 0.0f);
  // error: race: reads .* SetValue of pipe S .*HardEvent::S_V
  Add(op.b, op.b, op.b, 8);
}

extern "C" __global__ __aicore__ void order_store_then_load_of_one_place(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Add(op.b, op.a, op.a, kCount);
  op.Store();
  // error: race: reads 32 B of global memory .* MTE3 .* SetFlag and WaitFlag is missing
  DataCopy(op.a, op.y, kCount);
}

extern "C" __global__ __aicore__ void order_barrier_of_all(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  DataCopy(op.a, op.x, kCount);
  PipeBarrier<PIPE_ALL>();
  DataCopy(op.y, op.a, kCount);
  PipeBarrier<PIPE_ALL>();
  DataCopy(op.a, op.y, kCount);
  PipeBarrier<PIPE_ALL>();
  Add(op.b, op.a, op.a, kCount);
  PipeBarrier<PIPE_ALL>();
  DataCopy(op.y, op.b, kCount);
}

extern "C" __global__ __aicore__ void order_flag_never_set(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  DataCopy(op.a, op.x, kCount);
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  // error: deadlock: flag MTE2_V of event 1 is waited for and nothing has set it
  WaitFlag<HardEvent::MTE2_V>(EVENT_ID1);
}

extern "C" __global__ __aicore__ void order_flag_never_waited_for(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Add(op.b, op.a, op.a, kCount);
  op.Store();
  // error: flag MTE3_V of event 2, .*, is never waited for
  SetFlag<HardEvent::MTE3_V>(EVENT_ID2);
}

extern "C" __global__ __aicore__ void order_flag_set_twice(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  DataCopy(op.a, op.x, kCount);
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  // error: flag MTE2_V of event 0 is set already
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
}

extern "C" __global__ __aicore__ void order_event_out_of_range(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  DataCopy(op.a, op.x, kCount);
  // error: event 8, which must be in \[0, 7\]
  SetFlag<HardEvent::MTE2_V>(8);
}

// CANN composes these APIs of scalar writes and vector instructions.
extern "C" __global__ __aicore__ void order_index_over_what_is_read(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Add(op.b, op.a, op.a, kCount);
  PipeBarrier<PIPE_V>();
  // error: SetValue: race: writes over .* Add of pipe V .* WaitFlag<HardEvent::V_S>
  CreateVecIndex(op.a, 0.0f, kCount);
}

extern "C" __global__ __aicore__ void order_index_after_it_is_read(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Add(op.b, op.a, op.a, kCount);
  SetFlag<HardEvent::V_S>(EVENT_ID0);
  WaitFlag<HardEvent::V_S>(EVENT_ID0);
  CreateVecIndex(op.a, 0.0f, kCount);
  op.Store();
}

extern "C" __global__ __aicore__ void order_maximum_over_what_is_read(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  TBuf<TPosition::VECCALC> buffer;
  op.pipe.InitBuffer(buffer, kCount * sizeof(float));
  op.Load();
  Add(op.b, op.a, op.a, kCount);
  SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
  WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
  DataCopy(op.y, op.b, kCount);
  PipeBarrier<PIPE_V>();
  // error: SetValue: race: writes over .* DataCopy of pipe MTE3 .* WaitFlag<HardEvent::MTE3_S>
  ReduceMax(op.b, op.a, buffer.Get<float>(), kCount);
}
