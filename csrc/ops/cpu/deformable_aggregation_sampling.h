// What the CPU kernels of deformable aggregation share: the arguments, and where a sample lies.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "../deformable_aggregation.h"
#include "simd.h"

namespace mxd::deformable_aggregation {

// A sample is one point of one anchor in one camera: number
// ((batch * anchors + anchor) * points + point) * cams + cam. A tap is a sample at one scale.
template <typename T>
struct Sampling {
  std::vector<Map> maps;  // [cams, scales]
  const T* locations;     // [samples, 2]: x, y
  const T* weight;        // [samples, scales, groups]
  int64_t batch, anchors, points, cams, scales, groups, channels, num_feat;

  Sampling(const at::Tensor& feature_maps, const at::Tensor& spatial_shape,
           const at::Tensor& scale_start_index, const at::Tensor& sample_locations,
           const at::Tensor& weight_)
      : maps(read_maps(spatial_shape, scale_start_index, feature_maps.size(1))),
        locations(sample_locations.const_data_ptr<T>()),
        weight(weight_.const_data_ptr<T>()),
        batch(weight_.size(0)),
        anchors(weight_.size(1)),
        points(weight_.size(2)),
        cams(weight_.size(3)),
        scales(weight_.size(4)),
        groups(weight_.size(5)),
        channels(feature_maps.size(2)),
        num_feat(feature_maps.size(1)) {}

  int64_t group_width() const { return channels / groups; }

  // Strictly inside of the image; false for what is not a number.
  bool inside(int64_t sample) const {
    const T x = locations[2 * sample], y = locations[2 * sample + 1];
    return x > 0 && x < 1 && y > 0 && y < 1;
  }
};

// Where a sample lies between four pixels: (y, x) is the upper left one, -1 beyond the border, and
// right and down are the shares of the pixels to the right and below.
template <typename T>
struct Position {
  int64_t y, x;
  T down, right;
};

template <typename T>
MXD_INLINE Position<T> locate(const Map& map, const T* location) {
  const T x = location[0] * map.width - T(0.5), y = location[1] * map.height - T(0.5);
  const T left = std::floor(x), top = std::floor(y);
  return {static_cast<int64_t>(top), static_cast<int64_t>(left), y - top, x - left};
}

// Calls body(channel, bytes) for vectors that cover [begin, end): of `Bytes`, then of fewer.
template <typename T, int Bytes, typename Body>
MXD_INLINE void for_each_vector(int64_t begin, int64_t end, const Body& body) {
  constexpr int64_t kLanes = cpu::Simd<T, Bytes>::kLanes;
  for (; begin + kLanes <= end; begin += kLanes) body(begin, std::integral_constant<int, Bytes>{});
  if constexpr (kLanes > 1)
    if (begin < end) for_each_vector<T, Bytes / 2>(begin, end, body);
}

// float16 and bfloat16 are computed in float32.
inline at::ScalarType compute_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace mxd::deformable_aggregation
