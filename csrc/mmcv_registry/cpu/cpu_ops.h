// mmcv's ops as CPU kernels, for those that mmcv has for GPUs alone. Arguments and results are
// those of mmcv's CUDA kernels, equal indices on ties included. float16 and bfloat16 are computed
// in float32. Every kernel gives the same bits with any number of threads.
#pragma once

#include "../mmcv_ops.h"

namespace mxd::mmcv_registry::cpu {

// Sets of points.
void furthest_point_sampling(Tensor points, Tensor temp, Tensor idx, int b, int n, int m);
void furthest_point_sampling_with_dist(Tensor points_dist, Tensor temp, Tensor idx, int b, int n,
                                       int m);
void ball_query(int b, int n, int m, float min_radius, float max_radius, int nsample,
                Tensor new_xyz, Tensor xyz, Tensor idx);
void stack_ball_query(float max_radius, int nsample, Tensor new_xyz, Tensor new_xyz_batch_cnt,
                      Tensor xyz, Tensor xyz_batch_cnt, Tensor idx);
void knn(int b, int n, int m, int nsample, Tensor xyz, Tensor new_xyz, Tensor idx, Tensor dist2);
void three_nn(int b, int n, int m, Tensor unknown, Tensor known, Tensor dist2, Tensor idx);

// Groups of points.
void gather_points_forward(int b, int c, int n, int npoints, Tensor points, Tensor idx, Tensor out);
void gather_points_backward(int b, int c, int n, int npoints, Tensor grad_out, Tensor idx,
                            Tensor grad_points);
void group_points_forward(int b, int c, int n, int npoints, int nsample, Tensor points, Tensor idx,
                          Tensor out);
void group_points_backward(int b, int c, int n, int npoints, int nsample, Tensor grad_out,
                           Tensor idx, Tensor grad_points);
void stack_group_points_forward(int b, int c, int m, int nsample, Tensor features,
                                Tensor features_batch_cnt, Tensor idx, Tensor idx_batch_cnt,
                                Tensor out);
void stack_group_points_backward(int b, int c, int m, int n, int nsample, Tensor grad_out,
                                 Tensor idx, Tensor idx_batch_cnt, Tensor features_batch_cnt,
                                 Tensor grad_features);
void three_interpolate_forward(int b, int c, int m, int n, Tensor points, Tensor idx, Tensor weight,
                               Tensor out);
void three_interpolate_backward(int b, int c, int n, int m, Tensor grad_out, Tensor idx,
                                Tensor weight, Tensor grad_points);
void assign_score_withk_forward(int B, int N0, int N1, int M, int K, int O, int aggregate,
                                const Tensor& points, const Tensor& centers, const Tensor& scores,
                                const Tensor& knn_idx, Tensor& output);
void assign_score_withk_backward(int B, int N0, int N1, int M, int K, int O, int aggregate,
                                 const Tensor& grad_out, const Tensor& points,
                                 const Tensor& centers, const Tensor& scores, const Tensor& knn_idx,
                                 Tensor& grad_points, Tensor& grad_centers, Tensor& grad_scores);

// Points in boxes.
void points_in_boxes_part(int batch_size, int boxes_num, int pts_num, Tensor boxes, Tensor pts,
                          Tensor box_idx_of_points);
void points_in_boxes_all(int batch_size, int boxes_num, int pts_num, Tensor boxes, Tensor pts,
                         Tensor box_idx_of_points);
void roiaware_pool3d_forward(int boxes_num, int pts_num, int channels, int max_pts_each_voxel,
                             int out_x, int out_y, int out_z, Tensor rois, Tensor pts,
                             Tensor pts_feature, Tensor argmax, Tensor pts_idx_of_voxels,
                             Tensor pooled_features, int pool_method);
void roiaware_pool3d_backward(int boxes_num, int out_x, int out_y, int out_z, int channels,
                              int max_pts_each_voxel, Tensor pts_idx_of_voxels, Tensor argmax,
                              Tensor grad_out, Tensor grad_in, int pool_method);
void roipoint_pool3d(int batch_size, int pts_num, int boxes_num, int feature_in_len,
                     int sampled_pts_num, Tensor xyz, Tensor boxes3d, Tensor pts_feature,
                     Tensor pooled_features, Tensor pooled_empty_flag);

// Focal loss.
void sigmoid_focal_loss_forward(Tensor input, Tensor target, Tensor weight, Tensor output,
                                float gamma, float alpha);
void sigmoid_focal_loss_backward(Tensor input, Tensor target, Tensor weight, Tensor grad_input,
                                 float gamma, float alpha);

}  // namespace mxd::mmcv_registry::cpu
