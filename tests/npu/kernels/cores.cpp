// Order between cores: lost updates, SyncAll, cross-core flags, atomics.
#include "double.h"

namespace {

// Doubles a fourth of x, as block GetBlockIdx() of four.
__aicore__ inline void DoublePart(Double& op, int32_t part) {
  op.Load(part * (kCount / 4), kCount / 4);
  Add(op.b, op.a, op.a, kCount / 4);
}

}  // namespace

// blocks: 4
extern "C" __global__ __aicore__ void cores_right(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  DoublePart(op, GetBlockIdx());
  op.Store(GetBlockIdx() * (kCount / 4), kCount / 4);
}

// blocks: 4
extern "C" __global__ __aicore__ void cores_lost_update(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  DoublePart(op, GetBlockIdx());
  SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
  WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
  // error: lost update: several cores write the same 32 B
  DataCopyPad(op.y[GetBlockIdx() * 4], op.b, DataCopyExtParams(1, 16, 0, 0, 0));
}

// blocks: 2
extern "C" __global__ __aicore__ void cores_atomic_add(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Muls(op.b, op.a, 1.0f, kCount);
  SetAtomicAdd<float>();
  op.Store();
  SetAtomicNone();
}

// blocks: 2
extern "C" __global__ __aicore__ void cores_atomic_left_on(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Muls(op.b, op.a, 1.0f, kCount);
  // error: atomics are left on: SetAtomicNone is missing
  SetAtomicAdd<float>();
  op.Store();
}

// blocks: 2
extern "C" __global__ __aicore__ void cores_atomic_by_one_of_two(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Muls(op.b, op.a, 1.0f, kCount);
  SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
  WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
  if (GetBlockIdx() == 0) SetAtomicAdd<float>();
  // error: lost update: .* one of them without an atomic
  DataCopy(op.y, op.b, kCount);
  SetAtomicNone();
}

// blocks: 4
extern "C" __global__ __aicore__ void cores_sync_missing(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  DoublePart(op, GetBlockIdx());
  op.Store(GetBlockIdx() * (kCount / 4), kCount / 4);
  PipeBarrier<PIPE_ALL>();
  if (GetBlockIdx() == 3) {
    // error: race: reads 32 B of global memory .* SyncAll or a cross-core flag is missing
    DataCopy(op.a, op.y, kCount);
  }
}

// blocks: 4
extern "C" __global__ __aicore__ void cores_sync_all(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  DoublePart(op, (GetBlockIdx() + 1) % 4);
  op.Store((GetBlockIdx() + 1) % 4 * (kCount / 4), kCount / 4);
  SyncAll();
  const int32_t at = GetBlockIdx() * (kCount / 4);
  DataCopy(op.a, op.y[at], kCount / 4);
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
  Muls(op.b, op.a, 1.0f, kCount / 4);
  op.Store(at, kCount / 4);
}

// What two cores have read is written by a third, while one of them reads beside it.
// blocks: 4
extern "C" __global__ __aicore__ void cores_two_readers(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  const int32_t part = kCount / 4, own = GetBlockIdx();
  if (own < 2) DataCopy(op.b, op.y, part);
  PipeBarrier<PIPE_ALL>();
  SyncAll();
  if (own == 0) DataCopy(op.b, op.y[part], part);
  if (own == 2) {
    DoublePart(op, 0);
    op.Store(0, part);
  }
  PipeBarrier<PIPE_ALL>();
  SyncAll();
  if (own == 0) return;
  DoublePart(op, own);
  op.Store(own * part, part);
}

// blocks: 4
extern "C" __global__ __aicore__ void cores_second_reader_too_late(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  const int32_t part = kCount / 4, own = GetBlockIdx();
  if (own == 0) DataCopy(op.b, op.y, part);
  PipeBarrier<PIPE_ALL>();
  SyncAll();
  if (own == 1) DataCopy(op.b, op.y, part);
  if (own != 2) return;
  DoublePart(op, 0);
  SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
  WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
  // error: race: writes 32 B of global memory .* that AIV 1 reads, and nothing orders the two
  DataCopy(op.y, op.b, part);
}

// blocks: 4
extern "C" __global__ __aicore__ void cores_sync_of_some(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  // error: deadlock: AIV 0 waits at line \d+ for the other cores at SyncAll; .*; 1 cores have ended
  if (GetBlockIdx() != 2) SyncAll();
}

// blocks: 2
extern "C" __global__ __aicore__ void cores_mix_in_turn(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  if ASCEND_IS_AIV {
    Double op(x, y);
    DoublePart(op, GetBlockIdx());
    op.Store(GetBlockIdx() * (kCount / 4), kCount / 4);
    CrossCoreSetFlag<2, PIPE_MTE3>(3);
    CrossCoreWaitFlag(4);
  }
  if ASCEND_IS_AIC {
    CrossCoreWaitFlag(3);
    CrossCoreSetFlag<2, PIPE_FIX>(4);
  }
}

extern "C" __global__ __aicore__ void cores_mix_deadlock(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  if ASCEND_IS_AIV {
    CrossCoreWaitFlag(4);
    CrossCoreSetFlag<2, PIPE_MTE3>(3);
  }
  if ASCEND_IS_AIC {
    // error: deadlock: AIC 0 waits at line \d+ for cross-core flag 3; AIV 0 waits at line \d+ for
    // cross-core flag 4
    CrossCoreWaitFlag(3);
    CrossCoreSetFlag<2, PIPE_FIX>(4);
  }
}

extern "C" __global__ __aicore__ void cores_mix_flag_not_waited_for(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  if ASCEND_IS_AIV {
    // error: cross-core flag 3 is set for an AIC that never waits for it
    CrossCoreSetFlag<2, PIPE_MTE3>(3);
  }
}

extern "C" __global__ __aicore__ void cores_mix_flag_missing(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  if ASCEND_IS_AIC {
    TPipe pipe;
    TBuf<TPosition::A1> buffer;
    pipe.InitBuffer(buffer, kCount * sizeof(float));
    GlobalTensor<float> written;
    written.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(y));
    DataCopy(buffer.Get<float>(), written, kCount);
  }
  if ASCEND_IS_AIV {
    Double op(x, y);
    DoublePart(op, GetSubBlockIdx());
    SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
    // error: race: writes 32 B of global memory .* that AIC 0 reads, and nothing orders the two
    DataCopy(op.y, op.b, kCount / 4);
  }
}

extern "C" __global__ __aicore__ void cores_vector_on_the_cube(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  Double op(x, y);
  // error: Duplicate is a vector instruction, on a cube core: put it under ASCEND_IS_AIV
  Duplicate(op.a, 0.0f, 64);
}
