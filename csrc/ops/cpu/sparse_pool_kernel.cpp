// Sparse max pooling on the CPU. A thread keeps a tile of rows in its cache (of the output forward,
// of the input backward) and takes its pairs one by one, each with all channels. The order of every
// sum is fixed by the rulebook.
#include <torch/library.h>

#include "../sparse_pool.h"
#include "compute_type.h"
#include "memory.h"
#include "rulebook.h"
#include "simd.h"

namespace mxd::sparse_pool {
namespace {

using sparse_conv::CheckedRulebook;
using sparse_conv::kTileRows;
using sparse_conv::Pair;
using sparse_conv::Rulebook;

template <typename T>
struct ForwardArgs {
  Rulebook rulebook;
  const T* features;  // [rows, channels]
  T* out;             // [num_out, channels]
  int32_t* argmax;    // [num_out, channels]
  int64_t num_out, channels;
};

// As torch.nn.MaxPool3d: the first of equal numbers, and NaN wherever there is one.
template <typename T>
MXD_INLINE void take_larger(const T* __restrict in, int32_t row, T* __restrict out,
                            int32_t* __restrict argmax, int64_t channels) {
  for (int64_t c = 0; c < channels; c++) {
    const bool take = (in[c] > out[c]) | (in[c] != in[c]) | (argmax[c] < 0);
    out[c] = take ? in[c] : out[c];
    argmax[c] = take ? row : argmax[c];
  }
}

// Calls start(row) for each of the `num_rows` that are in the tile, then add(pair) for its pairs.
template <typename Start, typename Add>
MXD_INLINE void walk_tile(const Rulebook& book, int64_t tile, int64_t num_rows, const Start& start,
                          const Add& add) {
  const int64_t first = tile * kTileRows, rows = std::min(kTileRows, num_rows - first);
  const int64_t whole = book.whole_offset(tile, rows);
  for (int64_t r = 0; r < rows; r++) start(whole < 0 ? first + r : book.begin(tile, whole)[r].out);
  for (int64_t k = 0; k < book.volume; k++)
    for (const Pair *pair = book.begin(tile, k), *end = book.end(tile, k); pair < end; pair++)
      add(*pair);
}

template <typename T>
struct ForwardTile {
  template <typename W>
  static MXD_INLINE void run(const ForwardArgs<T>& args, int64_t tile) {
    const int64_t channels = args.channels;
    walk_tile(
        args.rulebook, tile, args.num_out,
        // Start with 0 and no input row. Outputs that meet no voxel keep both.
        [&](int64_t row) MXD_INLINED {
          std::fill_n(args.out + row * channels, channels, T(0));
          std::fill_n(args.argmax + row * channels, channels, -1);
        },
        [&](const Pair& pair) MXD_INLINED {
          take_larger(args.features + pair.in * channels, pair.in, args.out + pair.out * channels,
                      args.argmax + pair.out * channels, channels);
        });
  }
};

template <typename T>
struct BackwardArgs {
  Rulebook rulebook;      // the forward's with input and output exchanged
  const T* grad;          // [num_out, channels]
  const int32_t* argmax;  // [num_out, channels]
  T* out;                 // [num_in, channels]
  int64_t num_in, channels;
};

// Adds what the row of the output gave to this row of the input.
template <typename T>
MXD_INLINE void add_where_taken(const T* __restrict grad, const int32_t* __restrict argmax,
                                int32_t row, T* __restrict out, int64_t channels) {
  for (int64_t c = 0; c < channels; c++) out[c] += argmax[c] == row ? grad[c] : T(0);
}

template <typename T>
struct BackwardTile {
  template <typename W>
  static MXD_INLINE void run(const BackwardArgs<T>& args, int64_t tile) {
    const int64_t channels = args.channels;
    walk_tile(
        args.rulebook, tile, args.num_in,
        [&](int64_t row) MXD_INLINED { std::fill_n(args.out + row * channels, channels, T(0)); },
        [&](const Pair& pair) MXD_INLINED {
          add_where_taken(args.grad + pair.in * channels, args.argmax + pair.in * channels,
                          pair.out, args.out + pair.out * channels, channels);
        });
  }
};

// Runs Tile over the rulebook's tiles, each on one thread.
template <typename Tile, typename Args>
void run_tiles(const Args& args) {
  cpu::for_each_unit(args.rulebook.tiles,
                     [&](int64_t tile, int64_t) { cpu::run_widest<Tile>(args, tile); });
}

std::tuple<at::Tensor, at::Tensor> forward_cpu(const at::Tensor& features, const at::Tensor& pairs,
                                               const at::Tensor& bounds, int64_t num_out) {
  check_forward(features, pairs, bounds, num_out);
  const CheckedRulebook rulebook(pairs, bounds, features.size(0), num_out);
  return cpu::with_compute_type(features, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const at::Tensor in = convert(features);
    const auto out = cpu::empty_output({num_out, in.size(1)}, in.options());
    const auto argmax = cpu::empty_output(out.sizes(), out.options().dtype(at::kInt));
    run_tiles<ForwardTile<T>>(
        ForwardArgs<T>{rulebook.view(), in.const_data_ptr<T>(), out.mutable_data_ptr<T>(),
                       argmax.mutable_data_ptr<int32_t>(), num_out, in.size(1)});
    return std::make_tuple(out.to(features.scalar_type()), argmax);
  });
}

at::Tensor backward_cpu(const at::Tensor& grad, const at::Tensor& argmax, const at::Tensor& pairs,
                        const at::Tensor& bounds, int64_t num_in) {
  check_backward(grad, argmax, pairs, bounds, num_in);
  const CheckedRulebook rulebook(pairs, bounds, grad.size(0), num_in);
  const at::Tensor sources = argmax.contiguous();
  return cpu::with_compute_type(grad, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const at::Tensor from = convert(grad);
    const auto out = cpu::empty_output({num_in, grad.size(1)}, from.options());
    run_tiles<BackwardTile<T>>(BackwardArgs<T>{rulebook.view(), from.const_data_ptr<T>(),
                                               sources.const_data_ptr<int32_t>(),
                                               out.mutable_data_ptr<T>(), num_in, grad.size(1)});
    return out.to(grad.scalar_type());
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("sparse_max_pool", TORCH_FN(forward_cpu));
  m.impl("sparse_max_pool_backward", TORCH_FN(backward_cpu));
}

}  // namespace mxd::sparse_pool
