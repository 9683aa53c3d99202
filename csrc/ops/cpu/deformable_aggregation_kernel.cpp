// Deformable aggregation on the CPU: the output, and the gradients of locations and weights. The
// taps are sorted by pixel (deformable_aggregation_taps.h), so the taps of one anchor are spread
// over the whole list. Forward, each thread therefore takes all taps, but only some channels. The
// gradients of a tap belong to this tap alone, so there each thread takes some taps.
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "compute_type.h"
#include "deformable_aggregation_taps.h"

namespace mxd::deformable_aggregation {
namespace {

using cpu::Simd;

// Taps that a thread takes at a time.
constexpr int64_t kTapsInRange = 256;

// Channels of one group, at most one vector of them. Slices do not depend on the number of threads:
// a channel is always computed in the same vector, and its sum is always the same to the last bit.
struct Slice {
  int64_t group, begin, end;
};

template <typename T>
struct ForwardArgs {
  const Sampling<T>& sampling;
  const SortedTaps<T>& sorted;
  const T* features;  // [num_feat, channels], of one element of the batch
  const T* zeros;     // [channels], a pixel outside of the map
  T* out;             // [batch * anchors, channels]
};

template <typename T>
struct SampleGradArgs {
  const Sampling<T>& sampling;
  const SortedTaps<T>& sorted;
  const T* features;  // [num_feat, channels], of one element of the batch
  const T* zeros;     // [channels], a pixel outside of the map
  const T* grad;      // [batch * anchors, channels]
  T* grad_weight;     // as Sampling::weight
  T* slopes;          // [taps by number, 2]: gradient by x and y
};

// Taps of one map.
struct Range {
  int64_t map, begin, end;
};

// The pixels around a tap: upper left, upper right, lower left, lower right.
template <typename T>
struct Corners {
  const T* pixel[4];

  MXD_INLINE Corners(const T* features, const T* zeros, const Map& map, const Tap<T>& tap,
                     int64_t channels) {
    const T* const upper_left = features + (map.start + tap.y * map.width + tap.x) * channels;
    const T* const lower_left = upper_left + map.width * channels;
    const bool up = tap.y >= 0, down = tap.y + 1 < map.height;
    const bool left = tap.x >= 0, right = tap.x + 1 < map.width;
    pixel[0] = up && left ? upper_left : zeros;
    pixel[1] = up && right ? upper_left + channels : zeros;
    pixel[2] = down && left ? lower_left : zeros;
    pixel[3] = down && right ? lower_left + channels : zeros;
  }
};

template <typename T>
struct ForwardSlices {
  template <typename W>
  static MXD_INLINE void run(const ForwardArgs<T>& args, const Slice* first, const Slice* last) {
    const Sampling<T>& s = args.sampling;
    for (size_t m = 0; m < s.maps.size(); m++)
      for (const Tap<T>* tap = args.sorted.begin(m); tap < args.sorted.end(m); tap++) {
        const Corners<T> corners(args.features, args.zeros, s.maps[m], *tap, s.channels);
        const T* weight = s.weight + tap->number * s.groups;
        T* out = args.out + tap->anchor * s.channels;
        const T up = 1 - tap->down, left = 1 - tap->right;
        const T share[4] = {up * left, up * tap->right, tap->down * left, tap->down * tap->right};
        for (const Slice* slice = first; slice < last; slice++)
          for_each_vector<T, W::kBytes>(
              slice->begin, slice->end, [&](int64_t c, auto bytes) MXD_INLINED {
                using V = Simd<T, bytes>;
                typename V::Vec read = share[0] * V::load(corners.pixel[0] + c);
#pragma GCC unroll 4
                for (int k = 1; k < 4; k++) read += share[k] * V::load(corners.pixel[k] + c);
                V::store(out + c, V::load(out + c) + weight[slice->group] * read);
              });
      }
  }
};

// dot[k] += grad . pixel[k] over the channels [begin, end)
template <typename T, int Bytes>
MXD_INLINE void add_dots(const T* grad, const Corners<T>& corners, int64_t begin, int64_t end,
                         T* dot) {
  using V = Simd<T, Bytes>;
  typename V::Vec sum[4] = {};
  for (; begin + V::kLanes <= end; begin += V::kLanes) {
    const typename V::Vec g = V::load(grad + begin);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) sum[k] += g * V::load(corners.pixel[k] + begin);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++) dot[k] += cpu::sum_of_lanes<T, Bytes>(sum[k]);
  if constexpr (V::kLanes > 1)
    if (begin < end) add_dots<T, Bytes / 2>(grad, corners, begin, end, dot);
}

template <typename T>
struct SampleGradRange {
  template <typename W>
  static MXD_INLINE void run(const SampleGradArgs<T>& args, const Range& range) {
    const Sampling<T>& s = args.sampling;
    const Map& map = s.maps[range.map];
    const int64_t width = s.group_width();
    for (int64_t i = range.begin; i < range.end; i++) {
      const Tap<T>& tap = args.sorted.taps[i];
      const Corners<T> corners(args.features, args.zeros, map, tap, s.channels);
      const T* grad = args.grad + tap.anchor * s.channels;
      const T* weight = s.weight + tap.number * s.groups;
      T* grad_weight = args.grad_weight + tap.number * s.groups;
      const T up = 1 - tap.down, left = 1 - tap.right;
      T x = 0, y = 0;
      for (int64_t group = 0; group < s.groups; group++) {
        T dot[4] = {};
        add_dots<T, W::kBytes>(grad, corners, group * width, (group + 1) * width, dot);
        x += weight[group] * (up * (dot[1] - dot[0]) + tap.down * (dot[3] - dot[2]));
        y += weight[group] * (left * (dot[2] - dot[0]) + tap.right * (dot[3] - dot[1]));
        grad_weight[group] = up * (left * dot[0] + tap.right * dot[1]) +
                             tap.down * (left * dot[2] + tap.right * dot[3]);
      }
      args.slopes[2 * tap.number] = x * map.width;
      args.slopes[2 * tap.number + 1] = y * map.height;
    }
  }
};

template <typename T>
std::vector<Slice> make_slices(const Sampling<T>& s) {
  constexpr int64_t kChannels = cpu::kMaxVectorBytes / sizeof(T);
  std::vector<Slice> slices;
  for (int64_t group = 0; group < s.groups; group++) {
    const int64_t end = (group + 1) * s.group_width();
    for (int64_t c = group * s.group_width(); c < end; c += kChannels)
      slices.push_back({group, c, std::min(c + kChannels, end)});
  }
  return slices;
}

template <typename T>
at::Tensor forward_in(const at::Tensor& feature_maps, const at::Tensor& spatial_shape,
                      const at::Tensor& scale_start_index, const at::Tensor& sample_locations,
                      const at::Tensor& weight) {
  const Sampling<T> s(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  auto out = at::zeros({s.batch, s.anchors, s.channels}, feature_maps.options());
  const std::vector<Slice> slices = make_slices(s);
  const std::vector<T> zeros(s.channels, T(0));
  const int64_t parts = std::min<int64_t>(slices.size(), at::get_num_threads());
  for (int64_t batch = 0; batch < s.batch; batch++) {
    const SortedTaps<T> sorted = sort_taps(s, batch);
    const ForwardArgs<T> args{s, sorted,
                              feature_maps.const_data_ptr<T>() + batch * s.num_feat * s.channels,
                              zeros.data(), out.template mutable_data_ptr<T>()};
    cpu::for_each_part(parts, slices.size(), [&](int64_t, int64_t begin, int64_t end) {
      cpu::run_widest<ForwardSlices<T>>(args, slices.data() + begin, slices.data() + end);
    });
  }
  return out;
}

at::Tensor forward_cpu(const at::Tensor& feature_maps, const at::Tensor& spatial_shape,
                       const at::Tensor& scale_start_index, const at::Tensor& sample_locations,
                       const at::Tensor& weight) {
  check_inputs(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  return cpu::with_compute_type(feature_maps,
                                [&](auto number, const auto& convert) {
                                  return forward_in<decltype(number)>(
                                      convert(feature_maps), spatial_shape, scale_start_index,
                                      convert(sample_locations), convert(weight));
                                })
      .to(feature_maps.scalar_type());
}

template <typename T>
std::tuple<at::Tensor, at::Tensor> sample_grad_in(const at::Tensor& grad,
                                                  const at::Tensor& feature_maps,
                                                  const at::Tensor& spatial_shape,
                                                  const at::Tensor& scale_start_index,
                                                  const at::Tensor& sample_locations,
                                                  const at::Tensor& weight) {
  const Sampling<T> s(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  auto grad_locations = at::zeros_like(sample_locations);
  auto grad_weight = at::zeros_like(weight);
  T* locations = grad_locations.template mutable_data_ptr<T>();
  const std::vector<T> zeros(s.channels, T(0));
  const std::unique_ptr<T[]> slopes(new T[2 * weight.numel() / s.groups]);
  for (int64_t batch = 0; batch < s.batch; batch++) {
    const SortedTaps<T> sorted = sort_taps(s, batch);
    const SampleGradArgs<T> args{s,
                                 sorted,
                                 feature_maps.const_data_ptr<T>() + batch * s.num_feat * s.channels,
                                 zeros.data(),
                                 grad.const_data_ptr<T>(),
                                 grad_weight.template mutable_data_ptr<T>(),
                                 slopes.get()};
    std::vector<Range> ranges;
    for (size_t m = 0; m < s.maps.size(); m++)
      for (int64_t i = sorted.rows[m].front(), end = sorted.rows[m].back(); i < end;
           i += kTapsInRange)
        ranges.push_back({static_cast<int64_t>(m), i, std::min(i + kTapsInRange, end)});
    cpu::for_each_unit(ranges.size(), [&](int64_t range, int64_t) {
      cpu::run_widest<SampleGradRange<T>>(args, ranges[range]);
    });
  }
  at::parallel_for(0, sample_locations.numel() / 2, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t sample = begin; sample < end; sample++) {
      if (!s.inside(sample)) continue;
      for (int64_t tap = sample * s.scales; tap < (sample + 1) * s.scales; tap++) {
        locations[2 * sample] += slopes[2 * tap];
        locations[2 * sample + 1] += slopes[2 * tap + 1];
      }
    }
  });
  return {grad_locations, grad_weight};
}

std::tuple<at::Tensor, at::Tensor> sample_grad_cpu(const at::Tensor& grad,
                                                   const at::Tensor& feature_maps,
                                                   const at::Tensor& spatial_shape,
                                                   const at::Tensor& scale_start_index,
                                                   const at::Tensor& sample_locations,
                                                   const at::Tensor& weight) {
  check_grad(grad, feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  const auto [grad_locations, grad_weight] =
      cpu::with_compute_type(feature_maps, [&](auto number, const auto& convert) {
        return sample_grad_in<decltype(number)>(convert(grad), convert(feature_maps), spatial_shape,
                                                scale_start_index, convert(sample_locations),
                                                convert(weight));
      });
  return {grad_locations.to(sample_locations.scalar_type()), grad_weight.to(weight.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("deformable_aggregation", TORCH_FN(forward_cpu));
  m.impl("deformable_aggregation_sample_grad", TORCH_FN(sample_grad_cpu));
}

}  // namespace mxd::deformable_aggregation
