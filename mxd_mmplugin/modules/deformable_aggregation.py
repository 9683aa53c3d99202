"""Deformable aggregation as a layer that a config names."""

from torch import Tensor, nn

from ..ops import deformable_aggregation


class DeformableAggregation(nn.Module):
    """The operator `mxd_mmplugin.deformable_aggregation`, with no parameters.

    A model that builds its sampling with `MODELS.build` leaves the choice of it to the config.
    """

    def forward(
        self,
        feature_maps: Tensor,
        spatial_shape: Tensor,
        scale_start_index: Tensor,
        sample_locations: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """Sample and fuse; arguments, result and errors are those of the function.

        Args:
            feature_maps (Tensor): [bs, num_feat, c].
            spatial_shape (Tensor): [cam, scale, 2], height and width.
            scale_start_index (Tensor): [cam, scale].
            sample_locations (Tensor): [bs, anchor, pts, cam, 2], (x, y) between 0 and 1.
            weight (Tensor): [bs, anchor, pts, cam, scale, group].

        Returns:
            Tensor: [bs, anchor, c].
        """
        return deformable_aggregation(
            feature_maps, spatial_shape, scale_start_index, sample_locations, weight
        )
