// Buffers of a core's memories, and copies of whole stretches.
#pragma once

#include "integers.h"
#include "kernel_operator.h"

namespace mxd::kernels {

using namespace AscendC;

// A buffer of `count` elements that is there until the kernel ends.
template <typename T, TPosition kPosition = TPosition::VECCALC>
__aicore__ inline LocalTensor<T> Take(TPipe& pipe, int32_t count) {
  TBuf<kPosition> buffer;
  pipe.InitBuffer(buffer, RoundUp(count * static_cast<int32_t>(sizeof(T)), kBlockBytes));
  return buffer.template Get<T>();
}

// Several of as many elements.
template <typename... T>
__aicore__ inline void Take(TPipe& pipe, int32_t count, LocalTensor<T>&... buffers) {
  ((buffers = Take<T>(pipe, count)), ...);
}

// Gives tensors of global memory their addresses: Bind(tensor, address, tensor, address ...).
template <typename T, typename... Others>
__aicore__ inline void Bind(GlobalTensor<T>& tensor, GM_ADDR address, Others&&... others) {
  tensor.SetGlobalBuffer((__gm__ T*)address);
  if constexpr (sizeof...(others) > 0) Bind(others...);
}

// The parameters of DataCopyPad for `count` int32 or fp32 that follow each other.
__aicore__ inline DataCopyExtParams Words(int32_t count) {
  return {1, static_cast<uint32_t>(count * kWord), 0, 0, 0};
}

}  // namespace mxd::kernels
