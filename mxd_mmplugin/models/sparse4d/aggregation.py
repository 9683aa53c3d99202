"""Deformable aggregation with key points: what the boxes see in the images of this frame and of frames before it."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Optional

import torch
import torch.nn.functional as F
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule, constant_init, xavier_init
from torch import Tensor, nn

from ...ops.sizes import takes_whole_numbers
from .box3d import Frame
from .layers import linear_relu_ln


@lru_cache(maxsize=16)
def _index_tables(
    shapes: tuple[tuple[int, int], ...], cameras: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Sizes and first pixels, see `flatten_maps`: the same tensors for the same maps, so that they are read once."""
    starts, start = [], 0
    for _ in range(cameras):
        for height, width in shapes:
            starts.append(start)
            start += height * width
    # They outlive an inference_mode, and what is made in it no training may use.
    with torch.inference_mode(False):
        return (
            torch.tensor([shapes] * cameras, dtype=torch.int32, device=device),
            torch.tensor(starts, dtype=torch.int32, device=device).view(cameras, -1),
        )


def flatten_maps(feature_maps: Sequence[Tensor]) -> list:
    """Feature maps as the operator reads them.

    Args:
        feature_maps (Sequence[Tensor]): [B, N, C, h, w] for each scale.

    Returns:
        list[Tensor]: [B, pixels, C], camera by camera, and in each scale by scale; heights and widths
        [N, scales, 2]; first pixels [N, scales].
    """
    rows = torch.cat([maps.flatten(3) for maps in feature_maps], -1)
    shapes = tuple((int(maps.shape[-2]), int(maps.shape[-1])) for maps in feature_maps)
    tables = _index_tables(shapes, feature_maps[0].shape[1], feature_maps[0].device)
    return [rows.transpose(2, 3).flatten(1, 2), *tables]


def map_strides(feature_maps: Sequence[Tensor], image_size: Sequence[int]) -> list:
    """Pixels of the image to a pixel of each map.

    Args:
        feature_maps (Sequence[Tensor]): [..., h, w] for each scale.
        image_size (Sequence[int]): height and width of the images that the maps were made from.

    Returns:
        list[int]: for each scale. Convolutions round up, so that a map may reach beyond its image.

    Raises:
        ValueError: a map that no stride explains.
    """
    strides = []
    for maps in feature_maps:
        sizes = list(zip(image_size, maps.shape[-2:]))
        share = max(image / size for image, size in sizes)
        # Nearly all backbones have powers of two; another stride is seen where it divides the images.
        for stride in (2 ** math.ceil(math.log2(share)), round(share)):
            if all(size == -(-image // stride) for image, size in sizes):
                strides.append(stride)
                break
        else:
            raise ValueError(
                f'a feature map of {tuple(maps.shape[-2:])} pixels does not fit images of {tuple(image_size)}: '
                'set pad_size_divisor of the data_preprocessor to the greatest stride of the maps'
            )
    return strides


def cover_alike(feature_maps: Sequence[Tensor], image_size: Sequence[int]) -> tuple:
    """Let maps of all scales cover the same part of the plane, so that one location serves them all.

    Where a stride does not divide the images its map reaches beyond them, each scale's to another place; zeros take
    all maps to where every scale has a whole number of pixels.

    Args:
        feature_maps (Sequence[Tensor]): [..., h, w] for each scale.
        image_size (Sequence[int]): height and width of the images.

    Returns:
        tuple[list[Tensor], list[int]]: the maps, and the height and width that they cover, in pixels of the images.
    """
    strides = map_strides(feature_maps, image_size)
    step = math.lcm(*strides)
    covered = [-(-size // step) * step for size in image_size]
    height, width = covered
    maps = []
    for x, stride in zip(feature_maps, strides):
        below, right = height // stride - x.shape[-2], width // stride - x.shape[-1]
        maps.append(F.pad(x, (0, right, 0, below)) if below or right else x)
    return maps, covered


def project_points(points: Tensor, frame: Frame) -> Tensor:
    """Where points are in the images.

    Args:
        points (Tensor): [B, A, P, 3], LiDAR frame.
        frame (Frame): the cameras.

    Returns:
        Tensor: [B, A, P, N, 2], (x, y) in units of `image_wh`.
    """
    matrix = frame.projection_mat[:, None, None, :, :3]  # [B, 1, 1, N, 3, 4]
    seen = (matrix[..., :3] @ points[..., None, :, None]).squeeze(-1) + matrix[..., 3]
    pixels = seen[..., :2] / seen[..., 2:].clamp(min=1e-5)
    return pixels / frame.image_wh[:, None, None]


class GridSampleAggregation(nn.Module):
    """`DeformableAggregation` with PyTorch's `grid_sample`, one gathered feature for each sample: the reference.

    For comparison: it holds what each point sees in each image and scale, and takes several times the time and memory.
    """

    def forward(
        self,
        feature_maps: Tensor,
        spatial_shape: Tensor,
        scale_start_index: Tensor,
        sample_locations: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """See `DeformableAggregation.forward`; all cameras have the same sizes of maps."""
        (batch, _, channels), (_, anchors, points, cameras, _) = (
            feature_maps.shape,
            sample_locations.shape,
        )
        groups = weight.shape[-1]
        # Samples outside of their image count nothing; grid_sample lets them fade beyond the border.
        inside = ((sample_locations > 0) & (sample_locations < 1)).all(-1)
        weight = weight * inside[..., None, None]
        grid = (sample_locations * 2 - 1).permute(0, 3, 1, 2, 4).flatten(0, 1)
        out, shapes = feature_maps.new_zeros(()), spatial_shape[0].tolist()
        for scale, ((height, width), starts) in enumerate(
            zip(shapes, scale_start_index.T.tolist())
        ):
            of_cameras = [feature_maps[:, start : start + height * width] for start in starts]
            maps = torch.stack(of_cameras, 1).flatten(0, 1).transpose(1, 2)
            read = F.grid_sample(maps.unflatten(2, (height, width)), grid, align_corners=False)
            read = read.view(batch, cameras, groups, channels // groups, anchors, points)
            out = out + torch.einsum('bngcap,bapng->bagc', read, weight[..., scale, :])
        return out.flatten(2)


class DeformableFeatureAggregation(BaseModule):
    """Samples the feature maps at the key points of each instance's box, and fuses.

    Args:
        embed_dims (int): channels.
        num_groups (int): groups of channels with weights of their own.
        num_levels (int): scales of the maps.
        num_cams (int): images.
        proj_drop (float): dropout of the result.
        attn_drop (float): share of the samples left out in training.
        kps_generator (dict): config of the key points.
        temporal_fusion_module (dict, optional): config of what fuses frames (v1); without it they are added.
        use_temporal_anchor_embed (bool): weights for the past come from the boxes as they were then.
        use_camera_embed (bool): weights also depend on the camera's matrix.
        residual_mode (str): 'add' the instance, or 'cat' it.
        aggregation (dict): config of the operator, `DeformableAggregation` or another with its arguments.
    """

    @takes_whole_numbers
    def __init__(
        self,
        embed_dims: int = 256,
        num_groups: int = 8,
        num_levels: int = 4,
        num_cams: int = 6,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        kps_generator: dict = dict(type='SparseBox3DKeyPointsGenerator'),
        temporal_fusion_module: Optional[dict] = None,
        use_temporal_anchor_embed: bool = True,
        use_camera_embed: bool = False,
        residual_mode: str = 'add',
        aggregation: dict = dict(type='DeformableAggregation'),
    ) -> None:
        super().__init__()
        if embed_dims % num_groups:
            raise ValueError(
                f'embed_dims must be a multiple of num_groups, was {embed_dims} with {num_groups}'
            )
        if residual_mode not in ('add', 'cat'):
            raise ValueError(f"residual_mode must be 'add' or 'cat', was {residual_mode!r}")
        self.embed_dims = embed_dims
        self.num_groups = num_groups
        self.num_levels = num_levels
        self.num_cams = num_cams
        self.attn_drop = attn_drop
        self.use_temporal_anchor_embed = use_temporal_anchor_embed
        self.residual_mode = residual_mode
        self.proj_drop = nn.Dropout(proj_drop)
        self.kps_generator = MODELS.build(dict(kps_generator, embed_dims=embed_dims))
        self.num_pts = self.kps_generator.num_pts
        self.temp_module = None
        if temporal_fusion_module is not None:
            self.temp_module = MODELS.build(dict(temporal_fusion_module, embed_dims=embed_dims))
        self.output_proj = nn.Linear(embed_dims, embed_dims)
        weights = num_groups * num_levels * self.num_pts
        self.camera_encoder = None
        if use_camera_embed:
            self.camera_encoder = nn.Sequential(*linear_relu_ln(embed_dims, 1, 2, 12))
        else:
            weights *= num_cams
        self.weights_fc = nn.Linear(embed_dims, weights)
        self.aggregation = MODELS.build(aggregation)

    def init_weights(self) -> None:
        """All samples weigh the same at first."""
        constant_init(self.weights_fc, val=0.0, bias=0.0)
        xavier_init(self.output_proj, distribution='uniform')

    def forward(
        self,
        instance_feature: Tensor,
        anchor: Tensor,
        anchor_embed: Tensor,
        feature_maps: Sequence[Tensor],
        frame: Frame,
        queue: Sequence = (),
        depth_module: Optional[nn.Module] = None,
        anchor_encoder: Optional[nn.Module] = None,
    ) -> Tensor:
        """Aggregate.

        Args:
            instance_feature (Tensor): [B, A, C].
            anchor (Tensor): states, [B, A, 11].
            anchor_embed (Tensor): [B, A, C].
            feature_maps (Sequence[Tensor]): from `flatten_maps`.
            frame (Frame): that of the maps.
            queue (Sequence): (feature_maps, frame) of frames before, the latest first (v1).
            depth_module (nn.Module, optional): weighs each point's feature by its depth (v1).
            anchor_encoder (nn.Module, optional): embeds the boxes as they were in the frames before.

        Returns:
            Tensor: [B, A, C], or [B, A, 2 * C] with residual_mode 'cat'.
        """
        for name, found in (
            ('num_cams', frame.projection_mat.shape[1]),
            ('num_levels', feature_maps[1].shape[1]),
        ):
            if getattr(self, name) != found:
                raise ValueError(
                    f'{name} of the deformable_model must be the {found} that the images and their maps have, was '
                    f'{getattr(self, name)}'
                )
        points = self.kps_generator(anchor, instance_feature)
        if not queue and depth_module is None and self.temp_module is None:
            weight = self._weights(instance_feature, anchor_embed, frame)
            features = self.aggregation(*feature_maps, project_points(points, frame), weight)
        else:
            args = feature_maps, frame, queue, depth_module, anchor_encoder
            features = self._over_time(instance_feature, anchor, anchor_embed, points, *args)
        out = self.proj_drop(self.output_proj(features))
        if self.residual_mode == 'add':
            return out + instance_feature
        return torch.cat([out, instance_feature], -1)

    def sample(
        self, points: Tensor, feature_maps: Sequence[Tensor], frame: Frame, weight: Tensor
    ) -> Tensor:
        """What each point sees by itself, [B, A, P, C]: an anchor of one point each."""
        locations = project_points(points, frame).flatten(1, 2)[:, :, None]
        fused = self.aggregation(*feature_maps, locations, weight.flatten(1, 2)[:, :, None])
        return fused.unflatten(1, points.shape[1:3])

    def _over_time(
        self,
        instance_feature: Tensor,
        anchor: Tensor,
        anchor_embed: Tensor,
        points: Tensor,
        feature_maps: Sequence[Tensor],
        frame: Frame,
        queue: Sequence,
        depth_module: Optional[nn.Module],
        anchor_encoder: Optional[nn.Module],
    ) -> Tensor:
        """Point by point through the frames, the oldest first; [B, A, C]."""
        features = points.new_zeros(*points.shape[:3], self.embed_dims)
        started = torch.zeros(len(frame), dtype=torch.bool)
        weight = self._weights(instance_feature, anchor_embed, frame)
        for maps, past in reversed(queue):
            seconds, transform = past.interval(frame), frame.transform_to(past)
            then = self.kps_generator.anchor_projection(anchor, transform, seconds)
            if self.use_temporal_anchor_embed and anchor_encoder is not None:
                past_weight = self._weights(instance_feature, anchor_encoder(then), frame)
            else:
                past_weight = weight
            places = self.kps_generator.point_projection(points, anchor, transform, seconds)
            seen = self.sample(places, maps, past, past_weight)
            if depth_module is not None:
                seen = depth_module(seen, then[:, :, None])
            valid = torch.ones_like(started) if past.valid is None else past.valid
            fused = self._fuse(features, seen, seconds)
            on_device = (flags.to(points.device)[:, None, None, None] for flags in (started, valid))
            begun, there = on_device
            features = torch.where(there, torch.where(begun, fused, seen), features)
            started = started | valid
        seen = self.sample(points, feature_maps, frame, weight)
        if depth_module is not None:
            seen = depth_module(seen, anchor[:, :, None])
        return self._fuse(features, seen, frame.interval(frame)).sum(2)

    def _fuse(self, before: Tensor, now: Tensor, seconds: Tensor) -> Tensor:
        return before + now if self.temp_module is None else self.temp_module(before, now, seconds)

    def _weights(self, instance_feature: Tensor, anchor_embed: Tensor, frame: Frame) -> Tensor:
        """The share of each sample, [B, A, P, N, scales, groups]; those of an instance and group add up to 1."""
        feature = instance_feature + anchor_embed
        if self.camera_encoder is not None:
            matrices = frame.projection_mat[:, :, :3].flatten(2)
            feature = feature[:, :, None] + self.camera_encoder(matrices)[:, None]
        batch, anchors = instance_feature.shape[:2]
        weight = self.weights_fc(feature).view(batch, anchors, -1, self.num_groups).softmax(2)
        weight = weight.view(batch, anchors, self.num_cams, self.num_levels, self.num_pts, -1)
        weight = weight.permute(0, 1, 4, 2, 3, 5)
        if self.training and self.attn_drop > 0:
            drawn = torch.rand(*weight.shape[:4], 1, 1, device=weight.device, dtype=weight.dtype)
            weight = weight * (drawn > self.attn_drop) / (1 - self.attn_drop)
        return weight.contiguous()
