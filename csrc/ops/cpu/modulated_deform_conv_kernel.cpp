// Modulated deformable convolution on the CPU: the output. A tile of output positions is sampled
// into columns for some kernel points at a time, few enough to stay in the core's cache, and
// multiplied there. The work is divided by the sizes alone, so results do not depend on the number
// of threads.
#include <torch/library.h>

#include "compute_type.h"
#include "modulated_deform_conv_sampling.h"
#include "modulated_deform_conv_weight.h"

namespace mxd::modulated_deform_conv {
namespace {

constexpr int64_t kTilesOfWorker = 8;  // in a chunk of images, at least

template <typename T>
struct Args {
  Inputs<T> inputs;
  const T* weight;  // of pack_weight
  const T* bias;    // [out_row] or null
  T* out;           // [images, out_channels, positions]
};

template <typename T>
struct OutputTile {
  template <typename W>
  static MXD_INLINE void run(const Layout& layout, const Args<T>& args, int64_t index,
                             const Scratch<T>& scratch) {
    const Tile tile(layout, index);
    const Anchors<T> anchors(layout, tile);
    T *columns = scratch.columns, *out = scratch.rows;
    const T* input = args.inputs.image(layout, tile.image);
    for (int64_t first = 0; first < layout.points; first += layout.block) {
      const int64_t block = std::min(layout.block, layout.points - first);
      for (int64_t d = 0; d < layout.deform_groups; d++) {
        const int64_t at = d * layout.deform_padded;
        locate<T, W::kBytes>(layout, tile, anchors, args.inputs, d, first, block, scratch.samples);
        sample<T, W::kBytes>(layout, tile.count, block, scratch.samples, input + at, columns + at);
      }
      const Start start = first ? Start::kAdd : args.bias ? Start::kBias : Start::kZero;
      multiply_columns<T, W>(layout, tile, first, block, columns, args.weight, start, args.bias,
                             out);
    }
    for (int64_t g = 0; g < layout.groups; g++)
      transpose(out + g * layout.group_out_padded, layout.out_row, tile.count, layout.group_out,
                args.out + layout.out_plane(tile.image, g) + tile.first, layout.positions);
  }
};

template <typename T>
at::Tensor forward_in(const Layout& layout, const at::Tensor& input, const at::Tensor& offset,
                      const at::Tensor& mask, const at::Tensor& weight, const at::Tensor& bias) {
  auto out = cpu::empty_output(
      {layout.batch, layout.out_channels, layout.out_height, layout.out_width}, input.options());
  const at::Tensor packed = pack_weight<T>(layout, weight);
  at::Tensor padded_bias;
  if (bias.defined())
    padded_bias = at::constant_pad_nd(bias.view({layout.groups, layout.group_out}),
                                      {0, layout.group_out_padded - layout.group_out});
  const int64_t chunk = layout.images_in_chunk(kTilesOfWorker * at::get_num_threads());
  auto images = cpu::empty_output({chunk, layout.pixels + 1, layout.in_row}, input.options());
  const Inputs<T> inputs(images, offset, mask);
  Workers<T> workers(layout, input.options());
  for_each_chunk(layout, chunk, [&](int64_t image, int64_t count) {
    to_channels_last(layout, input.const_data_ptr<T>() + image * layout.channels * layout.pixels,
                     count, images.mutable_data_ptr<T>());
    const Args<T> args{inputs.from(layout, image), packed.const_data_ptr<T>(),
                       bias.defined() ? padded_bias.const_data_ptr<T>() : nullptr,
                       out.mutable_data_ptr<T>() + layout.out_plane(image, 0)};
    for_each_unit(count * layout.tiles, [&](int64_t tile, int64_t worker) {
      cpu::run_widest<OutputTile<T>>(layout, args, tile, workers[worker]);
    });
  });
  return out;
}

at::Tensor forward_cpu(const at::Tensor& input, const at::Tensor& offset,
                       const c10::optional<at::Tensor>& mask, const at::Tensor& weight,
                       const c10::optional<at::Tensor>& bias, at::IntArrayRef stride,
                       at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                       int64_t deform_groups) {
  const auto shape = check_forward(input, offset, mask, weight, bias, stride, padding, dilation,
                                   groups, deform_groups);
  return cpu::with_compute_type(
             input,
             [&](auto number, const auto& convert) {
               using T = decltype(number);
               const Layout layout(input, weight,
                                   C10_AS_INTARRAYREF_SLOW(c10::SymIntArrayRef(shape)), stride,
                                   padding, dilation, groups, deform_groups, sizeof(T));
               return forward_in<T>(layout, convert(input), convert(offset),
                                    mask ? convert(*mask) : at::Tensor(), convert(weight),
                                    bias ? convert(*bias) : at::Tensor());
             })
      .to(input.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) { m.impl("modulated_deform_conv2d", TORCH_FN(forward_cpu)); }

}  // namespace mxd::modulated_deform_conv
