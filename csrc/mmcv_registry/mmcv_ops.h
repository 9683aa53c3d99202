// The functions that mmcv 2.x uses as the keys of its C++ op registry. For each key and device the
// registry holds a function of the same signature.
#pragma once

#include <torch/types.h>

#include <vector>

using at::Tensor;

int hard_voxelize_forward_impl(const Tensor& points, Tensor& voxels, Tensor& coors,
                               Tensor& num_points_per_voxel, std::vector<float> voxel_size,
                               std::vector<float> coors_range, int max_points, int max_voxels,
                               int ndim);
int nondeterministic_hard_voxelize_forward_impl(const Tensor& points, Tensor& voxels, Tensor& coors,
                                                Tensor& num_points_per_voxel,
                                                std::vector<float> voxel_size,
                                                std::vector<float> coors_range, int max_points,
                                                int max_voxels, int ndim);
void dynamic_voxelize_forward_impl(const Tensor& points, Tensor& coors,
                                   std::vector<float> voxel_size, std::vector<float> coors_range,
                                   int ndim);

enum reduce_t { SUM, MEAN, MAX };
std::vector<Tensor> dynamic_point_to_voxel_forward_impl(const Tensor& feats, const Tensor& coors,
                                                        reduce_t reduce_type);
void dynamic_point_to_voxel_backward_impl(Tensor& grad_feats, const Tensor& grad_reduced_feats,
                                          const Tensor& feats, const Tensor& reduced_feats,
                                          const Tensor& coors_map, const Tensor& reduce_count,
                                          reduce_t reduce_type);

void sigmoid_focal_loss_forward_impl(Tensor input, Tensor target, Tensor weight, Tensor output,
                                     float gamma, float alpha);
void sigmoid_focal_loss_backward_impl(Tensor input, Tensor target, Tensor weight, Tensor grad_input,
                                      float gamma, float alpha);
void softmax_focal_loss_forward_impl(Tensor softmax, Tensor target, Tensor weight, Tensor output,
                                     float gamma, float alpha);
void softmax_focal_loss_backward_impl(Tensor softmax, Tensor target, Tensor weight, Tensor buff,
                                      Tensor grad_input, float gamma, float alpha);

Tensor ms_deform_attn_impl_forward(const Tensor& value, const Tensor& spatial_shapes,
                                   const Tensor& level_start_index, const Tensor& sampling_loc,
                                   const Tensor& attn_weight, int im2col_step);
void ms_deform_attn_impl_backward(const Tensor& value, const Tensor& spatial_shapes,
                                  const Tensor& level_start_index, const Tensor& sampling_loc,
                                  const Tensor& attn_weight, const Tensor& grad_output,
                                  Tensor& grad_value, Tensor& grad_sampling_loc,
                                  Tensor& grad_attn_weight, int im2col_step);

void points_in_boxes_part_forward_impl(int batch_size, int boxes_num, int pts_num, Tensor boxes,
                                       Tensor pts, Tensor box_idx_of_points);
void points_in_boxes_all_forward_impl(int batch_size, int boxes_num, int pts_num, Tensor boxes,
                                      Tensor pts, Tensor box_idx_of_points);
void roiaware_pool3d_forward_impl(int boxes_num, int pts_num, int channels, int max_pts_each_voxel,
                                  int out_x, int out_y, int out_z, Tensor rois, Tensor pts,
                                  Tensor pts_feature, Tensor argmax, Tensor pts_idx_of_voxels,
                                  Tensor pooled_features, int pool_method);
void roiaware_pool3d_backward_impl(int boxes_num, int out_x, int out_y, int out_z, int channels,
                                   int max_pts_each_voxel, Tensor pts_idx_of_voxels, Tensor argmax,
                                   Tensor grad_out, Tensor grad_in, int pool_method);
void roipoint_pool3d_forward_impl(int batch_size, int pts_num, int boxes_num, int feature_in_len,
                                  int sampled_pts_num, Tensor xyz, Tensor boxes3d,
                                  Tensor pts_feature, Tensor pooled_features,
                                  Tensor pooled_empty_flag);

Tensor nms_impl(Tensor boxes, Tensor scores, float iou_threshold, int offset);
void bbox_overlaps_impl(Tensor bboxes1, Tensor bboxes2, Tensor ious, int mode, bool aligned,
                        int offset);
void box_iou_rotated_impl(Tensor boxes1, Tensor boxes2, Tensor ious, int mode_flag, bool aligned);
void box_iou_quadri_impl(Tensor boxes1, Tensor boxes2, Tensor ious, int mode_flag, bool aligned);
void iou3d_boxes_overlap_bev_forward_impl(int num_a, Tensor boxes_a, int num_b, Tensor boxes_b,
                                          Tensor ans_overlap);
void iou3d_nms3d_forward_impl(Tensor boxes, Tensor& keep, Tensor& keep_num, float threshold);
void iou3d_nms3d_normal_forward_impl(Tensor boxes, Tensor& keep, Tensor& keep_num, float threshold);

void roi_align_forward_impl(Tensor input, Tensor rois, Tensor output, Tensor argmax_y,
                            Tensor argmax_x, int aligned_height, int aligned_width,
                            float spatial_scale, int sampling_ratio, int pool_mode, bool aligned);
void roi_align_backward_impl(Tensor grad_output, Tensor rois, Tensor argmax_y, Tensor argmax_x,
                             Tensor grad_input, int aligned_height, int aligned_width,
                             float spatial_scale, int sampling_ratio, int pool_mode, bool aligned);
void roi_align_rotated_forward_impl(Tensor input, Tensor rois, Tensor output, int aligned_height,
                                    int aligned_width, float spatial_scale, int sampling_ratio,
                                    bool aligned, bool clockwise);
void roi_align_rotated_backward_impl(Tensor grad_output, Tensor rois, Tensor grad_input,
                                     int aligned_height, int aligned_width, float spatial_scale,
                                     int sampling_ratio, bool aligned, bool clockwise);

void three_nn_forward_impl(int b, int n, int m, Tensor unknown, Tensor known, Tensor dist2,
                           Tensor idx);
void three_interpolate_forward_impl(int b, int c, int m, int n, Tensor points, Tensor idx,
                                    Tensor weight, Tensor out);
void three_interpolate_backward_impl(int b, int c, int n, int m, Tensor grad_out, Tensor idx,
                                     Tensor weight, Tensor grad_points);
void knn_forward_impl(int b, int n, int m, int nsample, Tensor xyz, Tensor new_xyz, Tensor idx,
                      Tensor dist2);
void furthest_point_sampling_forward_impl(Tensor points, Tensor temp, Tensor idx, int b, int n,
                                          int m);
void furthest_point_sampling_with_dist_forward_impl(Tensor points_dist, Tensor temp, Tensor idx,
                                                    int b, int n, int m);
void ball_query_forward_impl(int b, int n, int m, float min_radius, float max_radius, int nsample,
                             Tensor new_xyz, Tensor xyz, Tensor idx);
void stack_ball_query_forward_impl(float max_radius, int nsample, Tensor new_xyz,
                                   Tensor new_xyz_batch_cnt, Tensor xyz, Tensor xyz_batch_cnt,
                                   Tensor idx);
void group_points_forward_impl(int b, int c, int n, int npoints, int nsample, Tensor points,
                               Tensor idx, Tensor out);
void group_points_backward_impl(int b, int c, int n, int npoints, int nsample, Tensor grad_out,
                                Tensor idx, Tensor grad_points);
void stack_group_points_forward_impl(int b, int c, int m, int nsample, Tensor features,
                                     Tensor features_batch_cnt, Tensor idx, Tensor idx_batch_cnt,
                                     Tensor out);
void stack_group_points_backward_impl(int b, int c, int m, int n, int nsample, Tensor grad_out,
                                      Tensor idx, Tensor idx_batch_cnt, Tensor features_batch_cnt,
                                      Tensor grad_features);
void gather_points_forward_impl(int b, int c, int n, int npoints, Tensor points, Tensor idx,
                                Tensor out);
void gather_points_backward_impl(int b, int c, int n, int npoints, Tensor grad_out, Tensor idx,
                                 Tensor grad_points);

void assign_score_withk_forward_impl(int B, int N0, int N1, int M, int K, int O, int aggregate,
                                     const Tensor& points, const Tensor& centers,
                                     const Tensor& scores, const Tensor& knn_idx, Tensor& output);
void assign_score_withk_backward_impl(int B, int N0, int N1, int M, int K, int O, int aggregate,
                                      const Tensor& grad_out, const Tensor& points,
                                      const Tensor& centers, const Tensor& scores,
                                      const Tensor& knn_idx, Tensor& grad_points,
                                      Tensor& grad_centers, Tensor& grad_scores);
