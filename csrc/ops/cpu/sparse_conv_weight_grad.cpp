// Gradient of a sparse convolution's weight on the CPU: for every kernel offset the product of the
// pairs' inputs, turned, and output gradients. The rows of some pairs are packed side by side, so
// that they lie in a core's first cache.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <vector>

#include "../sparse_conv.h"
#include "gemm.h"
#include "parallel.h"
#include "rulebook.h"

namespace mxd::sparse_conv {
namespace {

using cpu::kNumbers;
using cpu::number_t;
using cpu::Simd;
using cpu::sum_t;

constexpr int64_t kSteps = 64;  // of a product's depth, packed at a time

template <typename T>
struct WeightGradArgs {
  Rulebook rulebook;
  const number_t<T>* features;  // [rows, groups * in_channels]
  const number_t<T>* grad;      // [num_out, groups * out_channels]
  sum_t<T>* out;                // [slabs, groups, K, in_channels, padded_channels]
  int64_t slabs, groups, in_channels, out_channels, padded_channels;  // channels of one group
};

// Packs rows of `channels` numbers, kNumbers<T> of them to a row of T.
template <typename T, typename W>
MXD_INLINE void pack_rows(const number_t<T>* const* rows, int64_t count, int64_t channels, T* to,
                          int64_t pitch) {
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

// One unit is the gradient of one kernel point of one group from one slab of the tiles.
template <typename T>
struct WeightGradUnit {
  template <typename W>
  static MXD_INLINE void run(const WeightGradArgs<T>& args, int64_t unit) {
    constexpr int64_t kRows = kSteps * kNumbers<T>;
    const Rulebook& book = args.rulebook;
    const int64_t k = unit % book.volume, group = unit / book.volume % args.groups;
    const int64_t slab = unit / book.volume / args.groups;
    const int64_t slab_begin = slab * book.tiles / args.slabs;
    const int64_t slab_end = (slab + 1) * book.tiles / args.slabs;
    sum_t<T>* out = args.out + unit * args.in_channels * args.padded_channels;
    std::fill_n(out, args.in_channels * args.padded_channels, sum_t<T>(0));

    const number_t<T>* in = args.features + group * args.in_channels;
    const number_t<T>* grad = args.grad + group * args.out_channels;
    std::array<const number_t<T>*, kRows> left_rows, right_rows;
    std::vector<T> left(kSteps * args.in_channels), right(kSteps * args.padded_channels);
    int64_t filled = 0;
    const auto add = [&]() MXD_INLINED {
      pack_rows<T, W>(left_rows.data(), filled, args.in_channels, left.data(), args.in_channels);
      pack_rows<T, W>(right_rows.data(), filled, args.out_channels, right.data(),
                      args.padded_channels);
      const int64_t steps = (filled + kNumbers<T> - 1) / kNumbers<T>;
      multiply<W>(args, left.data(), right.data(), steps, out);
      filled = 0;
    };
    for (int64_t tile = slab_begin; tile < slab_end; tile++)
      for (const Pair *pair = book.begin(tile, k), *end = book.end(tile, k); pair < end; pair++) {
        left_rows[filled] = in + pair->in * args.groups * args.in_channels;
        right_rows[filled] = grad + pair->out * args.groups * args.out_channels;
        __builtin_prefetch(left_rows[filled]);
        __builtin_prefetch(right_rows[filled]);
        if (++filled == kRows) add();
      }
    if (filled > 0) add();
  }

 private:
  // Adds the product of left [steps, in_channels], turned, and right [steps, padded_channels].
  template <typename W>
  static MXD_INLINE void multiply(const WeightGradArgs<T>& args, const T* left, const T* right,
                                  int64_t steps, sum_t<T>* out) {
    constexpr int64_t kPanel = W::kVectors * Simd<T, W::kBytes>::kLanes;
    for (int64_t j = 0; j < args.padded_channels; j += kPanel)
      cpu::multiply_panel<T, W>({left, 1, args.in_channels, steps}, args.in_channels, right + j,
                                args.padded_channels, std::min(kPanel, args.padded_channels - j),
                                out + j, args.padded_channels, cpu::Start::kAdd);
  }
};

// features and grad hold number_t<T>, the result sum_t<T>.
template <typename T>
at::Tensor weight_grad_in(const at::Tensor& features, const at::Tensor& grad,
                          const Rulebook& rulebook, int64_t groups) {
  constexpr int64_t kTilesInSlab = 32, kMaxSlabs = 16, kMaxBytes = 64 << 20;
  const int64_t volume = rulebook.volume, in_channels = features.size(1) / groups;
  const int64_t channels = grad.size(1) / groups;
  const int64_t padded_channels = cpu::whole_vectors<T>(channels);
  const int64_t slab_bytes = groups * volume * in_channels * padded_channels * sizeof(T);
  const int64_t most =
      std::clamp<int64_t>(kMaxBytes / std::max<int64_t>(slab_bytes, 1), 1, kMaxSlabs);
  const int64_t slabs = std::clamp<int64_t>(rulebook.tiles / kTilesInSlab, 1, most);
  const auto options = features.options().dtype(c10::CppTypeToScalarType<sum_t<T>>());
  auto parts = at::empty({slabs, groups, volume, in_channels, padded_channels}, options);
  const WeightGradArgs<T> args{rulebook,
                               static_cast<const number_t<T>*>(features.const_data_ptr()),
                               static_cast<const number_t<T>*>(grad.const_data_ptr()),
                               parts.template mutable_data_ptr<sum_t<T>>(),
                               slabs,
                               groups,
                               in_channels,
                               channels,
                               padded_channels};
  cpu::for_each_unit(slabs * groups * volume, [&](int64_t unit, int64_t) {
    cpu::run_products<T, WeightGradUnit<T>>(args, unit);
  });
  return parts.sum(0)
      .narrow(3, 0, channels)
      .permute({1, 2, 0, 3})
      .reshape({volume, in_channels, groups * channels})
      .contiguous();
}

at::Tensor weight_grad_cpu(const at::Tensor& features, const at::Tensor& grad,
                           const at::Tensor& pairs, const at::Tensor& bounds, int64_t groups) {
  check_weight_grad(features, grad, pairs, bounds, groups);
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
