// Modulated deformable convolution on the CPU: the gradients. The samples are gone over once: the
// gradient of the columns becomes the gradients of input, offset and mask, and is replaced by the
// columns, which the gradient of the weight needs. The work is divided into units by the sizes
// alone, and the units' sums are added in a fixed order, so results do not depend on the number of
// threads.
#include <torch/library.h>

#include <tuple>

#include "compute_type.h"
#include "modulated_deform_conv_data_grad.h"
#include "modulated_deform_conv_weight.h"
#include "modulated_deform_conv_weight_grad.h"

namespace mxd::modulated_deform_conv {
namespace {

using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

constexpr int64_t kTilesInUnit = 8, kMinUnits = 8, kMaxUnits = 32;

template <typename T>
struct Args {
  Inputs<T> inputs;
  const T* grad;  // [images, out_channels, positions]
  DataGrad<T> data;
  const T* weight;  // of pack_transposed, or null where the gradients of data are not wanted
  WeightGrad<T> parameters;  // null where not wanted
};

template <typename T>
struct GradTile {
  template <typename W>
  static MXD_INLINE void run(const Layout& layout, const Args<T>& args, int64_t index,
                             const Piece& piece, const Scratch<T>& scratch, int64_t unit) {
    const Tile tile(layout, index);
    const Anchors<T> anchors(layout, tile);
    T *columns = scratch.columns, *grad = scratch.rows;
    const T* input = args.inputs.image(layout, tile.image);
    for (int64_t g = 0; g < layout.groups; g++)
      transpose(args.grad + layout.out_plane(tile.image, g) + tile.first, layout.positions,
                layout.group_out, tile.count, grad + g * layout.group_out_padded, layout.out_row);
    if (args.parameters.bias) args.parameters.add_bias(layout, tile, grad, unit);

    for (int64_t first = 0; first < layout.points; first += layout.block) {
      const int64_t block = std::min(layout.block, layout.points - first);
      if (args.weight)
        multiply_transposed<T, W>(layout, tile, first, block, grad, args.weight, columns);
      for (int64_t d = 0; d < layout.deform_groups; d++) {
        const int64_t at = d * layout.deform_padded;
        locate<T, W::kBytes>(layout, tile, anchors, args.inputs, d, first, block, scratch.samples);
        if (args.weight)
          data_grad<T, W::kBytes>(layout, tile, piece, d, first, block, scratch.samples, input,
                                  columns, args.data);
        else
          sample<T, W::kBytes>(layout, tile.count, block, scratch.samples, input + at,
                               columns + at);
      }
      if (args.parameters.weight)
        args.parameters.template add_weight<W>(layout, tile, first, block, columns, grad, unit);
    }
  }
};

template <typename T>
Gradients backward_in(const Layout& layout, const at::Tensor& grad, const at::Tensor& input,
                      const at::Tensor& offset, const at::Tensor& mask, const at::Tensor& weight,
                      bool of_data, bool of_parameters) {
  const auto options = input.options();
  auto none = [&] { return at::empty({0}, options); };
  at::Tensor grad_input = none(), grad_offset = none(), grad_mask = none(), packed;
  if (of_data) {
    grad_input = cpu::empty_output(input.sizes(), options);
    grad_offset = cpu::empty_output(offset.sizes(), options);
    if (mask.defined()) grad_mask = cpu::empty_output(mask.sizes(), options);
    packed = pack_transposed<T>(layout, weight);
  }
  // Unlike the forward pass's, not by the number of threads: the order of the sums depends on it.
  const int64_t chunk = layout.images_in_chunk(kTilesInUnit * kMaxUnits);
  const int64_t all_units =
      std::min(std::clamp<int64_t>(chunk * layout.tiles / kTilesInUnit, kMinUnits, kMaxUnits),
               of_parameters ? most_weight_parts(layout, kMaxUnits) : kMaxUnits);
  at::Tensor weight_parts, bias_parts;
  WeightGrad<T> parameters{};
  if (of_parameters) {
    weight_parts =
        at::zeros({all_units, layout.points, layout.in_row, layout.group_out_padded}, options);
    bias_parts = at::zeros({all_units, layout.out_row}, options);
    parameters = {weight_parts.mutable_data_ptr<T>(), bias_parts.mutable_data_ptr<T>()};
  }
  auto images = cpu::empty_output({chunk, layout.pixels + 1, layout.in_row}, options);
  const Inputs<T> inputs(images, offset, mask);
  Workers<T> workers(layout, options);

  for_each_chunk(layout, chunk, [&](int64_t image, int64_t count) {
    to_channels_last(layout, input.const_data_ptr<T>() + image * layout.channels * layout.pixels,
                     count, images.mutable_data_ptr<T>());
    Args<T> args{};
    args.inputs = inputs.from(layout, image);
    args.grad = grad.const_data_ptr<T>() + layout.out_plane(image, 0);
    args.parameters = parameters;
    const int64_t units = std::min(all_units, count * layout.tiles);
    Pieces work(layout, count, units);
    at::Tensor parts;
    if (of_data) {
      parts = cpu::empty_output({work.place(layout, args.inputs.offset), layout.in_row}, options);
      args.weight = packed.const_data_ptr<T>();
      args.data.input = parts.mutable_data_ptr<T>();
      args.data.offset = grad_offset.mutable_data_ptr<T>() + 2 * image * layout.samples();
      if (mask.defined())
        args.data.mask = grad_mask.mutable_data_ptr<T>() + image * layout.samples();
    }
    for_each_unit(units, [&](int64_t unit, int64_t worker) {
      for (int64_t p = work.bounds[unit]; p < work.bounds[unit + 1]; p++) {
        const Piece& piece = work.pieces[p];
        if (of_data)
          std::fill_n(args.data.input + piece.begin * layout.in_row,
                      piece.pixels(layout) * layout.in_row, T(0));
        for (int64_t tile = piece.first_tile; tile < piece.last_tile; tile++)
          cpu::run_widest<GradTile<T>>(layout, args, piece.image * layout.tiles + tile, piece,
                                       workers[worker], unit);
      }
    });
    if (of_data)
      collect(layout, work.pieces, args.data.input, count,
              grad_input.mutable_data_ptr<T>() + image * layout.channels * layout.pixels);
  });
  if (!of_parameters) return {grad_input, grad_offset, grad_mask, none(), none()};
  return {grad_input, grad_offset, grad_mask,
          unpad_weight(layout, weight_parts.sum(0), weight.sizes()),
          bias_parts.sum(0)
              .view({layout.groups, layout.group_out_padded})
              .narrow(1, 0, layout.group_out)
              .reshape({layout.out_channels})};
}

Gradients backward_cpu(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& offset,
                       const c10::optional<at::Tensor>& mask, const at::Tensor& weight,
                       at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                       int64_t groups, int64_t deform_groups, bool of_data, bool of_parameters) {
  check_backward(grad, input, offset, mask, weight, stride, padding, dilation, groups,
                 deform_groups, of_data, of_parameters);
  const auto grads = cpu::with_compute_type(input, [&](auto number, const auto& convert) {
    using T = decltype(number);
    const Layout layout(input, weight, grad.sizes(), stride, padding, dilation, groups,
                        deform_groups, sizeof(T));
    return backward_in<T>(layout, convert(grad), convert(input), convert(offset),
                          mask ? convert(*mask) : at::Tensor(), convert(weight), of_data,
                          of_parameters);
  });
  return std::apply([&](const auto&... each) { return Gradients{each.to(input.scalar_type())...}; },
                    grads);
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, CPU, m) {
  m.impl("modulated_deform_conv2d_backward", TORCH_FN(backward_cpu));
}

}  // namespace mxd::modulated_deform_conv
