// Sparse convolution on the CPU: how channels and weights lie for the matrix products.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>

#include <algorithm>

#include "bfloat16.h"
#include "memory.h"

namespace mxd::sparse_conv {

// [rows, groups * channels] -> [rows, groups * padded]; a copy only where padding is needed.
inline at::Tensor pad_channels(const at::Tensor& tensor, int64_t groups, int64_t channels,
                               int64_t padded_channels) {
  if (channels == padded_channels) return tensor.contiguous();
  return at::constant_pad_nd(tensor.reshape({-1, groups, channels}),
                             {0, padded_channels - channels})
      .reshape({-1, groups * padded_channels});
}

// [K, in, groups * out] -> [groups, K, panels, depth, panel width]. A T is kNumbers<T> inputs;
// there are zeros where there are fewer than depth * kNumbers<T>.
template <typename T>
cpu::LineVector<T> pack_weight(const at::Tensor& weight, int64_t groups, int64_t depth,
                               int64_t padded_out, int64_t panel) {
  using Number = cpu::number_t<T>;
  constexpr int64_t kStep = cpu::kNumbers<T>;
  const int64_t volume = weight.size(0), in = weight.size(1), out = weight.size(2) / groups;
  cpu::LineVector<T> packed(groups * volume * depth * padded_out, T{});
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

}  // namespace mxd::sparse_conv
