// mmcv's ops written so that they run on the device: with this package's own operators (Ascend
// kernels or plain PyTorch) or with ATen ops. Arguments are as in mmcv_ops.h.
#pragma once

#include "forms/forms.h"

namespace mxd::mmcv_registry {

// Over torch.ops.mxd.
void box_iou_rotated(Tensor boxes1, Tensor boxes2, Tensor ious, int mode_flag, bool aligned);
void boxes_overlap_bev(int num_a, Tensor boxes_a, int num_b, Tensor boxes_b, Tensor overlap);
void nms3d(Tensor boxes, Tensor& keep, Tensor& keep_num, float threshold);
void nms3d_normal(Tensor boxes, Tensor& keep, Tensor& keep_num, float threshold);
// mmcv has no key for it: its own function asks no registry. Angles are in radians; `labels` may be
// undefined.
Tensor nms_rotated(const Tensor& dets, const Tensor& scores, const Tensor& labels,
                   float iou_threshold);

// In ATen ops.
Tensor ms_deform_attn_forward(const Tensor& value, const Tensor& spatial_shapes,
                              const Tensor& level_start_index, const Tensor& sampling_loc,
                              const Tensor& attn_weight, int im2col_step);
void ms_deform_attn_backward(const Tensor& value, const Tensor& spatial_shapes,
                             const Tensor& level_start_index, const Tensor& sampling_loc,
                             const Tensor& attn_weight, const Tensor& grad_output,
                             Tensor& grad_value, Tensor& grad_sampling_loc,
                             Tensor& grad_attn_weight, int im2col_step);
void points_in_boxes_part(int batch_size, int boxes_num, int pts_num, Tensor boxes, Tensor pts,
                          Tensor box_idx_of_points);
void points_in_boxes_all(int batch_size, int boxes_num, int pts_num, Tensor boxes, Tensor pts,
                         Tensor box_idx_of_points);
void three_nn(int b, int n, int m, Tensor unknown, Tensor known, Tensor dist2, Tensor idx);
void three_interpolate_forward(int b, int c, int m, int n, Tensor points, Tensor idx, Tensor weight,
                               Tensor out);
void three_interpolate_backward(int b, int c, int n, int m, Tensor grad_out, Tensor idx,
                                Tensor weight, Tensor grad_points);
void ball_query(int b, int n, int m, float min_radius, float max_radius, int nsample,
                Tensor new_xyz, Tensor xyz, Tensor idx);
void group_points_forward(int b, int c, int n, int npoints, int nsample, Tensor points, Tensor idx,
                          Tensor out);
void group_points_backward(int b, int c, int n, int npoints, int nsample, Tensor grad_out,
                           Tensor idx, Tensor grad_points);
void gather_points_forward(int b, int c, int n, int npoints, Tensor points, Tensor idx, Tensor out);
void gather_points_backward(int b, int c, int n, int npoints, Tensor grad_out, Tensor idx,
                            Tensor grad_points);
void stack_group_points_forward(int b, int c, int m, int nsample, Tensor features,
                                Tensor features_batch_cnt, Tensor idx, Tensor idx_batch_cnt,
                                Tensor out);
void stack_group_points_backward(int b, int c, int m, int n, int nsample, Tensor grad_out,
                                 Tensor idx, Tensor idx_batch_cnt, Tensor features_batch_cnt,
                                 Tensor grad_features);
void roipoint_pool3d(int batch_size, int pts_num, int boxes_num, int feature_in_len,
                     int sampled_pts_num, Tensor xyz, Tensor boxes3d, Tensor pts_feature,
                     Tensor pooled_features, Tensor pooled_empty_flag);
void assign_score_withk_forward(int B, int N0, int N1, int M, int K, int O, int aggregate,
                                const Tensor& points, const Tensor& centers, const Tensor& scores,
                                const Tensor& knn_idx, Tensor& output);
void assign_score_withk_backward(int B, int N0, int N1, int M, int K, int O, int aggregate,
                                 const Tensor& grad_out, const Tensor& points,
                                 const Tensor& centers, const Tensor& scores, const Tensor& knn_idx,
                                 Tensor& grad_points, Tensor& grad_centers, Tensor& grad_scores);

}  // namespace mxd::mmcv_registry
