// Products of bfloat16 numbers by the processor's own instruction (AVX512-BF16), two at a time and
// summed in float32.
#pragma once

#include <cstdint>
#include <cstring>

#include "compute_type.h"
#include "simd.h"

namespace mxd::cpu {

// Two neighbours along the depth of a product.
struct BFloat16Pair {
  uint16_t first, second;
};

// Vectors of pairs. The sums have as many lanes.
template <int Bytes>
struct Simd<BFloat16Pair, Bytes> {
  typedef uint32_t Vec __attribute__((vector_size(Bytes)));
  static constexpr int kLanes = Bytes / sizeof(BFloat16Pair);

  static MXD_INLINE Vec load(const BFloat16Pair* from) {
    Vec value;
    std::memcpy(&value, from, Bytes);
    return value;
  }
};

// Of products of T: the number that they are summed in, and the one that tensors hold, of which a T
// has kNumbers.
template <typename T>
struct Product {
  using Sum = T;
  using Number = T;
};
template <>
struct Product<BFloat16Pair> {
  using Sum = float;
  using Number = uint16_t;
};
template <typename T>
using sum_t = typename Product<T>::Sum;
template <typename T>
using number_t = typename Product<T>::Number;
template <typename T>
constexpr int64_t kNumbers = sizeof(T) / sizeof(number_t<T>);

// Adds the products of one factor by a vector of others.
template <typename T, typename Sum, typename Vec>
MXD_INLINE void add_products(Sum& sum, const T& left, const Vec& right) {
  sum += left * right;
}

#if defined(__x86_64__)
template <typename Sum, typename Vec>
MXD_INLINE void add_products(Sum& sum, const BFloat16Pair& left, const Vec& right) {
  uint32_t pair;
  std::memcpy(&pair, &left, sizeof(pair));
  const Vec factor = Vec{} + pair;
  // Written out, as a compiler takes the intrinsic only in functions for such processors. With
  // `sum` itself as the operand the sums would lie in memory.
  Sum value = sum;
  asm("vdpbf16ps %2, %1, %0" : "+v"(value) : "v"(right), "v"(factor));
  sum = value;
}
#endif

// Whether this processor multiplies pairs.
inline bool has_bfloat16() {
#if defined(__x86_64__)
  static const bool has =
      detail::vector_bytes() == Avx512::kBytes && __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

// Returns body(number, convert, widen). `number` has the type that products of tensors like this
// one are made of; convert(tensor) is the tensor in its number_t, widen(tensor) in its sum_t,
// contiguous.
template <typename Body>
auto with_product_type(const at::Tensor& like, const Body& body) {
  const auto to = [](at::ScalarType type) {
    return [type](const at::Tensor& tensor) { return tensor.to(type).contiguous(); };
  };
  if (like.scalar_type() == at::kBFloat16 && has_bfloat16())
    return body(BFloat16Pair{}, to(at::kBFloat16), to(at::kFloat));
  return with_compute_type(
      like, [&](auto number, const auto& convert) { return body(number, convert, convert); });
}

// Runs Kernel with the widest vectors of this processor that multiply T.
template <typename T, typename Kernel, typename... Args>
void run_products(const Args&... args) {
  if constexpr (!std::is_same_v<T, BFloat16Pair>) run_widest<Kernel>(args...);
#if defined(__x86_64__)
  if constexpr (std::is_same_v<T, BFloat16Pair>) detail::run_avx512<Kernel>(args...);
#endif
}

}  // namespace mxd::cpu
