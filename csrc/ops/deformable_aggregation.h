// Deformable aggregation: what every backend shares. Argument checks, and the maps that the two
// index tensors describe.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <limits>
#include <vector>

#include "check.h"

namespace mxd::deformable_aggregation {

// One camera's feature map of one scale: rows [start, start + height * width) of feature_maps.
struct Map {
  int64_t height, width, start;
  int64_t size() const { return height * width; }
};

// Checks dtypes, shapes and devices, but no data.
inline void check_inputs(const at::Tensor& feature_maps, const at::Tensor& spatial_shape,
                         const at::Tensor& scale_start_index, const at::Tensor& sample_locations,
                         const at::Tensor& weight) {
  check_float("feature_maps", feature_maps);
  check_int32_or_int64("spatial_shape", spatial_shape);
  check_int32_or_int64("scale_start_index", scale_start_index);
  const auto type = feature_maps.scalar_type();
  TORCH_CHECK_TYPE(
      sample_locations.scalar_type() == at::kFloat || sample_locations.scalar_type() == type,
      "sample_locations must be float32 or have the dtype of feature_maps, ", type, ", was ",
      sample_locations.scalar_type());
  check_same_dtype("weight", weight, "feature_maps", feature_maps);

  check_dim("feature_maps", feature_maps, 3, "[bs, num_feat, c]");
  TORCH_CHECK_VALUE(spatial_shape.dim() == 3 && spatial_shape.sym_size(2) == 2,
                    "spatial_shape must have shape [cam, scale, 2] (height and width), was ",
                    spatial_shape.sym_sizes());
  const auto batch = feature_maps.sym_size(0), channels = feature_maps.sym_size(2);
  const auto cams = spatial_shape.sym_size(0), scales = spatial_shape.sym_size(1);
  TORCH_CHECK_VALUE(scale_start_index.dim() == 2 && scale_start_index.sym_size(0) == cams &&
                        scale_start_index.sym_size(1) == scales,
                    "scale_start_index must have shape [", cams, ", ", scales,
                    "] (cam, scale of spatial_shape), was ", scale_start_index.sym_sizes());
  TORCH_CHECK_VALUE(sample_locations.dim() == 5 && sample_locations.sym_size(0) == batch &&
                        sample_locations.sym_size(3) == cams && sample_locations.sym_size(4) == 2,
                    "sample_locations must have shape [", batch, ", anchor, pts, ", cams,
                    ", 2] (bs of feature_maps, cam of spatial_shape, x and y), was ",
                    sample_locations.sym_sizes());
  const auto anchors = sample_locations.sym_size(1), points = sample_locations.sym_size(2);
  TORCH_CHECK_VALUE(weight.dim() == 6 && weight.sym_size(0) == batch &&
                        weight.sym_size(1) == anchors && weight.sym_size(2) == points &&
                        weight.sym_size(3) == cams && weight.sym_size(4) == scales,
                    "weight must have shape [", batch, ", ", anchors, ", ", points, ", ", cams,
                    ", ", scales,
                    ", group] (bs, anchor, pts, cam of sample_locations, scale of "
                    "spatial_shape), was ",
                    weight.sym_sizes());
  const auto groups = weight.sym_size(5);
  TORCH_CHECK_VALUE(groups >= 1 && channels % groups == 0,
                    "the groups of weight must divide the channels of feature_maps, ", channels,
                    ", were ", groups);

  check_same_device("spatial_shape", spatial_shape, "feature_maps", feature_maps);
  check_same_device("scale_start_index", scale_start_index, "feature_maps", feature_maps);
  check_same_device("sample_locations", sample_locations, "feature_maps", feature_maps);
  check_same_device("weight", weight, "feature_maps", feature_maps);
}

// `grad` is the gradient of the output.
inline void check_grad(const at::Tensor& grad, const at::Tensor& feature_maps,
                       const at::Tensor& spatial_shape, const at::Tensor& scale_start_index,
                       const at::Tensor& sample_locations, const at::Tensor& weight) {
  check_inputs(feature_maps, spatial_shape, scale_start_index, sample_locations, weight);
  check_same_dtype("grad", grad, "feature_maps", feature_maps);
  const auto batch = feature_maps.sym_size(0), channels = feature_maps.sym_size(2);
  const auto anchors = sample_locations.sym_size(1);
  TORCH_CHECK_VALUE(grad.dim() == 3 && grad.sym_size(0) == batch && grad.sym_size(1) == anchors &&
                        grad.sym_size(2) == channels,
                    "grad must have shape [", batch, ", ", anchors, ", ", channels,
                    "] (the output's), was ", grad.sym_sizes());
  check_same_device("grad", grad, "feature_maps", feature_maps);
}

// Reads the index tensors, which are tiny, and refuses maps that leave feature_maps.
inline std::vector<Map> read_maps(const at::Tensor& spatial_shape,
                                  const at::Tensor& scale_start_index, int64_t num_feat) {
  TORCH_CHECK_VALUE(num_feat <= std::numeric_limits<int32_t>::max(),
                    "feature_maps must have at most 2**31 - 1 rows, had ", num_feat);
  const at::Tensor shapes = spatial_shape.to(at::kCPU, at::kLong).contiguous();
  const at::Tensor starts = scale_start_index.to(at::kCPU, at::kLong).contiguous();
  const auto* shape = shapes.const_data_ptr<int64_t>();
  const auto* start = starts.const_data_ptr<int64_t>();
  const int64_t scales = starts.size(1);
  std::vector<Map> maps;
  for (int64_t m = 0; m < starts.numel(); m++) {
    const Map map{shape[2 * m], shape[2 * m + 1], start[m]};
    TORCH_CHECK_VALUE(map.height >= 1 && map.width >= 1, "spatial_shape[", m / scales, ", ",
                      m % scales, "] must be at least 1 by 1, was ", map.height, " by ", map.width);
    TORCH_CHECK_VALUE(
        map.start >= 0 && map.start <= num_feat && map.height <= (num_feat - map.start) / map.width,
        "scale_start_index[", m / scales, ", ", m % scales, "] must begin a map of ", map.height,
        " by ", map.width, " pixels within the ", num_feat, " rows of feature_maps, was ",
        map.start);
    maps.push_back(map);
  }
  return maps;
}

}  // namespace mxd::deformable_aggregation
