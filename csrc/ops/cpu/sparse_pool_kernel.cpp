// Sparse max pooling on the CPU. Forward, a thread keeps a tile of output rows in its cache and
// compares whole rows of channels; backward, it owns a block of channels, so that no two threads
// add to one number and the order of every sum is that of the output rows.
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../sparse_pool.h"
#include "memory.h"
#include "rulebook.h"
#include "simd.h"

namespace mxd::sparse_pool {
namespace {

using sparse_conv::check_rows;
using sparse_conv::compute_type;
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

template <typename T>
MXD_INLINE void forward_tile(const ForwardArgs<T>& args, int64_t tile) {
  const Rulebook& book = args.rulebook;
  const int64_t channels = args.channels, first = tile * kTileRows;
  const int64_t rows = std::min(kTileRows, args.num_out - first);
  const int64_t whole = book.whole_offset(tile, rows);
  // Without an argument yet; that stays of an output that meets no voxel, which is 0.
  for (int64_t r = 0; r < rows; r++) {
    const int64_t row = whole < 0 ? first + r : book.begin(tile, whole)[r].out;
    for (int64_t c = 0; c < channels; c++) {
      args.out[row * channels + c] = 0;
      args.argmax[row * channels + c] = -1;
    }
  }
  for (int64_t k = 0; k < book.volume; k++)
    for (const Pair *pair = book.begin(tile, k), *end = book.end(tile, k); pair < end; pair++)
      take_larger(args.features + pair->in * channels, pair->in, args.out + pair->out * channels,
                  args.argmax + pair->out * channels, channels);
}

template <typename T>
using ForwardTile = void (*)(const ForwardArgs<T>&, int64_t);

// The compiler makes the code of each for its own processor.
template <typename T>
void forward_tile_base(const ForwardArgs<T>& args, int64_t tile) {
  forward_tile(args, tile);
}
#if defined(__x86_64__)
template <typename T>
MXD_TARGET_AVX2 void forward_tile_avx2(const ForwardArgs<T>& args, int64_t tile) {
  forward_tile(args, tile);
}
template <typename T>
MXD_TARGET_AVX512 void forward_tile_avx512(const ForwardArgs<T>& args, int64_t tile) {
  forward_tile(args, tile);
}
#endif

template <typename T>
ForwardTile<T> forward_tile_of_this_processor() {
#if defined(__x86_64__)
  static const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") return forward_tile_avx512<T>;
  if (capability == "AVX2") return forward_tile_avx2<T>;
#endif
  return forward_tile_base<T>;
}

template <typename T>
void forward_in(const at::Tensor& features, const at::Tensor& pairs, const at::Tensor& bounds,
                at::Tensor& out, at::Tensor& argmax) {
  const ForwardArgs<T> args{Rulebook(pairs, bounds),
                            features.const_data_ptr<T>(),
                            out.mutable_data_ptr<T>(),
                            argmax.mutable_data_ptr<int32_t>(),
                            out.size(0),
                            out.size(1)};
  const ForwardTile<T> run = forward_tile_of_this_processor<T>();
  cpu::for_each_unit(bounds.size(0), [&](int64_t tile, int64_t) { run(args, tile); });
}

std::tuple<at::Tensor, at::Tensor> forward_cpu(const at::Tensor& features, const at::Tensor& pairs,
                                               const at::Tensor& bounds, int64_t num_out) {
  check_forward(features, pairs, bounds, num_out);
  const at::Tensor all_pairs = pairs.contiguous(), all_bounds = bounds.contiguous();
  check_rows(all_pairs, all_bounds, features.size(0), num_out);
  const at::Tensor in = features.to(compute_type(features.scalar_type())).contiguous();
  auto out = cpu::empty_output({num_out, in.size(1)}, in.options());
  auto argmax = cpu::empty_output(out.sizes(), out.options().dtype(at::kInt));
  const auto run = in.scalar_type() == at::kDouble ? &forward_in<double> : &forward_in<float>;
  run(in, all_pairs, all_bounds, out, argmax);
  return {out.to(features.scalar_type()), argmax};
}

template <typename T>
void backward_in(const at::Tensor& grad, const at::Tensor& argmax, at::Tensor& out) {
  constexpr int64_t kBlock = cpu::kMaxVectorBytes / sizeof(T);  // a cache line
  const int64_t num_out = grad.size(0), channels = grad.size(1), num_in = out.size(0);
  const T* from = grad.const_data_ptr<T>();
  const int32_t* row = argmax.const_data_ptr<int32_t>();
  T* to = out.mutable_data_ptr<T>();
  std::atomic<bool> inside{true};
  cpu::for_each_unit((channels + kBlock - 1) / kBlock, [&](int64_t block, int64_t) {
    const int64_t begin = block * kBlock, end = std::min(begin + kBlock, channels);
    for (int64_t m = 0; m < num_out; m++)
      for (int64_t c = begin; c < end; c++) {
        const int64_t n = row[m * channels + c];
        if (n >= 0 && n < num_in)
          to[n * channels + c] += from[m * channels + c];
        else if (n != -1)
          inside = false;
      }
  });
  TORCH_CHECK_VALUE(inside, "argmax must hold input rows below num_in ", num_in,
                    " or -1, and some are neither");
}

at::Tensor backward_cpu(const at::Tensor& grad, const at::Tensor& argmax, int64_t num_in) {
  check_backward(grad, argmax, num_in);
  const at::Tensor from = grad.to(compute_type(grad.scalar_type())).contiguous();
  auto out = at::zeros({num_in, grad.size(1)}, from.options());
  const auto run = from.scalar_type() == at::kDouble ? &backward_in<double> : &backward_in<float>;
  run(from, argmax.contiguous(), out);
  return out.to(grad.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("sparse_max_pool", TORCH_FN(forward_cpu));
  m.impl("sparse_max_pool_backward", TORCH_FN(backward_cpu));
}

}  // namespace mxd::sparse_pool
