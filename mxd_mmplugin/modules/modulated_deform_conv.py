"""Deformable convolution layers: mmcv's own classes over this package's operators.

Each is a subclass of mmcv's class of the same name, so that arguments, initialisation, state_dict and the loading of
old checkpoints are mmcv's, and whoever asks for mmcv's class (mmengine's optimizer constructor, for the learning rate
of the offsets) finds it.
"""

from functools import partial
from typing import Optional

import torch
from mmcv.ops import DeformConv2d as MmcvDeformConv2d
from mmcv.ops import DeformConv2dPack as MmcvDeformConv2dPack
from mmcv.ops import ModulatedDeformConv2d as MmcvModulatedDeformConv2d
from mmcv.ops import ModulatedDeformConv2dPack as MmcvModulatedDeformConv2dPack
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from ..ops import deform_conv2d, modulated_deform_conv2d


class ModulatedDeformConv2d(MmcvModulatedDeformConv2d):
    """DCN v2 with given offsets and mask.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as in
            `torch.nn.Conv2d`.
        deform_groups (int): groups of input channels with offsets and mask of their own.
    """

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Convolve.

        Args:
            x (Tensor): [N, in_channels, height, width].
            offset (Tensor): [N, deform_groups * kernel points * 2, out_height, out_width], dy and dx
                in pixels.
            mask (Tensor): [N, deform_groups * kernel points, out_height, out_width].

        Returns:
            Tensor: [N, out_channels, out_height, out_width].
        """
        return modulated_deform_conv2d(
            x,
            offset,
            mask,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deform_groups,
        )


class ModulatedDeformConv2dPack(ModulatedDeformConv2d, MmcvModulatedDeformConv2dPack):
    """DCN v2 that learns its offsets and mask, by the convolution `conv_offset`: a config's `DCNv2`.

    The arguments are those of `ModulatedDeformConv2d`.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override] # as mmcv's
        """Convolve x [N, in_channels, height, width]."""
        masks = self.conv_offset.out_channels // 3
        offset, mask = self.conv_offset(x).split([2 * masks, masks], 1)
        return super().forward(x, offset, torch.sigmoid(mask))


class DeformConv2d(MmcvDeformConv2d):
    """DCN v1 with given offsets, for inputs of any size that leave an output.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in
            `torch.nn.Conv2d`.
        deform_groups (int): groups of input channels with offsets of their own.
        bias (bool): must be False.
        im2col_step (int): not used; an ONNX file has it.
    """

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Convolve.

        Args:
            x (Tensor): [N, in_channels, height, width].
            offset (Tensor): [N, deform_groups * kernel points * 2, out_height, out_width], dy and dx
                in pixels.

        Returns:
            Tensor: [N, out_channels, out_height, out_width].
        """
        return deform_conv2d(
            x,
            offset,
            self.weight,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deform_groups,
            False,
            self.im2col_step,
        )


class DeformConv2dPack(DeformConv2d, MmcvDeformConv2dPack):
    """DCN v1 that learns its offsets, by the convolution `conv_offset`: a config's `DCN`.

    The arguments are those of `DeformConv2d`.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override] # as mmcv's
        """Convolve x [N, in_channels, height, width]."""
        return super().forward(x, self.conv_offset(x))


def _rename_old_offsets(name: str, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Give the convolution of the offsets the name that it has since version 2 of the layer."""
    for parameter in ('weight', 'bias'):
        old = f'{prefix}{name}_offset.{parameter}'
        new = f'{prefix}{name}.conv_offset.{parameter}'
        if old in state_dict and new not in state_dict:
            state_dict[new] = state_dict.pop(old)


def _upgrade_in_parent(parent: nn.Module, name: str, child: Optional[nn.Module]) -> None:
    """Let the module that holds a layer load old checkpoints, which keep NAME_offset beside NAME.

    mmcv's upgrade is in the layer, to which the loaders of PyTorch 2 and mmengine show its own keys only.
    """
    if isinstance(child, (DeformConv2dPack, ModulatedDeformConv2dPack)):
        parent._register_load_state_dict_pre_hook(partial(_rename_old_offsets, name))


def upgrade_old_checkpoints() -> bool:
    """Let old checkpoints load into every module that gets a layer of this file from now on."""
    register_module_module_registration_hook(_upgrade_in_parent)
    return True
