// Points as planes of x, y and z, in which a block of points is compared at a time.
#pragma once

#include <ATen/ops/full.h>

#include <limits>

#include "../../ops/cpu/simd.h"

namespace mxd::mmcv_registry::cpu {

using mxd::cpu::run_widest;

constexpr int64_t kBlock = 64;  // points

/// Runs a lambda that is marked MXD_INLINED with the widest vectors of this processor.
struct Inlined {
  template <typename W, typename Body>
  static MXD_INLINE void run(const Body& body) {
    body();
  }
};

/// [..., N, 3] as [..., 3, whole blocks]. What a block has beyond the points is NaN, which compares
/// as neither near nor inside.
template <typename T>
at::Tensor planes(const at::Tensor& points) {
  auto shape = points.sizes().vec();
  const int64_t count = shape[shape.size() - 2];
  shape.back() = (count + kBlock - 1) / kBlock * kBlock;
  shape[shape.size() - 2] = 3;
  const auto options = points.options().dtype(c10::CppTypeToScalarType<T>::value);
  const auto out = at::full(shape, std::numeric_limits<double>::quiet_NaN(), options);
  out.narrow(-1, 0, count).copy_(points.transpose(-1, -2));
  return out;
}

/// Calls hit(number) for each of a block's numbers that `is_near` takes, in their order, until it
/// returns false.
///
/// Returns: whether no call returned false.
template <typename Near, typename Hit>
MXD_INLINE bool for_each_near(const Near& is_near, const Hit& hit) {
  int any = 0;
#pragma omp simd reduction(| : any)
  for (int64_t i = 0; i < kBlock; i++) any |= is_near(i);
  if (!any) return true;
  for (int64_t i = 0; i < kBlock; i++)
    if (is_near(i) && !hit(i)) return false;
  return true;
}

/// Calls hit(number, squared distance) for each point that `is_near`, a function of the squared
/// distance, takes, in their order, until it returns false. Distances are float32 or float64, fused
/// where the processor can, as in CUDA.
template <typename T, typename Near, typename Hit>
MXD_INLINE void for_each_near_point(const T* x, int64_t stride, const T* from, const Near& is_near,
                                    const Hit& hit) {
  const T *y = x + stride, *z = y + stride;
  const T from_x = from[0], from_y = from[1], from_z = from[2];
  T distance[kBlock];
  for (int64_t block = 0; block < stride; block += kBlock) {
#pragma omp simd
    for (int64_t i = 0; i < kBlock; i++) {
      const T dx = from_x - x[block + i], dy = from_y - y[block + i], dz = from_z - z[block + i];
      distance[i] = dx * dx + dy * dy + dz * dz;
    }
    const bool go_on = for_each_near(
        [&](int64_t i) MXD_INLINED { return is_near(distance[i]); },
        [&](int64_t i) MXD_INLINED { return hit(static_cast<int>(block + i), distance[i]); });
    if (!go_on) return;
  }
}

}  // namespace mxd::mmcv_registry::cpu
