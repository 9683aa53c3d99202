// Sparse convolution on the CPU: implicit GEMM over the rulebook. Rows are read where they lie (no
// gather buffer) and accumulated in registers; a tile of output rows stays in the cache of the core
// that works on it. The order of every sum is fixed by the rulebook, so results do not depend on
// the number of threads.
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../sparse_conv.h"
#include "amx.h"
#include "gemm.h"
#include "memory.h"
#include "parallel.h"
#include "rows.h"
#include "rulebook.h"
#include "simd.h"
#include "sparse_conv_layout.h"

namespace mxd::sparse_conv {
namespace {

using cpu::BFloat16Pair;
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

  int64_t rows(int64_t tile) const { return std::min(kTileRows, num_out - tile * kTileRows); }
};

template <typename T>
struct ForwardTile {
  template <typename W>
  static MXD_INLINE void run(const ForwardArgs<T>& args, int64_t tile) {
    constexpr int64_t kLanes = Simd<T, W::kBytes>::kLanes, kPanel = W::kVectors * kLanes;
    const Rulebook& book = args.rulebook;
    const int64_t in_stride = args.groups * args.in_channels;
    const int64_t out_stride = args.groups * args.out_channels;
    const int64_t rows = args.rows(tile);
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

#ifdef MXD_HAS_AMX
// The same with AMX. The rows of some pairs are gathered, and their products are added to the rows
// of the output.
struct ForwardTileAmx {
  template <typename W>
  static MXD_INLINE void run(const ForwardArgs<BFloat16Pair>& args, int64_t tile) {
    using cpu::amx::kBlock;
    using cpu::amx::kSide;
    const Rulebook& book = args.rulebook;
    const cpu::amx::Depth depth(args.in_channels);
    const cpu::amx::Tiles tiles(depth.pairs);
    const int64_t in_stride = args.groups * args.in_channels;
    const int64_t out_stride = args.groups * args.out_channels;
    const int64_t rows = args.rows(tile);
    const int64_t whole = book.whole_offset(tile, rows);
    const Pair* const stop = book.end(tile, book.volume - 1);
    cpu::LineVector<BFloat16Pair> left(kBlock * depth.padded());
    cpu::LineVector<float> product(kBlock * args.out_channels);

    for (int64_t group = 0; group < args.groups; group++) {
      const BFloat16Pair* in = args.features + group * args.in_channels;
      float* out = args.out + group * args.out_channels;
      const float* bias = args.bias ? args.bias + group * args.out_channels : nullptr;
      const auto run = [&](int64_t k, Start start) MXD_INLINED {
        const BFloat16Pair* weight =
            args.weight + (group * book.volume + k) * depth.padded() * args.out_channels;
        const Pair* const end = book.end(tile, k);
        for (const Pair* pair = book.begin(tile, k); pair < end; pair += kBlock) {
          const int64_t count = std::min<int64_t>(kBlock, end - pair);
          for (int64_t r = 0; r < count; r++) {
            copy_row<W>(in + pair[r].in * in_stride, args.in_channels,
                        left.data() + r * depth.padded());
            const Pair& next = pair[std::min<int64_t>(r + kBlock, stop - 1 - pair)];
            cpu::prefetch_row(in + next.in * in_stride, args.in_channels);
          }
          cpu::amx::for_each_block(
              count, args.out_channels,
              [&](int64_t, int64_t column, auto row_tiles, auto columns) MXD_INLINED {
                const int64_t width = columns * kSide;
                cpu::amx::multiply<row_tiles, columns>(
                    depth.steps, {left.data(), depth.padded(), depth.pairs, kSide * depth.padded()},
                    {weight + column * depth.padded(), width, depth.pairs * width, kSide}, false,
                    product.data() + column, args.out_channels);
              });
          for (int64_t r = 0; r < count; r++)
            add_row<W>(product.data() + r * args.out_channels, args.out_channels, start, bias,
                       out + pair[r].out * out_stride);
        }
      };
      if (whole >= 0)
        run(whole, bias ? Start::kBias : Start::kZero);
      else
        for (int64_t row = tile * kTileRows; row < tile * kTileRows + rows; row++)
          for (int64_t j = 0; j < args.out_channels; j++)
            out[row * out_stride + j] = bias ? bias[j] : 0;
      for (int64_t k = 0; k < book.volume; k++)
        if (k != whole) run(k, Start::kAdd);
    }
  }

 private:
  template <typename W>
  static MXD_INLINE void copy_row(const BFloat16Pair* from, int64_t count, BFloat16Pair* to) {
    using V = Simd<BFloat16Pair, W::kBytes>;
    int64_t i = 0;
    for (; i + V::kLanes <= count; i += V::kLanes) V::store(to + i, V::load(from + i));
    for (; i < count; i++) to[i] = from[i];
  }
  template <typename W>
  static MXD_INLINE void add_row(const float* row, int64_t count, Start start, const float* bias,
                                 float* out) {
    using V = Simd<float, W::kBytes>;
    for (int64_t i = 0; i < count; i += V::kLanes) {
      auto sum = V::load(row + i);
      if (start == Start::kAdd) sum += V::load(out + i);
      if (start == Start::kBias) sum += V::load(bias + i);
      V::store(out + i, sum);
    }
  }
};
#endif

// Rounds the sums of a tile, while they are in the cache, and leaves their padding out.
struct RoundTile {
  template <typename W>
  static MXD_INLINE void run(const ForwardArgs<BFloat16Pair>& args, int64_t tile, int64_t channels,
                             uint16_t* to) {
    const int64_t rows = args.rows(tile), whole = args.rulebook.whole_offset(tile, rows);
    for (int64_t r = 0; r < rows; r++) {
      const int64_t row =
          whole < 0 ? tile * kTileRows + r : args.rulebook.begin(tile, whole)[r].out;
      for (int64_t at = row * args.groups; at < (row + 1) * args.groups; at++)
        for (int64_t c = 0; c < channels; c++)
          to[at * channels + c] = cpu::round_to_bfloat16(args.out[at * args.out_channels + c]);
    }
  }
};

// features and weight hold number_t<T>, as the result does, bias holds sum_t<T>.
template <typename T>
at::Tensor forward_in(const at::Tensor& features, const at::Tensor& weight,
                      const c10::optional<at::Tensor>& bias, const Rulebook& rulebook,
                      int64_t num_out, int64_t groups) {
  constexpr bool kRounded = !std::is_same_v<number_t<T>, sum_t<T>>;
  const int64_t channels = weight.size(2) / groups, padded_channels = whole_vectors<T>(channels);
  const int64_t in_channels = weight.size(1);
  const int64_t depth = (in_channels + kNumbers<T> - 1) / kNumbers<T>;
  const bool amx = kRounded && cpu::amx::is_used(in_channels, channels);
  const at::Tensor padded_features =
      pad_channels(features, groups, in_channels, depth * kNumbers<T>);
  const auto packed =
      pack_weight<T>(weight, groups, amx ? cpu::amx::Depth(depth).padded() : depth, padded_channels,
                     amx ? cpu::amx::kBlock : cpu::panel_columns<T>());
  const at::Tensor padded_bias =
      bias ? pad_channels(bias->unsqueeze(0), groups, channels, padded_channels) : at::Tensor();
  const auto options = features.options().dtype(c10::CppTypeToScalarType<sum_t<T>>());
  auto out = cpu::empty_output({num_out, groups * padded_channels}, options);
  const ForwardArgs<T> args{rulebook,
                            static_cast<const T*>(padded_features.const_data_ptr()),
                            packed.data(),
                            bias ? padded_bias.const_data_ptr<sum_t<T>>() : nullptr,
                            out.template mutable_data_ptr<sum_t<T>>(),
                            num_out,
                            groups,
                            depth,
                            padded_channels};
  if constexpr (kRounded) {
    auto rounded = cpu::empty_output({num_out, groups * channels}, features.options());
    auto* to = static_cast<number_t<T>*>(rounded.mutable_data_ptr());
    cpu::for_each_unit(rulebook.tiles, [&](int64_t tile, int64_t) {
#ifdef MXD_HAS_AMX
      if (amx)
        cpu::run_products<T, ForwardTileAmx>(args, tile);
      else
#endif
        cpu::run_products<T, ForwardTile<T>>(args, tile);
      cpu::run_products<T, RoundTile>(args, tile, channels, to);
    });
    return rounded;
  } else {
    cpu::for_each_unit(rulebook.tiles, [&](int64_t tile, int64_t) {
      cpu::run_products<T, ForwardTile<T>>(args, tile);
    });
    if (channels == padded_channels) return out;
    return out.view({num_out, groups, padded_channels})
        .narrow(2, 0, channels)
        .reshape({num_out, groups * channels})
        .contiguous();
  }
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
                    const at::Tensor& bounds, int64_t num_out, int64_t groups, bool in_order) {
  check_plan(features, weight, pairs, bounds, num_out, groups, in_order);
  return at::empty({0}, pairs.options());
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("sparse_conv", TORCH_FN(forward_cpu));
  m.impl("sparse_conv_plan", TORCH_FN(plan_cpu));
}

}  // namespace mxd::sparse_conv
