// Deformable aggregation on the CPU: the output and the gradients of locations and weights, anchor
// by anchor. The taps of an anchor are found first, once for all channels, so that the rows of one
// tap are fetched while those of the tap before are used.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "deformable_aggregation_sampling.h"
#include "parallel.h"

namespace mxd::deformable_aggregation {
namespace {

using cpu::for_each_unit;
using cpu::Simd;

template <typename T>
struct Tap {
  const T* corner[4];  // pixels: upper left, upper right, lower left, lower right
  int64_t sample, weight;
  const Map* map;
  T down, right;
};

template <typename T>
struct Args {
  const Sampling<T>& sampling;
  const T* features;  // [batch, num_feat, channels]
  const T* zeros;     // [channels], a pixel outside of the map
  T* out;             // [batch, anchors, channels]; of the gradients, the output's gradient
  T* grad_locations;  // as sampling.locations
  T* grad_weight;     // as sampling.weight
};

template <typename T>
MXD_INLINE void find_taps(const Args<T>& args, int64_t anchor, std::vector<Tap<T>>& taps) {
  const Sampling<T>& s = args.sampling;
  const int64_t samples = s.points * s.cams, first = anchor * samples;
  const T* features = args.features + anchor / s.anchors * s.num_feat * s.channels;
  taps.clear();
  for (int64_t sample = first; sample < first + samples; sample++) {
    if (!s.inside(sample)) continue;
    const Map* map = &s.maps[sample % s.cams * s.scales];
    for (int64_t scale = 0; scale < s.scales; scale++, map++) {
      const Position<T> at = locate(*map, s.locations + 2 * sample);
      const T* upper_left = features + (map->start + at.y * map->width + at.x) * s.channels;
      const bool up = at.y >= 0, down = at.y + 1 < map->height;
      const bool left = at.x >= 0, right = at.x + 1 < map->width;
      const int64_t below = map->width * s.channels;
      taps.push_back({{up && left ? upper_left : args.zeros,
                       up && right ? upper_left + s.channels : args.zeros,
                       down && left ? upper_left + below : args.zeros,
                       down && right ? upper_left + below + s.channels : args.zeros},
                      sample,
                      (sample * s.scales + scale) * s.groups,
                      map,
                      at.down,
                      at.right});
    }
  }
}

template <typename T, int Bytes>
MXD_INLINE void forward_anchor(const Args<T>& args, int64_t anchor, std::vector<Tap<T>>& taps) {
  const Sampling<T>& s = args.sampling;
  const int64_t width = s.group_width();
  T* out = args.out + anchor * s.channels;
  find_taps(args, anchor, taps);
  std::fill_n(out, s.channels, T(0));
  for (size_t i = 0; i < taps.size(); i++) {
    const Tap<T>& tap = taps[i];
    const Tap<T>& next = taps[std::min(i + 1, taps.size() - 1)];
    const T share[4] = {(1 - tap.down) * (1 - tap.right), (1 - tap.down) * tap.right,
                        tap.down * (1 - tap.right), tap.down * tap.right};
    for (int64_t group = 0; group < s.groups; group++) {
      T factor[4];
      for (int k = 0; k < 4; k++) factor[k] = share[k] * s.weight[tap.weight + group];
      for_each_vector<T, Bytes>(group * width, (group + 1) * width,
                                [&](int64_t c, auto bytes) __attribute__((always_inline)) {
                                  using V = Simd<T, bytes>;
                                  typename V::Vec sum = V::load(out + c);
#pragma GCC unroll 4
                                  for (int k = 0; k < 4; k++) {
                                    __builtin_prefetch(next.corner[k] + c);
                                    sum += factor[k] * V::load(tap.corner[k] + c);
                                  }
                                  V::store(out + c, sum);
                                });
    }
  }
}

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

// dot[k] += grad . corner[k] over the channels [begin, end)
template <typename T, int Bytes>
MXD_INLINE void add_dots(const T* grad, const Tap<T>& tap, const Tap<T>& next, int64_t begin,
                         int64_t end, T* dot) {
  using V = Simd<T, Bytes>;
  typename V::Vec sum[4] = {};
  for (; begin + V::kLanes <= end; begin += V::kLanes) {
    const typename V::Vec g = V::load(grad + begin);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      __builtin_prefetch(next.corner[k] + begin);
      sum[k] += g * V::load(tap.corner[k] + begin);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++) dot[k] += sum_of_lanes<T, Bytes>(sum[k]);
  if constexpr (V::kLanes > 1)
    if (begin < end) add_dots<T, Bytes / 2>(grad, tap, next, begin, end, dot);
}

template <typename T, int Bytes>
MXD_INLINE void sample_grad_anchor(const Args<T>& args, int64_t anchor, std::vector<Tap<T>>& taps) {
  const Sampling<T>& s = args.sampling;
  const int64_t width = s.group_width();
  const T* grad = args.out + anchor * s.channels;
  find_taps(args, anchor, taps);
  for (size_t i = 0; i < taps.size(); i++) {
    const Tap<T>& tap = taps[i];
    const Tap<T>& next = taps[std::min(i + 1, taps.size() - 1)];
    const T up = 1 - tap.down, left = 1 - tap.right;
    T x = 0, y = 0;
    for (int64_t group = 0; group < s.groups; group++) {
      T dot[4] = {};
      add_dots<T, Bytes>(grad, tap, next, group * width, (group + 1) * width, dot);
      const T weight = s.weight[tap.weight + group];
      x += weight * (up * (dot[1] - dot[0]) + tap.down * (dot[3] - dot[2]));
      y += weight * (left * (dot[2] - dot[0]) + tap.right * (dot[3] - dot[1]));
      args.grad_weight[tap.weight + group] = up * (left * dot[0] + tap.right * dot[1]) +
                                             tap.down * (left * dot[2] + tap.right * dot[3]);
    }
    args.grad_locations[2 * tap.sample] += x * tap.map->width;
    args.grad_locations[2 * tap.sample + 1] += y * tap.map->height;
  }
}

template <typename T>
struct Kernels {
  void (*forward)(const Args<T>&, int64_t anchor, std::vector<Tap<T>>& taps);
  void (*sample_grad)(const Args<T>&, int64_t anchor, std::vector<Tap<T>>& taps);
};

// One set of kernels for each vector width; the compiler makes the code of each for its own
// processor.
#define MXD_KERNELS(W, TARGET)                                                                   \
  template <typename T>                                                                          \
  struct KernelsOf##W {                                                                          \
    TARGET static void forward(const Args<T>& args, int64_t anchor, std::vector<Tap<T>>& taps) { \
      forward_anchor<T, cpu::W::kBytes>(args, anchor, taps);                                     \
    }                                                                                            \
    TARGET static void sample_grad(const Args<T>& args, int64_t anchor,                          \
                                   std::vector<Tap<T>>& taps) {                                  \
      sample_grad_anchor<T, cpu::W::kBytes>(args, anchor, taps);                                 \
    }                                                                                            \
    static constexpr Kernels<T> kernels{&forward, &sample_grad};                                 \
  };

MXD_KERNELS(Base, )
#if defined(__x86_64__)
MXD_KERNELS(Avx2, MXD_TARGET_AVX2)
MXD_KERNELS(Avx512, MXD_TARGET_AVX512)
#endif

template <typename T>
const Kernels<T>& kernels() {
#if defined(__x86_64__)
  static const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") return KernelsOfAvx512<T>::kernels;
  if (capability == "AVX2") return KernelsOfAvx2<T>::kernels;
#endif
  return KernelsOfBase<T>::kernels;
}

template <typename T, typename Kernel>
void for_each_anchor(const Args<T>& args, Kernel kernel) {
  const int64_t anchors = args.sampling.batch * args.sampling.anchors;
  std::vector<std::vector<Tap<T>>> taps(at::get_num_threads());
  for_each_unit(anchors,
                [&](int64_t anchor, int64_t worker) { kernel(args, anchor, taps[worker]); });
}

template <typename T>
at::Tensor forward_in(const at::Tensor& feature_maps, const at::Tensor& spatial_shape,
                      const at::Tensor& scale_start_index, const at::Tensor& sample_locations,
                      const at::Tensor& weight) {
  const Sampling<T> sampling(feature_maps, spatial_shape, scale_start_index, sample_locations,
                             weight);
  auto out =
      at::empty({sampling.batch, sampling.anchors, sampling.channels}, feature_maps.options());
  const std::vector<T> zeros(sampling.channels, T(0));
  const Args<T> args{sampling,     feature_maps.const_data_ptr<T>(),
                     zeros.data(), out.template mutable_data_ptr<T>(),
                     nullptr,      nullptr};
  for_each_anchor(args, kernels<T>().forward);
  return out;
}

at::Tensor forward_cpu(const at::Tensor& feature_maps, const at::Tensor& spatial_shape,
                       const at::Tensor& scale_start_index, const at::Tensor& sample_locations,
                       const at::Tensor& weight) {
  check_inputs(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  const auto type = compute_type(feature_maps);
  const auto run = type == at::kDouble ? &forward_in<double> : &forward_in<float>;
  return run(feature_maps.to(type).contiguous(), spatial_shape, scale_start_index,
             sample_locations.to(type).contiguous(), weight.to(type).contiguous())
      .to(feature_maps.scalar_type());
}

template <typename T>
std::tuple<at::Tensor, at::Tensor> sample_grad_in(const at::Tensor& grad,
                                                  const at::Tensor& feature_maps,
                                                  const at::Tensor& spatial_shape,
                                                  const at::Tensor& scale_start_index,
                                                  const at::Tensor& sample_locations,
                                                  const at::Tensor& weight) {
  const Sampling<T> sampling(feature_maps, spatial_shape, scale_start_index, sample_locations,
                             weight);
  auto grad_locations = at::zeros_like(sample_locations);
  auto grad_weight = at::zeros_like(weight);
  const std::vector<T> zeros(sampling.channels, T(0));
  const Args<T> args{sampling,
                     feature_maps.const_data_ptr<T>(),
                     zeros.data(),
                     const_cast<T*>(grad.const_data_ptr<T>()),
                     grad_locations.template mutable_data_ptr<T>(),
                     grad_weight.template mutable_data_ptr<T>()};
  for_each_anchor(args, kernels<T>().sample_grad);
  return {grad_locations, grad_weight};
}

std::tuple<at::Tensor, at::Tensor> sample_grad_cpu(const at::Tensor& grad,
                                                   const at::Tensor& feature_maps,
                                                   const at::Tensor& spatial_shape,
                                                   const at::Tensor& scale_start_index,
                                                   const at::Tensor& sample_locations,
                                                   const at::Tensor& weight) {
  check_inputs(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  check_grad(grad, feature_maps, sample_locations);
  const auto type = compute_type(feature_maps);
  const auto run = type == at::kDouble ? &sample_grad_in<double> : &sample_grad_in<float>;
  const auto [grad_locations, grad_weight] =
      run(grad.to(type).contiguous(), feature_maps.to(type).contiguous(), spatial_shape,
          scale_start_index, sample_locations.to(type).contiguous(), weight.to(type).contiguous());
  return {grad_locations.to(sample_locations.scalar_type()), grad_weight.to(weight.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("deformable_aggregation", TORCH_FN(forward_cpu));
  m.impl("deformable_aggregation_sample_grad", TORCH_FN(sample_grad_cpu));
}

}  // namespace mxd::deformable_aggregation
