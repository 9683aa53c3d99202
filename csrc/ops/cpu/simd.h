// Vectors of a fixed width by the compiler's own extension (GCC, Clang; any processor), and the
// choice of width at run time, which follows PyTorch's own (ATEN_CPU_CAPABILITY).
#pragma once

#include <ATen/Version.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#define MXD_INLINE inline __attribute__((always_inline))
#define MXD_INLINED __attribute__((always_inline))  // after the parameters of a lambda

namespace mxd::cpu {

template <typename T, int Bytes>
struct Simd {
  typedef T Vec __attribute__((vector_size(Bytes)));
  static constexpr int kLanes = Bytes / sizeof(T);

  static MXD_INLINE Vec load(const T* from) {
    Vec value;
    std::memcpy(&value, from, Bytes);
    return value;
  }
  static MXD_INLINE void store(T* to, const Vec& value) { std::memcpy(to, &value, Bytes); }
};

// Sum of a vector's elements, by halves.
template <typename T, int Bytes>
MXD_INLINE T sum_of_lanes(const typename Simd<T, Bytes>::Vec& value) {
  if constexpr (Bytes == sizeof(T)) {
    return value[0];
  } else {
    typename Simd<T, Bytes / 2>::Vec low, high;
    std::memcpy(&low, &value, Bytes / 2);
    std::memcpy(&high, reinterpret_cast<const char*>(&value) + Bytes / 2, Bytes / 2);
    return sum_of_lanes<T, Bytes / 2>(low + high);
  }
}

// Calls body(constant) with the compile-time constant that equals value, one of 1 ... Most.
template <int Most, typename Body>
MXD_INLINE void with_constant(int64_t value, const Body& body) {
  if constexpr (Most > 1) {
    if (value < Most) return with_constant<Most - 1>(value, body);
  }
  body(std::integral_constant<int, Most>{});
}

// What a GEMM kernel may use: the vector width, and how many vectors a row of accumulators holds so
// that kRows of them stay in registers. kVectors vectors of columns are a panel.
template <int Bytes, int Vectors>
struct Width {
  static constexpr int kBytes = Bytes, kVectors = Vectors, kRows = 6;
  template <typename T>
  static constexpr int64_t kPanel = Vectors * Simd<T, Bytes>::kLanes;
};

#if defined(__x86_64__)
using Base = Width<16, 2>;
using Avx2 = Width<32, 2>;
using Avx512 = Width<64, 4>;
#else
using Base = Width<16, 4>;  // NEON and its like: 32 registers
#endif

// Widest vector of any processor, in bytes: buffers are padded to it.
constexpr int kMaxVectorBytes = 64;

// A number of elements rounded up to whole vectors, so that kernels need no tail.
template <typename T>
constexpr int64_t whole_vectors(int64_t count) {
  constexpr int64_t kLanes = kMaxVectorBytes / sizeof(T);
  return (count + kLanes - 1) / kLanes * kLanes;
}

namespace detail {

// One function for each width. The compiler translates it, with all that is inlined into it, for
// processors that have this width.
template <typename Kernel, typename... Args>
void run_base(const Args&... args) {
  Kernel::template run<Base>(args...);
}

#if defined(__x86_64__)
template <typename Kernel, typename... Args>
__attribute__((target("avx2,fma"))) void run_avx2(const Args&... args) {
  Kernel::template run<Avx2>(args...);
}

template <typename Kernel, typename... Args>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))) void run_avx512(
    const Args&... args) {
  Kernel::template run<Avx512>(args...);
}
#endif

// Bytes of this processor's vectors.
inline int vector_bytes() {
#if defined(__x86_64__)
  static const int bytes = [] {
    const std::string capability = at::get_cpu_capability();
    return capability == "AVX512" ? Avx512::kBytes
           : capability == "AVX2" ? Avx2::kBytes
                                  : Base::kBytes;
  }();
  return bytes;
#else
  return Base::kBytes;
#endif
}

}  // namespace detail

// Runs a kernel with the widest vectors of this processor. A kernel is a type whose function
// template run<W>(args...), MXD_INLINE as all that it calls, does the work with a Width W.
template <typename Kernel, typename... Args>
void run_widest(const Args&... args) {
#if defined(__x86_64__)
  if (detail::vector_bytes() == Avx512::kBytes) return detail::run_avx512<Kernel>(args...);
  if (detail::vector_bytes() == Avx2::kBytes) return detail::run_avx2<Kernel>(args...);
#endif
  detail::run_base<Kernel>(args...);
}

// Columns of a panel on this processor: Width::kPanel of the width that run_widest takes.
template <typename T>
int64_t panel_columns() {
#if defined(__x86_64__)
  if (detail::vector_bytes() == Avx512::kBytes) return Avx512::kPanel<T>;
  if (detail::vector_bytes() == Avx2::kBytes) return Avx2::kPanel<T>;
#endif
  return Base::kPanel<T>;
}

}  // namespace mxd::cpu
