// Compare and Select.
#pragma once

#include "cast.h"

namespace softnpu {

template <typename T>
inline bool Compares(T a, T b, AscendC::CMPMODE mode) {
  using AscendC::CMPMODE;
  switch (mode) {
    case CMPMODE::LT:
      return a < b;
    case CMPMODE::GT:
      return a > b;
    case CMPMODE::EQ:
      return a == b;
    case CMPMODE::LE:
      return a <= b;
    case CMPMODE::GE:
      return a >= b;
    default:
      return a != b;
  }
}

template <typename T>
inline void RequireComparable(AscendC::CMPMODE mode) {
  Require<T, half, float, int32_t>();
  if (std::is_same_v<T, int32_t> && mode != AscendC::CMPMODE::EQ)
    core().Reject("%s of int32_t is for EQ alone", core().name);
}

// The address of a lane of an operand.
template <typename T>
inline const T* LaneAt(const Strided<T>& operand, uint32_t r, uint32_t lane) {
  constexpr uint32_t kPerBlock = kBlock / sizeof(T);
  return reinterpret_cast<const T*>(
             reinterpret_cast<const uint8_t*>(operand.tensor.data()) +
             (static_cast<size_t>(r) * operand.repeat + lane / kPerBlock * operand.block) *
                 kBlock) +
         lane % kPerBlock;
}

// Bits of lanes, packed over the repeats; lanes out of the mask give 0.
template <typename U, typename Test, typename... S>
inline void CompareRun(const Lanes& lanes, const AscendC::LocalTensor<U>& dst, Test test,
                       const Strided<S>&... src) {
  constexpr uint32_t kLanes = 256 / std::max({sizeof(S)...});
  Require<U, int8_t, uint8_t>();
  dst.CheckIn("the destination", kUb);
  (Touch<false>(src, lanes, kLanes, "the source"), ...);
  const uint32_t repeats =
      lanes.contiguous ? static_cast<uint32_t>((lanes.count + kLanes - 1) / kLanes) : lanes.repeats;
  if (lanes.contiguous && lanes.count % kLanes != 0) {
    core().Reject("%s of %llu elements: the bytes compared must be a multiple of 256", core().name,
                  static_cast<unsigned long long>(lanes.count));
  }
  dst.CheckRange("the destination", 0, repeats * kLanes / 8);
  core().Write(kUb, dst.offset(), repeats * kLanes / 8);
  uint8_t* out = reinterpret_cast<uint8_t*>(dst.data());
  for (uint32_t r = 0; r < repeats; ++r) {
    uint8_t bits[kLanes / 8] = {};
    for (uint32_t i = 0; i < kLanes; ++i) {
      const bool on =
          lanes.contiguous || (lanes.prefix ? i < lanes.Prefix(r, kLanes) : lanes.Has(i));
      if (on && test(*LaneAt(src, r, i)...)) bits[i / 8] |= static_cast<uint8_t>(1u << (i % 8));
    }
    std::memcpy(out + r * (kLanes / 8), bits, kLanes / 8);
  }
  core().SpendVector(repeats);
}

// The bit of `lane` of repeat r in a mask packed over the repeats, or the same for each where it is
// a register.
template <typename T, typename U, typename... S>
inline void SelectRun(const Lanes& lanes, const AscendC::LocalTensor<U>& mask, bool per_repeat,
                      const Strided<T>& dst, const T* scalar, const Strided<S>&... src) {
  constexpr uint32_t kLanes = 256 / sizeof(T);
  Require<T, half, float>();
  mask.CheckIn("the mask", kUb);
  if (per_repeat) {
    // CANN fills a block of its own with the scalar, or with the mask's address, by a Duplicate.
    if (core().ub_handed_out > AscendC::TMP_UB_OFFSET) {
      core().Reject("Select keeps a block at byte %u of UB, of which TPipe has handed out %u",
                    AscendC::TMP_UB_OFFSET, core().ub_handed_out);
    }
    core().SpendVector(1);
  }
  const uint32_t repeats =
      lanes.contiguous ? static_cast<uint32_t>((lanes.count + kLanes - 1) / kLanes) : lanes.repeats;
  const uint32_t mask_bytes =
      per_repeat
          ? lanes.contiguous ? static_cast<uint32_t>((lanes.count + 7) / 8) : repeats * kLanes / 8
          : kLanes / 8;
  mask.CheckRange("the mask", 0, mask_bytes);
  core().Read(kUb, mask.offset(), mask_bytes);
  (Touch<false>(src, lanes, kLanes, "the source"), ...);
  Touch<true>(dst, lanes, kLanes, "the destination");
  const uint8_t* bits = reinterpret_cast<const uint8_t*>(mask.data());
  core().SpendVector(repeats);
  if (lanes.contiguous && per_repeat) {
    const T* const sources[] = {src.tensor.data()...};
    const T other = scalar ? *scalar : T(0.0f);
    T* out = dst.tensor.data();
    for (uint64_t i = 0; i < lanes.count; ++i) {
      const bool first = bits[i / 8] >> (i % 8) & 1;
      out[i] = first ? sources[0][i] : scalar ? other : sources[sizeof...(S) - 1][i];
    }
    return;
  }
  for (uint32_t r = 0; r < repeats; ++r) {
    const uint8_t* row = per_repeat ? bits + r * (kLanes / 8) : bits;
    const uint32_t limit = lanes.contiguous
                               ? static_cast<uint32_t>(std::min<uint64_t>(
                                     kLanes, lanes.count - static_cast<uint64_t>(r) * kLanes))
                           : lanes.prefix ? lanes.Prefix(r, kLanes)
                                          : kLanes;
    for (uint32_t i = 0; i < limit; ++i) {
      if (!lanes.contiguous && !lanes.prefix && !lanes.Has(i)) continue;
      const bool first = row[i / 8] >> (i % 8) & 1;
      const T values[] = {*LaneAt(src, r, i)..., scalar ? *scalar : T(0.0f)};
      *const_cast<T*>(LaneAt(dst, r, i)) = first ? values[0] : values[1];
    }
  }
}

}  // namespace softnpu

namespace AscendC {

template <typename T, typename U>
inline void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0,
                    const LocalTensor<T>& src1, CMPMODE mode, uint32_t count, Here here = Here()) {
  softnpu::BeginVector("Compare", here);
  softnpu::RequireComparable<T>(mode);
  softnpu::CompareRun(
      softnpu::Lanes::Count(count), dst, [mode](T a, T b) { return softnpu::Compares(a, b, mode); },
      softnpu::Strided<T>{src0}, softnpu::Strided<T>{src1});
}
template <typename T, typename U, bool isSetMask = true, typename Mask>
  requires(std::is_convertible_v<Mask, uint64_t> || std::is_convertible_v<Mask, const uint64_t*>)
inline void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0,
                    const LocalTensor<T>& src1, CMPMODE mode, Mask mask, int32_t repeat,
                    const BinaryRepeatParams& p, Here here = Here()) {
  softnpu::BeginVector("Compare", here);
  softnpu::RequireComparable<T>(mode);
  softnpu::CompareRun(
      softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)), dst,
      [mode](T a, T b) { return softnpu::Compares(a, b, mode); },
      softnpu::Strided<T>{src0, p.src0BlkStride, p.src0RepStride},
      softnpu::Strided<T>{src1, p.src1BlkStride, p.src1RepStride});
}
template <typename T, typename U>
inline void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src, const T scalar,
                          CMPMODE mode, uint32_t count, Here here = Here()) {
  softnpu::BeginVector("CompareScalar", here);
  softnpu::RequireComparable<T>(mode);
  softnpu::CompareRun(
      softnpu::Lanes::Count(count), dst,
      [mode, scalar](T a) { return softnpu::Compares(a, scalar, mode); }, softnpu::Strided<T>{src});
}
template <typename T, typename U, bool isSetMask = true, typename Mask>
  requires(std::is_convertible_v<Mask, uint64_t> || std::is_convertible_v<Mask, const uint64_t*>)
inline void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src, const T scalar,
                          CMPMODE mode, Mask mask, int32_t repeat, const UnaryRepeatParams& p,
                          Here here = Here()) {
  softnpu::BeginVector("CompareScalar", here);
  softnpu::RequireComparable<T>(mode);
  softnpu::CompareRun(
      softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)), dst,
      [mode, scalar](T a) { return softnpu::Compares(a, scalar, mode); },
      softnpu::Strided<T>{src, p.srcBlkStride, p.srcRepStride});
}

template <typename T, typename U>
inline void Select(const LocalTensor<T>& dst, const LocalTensor<U>& mask,
                   const LocalTensor<T>& src0, const LocalTensor<T>& src1, SELMODE mode,
                   uint32_t count, Here here = Here()) {
  softnpu::BeginVector("Select", here);
  if (mode == SELMODE::VSEL_TENSOR_SCALAR_MODE)
    softnpu::core().Reject("Select of two tensors takes another mode");
  softnpu::SelectRun<T>(softnpu::Lanes::Count(count), mask,
                        mode == SELMODE::VSEL_TENSOR_TENSOR_MODE, softnpu::Strided<T>{dst}, nullptr,
                        softnpu::Strided<T>{src0}, softnpu::Strided<T>{src1});
}
template <typename T, typename U>
inline void Select(const LocalTensor<T>& dst, const LocalTensor<U>& mask,
                   const LocalTensor<T>& src0, T src1, SELMODE mode, uint32_t count,
                   Here here = Here()) {
  softnpu::BeginVector("Select", here);
  if (mode != SELMODE::VSEL_TENSOR_SCALAR_MODE)
    softnpu::core().Reject("Select of a tensor and a scalar takes VSEL_TENSOR_SCALAR_MODE");
  softnpu::SelectRun<T>(softnpu::Lanes::Count(count), mask, true, softnpu::Strided<T>{dst}, &src1,
                        softnpu::Strided<T>{src0});
}
template <typename T, typename U, bool isSetMask = true, typename Mask>
  requires(std::is_convertible_v<Mask, uint64_t> || std::is_convertible_v<Mask, const uint64_t*>)
inline void Select(const LocalTensor<T>& dst, const LocalTensor<U>& mask,
                   const LocalTensor<T>& src0, const LocalTensor<T>& src1, SELMODE mode, Mask lanes,
                   int32_t repeat, const BinaryRepeatParams& p, Here here = Here()) {
  softnpu::BeginVector("Select", here);
  if (mode == SELMODE::VSEL_TENSOR_SCALAR_MODE)
    softnpu::core().Reject("Select of two tensors takes another mode");
  softnpu::SelectRun<T>(softnpu::MakeLanes<isSetMask>(lanes, repeat, 256 / sizeof(T)), mask,
                        mode == SELMODE::VSEL_TENSOR_TENSOR_MODE,
                        softnpu::Strided<T>{dst, p.dstBlkStride, p.dstRepStride}, nullptr,
                        softnpu::Strided<T>{src0, p.src0BlkStride, p.src0RepStride},
                        softnpu::Strided<T>{src1, p.src1BlkStride, p.src1RepStride});
}
template <typename T, typename U, bool isSetMask = true, typename Mask>
  requires(std::is_convertible_v<Mask, uint64_t> || std::is_convertible_v<Mask, const uint64_t*>)
inline void Select(const LocalTensor<T>& dst, const LocalTensor<U>& mask,
                   const LocalTensor<T>& src0, T src1, SELMODE mode, Mask lanes, int32_t repeat,
                   const BinaryRepeatParams& p, Here here = Here()) {
  softnpu::BeginVector("Select", here);
  if (mode != SELMODE::VSEL_TENSOR_SCALAR_MODE)
    softnpu::core().Reject("Select of a tensor and a scalar takes VSEL_TENSOR_SCALAR_MODE");
  softnpu::SelectRun<T>(softnpu::MakeLanes<isSetMask>(lanes, repeat, 256 / sizeof(T)), mask, true,
                        softnpu::Strided<T>{dst, p.dstBlkStride, p.dstRepStride}, &src1,
                        softnpu::Strided<T>{src0, p.src0BlkStride, p.src0RepStride});
}

}  // namespace AscendC
