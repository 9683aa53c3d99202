// Vectors of a fixed width by the compiler's own extension (GCC, Clang; any processor), and the
// choice of width at run time, which follows PyTorch's own (ATEN_CPU_CAPABILITY).
#pragma once

#include <ATen/Version.h>

#include <cstring>
#include <string>

#define MXD_INLINE inline __attribute__((always_inline))

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

// What a GEMM kernel may use: the vector width, and how many vectors a row of accumulators holds so
// that kRows of them stay in registers.
template <int Bytes, int Vectors>
struct Width {
  static constexpr int kBytes = Bytes, kVectors = Vectors, kRows = 6;
};

#if defined(__x86_64__)
using Base = Width<16, 2>;
using Avx2 = Width<32, 2>;
using Avx512 = Width<64, 4>;
#define MXD_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define MXD_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#else
using Base = Width<16, 4>;  // NEON and its like: 32 registers
#endif

// Widest vector of any processor, in bytes: buffers are padded to it.
constexpr int kMaxVectorBytes = 64;

}  // namespace mxd::cpu

// Compiles a file's kernels for every vector width and defines kernels<T>(), which chooses those of
// this processor. KERNELS(W, TARGET) defines the template KernelsOf##W, whose functions are
// compiled for TARGET and whose member `kernels` is the file's Kernels<T> of them.
#if defined(__x86_64__)
#define MXD_EVERY_WIDTH(KERNELS)                                    \
  KERNELS(Base, )                                                   \
  KERNELS(Avx2, MXD_TARGET_AVX2)                                    \
  KERNELS(Avx512, MXD_TARGET_AVX512)                                \
  template <typename T>                                             \
  const Kernels<T>& kernels() {                                     \
    static const std::string capability = at::get_cpu_capability(); \
    if (capability == "AVX512") return KernelsOfAvx512<T>::kernels; \
    if (capability == "AVX2") return KernelsOfAvx2<T>::kernels;     \
    return KernelsOfBase<T>::kernels;                               \
  }
#else
#define MXD_EVERY_WIDTH(KERNELS)      \
  KERNELS(Base, )                     \
  template <typename T>               \
  const Kernels<T>& kernels() {       \
    return KernelsOfBase<T>::kernels; \
  }
#endif
