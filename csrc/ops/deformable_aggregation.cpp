// Deformable aggregation: schema, Meta kernels, and the checks as an operator for the pure-PyTorch
// form.
#include "deformable_aggregation.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/Optional.h>  // std::optional since PyTorch 2.3, its own before
#include <torch/library.h>

#include <tuple>

namespace mxd::deformable_aggregation {
namespace {

// An output is contiguous whatever its model is.
at::Tensor like(const at::Tensor& tensor) {
  return at::empty_like(tensor, tensor.options(), at::MemoryFormat::Contiguous);
}

at::Tensor forward_meta(const at::Tensor& feature_maps, const at::Tensor& spatial_shape,
                        const at::Tensor& scale_start_index, const at::Tensor& sample_locations,
                        const at::Tensor& weight) {
  check_inputs(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  return at::empty_symint(
      {feature_maps.sym_size(0), sample_locations.sym_size(1), feature_maps.sym_size(2)},
      feature_maps.options());
}

at::Tensor feature_grad_meta(const at::Tensor& grad, const at::Tensor& feature_maps,
                             const at::Tensor& spatial_shape, const at::Tensor& scale_start_index,
                             const at::Tensor& sample_locations, const at::Tensor& weight) {
  check_inputs(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  check_grad(grad, feature_maps, sample_locations);
  return like(feature_maps);
}

std::tuple<at::Tensor, at::Tensor> sample_grad_meta(const at::Tensor& grad,
                                                    const at::Tensor& feature_maps,
                                                    const at::Tensor& spatial_shape,
                                                    const at::Tensor& scale_start_index,
                                                    const at::Tensor& sample_locations,
                                                    const at::Tensor& weight) {
  check_inputs(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  check_grad(grad, feature_maps, sample_locations);
  return {like(sample_locations), like(weight)};
}

void check(const at::Tensor& feature_maps, const at::Tensor& spatial_shape,
           const at::Tensor& scale_start_index, const at::Tensor& sample_locations,
           const at::Tensor& weight, const c10::optional<at::Tensor>& grad) {
  check_inputs(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  if (grad) check_grad(*grad, feature_maps, sample_locations);
  read_maps(spatial_shape, scale_start_index, feature_maps.size(1));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  m.def(
      "deformable_aggregation(Tensor feature_maps, Tensor spatial_shape, Tensor scale_start_index, "
      "Tensor sample_locations, Tensor weight) -> Tensor");
  m.def(
      "deformable_aggregation_feature_grad(Tensor grad, Tensor feature_maps, Tensor spatial_shape, "
      "Tensor scale_start_index, Tensor sample_locations, Tensor weight) -> Tensor");
  m.def(
      "deformable_aggregation_sample_grad(Tensor grad, Tensor feature_maps, Tensor spatial_shape, "
      "Tensor scale_start_index, Tensor sample_locations, Tensor weight) -> (Tensor "
      "grad_sample_locations, Tensor grad_weight)");
  m.def(
      "_deformable_aggregation_check(Tensor feature_maps, Tensor spatial_shape, Tensor "
      "scale_start_index, Tensor sample_locations, Tensor weight, Tensor? grad=None) -> ()");
}

TORCH_LIBRARY_IMPL(mxd, Meta, m) {
  m.impl("deformable_aggregation", TORCH_FN(forward_meta));
  m.impl("deformable_aggregation_feature_grad", TORCH_FN(feature_grad_meta));
  m.impl("deformable_aggregation_sample_grad", TORCH_FN(sample_grad_meta));
}

TORCH_LIBRARY_IMPL(mxd, CompositeExplicitAutograd, m) {
  m.impl("_deformable_aggregation_check", TORCH_FN(check));
}

}  // namespace mxd::deformable_aggregation
