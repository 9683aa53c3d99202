"""CenterPoint's head, which takes the place of mmdet3d's in the registry."""

from .head import CenterHead

__all__ = ['CenterHead']
