// Addresses, lengths, types and limits of instructions.
#include "double.h"

extern "C" __global__ __aicore__ void memory_copy_of_a_ragged_length(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  // error: 1001 elements of 4 B: .* multiples of 32 B, other lengths need DataCopyPad
  DataCopy(op.a, op.x, 1001);
}

extern "C" __global__ __aicore__ void memory_copy_pad_of_a_ragged_length(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  DataCopyExtParams part(1, 1001 * sizeof(float), 0, 0, 0), rest(1, 23 * sizeof(float), 0, 0, 0);
  DataCopyPad(op.a, op.x, part, DataCopyPadExtParams<float>(false, 0, 0, 0));
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
  Add(op.b, op.a, op.a, 1001);
  SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
  WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
  DataCopyPad(op.y, op.b, part);
  PipeBarrier<PIPE_ALL>();
  DataCopyPad(op.a, op.x[1001], rest, DataCopyPadExtParams<float>(true, 0, 1, 7.0f));
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
  Add(op.b, op.a, op.a, 24);
  SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
  WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
  DataCopyPad(op.y[1001], op.b, rest);
}

extern "C" __global__ __aicore__ void memory_copy_to_a_ragged_address(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  // error: the destination starts at byte 4 of UB, which must be a multiple of 32
  DataCopy(op.a[1], op.x, 64);
}

extern "C" __global__ __aicore__ void memory_vector_at_a_ragged_address(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  // error: source 0 starts at byte 16 of UB, which must be a multiple of 32
  Add(op.b, op.a[4], op.a[8], 64);
}

extern "C" __global__ __aicore__ void memory_padding_too_wide(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  // error: padding of 36 B, at most 32
  DataCopyPad(op.a, op.x, DataCopyExtParams(1, 64, 0, 0, 0),
              DataCopyPadExtParams<float>(true, 0, 9, 0));
}

extern "C" __global__ __aicore__ void memory_too_many_blocks(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  // error: 4096 blocks, at most 4095
  DataCopyPad(op.a, op.x, DataCopyExtParams(4096, 4, 0, 0, 0),
              DataCopyPadExtParams<float>(false, 0, 0, 0));
}

extern "C" __global__ __aicore__ void memory_repeat_256(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  const int32_t repeats = 256;
  // error: 256 repeats, at most 255 are possible
  Add(op.b, op.a, op.a, 64, repeats, BinaryRepeatParams(1, 1, 1, 0, 0, 0));
}

extern "C" __global__ __aicore__ void memory_mask_too_wide(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  // error: a mask of 65 lanes, which must be in \[1, 64\]
  Add(op.b, op.a, op.a, 65, 1, BinaryRepeatParams());
}

extern "C" __global__ __aicore__ void memory_vector_out_of_its_buffer(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  // error: the destination is out of its buffer: bytes \[2048, 6144\) of a buffer of 4096 bytes
  Add(op.b[512], op.a, op.a, kCount);
}

extern "C" __global__ __aicore__ void memory_strides_out_of_the_buffer(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  // error: source 0 is out of its buffer
  Add(op.b, op.a, op.a, 64, 16, BinaryRepeatParams(1, 1, 1, 8, 9, 8));
}

extern "C" __global__ __aicore__ void memory_stride_out_of_range(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  const int32_t stride = 256;
  BinaryRepeatParams params(1, 1, 1, 8, stride, 8);
  // error: src0RepStride is 256, which must be in \[0, 255\]
  Add(op.b, op.a, op.a, 64, 2, params);
}

extern "C" __global__ __aicore__ void memory_overlap_by_a_part(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  // error: the destination overlaps a source by a part: bytes \[32, 288\) and \[0, 256\) of UB
  Add(op.a[8], op.a, op.a, 64);
}

extern "C" __global__ __aicore__ void memory_more_than_ub(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  TQue<TPosition::VECIN, 2> queue;
  // error: TPipe hands out 204800 bytes of UB, which has 196608
  op.pipe.InitBuffer(queue, 2, 96 * 1024);
}

extern "C" __global__ __aicore__ void memory_not_initialised(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load(0, kCount - 8);
  // error: reads byte 4064 of UB, that nothing has written
  Add(op.b, op.a, op.a, kCount);
}

extern "C" __global__ __aicore__ void memory_padding_not_initialised(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  DataCopyPad(op.a, op.x, DataCopyExtParams(1, 20, 0, 0, 0),
              DataCopyPadExtParams<float>(false, 0, 0, 0));
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
  // error: reads byte 20 of UB, that nothing has written
  Add(op.b, op.a, op.a, 8);
}

extern "C" __global__ __aicore__ void memory_cast_that_is_none(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  LocalTensor<int32_t> integers = op.a.ReinterpretCast<int32_t>();
  LocalTensor<bfloat16_t> narrow = op.b.ReinterpretCast<bfloat16_t>();
  // error: no cast from int32_t to bfloat16_t on this machine
  Cast(narrow, integers, RoundMode::CAST_RINT, 64);
}

extern "C" __global__ __aicore__ void memory_type_that_an_instruction_has_not(GM_ADDR x,
                                                                              GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  LocalTensor<int32_t> a = op.a.ReinterpretCast<int32_t>(), b = op.b.ReinterpretCast<int32_t>();
  // error: And takes no int32_t
  And(b, a, a, 64);
}

extern "C" __global__ __aicore__ void memory_gather_out_of_range(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  LocalTensor<int32_t> offsets = op.b.ReinterpretCast<int32_t>();
  Duplicate(offsets, 4096, 64);
  PipeBarrier<PIPE_V>();
  // error: the source of an offset is out of its buffer
  Gather(op.b[512], op.a, op.b.ReinterpretCast<uint32_t>(), 0, 64);
}

extern "C" __global__ __aicore__ void memory_gather(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  TBuf<TPosition::VECCALC> buffer;
  op.pipe.InitBuffer(buffer, kCount * sizeof(int32_t));
  LocalTensor<int32_t> offsets = buffer.Get<int32_t>();
  op.Load();
  CreateVecIndex(offsets, 0, kCount);
  PipeBarrier<PIPE_V>();
  Muls(offsets, offsets, static_cast<int32_t>(sizeof(float)), kCount);
  PipeBarrier<PIPE_V>();
  Gather(op.b, op.a, buffer.Get<uint32_t>(), 0, kCount);
  PipeBarrier<PIPE_V>();
  Add(op.b, op.b, op.a, kCount);
  op.Store();
}

extern "C" __global__ __aicore__ void memory_gatherb_out_of_range(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  LocalTensor<uint32_t> words = op.b.ReinterpretCast<uint32_t>();
  Duplicate(op.b.ReinterpretCast<int32_t>(), 4096, 64);
  PipeBarrier<PIPE_V>();
  // error: the source of an offset is out of its buffer
  Gatherb(words[512], op.a.ReinterpretCast<uint32_t>(), words, 1, GatherRepeatParams(1, 8));
}

extern "C" __global__ __aicore__ void memory_gatherb_over_itself(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  LocalTensor<uint32_t> words = op.b.ReinterpretCast<uint32_t>();
  Duplicate(op.b.ReinterpretCast<int32_t>(), 32, 64);
  PipeBarrier<PIPE_V>();
  // error: dstBlkStride 0: the blocks of a repeat would be written over each other
  Gatherb(words[512], op.a.ReinterpretCast<uint32_t>(), words, 1, GatherRepeatParams(0, 8));
}

extern "C" __global__ __aicore__ void memory_gatherb_before_the_offsets(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  LocalTensor<uint32_t> words = op.b.ReinterpretCast<uint32_t>();
  Duplicate(op.b.ReinterpretCast<int32_t>(), 32, 64);
  // error: race: reads bytes
  Gatherb(words[512], op.a.ReinterpretCast<uint32_t>(), words, 1, GatherRepeatParams(1, 8));
}

extern "C" __global__ __aicore__ void memory_counter_mode_left_on(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  // error: the mask is left in counter mode: SetMaskNorm is missing
  SetMaskCount();
  SetVectorMask<float, MaskMode::COUNTER>(kCount);
  Add<float, false>(op.b, op.a, op.a, uint64_t{0}, 1, BinaryRepeatParams());
  op.Store();
}

extern "C" __global__ __aicore__ void memory_counter_mode(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  SetMaskCount();
  SetVectorMask<float, MaskMode::COUNTER>(kCount);
  Add<float, false>(op.b, op.a, op.a, uint64_t{0}, 1, BinaryRepeatParams());
  SetMaskNorm();
  ResetMask();
  op.Store();
}

extern "C" __global__ __aicore__ void memory_scalar_write_not_flushed(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  // error: 1 scalar writes to global memory are left in the data cache
  op.y.SetValue(0, 0.0f);
}

extern "C" __global__ __aicore__ void memory_scalar_write_read_unflushed(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.y.SetValue(0, 0.0f);
  SetFlag<HardEvent::S_MTE2>(EVENT_ID0);
  WaitFlag<HardEvent::S_MTE2>(EVENT_ID0);
  // error: that a scalar SetValue .* still in a data cache: DataCacheCleanAndInvalid is missing
  DataCopy(op.a, op.y, 64);
}

extern "C" __global__ __aicore__ void memory_scalar_write_flushed(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  op.Load();
  Add(op.b, op.a, op.a, kCount);
  op.Store();
  SetFlag<HardEvent::MTE3_S>(EVENT_ID0);
  WaitFlag<HardEvent::MTE3_S>(EVENT_ID0);
  op.y.SetValue(0, op.x.GetValue(0) + op.x.GetValue(0));
  DataCacheCleanAndInvalid<float, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(op.y);
}

extern "C" __global__ __aicore__ void memory_select_beside_its_own_block(GM_ADDR x, GM_ADDR y) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  Double op(x, y);
  TBuf<TPosition::VECCALC> buffer;
  op.pipe.InitBuffer(buffer, 184 * 1024);
  op.Load();
  const LocalTensor<uint8_t> mask = buffer.Get<uint8_t>();
  CompareScalar(mask, op.a, 0.0f, CMPMODE::GT, 64);
  PipeBarrier<PIPE_V>();
  // error: Select keeps a block at byte 188416 of UB, of which TPipe has handed out 196608
  Select(op.b, mask, op.a, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);
}
