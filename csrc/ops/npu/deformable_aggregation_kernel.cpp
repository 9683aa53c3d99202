// Deformable aggregation on the NPU: tiling and launches of the kernels of csrc/kernels.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <mutex>

#include "../deformable_aggregation.h"
#include "deformable_aggregation_tiling.h"
#include "dtype.h"
#include "launch.h"

// clang-format off: these need the tiling
#include "aclrtlaunch_deformable_aggregation.h"
#include "aclrtlaunch_deformable_aggregation_feature_grad.h"
#include "aclrtlaunch_deformable_aggregation_sample_grad.h"
// clang-format on

namespace mxd::deformable_aggregation {
namespace {

using namespace kernels::deformable_aggregation;
using kernels::kBlockWords;
using kernels::RoundUp;

DeformableAggregationTiling make_tiling(const at::Tensor& feature_maps, const at::Tensor& weight) {
  DeformableAggregationTiling t{};
  t.num_feat = feature_maps.size(1);
  t.dtype = npu::kernel_dtype("feature_maps", feature_maps);
  t.anchors = weight.size(1);
  t.all_anchors = weight.size(0) * weight.size(1);
  t.samples = weight.size(2) * weight.size(3);
  t.cams = weight.size(3);
  t.scales = weight.size(4);
  t.groups = weight.size(5);
  t.width = feature_maps.size(2) / t.groups;

  const int32_t block = kernels::kBlockBytes / feature_maps.element_size();  // elements
  const int32_t width = RoundUp(t.width, block);
  t.slice_groups = std::clamp(kMaxRow / width, 1, t.groups);
  t.slice_width = std::min(t.width, kMaxRow);
  const int32_t row = t.slice_groups * RoundUp(t.slice_width, block);
  const int32_t rows =
      std::min(kPatchFloats / row, kWeightBlocks / RoundUp(t.slice_groups, kBlockWords));
  t.patches = std::clamp(rows / 4, 1, kMaxPatches);
  // Loads of whole samples: then one DMA copies the weights of all of a sample's scales.
  if (t.patches > t.scales) t.patches -= t.patches % t.scales;
  t.add_output = feature_maps.size(2) % block != 0;
  return t;
}

at::Tensor make_maps(const at::Tensor& spatial_shape, const at::Tensor& scale_start_index,
                     const at::Tensor& feature_maps) {
  const std::vector<Map> maps = read_maps(spatial_shape, scale_start_index, feature_maps.size(1));
  const int64_t count = maps.size();
  TORCH_CHECK_VALUE(count <= kMaxMaps, "spatial_shape must be of at most ", kMaxMaps,
                    " maps (cam x scale) on ", feature_maps.device(), ", was of ", count);
  const at::Tensor table = at::empty({3, count}, at::kInt);
  int32_t* const to = table.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < count; i++) {
    to[i] = maps[i].width;
    to[count + i] = maps[i].height;
    to[2 * count + i] = maps[i].start;
  }
  return table.to(feature_maps.device());
}

// The table of the last maps. All layers of a model and their gradients share the same maps, and
// reading spatial_shape waits for the device.
class LastMaps {
 public:
  at::Tensor get(const at::Tensor& spatial_shape, const at::Tensor& scale_start_index,
                 const at::Tensor& feature_maps) {
    if (spatial_shape.is_inference() || scale_start_index.is_inference())  // they have no version
      return make_maps(spatial_shape, scale_start_index, feature_maps);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!same(shape_, spatial_shape) || !same(start_, scale_start_index) ||
        num_feat_ != feature_maps.size(1)) {
      table_ = make_maps(spatial_shape, scale_start_index, feature_maps);
      shape_ = {spatial_shape, spatial_shape._version()};
      start_ = {scale_start_index, scale_start_index._version()};
      num_feat_ = feature_maps.size(1);
    }
    return table_;
  }

 private:
  // Kept, so that no other tensor takes its memory.
  struct Seen {
    at::Tensor tensor;
    int64_t version = 0;  // wide enough for every PyTorch's
  };

  static bool same(const Seen& seen, const at::Tensor& tensor) {
    const at::Tensor& last = seen.tensor;
    return last.defined() && last.data_ptr() == tensor.data_ptr() &&
           last.scalar_type() == tensor.scalar_type() && last.sizes() == tensor.sizes() &&
           last.strides() == tensor.strides() && seen.version == tensor._version();
  }

  std::mutex mutex_;
  Seen shape_, start_;
  int64_t num_feat_ = -1;
  at::Tensor table_;
};

// int32 [3, cams * scales] on the device: widths, heights, first rows.
at::Tensor get_maps(const at::Tensor& spatial_shape, const at::Tensor& scale_start_index,
                    const at::Tensor& feature_maps) {
  // Never deleted: when the process ends, the device may go before it.
  static auto* const last = new LastMaps;
  return last->get(spatial_shape, scale_start_index, feature_maps);
}

template <typename Kernel, typename... Arguments>
void launch(Kernel kernel, const char* name, const DeformableAggregationTiling& tiling,
            const Arguments&... arguments) {
  const int64_t blocks = std::min<int64_t>(npu::vector_cores(), tiling.all_anchors);
  npu::launch(kernel, name, blocks, arguments..., tiling);
}

at::Tensor forward_npu(const at::Tensor& feature_maps, const at::Tensor& spatial_shape,
                       const at::Tensor& scale_start_index, const at::Tensor& sample_locations,
                       const at::Tensor& weight) {
  check_inputs(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  const at::Tensor maps = get_maps(spatial_shape, scale_start_index, feature_maps);
  const std::vector<int64_t> size{feature_maps.size(0), weight.size(1), feature_maps.size(2)};
  if (weight.numel() == 0 || size[2] == 0) return at::zeros(size, feature_maps.options());
  const auto options = feature_maps.options();
  const DeformableAggregationTiling tiling = make_tiling(feature_maps, weight);
  const at::Tensor out = tiling.add_output ? at::zeros(size, options) : at::empty(size, options);
  launch(aclrtlaunch_deformable_aggregation, "deformable_aggregation", tiling,
         feature_maps.contiguous(), sample_locations.to(at::kFloat).contiguous(),
         weight.contiguous(), maps, out);
  return out;
}

at::Tensor feature_grad_npu(const at::Tensor& grad, const at::Tensor& feature_maps,
                            const at::Tensor& spatial_shape, const at::Tensor& scale_start_index,
                            const at::Tensor& sample_locations, const at::Tensor& weight) {
  check_grad(grad, feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  const at::Tensor maps = get_maps(spatial_shape, scale_start_index, feature_maps);
  const at::Tensor out = at::zeros(feature_maps.sizes(), feature_maps.options().dtype(at::kFloat));
  if (weight.numel() > 0 && out.numel() > 0)
    launch(aclrtlaunch_deformable_aggregation_feature_grad, "deformable_aggregation_feature_grad",
           make_tiling(feature_maps, weight), grad.contiguous(),
           sample_locations.to(at::kFloat).contiguous(), weight.contiguous(), maps, out);
  return out.to(feature_maps.scalar_type());
}

std::tuple<at::Tensor, at::Tensor> sample_grad_npu(const at::Tensor& grad,
                                                   const at::Tensor& feature_maps,
                                                   const at::Tensor& spatial_shape,
                                                   const at::Tensor& scale_start_index,
                                                   const at::Tensor& sample_locations,
                                                   const at::Tensor& weight) {
  check_grad(grad, feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  const at::Tensor maps = get_maps(spatial_shape, scale_start_index, feature_maps);
  const auto options = feature_maps.options().dtype(at::kFloat);
  std::vector<int64_t> size = weight.sizes().vec();
  size.back() = 2;
  const at::Tensor slopes = at::zeros(size, options);  // what each scale brings
  const at::Tensor grad_weight = at::zeros(weight.sizes(), options);
  if (weight.numel() > 0 && feature_maps.size(2) > 0)
    launch(aclrtlaunch_deformable_aggregation_sample_grad, "deformable_aggregation_sample_grad",
           make_tiling(feature_maps, weight), grad.contiguous(), feature_maps.contiguous(),
           sample_locations.to(at::kFloat).contiguous(), weight.contiguous(), maps, slopes,
           grad_weight);
  return {slopes.sum(4).to(sample_locations.scalar_type()), grad_weight.to(weight.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(mxd, PrivateUse1, m) {
  m.impl("deformable_aggregation", TORCH_FN(forward_npu));
  m.impl("deformable_aggregation_feature_grad", TORCH_FN(feature_grad_npu));
  m.impl("deformable_aggregation_sample_grad", TORCH_FN(sample_grad_npu));
}

}  // namespace mxd::deformable_aggregation
