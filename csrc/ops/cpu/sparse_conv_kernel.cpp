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
#include "gemm.h"
#include "memory.h"
#include "parallel.h"
#include "rulebook.h"
#include "simd.h"

namespace mxd::sparse_conv {
namespace {

using cpu::kNumbers;
using cpu::multiply_tile;
using cpu::number_t;
using cpu::Simd;
using cpu::Start;
using cpu::sum_t;
using cpu::whole_vectors;
using cpu::with_tile;

template <typename T>
struct ForwardArgs {
  Rulebook rulebook;
  const T* features;     // [rows, groups * in_channels]
  const T* weight;       // packed: [groups, K, panels, in_channels, panel width]
  const sum_t<T>* bias;  // [groups * out_channels] or null
  sum_t<T>* out;         // [num_out, groups * out_channels]
  int64_t num_out, groups, in_channels, out_channels;  // channels of one group; out_channels padded
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
        sum_t<T>* out = args.out + group * args.out_channels + column;
        const sum_t<T>* bias = args.bias ? args.bias + group * args.out_channels + column : nullptr;
        auto run = [&](int64_t k, Start start) MXD_INLINED {
          const T* weight = args.weight +
                            (group * book.volume + k) * args.in_channels * args.out_channels +
                            args.in_channels * column;
          const Pair* pair = book.begin(tile, k);
          const Pair* const end = book.end(tile, k);
          for (int64_t count; pair < end; pair += count) {
            count = std::min<int64_t>(W::kRows, end - pair);
            constexpr int64_t kPairsAhead = 2 * W::kRows;  // whose rows are fetched into the cache
            const T* from[W::kRows];
            sum_t<T>* to[W::kRows];
            for (int64_t r = 0; r < count; r++) {
              from[r] = in + pair[r].in * in_stride;
              to[r] = out + pair[r].out * out_stride;
              __builtin_prefetch(in +
                                 pair[std::min(r + kPairsAhead, end - pair - 1)].in * in_stride);
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
            for (int64_t j = 0; j < width; j++) out[row * out_stride + j] = bias ? bias[j] : 0;
        }
        for (int64_t k = 0; k < book.volume; k++)
          if (k != whole) run(k, Start::kAdd);
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

// [K, in, groups * out] -> [groups, K, panels, in, panel width]. A T is kNumbers<T> inputs.
template <typename T>
std::vector<T> pack_weight(const at::Tensor& weight, int64_t groups, int64_t padded_out,
                           int64_t panel) {
  using Number = number_t<T>;
  constexpr int64_t kStep = kNumbers<T>;
  const int64_t volume = weight.size(0), in = weight.size(1), out = weight.size(2) / groups;
  const int64_t depth = (in + kStep - 1) / kStep;
  std::vector<T> packed(groups * volume * depth * padded_out, T{});
  const auto* from = static_cast<const Number*>(weight.const_data_ptr());
  at::parallel_for(0, groups * volume, 8, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; unit++) {
      const int64_t group = unit / volume, k = unit % volume;
      auto* to = reinterpret_cast<Number*>(packed.data() + unit * depth * padded_out);
      for (int64_t column = 0; column < padded_out; column += panel) {
        const int64_t width = std::min(panel, padded_out - column);
        const int64_t filled = std::clamp<int64_t>(out - column, 0, width);
        for (int64_t i = 0; i < in; i++) {
          const Number* row = from + (k * in + i) * out * groups + group * out + column;
          Number* into = to + i / kStep * width * kStep + i % kStep;
          for (int64_t j = 0; j < filled; j++) into[j * kStep] = row[j];
        }
        to += depth * width * kStep;
      }
    }
  });
  return packed;
}

// features and weight hold number_t<T>, bias and the result sum_t<T>.
template <typename T>
at::Tensor forward_in(const at::Tensor& features, const at::Tensor& weight,
                      const c10::optional<at::Tensor>& bias, const Rulebook& rulebook,
                      int64_t num_out, int64_t groups) {
  const int64_t channels = weight.size(2) / groups, padded_channels = whole_vectors<T>(channels);
  const int64_t in_channels = weight.size(1);
  const int64_t depth = (in_channels + kNumbers<T> - 1) / kNumbers<T>;
  const at::Tensor padded_features =
      pad_channels(features, groups, in_channels, depth * kNumbers<T>);
  const auto options = features.options().dtype(c10::CppTypeToScalarType<sum_t<T>>());
  auto out = cpu::empty_output({num_out, groups * padded_channels}, options);
  const auto packed = pack_weight<T>(weight, groups, padded_channels, cpu::panel_columns<T>());
  const at::Tensor padded_bias =
      bias ? pad_channels(bias->unsqueeze(0), groups, channels, padded_channels) : at::Tensor();
  const ForwardArgs<T> args{rulebook,
                            static_cast<const T*>(padded_features.const_data_ptr()),
                            packed.data(),
                            bias ? padded_bias.const_data_ptr<sum_t<T>>() : nullptr,
                            out.template mutable_data_ptr<sum_t<T>>(),
                            num_out,
                            groups,
                            depth,
                            padded_channels};
  cpu::for_each_unit(rulebook.tiles, [&](int64_t tile, int64_t) {
    cpu::run_products<T, ForwardTile<T>>(args, tile);
  });
  if (channels == padded_channels) return out;
  return out.view({num_out, groups, padded_channels})
      .narrow(2, 0, channels)
      .reshape({num_out, groups * channels})
      .contiguous();
}

at::Tensor forward_cpu(const at::Tensor& features, const at::Tensor& weight,
                       const c10::optional<at::Tensor>& bias, const at::Tensor& pairs,
                       const at::Tensor& bounds, int64_t num_out, int64_t groups,
                       const c10::optional<at::Tensor>& plan) {  // of NPUs, only checked here
  check_forward(features, weight, bias, pairs, bounds, num_out, groups, plan);
  const CheckedRulebook rulebook(pairs, bounds, features.size(0), num_out);
  return cpu::with_product_type(features,
                                [&](auto number, const auto& convert, const auto& widen) {
                                  return forward_in<decltype(number)>(
                                      convert(features), convert(weight),
                                      bias ? c10::make_optional(widen(*bias)) : c10::nullopt,
                                      rulebook.view(), num_out, groups);
                                })
      .to(features.scalar_type());
}

// Sums stay in the cache as it is.
at::Tensor plan_cpu(const at::Tensor& features, const at::Tensor& weight, const at::Tensor& pairs,
                    const at::Tensor& bounds, int64_t num_out, int64_t groups) {
  check_plan(features, weight, pairs, bounds, num_out, groups);
  return at::empty({0}, pairs.options());
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("sparse_conv", TORCH_FN(forward_cpu));
  m.impl("sparse_conv_plan", TORCH_FN(plan_cpu));
}

}  // namespace mxd::sparse_conv
