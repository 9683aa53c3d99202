// Vector instructions. The count forms and the (mask, repeat, strides) forms share one engine,
// Elementwise.
#pragma once

#include <algorithm>

#include "pipe.h"

namespace softnpu {

// The operands of an instruction: where it starts, and its strides in blocks of 32 B.
template <typename T>
struct Strided {
  using Type = T;
  AscendC::LocalTensor<T> tensor;
  uint32_t block = 1;
  uint32_t repeat = 8;
};

// Which lanes of which repeats: `count` lanes on end, or `mask` in each of `repeats`.
struct Lanes {
  bool contiguous = false;
  uint64_t count = 0;
  uint64_t mask[2] = {0, 0};
  uint32_t repeats = 1;
  uint32_t prefix = 0;  // the lanes of the mask where they are the first ones, else 0

  static Lanes Count(int64_t count) {
    if (count < 0) core().Reject("a count of %lld", static_cast<long long>(count));
    Lanes lanes;
    lanes.contiguous = true;
    lanes.count = static_cast<uint64_t>(count);
    return lanes;
  }
  // `mask` lanes of each repeat, or in counter mode `mask` lanes in all.
  static Lanes Masked(uint64_t count, int64_t repeats, uint32_t lanes_a_repeat) {
    if (core().mask_counts) return Counted(count, lanes_a_repeat);
    if (count == 0 || count > lanes_a_repeat) {
      core().Reject("a mask of %llu lanes, which must be in [1, %u]",
                    static_cast<unsigned long long>(count), lanes_a_repeat);
    }
    Lanes lanes;
    lanes.SetRepeats(repeats);
    lanes.prefix = static_cast<uint32_t>(count);
    lanes.mask[0] = count >= 64 ? ~0ull : (1ull << count) - 1;
    lanes.mask[1] = count >= 128 ? ~0ull : count > 64 ? (1ull << (count - 64)) - 1 : 0;
    return lanes;
  }
  static Lanes Masked(const uint64_t mask[], int64_t repeats, uint32_t lanes_a_repeat) {
    if (core().mask_counts) return Counted(mask[0], lanes_a_repeat);
    const uint64_t high = lanes_a_repeat > 64 ? mask[1] : 0;
    if (lanes_a_repeat < 64 && mask[0] >> lanes_a_repeat)
      core().Reject("a mask with bits beyond its %u lanes", lanes_a_repeat);
    if (mask[0] == 0 && high == 0) core().Reject("a mask of no lane");
    Lanes lanes;
    lanes.SetRepeats(repeats);
    lanes.mask[0] = mask[0];
    lanes.mask[1] = high;
    const int ones =
        std::countr_one(mask[0]) == 64 ? 64 + std::countr_one(high) : std::countr_one(mask[0]);
    if (ones == std::popcount(mask[0]) + std::popcount(high))
      lanes.prefix = static_cast<uint32_t>(ones);
    return lanes;
  }
  bool Has(uint32_t lane) const { return mask[lane >> 6] >> (lane & 63) & 1; }

  // Lanes counted over all repeats, the last one partly.
  static Lanes Counted(uint64_t count, uint32_t lanes_a_repeat) {
    Lanes lanes;
    lanes.mask[0] = lanes.mask[1] = ~0ull;
    lanes.count = count;
    lanes.repeats = static_cast<uint32_t>((count + lanes_a_repeat - 1) / lanes_a_repeat);
    lanes.prefix = lanes_a_repeat;
    return lanes;
  }
  // The lanes of repeat r, for masks that are a prefix.
  uint32_t Prefix(uint32_t r, uint32_t lanes_a_repeat) const {
    if (count == 0) return prefix;
    return static_cast<uint32_t>(
        std::min<uint64_t>(lanes_a_repeat, count - static_cast<uint64_t>(r) * lanes_a_repeat));
  }

 private:
  void SetRepeats(int64_t value) {
    if (value < 0 || value > 255)
      core().Reject("%lld repeats, at most 255 are possible", static_cast<long long>(value));
    repeats = static_cast<uint32_t>(value);
  }
};

template <bool isSetMask>
inline Lanes MakeLanes(uint64_t mask, int64_t repeats, uint32_t lanes) {
  if constexpr (isSetMask) return Lanes::Masked(mask, repeats, lanes);
  return Lanes::Masked(core().mask, repeats, lanes);
}
template <bool isSetMask>
inline Lanes MakeLanes(const uint64_t mask[], int64_t repeats, uint32_t lanes) {
  if constexpr (isSetMask) return Lanes::Masked(mask, repeats, lanes);
  return Lanes::Masked(core().mask, repeats, lanes);
}

inline void BeginVector(const char* name, const Here& here) {
  Core& c = core();
  c.Begin(name, kV, here);
  if (c.cube)
    c.Reject("%s is a vector instruction, on a cube core: put it under ASCEND_IS_AIV", name);
}

template <typename T, typename... Types>
inline void Require() {
  if constexpr (!kIsOneOf<T, Types...>) core().Reject("%s takes no %s", core().name, TypeName<T>());
}

// Records the bytes that an operand's lanes cover. `width` is the widest type of the instruction.
template <bool kWrite, typename T>
inline void Touch(const Strided<T>& operand, const Lanes& lanes, uint32_t lanes_a_repeat,
                  const char* what) {
  Core& c = core();
  const AscendC::LocalTensor<T>& t = operand.tensor;
  t.CheckIn(what, kUb);
  const auto touch = [&](uint32_t offset, uint32_t bytes) {
    if constexpr (kWrite) {
      c.Write(kUb, offset, bytes);
    } else {
      c.Read(kUb, offset, bytes);
    }
  };
  if (lanes.contiguous) {
    t.CheckRange(what, 0, static_cast<int64_t>(lanes.count * sizeof(T)));
    touch(t.offset(), static_cast<uint32_t>(lanes.count * sizeof(T)));
    return;
  }
  if (lanes.repeats == 0) return;
  constexpr uint32_t kPerBlock = kBlock / sizeof(T);
  const uint32_t top =
      lanes.prefix
          ? (lanes.count ? std::min<uint64_t>(lanes.count, lanes_a_repeat) : lanes.prefix) - 1
      : lanes.mask[1] ? 127 - std::countl_zero(lanes.mask[1])
                      : 63 - std::countl_zero(lanes.mask[0]);
  const int64_t last = static_cast<int64_t>(lanes.repeats - 1) * operand.repeat * kBlock;
  t.CheckRange(
      what, 0,
      (operand.block == 0 ? 0 : static_cast<int64_t>(top / kPerBlock) * operand.block * kBlock) +
          1);
  const uint32_t top_last = lanes.count ? lanes.Prefix(lanes.repeats - 1, lanes_a_repeat) - 1 : top;
  t.CheckRange(what, last,
               static_cast<int64_t>(top_last / kPerBlock) * operand.block * kBlock +
                   (top_last % kPerBlock + 1) * sizeof(T));
  t.CheckRange(what, 0,
               static_cast<int64_t>(top / kPerBlock) * operand.block * kBlock +
                   (top % kPerBlock + 1) * sizeof(T));
  const uint32_t repeat_bytes = lanes_a_repeat * sizeof(T);
  if (lanes.prefix && operand.block == 1) {
    if (operand.repeat * kBlock == repeat_bytes &&
        lanes.Prefix(0, lanes_a_repeat) == lanes_a_repeat) {
      touch(t.offset(), (lanes.repeats - 1) * repeat_bytes +
                            lanes.Prefix(lanes.repeats - 1, lanes_a_repeat) * sizeof(T));
      return;
    }
    const uint32_t different = operand.repeat == 0 && lanes.count == 0 ? 1 : lanes.repeats;
    for (uint32_t r = 0; r < different; ++r) {
      touch(t.offset() + r * operand.repeat * kBlock, lanes.Prefix(r, lanes_a_repeat) * sizeof(T));
    }
    return;
  }
  if (lanes.prefix && operand.block == 0) {  // a block, again and again
    for (uint32_t r = 0; r < lanes.repeats; ++r) {
      const uint32_t used = std::min(lanes.Prefix(r, lanes_a_repeat), kPerBlock);
      touch(t.offset() + r * operand.repeat * kBlock, used * sizeof(T));
    }
    return;
  }
  if (lanes.prefix && lanes.count == 0 && lanes.prefix % kPerBlock == 0) {
    for (uint32_t r = 0; r < lanes.repeats; ++r) {
      const uint32_t at = t.offset() + r * operand.repeat * kBlock;
      if constexpr (kWrite) {
        c.WriteBlocks(at, operand.block, lanes.prefix / kPerBlock);
      } else {
        c.ReadBlocks(at, operand.block, lanes.prefix / kPerBlock);
      }
    }
    return;
  }
  for (uint32_t r = 0; r < lanes.repeats; ++r) {
    const uint32_t limit = lanes.prefix ? lanes.Prefix(r, lanes_a_repeat) : lanes_a_repeat;
    for (uint32_t first = 0; first < limit; first += kPerBlock) {
      const uint32_t at =
          t.offset() + (r * operand.repeat + first / kPerBlock * operand.block) * kBlock;
      uint32_t begin = 0;
      const uint32_t block_lanes = std::min(kPerBlock, limit - first);
      while (begin < block_lanes) {
        while (begin < block_lanes && !lanes.Has(first + begin)) ++begin;
        uint32_t end = begin;
        while (end < block_lanes && lanes.Has(first + end)) ++end;
        if (end > begin) touch(at + begin * sizeof(T), (end - begin) * sizeof(T));
        begin = end;
      }
    }
  }
}

// A destination is its source or apart from it: repeats that overlap another way give what their
// timing gives.
template <typename D, typename S>
inline void RequireSameOrApart(const Strided<D>& dst, const Strided<S>& src, uint64_t count) {
  const uint64_t to = dst.tensor.offset(), from = src.tensor.offset();
  const bool same = to == from && sizeof(D) <= sizeof(S);
  if (!same && to < from + count * sizeof(S) && from < to + count * sizeof(D)) {
    core().Reject(
        "the destination overlaps a source by a part: bytes [%llu, %llu) and [%llu, %llu) of UB",
        static_cast<unsigned long long>(to),
        static_cast<unsigned long long>(to + count * sizeof(D)),
        static_cast<unsigned long long>(from),
        static_cast<unsigned long long>(from + count * sizeof(S)));
  }
}

template <typename D, typename... S>
constexpr uint32_t LanesARepeat() {
  return 256 / std::max({sizeof(D), sizeof(S)...});
}

// dst[lane] = f(src[lane]...) over the lanes; `f` takes the old dst first where kReadsDst.
template <bool kReadsDst = false, typename D, typename F, typename... S>
inline void Elementwise(const Lanes& lanes, F f, const Strided<D>& dst, const Strided<S>&... src) {
  constexpr uint32_t kLanes = LanesARepeat<D, S...>();
  int operand = 0;
  static constexpr const char* kNames[] = {"source 0", "source 1", "source 2"};
  (Touch<false>(src, lanes, kLanes, sizeof...(S) == 1 ? "the source" : kNames[operand++]), ...);
  if constexpr (kReadsDst) Touch<false>(dst, lanes, kLanes, "the destination");
  Touch<true>(dst, lanes, kLanes, "the destination");
  const auto span = [&f](uint64_t n, D* __restrict d, const S* __restrict... s) {
#pragma GCC ivdep
    for (uint64_t i = 0; i < n; ++i) {
      if constexpr (kReadsDst) {
        d[i] = f(d[i], s[i]...);
      } else {
        d[i] = f(s[i]...);
      }
    }
  };
  D* const d = dst.tensor.data();
  if (lanes.contiguous) (RequireSameOrApart(dst, src, lanes.count), ...);
  const bool dense = dst.block == 1 && dst.repeat * kBlock == kLanes * sizeof(D) &&
                     ((src.block == 1 && src.repeat * kBlock == kLanes * sizeof(S)) && ...);
  if (lanes.contiguous) {
    span(lanes.count, d, src.tensor.data()...);
    core().SpendVector(static_cast<uint32_t>((lanes.count + kLanes - 1) / kLanes));
    return;
  }
  core().SpendVector(lanes.repeats);
  if (lanes.repeats == 0) return;
  if (dense && lanes.prefix && lanes.Prefix(0, kLanes) == kLanes) {
    span(
        static_cast<uint64_t>(lanes.repeats - 1) * kLanes + lanes.Prefix(lanes.repeats - 1, kLanes),
        d, src.tensor.data()...);
    return;
  }
  const auto at = []<typename T>(const Strided<T>& operand, T* base, uint32_t r, uint32_t lane) {
    constexpr uint32_t kPerBlock = kBlock / sizeof(T);
    return reinterpret_cast<T*>(
               reinterpret_cast<uint8_t*>(base) +
               (static_cast<size_t>(r) * operand.repeat + lane / kPerBlock * operand.block) *
                   kBlock) +
           lane % kPerBlock;
  };
  constexpr uint32_t kGroup =
      kBlock / std::max({sizeof(D), sizeof(S)...});  // lanes in one block of every operand
  const bool flat = lanes.prefix && dst.block == 1 && ((src.block == 1) && ...);
  for (uint32_t r = 0; r < lanes.repeats; ++r) {
    if (flat) {
      span(lanes.Prefix(r, kLanes), at(dst, d, r, 0), at(src, src.tensor.data(), r, 0)...);
      continue;
    }
    const uint32_t limit = lanes.prefix ? lanes.Prefix(r, kLanes) : kLanes;
    for (uint32_t first = 0; first < limit; first += kGroup) {
      const uint32_t n = std::min(kGroup, limit - first);
      if (lanes.prefix) {
        span(n, at(dst, d, r, first), at(src, src.tensor.data(), r, first)...);
        continue;
      }
      for (uint32_t i = first; i < first + n; ++i) {
        if (lanes.Has(i)) span(1, at(dst, d, r, i), at(src, src.tensor.data(), r, i)...);
      }
    }
  }
}

template <typename T>
inline float Wide(T value) {
  return static_cast<float>(value);
}

// Arithmetic in the type of the operands: integers wrap, halves are computed in fp32 and rounded
// once.
template <typename T, typename F>
inline T Arithmetic(T a, T b, F f) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(f(static_cast<U>(a), static_cast<U>(b)));
  } else {
    return static_cast<T>(f(Wide(a), Wide(b)));
  }
}

}  // namespace softnpu

namespace AscendC {

// A binary instruction in its three forms.
#define MXD_BINARY(NAME, EXPRESSION, ...)                                                     \
  namespace detail {                                                                          \
  template <typename T>                                                                       \
  inline void NAME##Run(const softnpu::Lanes& lanes, const softnpu::Strided<T>& dst,          \
                        const softnpu::Strided<T>& src0, const softnpu::Strided<T>& src1) {   \
    softnpu::Require<T, __VA_ARGS__>();                                                       \
    if constexpr (softnpu::kIsOneOf<T, __VA_ARGS__>)                                          \
      softnpu::Elementwise(lanes, [](T a, T b) -> T { return EXPRESSION; }, dst, src0, src1); \
  }                                                                                           \
  }                                                                                           \
  template <typename T>                                                                       \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src0,                     \
                   const LocalTensor<T>& src1, const int32_t& count, Here here = Here()) {    \
    softnpu::BeginVector(#NAME, here);                                                        \
    detail::NAME##Run<T>(softnpu::Lanes::Count(count), {dst}, {src0}, {src1});                \
  }                                                                                           \
  template <typename T, bool isSetMask = true>                                                \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src0,                     \
                   const LocalTensor<T>& src1, uint64_t mask, const int32_t repeat,           \
                   const BinaryRepeatParams& p, Here here = Here()) {                         \
    softnpu::BeginVector(#NAME, here);                                                        \
    detail::NAME##Run<T>(softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)),        \
                         {dst, p.dstBlkStride, p.dstRepStride},                               \
                         {src0, p.src0BlkStride, p.src0RepStride},                            \
                         {src1, p.src1BlkStride, p.src1RepStride});                           \
  }                                                                                           \
  template <typename T, bool isSetMask = true>                                                \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src0,                     \
                   const LocalTensor<T>& src1, uint64_t mask[], const int32_t repeat,         \
                   const BinaryRepeatParams& p, Here here = Here()) {                         \
    softnpu::BeginVector(#NAME, here);                                                        \
    detail::NAME##Run<T>(softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)),        \
                         {dst, p.dstBlkStride, p.dstRepStride},                               \
                         {src0, p.src0BlkStride, p.src0RepStride},                            \
                         {src1, p.src1BlkStride, p.src1RepStride});                           \
  }

MXD_BINARY(Add, softnpu::Arithmetic(a, b, [](auto x, auto y) { return x + y; }), half, float,
           int32_t, int16_t)
MXD_BINARY(Sub, softnpu::Arithmetic(a, b, [](auto x, auto y) { return x - y; }), half, float,
           int32_t, int16_t)
MXD_BINARY(Mul, softnpu::Arithmetic(a, b, [](auto x, auto y) { return x * y; }), half, float,
           int32_t, int16_t)
MXD_BINARY(Div, static_cast<T>(softnpu::Wide(a) / softnpu::Wide(b)), half, float)
MXD_BINARY(Max, a < b ? b : a, half, float, int32_t, int16_t)
MXD_BINARY(Min, b < a ? b : a, half, float, int32_t, int16_t)
MXD_BINARY(And, static_cast<T>(a& b), int16_t, uint16_t)
MXD_BINARY(Or, static_cast<T>(a | b), int16_t, uint16_t)
MXD_BINARY(AddRelu, std::max(softnpu::Arithmetic(a, b, [](auto x, auto y) { return x + y; }), T(0)),
           half, float, int16_t)
MXD_BINARY(SubRelu, std::max(softnpu::Arithmetic(a, b, [](auto x, auto y) { return x - y; }), T(0)),
           half, float, int16_t)
#undef MXD_BINARY

// dst = f(dst, src0, src1).
#define MXD_TERNARY(NAME, EXPRESSION)                                                       \
  namespace detail {                                                                        \
  template <typename T, typename U>                                                         \
  inline void NAME##Run(const softnpu::Lanes& lanes, const softnpu::Strided<T>& dst,        \
                        const softnpu::Strided<U>& src0, const softnpu::Strided<U>& src1) { \
    softnpu::Require<T, half, float>();                                                     \
    softnpu::Require<U, half, float>();                                                     \
    if constexpr (softnpu::kIsOneOf<T, half, float> && softnpu::kIsOneOf<U, half, float>)   \
      softnpu::Elementwise<true>(                                                           \
          lanes,                                                                            \
          [](T d, U a, U b) -> T {                                                          \
            const float c = softnpu::Wide(d), x = softnpu::Wide(a), y = softnpu::Wide(b);   \
            return static_cast<T>(EXPRESSION);                                              \
          },                                                                                \
          dst, src0, src1);                                                                 \
  }                                                                                         \
  }                                                                                         \
  template <typename T, typename U>                                                         \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<U>& src0,                   \
                   const LocalTensor<U>& src1, const int32_t& count, Here here = Here()) {  \
    softnpu::BeginVector(#NAME, here);                                                      \
    detail::NAME##Run<T, U>(softnpu::Lanes::Count(count), {dst}, {src0}, {src1});           \
  }                                                                                         \
  template <typename T, typename U, bool isSetMask = true>                                  \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<U>& src0,                   \
                   const LocalTensor<U>& src1, uint64_t mask, const int32_t repeat,         \
                   const BinaryRepeatParams& p, Here here = Here()) {                       \
    softnpu::BeginVector(#NAME, here);                                                      \
    detail::NAME##Run<T, U>(                                                                \
        softnpu::MakeLanes<isSetMask>(mask, repeat, softnpu::LanesARepeat<T, U>()),         \
        {dst, p.dstBlkStride, p.dstRepStride}, {src0, p.src0BlkStride, p.src0RepStride},    \
        {src1, p.src1BlkStride, p.src1RepStride});                                          \
  }                                                                                         \
  template <typename T, typename U, bool isSetMask = true>                                  \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<U>& src0,                   \
                   const LocalTensor<U>& src1, const uint64_t mask[], const int32_t repeat, \
                   const BinaryRepeatParams& p, Here here = Here()) {                       \
    softnpu::BeginVector(#NAME, here);                                                      \
    detail::NAME##Run<T, U>(                                                                \
        softnpu::MakeLanes<isSetMask>(mask, repeat, softnpu::LanesARepeat<T, U>()),         \
        {dst, p.dstBlkStride, p.dstRepStride}, {src0, p.src0BlkStride, p.src0RepStride},    \
        {src1, p.src1BlkStride, p.src1RepStride});                                          \
  }

MXD_TERNARY(MulAddDst, x* y + c)
MXD_TERNARY(FusedMulAdd, x* c + y)
MXD_TERNARY(FusedMulAddRelu, std::max(x* c + y, 0.0f))
#undef MXD_TERNARY

// dst = f(src).
#define MXD_UNARY(NAME, EXPRESSION, ...)                                                          \
  namespace detail {                                                                              \
  template <typename T>                                                                           \
  inline void NAME##Run(const softnpu::Lanes& lanes, const softnpu::Strided<T>& dst,              \
                        const softnpu::Strided<T>& src) {                                         \
    softnpu::Require<T, __VA_ARGS__>();                                                           \
    if constexpr (softnpu::kIsOneOf<T, __VA_ARGS__>)                                              \
      softnpu::Elementwise(lanes, [](T a) -> T { return static_cast<T>(EXPRESSION); }, dst, src); \
  }                                                                                               \
  }                                                                                               \
  template <typename T>                                                                           \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t& count,    \
                   Here here = Here()) {                                                          \
    softnpu::BeginVector(#NAME, here);                                                            \
    detail::NAME##Run<T>(softnpu::Lanes::Count(count), {dst}, {src});                             \
  }                                                                                               \
  template <typename T, bool isSetMask = true>                                                    \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint64_t mask,           \
                   const int32_t repeat, const UnaryRepeatParams& p, Here here = Here()) {        \
    softnpu::BeginVector(#NAME, here);                                                            \
    detail::NAME##Run<T>(softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)),            \
                         {dst, p.dstBlkStride, p.dstRepStride},                                   \
                         {src, p.srcBlkStride, p.srcRepStride});                                  \
  }                                                                                               \
  template <typename T, bool isSetMask = true>                                                    \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint64_t mask[],         \
                   const int32_t repeat, const UnaryRepeatParams& p, Here here = Here()) {        \
    softnpu::BeginVector(#NAME, here);                                                            \
    detail::NAME##Run<T>(softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)),            \
                         {dst, p.dstBlkStride, p.dstRepStride},                                   \
                         {src, p.srcBlkStride, p.srcRepStride});                                  \
  }

MXD_UNARY(Relu, a < T(0) ? T(0) : a, half, float, int32_t)
MXD_UNARY(Exp, std::exp(softnpu::Wide(a)), half, float)
MXD_UNARY(Ln, std::log(softnpu::Wide(a)), half, float)
MXD_UNARY(Abs, std::fabs(softnpu::Wide(a)), half, float)
MXD_UNARY(Reciprocal, 1.0f / softnpu::Wide(a), half, float)
MXD_UNARY(Rsqrt, 1.0f / std::sqrt(softnpu::Wide(a)), half, float)
MXD_UNARY(Sqrt, std::sqrt(softnpu::Wide(a)), half, float)
MXD_UNARY(Not, ~a, int16_t, uint16_t)
#undef MXD_UNARY

// dst = f(src, scalar). A tensor of T takes a scalar of T, as in CANN.
#define MXD_SCALAR(NAME, EXPRESSION, ...)                                                      \
  namespace detail {                                                                           \
  template <typename T>                                                                        \
  inline void NAME##Run(const softnpu::Lanes& lanes, T b, const softnpu::Strided<T>& dst,      \
                        const softnpu::Strided<T>& src) {                                      \
    softnpu::Require<T, __VA_ARGS__>();                                                        \
    if constexpr (softnpu::kIsOneOf<T, __VA_ARGS__>)                                           \
      softnpu::Elementwise(lanes, [b](T a) -> T { return EXPRESSION; }, dst, src);             \
  }                                                                                            \
  }                                                                                            \
  template <typename T, bool isSetMask = true>                                                 \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar,      \
                   const int32_t& count, Here here = Here()) {                                 \
    softnpu::BeginVector(#NAME, here);                                                         \
    detail::NAME##Run<T>(softnpu::Lanes::Count(count), scalar, {dst}, {src});                  \
  }                                                                                            \
  template <typename T, bool isSetMask = true>                                                 \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar,      \
                   uint64_t mask, const int32_t repeat, const UnaryRepeatParams& p,            \
                   Here here = Here()) {                                                       \
    softnpu::BeginVector(#NAME, here);                                                         \
    detail::NAME##Run<T>(softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)), scalar, \
                         {dst, p.dstBlkStride, p.dstRepStride},                                \
                         {src, p.srcBlkStride, p.srcRepStride});                               \
  }                                                                                            \
  template <typename T, bool isSetMask = true>                                                 \
  inline void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar,      \
                   uint64_t mask[], const int32_t repeat, const UnaryRepeatParams& p,          \
                   Here here = Here()) {                                                       \
    softnpu::BeginVector(#NAME, here);                                                         \
    detail::NAME##Run<T>(softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)), scalar, \
                         {dst, p.dstBlkStride, p.dstRepStride},                                \
                         {src, p.srcBlkStride, p.srcRepStride});                               \
  }

MXD_SCALAR(Adds, softnpu::Arithmetic(a, b, [](auto x, auto y) { return x + y; }), half, float,
           int32_t, int16_t)
MXD_SCALAR(Muls, softnpu::Arithmetic(a, b, [](auto x, auto y) { return x * y; }), half, float,
           int32_t, int16_t)
MXD_SCALAR(Maxs, a < b ? b : a, half, float, int32_t, int16_t)
MXD_SCALAR(Mins, b < a ? b : a, half, float, int32_t, int16_t)
MXD_SCALAR(LeakyRelu, a < T(0) ? T(softnpu::Wide(a) * softnpu::Wide(b)) : a, half, float)
MXD_SCALAR(ShiftLeft, static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) << b), int16_t,
           uint16_t, int32_t, uint32_t)
MXD_SCALAR(ShiftRight, static_cast<T>(a >> b), int16_t, uint16_t, int32_t, uint32_t)
#undef MXD_SCALAR

// dst += src * scalar.
namespace detail {
template <typename T, typename U>
inline void AxpyRun(const softnpu::Lanes& lanes, U scalar, const softnpu::Strided<T>& dst,
                    const softnpu::Strided<U>& src) {
  softnpu::Require<T, half, float>();
  softnpu::Require<U, half, float>();
  if constexpr (softnpu::kIsOneOf<T, half, float> && softnpu::kIsOneOf<U, half, float>) {
    const float factor = scalar;
    softnpu::Elementwise<true>(
        lanes,
        [factor](T d, U a) -> T {
          return static_cast<T>(softnpu::Wide(a) * factor + softnpu::Wide(d));
        },
        dst, src);
  }
}
}  // namespace detail
template <typename T, typename U>
inline void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalar,
                 const int32_t& count, Here here = Here()) {
  softnpu::BeginVector("Axpy", here);
  detail::AxpyRun<T, U>(softnpu::Lanes::Count(count), scalar, {dst}, {src});
}
template <typename T, typename U, bool isSetMask = true, typename Mask>
inline auto Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalar, Mask mask,
                 const int32_t repeat, const UnaryRepeatParams& p, Here here = Here()) {
  softnpu::BeginVector("Axpy", here);
  detail::AxpyRun<T, U>(softnpu::MakeLanes<isSetMask>(mask, repeat, softnpu::LanesARepeat<T, U>()),
                        scalar, {dst, p.dstBlkStride, p.dstRepStride},
                        {src, p.srcBlkStride, p.srcRepStride});
}

namespace detail {
template <typename T>
inline void DuplicateRun(const softnpu::Lanes& lanes, T scalar, const softnpu::Strided<T>& dst) {
  softnpu::Require<T, half, bfloat16_t, float, int16_t, uint16_t, int32_t, uint32_t>();
  softnpu::Elementwise(lanes, [scalar]() { return scalar; }, dst);
}
}  // namespace detail
template <typename T>
inline void Duplicate(const LocalTensor<T>& dst, const T& scalar, const int32_t& count,
                      Here here = Here()) {
  softnpu::BeginVector("Duplicate", here);
  detail::DuplicateRun<T>(softnpu::Lanes::Count(count), scalar, {dst});
}
template <typename T, bool isSetMask = true>
inline void Duplicate(const LocalTensor<T>& dst, const T& scalar, uint64_t mask,
                      const int32_t repeat, const uint16_t block_stride,
                      const uint8_t repeat_stride, Here here = Here()) {
  softnpu::BeginVector("Duplicate", here);
  detail::DuplicateRun<T>(softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)), scalar,
                          {dst, block_stride, repeat_stride});
}
template <typename T, bool isSetMask = true>
inline void Duplicate(const LocalTensor<T>& dst, const T& scalar, uint64_t mask[],
                      const int32_t repeat, const uint16_t block_stride,
                      const uint8_t repeat_stride, Here here = Here()) {
  softnpu::BeginVector("Duplicate", here);
  detail::DuplicateRun<T>(softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)), scalar,
                          {dst, block_stride, repeat_stride});
}

template <typename T, bool isSetMask = true>
inline void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint64_t mask,
                 const int32_t repeat, const CopyRepeatParams& p, Here here = Here()) {
  softnpu::BeginVector("Copy", here);
  softnpu::Require<T, half, bfloat16_t, float, int16_t, uint16_t, int32_t, uint32_t>();
  softnpu::Elementwise(
      softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)), [](T a) { return a; },
      softnpu::Strided<T>{dst, p.dstStride, p.dstRepeatSize},
      softnpu::Strided<T>{src, p.srcStride, p.srcRepeatSize});
}
template <typename T, bool isSetMask = true>
inline void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint64_t mask[],
                 const int32_t repeat, const CopyRepeatParams& p, Here here = Here()) {
  softnpu::BeginVector("Copy", here);
  softnpu::Require<T, half, bfloat16_t, float, int16_t, uint16_t, int32_t, uint32_t>();
  softnpu::Elementwise(
      softnpu::MakeLanes<isSetMask>(mask, repeat, 256 / sizeof(T)), [](T a) { return a; },
      softnpu::Strided<T>{dst, p.dstStride, p.dstRepeatSize},
      softnpu::Strided<T>{src, p.srcStride, p.srcRepeatSize});
}

}  // namespace AscendC
