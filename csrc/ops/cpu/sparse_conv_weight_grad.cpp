// Gradient of a sparse convolution's weight on the CPU: for every kernel offset the product of the
// pairs' inputs, turned, and output gradients. The rows of some pairs are packed side by side, so
// that they lie in a core's first cache; short ones are read where they are.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <vector>

#include "../sparse_conv.h"
#include "amx.h"
#include "gemm.h"
#include "memory.h"
#include "parallel.h"
#include "rulebook.h"
#include "sparse_conv_layout.h"

namespace mxd::sparse_conv {
namespace {

using cpu::BFloat16Pair;
using cpu::kNumbers;
using cpu::number_t;
using cpu::Simd;
using cpu::sum_t;

template <typename T>
struct WeightGradArgs {
  Rulebook rulebook;
  const number_t<T>* features;  // [rows, groups * in_channels]
  const number_t<T>* grad;      // [num_out, groups * out_channels]
  sum_t<T>* out;                // [slabs, groups, K, in_channels, padded_channels]
  int64_t slabs, groups, in_channels, out_channels, padded_channels;  // channels of one group
};

// Sums of outer products of rows, in vectors.
template <typename T>
class VectorProduct {
 public:
  static constexpr int64_t kRows = 64 * kNumbers<T>;  // packed at a time

  explicit VectorProduct(const WeightGradArgs<T>& args)
      : args_(args),
        left_(kRows / kNumbers<T> * args.in_channels),
        right_(kRows / kNumbers<T> * args.padded_channels) {}

  // out [in_channels, padded_channels] += the products of `count` pairs of rows.
  template <typename W>
  MXD_INLINE void add(const number_t<T>** left, const number_t<T>** right, int64_t count,
                      sum_t<T>* out) {
    constexpr int64_t kPanel = W::kVectors * Simd<T, W::kBytes>::kLanes;
    const int64_t steps = (count + kNumbers<T> - 1) / kNumbers<T>;
    pack_rows<W>(left, count, args_.in_channels, left_.data(), args_.in_channels);
    pack_rows<W>(right, count, args_.out_channels, right_.data(), args_.padded_channels);
    for (int64_t j = 0; j < args_.padded_channels; j += kPanel)
      cpu::multiply_panel<T, W>({left_.data(), 1, args_.in_channels, steps}, args_.in_channels,
                                right_.data() + j, args_.padded_channels,
                                std::min(kPanel, args_.padded_channels - j), out + j,
                                args_.padded_channels, cpu::Start::kAdd);
  }

 private:
  // Packs rows of `channels` numbers, kNumbers<T> of them to a row of T.
  template <typename W>
  static MXD_INLINE void pack_rows(const number_t<T>* const* rows, int64_t count, int64_t channels,
                                   T* to, int64_t pitch) {
    if constexpr (kNumbers<T> == 1) {
      using V = Simd<T, W::kBytes>;
      for (int64_t row = 0; row < count; row++, to += pitch) {
        int64_t c = 0;
        for (; c + V::kLanes <= channels; c += V::kLanes) V::store(to + c, V::load(rows[row] + c));
        for (; c < channels; c++) to[c] = rows[row][c];
      }
    } else {
      for (int64_t row = 0; row < count; row += 2, to += pitch) {
        const number_t<T>*first = rows[row], *second = rows[std::min(row + 1, count - 1)];
        const uint16_t there = row + 1 < count ? 0xffff : 0;
        for (int64_t c = 0; c < channels; c++)
          to[c] = {first[c], static_cast<uint16_t>(second[c] & there)};
      }
    }
  }

  const WeightGradArgs<T>& args_;
  cpu::LineVector<T> left_, right_;
};

#ifdef MXD_HAS_AMX
// The same with AMX; numbers of channels are whole blocks of tiles.
class AmxProduct {
 public:
  static constexpr int64_t kRows = 128;

  explicit AmxProduct(const WeightGradArgs<BFloat16Pair>& args)
      : args_(args),
        left_(kRows / 2 * args.in_channels),
        right_(kRows / 2 * args.out_channels),
        zeros_(std::max(args.in_channels, args.out_channels)) {}

  template <typename W>
  MXD_INLINE void add(const uint16_t** left, const uint16_t** right, int64_t count, float* out) {
    using cpu::amx::kSide;
    const int64_t steps = (count + kStep - 1) / kStep;
    const int64_t left_step = kSide * args_.in_channels, right_step = kSide * args_.out_channels;
    std::fill(left + count, left + steps * kStep, zeros_.data());
    std::fill(right + count, right + steps * kStep, zeros_.data());
    for (int64_t i = 0; i < steps; i++) {
      cpu::amx::pack_left(left + i * kStep, args_.in_channels, left_.data() + i * left_step);
      cpu::amx::pack_right(right + i * kStep, args_.out_channels, right_.data() + i * right_step);
    }
    cpu::amx::for_each_block(args_.in_channels, args_.out_channels,
                             [&](int64_t i, int64_t j, auto rows, auto columns) MXD_INLINED {
                               cpu::amx::multiply<rows, columns>(
                                   steps,
                                   {left_.data() + kSide * i, kSide, left_step, kSide * kSide},
                                   {right_.data() + kSide * j, kSide, right_step, kSide * kSide},
                                   true, out + i * args_.out_channels + j, args_.out_channels);
                             });
  }

 private:
  static constexpr int64_t kStep = 2 * cpu::amx::kSide;  // rows of a tile's depth

  const WeightGradArgs<BFloat16Pair>& args_;
  const cpu::amx::Tiles tiles_{cpu::amx::kSide};
  cpu::LineVector<BFloat16Pair> left_, right_;
  std::vector<uint16_t> zeros_;
};
#endif

// One unit is the gradient of one kernel point of one group from one slab of the tiles.
template <typename T, typename Product>
struct WeightGradUnit {
  template <typename W>
  static MXD_INLINE void run(const WeightGradArgs<T>& args, int64_t unit) {
    const Rulebook& book = args.rulebook;
    const int64_t k = unit % book.volume, group = unit / book.volume % args.groups;
    const int64_t slab = unit / book.volume / args.groups;
    const int64_t slab_begin = slab * book.tiles / args.slabs;
    const int64_t slab_end = (slab + 1) * book.tiles / args.slabs;
    sum_t<T>* out = args.out + unit * args.in_channels * args.padded_channels;
    std::fill_n(out, args.in_channels * args.padded_channels, sum_t<T>(0));

    const number_t<T>* in = args.features + group * args.in_channels;
    const number_t<T>* grad = args.grad + group * args.out_channels;
    if constexpr (kNumbers<T> == 1) {
      if (args.in_channels <= 3 * W::kRows && args.out_channels > 0 &&
          args.padded_channels == args.out_channels &&
          args.padded_channels <= W::kVectors * Simd<T, W::kBytes>::kLanes)
        return add_short_rows<W>(args, k, slab_begin, slab_end, in, grad, out);
    }
    std::array<const number_t<T>*, Product::kRows> left, right;
    Product product(args);
    int64_t filled = 0;
    const auto add = [&]() MXD_INLINED {
      product.template add<W>(left.data(), right.data(), filled, out);
      filled = 0;
    };
    for (int64_t tile = slab_begin; tile < slab_end; tile++)
      for (const Pair *pair = book.begin(tile, k), *end = book.end(tile, k); pair < end; pair++) {
        left[filled] = in + pair->in * args.groups * args.in_channels;
        right[filled] = grad + pair->out * args.groups * args.out_channels;
        __builtin_prefetch(left[filled]);
        __builtin_prefetch(right[filled]);
        if (++filled == Product::kRows) add();
      }
    if (filled > 0) add();
  }

 private:
  // The products of rows so short that to list and pack them would take as long as the products.
  template <typename W>
  static MXD_INLINE void add_short_rows(const WeightGradArgs<T>& args, int64_t k, int64_t tile,
                                        int64_t end, const T* in, const T* grad, T* out) {
    constexpr int64_t kPairsInCache = 1024;
    const Rulebook& book = args.rulebook;
    const int64_t columns = args.padded_channels;
    const int64_t in_stride = args.groups * args.in_channels, grad_stride = args.groups * columns;
    for (int64_t next; tile < end; tile = next) {
      int64_t pairs = 0;
      for (next = tile; next < end && pairs < kPairsInCache; next++)
        pairs += book.end(next, k) - book.begin(next, k);
      if (pairs == 0) continue;
      for (int64_t i = 0; i < args.in_channels; i += W::kRows)
        cpu::with_tile<T, W>(std::min<int64_t>(W::kRows, args.in_channels - i), columns,
                             [&](auto rows, auto vectors) MXD_INLINED {
                               cpu::multiply_tile<T, W::kBytes, rows, vectors>(
                                   [&](int r) MXD_INLINED { return out + (i + r) * columns; },
                                   cpu::Start::kAdd, nullptr,
                                   [&](const auto& add) MXD_INLINED {
                                     for (int64_t t = tile; t < next; t++)
                                       for (const Pair *pair = book.begin(t, k),
                                                       *last = book.end(t, k);
                                            pair < last; pair++) {
                                         const T* left = in + pair->in * in_stride + i;
                                         add([&](int r) MXD_INLINED { return left[r]; },
                                             grad + pair->out * grad_stride);
                                       }
                                   });
                             });
    }
  }
};

// features and grad hold number_t<T>, the result sum_t<T>.
template <typename T>
at::Tensor weight_grad_in(at::Tensor features, at::Tensor grad, const Rulebook& rulebook,
                          int64_t groups) {
  constexpr int64_t kTilesInSlab = 32, kMaxSlabs = 16, kMaxBytes = 64 << 20;
  const int64_t volume = rulebook.volume, channels = grad.size(1) / groups;
  const int64_t in_channels = features.size(1) / groups;
  const bool amx = kNumbers<T> == 2 && cpu::amx::is_used(in_channels, channels);
  if (amx) {
    features = pad_channels(features, groups, in_channels, cpu::amx::whole_blocks(in_channels));
    grad = pad_channels(grad, groups, channels, cpu::amx::whole_blocks(channels));
  }
  const int64_t padded_channels = cpu::whole_vectors<T>(grad.size(1) / groups);
  const int64_t rows = features.size(1) / groups;
  const int64_t slab_bytes = groups * volume * rows * padded_channels * sizeof(T);
  const int64_t most =
      std::clamp<int64_t>(kMaxBytes / std::max<int64_t>(slab_bytes, 1), 1, kMaxSlabs);
  const int64_t slabs = std::clamp<int64_t>(rulebook.tiles / kTilesInSlab, 1, most);
  const auto options = features.options().dtype(c10::CppTypeToScalarType<sum_t<T>>());
  auto parts = at::empty({slabs, groups, volume, rows, padded_channels}, options);
  const WeightGradArgs<T> args{rulebook,
                               static_cast<const number_t<T>*>(features.const_data_ptr()),
                               static_cast<const number_t<T>*>(grad.const_data_ptr()),
                               parts.template mutable_data_ptr<sum_t<T>>(),
                               slabs,
                               groups,
                               rows,
                               grad.size(1) / groups,
                               padded_channels};
  cpu::for_each_unit(slabs * groups * volume, [&](int64_t unit, int64_t) {
#ifdef MXD_HAS_AMX
    if constexpr (kNumbers<T> == 2)
      if (amx) return cpu::run_products<T, WeightGradUnit<T, AmxProduct>>(args, unit);
#endif
    cpu::run_products<T, WeightGradUnit<T, VectorProduct<T>>>(args, unit);
  });
  return parts.sum(0)
      .narrow(2, 0, in_channels)
      .narrow(3, 0, channels)
      .permute({1, 2, 0, 3})
      .reshape({volume, in_channels, groups * channels})
      .contiguous();
}

at::Tensor weight_grad_cpu(const at::Tensor& features, const at::Tensor& grad,
                           const at::Tensor& pairs, const at::Tensor& bounds, int64_t groups,
                           const c10::optional<at::Tensor>& plan) {
  check_weight_grad(features, grad, pairs, bounds, groups, plan);
  const CheckedRulebook rulebook(pairs, bounds, features.size(0), grad.size(0));
  return cpu::with_product_type(features,
                                [&](auto number, const auto& convert, const auto&) {
                                  return weight_grad_in<decltype(number)>(
                                      convert(features), convert(grad), rulebook.view(), groups);
                                })
      .to(features.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) { m.impl("sparse_conv_weight_grad", TORCH_FN(weight_grad_cpu)); }

}  // namespace mxd::sparse_conv
