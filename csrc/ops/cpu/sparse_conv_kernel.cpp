// Sparse convolution on the CPU: implicit GEMM over the rulebook. Rows are read where they lie (no
// gather buffer) and accumulated in registers; a tile of output rows stays in the cache of the core
// that works on it. The order of every sum is fixed by the rulebook, so results do not depend on
// the number of threads.
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

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
using cpu::Simd;
using cpu::with_constant;

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

// out[r] (+)= in[r] @ weight for Rows rows and Vectors vectors of columns.
template <typename T, int Bytes, int Rows, int Vectors>
MXD_INLINE void multiply_rows(const T* const* in, T* const* out, const T* weight,
                              int64_t in_channels, bool first, const T* bias) {
  using V = Simd<T, Bytes>;
  typename V::Vec sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) {
      if (!first)
        sum[r][v] = V::load(out[r] + v * V::kLanes);
      else if (bias)
        sum[r][v] = V::load(bias + v * V::kLanes);
      else
        sum[r][v] = typename V::Vec{};
    }
  for (int64_t i = 0; i < in_channels; i++, weight += Vectors * V::kLanes) {
    typename V::Vec w[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) w[v] = V::load(weight + v * V::kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; v++) sum[r][v] += in[r][i] * w[v];
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) V::store(out[r] + v * V::kLanes, sum[r][v]);
}

template <typename T, typename W>
MXD_INLINE void forward_tile(const ForwardArgs<T>& args, int64_t tile) {
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
      auto run = [&](int64_t k, bool first) __attribute__((always_inline)) {
        const T* weight = args.weight +
                          (group * book.volume + k) * args.in_channels * args.out_channels +
                          args.in_channels * column;
        const Pair* pair = book.begin(tile, k);
        const Pair* const end = book.end(tile, k);
        const T* from[W::kRows];
        T* to[W::kRows];
        while (pair < end) {
          const int64_t count = std::min<int64_t>(W::kRows, end - pair);
          for (int64_t r = 0; r < count; r++, pair++) {
            from[r] = in + pair->in * in_stride;
            to[r] = out + pair->out * out_stride;
          }
          with_constant<W::kRows>(count, [&](auto r) __attribute__((always_inline)) {
            with_constant<W::kVectors>(width / kLanes, [&](auto v) __attribute__((always_inline)) {
              multiply_rows<T, W::kBytes, r, v>(from, to, weight, args.in_channels, first, bias);
            });
          });
        }
      };
      if (whole >= 0) {
        run(whole, true);
      } else {
        for (int64_t row = tile * kTileRows; row < tile * kTileRows + rows; row++)
          for (int64_t j = 0; j < width; j++) out[row * out_stride + j] = bias ? bias[j] : T(0);
      }
      for (int64_t k = 0; k < book.volume; k++)
        if (k != whole) run(k, false);
    }
}

// out [Rows, Vectors] += sum over the pairs of offset k in the tiles [first, last) of in[:Rows]^T
// grad[:Vectors].
template <typename T, int Bytes, int Rows, int Vectors>
MXD_INLINE void outer_products(const Rulebook& book, int64_t first, int64_t last, int64_t k,
                               const T* in, int64_t in_stride, const T* grad, int64_t grad_stride,
                               T* out, int64_t out_stride) {
  using V = Simd<T, Bytes>;
  typename V::Vec sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) sum[r][v] = V::load(out + r * out_stride + v * V::kLanes);
  for (int64_t tile = first; tile < last; tile++)
    for (const Pair *pair = book.begin(tile, k), *end = book.end(tile, k); pair < end; pair++) {
      const T* a = in + pair->in * in_stride;
      const T* b = grad + pair->out * grad_stride;
      typename V::Vec g[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; v++) g[v] = V::load(b + v * V::kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; v++) sum[r][v] += a[r] * g[v];
    }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) V::store(out + r * out_stride + v * V::kLanes, sum[r][v]);
}

// One unit is the gradient of one kernel point of one group from one slab of the tiles.
template <typename T, typename W>
MXD_INLINE void weight_grad_unit(const WeightGradArgs<T>& args, int64_t unit) {
  constexpr int64_t kLanes = Simd<T, W::kBytes>::kLanes, kPanel = W::kVectors * kLanes;
  constexpr int64_t kPairsInCache = 1024;
  const Rulebook& book = args.rulebook;
  const int64_t k = unit % book.volume, group = unit / book.volume % args.groups;
  const int64_t slab = unit / book.volume / args.groups;
  const int64_t slab_begin = slab * book.tiles / args.slabs;
  const int64_t slab_end = (slab + 1) * book.tiles / args.slabs;
  T* out = args.out + unit * args.in_channels * args.out_channels;
  std::memset(out, 0, args.in_channels * args.out_channels * sizeof(T));

  for (int64_t first = slab_begin, last; first < slab_end; first = last) {
    int64_t pairs = 0;
    for (last = first; last < slab_end && pairs < kPairsInCache; last++)
      pairs += book.end(last, k) - book.begin(last, k);
    if (!pairs) continue;
    for (int64_t i = 0; i < args.in_channels; i += W::kRows)
      for (int64_t j = 0; j < args.out_channels; j += kPanel) {
        const int64_t rows = std::min<int64_t>(W::kRows, args.in_channels - i);
        const int64_t width = std::min(kPanel, args.out_channels - j);
        with_constant<W::kRows>(rows, [&](auto r) __attribute__((always_inline)) {
          with_constant<W::kVectors>(width / kLanes, [&](auto v) __attribute__((always_inline)) {
            outer_products<T, W::kBytes, r, v>(
                book, first, last, k, args.features + group * args.in_channels + i,
                args.groups * args.in_channels, args.grad + group * args.out_channels + j,
                args.groups * args.out_channels, out + i * args.out_channels + j,
                args.out_channels);
          });
        });
      }
  }
}

// One set of kernels for each vector width; the compiler makes the code of each for its own
// processor.
template <typename T>
struct Kernels {
  void (*forward)(const ForwardArgs<T>&, int64_t tile);
  void (*weight_grad)(const WeightGradArgs<T>&, int64_t unit);
  int64_t panel;  // columns of a weight panel
};

#define MXD_KERNELS(W, TARGET)                                                               \
  template <typename T>                                                                      \
  struct KernelsOf##W {                                                                      \
    TARGET static void forward(const ForwardArgs<T>& args, int64_t tile) {                   \
      forward_tile<T, cpu::W>(args, tile);                                                   \
    }                                                                                        \
    TARGET static void weight_grad(const WeightGradArgs<T>& args, int64_t unit) {            \
      weight_grad_unit<T, cpu::W>(args, unit);                                               \
    }                                                                                        \
    static constexpr Kernels<T> kernels{&forward, &weight_grad,                              \
                                        cpu::W::kVectors * Simd<T, cpu::W::kBytes>::kLanes}; \
  };

MXD_EVERY_WIDTH(MXD_KERNELS)

// Channels of a group rounded up to whole vectors, so that the kernels need no tail.
template <typename T>
int64_t padded(int64_t channels) {
  constexpr int64_t lanes = cpu::kMaxVectorBytes / sizeof(T);
  return (channels + lanes - 1) / lanes * lanes;
}

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
  const int64_t channels = weight.size(2) / groups, padded_channels = padded<T>(channels);
  auto out = cpu::empty_output({num_out, groups * padded_channels}, features.options());
  const auto packed = pack_weight<T>(weight, groups, padded_channels, kernels<T>().panel);
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
  for_each_unit(bounds.size(0), [&](int64_t tile, int64_t) { kernels<T>().forward(args, tile); });
  if (channels == padded_channels) return out;
  return out.view({num_out, groups, padded_channels})
      .narrow(2, 0, channels)
      .reshape({num_out, groups * channels})
      .contiguous();
}

at::Tensor forward_cpu(const at::Tensor& features, const at::Tensor& weight,
                       const c10::optional<at::Tensor>& bias, const at::Tensor& pairs,
                       const at::Tensor& bounds, int64_t num_out, int64_t groups) {
  check_forward(features, weight, bias, pairs, bounds, num_out, groups);
  const at::Tensor all_pairs = pairs.contiguous(), all_bounds = bounds.contiguous();
  check_rows(all_pairs, all_bounds, features.size(0), num_out);
  const auto type = cpu::compute_type(features.scalar_type());
  auto prepare = [&](const at::Tensor& tensor) { return tensor.to(type).contiguous(); };
  const auto run = type == at::kDouble ? &forward_in<double> : &forward_in<float>;
  return run(prepare(features), prepare(weight),
             bias ? c10::make_optional(prepare(*bias)) : c10::nullopt, all_pairs, all_bounds,
             num_out, groups)
      .to(features.scalar_type());
}

template <typename T>
at::Tensor weight_grad_in(const at::Tensor& features, const at::Tensor& grad,
                          const at::Tensor& pairs, const at::Tensor& bounds, int64_t groups) {
  constexpr int64_t kTilesInSlab = 32, kMaxSlabs = 16, kMaxBytes = 64 << 20;
  const int64_t volume = bounds.size(1) - 1, in_channels = features.size(1) / groups;
  const int64_t channels = grad.size(1) / groups, padded_channels = padded<T>(channels);
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
                [&](int64_t unit, int64_t) { kernels<T>().weight_grad(args, unit); });
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
  const auto type = cpu::compute_type(features.scalar_type());
  const auto run = type == at::kDouble ? &weight_grad_in<double> : &weight_grad_in<float>;
  return run(features.to(type).contiguous(), grad.to(type).contiguous(), all_pairs, all_bounds,
             groups)
      .to(features.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("sparse_conv", TORCH_FN(forward_cpu));
  m.impl("sparse_conv_weight_grad", TORCH_FN(weight_grad_cpu));
}

}  // namespace mxd::sparse_conv
