// Deformable aggregation on the CPU: the gradient of the feature maps. The taps are sorted by pixel
// (deformable_aggregation_taps.h). A thread takes a band of rows of one map, which stays in its
// cache, and adds the gradients of the band's taps. So every row is written to memory once, and its
// sum has the same order for any number of threads.
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "compute_type.h"
#include "deformable_aggregation_taps.h"
#include "memory.h"

namespace mxd::deformable_aggregation {
namespace {

using cpu::for_each_unit;
using cpu::Simd;

// Bytes of the gradient in one band: at most half of a core's cache, the rest is for the output's
// gradient.
constexpr int64_t kBandBytes = 128 << 10;

template <typename T>
struct Args {
  const Sampling<T>& sampling;
  const SortedTaps<T>& sorted;
  const T* grad;  // [batch, anchors, channels], of the output
  T* out;         // [rows, channels], of one element of the batch
};

struct Band {
  int64_t map, start, begin, end;  // the map's first row in `out`; rows of pixels [begin, end)
};

// left += factor[0] * grad, right += factor[1] * grad, each with the weight of the channel's group
template <typename T, int Bytes>
MXD_INLINE void add_pair(const Sampling<T>& s, const T* weight, const T* grad, T left_share,
                         T right_share, T* left, T* right) {
  const int64_t width = s.group_width();
  for (int64_t group = 0; group < s.groups; group++) {
    const T left_factor = left_share * weight[group], right_factor = right_share * weight[group];
    for_each_vector<T, Bytes>(group * width, (group + 1) * width,
                              [&](int64_t c, auto bytes) MXD_INLINED {
                                using V = Simd<T, bytes>;
                                const typename V::Vec g = V::load(grad + c);
                                V::store(left + c, V::load(left + c) + left_factor * g);
                                V::store(right + c, V::load(right + c) + right_factor * g);
                              });
  }
}

// Adds the taps of a band. Pixels outside of the map are added to the row `unused`.
template <typename T>
struct AddBand {
  template <typename W>
  static MXD_INLINE void run(const Args<T>& args, const Band& band, T* unused) {
    const Sampling<T>& s = args.sampling;
    const int64_t width = s.maps[band.map].width;
    T* pixels = args.out + band.start * s.channels;
    std::fill(pixels + band.begin * width * s.channels, pixels + band.end * width * s.channels,
              T(0));
    // The taps with y = begin - 1 have their lower pixels in the band.
    const std::vector<int64_t>& rows = args.sorted.rows[band.map];
    for (int64_t i = rows[band.begin]; i < rows[band.end + 1]; i++) {
      const Tap<T>& tap = args.sorted.taps[i];
      T* upper = pixels + (tap.y * width + tap.x) * s.channels;
      auto add = [&](T* row, T share) MXD_INLINED {
        add_pair<T, W::kBytes>(s, s.weight + tap.number * s.groups,
                               args.grad + tap.anchor * s.channels, share * (1 - tap.right),
                               share * tap.right, tap.x >= 0 ? row : unused,
                               tap.x + 1 < width ? row + s.channels : unused);
      };
      if (tap.y >= band.begin) add(upper, 1 - tap.down);
      if (tap.y + 1 < band.end) add(upper + width * s.channels, tap.down);
    }
  }
};

// Writes the gradient of every pixel of every map to out [batch, rows, channels], map m beginning
// at row starts[m]; no two maps may share a row.
template <typename T>
void write_grad(const Sampling<T>& s, const T* grad, const std::vector<int64_t>& starts,
                int64_t rows, T* out) {
  std::vector<Band> bands;
  for (size_t m = 0; m < s.maps.size(); m++) {
    const Map& map = s.maps[m];
    const int64_t row_bytes = std::max<int64_t>(map.width * s.channels * sizeof(T), 1);
    const int64_t step = std::max<int64_t>(kBandBytes / row_bytes, 1);
    for (int64_t y = 0; y < map.height; y += step)
      bands.push_back({static_cast<int64_t>(m), starts[m], y, std::min(y + step, map.height)});
  }
  std::vector<std::vector<T>> unused(at::get_num_threads(), std::vector<T>(s.channels));
  for (int64_t batch = 0; batch < s.batch; batch++) {
    const SortedTaps<T> sorted = sort_taps(s, batch);
    const Args<T> args{s, sorted, grad, out + batch * rows * s.channels};
    for_each_unit(bands.size(), [&](int64_t band, int64_t worker) {
      cpu::run_widest<AddBand<T>>(args, bands[band], unused[worker].data());
    });
  }
}

// Whether the maps cover feature_maps, each row once.
bool cover_once(std::vector<Map> maps, int64_t num_feat) {
  std::sort(maps.begin(), maps.end(), [](const Map& a, const Map& b) { return a.start < b.start; });
  int64_t next = 0;
  for (const Map& map : maps) {
    if (map.start != next) return false;
    next += map.size();
  }
  return next == num_feat;
}

template <typename T>
at::Tensor feature_grad_in(const at::Tensor& grad, const at::Tensor& feature_maps,
                           const at::Tensor& spatial_shape, const at::Tensor& scale_start_index,
                           const at::Tensor& sample_locations, const at::Tensor& weight) {
  const Sampling<T> s(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  const T* from = grad.const_data_ptr<T>();
  std::vector<int64_t> starts;
  if (cover_once(s.maps, s.num_feat)) {
    for (const Map& map : s.maps) starts.push_back(map.start);
    auto out = cpu::empty_output({s.batch, s.num_feat, s.channels}, grad.options());
    write_grad(s, from, starts, s.num_feat, out.template mutable_data_ptr<T>());
    return out;
  }
  // There are gaps between maps, or maps share rows: write the maps side by side first.
  int64_t rows = 0;
  for (const Map& map : s.maps) {
    starts.push_back(rows);
    rows += map.size();
  }
  auto packed = cpu::empty_output({s.batch, rows, s.channels}, grad.options());
  write_grad(s, from, starts, rows, packed.template mutable_data_ptr<T>());
  auto out = at::zeros({s.batch, s.num_feat, s.channels}, grad.options());
  for (size_t m = 0; m < s.maps.size(); m++)
    out.narrow(1, s.maps[m].start, s.maps[m].size())
        .add_(packed.narrow(1, starts[m], s.maps[m].size()));
  return out;
}

at::Tensor feature_grad_cpu(const at::Tensor& grad, const at::Tensor& feature_maps,
                            const at::Tensor& spatial_shape, const at::Tensor& scale_start_index,
                            const at::Tensor& sample_locations, const at::Tensor& weight) {
  check_grad(grad, feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  return cpu::with_compute_type(feature_maps,
                                [&](auto number, const auto& convert) {
                                  return feature_grad_in<decltype(number)>(
                                      convert(grad), feature_maps, spatial_shape, scale_start_index,
                                      convert(sample_locations), convert(weight));
                                })
      .to(feature_maps.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("deformable_aggregation_feature_grad", TORCH_FN(feature_grad_cpu));
}

}  // namespace mxd::deformable_aggregation
