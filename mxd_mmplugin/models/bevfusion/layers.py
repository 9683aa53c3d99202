"""The sparse encoder, the image neck, the fusion and the decoder layer of BEVFusion."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models import DetrTransformerDecoderLayer
from mmdet3d.models.layers import make_sparse_convmodule
from mmdet3d.models.middle_encoders.sparse_encoder import SparseConvTensor, SparseEncoder
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...ops.sizes import takes_whole_numbers, wholes
from ..sparse_encoder import in_order


class BEVFusionSparseEncoder(SparseEncoder):
    """mmdet3d's `SparseEncoder` for grids in the order x, y, z: height is the last axis, not the first.

    Args:
        in_channels (int): channels of a voxel.
        sparse_shape (Sequence[int]): cells in x, y, z.
        order, norm_cfg, base_channels, output_channels: see `SparseEncoder`.
        encoder_channels, block_type, return_middle_feats: see `SparseEncoder`.
        encoder_paddings: see `SparseEncoder`, in the order x, y, z.
    """

    @takes_whole_numbers
    def __init__(
        self,
        in_channels: int,
        sparse_shape: Sequence[int],
        order: Sequence[str] = ('conv', 'norm', 'act'),
        norm_cfg: dict = dict(type='BN1d', eps=1e-3, momentum=0.01),
        base_channels: int = 16,
        output_channels: int = 128,
        encoder_channels: Sequence[Sequence[int]] = (
            (16,),
            (32, 32, 32),
            (64, 64, 64),
            (64, 64, 64),
        ),
        encoder_paddings: Sequence[Sequence] = ((1,), (1, 1, 1), (1, 1, 1), ((0, 1, 1), 1, 1)),
        block_type: str = 'conv_module',
        return_middle_feats: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            list(wholes('sparse_shape', sparse_shape, 1)),
            order=order,
            norm_cfg=norm_cfg,
            base_channels=base_channels,
            output_channels=output_channels,
            encoder_channels=encoder_channels,
            encoder_paddings=encoder_paddings,
            block_type=block_type,
            return_middle_feats=return_middle_feats,
        )
        self.conv_out = make_sparse_convmodule(
            encoder_channels[-1][-1],
            output_channels,
            kernel_size=(1, 1, 3),
            stride=(1, 1, 2),
            norm_cfg=norm_cfg,
            padding=0,
            indice_key='spconv_down2',
            conv_type='SparseConv3d',
        )

    def forward(
        self, voxel_features: Tensor, coors: Tensor, batch_size: int
    ) -> Union[Tensor, tuple[Tensor, list]]:
        """Encode voxels into a map from above.

        Args:
            voxel_features (Tensor): [N, in_channels].
            coors (Tensor): integers [N, 4]: batch index, x, y, z.
            batch_size (int): samples.

        Returns:
            Tensor or tuple: [B, output_channels * Z, X, Y], and with return_middle_feats the sparse
            tensors of the stages.
        """
        batch_size = int(batch_size)  # waited for once where it is a tensor
        with torch.autocast(voxel_features.device.type, enabled=False):
            voxels = in_order(voxel_features.float(), coors, batch_size, self.sparse_shape)
            x = SparseConvTensor(*voxels, self.sparse_shape, batch_size)
            x = self.conv_input(x)
            stages = []
            for layer in self.encoder_layers:
                x = layer(x)
                stages.append(x)
            # Heights join the channels: [B, C, X, Y, Z] -> [B, C * Z, X, Y].
            dense = self.conv_out(x).dense().permute(0, 1, 4, 2, 3).flatten(1, 2)
        return (dense, stages) if self.return_middle_feats else dense


# Keywords of `F.interpolate` that `resize_bilinear` can serve, with any align_corners.
_BILINEAR = dict(mode='bilinear', align_corners=None)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve gradients too
def _line_weights(
    size: int, out: int, align_corners: Optional[bool], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """[out, size]: what each pixel of a line gives to each pixel of the resized line."""
    lines = torch.eye(size, dtype=torch.float64)[None]
    weights = F.interpolate(lines, size=out, mode='linear', align_corners=align_corners)
    return weights[0].T.to(device, dtype)


def resize_bilinear(
    maps: Tensor, size: Sequence[int], align_corners: Optional[bool] = None
) -> Tensor:
    """`F.interpolate(maps, size, mode='bilinear', align_corners=align_corners)` by two matrix products.

    The gradient is the same from run to run. PyTorch's own way to that, on all devices but the CPU, gathers and
    scatters pixels by index, which the AI core of an NPU cannot.

    Args:
        maps (Tensor): [B, C, H, W].
        size (Sequence[int]): H and W of the result.
        align_corners (bool, optional): see `torch.nn.functional.interpolate`.

    Returns:
        Tensor: [B, C, *size], equal but for rounding.
    """
    rows, columns = (
        _line_weights(before, after, align_corners, maps.device, maps.dtype)
        for before, after in zip(maps.shape[2:], size)
    )
    with torch.autocast(maps.device.type, enabled=False):
        return rows @ (maps @ columns.T)


class GeneralizedLSSFPN(BaseModule):
    """Image neck: each level is joined with the upsampled one above it, then convolved.

    Args:
        in_channels (list[int]): channels of the backbone's levels, finest first.
        out_channels (int): channels of each output.
        num_outs (int): outputs; what the levels give is kept, see `forward`.
        start_level (int): the finest level to use.
        end_level (int): the level after the coarsest that is convolved; -1 for all but the last,
            which is only upsampled.
        no_norm_on_lateral (bool): leave the norm out of the 1x1 convolutions.
        conv_cfg, norm_cfg, act_cfg (dict): see mmcv's `ConvModule`.
        upsample_cfg (dict): keywords of `F.interpolate`.
    """

    @takes_whole_numbers
    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        no_norm_on_lateral: bool = False,
        conv_cfg: Optional[dict] = None,
        norm_cfg: dict = dict(type='BN2d'),
        act_cfg: dict = dict(type='ReLU'),
        upsample_cfg: dict = dict(mode='bilinear', align_corners=True),
    ) -> None:
        super().__init__()
        levels = len(in_channels)
        last = levels - 1 if end_level == -1 else end_level
        if last >= levels or (end_level != -1 and num_outs != end_level - start_level):
            raise ValueError(
                f'end_level must be below {levels} (the levels) and start_level + num_outs '
                f'({start_level + num_outs}), was {end_level}'
            )
        self.in_channels, self.out_channels, self.num_outs = in_channels, out_channels, num_outs
        self.start_level, self.end_level = start_level, end_level
        self.upsample_cfg = dict(upsample_cfg)
        convs = dict(conv_cfg=conv_cfg, act_cfg=act_cfg, inplace=False)
        lateral_norm = None if no_norm_on_lateral else norm_cfg
        self.lateral_convs, self.fpn_convs = nn.ModuleList(), nn.ModuleList()
        for level in range(start_level, last):
            above = in_channels[level + 1] if level == last - 1 else out_channels
            self.lateral_convs.append(
                ConvModule(
                    in_channels[level] + above, out_channels, 1, norm_cfg=lateral_norm, **convs
                )
            )
            self.fpn_convs.append(
                ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, **convs)
            )

    def forward(self, inputs: Sequence[Tensor]) -> tuple:
        """Join the levels from the coarsest to the finest.

        Args:
            inputs (Sequence[Tensor]): a map [B, C, H, W] a level, finest first.

        Returns:
            tuple[Tensor]: one map for each level from start_level on that has one above it.
        """
        if len(inputs) != len(self.in_channels):
            raise ValueError(f'inputs must be {len(self.in_channels)} levels, was {len(inputs)}')
        maps = list(inputs[self.start_level : self.start_level + len(self.lateral_convs) + 1])
        for i in reversed(range(len(self.lateral_convs))):
            above = self._enlarge(maps[i + 1], maps[i].shape[2:])
            maps[i] = self.lateral_convs[i](torch.cat([maps[i], above], dim=1))
            maps[i] = self.fpn_convs[i](maps[i])
        return tuple(maps[:-1])

    def _enlarge(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        config = self.upsample_cfg
        deterministic = torch.are_deterministic_algorithms_enabled() and not maps.is_cpu
        if deterministic and {**config, 'align_corners': None} == _BILINEAR:
            return resize_bilinear(maps, size, config.get('align_corners'))
        return F.interpolate(maps, size=size, **config)


class ConvFuser(nn.Sequential):
    """Joins maps from above of several sensors by one convolution.

    Args:
        in_channels (list[int]): channels of the maps.
        out_channels (int): channels of the result.
    """

    @takes_whole_numbers
    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        self.in_channels = in_channels
        self.out_channels = out_channels
        super().__init__(
            nn.Conv2d(sum(in_channels), out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Fuse maps [B, C_i, H, W] of one size."""
        return super().forward(torch.cat(list(inputs), dim=1))


class LearnedPositions(nn.Module):
    """A position in metres or cells -> a vector: two 1x1 convolutions.

    Args:
        input_channel (int): coordinates of a position.
        num_pos_feats (int): length of the vector.
    """

    @takes_whole_numbers
    def __init__(self, input_channel: int, num_pos_feats: int = 288) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Conv1d(input_channel, num_pos_feats, 1),
            nn.BatchNorm1d(num_pos_feats),
            nn.ReLU(inplace=True),
            nn.Conv1d(num_pos_feats, num_pos_feats, 1),
        )

    def forward(self, positions: Tensor) -> Tensor:
        """[B, P, input_channel] -> [B, P, num_pos_feats]."""
        return self.position_embedding_head(positions.transpose(1, 2)).transpose(1, 2)


class TransformerDecoderLayer(DetrTransformerDecoderLayer):
    """TransFusion's decoder layer: DETR's with learned positions, which the values carry too.

    Args:
        pos_encoding_cfg (dict): arguments of `LearnedPositions`.
        **kwargs: see mmdet's `DetrTransformerDecoderLayer`.
    """

    def __init__(
        self, pos_encoding_cfg: dict = dict(input_channel=2, num_pos_feats=128), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.self_posembed = LearnedPositions(**pos_encoding_cfg)
        self.cross_posembed = LearnedPositions(**pos_encoding_cfg)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Optional[Tensor] = None,
        query_pos: Optional[Tensor] = None,
        key_pos: Optional[Tensor] = None,
        self_attn_mask: Optional[Tensor] = None,
        cross_attn_mask: Optional[Tensor] = None,
        key_padding_mask: Optional[Tensor] = None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend to the other queries, then to the map.

        Args:
            query (Tensor): [B, C, P].
            key (Tensor): the map, [B, C, H * W].
            value (Tensor): not used, as it is the key.
            query_pos, key_pos (Tensor): positions [B, P, 2] and [B or 1, H * W, 2].
            self_attn_mask, cross_attn_mask, key_padding_mask: see `DetrTransformerDecoderLayer`.

        Returns:
            Tensor: [B, C, P].
        """
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        at_query = 0 if query_pos is None else self.self_posembed(query_pos)
        at_key = 0 if key_pos is None else self.cross_posembed(key_pos)
        query = self.self_attn(
            query=query,
            key=query,
            value=query + at_query,
            query_pos=at_query,
            key_pos=at_query,
            attn_mask=self_attn_mask,
            **kwargs,
        )
        query = self.norms[0](query)
        query = self.cross_attn(
            query=query,
            key=key,
            value=key + at_key,
            query_pos=at_query,
            key_pos=at_key,
            attn_mask=cross_attn_mask,
            key_padding_mask=key_padding_mask,
            **kwargs,
        )
        query = self.norms[1](query)
        return self.norms[2](self.ffn(query)).transpose(1, 2)
