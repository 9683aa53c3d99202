// Reductions. Sums go through the tree of the vector unit: neighbours first.
#pragma once

#include "compare.h"

namespace softnpu {

// The sum of the lanes of one repeat by halving, as the hardware adds.
inline float TreeSum(float* values, uint32_t n) {
  if (n == 0) return 0;
  while (n > 1) {
    for (uint32_t i = 0; i < n / 2; ++i) values[i] = values[2 * i] + values[2 * i + 1];
    if (n % 2) values[n / 2] = values[n - 1];
    n = (n + 1) / 2;
  }
  return values[0];
}

enum class Reduction { kSum, kMax, kMin };

template <typename T>
struct Extreme {
  T value;
  uint32_t index;
};

template <Reduction kind, typename T>
inline Extreme<T> Reduce(const T* const* lanes, const uint32_t* index, uint32_t n) {
  if constexpr (kind == Reduction::kSum) {
    float values[128];
    for (uint32_t i = 0; i < n; ++i) values[i] = Wide(*lanes[i]);
    return {static_cast<T>(TreeSum(values, n)), 0};
  } else {
    Extreme<T> best{*lanes[0], index[0]};
    for (uint32_t i = 1; i < n; ++i) {
      const bool better = kind == Reduction::kMax ? *lanes[i] > best.value : *lanes[i] < best.value;
      if (better) best = {*lanes[i], index[i]};
    }
    return best;
  }
}

template <typename T>
inline void StoreIndex(T* to, uint32_t index) {
  if constexpr (sizeof(T) == 2) {
    const uint16_t narrow = static_cast<uint16_t>(index);
    std::memcpy(to, &narrow, 2);
  } else {
    std::memcpy(to, &index, 4);
  }
}

// Calls emit(repeat, lane pointers, lane numbers, how many) for the lanes of each repeat.
template <typename T, typename Emit>
inline void EachRepeat(const Lanes& lanes, const Strided<T>& src, Emit emit) {
  constexpr uint32_t kLanes = 256 / sizeof(T);
  for (uint32_t r = 0; r < lanes.repeats; ++r) {
    const T* at[kLanes];
    uint32_t index[kLanes];
    uint32_t n = 0;
    const uint32_t limit = lanes.prefix ? lanes.Prefix(r, kLanes) : kLanes;
    for (uint32_t i = 0; i < limit; ++i) {
      if (!lanes.prefix && !lanes.Has(i)) continue;
      at[n] = LaneAt(src, r, i);
      index[n++] = i;
    }
    emit(r, at, index, n);
  }
}

template <Reduction kind, typename T>
inline void WholeReduce(const Lanes& lanes, const AscendC::LocalTensor<T>& dst, int32_t dst_repeat,
                        const Strided<T>& src, AscendC::ReduceOrder order) {
  using AscendC::ReduceOrder;
  Require<T, half, float>();
  dst.CheckIn("the destination", kUb, sizeof(T));
  Touch<false>(src, lanes, 256 / sizeof(T), "the source");
  const bool both = kind != Reduction::kSum && (order == ReduceOrder::ORDER_VALUE_INDEX ||
                                                order == ReduceOrder::ORDER_INDEX_VALUE);
  // The index alone is stored in 32 bits, whatever T is.
  const bool index_only = kind != Reduction::kSum && order == ReduceOrder::ORDER_ONLY_INDEX;
  const uint32_t step = index_only ? 4 : (both ? 2 : 1) * sizeof(T);
  for (uint32_t r = 0; r < lanes.repeats; ++r) {
    dst.CheckRange("the destination", static_cast<int64_t>(r) * dst_repeat * step, step);
    core().Write(kUb, dst.offset() + r * dst_repeat * step, step);
  }
  uint8_t* out = reinterpret_cast<uint8_t*>(dst.data());
  EachRepeat(lanes, src, [&](uint32_t r, const T* const* at, const uint32_t* index, uint32_t n) {
    const Extreme<T> result = Reduce<kind>(at, index, n);
    uint8_t* to = out + static_cast<size_t>(r) * dst_repeat * step;
    if (index_only) {
      std::memcpy(to, &result.index, 4);
    } else if (both) {
      const bool value_first = order == ReduceOrder::ORDER_VALUE_INDEX;
      std::memcpy(to + (value_first ? 0 : sizeof(T)), &result.value, sizeof(T));
      StoreIndex(reinterpret_cast<T*>(to + (value_first ? sizeof(T) : 0)), result.index);
    } else {
      std::memcpy(to, &result.value, sizeof(T));
    }
  });
  core().SpendVector(lanes.repeats);
}

// One result for each 32 B block (or each pair of lanes) of a repeat, the results of a repeat on
// end.
template <Reduction kind, uint32_t kGroupBytes, typename T>
inline void GroupReduce(const Lanes& lanes, const AscendC::LocalTensor<T>& dst, int32_t dst_repeat,
                        const Strided<T>& src) {
  Require<T, half, float>();
  constexpr uint32_t kLanes = 256 / sizeof(T);
  constexpr uint32_t kGroup = kGroupBytes ? kGroupBytes / sizeof(T) : 2;
  constexpr uint32_t kResults = kLanes / kGroup;
  dst.CheckIn("the destination", kUb, kGroupBytes ? kResults * sizeof(T) : 32);
  Touch<false>(src, lanes, kLanes, "the source");
  const uint32_t step = kResults * sizeof(T);
  for (uint32_t r = 0; r < lanes.repeats; ++r) {
    dst.CheckRange("the destination", static_cast<int64_t>(r) * dst_repeat * step, step);
    core().Write(kUb, dst.offset() + r * dst_repeat * step, step);
  }
  T* out = dst.data();
  EachRepeat(lanes, src, [&](uint32_t r, const T* const* at, const uint32_t* index, uint32_t n) {
    T results[kResults];
    for (uint32_t g = 0, i = 0; g < kResults; ++g) {
      uint32_t end = i;
      while (end < n && index[end] / kGroup == g) ++end;
      results[g] = end > i ? Reduce<kind>(at + i, index + i, end - i).value : T(0.0f);
      i = end;
    }
    std::memcpy(out + static_cast<size_t>(r) * dst_repeat * kResults, results, sizeof(results));
  });
  core().SpendVector(lanes.repeats);
}

// SetFlag and WaitFlag, as CANN puts them into the APIs that it composes.
template <AscendC::HardEvent event>
inline void Pass(const Here& here) {
  const auto id = GetTPipePtr()->FetchEventID(event, here);
  AscendC::SetFlag<event>(id, here);
  AscendC::WaitFlag<event>(id, here);
}

// The reduction of `count` elements to one: of repeats first, then of their results in the work
// tensor.
template <Reduction kind, typename T>
inline void ReduceAll(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
                      const AscendC::LocalTensor<T>& work, const Lanes& lanes,
                      uint32_t repeat_stride, bool with_index, const Here& here) {
  Require<T, half, float>();
  constexpr uint32_t kLanes = 256 / sizeof(T);
  const Strided<T> operand{src, 1, repeat_stride};
  dst.CheckIn("the destination", kUb, sizeof(T));
  work.CheckIn("the work tensor", kUb);
  Touch<false>(operand, lanes, kLanes, "the source");
  const uint32_t each = kind == Reduction::kSum ? 1 : 2;
  const uint32_t results = with_index || kind == Reduction::kSum ? lanes.repeats * each : 2;
  if (lanes.repeats > 1) {
    work.CheckRange("the work tensor", 0, results * sizeof(T));
    core().Write(kUb, work.offset(), results * sizeof(T));
  }
  const uint32_t result_bytes = static_cast<uint32_t>((with_index ? 2 : 1) * sizeof(T));
  dst.CheckRange("the destination", 0, result_bytes);
  // CANN ends all but these with scalar writes, between waits for the vector pipe.
  const bool by_vector = kind == Reduction::kSum || (with_index && lanes.repeats == 1);
  if (by_vector) core().Write(kUb, dst.offset(), result_bytes);
  std::vector<float> sums;
  Extreme<T> best{};
  bool first = true;
  EachRepeat(lanes, operand,
             [&](uint32_t r, const T* const* at, const uint32_t* index, uint32_t n) {
               if (n == 0) return;
               const Extreme<T> result = Reduce<kind>(at, index, n);
               if constexpr (kind == Reduction::kSum) {
                 sums.push_back(Wide(result.value));
               } else {
                 const bool better = first || (kind == Reduction::kMax ? result.value > best.value
                                                                       : result.value < best.value);
                 if (better) best = {result.value, r * kLanes + result.index};
                 first = false;
               }
             });
  for (uint32_t n = lanes.repeats;;) {
    core().SpendVector(n);
    if (n <= 1) break;
    n = (n * each + kLanes - 1) / kLanes;
  }
  T* out = dst.data();
  if (!by_vector) {
    Pass<AscendC::HardEvent::V_S>(here);
    for (uint32_t i = 0; i < (with_index ? 2u : 1u); ++i) dst.SetValue(i, T(0.0f), here);
    Pass<AscendC::HardEvent::S_V>(here);
    Pass<AscendC::HardEvent::S_MTE3>(here);
  }
  if constexpr (kind == Reduction::kSum) {
    std::vector<float> level = sums;
    while (level.size() > 1) {
      std::vector<float> next;
      for (size_t i = 0; i < level.size(); i += kLanes) {
        const size_t n = std::min<size_t>(kLanes, level.size() - i);
        next.push_back(Wide(static_cast<T>(TreeSum(level.data() + i, static_cast<uint32_t>(n)))));
      }
      level = std::move(next);
    }
    out[0] = level.empty() ? T(0.0f) : static_cast<T>(level[0]);
  } else {
    out[0] = best.value;
    if (with_index) StoreIndex(out + 1, best.index);
  }
}

}  // namespace softnpu

namespace AscendC {

#define MXD_WHOLE_REDUCE(NAME, KIND, ORDER_PARAMETER, ORDER)                                \
  template <typename T, bool isSetMask = true, typename Mask>                               \
    requires(std::is_convertible_v<Mask, uint64_t> ||                                       \
             std::is_convertible_v<Mask, const uint64_t*>)                                  \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask,         \
                   const int32_t repeat, const int32_t dst_repeat, const int32_t src_block, \
                   const int32_t src_repeat ORDER_PARAMETER, Here here = Here()) {          \
    softnpu::BeginVector(#NAME, here);                                                      \
    softnpu::WholeReduce<softnpu::Reduction::KIND, T>(                                      \
        softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)), dst, dst_repeat,      \
        softnpu::Strided<T>{src, static_cast<uint32_t>(src_block),                          \
                            static_cast<uint32_t>(src_repeat)},                             \
        ORDER);                                                                             \
  }
#define MXD_COMMA ,
MXD_WHOLE_REDUCE(WholeReduceSum, kSum, , ReduceOrder::ORDER_ONLY_VALUE)
MXD_WHOLE_REDUCE(WholeReduceMax, kMax, MXD_COMMA ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX,
                 order)
MXD_WHOLE_REDUCE(WholeReduceMin, kMin, MXD_COMMA ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX,
                 order)
#undef MXD_COMMA
#undef MXD_WHOLE_REDUCE

#define MXD_GROUP_REDUCE(NAME, KIND, BYTES)                                                    \
  template <typename T, bool isSetMask = true, typename Mask>                                  \
    requires(std::is_convertible_v<Mask, uint64_t> ||                                          \
             std::is_convertible_v<Mask, const uint64_t*>)                                     \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeat, \
                   Mask mask, const int32_t dst_repeat, const int32_t src_block,               \
                   const int32_t src_repeat, Here here = Here()) {                             \
    softnpu::BeginVector(#NAME, here);                                                         \
    softnpu::GroupReduce<softnpu::Reduction::KIND, BYTES, T>(                                  \
        softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)), dst, dst_repeat,         \
        softnpu::Strided<T>{src, static_cast<uint32_t>(src_block),                             \
                            static_cast<uint32_t>(src_repeat)});                               \
  }
MXD_GROUP_REDUCE(BlockReduceSum, kSum, 32)
MXD_GROUP_REDUCE(BlockReduceMax, kMax, 32)
MXD_GROUP_REDUCE(BlockReduceMin, kMin, 32)
MXD_GROUP_REDUCE(PairReduceSum, kSum, 0)
#undef MXD_GROUP_REDUCE

template <typename T, bool isSetMask = true>
inline void RepeatReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                            const int32_t repeat, const int32_t mask, const int32_t dst_block,
                            const int32_t src_block, const int32_t dst_repeat,
                            const int32_t src_repeat, Here here = Here()) {
  WholeReduceSum<T, isSetMask>(dst, src, mask, repeat, dst_repeat, src_block, src_repeat, here);
}

template <typename T, bool isSetMask = true>
inline void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                      const LocalTensor<T>& work, const int32_t count, Here here = Here()) {
  softnpu::BeginVector("ReduceSum", here);
  softnpu::ReduceAll<softnpu::Reduction::kSum, T>(
      dst, src, work, softnpu::Lanes::Counted(count, 256 / sizeof(T)), 8, false, here);
}
template <typename T, typename Mask>
inline void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                      const LocalTensor<T>& work, Mask mask, const int32_t repeat,
                      const int32_t src_repeat, Here here = Here()) {
  softnpu::BeginVector("ReduceSum", here);
  softnpu::ReduceAll<softnpu::Reduction::kSum, T>(
      dst, src, work, softnpu::MakeLanes<true>(mask, repeat, 256 / sizeof(T)), src_repeat, false,
      here);
}
#define MXD_REDUCE(NAME, KIND)                                                               \
  template <typename T>                                                                      \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src,                     \
                   const LocalTensor<T>& work, const int32_t count, bool index = false,      \
                   Here here = Here()) {                                                     \
    softnpu::BeginVector(#NAME, here);                                                       \
    softnpu::ReduceAll<softnpu::Reduction::KIND, T>(                                         \
        dst, src, work, softnpu::Lanes::Counted(count, 256 / sizeof(T)), 8, index, here);    \
  }                                                                                          \
  template <typename T, typename Mask>                                                       \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src,                     \
                   const LocalTensor<T>& work, Mask mask, const int32_t repeat,              \
                   const int32_t src_repeat, bool index = false, Here here = Here()) {       \
    softnpu::BeginVector(#NAME, here);                                                       \
    softnpu::ReduceAll<softnpu::Reduction::KIND, T>(                                         \
        dst, src, work, softnpu::MakeLanes<true>(mask, repeat, 256 / sizeof(T)), src_repeat, \
        index, here);                                                                        \
  }
MXD_REDUCE(ReduceMax, kMax)
MXD_REDUCE(ReduceMin, kMin)
#undef MXD_REDUCE

}  // namespace AscendC
