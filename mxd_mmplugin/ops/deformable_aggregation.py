"""Deformable aggregation: sample the maps of all cameras and scales at the points of each anchor, and fuse.

Sparse4D (Lin et al., "Sparse4D: Multi-view 3D Object Detection with Sparse Spatial-Temporal Fusion", arXiv 2211.10581,
and "Sparse4D v2", arXiv 2305.14018, which makes one operator of it) projects a few points of each anchor into every
camera. With f(cam, scale, x, y) a map read bilinearly, channel c of an anchor's output is

    sum over pts, cam, scale of weight[pts, cam, scale, c // (C / group)] * f(cam, scale, x[pts, cam], y[pts, cam])[c]

over the points that lie strictly inside of the image, 0 < x < 1 and 0 < y < 1. Location (x, y) is pixel
(x * width - 0.5, y * height - 0.5), pixel centres at whole numbers; what lies beyond the outermost centres fades to
zero, as `grid_sample(align_corners=False)` has it.
"""

from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .autocast import autocast, promoted
from .tracing import apply


class DeformableAggregationFunction(Function):
    """Autograd of `deformable_aggregation`, in the argument order of Sparse4D's class of this name."""

    @staticmethod
    def forward(
        ctx: Any,
        feature_maps: Tensor,
        spatial_shape: Tensor,
        scale_start_index: Tensor,
        sample_locations: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """Sample and fuse."""
        inputs = feature_maps, spatial_shape, scale_start_index, sample_locations, weight
        ctx.save_for_backward(*inputs)
        return torch.ops.mxd.deformable_aggregation(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """The gradient of the maps, and those of locations and weights together."""
        inputs = ctx.saved_tensors
        grad_features = grad_locations = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_features = torch.ops.mxd.deformable_aggregation_feature_grad(grad, *inputs)
        if ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
            grad_locations, grad_weight = torch.ops.mxd.deformable_aggregation_sample_grad(
                grad, *inputs
            )
        return grad_features, None, None, grad_locations, grad_weight


def deformable_aggregation(
    feature_maps: Tensor,
    spatial_shape: Tensor,
    scale_start_index: Tensor,
    sample_locations: Tensor,
    weight: Tensor,
) -> Tensor:
    """Sample the feature maps of all cameras and scales at each anchor's points and sum with weights.

    Args:
        feature_maps (Tensor): [bs, num_feat, c], the pixels of all maps one after the other, those of
            a map in rows; float32, float64, float16 or bfloat16 (the last two are summed in float32).
            Follows autocast as `torch.nn.functional.conv2d` does, as `weight` does.
        spatial_shape (Tensor): [cam, scale, 2], int32 or int64: height and width of each map. Cameras
            may differ.
        scale_start_index (Tensor): [cam, scale], int32 or int64: the row of `feature_maps` that each
            map begins at.
        sample_locations (Tensor): [bs, anchor, pts, cam, 2], (x, y) in units of the image's width and
            height, counted from its upper left corner; float32, float16 or bfloat16, whatever the
            maps are, or float64 with float64 maps. Positions are computed in float32 at least, also
            under autocast. Points that are not strictly between 0 and 1, NaN and infinite ones too,
            count nothing and get the gradient zero.
        weight (Tensor): [bs, anchor, pts, cam, scale, group]; where its dtype and that of `feature_maps` differ,
            both are promoted. group divides c, and channel k belongs to group k // (c / group).

    Returns:
        Tensor: [bs, anchor, c]. Differentiable once in feature_maps, sample_locations and weight;
        bit-identical from run to run on the CPU, forward and backward.

    Raises:
        ValueError: shapes that do not match, tensors on several devices, groups that do not divide
            the channels, a map that leaves `feature_maps`.
        TypeError: dtypes that are not allowed.
    """
    feature_maps, weight = promoted(*autocast(feature_maps, weight))
    if sample_locations.dtype in (torch.float16, torch.bfloat16):
        sample_locations = sample_locations.float()
    return apply(
        DeformableAggregationFunction,
        feature_maps,
        spatial_shape,
        scale_start_index,
        sample_locations,
        weight,
    )


# mx_driving's and Sparse4D's names of it
npu_deformable_aggregation = deformable_aggregation
deformable_aggregation_function = deformable_aggregation
