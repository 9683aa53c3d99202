// The cube: fractals from L1 to L0A and L0B, the matrix product into L0C, and the way out through
// fixpipe.
//
// A fractal is 512 B: 16 rows of 32 B. L0A holds them row by row (ZZ), L0B row by row with each
// fractal transposed (ZN), L0C column by column, 16 x 16 elements each (NZ).
#pragma once

#include "data_copy.h"

namespace softnpu {

inline constexpr uint32_t kFractal = 512;

inline void BeginCube(const char* name, Pipe pipe, const Here& here) {
  Core& c = core();
  c.Begin(name, pipe, here);
  if (!c.cube)
    c.Reject("%s is a cube instruction, on a vector core: put it under ASCEND_IS_AIC", name);
}

// C[m][n] += A[m][k] * B[k][n] of packed fp32: a is rows x k, b is k x 16, c is rows x 16 with 16
// on end a row.
void MultiplyPanel(const float* a, uint32_t rows, uint32_t k, const float* b, float* c);

template <typename T>
inline constexpr uint32_t kC0 = 32 / sizeof(T);

template <typename A, typename C>
inline constexpr bool kMultiplies =
    (kIsOneOf<A, half, bfloat16_t, float> && std::is_same_v<C, float>) ||
    (std::is_same_v<A, int8_t> && std::is_same_v<C, int32_t>);

}  // namespace softnpu

namespace AscendC {

template <typename T>
inline void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                     const LoadData2DParams& p, Here here = Here()) {
  softnpu::BeginCube("LoadData", softnpu::kMte1, here);
  softnpu::Core& core = softnpu::core();
  src.CheckIn("the source", softnpu::kL1);
  dst.Check("the destination", softnpu::kFractal);
  if (dst.memory() != softnpu::kL0a && dst.memory() != softnpu::kL0b)
    core.Reject("the destination must be in L0A or L0B, was in %s",
                softnpu::kMemoryNames[dst.memory()]);
  if (p.ifTranspose && sizeof(T) != 2)
    core.Reject("ifTranspose is for 16-bit elements, not for %s", softnpu::TypeName<T>());
  const auto from = [&](uint32_t i) {
    const int64_t index = p.addrMode ? int64_t{p.startIndex} - int64_t{i} * p.srcStride
                                     : int64_t{p.startIndex} + int64_t{i} * p.srcStride;
    return index * softnpu::kFractal;
  };
  for (uint32_t i = 0; i < p.repeatTimes; ++i) {
    src.CheckRange("the source", from(i), softnpu::kFractal);
    core.Read(softnpu::kL1, src.offset() + static_cast<uint32_t>(from(i)), softnpu::kFractal);
  }
  for (uint32_t i = 0; i < p.repeatTimes; ++i) {
    const uint32_t to = i * (p.dstGap + 1u) * softnpu::kFractal;
    dst.CheckRange("the destination", to, softnpu::kFractal);
    core.Write(dst.memory(), dst.offset() + to, softnpu::kFractal);
    const T* in =
        reinterpret_cast<const T*>(reinterpret_cast<const uint8_t*>(src.data()) + from(i));
    T* out = reinterpret_cast<T*>(reinterpret_cast<uint8_t*>(dst.data()) + to);
    if (p.ifTranspose) {
      for (int r = 0; r < 16; ++r) {
        for (int c = 0; c < 16; ++c) out[c * 16 + r] = in[r * 16 + c];
      }
    } else {
      std::memcpy(out, in, softnpu::kFractal);
    }
  }
  const double bytes = double{softnpu::kFractal} * p.repeatTimes;
  core.counts[softnpu::kMte1].bytes += static_cast<uint64_t>(bytes);
  core.Spend(std::max(32.0, bytes / (dst.memory() == softnpu::kL0a ? 512 : 256)));
}

// Square matrices of one fractal (16-bit) or two, transposed: 16 x 16 of 32 bits from two side by
// side, 32 x 32 of 8 bits from two on top of each other.
template <typename T>
inline void LoadDataWithTranspose(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                                  const LoadData2dTransposeParams& p, Here here = Here()) {
  softnpu::BeginCube("LoadDataWithTranspose", softnpu::kMte1, here);
  softnpu::Core& core = softnpu::core();
  src.CheckIn("the source", softnpu::kL1);
  dst.Check("the destination", softnpu::kFractal);
  if (dst.memory() != softnpu::kL0a && dst.memory() != softnpu::kL0b)
    core.Reject("the destination must be in L0A or L0B, was in %s",
                softnpu::kMemoryNames[dst.memory()]);
  constexpr uint32_t kColumns = softnpu::kC0<T>;
  constexpr uint32_t kSide = kColumns > 16 ? kColumns : 16;
  constexpr uint32_t kParts = kSide == 16 && kColumns == 16 ? 1 : 2;
  const auto from = [&](uint32_t i) {
    return (int64_t{p.startIndex} + (p.addrMode ? -1 : 1) * int64_t{i} * p.srcStride) * kParts *
           softnpu::kFractal;
  };
  for (uint32_t i = 0; i < p.repeatTimes; ++i) {
    src.CheckRange("the source", from(i), kParts * softnpu::kFractal);
    core.Read(softnpu::kL1, src.offset() + static_cast<uint32_t>(from(i)),
              kParts * softnpu::kFractal);
  }
  const auto at = [](uint32_t row, uint32_t column) {  // of a square, in its fractals on end
    return kColumns < 16 ? column / kColumns * 16 * kColumns + row * kColumns + column % kColumns
                         : row * kColumns + column;
  };
  for (uint32_t i = 0; i < p.repeatTimes; ++i) {
    const T* in =
        reinterpret_cast<const T*>(reinterpret_cast<const uint8_t*>(src.data()) + from(i));
    T square[kSide * kSide];
    for (uint32_t r = 0; r < kSide; ++r) {
      for (uint32_t c = 0; c < kSide; ++c) square[at(c, r)] = in[at(r, c)];
    }
    for (uint32_t part = 0; part < kParts; ++part) {
      const uint32_t to = (i * (p.dstGap + 1u) + part * (p.dstFracGap + 1u)) * softnpu::kFractal;
      dst.CheckRange("the destination", to, softnpu::kFractal);
      core.Write(dst.memory(), dst.offset() + to, softnpu::kFractal);
      std::memcpy(reinterpret_cast<uint8_t*>(dst.data()) + to,
                  reinterpret_cast<const uint8_t*>(square) + part * softnpu::kFractal,
                  softnpu::kFractal);
    }
  }
  const double bytes = double{softnpu::kFractal} * kParts * p.repeatTimes;
  core.counts[softnpu::kMte1].bytes += static_cast<uint64_t>(bytes);
  core.Spend(std::max(32.0, bytes / (dst.memory() == softnpu::kL0a ? 512 : 256)));
}

// Fills blocks of L1 (32 B), L0A or L0B (512 B).
template <typename T, typename U = T>
inline void InitConstValue(const LocalTensor<T>& dst, const InitConstValueParams<U>& p,
                           Here here = Here()) {
  const bool l1 = dst.memory() == softnpu::kL1;
  softnpu::BeginCube("InitConstValue", l1 ? softnpu::kMte2 : softnpu::kMte1, here);
  softnpu::Core& core = softnpu::core();
  const uint32_t unit = l1 ? 32 : 512;
  dst.Check("the destination", unit);
  const uint32_t fill = std::max<uint32_t>(p.blockNum, 1) * unit, step = fill + p.dstGap * unit;
  for (uint32_t i = 0; i < p.repeatTimes; ++i) {
    dst.CheckRange("the destination", i * step, fill);
    core.Write(dst.memory(), dst.offset() + i * step, fill);
    T* to = reinterpret_cast<T*>(reinterpret_cast<uint8_t*>(dst.data()) + i * step);
    std::fill_n(to, fill / sizeof(T), static_cast<T>(p.initValue));
  }
  core.Spend(std::max(32.0, p.repeatTimes * fill / 512.0));
}

namespace detail {

template <typename C, typename A, typename B>
inline void MmadRun(const LocalTensor<C>& dst, const LocalTensor<A>& a, const LocalTensor<B>& b,
                    const LocalTensor<C>* bias, const MmadParams& p) {
  softnpu::Core& core = softnpu::core();
  if constexpr (!std::is_same_v<A, B> || !softnpu::kMultiplies<A, C>) {
    core.Reject("no product of %s and %s into %s on this machine", softnpu::TypeName<A>(),
                softnpu::TypeName<B>(), softnpu::TypeName<C>());
  } else {
    if (p.m > 4095 || p.n > 4095 || p.k > 4095)
      core.Reject("a product of %d x %d x %d, at most 4095 are possible", p.m, p.k, p.n);
    if (std::is_same_v<A, float> && !core.fp32_mode_set) {
      core.Reject(
          "a product in fp32, or HF32 where the last kernel left that mode: "
          "SetHF32Mode(false) is missing");
    }
    a.CheckIn("the left matrix", softnpu::kL0a, softnpu::kFractal);
    b.CheckIn("the right matrix", softnpu::kL0b, softnpu::kFractal);
    dst.CheckIn("the destination", softnpu::kL0c, 1024);
    if (p.m == 0 || p.n == 0 || p.k == 0) return;
    constexpr uint32_t kColumns = softnpu::kC0<A>;
    const uint32_t mb = (p.m + 15) / 16, nb = (p.n + 15) / 16;
    uint32_t kb = (p.k + kColumns - 1) / kColumns;
    if (sizeof(A) == 4 && p.kDirectionAlign) kb = (kb + 1) / 2 * 2;
    const bool vector = p.m == 1;  // the left matrix is then one row, its elements on end
    const uint32_t a_bytes = vector ? (p.k * static_cast<uint32_t>(sizeof(A)) + 511) / 512 * 512
                                    : mb * kb * softnpu::kFractal;
    const uint32_t b_bytes = kb * nb * softnpu::kFractal, c_bytes = mb * nb * 1024;
    a.CheckRange("the left matrix", 0, a_bytes);
    b.CheckRange("the right matrix", 0, b_bytes);
    dst.CheckRange("the destination", 0, c_bytes);
    // A product of ten fractals or more waits by itself for the one before it.
    const softnpu::Pipe ordered = p.unitFlag      ? softnpu::kFix
                                  : mb * nb >= 10 ? softnpu::kM
                                                  : softnpu::kPipes;
    core.Read(softnpu::kL0a, a.offset(), a_bytes);
    core.Read(softnpu::kL0b, b.offset(), b_bytes);
    const bool accumulates = bias == nullptr && (p.isBias || !p.cmatrixInitVal);
    if (accumulates) core.Read(softnpu::kL0c, dst.offset(), c_bytes, ordered);
    if (bias) {
      bias->CheckRange("the bias", 0, nb * 64);
      core.Read(bias->memory(), bias->offset(), nb * 64);
    }
    core.Write(softnpu::kL0c, dst.offset(), c_bytes, ordered);
    const A* left = a.data();
    const B* right = b.data();
    C* out = dst.data();
    using Sum = std::conditional_t<std::is_same_v<C, int32_t>, int32_t, float>;
    static std::vector<Sum> packed_a, packed_b;
    static std::vector<Sum> result;
    packed_a.resize(static_cast<size_t>(p.m) * p.k);
    packed_b.resize(static_cast<size_t>(p.k) * 16);
    result.resize(static_cast<size_t>(p.m) * 16);
    for (uint32_t i = 0; i < p.m; ++i) {
      for (uint32_t k = 0; k < p.k; ++k) {
        const A value = vector ? left[k]
                               : left[((i / 16) * kb + k / kColumns) * 16 * kColumns +
                                      i % 16 * kColumns + k % kColumns];
        packed_a[static_cast<size_t>(i) * p.k + k] = static_cast<Sum>(value);
      }
    }
    for (uint32_t column = 0; column < nb; ++column) {
      for (uint32_t k = 0; k < p.k; ++k) {
        const B* fractal = right +
                           (static_cast<size_t>(k / kColumns) * nb + column) * 16 * kColumns +
                           k % kColumns;
        for (uint32_t j = 0; j < 16; ++j)
          packed_b[static_cast<size_t>(k) * 16 + j] = static_cast<Sum>(fractal[j * kColumns]);
      }
      C* strip = out + static_cast<size_t>(column) * mb * 256;
      for (uint32_t i = 0; i < p.m; ++i) {
        for (uint32_t j = 0; j < 16; ++j) {
          result[static_cast<size_t>(i) * 16 + j] = accumulates ? strip[i * 16 + j]
                                                    : bias      ? bias->data()[column * 16 + j]
                                                                : Sum(0);
        }
      }
      if constexpr (std::is_same_v<Sum, float>) {
        softnpu::MultiplyPanel(packed_a.data(), p.m, p.k, packed_b.data(), result.data());
      } else {
        for (uint32_t i = 0; i < p.m; ++i) {
          for (uint32_t k = 0; k < p.k; ++k) {
            for (uint32_t j = 0; j < 16; ++j)
              result[i * 16 + j] +=
                  packed_a[static_cast<size_t>(i) * p.k + k] * packed_b[k * 16 + j];
          }
        }
      }
      const uint32_t columns = std::min<uint32_t>(16, p.n - column * 16);
      for (uint32_t i = 0; i < p.m; ++i) {
        for (uint32_t j = 0; j < columns; ++j)
          strip[i * 16 + j] = result[static_cast<size_t>(i) * 16 + j];
      }
    }
    core.cube_multiplies += static_cast<uint64_t>(p.m) * p.n * p.k;
    core.Spend(static_cast<double>(mb) * nb * kb * (sizeof(A) == 4 ? 2 : 1));
  }
}

}  // namespace detail

template <typename C, typename A, typename B>
inline void Mmad(const LocalTensor<C>& dst, const LocalTensor<A>& a, const LocalTensor<B>& b,
                 const MmadParams& p, Here here = Here()) {
  softnpu::BeginCube("Mmad", softnpu::kM, here);
  if (p.cmatrixSource)
    softnpu::core().Reject("cmatrixSource is not offered: give the bias to Mmad");
  detail::MmadRun<C, A, B>(dst, a, b, nullptr, p);
}
template <typename C, typename A, typename B, typename D>
inline void Mmad(const LocalTensor<C>& dst, const LocalTensor<A>& a, const LocalTensor<B>& b,
                 const LocalTensor<D>& bias, const MmadParams& p, Here here = Here()) {
  softnpu::BeginCube("Mmad", softnpu::kM, here);
  bias.CheckIn("the bias", softnpu::kBiasTable, 64);
  if constexpr (std::is_same_v<C, D>) {
    detail::MmadRun<C, A, B>(dst, a, b, &bias, p);
  } else {
    softnpu::core().Reject("a bias of %s for a product in %s", softnpu::TypeName<D>(),
                           softnpu::TypeName<C>());
  }
}

// L0C to global memory: to rows of a matrix (CFG_ROW_MAJOR), or in the layout of L0C with columns
// of 16 (CFG_NZ).
template <typename D, typename S, const FixpipeConfig& config = CFG_ROW_MAJOR>
inline void Fixpipe(const GlobalTensor<D>& dst, const LocalTensor<S>& src,
                    const FixpipeParamsV220& p, Here here = Here()) {
  softnpu::BeginCube("Fixpipe", softnpu::kFix, here);
  softnpu::Core& core = softnpu::core();
  constexpr bool kSame = std::is_same_v<D, S> && softnpu::kIsOneOf<D, float, int32_t>;
  constexpr bool kNarrow = std::is_same_v<S, float> && softnpu::kIsOneOf<D, half, bfloat16_t>;
  if constexpr (!kSame && !kNarrow) {
    core.Reject("no fixpipe from %s to %s", softnpu::TypeName<S>(), softnpu::TypeName<D>());
  } else {
    const QuantMode_t needed = std::is_same_v<D, half>         ? F322F16
                               : std::is_same_v<D, bfloat16_t> ? F322BF16
                                                               : NoQuant;
    if (p.quantPre != needed)
      core.Reject("quantPre is %d, from %s to %s takes %d", p.quantPre, softnpu::TypeName<S>(),
                  softnpu::TypeName<D>(), needed);
    if (p.isChannelSplit) core.Reject("isChannelSplit is not offered");
    if (p.nSize > 4095) core.Reject("%d columns, at most 4095 are possible", p.nSize);
    constexpr bool kRows = config.format == CO2Layout::ROW_MAJOR;
    if (kRows && p.mSize > 8192) core.Reject("%d rows, at most 8192 are possible", p.mSize);
    if (!kRows && p.nSize % 16 != 0)
      core.Reject("%d columns, which must be a multiple of 16", p.nSize);
    if (p.dstStride == 0) core.Reject("dstStride is 0");
    src.CheckIn("the source", softnpu::kL0c, 64);
    if (p.nSize == 0 || p.mSize == 0) return;
    const uint32_t matrices = kRows ? p.ndNum : 1;
    const uint32_t strips = (p.nSize + 15) / 16;
    const softnpu::Pipe ordered = p.unitFlag ? softnpu::kM : softnpu::kPipes;
    const auto convert = [&](S value) {
      if (p.reluEn && value < S(0)) value = S(0);
      return static_cast<D>(value);
    };
    std::vector<D> line(std::max<size_t>(static_cast<size_t>(strips) * 16, 16u * p.mSize));
    const auto store = [&](D* to, uint32_t count) {
      const uint32_t bytes = count * sizeof(D);
      uint8_t* at = core.WriteGlobal(to, bytes);
      if (core.atomic) {
        core.atomic_add(at, reinterpret_cast<const uint8_t*>(line.data()), bytes);
      } else {
        std::memcpy(at, line.data(), bytes);
      }
    };
    for (uint32_t matrix = 0; matrix < matrices; ++matrix) {
      const uint32_t base = matrix * p.srcNdStride * 1024u;
      for (uint32_t strip = 0; strip < strips; ++strip) {
        const uint32_t at = base + strip * p.srcStride * 16u * static_cast<uint32_t>(sizeof(S));
        src.CheckRange("the source", at, p.mSize * 64);
        core.Read(softnpu::kL0c, src.offset() + at, p.mSize * 64, ordered);
      }
      const S* in = reinterpret_cast<const S*>(reinterpret_cast<const uint8_t*>(src.data()) + base);
      D* out = const_cast<D*>(dst.GetPhyAddr()) + static_cast<size_t>(matrix) * p.dstNdStride;
      if (kRows) {
        for (uint32_t row = 0; row < p.mSize; ++row) {
          for (uint32_t column = 0; column < p.nSize; ++column) {
            line[column] = convert(in[(column / 16 * p.srcStride + row) * 16u + column % 16]);
          }
          store(out + static_cast<size_t>(row) * p.dstStride, p.nSize);
        }
      } else {
        for (uint32_t strip = 0; strip < strips; ++strip) {
          for (uint32_t i = 0; i < p.mSize * 16u; ++i)
            line[i] = convert(in[static_cast<size_t>(strip) * p.srcStride * 16 + i]);
          store(out + static_cast<size_t>(strip) * p.dstStride * 32 / sizeof(D), p.mSize * 16u);
        }
      }
    }
    core.SpendDma(false, static_cast<uint64_t>(matrices) * (kRows ? p.mSize : strips),
                  (kRows ? p.nSize : p.mSize * 16u) * sizeof(D));
  }
}

}  // namespace AscendC
