// Flags, barriers and cross-core synchronisation; block indices; atomics and vector masks as
// registers.
#pragma once

#include <tuple>
#include <utility>

#include "tensor.h"

namespace softnpu {

constexpr std::pair<Pipe, Pipe> EventPipes(AscendC::HardEvent event) {
  using AscendC::HardEvent;
  switch (event) {
#define MXD_EVENT(from, to, a, b) \
  case HardEvent::from##_##to:    \
    return {a, b};
    MXD_EVENT(MTE2, MTE1, kMte2, kMte1)
    MXD_EVENT(MTE1, MTE2, kMte1, kMte2)
    MXD_EVENT(MTE1, M, kMte1, kM)
    MXD_EVENT(M, MTE1, kM, kMte1)
    MXD_EVENT(MTE2, V, kMte2, kV)
    MXD_EVENT(V, MTE2, kV, kMte2)
    MXD_EVENT(MTE3, V, kMte3, kV)
    MXD_EVENT(V, MTE3, kV, kMte3)
    MXD_EVENT(M, V, kM, kV)
    MXD_EVENT(V, M, kV, kM)
    MXD_EVENT(V, V, kV, kV)
    MXD_EVENT(MTE3, MTE1, kMte3, kMte1)
    MXD_EVENT(MTE1, MTE3, kMte1, kMte3)
    MXD_EVENT(MTE1, V, kMte1, kV)
    MXD_EVENT(MTE2, M, kMte2, kM)
    MXD_EVENT(M, MTE2, kM, kMte2)
    MXD_EVENT(V, MTE1, kV, kMte1)
    MXD_EVENT(M, FIX, kM, kFix)
    MXD_EVENT(FIX, M, kFix, kM)
    MXD_EVENT(MTE3, MTE2, kMte3, kMte2)
    MXD_EVENT(MTE2, MTE3, kMte2, kMte3)
    MXD_EVENT(S, V, kS, kV)
    MXD_EVENT(V, S, kV, kS)
    MXD_EVENT(S, MTE2, kS, kMte2)
    MXD_EVENT(MTE2, S, kMte2, kS)
    MXD_EVENT(S, MTE3, kS, kMte3)
    MXD_EVENT(MTE3, S, kMte3, kS)
    MXD_EVENT(MTE2, FIX, kMte2, kFix)
    MXD_EVENT(FIX, MTE2, kFix, kMte2)
    MXD_EVENT(FIX, S, kFix, kS)
    MXD_EVENT(M, S, kM, kS)
    MXD_EVENT(FIX, MTE3, kFix, kMte3)
    MXD_EVENT(MTE1, FIX, kMte1, kFix)
    MXD_EVENT(FIX, MTE1, kFix, kMte1)
    MXD_EVENT(FIX, FIX, kFix, kFix)
#undef MXD_EVENT
    default:
      return {kPipes, kPipes};
  }
}

}  // namespace softnpu

namespace AscendC {

using TEventID = int8_t;

template <HardEvent event>
inline void SetFlag(int32_t id, Here here = Here()) {
  constexpr auto pipes = softnpu::EventPipes(event);
  softnpu::core().SetFlag(pipes.first, pipes.second, id, here);
}
template <HardEvent event>
inline void WaitFlag(int32_t id, Here here = Here()) {
  constexpr auto pipes = softnpu::EventPipes(event);
  softnpu::core().WaitFlag(pipes.first, pipes.second, id, here);
}
template <pipe_t src, pipe_t dst>
class TQueSync {
 public:
  void SetFlag(TEventID id, Here here = Here()) {
    softnpu::core().SetFlag(softnpu::ToPipe(src), softnpu::ToPipe(dst), id, here);
  }
  void WaitFlag(TEventID id, Here here = Here()) {
    softnpu::core().WaitFlag(softnpu::ToPipe(src), softnpu::ToPipe(dst), id, here);
  }
};

template <pipe_t pipe>
inline void PipeBarrier(Here here = Here()) {
  if constexpr (pipe == PIPE_ALL) {
    softnpu::core().BarrierAll(here);
  } else {
    softnpu::core().Barrier(softnpu::ToPipe(pipe), here);
  }
}
template <MemDsbT arg>
inline void DataSyncBarrier(Here here = Here()) {
  softnpu::core().BarrierAll(here);
}

template <uint8_t mode, pipe_t pipe>
inline void CrossCoreSetFlag(uint16_t flag, Here here = Here()) {
  softnpu::core().CrossCoreSetFlag(mode, softnpu::ToPipe(pipe), flag, here);
}
template <uint8_t mode = 0, pipe_t pipe = PIPE_S>
inline void CrossCoreWaitFlag(uint16_t flag, Here here = Here()) {
  softnpu::core().CrossCoreWaitFlag(softnpu::ToPipe(pipe), flag, here);
}
template <bool isAIVOnly = true>
inline void SyncAll(Here here = Here()) {
  softnpu::core().SyncAll(isAIVOnly, here);
}
template <bool isAIVOnly = true>
inline void SyncAll(const GlobalTensor<int32_t>&, const LocalTensor<int32_t>&,
                    int32_t used_cores = 0, Here here = Here()) {
  if (used_cores != 0)
    softnpu::core().Reject("SyncAll of some cores is not supported: leave usedCores at 0");
  softnpu::core().SyncAll(isAIVOnly, here);
}

template <typename T, CacheLine lines, DcciDst destination>
inline void DataCacheCleanAndInvalid(const GlobalTensor<T>& tensor, Here here = Here()) {
  softnpu::core().CleanCache(tensor.GetPhyAddr(), lines == CacheLine::ENTIRE_DATA_CACHE, here);
}
template <typename T, CacheLine lines>
inline void DataCacheCleanAndInvalid(const GlobalTensor<T>& tensor, Here here = Here()) {
  softnpu::core().CleanCache(tensor.GetPhyAddr(), lines == CacheLine::ENTIRE_DATA_CACHE, here);
}

inline int64_t GetBlockIdx() {
  const softnpu::Core& core = softnpu::core();
  return core.cube ? core.block : core.block * softnpu::g_sub_blocks + core.sub_block;
}
inline int64_t GetBlockNum() { return softnpu::g_block_dim; }
inline int64_t GetSubBlockIdx() { return softnpu::core().sub_block; }
inline int64_t GetSubBlockNum() { return softnpu::g_sub_blocks; }
inline int64_t GetTaskRation() { return softnpu::g_sub_blocks; }

template <typename T>
inline void SetAtomicAdd(Here here = Here()) {
  softnpu::Core& core = softnpu::core();
  core.Begin("SetAtomicAdd", softnpu::kS, here);
  core.Spend(1);
  if constexpr (softnpu::kIsOneOf<T, float, half, bfloat16_t, int32_t, int16_t, int8_t>) {
    core.atomic = true;
    core.atomic_here = here;
    core.atomic_type = softnpu::TypeName<T>();
    core.atomic_add = [](uint8_t* dst, const uint8_t* src, uint32_t bytes) {
      for (uint32_t i = 0; i + sizeof(T) <= bytes; i += sizeof(T)) {
        T sum, term;
        std::memcpy(&sum, dst + i, sizeof(T));
        std::memcpy(&term, src + i, sizeof(T));
        sum = static_cast<T>(sum + term);
        std::memcpy(dst + i, &sum, sizeof(T));
      }
    };
  } else {
    core.Reject("no atomic add of %s", softnpu::TypeName<T>());
  }
}
inline void SetAtomicNone(Here here = Here()) {
  softnpu::Core& core = softnpu::core();
  core.Begin("SetAtomicNone", softnpu::kS, here);
  core.Spend(1);
  core.atomic = false;
}

inline void SetMaskCount(Here here = Here()) {
  softnpu::core().mask_counts = true;
  softnpu::core().mask_here = here;
}
inline void SetMaskNorm() { softnpu::core().mask_counts = false; }
template <typename T, MaskMode mode = MaskMode::NORMAL>
inline void SetVectorMask(uint64_t high, uint64_t low) {
  softnpu::core().mask[0] = low;
  softnpu::core().mask[1] = high;
}
template <typename T, MaskMode mode = MaskMode::NORMAL>
inline void SetVectorMask(int32_t length) {
  softnpu::Core& core = softnpu::core();
  if constexpr (mode == MaskMode::COUNTER) {
    core.mask[0] = static_cast<uint64_t>(length);
    core.mask[1] = 0;
  } else {
    core.mask[0] = length >= 64 ? ~0ull : (1ull << length) - 1;
    core.mask[1] = length >= 128 ? ~0ull : length > 64 ? (1ull << (length - 64)) - 1 : 0;
  }
}
inline void ResetMask() {
  softnpu::core().mask[0] = ~0ull;
  softnpu::core().mask[1] = ~0ull;
}
inline void SetHF32Mode(bool hf32, Here here = Here()) {
  softnpu::Core& core = softnpu::core();
  core.Begin("SetHF32Mode", softnpu::kS, here);
  if (hf32) core.Reject("products in HF32 are not offered: their rounding is not modelled");
  core.Spend(1);
  core.fp32_mode_set = true;
}
inline void SetHF32TransMode(bool) {}
inline void SetMMLayoutTransform(bool) {}

}  // namespace AscendC
