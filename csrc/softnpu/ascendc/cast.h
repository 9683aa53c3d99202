// Cast, and the type pairs and round modes that an Atlas A2 has.
#pragma once

#include "vector.h"

namespace softnpu {

inline double Round(double value, AscendC::RoundMode mode) {
  using AscendC::RoundMode;
  switch (mode) {
    case RoundMode::CAST_FLOOR:
      return std::floor(value);
    case RoundMode::CAST_CEIL:
      return std::ceil(value);
    case RoundMode::CAST_ROUND:
      return std::round(value);
    case RoundMode::CAST_TRUNC:
      return std::trunc(value);
    default:
      return std::nearbyint(value);
  }
}

// A float to a 16-bit float, by the neighbours of the value in that type.
template <typename D>
inline D RoundToNarrow(float value, AscendC::RoundMode mode) {
  using AscendC::RoundMode;
  D nearest(value);
  const float back = nearest;
  if (mode == RoundMode::CAST_NONE || mode == RoundMode::CAST_RINT || back == value ||
      std::isnan(value))
    return nearest;
  // The magnitudes below and above |value|.
  const float magnitude = std::fabs(value);
  D low = nearest;
  low.bits &= 0x7FFF;
  if (static_cast<float>(low) > magnitude) --low.bits;
  D high = low;
  ++high.bits;
  const bool negative = std::signbit(value);
  D under = low;
  --under.bits;
  const float below = under;
  bool up = false;
  switch (mode) {
    case RoundMode::CAST_FLOOR:
      up = negative;
      break;
    case RoundMode::CAST_CEIL:
      up = !negative;
      break;
    case RoundMode::CAST_ROUND:
      // Beyond the largest comes infinity, a step of the same width away.
      up = std::isinf(static_cast<float>(high))
               ? magnitude >= 1.5f * static_cast<float>(low) - 0.5f * below
               : magnitude - static_cast<float>(low) >= static_cast<float>(high) - magnitude;
      break;
    case RoundMode::CAST_ODD:
      up = (low.bits & 1) == 0;
      break;
    default:
      break;
  }
  D result = up ? high : low;
  if (negative) result.bits |= 0x8000;
  return result;
}

template <typename D>
inline D Saturate(double value) {
  if (std::isnan(value)) return 0;
  constexpr double kLow = static_cast<double>(std::numeric_limits<D>::min());
  constexpr double kHigh = static_cast<double>(std::numeric_limits<D>::max());
  if (value <= kLow) return std::numeric_limits<D>::min();
  if (value >= kHigh) return std::numeric_limits<D>::max();
  return static_cast<D>(value);
}

template <typename D, typename S>
inline D Convert(S value, AscendC::RoundMode mode) {
  if constexpr (std::is_same_v<D, half> || std::is_same_v<D, bfloat16_t>) {
    return RoundToNarrow<D>(static_cast<float>(value), mode);
  } else if constexpr (std::is_same_v<D, float>) {
    if constexpr (std::is_same_v<S, float>) {
      return static_cast<float>(Round(value, mode));
    } else if constexpr (std::is_same_v<S, int32_t> || std::is_same_v<S, int64_t>) {
      if (mode == AscendC::RoundMode::CAST_NONE || mode == AscendC::RoundMode::CAST_RINT)
        return static_cast<float>(value);
      float nearest = static_cast<float>(value);
      const long double exact = value, back = nearest;
      using AscendC::RoundMode;
      const bool too_high = back > exact;
      if (back == exact) return nearest;
      const bool down =
          mode == RoundMode::CAST_FLOOR || (mode == RoundMode::CAST_TRUNC && exact > 0);
      const bool up = mode == RoundMode::CAST_CEIL || (mode == RoundMode::CAST_TRUNC && exact < 0);
      if (down && too_high) return std::nextafterf(nearest, -INFINITY);
      if (up && !too_high) return std::nextafterf(nearest, INFINITY);
      return nearest;
    } else {
      return static_cast<float>(value);
    }
  } else if constexpr (std::is_integral_v<S>) {
    return Saturate<D>(static_cast<double>(value));
  } else {
    return Saturate<D>(Round(static_cast<double>(static_cast<float>(value)), mode));
  }
}

template <typename D, typename S>
inline constexpr bool kCasts =
    (std::is_same_v<S, half> && kIsOneOf<D, float, int32_t, int16_t, int8_t, uint8_t>) ||
    (std::is_same_v<S, float> && kIsOneOf<D, float, half, bfloat16_t, int64_t, int32_t, int16_t>) ||
    (std::is_same_v<S, bfloat16_t> && kIsOneOf<D, float, int32_t>) ||
    (kIsOneOf<S, uint8_t, int8_t> && std::is_same_v<D, half>) ||
    (std::is_same_v<S, int16_t> && kIsOneOf<D, half, float>) ||
    (std::is_same_v<S, int32_t> && kIsOneOf<D, float, int64_t, int16_t>) ||
    (std::is_same_v<S, int64_t> && kIsOneOf<D, float, int32_t>);

template <typename D, typename S>
inline void CastRun(const Lanes& lanes, AscendC::RoundMode mode, const Strided<D>& dst,
                    const Strided<S>& src) {
  if constexpr (!kCasts<D, S>) {
    core().Reject("no cast from %s to %s on this machine", TypeName<S>(), TypeName<D>());
  } else {
    using AscendC::RoundMode;
    constexpr bool kExact = (std::is_same_v<D, float> && sizeof(S) <= 2) ||
                            (std::is_same_v<D, half> && sizeof(S) == 1) ||
                            (std::is_integral_v<D> && std::is_integral_v<S>);
    if (kExact && mode != RoundMode::CAST_NONE) {
      core().Reject("the cast from %s to %s takes CAST_NONE alone", TypeName<S>(), TypeName<D>());
    }
    if (!kExact && mode == RoundMode::CAST_NONE && !kIsOneOf<D, half, bfloat16_t, float>) {
      core().Reject("the cast from %s to %s needs a round mode", TypeName<S>(), TypeName<D>());
    }
    if (mode == RoundMode::CAST_ODD && !(std::is_same_v<S, float> && std::is_same_v<D, half>)) {
      core().Reject("CAST_ODD is for float to half alone");
    }
    if constexpr (std::is_same_v<S, float> && kIsOneOf<D, half, bfloat16_t>) {
      if (mode == RoundMode::CAST_NONE || mode == RoundMode::CAST_RINT) {
        Elementwise(lanes, [](S value) { return D(value); }, dst, src);
        return;
      }
    }
    if constexpr (std::is_same_v<S, float> && std::is_same_v<D, int32_t>) {
      // The usual cases in a form that the compiler vectorises.
      const auto clamp = [](float v) -> int32_t {
        if (!(v >= -2147483648.0f)) return v != v ? 0 : std::numeric_limits<int32_t>::min();
        return v >= 2147483648.0f ? std::numeric_limits<int32_t>::max() : static_cast<int32_t>(v);
      };
      if (mode == RoundMode::CAST_TRUNC)
        return Elementwise(lanes, [clamp](S v) { return clamp(v); }, dst, src);
      if (mode == RoundMode::CAST_FLOOR)
        return Elementwise(lanes, [clamp](S v) { return clamp(std::floor(v)); }, dst, src);
      if (mode == RoundMode::CAST_RINT)
        return Elementwise(lanes, [clamp](S v) { return clamp(std::nearbyint(v)); }, dst, src);
    }
    if constexpr (std::is_same_v<D, float> && kIsOneOf<S, half, bfloat16_t, int32_t>) {
      if (mode == RoundMode::CAST_NONE || mode == RoundMode::CAST_RINT) {
        Elementwise(lanes, [](S value) { return static_cast<float>(value); }, dst, src);
        return;
      }
    }
    Elementwise(lanes, [mode](S value) { return Convert<D, S>(value, mode); }, dst, src);
  }
}

}  // namespace softnpu

namespace AscendC {

template <typename D, typename S>
inline void Cast(const LocalTensor<D>& dst, const LocalTensor<S>& src, const RoundMode& mode,
                 const uint32_t count, Here here = Here()) {
  softnpu::BeginVector("Cast", here);
  softnpu::CastRun<D, S>(softnpu::Lanes::Count(count), mode, {dst}, {src});
}
template <typename D, typename S, bool isSetMask = true>
inline void Cast(const LocalTensor<D>& dst, const LocalTensor<S>& src, const RoundMode& mode,
                 const uint64_t mask, const int32_t repeat, const UnaryRepeatParams& p,
                 Here here = Here()) {
  softnpu::BeginVector("Cast", here);
  softnpu::CastRun<D, S>(softnpu::MakeLanes<isSetMask>(mask, repeat, softnpu::LanesARepeat<D, S>()),
                         mode, {dst, p.dstBlkStride, p.dstRepStride},
                         {src, p.srcBlkStride, p.srcRepStride});
}
template <typename D, typename S, bool isSetMask = true>
inline void Cast(const LocalTensor<D>& dst, const LocalTensor<S>& src, const RoundMode& mode,
                 const uint64_t mask[], const int32_t repeat, const UnaryRepeatParams& p,
                 Here here = Here()) {
  softnpu::BeginVector("Cast", here);
  softnpu::CastRun<D, S>(softnpu::MakeLanes<isSetMask>(mask, repeat, softnpu::LanesARepeat<D, S>()),
                         mode, {dst, p.dstBlkStride, p.dstRepStride},
                         {src, p.srcBlkStride, p.srcRepStride});
}

}  // namespace AscendC
