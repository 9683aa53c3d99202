"""From images to a map from above: lift, splat (Philion and Fidler 2020), with depth from LiDAR (Liu et al. 2022).

Each pixel of an image's feature map has a distribution over D depths. Its feature, weighted by the probability of a
depth, belongs to the place that the pixel sees at that depth; the map from above has the sum of what falls into a cell.
The places depend on the calibration and the augmentation only, not on the images, so that the sorting of the points
by cell (`bev_pool_plan`) is kept for as long as those stay the same. The weighted features are never written
(`bev_pool_fused`): they would be hundreds of megabytes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from ...constants import constant
from ...ops import BEVPoolPlan, bev_pool_fused, bev_pool_plan, dynamic_scatter
from ...ops.sizes import takes_whole_numbers, wholes


class Rays(NamedTuple):
    """What the pixels of the feature maps look along, in the LiDAR frame after augmentation.

    Attributes:
        origin (Tensor): [B, N, 3], the N cameras of a sample, metres.
        direction (Tensor): [B, N, fH, fW, 3], a metre of depth along the camera's axis.
    """

    origin: Tensor
    direction: Tensor


def camera_rays(
    pixels: Tensor, camera2lidar: Tensor, intrinsics: Tensor, img_aug: Tensor, lidar_aug: Tensor
) -> Rays:
    """Directions of pixels, computed in float64 where the matrices are.

    Args:
        pixels (Tensor): [fH, fW, 2], x and y in the augmented image.
        camera2lidar, intrinsics, img_aug (Tensor): [B, N, 4, 4]; img_aug is a 2-D affine map of the
            image: what it says about the depth is not used.
        lidar_aug (Tensor): [B, 4, 4].

    Returns:
        Rays: float64.
    """
    camera2lidar, intrinsics, img_aug, lidar_aug = (
        matrix.double() for matrix in (camera2lidar, intrinsics, img_aug, lidar_aug)
    )
    lidar_aug = lidar_aug[:, None]
    flat = pixels.to(intrinsics).flatten(0, 1) - img_aug[..., None, :2, 3]
    flat = flat @ torch.linalg.inv(img_aug[..., :2, :2]).mT
    flat = torch.cat([flat, torch.ones_like(flat[..., :1])], dim=-1)
    turn = lidar_aug[..., :3, :3] @ camera2lidar[..., :3, :3]
    direction = flat @ (turn @ torch.linalg.inv(intrinsics[..., :3, :3])).mT
    origin = lidar_aug[..., :3, :3] @ camera2lidar[..., :3, 3:] + lidar_aug[..., :3, 3:]
    return Rays(origin.squeeze(-1), direction.unflatten(2, pixels.shape[:2]))


def depth_images(
    points: Sequence[Tensor],
    lidar2image: Tensor,
    img_aug: Tensor,
    lidar_aug: Tensor,
    image_size: Sequence[int],
) -> Tensor:
    """Depths of the LiDAR points in the pixels that see them.

    Args:
        points (Sequence[Tensor]): [P_i, 3 or more] a sample, after augmentation.
        lidar2image, img_aug (Tensor): [B, N, 4, 4].
        lidar_aug (Tensor): [B, 4, 4].
        image_size (Sequence[int]): height and width of the augmented images.

    Returns:
        Tensor: [B, N, 1, height, width], metres, of the nearest point where a pixel sees several, 0
        where it sees none.
    """
    height, width = image_size
    cameras, device = lidar2image.shape[1], points[0].device
    # One matrix from the augmented points to the image before its augmentation.
    project = lidar2image.double() @ torch.linalg.inv(lidar_aug.double())[:, None]
    project, img_aug = project.float().to(device), img_aug.float().to(device)
    # The images lie one below the other: the first row of each.
    rows = torch.arange(0, len(project) * cameras * height, height, device=device)
    rows = rows.float().view(-1, cameras, 1, 1)
    views = []
    for sample, matrix, augment, row in zip(points, project, img_aug, rows):
        seen = matrix[:, :3, :3] @ sample[:, :3].float().T + matrix[:, :3, 3:]
        pixel = seen[:, :2] / seen[:, 2:].clamp(min=1e-5)
        pixel = augment[:, :2, :2] @ pixel + augment[:, :2, 3:]
        views.append(torch.cat([pixel, seen[:, 2:], row.expand(-1, 1, len(sample))], dim=1))
    seen = torch.cat(views, dim=-1)  # [N, 4, points of all samples]
    pixel, depth = seen[:, :2], seen[:, 2]
    limit = constant((width, height), device).view(2, 1)
    inside = ((pixel >= 0) & (pixel < limit)).all(1) & (depth > 0)
    x, y, _, row = seen.int().unbind(1)
    place = ((row + y) * width + x).where(inside, -1)
    # The maximum by pixel that serves points by voxel: a pixel is a voxel, the nearest has the most.
    nearest, pixels = dynamic_scatter(-depth.reshape(-1, 1), place.reshape(-1, 1), 'max')
    images = depth.new_zeros(len(points) * cameras * height * width)
    images = images.index_copy(0, pixels.flatten().long(), -nearest.flatten())
    return images.view(len(points), cameras, 1, height, width)


class ViewTransform(nn.Module):
    """Base of the view transforms.

    Args:
        in_channels (int): channels of the image features.
        out_channels (int): channels of the map from above.
        image_size, feature_size (Sequence[int]): height and width of the images and of their features.
        xbound, ybound, zbound (Sequence[float]): least, greatest and step of the grid, metres.
        dbound (Sequence[float]): least, greatest (exclusive) and step of the depths, metres.
        downsample (int): 2 halves the map by convolutions, 1 leaves it.
    """

    @takes_whole_numbers
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: Sequence[int],
        feature_size: Sequence[int],
        xbound: Sequence[float],
        ybound: Sequence[float],
        zbound: Sequence[float],
        dbound: Sequence[float],
        downsample: int = 1,
    ) -> None:
        super().__init__()
        if downsample not in (1, 2):
            raise ValueError(f'downsample must be 1 or 2, was {downsample}')
        self.in_channels, self.C = in_channels, out_channels
        self.image_size = wholes('image_size', image_size, 1)
        self.feature_size = wholes('feature_size', feature_size, 1)
        for name, bound in (('xbound', xbound), ('ybound', ybound), ('zbound', zbound)):
            cells = (bound[1] - bound[0]) / bound[2]
            if round(cells) < 1 or abs(cells - round(cells)) > 1e-3:
                raise ValueError(
                    f'{name} must hold a whole number of steps, was {bound}, {cells:g}'
                )
        if not (dbound[0] < dbound[1] and dbound[2] > 0):
            raise ValueError(
                f'dbound must be the least depth, a greater one and a step above 0, was {dbound}'
            )
        self.bounds = dict(xbound=xbound, ybound=ybound)
        low, high, step = torch.tensor([xbound, ybound, zbound], dtype=torch.float64).T
        # Checkpoints have these four, the frustum as points (x, y, depth) of the augmented image.
        self.dx = nn.Parameter(step.float(), requires_grad=False)
        self.bx = nn.Parameter((low + step / 2).float(), requires_grad=False)
        self.nx = nn.Parameter(((high - low) / step).round().long(), requires_grad=False)
        self.frustum = nn.Parameter(self._frustum(dbound), requires_grad=False)
        self.D = len(self.frustum)
        self._grid = tuple(self.nx.tolist())
        self._plan_of: Optional[tuple[list[bytes], BEVPoolPlan]] = None
        self._add_depth_layers()
        self.downsample = self._downsampling() if downsample == 2 else nn.Identity()

    @property
    def map_size(self) -> tuple[int, ...]:
        """Cells of the map in x and y."""
        halved = not isinstance(self.downsample, nn.Identity)
        return tuple(-(-cells // 2) if halved else cells for cells in self._grid[:2])

    def _frustum(self, dbound: Sequence[float]) -> Tensor:
        height, width = self.image_size
        rows, columns = self.feature_size
        d, y, x = torch.meshgrid(
            torch.arange(*dbound, dtype=torch.float),
            torch.linspace(0, height - 1, rows),
            torch.linspace(0, width - 1, columns),
            indexing='ij',
        )
        return torch.stack([x, y, d], dim=-1)

    def _add_depth_layers(self) -> None:
        raise NotImplementedError

    def _downsampling(self) -> nn.Sequential:
        layers = []
        for stride in (1, 2, 1):
            layers += [
                nn.Conv2d(self.C, self.C, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(self.C),
                nn.ReLU(inplace=True),
            ]
        return nn.Sequential(*layers)

    def plan(
        self, camera2lidar: Tensor, intrinsics: Tensor, img_aug: Tensor, lidar_aug: Tensor
    ) -> BEVPoolPlan:
        """Which cell each pixel at each depth is in; the last one is kept, and given again for equal matrices.

        Args:
            camera2lidar, intrinsics, img_aug, lidar_aug: see `camera_rays`; on the CPU the
                comparison does not wait for the device.

        Returns:
            BEVPoolPlan: of B * N * D * fW * fH points, the pixels of an image column by column: a column
                mostly sees one cell at a depth.
        """
        given = camera2lidar, intrinsics, img_aug, lidar_aug
        matrices = [matrix.detach().cpu().double() for matrix in given]
        key = [matrix.numpy().tobytes() for matrix in matrices]
        device = self.frustum.device
        if self._plan_of is not None:
            known, plan = self._plan_of
            if known == key and plan.cells.device == device:
                return plan
        plan = self._make_plan(*matrices)
        self._plan_of = key, plan
        return plan

    @torch.no_grad()
    def _make_plan(self, *matrices: Tensor) -> BEVPoolPlan:
        rays = camera_rays(self.frustum[0, ..., :2].cpu(), *matrices)
        device, dx = self.frustum.device, self.dx.cpu().double()
        low = self.bx.cpu().double() - dx / 2
        origin = ((rays.origin - low) / dx).float().to(device)
        direction = (rays.direction / dx).float().to(device)
        depths = self.frustum[:, 0, 0, 2].view(-1, 1, 1, 1)
        # B x N x D x fW x fH x 3 in cells. Rounding is towards zero: the first cell of each axis takes
        # the cell before it too, as in the project whose checkpoints are to be used.
        cells = origin[:, :, None, None, None] + depths * direction.transpose(2, 3)[:, :, None]
        cells = cells.int()
        batch = torch.arange(len(cells), dtype=torch.int32, device=device)
        batch = batch.view(-1, *[1] * 5).expand(*cells.shape[:-1], 1)
        nx, ny, nz = self._grid
        return bev_pool_plan(torch.cat([cells, batch], -1).flatten(0, -2), len(cells), nz, nx, ny)

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of D depths and C channels [B * N, D + C, fH, fW] -> their factors, column by column.

        Returns:
            tuple[Tensor, Tensor]: weights of the depths [B * N, D, fW, fH] and features [B * N, fW, fH, C], of
            one dtype: under autocast that of softmax.
        """
        depth, context = features.transpose(2, 3).split([self.D, self.C], dim=1)
        depth = depth.contiguous().softmax(dim=1)
        return depth, context.permute(0, 2, 3, 1).to(depth.dtype).contiguous()

    def get_cam_feats(self, img: Tensor, depth: Callable[[], Tensor]) -> Tensor:
        """Logits of depths and channels.

        Args:
            img (Tensor): [B * N, in_channels, fH, fW].
            depth (Callable): gives the depth images of `depth_images`.

        Returns:
            Tensor: [B * N, D + C, fH, fW].
        """
        raise NotImplementedError

    def forward(
        self,
        img: Tensor,
        points: Sequence[Tensor],
        lidar2image: Tensor,
        camera_intrinsics: Tensor,
        camera2lidar: Tensor,
        img_aug_matrix: Tensor,
        lidar_aug_matrix: Tensor,
        metas: object = None,
        **kwargs: object,
    ) -> Tensor:
        """Lift the image features and sum them from above.

        Args:
            img (Tensor): [B, N, in_channels, fH, fW].
            points (Sequence[Tensor]): LiDAR points [P_i, 3 or more] a sample; they are not changed.
            lidar2image, camera_intrinsics, camera2lidar, img_aug_matrix (Tensor): [B, N, 4, 4].
            lidar_aug_matrix (Tensor): [B, 4, 4]. All matrices are best left on the CPU.
            metas, **kwargs: not used.

        Returns:
            Tensor: [B, out_channels * nz, nx, ny], the last two halved with downsample 2.

        Raises:
            ValueError: img is not of feature_size.
        """
        if img.shape[-2:] != self.feature_size:
            raise ValueError(
                f'img must be {self.feature_size}, the feature_size, was {tuple(img.shape[-2:])}'
            )

        def depth() -> Tensor:
            matrices = lidar2image, img_aug_matrix, lidar_aug_matrix
            lidar2img, img_aug, lidar_aug = (matrix.cpu() for matrix in matrices)
            return depth_images(points, lidar2img, img_aug, lidar_aug, self.image_size)

        features = self.get_cam_feats(img.flatten(0, 1), depth)
        plan = self.plan(camera2lidar, camera_intrinsics, img_aug_matrix, lidar_aug_matrix)
        pooled = bev_pool_fused(*self._split(features), plan)  # [B, C, nz, nx, ny]
        return self.downsample(pooled.transpose(1, 2).flatten(1, 2))


class LSSTransform(ViewTransform):
    """The view transform with depths from the images alone; arguments: see `ViewTransform`."""

    def _add_depth_layers(self) -> None:
        self.depthnet = nn.Conv2d(self.in_channels, self.D + self.C, 1)

    def get_cam_feats(self, img: Tensor, depth: Callable[[], Tensor]) -> Tensor:
        """See `ViewTransform`; the depth images are not made."""
        return self.depthnet(img)


class DepthLSSTransform(ViewTransform):
    """The view transform whose depth layers see the LiDAR's depths too; arguments: see `ViewTransform`."""

    def _add_depth_layers(self) -> None:
        def norm(channels: int) -> tuple[nn.BatchNorm2d, nn.ReLU]:
            return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)

        channels = self.in_channels
        self.dtransform = nn.Sequential(
            nn.Conv2d(1, 8, 1),
            *norm(8),
            nn.Conv2d(8, 32, 5, stride=4, padding=2),
            *norm(32),
            nn.Conv2d(32, 64, 5, stride=2, padding=2),
            *norm(64),
        )
        self.depthnet = nn.Sequential(
            nn.Conv2d(channels + 64, channels, 3, padding=1),
            *norm(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            *norm(channels),
            nn.Conv2d(channels, self.D + self.C, 1),
        )

    def get_cam_feats(self, img: Tensor, depth: Callable[[], Tensor]) -> Tensor:
        """See `ViewTransform`."""
        seen = self.dtransform(depth().flatten(0, 1).to(img))
        return self.depthnet(torch.cat([seen, img], dim=1))
