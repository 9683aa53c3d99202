"""mmdet3d's decoder of SMOKE, whose cameras are inverted on the host: CANN inverts a matrix on its AI CPU."""

import torch
from mmdet3d.models.task_modules import SMOKECoder as _SMOKECoder
from torch import Tensor


class SMOKECoder(_SMOKECoder):
    """mmdet3d's `SMOKECoder`; arguments: see there."""

    def _decode_location(
        self,
        points: Tensor,
        centers2d_offsets: Tensor,
        depths: Tensor,
        cam2imgs: Tensor,
        trans_mats: Tensor,
    ) -> Tensor:
        """Places [N, 3] in the camera's axes of pixels [N, 2] of the features, at their depths [N].

        Args:
            points, centers2d_offsets (Tensor): the pixels are their sum; those of one picture follow each other.
            depths (Tensor): metres.
            cam2imgs (Tensor): [pictures, 3, 3] or [pictures, 4, 4].
            trans_mats (Tensor): from a picture to its features, [pictures, 3, 3].
        """
        count = len(centers2d_offsets)
        of_each = count // len(cam2imgs)

        def inverse(matrices: Tensor) -> Tensor:
            inverted = matrices.cpu().inverse().to(matrices.device)
            return inverted[:, None].expand(-1, of_each, -1, -1).flatten(0, 1)

        one = centers2d_offsets.new_ones(count, 1, 1)
        pixels = torch.cat([(points + centers2d_offsets)[..., None], one], 1)
        rays = inverse(trans_mats) @ pixels * depths.view(count, -1, 1)
        if cam2imgs.shape[1] == 4:
            rays = torch.cat([rays, one], 1)
        return (inverse(cam2imgs) @ rays)[:, :3, 0]
