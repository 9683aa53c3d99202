// Deformable aggregation: schema and Meta kernels.
#include "deformable_aggregation.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>

namespace mxd::deformable_aggregation {
namespace {

// An empty tensor of the same shape and dtype. It is contiguous even where `tensor` is not, as the
// kernels' results are.
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
  check_grad(grad, feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  return like(feature_maps);
}

std::tuple<at::Tensor, at::Tensor> sample_grad_meta(const at::Tensor& grad,
                                                    const at::Tensor& feature_maps,
                                                    const at::Tensor& spatial_shape,
                                                    const at::Tensor& scale_start_index,
                                                    const at::Tensor& sample_locations,
                                                    const at::Tensor& weight) {
  check_grad(grad, feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  return {like(sample_locations), like(weight)};
}

// For the plain PyTorch form: the maps are checked too. Kernels do that when they read the maps,
// and Meta tensors have no data.
void check_forward(const at::Tensor& feature_maps, const at::Tensor& spatial_shape,
                   const at::Tensor& scale_start_index, const at::Tensor& sample_locations,
                   const at::Tensor& weight) {
  check_inputs(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  read_maps(spatial_shape, scale_start_index, feature_maps.size(1));
}

void check_backward(const at::Tensor& grad, const at::Tensor& feature_maps,
                    const at::Tensor& spatial_shape, const at::Tensor& scale_start_index,
                    const at::Tensor& sample_locations, const at::Tensor& weight) {
  check_grad(grad, feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  read_maps(spatial_shape, scale_start_index, feature_maps.size(1));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mxd, m) {
  define(m,
         "deformable_aggregation(Tensor feature_maps, Tensor spatial_shape, Tensor "
         "scale_start_index, Tensor sample_locations, Tensor weight) -> Tensor",
         check_forward, forward_meta);
  define(m,
         "deformable_aggregation_feature_grad(Tensor grad, Tensor feature_maps, Tensor "
         "spatial_shape, Tensor scale_start_index, Tensor sample_locations, Tensor weight) -> "
         "Tensor",
         check_backward, feature_grad_meta);
  define(m,
         "deformable_aggregation_sample_grad(Tensor grad, Tensor feature_maps, Tensor "
         "spatial_shape, Tensor scale_start_index, Tensor sample_locations, Tensor weight) -> "
         "(Tensor grad_sample_locations, Tensor grad_weight)",
         check_backward, sample_grad_meta);
}

}  // namespace mxd::deformable_aggregation
