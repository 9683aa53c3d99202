// What the CPU kernels of deformable aggregation share: the arguments, and the taps in the order of
// the pixels that they read.
//
// A sample is one point of one anchor in one camera: number
// ((batch * anchors + anchor) * points + point) * cams + cam. A tap is a sample inside of its image
// at one scale. In the order of the anchors, taps would read pixels from anywhere, each several
// times. The taps of one element of the batch are therefore sorted by map and pixel: they read
// feature_maps once, from one end to the other, and the anchors' data is small enough for the
// cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "../deformable_aggregation.h"
#include "parallel.h"
#include "simd.h"

namespace mxd::deformable_aggregation {

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

// A tap lies between four pixels: (y, x) is the upper left one, -1 beyond the border; down and
// right are the shares of the pixels below and to the right.
template <typename T>
struct Tap {
  int32_t y, x;
  T down, right;
  int64_t anchor;  // batch * anchors + anchor
  int64_t number;  // sample * scales + scale
};

template <typename T>
struct SortedTaps {
  std::unique_ptr<Tap<T>[]> taps;
  // Of each map, where the taps of each y begin, from y = -1 to height - 1, and where they end.
  std::vector<std::vector<int64_t>> rows;

  const Tap<T>* begin(int64_t map) const { return taps.get() + rows[map].front(); }
  const Tap<T>* end(int64_t map) const { return taps.get() + rows[map].back(); }
};

// Sorts the samples of one map's camera by pixel, those of one pixel in their order: a counting
// sort. Fills `row` and the taps from number `first` on.
template <typename T>
void sort_map(const Sampling<T>& s, int64_t m, const std::vector<int64_t>& samples, int64_t first,
              Tap<T>* taps, std::vector<int64_t>& row) {
  const Map& map = s.maps[m];
  const int64_t width = map.width + 1, height = map.height + 1;  // with -1
  struct Place {
    int64_t pixel;
    T share;
    Place(T location, int64_t size) {
      const T at = location * size - T(0.5), whole = std::floor(at);
      pixel = std::min<int64_t>(whole, size - 1);  // rounding may reach the far border
      share = at - whole;
    }
  };
  auto cell = [&](const Place& y, const Place& x) { return (y.pixel + 1) * width + x.pixel + 1; };
  std::vector<int64_t> next(height * width + 1, 0);
  for (const int64_t sample : samples)
    next[1 +
         cell({s.locations[2 * sample + 1], map.height}, {s.locations[2 * sample], map.width})]++;
  next[0] = first;
  std::partial_sum(next.begin(), next.end(), next.begin());
  row.resize(height + 1);
  for (int64_t y = 0; y <= height; y++) row[y] = next[y * width];
  for (const int64_t sample : samples) {
    const Place y(s.locations[2 * sample + 1], map.height), x(s.locations[2 * sample], map.width);
    taps[next[cell(y, x)]++] = {
        static_cast<int32_t>(y.pixel), static_cast<int32_t>(x.pixel),   y.share, x.share,
        sample / (s.points * s.cams),  sample * s.scales + m % s.scales};
  }
}

// The taps of one element of the batch.
template <typename T>
SortedTaps<T> sort_taps(const Sampling<T>& s, int64_t batch) {
  std::vector<std::vector<int64_t>> samples(s.cams);  // those inside
  cpu::for_each_unit(s.cams, [&](int64_t cam, int64_t) {
    const int64_t first = batch * s.anchors * s.points, last = first + s.anchors * s.points;
    for (int64_t sample = first * s.cams + cam; sample < last * s.cams; sample += s.cams)
      if (s.inside(sample)) samples[cam].push_back(sample);
  });
  const int64_t maps = s.maps.size();
  std::vector<int64_t> first(maps + 1, 0);
  for (int64_t m = 0; m < maps; m++) first[m + 1] = first[m] + samples[m / s.scales].size();
  SortedTaps<T> sorted{std::unique_ptr<Tap<T>[]>(new Tap<T>[first[maps]]),
                       std::vector<std::vector<int64_t>>(maps)};
  cpu::for_each_unit(maps, [&](int64_t m, int64_t) {
    sort_map(s, m, samples[m / s.scales], first[m], sorted.taps.get(), sorted.rows[m]);
  });
  return sorted;
}

// Calls body(channel, bytes) for vectors that cover [begin, end): of `Bytes`, then of fewer.
template <typename T, int Bytes, typename Body>
MXD_INLINE void for_each_vector(int64_t begin, int64_t end, const Body& body) {
  constexpr int64_t kLanes = cpu::Simd<T, Bytes>::kLanes;
  for (; begin + kLanes <= end; begin += kLanes) body(begin, std::integral_constant<int, Bytes>{});
  if constexpr (kLanes > 1)
    if (begin < end) for_each_vector<T, Bytes / 2>(begin, end, body);
}

}  // namespace mxd::deformable_aggregation
