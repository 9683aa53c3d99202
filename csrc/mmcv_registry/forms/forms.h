// mmcv's ops for any device, over this package's own operators or ATen ops. Arguments are as in
// mmcv_ops.h.
#pragma once

#include "../mmcv_ops.h"

namespace mxd::mmcv_registry {

int hard_voxelize(const Tensor& points, Tensor& voxels, Tensor& coors, Tensor& num_points_per_voxel,
                  std::vector<float> voxel_size, std::vector<float> coors_range, int max_points,
                  int max_voxels, int ndim);
void dynamic_voxelize(const Tensor& points, Tensor& coors, std::vector<float> voxel_size,
                      std::vector<float> coors_range, int ndim);

std::vector<Tensor> dynamic_point_to_voxel_forward(const Tensor& feats, const Tensor& coors,
                                                   reduce_t reduce_type);
void dynamic_point_to_voxel_backward(Tensor& grad_feats, const Tensor& grad_reduced_feats,
                                     const Tensor& feats, const Tensor& reduced_feats,
                                     const Tensor& coors_map, const Tensor& reduce_count,
                                     reduce_t reduce_type);

void sigmoid_focal_loss_forward(Tensor input, Tensor target, Tensor weight, Tensor output,
                                float gamma, float alpha);
void sigmoid_focal_loss_backward(Tensor input, Tensor target, Tensor weight, Tensor grad_input,
                                 float gamma, float alpha);
void softmax_focal_loss_forward(Tensor softmax, Tensor target, Tensor weight, Tensor output,
                                float gamma, float alpha);
void softmax_focal_loss_backward(Tensor softmax, Tensor target, Tensor weight, Tensor buff,
                                 Tensor grad_input, float gamma, float alpha);

}  // namespace mxd::mmcv_registry
