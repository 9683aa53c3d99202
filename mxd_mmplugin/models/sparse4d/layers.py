"""The parts of Sparse4D that know about one box: its embedding, its key points, its refinement; and plain layers."""

from collections.abc import Sequence
from typing import Optional, Union, cast

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn import Scale, build_activation_layer, build_norm_layer
from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule, bias_init_with_prob, xavier_init
from torch import Tensor, nn

from ...ops.sizes import takes_whole_numbers
from .box3d import CENTER, SIZE, VELOCITY, YAW, parts


def linear_relu_ln(
    embed_dims: int, in_loops: int, out_loops: int, input_dims: Optional[int] = None
) -> list:
    """`out_loops` times: `in_loops` linear layers, each with a ReLU, and a layer norm.

    No ReLU is in place. What a linear layer returns is a view, and the gradient of a view that was changed in place
    takes four operators more.
    """
    dims, layers = input_dims or embed_dims, []
    for _ in range(out_loops):
        for _ in range(in_loops):
            layers += [nn.Linear(dims, embed_dims), nn.ReLU()]
            dims = embed_dims
        layers.append(nn.LayerNorm(embed_dims))
    return layers


def _activation(cfg: dict) -> nn.Module:
    """An activation of a config, not in place: see `linear_relu_ln`."""
    layer = build_activation_layer(cfg)
    if hasattr(layer, 'inplace'):
        layer.inplace = False
    return layer


class SparseBox3DEncoder(BaseModule):
    """Embedding of boxes: one of position, size, yaw and velocity each, added or side by side.

    Args:
        embed_dims (int or Sequence[int]): channels, or those of the four parts.
        vel_dims (int): how many of vx, vy, vz are embedded.
        mode (str): 'add' or 'cat'.
        output_fc (bool): layers behind the sum.
        in_loops, out_loops (int): see `linear_relu_ln`.
    """

    @takes_whole_numbers
    def __init__(
        self,
        embed_dims: Union[int, Sequence[int]],
        vel_dims: int = 3,
        mode: str = 'add',
        output_fc: bool = True,
        in_loops: int = 1,
        out_loops: int = 2,
    ) -> None:
        super().__init__()
        if mode not in ('add', 'cat'):
            raise ValueError(f"mode must be 'add' or 'cat', was {mode!r}")
        self.embed_dims = embed_dims
        self.vel_dims = vel_dims
        self.mode = mode
        dims = [embed_dims] * 5 if isinstance(embed_dims, int) else embed_dims

        def part(input_dims: int, output_dims: int) -> nn.Sequential:
            return nn.Sequential(*linear_relu_ln(output_dims, in_loops, out_loops, input_dims))

        self.pos_fc = part(3, dims[0])
        self.size_fc = part(3, dims[1])
        self.yaw_fc = part(2, dims[2])
        if vel_dims > 0:
            self.vel_fc = part(vel_dims, dims[3])
        self.output_fc = part(dims[-1], dims[-1]) if output_fc else None
        joined = dims[: 4 if vel_dims > 0 else 3]
        added = joined[0] if mode == 'add' else sum(joined)
        self.output_dims = dims[-1] if output_fc else added

    def forward(self, box_3d: Tensor) -> Tensor:
        """Embed.

        Args:
            box_3d (Tensor): states, [..., 11].

        Returns:
            Tensor: [..., C].
        """
        center, size, yaw, velocity = parts(box_3d)
        embedded = [self.pos_fc(center), self.size_fc(size), self.yaw_fc(yaw)]
        if self.vel_dims > 0:
            embedded.append(self.vel_fc(velocity[..., : self.vel_dims]))
        out = sum(embedded[1:], embedded[0]) if self.mode == 'add' else torch.cat(embedded, -1)
        return out if self.output_fc is None else self.output_fc(out)


class SparseBox3DKeyPointsGenerator(BaseModule):
    """Points of a box that look into the images: fixed places in it, and learned ones.

    Args:
        embed_dims (int): channels of an instance.
        num_learnable_pts (int): points that an instance places itself, inside of its box.
        fix_scale (Sequence, optional): [n, 3], places in units of the sides; the middle without.
        save_fix_scale (bool): whether the places are part of the checkpoint, as in Sparse4D v3.
        swap_projected_yaw (bool): hand sine and cosine on in each other's place from frame to frame. So
            did the code that the released weights of v3 were trained with.
    """

    @takes_whole_numbers
    def __init__(
        self,
        embed_dims: int = 256,
        num_learnable_pts: int = 0,
        fix_scale: Optional[Sequence] = None,
        save_fix_scale: bool = True,
        swap_projected_yaw: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dims = embed_dims
        self.num_learnable_pts = num_learnable_pts
        self.swap_projected_yaw = swap_projected_yaw
        places = torch.tensor([[0.0] * 3] if fix_scale is None else fix_scale, dtype=torch.float32)
        if save_fix_scale:
            self.fix_scale = nn.Parameter(places, requires_grad=False)
        else:
            self.register_buffer('fix_scale', places, persistent=False)
        self.num_pts = len(places) + num_learnable_pts
        if num_learnable_pts > 0:
            self.learnable_fc = nn.Linear(embed_dims, num_learnable_pts * 3)

    def init_weights(self) -> None:
        """Learned points spread at first."""
        if self.num_learnable_pts > 0:
            xavier_init(self.learnable_fc, distribution='uniform')

    def forward(self, anchor: Tensor, instance_feature: Optional[Tensor] = None) -> Tensor:
        """The points of each box.

        Args:
            anchor (Tensor): states, [B, A, 11].
            instance_feature (Tensor, optional): [B, A, C], which places the learned points; without it
                there are only the fixed ones.

        Returns:
            Tensor: [B, A, P, 3], LiDAR frame.
        """
        scale = self.fix_scale.expand(*anchor.shape[:2], -1, -1)
        if self.num_learnable_pts > 0 and instance_feature is not None:
            placed = self.learnable_fc(instance_feature).sigmoid() - 0.5
            scale = torch.cat([scale, placed.unflatten(-1, (self.num_learnable_pts, 3))], -2)
        center, size, yaw, _ = parts(anchor[..., None, :])
        x, y, z = (scale * size.exp()).unbind(-1)
        sin, cos = yaw.unbind(-1)
        turned = torch.stack([cos * x - sin * y, sin * x + cos * y, z], -1)
        return turned + center

    def anchor_projection(self, anchor: Tensor, transform: Tensor, seconds: Tensor) -> Tensor:
        """Boxes where they are later, seen from the LiDAR frame of then.

        Args:
            anchor (Tensor): states, [B, A, 11].
            transform (Tensor): [B, 4, 4], from their LiDAR frame to the other.
            seconds (Tensor): [B], from their time to the other.

        Returns:
            Tensor: states, [B, A, 11].
        """
        turn, shift = transform[:, None, :3, :3], transform[:, None, :3, 3]
        velocity = anchor[..., VELOCITY]
        dims = velocity.shape[-1]
        center = anchor[..., CENTER] + F.pad(velocity, (0, 3 - dims)) * seconds[:, None, None]
        center = (turn @ center[..., None]).squeeze(-1) + shift
        velocity = (turn[..., :dims, :dims] @ velocity[..., None]).squeeze(-1)
        yaw = turn[..., :2, :2] @ anchor[..., YAW].flip(-1)[..., None]  # cosine, sine
        yaw = yaw.squeeze(-1) if self.swap_projected_yaw else yaw.squeeze(-1).flip(-1)
        return torch.cat([center, anchor[..., SIZE], yaw, velocity], -1)

    @staticmethod
    def point_projection(
        points: Tensor, anchor: Tensor, transform: Tensor, seconds: Tensor
    ) -> Tensor:
        """Points that move with their boxes, see `anchor_projection`; [B, A, P, 3]."""
        velocity = anchor[..., None, VELOCITY]
        moved = points + F.pad(velocity, (0, 3 - velocity.shape[-1])) * seconds[:, None, None, None]
        moved = (transform[:, None, None, :3, :3] @ moved[..., None]).squeeze(-1)
        return moved + transform[:, None, None, :3, 3]


class SparseBox3DRefinementModule(BaseModule):
    """Boxes, classes and quality of instances.

    Args:
        embed_dims (int): channels of an instance.
        output_dim (int): of a state.
        num_cls (int): classes.
        normalize_yaw (bool): make the refined sine and cosine those of an angle.
        refine_yaw (bool): the yaw is a change of the anchor's, not a new one.
        with_cls_branch (bool): whether there are classes.
        with_quality_estimation (bool): whether there are centerness and yawness.
    """

    @takes_whole_numbers
    def __init__(
        self,
        embed_dims: int = 256,
        output_dim: int = 11,
        num_cls: int = 10,
        normalize_yaw: bool = False,
        refine_yaw: bool = False,
        with_cls_branch: bool = True,
        with_quality_estimation: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dims = embed_dims
        self.output_dim = output_dim
        self.num_cls = num_cls
        self.normalize_yaw = normalize_yaw
        self.refine_yaw = refine_yaw
        self.with_cls_branch = with_cls_branch
        self.with_quality_estimation = with_quality_estimation
        self.layers = nn.Sequential(
            *linear_relu_ln(embed_dims, 2, 2),
            nn.Linear(embed_dims, output_dim),
            Scale([1.0] * output_dim),
        )

        def branch(outputs: int) -> nn.Sequential:
            return nn.Sequential(*linear_relu_ln(embed_dims, 1, 2), nn.Linear(embed_dims, outputs))

        if with_cls_branch:
            self.cls_layers = branch(num_cls)
        if with_quality_estimation:
            self.quality_layers = branch(2)

    def init_weights(self) -> None:
        """One instance in a hundred is an object of a class at first."""
        if self.with_cls_branch:
            bias = cast(Tensor, self.cls_layers[-1].bias)
            nn.init.constant_(bias, bias_init_with_prob(0.01))

    def forward(
        self,
        instance_feature: Tensor,
        anchor: Tensor,
        anchor_embed: Tensor,
        time_interval: Tensor,
        return_cls: bool = True,
    ) -> tuple:
        """Refine.

        Args:
            instance_feature (Tensor): [B, A, C].
            anchor (Tensor): states, [B, A, 11].
            anchor_embed (Tensor): [B, A, C].
            time_interval (Tensor): [B], seconds in which the predicted motion happens.
            return_cls (bool): whether classes and quality are wanted.

        Returns:
            tuple[Tensor, Tensor or None, Tensor or None]: states; logits [B, A, num_cls]; centerness and
            yawness, logits [B, A, 2].
        """
        feature = instance_feature + anchor_embed
        change = self.layers(feature)
        # A motion becomes a velocity; all else is divided by one, which changes no bit.
        motion = time_interval[:, None, None].expand(-1, 1, change.shape[-1] - VELOCITY.start)
        box = anchor + change / F.pad(motion, (VELOCITY.start, 0), value=1.0)
        if not self.refine_yaw or self.normalize_yaw:
            center, size, yaw, velocity = parts(box)
            yaw = yaw if self.refine_yaw else change[..., YAW]
            yaw = F.normalize(yaw, dim=-1) if self.normalize_yaw else yaw
            box = torch.cat([center, size, yaw, velocity], -1)
        if not return_cls:
            return box, None, None
        quality = self.quality_layers(feature) if self.with_quality_estimation else None
        return box, self.cls_layers(instance_feature), quality


class AsymmetricFFN(BaseModule):
    """A feed-forward network whose input may have other channels than its output.

    Args:
        in_channels (int, optional): channels of the input; embed_dims without.
        pre_norm (dict, optional): norm of the input.
        embed_dims (int): channels of the output.
        feedforward_channels (int): channels between.
        num_fcs (int): linear layers, 2 or more.
        act_cfg (dict): activation.
        ffn_drop (float): dropout.
        add_identity (bool): add the normed input, taken to embed_dims channels.
    """

    @takes_whole_numbers
    def __init__(
        self,
        in_channels: Optional[int] = None,
        pre_norm: Optional[dict] = None,
        embed_dims: int = 256,
        feedforward_channels: int = 1024,
        num_fcs: int = 2,
        act_cfg: dict = dict(type='ReLU', inplace=True),
        ffn_drop: float = 0.0,
        add_identity: bool = True,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_fcs < 2:
            raise ValueError(f'num_fcs must be 2 or more, was {num_fcs}')
        self.embed_dims = embed_dims
        in_channels = in_channels or embed_dims
        self.pre_norm = build_norm_layer(pre_norm, in_channels)[1] if pre_norm else None
        widths = [in_channels] + [feedforward_channels] * (num_fcs - 1)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, after), _activation(act_cfg), nn.Dropout(ffn_drop))
                for before, after in zip(widths, widths[1:])
            ),
            nn.Linear(feedforward_channels, embed_dims),
            nn.Dropout(ffn_drop),
        )
        self.add_identity = add_identity
        if add_identity:
            same = in_channels == embed_dims
            self.identity_fc = nn.Identity() if same else nn.Linear(in_channels, embed_dims)

    def forward(self, x: Tensor, identity: Optional[Tensor] = None) -> Tensor:
        """[..., in_channels] to [..., embed_dims]."""
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        out = self.layers(x)
        return (
            out + self.identity_fc(x if identity is None else identity)
            if self.add_identity
            else out
        )


class DenseDepthNet(BaseModule):
    """Depth of each pixel of the feature maps, learned from LiDAR points: for training only (Sparse4D v2).

    Args:
        embed_dims (int): channels of the maps.
        num_depth_layers (int): how many of the maps, the finest first.
        equal_focal (float): focal length, pixels, at which the network's depth is metres.
        max_depth (float): greatest depth that counts, metres.
        loss_weight (float): factor of the loss.
    """

    @takes_whole_numbers
    def __init__(
        self,
        embed_dims: int = 256,
        num_depth_layers: int = 1,
        equal_focal: float = 100,
        max_depth: float = 60,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.equal_focal = equal_focal
        self.max_depth = max_depth
        self.loss_weight = loss_weight
        self.depth_layers = nn.ModuleList(
            nn.Conv2d(embed_dims, 1, kernel_size=1) for _ in range(num_depth_layers)
        )

    def forward(self, feature_maps: Sequence[Tensor], focal: Optional[Tensor] = None) -> list:
        """Depth maps.

        Args:
            feature_maps (Sequence[Tensor]): [B, N, C, h, w].
            focal (Tensor, optional): [B, N], focal lengths, pixels.

        Returns:
            list[Tensor]: [B, N, h, w], metres.
        """
        factor = 1.0 if focal is None else focal[..., None, None] / self.equal_focal
        return [
            layer(maps.flatten(0, 1).float()).exp().view(*maps.shape[:2], *maps.shape[3:]) * factor
            for layer, maps in zip(self.depth_layers, feature_maps)
        ]

    def loss(self, depths: Sequence[Tensor], gt_depth: Tensor) -> Tensor:
        """Mean distance where a depth was measured.

        Args:
            depths (Sequence[Tensor]): from `forward`.
            gt_depth (Tensor): [B, N, pixels of all maps], metres; what is not above zero was not measured.
        """
        sizes = [depth[0, 0].numel() for depth in depths]
        loss = depths[0].new_zeros(())
        for depth, truth in zip(depths, gt_depth.split(sizes, -1)):
            depth = depth.flatten(2)
            measured = (truth > 0) & ~depth.isnan()
            error = (depth.clamp(0, self.max_depth) - truth).abs()
            # A sum over what was measured: its number decides no shape, so nothing waits for the device.
            total = torch.where(measured, error, error.new_zeros(())).sum()
            loss = loss + total / (measured.sum() * len(depths)).clamp(min=1)
        return loss * self.loss_weight


class LinearFusionModule(BaseModule):
    """Fuses an instance's samples of one frame with those of the frames before it (Sparse4D v1).

    Args:
        embed_dims (int): channels.
        alpha, beta (float): a frame t seconds away counts alpha ** (beta * t).
        enable_temporal_weight (bool): whether it counts less at all.
    """

    @takes_whole_numbers
    def __init__(
        self,
        embed_dims: int = 256,
        alpha: float = 0.9,
        beta: float = 10,
        enable_temporal_weight: bool = True,
    ) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        self.enable_temporal_weight = enable_temporal_weight
        self.fusion_layer = nn.Linear(embed_dims * 2, embed_dims)

    def init_weights(self) -> None:
        """Uniform."""
        xavier_init(self.fusion_layer, distribution='uniform')

    def forward(self, before: Tensor, now: Tensor, seconds: Tensor) -> Tensor:
        """Fuse [B, A, P, C] with [B, A, P, C], which is `seconds` [B] away."""
        if self.enable_temporal_weight:
            now = now * (self.alpha ** (seconds * self.beta).abs())[:, None, None, None]
        return self.fusion_layer(torch.cat([before, now], -1))


class DepthReweightModule(BaseModule):
    """How likely what a point saw is at the point's own depth (Sparse4D v1).

    Args:
        embed_dims (int): channels.
        min_depth, max_depth, depth_interval (float): the depths told apart, metres.
        ffn_layers (int): layers.
    """

    @takes_whole_numbers
    def __init__(
        self,
        embed_dims: int = 256,
        min_depth: float = 1,
        max_depth: float = 56,
        depth_interval: float = 5,
        ffn_layers: int = 2,
    ) -> None:
        super().__init__()
        depths = np.arange(min_depth, max_depth + 1e-5, depth_interval, dtype=np.float32)
        self.register_buffer('depths', torch.from_numpy(depths), persistent=False)
        self.depth_interval = depth_interval
        self.limits = min_depth + 1e-5, float(depths[-1]) - 1e-5
        act = dict(type='ReLU', inplace=True)
        self.depth_fc = nn.Sequential(
            *(
                FFN(embed_dims=embed_dims, feedforward_channels=embed_dims, num_fcs=2, act_cfg=act)
                for _ in range(ffn_layers)
            ),
            nn.Linear(embed_dims, len(depths)),
        )

    def confidence(self, features: Tensor, points: Tensor) -> Tensor:
        """Probability of the points' depth, [..., 1], from features [..., C] and places [..., 3 or more]."""
        depth = points[..., :2].norm(dim=-1, keepdim=True).clamp(*self.limits)
        shares = (1 - (depth - self.depths).abs() / self.depth_interval).clamp(
            min=0
        )  # of two depths
        probability = (shares * self.depth_fc(features).softmax(-1)).sum(-1, keepdim=True)
        return probability / shares.square().sum(-1, keepdim=True)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        """The features, [..., C], weighed by `confidence`."""
        return features * self.confidence(features, points)
