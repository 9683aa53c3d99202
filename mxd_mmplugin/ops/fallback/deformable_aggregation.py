"""Deformable aggregation in plain PyTorch, on any device: gather the four pixels around each sample, weight, add.

Cameras and points are one axis, whatever the resolution of each camera is; scales and the four pixels are loops. Only
samples inside of their image are looked at, some thousands at a time, so that memory stays near that of the inputs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .plain import compute_dtype, plain_form

# Elements of one gathered [samples, channels] tensor.
CHUNK = 1 << 22


class _Corner(NamedTuple):
    """One of the four pixels around each of n samples; pixels outside of the map have the share 0."""

    row: Tensor  # int64 [n], in [bs * num_feat)
    share: Tensor  # [n]
    share_dx: Tensor  # [n], derivative of share by the location's x
    share_dy: Tensor


def _samples(locations: Tensor, channels: int) -> Iterator[tuple[Tensor, ...]]:
    """Chunks of (batch, anchor, point, cam), int64 [n] each, of the samples inside of their image."""
    inside = ((locations > 0) & (locations < 1)).all(-1).nonzero()
    for chunk in inside.split(max(CHUNK // max(channels, 1), 1)):
        yield chunk.unbind(1)


def _corners(
    num_feat: int,
    spatial_shape: Tensor,
    scale_start_index: Tensor,
    locations: Tensor,
    sample: tuple[Tensor, ...],
    scale: int,
) -> Iterator[_Corner]:
    """Yields the four `_Corner` of the samples at one scale."""
    batch, _, _, cam = sample
    x, y = locations[sample].unbind(1)
    height, width = spatial_shape[cam, scale].long().unbind(1)
    start = scale_start_index[cam, scale].long() + batch * num_feat
    px, py = x * width - 0.5, y * height - 0.5
    left, top = px.floor(), py.floor()
    for down in (0, 1):
        row = top.long() + down
        share_y = py - top if down else 1 - (py - top)
        for right in (0, 1):
            column = left.long() + right
            share_x = px - left if right else 1 - (px - left)
            on_map = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            yield _Corner(
                start + torch.where(on_map, row * width + column, 0),
                share_x * share_y * on_map,
                (width if right else -width) * share_y * on_map,
                (height if down else -height) * share_x * on_map,
            )


@plain_form('deformable_aggregation')
def forward(
    feature_maps: Tensor,
    spatial_shape: Tensor,
    scale_start_index: Tensor,
    sample_locations: Tensor,
    weight: Tensor,
) -> Tensor:
    """See `mxd_mmplugin.deformable_aggregation`."""
    inputs = feature_maps, spatial_shape, scale_start_index, sample_locations, weight
    (bs, num_feat, channels), anchors = feature_maps.shape, sample_locations.shape[1]
    groups, scales = weight.shape[5], weight.shape[4]
    dtype = compute_dtype(feature_maps.dtype)
    rows, locations = feature_maps.flatten(0, 1), sample_locations.to(dtype)
    out = rows.new_zeros(bs * anchors, groups, channels // groups, dtype=dtype)
    for sample in _samples(locations, channels):
        fused = out.new_zeros(len(sample[0]), *out.shape[1:])
        for scale in range(scales):
            factor = weight[sample + (scale,)].to(dtype)
            for corner in _corners(num_feat, *inputs[1:3], locations, sample, scale):
                pixels = rows[corner.row].to(dtype).view_as(fused)
                fused.addcmul_(pixels, (corner.share[:, None] * factor)[..., None])
        out.index_add_(0, sample[0] * anchors + sample[1], fused)
    return out.view(bs, anchors, channels).to(feature_maps.dtype)


@plain_form('deformable_aggregation_feature_grad')
def feature_grad(
    grad: Tensor,
    feature_maps: Tensor,
    spatial_shape: Tensor,
    scale_start_index: Tensor,
    sample_locations: Tensor,
    weight: Tensor,
) -> Tensor:
    """Gradient of the feature maps, [bs, num_feat, c], from that of the output."""
    inputs = feature_maps, spatial_shape, scale_start_index, sample_locations, weight
    (bs, num_feat, channels), anchors = feature_maps.shape, sample_locations.shape[1]
    groups, scales = weight.shape[5], weight.shape[4]
    dtype = compute_dtype(feature_maps.dtype)
    locations = sample_locations.to(dtype)
    grad = grad.reshape(bs * anchors, groups, channels // groups).to(dtype)
    out = grad.new_zeros(bs * num_feat, groups, channels // groups)
    for sample in _samples(locations, channels):
        grads = grad[sample[0] * anchors + sample[1]]
        for scale in range(scales):
            factor = weight[sample + (scale,)].to(dtype)
            for corner in _corners(num_feat, *inputs[1:3], locations, sample, scale):
                out.index_add_(0, corner.row, grads * (corner.share[:, None] * factor)[..., None])
    return out.view(bs, num_feat, channels).to(feature_maps.dtype)


@plain_form('deformable_aggregation_sample_grad')
def sample_grad(
    grad: Tensor,
    feature_maps: Tensor,
    spatial_shape: Tensor,
    scale_start_index: Tensor,
    sample_locations: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of the locations and the weights, in their shapes, from that of the output."""
    inputs = feature_maps, spatial_shape, scale_start_index, sample_locations, weight
    (bs, num_feat, channels), anchors = feature_maps.shape, sample_locations.shape[1]
    groups, scales = weight.shape[5], weight.shape[4]
    dtype = compute_dtype(feature_maps.dtype)
    rows, locations = feature_maps.flatten(0, 1), sample_locations.to(dtype)
    grad = grad.reshape(bs * anchors, groups, channels // groups).to(dtype)
    grad_locations = torch.zeros_like(locations, memory_format=torch.contiguous_format)
    grad_weight = torch.zeros_like(weight, dtype=dtype, memory_format=torch.contiguous_format)
    for sample in _samples(locations, channels):
        grads = grad[sample[0] * anchors + sample[1]]
        slope = locations.new_zeros(len(grads), 2)
        for scale in range(scales):
            factor = weight[sample + (scale,)].to(dtype)
            read = torch.zeros_like(factor)
            for corner in _corners(num_feat, *inputs[1:3], locations, sample, scale):
                pixels = rows[corner.row].to(dtype).view_as(grads)
                dots = (pixels * grads).sum(2)  # [n, groups]
                read += corner.share[:, None] * dots
                along = (factor * dots).sum(1)
                slope += torch.stack([corner.share_dx * along, corner.share_dy * along], 1)
            grad_weight[sample + (scale,)] = read
        grad_locations[sample] = slope
    return grad_locations.to(sample_locations.dtype), grad_weight.to(weight.dtype)
