// Sparse convolution on the CPU: implicit GEMM over the rulebook. Rows are read where they lie (no
// gather buffer) and accumulated in registers; a tile of output rows stays in the cache of the core
// that works on it. The order of every sum is fixed by the rulebook, so results do not depend on
// the number of threads.
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../sparse_conv.h"
#include "compute_type.h"
#include "gemm.h"
#include "memory.h"
#include "parallel.h"
#include "rulebook.h"
#include "simd.h"

namespace mxd::sparse_conv {
namespace {

using cpu::for_each_unit;
using cpu::multiply_tile;
using cpu::Simd;
using cpu::Start;
using cpu::whole_vectors;
using cpu::with_tile;

template <typename T>
struct ForwardArgs {
  Rulebook rulebook;
  const T* features;  // [rows, groups * in_channels]
  const T* weight;    // packed: [groups, K, panels, in_channels, panel width]
  const T* bias;      // [groups * out_channels] or null
  T* out;             // [num_out, groups * out_channels]
  int64_t num_out, groups, in_channels, out_channels;  // channels of one group; out_channels padded
};

template <typename T>
struct WeightGradArgs {
  Rulebook rulebook;
  const T* features;  // [rows, groups * in_channels]
  const T* grad;      // [num_out, groups * out_channels]
  T* out;             // [slabs, groups, K, in_channels, out_channels]
  int64_t slabs, groups, in_channels, out_channels;  // channels of one group; out_channels padded
};

template <typename T>
struct ForwardTile {
  template <typename W>
  static MXD_INLINE void run(const ForwardArgs<T>& args, int64_t tile) {
    constexpr int64_t kLanes = Simd<T, W::kBytes>::kLanes, kPanel = W::kVectors * kLanes;
    const Rulebook& book = args.rulebook;
    const int64_t in_stride = args.groups * args.in_channels;
    const int64_t out_stride = args.groups * args.out_channels;
    const int64_t rows = std::min(kTileRows, args.num_out - tile * kTileRows);
    // An offset that pairs every row of the tile writes the rows, all others add to them.
    const int64_t whole = book.whole_offset(tile, rows);

    for (int64_t group = 0; group < args.groups; group++)
      for (int64_t column = 0; column < args.out_channels; column += kPanel) {
        const int64_t width = std::min(kPanel, args.out_channels - column);
        const T* in = args.features + group * args.in_channels;
        T* out = args.out + group * args.out_channels + column;
        const T* bias = args.bias ? args.bias + group * args.out_channels + column : nullptr;
        auto run = [&](int64_t k, Start start) MXD_INLINED {
          const T* weight = args.weight +
                            (group * book.volume + k) * args.in_channels * args.out_channels +
                            args.in_channels * column;
          const Pair* pair = book.begin(tile, k);
          const Pair* const end = book.end(tile, k);
          for (int64_t count; pair < end; pair += count) {
            count = std::min<int64_t>(W::kRows, end - pair);
            const T* from[W::kRows];
            T* to[W::kRows];
            for (int64_t r = 0; r < count; r++) {
              from[r] = in + pair[r].in * in_stride;
              to[r] = out + pair[r].out * out_stride;
            }
            with_tile<T, W>(count, width, [&](auto rows, auto vectors) MXD_INLINED {
              multiply_tile<T, W::kBytes, rows, vectors>(
                  [&](int r) MXD_INLINED { return to[r]; }, start, bias,
                  [&](const auto& add) MXD_INLINED {
                    const T* row = weight;
                    for (int64_t i = 0; i < args.in_channels; i++, row += vectors * kLanes)
                      add([&](int r) MXD_INLINED { return from[r][i]; }, row);
                  });
            });
          }
        };
        if (whole >= 0) {
          run(whole, bias ? Start::kBias : Start::kZero);
        } else {
          for (int64_t row = tile * kTileRows; row < tile * kTileRows + rows; row++)
            for (int64_t j = 0; j < width; j++) out[row * out_stride + j] = bias ? bias[j] : T(0);
        }
        for (int64_t k = 0; k < book.volume; k++)
          if (k != whole) run(k, Start::kAdd);
      }
  }
};

// One unit is the gradient of one kernel point of one group from one slab of the tiles.
template <typename T>
struct WeightGradUnit {
  template <typename W>
  static MXD_INLINE void run(const WeightGradArgs<T>& args, int64_t unit) {
    constexpr int64_t kLanes = Simd<T, W::kBytes>::kLanes, kPanel = W::kVectors * kLanes;
    constexpr int64_t kPairsInCache = 1024;
    const Rulebook& book = args.rulebook;
    const int64_t k = unit % book.volume, group = unit / book.volume % args.groups;
    const int64_t slab = unit / book.volume / args.groups;
    const int64_t slab_begin = slab * book.tiles / args.slabs;
    const int64_t slab_end = (slab + 1) * book.tiles / args.slabs;
    const int64_t in_stride = args.groups * args.in_channels;
    const int64_t grad_stride = args.groups * args.out_channels;
    T* out = args.out + unit * args.in_channels * args.out_channels;
    std::fill_n(out, args.in_channels * args.out_channels, T(0));

    for (int64_t first = slab_begin, last; first < slab_end; first = last) {
      int64_t pairs = 0;
      for (last = first; last < slab_end && pairs < kPairsInCache; last++)
        pairs += book.end(last, k) - book.begin(last, k);
      if (!pairs) continue;
      for (int64_t i = 0; i < args.in_channels; i += W::kRows)
        for (int64_t j = 0; j < args.out_channels; j += kPanel) {
          const int64_t rows = std::min<int64_t>(W::kRows, args.in_channels - i);
          const int64_t width = std::min(kPanel, args.out_channels - j);
          const T* in = args.features + group * args.in_channels + i;
          const T* grad = args.grad + group * args.out_channels + j;
          with_tile<T, W>(rows, width, [&](auto count, auto vectors) MXD_INLINED {
            multiply_tile<T, W::kBytes, count, vectors>(
                [&](int r) MXD_INLINED { return out + (i + r) * args.out_channels + j; },
                Start::kAdd, nullptr,
                [&](const auto& add) MXD_INLINED {
                  for (int64_t tile = first; tile < last; tile++)
                    for (const Pair *pair = book.begin(tile, k), *end = book.end(tile, k);
                         pair < end; pair++) {
                      const T* a = in + pair->in * in_stride;
                      add([&](int r) MXD_INLINED { return a[r]; }, grad + pair->out * grad_stride);
                    }
                });
          });
        }
    }
  }
};

// [rows, groups * channels] -> [rows, groups * padded]; a copy only where padding is needed.
at::Tensor pad_channels(const at::Tensor& tensor, int64_t groups, int64_t channels,
                        int64_t padded_channels) {
  if (channels == padded_channels) return tensor.contiguous();
  return at::constant_pad_nd(tensor.reshape({-1, groups, channels}),
                             {0, padded_channels - channels})
      .reshape({-1, groups * padded_channels});
}

// [K, in, groups * out] -> [groups, K, panels, in, panel width]
template <typename T>
std::vector<T> pack_weight(const at::Tensor& weight, int64_t groups, int64_t padded_out,
                           int64_t panel) {
  const int64_t volume = weight.size(0), in = weight.size(1), out = weight.size(2) / groups;
  std::vector<T> packed(groups * volume * in * padded_out, T(0));
  const T* from = weight.const_data_ptr<T>();
  at::parallel_for(0, groups * volume, 8, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; unit++) {
      const int64_t group = unit / volume, k = unit % volume;
      T* to = packed.data() + unit * in * padded_out;
      for (int64_t column = 0; column < padded_out; column += panel) {
        const int64_t width = std::min(panel, padded_out - column);
        const int64_t filled = std::clamp<int64_t>(out - column, 0, width);
        for (int64_t i = 0; i < in; i++, to += width)
          std::copy_n(from + (k * in + i) * out * groups + group * out + column, filled, to);
      }
    }
  });
  return packed;
}

template <typename T>
at::Tensor forward_in(const at::Tensor& features, const at::Tensor& weight,
                      const c10::optional<at::Tensor>& bias, const at::Tensor& pairs,
                      const at::Tensor& bounds, int64_t num_out, int64_t groups) {
  const int64_t channels = weight.size(2) / groups, padded_channels = whole_vectors<T>(channels);
  auto out = cpu::empty_output({num_out, groups * padded_channels}, features.options());
  const auto packed = pack_weight<T>(weight, groups, padded_channels, cpu::panel_columns<T>());
  const at::Tensor padded_bias =
      bias ? pad_channels(bias->unsqueeze(0), groups, channels, padded_channels) : at::Tensor();
  const ForwardArgs<T> args{Rulebook(pairs, bounds),
                            features.const_data_ptr<T>(),
                            packed.data(),
                            bias ? padded_bias.const_data_ptr<T>() : nullptr,
                            out.mutable_data_ptr<T>(),
                            num_out,
                            groups,
                            weight.size(1),
                            padded_channels};
  for_each_unit(bounds.size(0),
                [&](int64_t tile, int64_t) { cpu::run_widest<ForwardTile<T>>(args, tile); });
  if (channels == padded_channels) return out;
  return out.view({num_out, groups, padded_channels})
      .narrow(2, 0, channels)
      .reshape({num_out, groups * channels})
      .contiguous();
}

at::Tensor forward_cpu(const at::Tensor& features, const at::Tensor& weight,
                       const c10::optional<at::Tensor>& bias, const at::Tensor& pairs,
                       const at::Tensor& bounds, int64_t num_out, int64_t groups,
                       const c10::optional<at::Tensor>& plan) {
  check_forward(features, weight, bias, pairs, bounds, num_out, groups, plan);
  const at::Tensor all_pairs = pairs.contiguous(), all_bounds = bounds.contiguous();
  check_rows(all_pairs, all_bounds, features.size(0), num_out);
  return cpu::with_compute_type(features,
                                [&](auto number, const auto& convert) {
                                  return forward_in<decltype(number)>(
                                      convert(features), convert(weight),
                                      bias ? c10::make_optional(convert(*bias)) : c10::nullopt,
                                      all_pairs, all_bounds, num_out, groups);
                                })
      .to(features.scalar_type());
}

template <typename T>
at::Tensor weight_grad_in(const at::Tensor& features, const at::Tensor& grad,
                          const at::Tensor& pairs, const at::Tensor& bounds, int64_t groups) {
  constexpr int64_t kTilesInSlab = 32, kMaxSlabs = 16, kMaxBytes = 64 << 20;
  const int64_t volume = bounds.size(1) - 1, in_channels = features.size(1) / groups;
  const int64_t channels = grad.size(1) / groups, padded_channels = whole_vectors<T>(channels);
  const int64_t slab_bytes = groups * volume * in_channels * padded_channels * sizeof(T);
  const int64_t most =
      std::clamp<int64_t>(kMaxBytes / std::max<int64_t>(slab_bytes, 1), 1, kMaxSlabs);
  const int64_t slabs = std::clamp<int64_t>(bounds.size(0) / kTilesInSlab, 1, most);
  auto parts = at::empty({slabs, groups, volume, in_channels, padded_channels}, features.options());
  const at::Tensor padded_grad = pad_channels(grad, groups, channels, padded_channels);
  const WeightGradArgs<T> args{Rulebook(pairs, bounds),
                               features.const_data_ptr<T>(),
                               padded_grad.const_data_ptr<T>(),
                               parts.mutable_data_ptr<T>(),
                               slabs,
                               groups,
                               in_channels,
                               padded_channels};
  for_each_unit(slabs * groups * volume,
                [&](int64_t unit, int64_t) { cpu::run_widest<WeightGradUnit<T>>(args, unit); });
  return parts.sum(0)
      .narrow(3, 0, channels)
      .permute({1, 2, 0, 3})
      .reshape({volume, in_channels, groups * channels})
      .contiguous();
}

at::Tensor weight_grad_cpu(const at::Tensor& features, const at::Tensor& grad,
                           const at::Tensor& pairs, const at::Tensor& bounds, int64_t groups) {
  check_weight_grad(features, grad, pairs, bounds, groups);
  const at::Tensor all_pairs = pairs.contiguous(), all_bounds = bounds.contiguous();
  check_rows(all_pairs, all_bounds, features.size(0), grad.size(0));
  return cpu::with_compute_type(features,
                                [&](auto number, const auto& convert) {
                                  return weight_grad_in<decltype(number)>(convert(features),
                                                                          convert(grad), all_pairs,
                                                                          all_bounds, groups);
                                })
      .to(features.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("sparse_conv", TORCH_FN(forward_cpu));
  m.impl("sparse_conv_weight_grad", TORCH_FN(weight_grad_cpu));
}

}  // namespace mxd::sparse_conv
