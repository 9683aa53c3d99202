"""The view transform, piece by piece, against plain loops and index_add."""

import numpy as np
import pytest
import torch

from mxd_mmplugin.models.bevfusion import DepthLSSTransform, LSSTransform
from mxd_mmplugin.models.bevfusion.view_transform import camera_rays, depth_images

SIZES = dict(
    in_channels=6,
    out_channels=4,
    image_size=(32, 64),
    feature_size=(4, 8),
    xbound=[-8.0, 8.0, 1.0],
    ybound=[-6.0, 6.0, 1.0],
    zbound=[-10.0, 10.0, 20.0],
    dbound=[1.0, 12.0, 1.0],
)


def calibration(batch=2, cameras=3, seed=0):
    """lidar2image, intrinsics, camera2lidar, img_aug [B, N, 4, 4] and lidar_aug [B, 4, 4]."""
    random = np.random.default_rng(seed)
    eyes = np.tile(np.eye(4), (batch, cameras, 1, 1))
    intrinsics, camera2lidar, img_aug = eyes.copy(), eyes.copy(), eyes.copy()
    lidar_aug = np.tile(np.eye(4), (batch, 1, 1))
    for b in range(batch):
        for n in range(cameras):
            angle = 2 * np.pi * n / cameras + random.uniform(-0.1, 0.1)
            # Camera axes in the LiDAR frame: x to the right, y down, z along the view.
            forward = np.array([np.cos(angle), np.sin(angle), 0])
            right = np.array([np.sin(angle), -np.cos(angle), 0])
            camera2lidar[b, n, :3, :3] = np.stack([right, [0, 0, -1], forward], axis=1)
            camera2lidar[b, n, :3, 3] = random.uniform(-1, 1, 3)
            intrinsics[b, n, :2, :3] = [[40, 0.5, 31], [0, 42, 15]]
            turn = random.uniform(-0.1, 0.1)
            img_aug[b, n, :2, :2] = np.array(
                [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
            ) * random.uniform(0.8, 1.2)
            img_aug[b, n, :2, 3] = random.uniform(-3, 3, 2)
        turn, scale = random.uniform(-0.5, 0.5), random.uniform(0.9, 1.1)
        lidar_aug[b, :2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        lidar_aug[b, :3, :3] *= scale
        lidar_aug[b, :3, 3] = random.uniform(-0.5, 0.5, 3)
    lidar2image = intrinsics @ np.linalg.inv(camera2lidar)
    matrices = lidar2image, intrinsics, camera2lidar, img_aug, lidar_aug
    return [torch.from_numpy(matrix).float() for matrix in matrices]


def places(transform, matrices):
    """Where each pixel is at each depth, point by point: [B, N, D, fH, fW, 3], metres."""
    _, intrinsics, camera2lidar, img_aug, lidar_aug = (m.double().numpy() for m in matrices)
    frustum = transform.frustum.detach().double().numpy()
    out = np.zeros((*camera2lidar.shape[:2], *frustum.shape))
    for b, n, d, i, j in np.ndindex(out.shape[:-1]):
        x, y, depth = frustum[d, i, j]
        x, y, _, _ = np.linalg.inv(img_aug[b, n]) @ [x, y, 0, 1]
        seen = np.linalg.inv(intrinsics[b, n]) @ [x * depth, y * depth, depth, 1]
        out[b, n, d, i, j] = (lidar_aug[b] @ camera2lidar[b, n] @ seen)[:3]
    return torch.from_numpy(out)


def cells(transform, matrices):
    """The cell of each point, row-major over batch, z, x, y; -1 outside of the grid. Rounded towards zero."""
    low = torch.tensor([bound[0] for bound in (SIZES['xbound'], SIZES['ybound'], SIZES['zbound'])])
    step = torch.tensor([bound[2] for bound in (SIZES['xbound'], SIZES['ybound'], SIZES['zbound'])])
    cell = ((places(transform, matrices) - low) / step).long()
    nx, ny, nz = transform.nx.tolist()
    inside = ((cell >= 0) & (cell < torch.tensor([nx, ny, nz]))).all(-1)
    batch = torch.arange(len(cell)).view(-1, 1, 1, 1, 1)
    flat = ((batch * nz + cell[..., 2]) * nx + cell[..., 0]) * ny + cell[..., 1]
    return torch.where(inside, flat, -1).flatten()


def clouds(batch=2, count=400):
    torch.manual_seed(3)
    return [torch.randn(count + 7 * i, 5) * torch.tensor([6, 6, 1, 1, 1]) for i in range(batch)]


def pooled(transform, img, points, matrices):
    """The map by index_add in float64, of the same features."""
    with torch.no_grad():
        depth = depth_images(points, matrices[0], *matrices[3:], transform.image_size)
        features = transform.get_cam_feats(img.flatten(0, 1), lambda: depth)
    weights = features[:, : transform.D].double().softmax(1)
    lifted = weights[:, None] * features[:, transform.D :, None].double()  # [BN, C, D, fH, fW]
    rows = lifted.permute(0, 2, 3, 4, 1).flatten(0, 3)
    cell = cells(transform, matrices)
    nx, ny, nz = transform.nx.tolist()
    grid = rows.new_zeros(img.shape[0] * nz * nx * ny, rows.shape[1])
    grid.index_add_(0, cell[cell >= 0], rows[cell >= 0])
    grid = grid.view(img.shape[0], nz, nx, ny, -1).permute(0, 1, 4, 2, 3).flatten(1, 2)
    return grid


@pytest.mark.parametrize('kind', [LSSTransform, DepthLSSTransform])
@pytest.mark.parametrize('zbound', [[-10.0, 10.0, 20.0], [-4.0, 4.0, 2.0]])
def test_map_is_the_sum_of_the_lifted_features(kind, zbound, monkeypatch):
    monkeypatch.setitem(SIZES, 'zbound', zbound)
    matrices, points = calibration(), clouds()
    transform = kind(**SIZES).eval()
    img = torch.randn(2, 3, 6, 4, 8)
    with torch.no_grad():
        found = transform(img, points, *matrices, None)
    expected = pooled(transform, img, points, matrices)
    assert found.shape == expected.shape == (2, 4 * transform.nx[2], 16, 12)
    assert (found - expected).abs().max() < 1e-5 and expected.abs().max() > 0.1


def test_downsample_halves_the_map():
    transform = LSSTransform(**SIZES, downsample=2)
    out = transform(torch.randn(2, 3, 6, 4, 8), clouds(), *calibration(), None)
    assert out.shape == (2, 4, 8, 6)
    with pytest.raises(ValueError, match='downsample must be 1 or 2, was 3'):
        LSSTransform(**SIZES, downsample=3)


def test_rays_reach_the_places():
    transform, matrices = LSSTransform(**SIZES), calibration()
    rays = camera_rays(transform.frustum[0, ..., :2], matrices[2], matrices[1], *matrices[3:])
    depths = transform.frustum[:, 0, 0, 2].double().view(-1, 1, 1, 1)
    found = rays.origin[:, :, None, None, None] + depths * rays.direction[:, :, None]
    assert (found - places(transform, matrices)).abs().max() < 1e-4


def test_plan_is_kept_for_equal_matrices():
    transform = LSSTransform(**SIZES)
    matrices = calibration()
    first = transform.plan(matrices[2], matrices[1], *matrices[3:])
    again = [matrix.clone() for matrix in matrices]
    assert transform.plan(again[2], again[1], *again[3:]) is first
    again[4][1, 0, 3] += 0.5
    other = transform.plan(again[2], again[1], *again[3:])
    assert other is not first and not torch.equal(other.cells, first.cells)
    assert torch.equal(transform.plan(matrices[2], matrices[1], *matrices[3:]).cells, first.cells)
    one = transform.plan(*(matrices[i][:1] for i in (2, 1, 3, 4)))
    assert one.shape[0] == 1


def test_empty_frustums_and_points_outside_give_zeros():
    transform = LSSTransform(**SIZES)
    matrices = calibration()
    matrices[4][:, :3, 3] += 1000  # all far away
    img = torch.randn(2, 3, 6, 4, 8, requires_grad=True)
    out = transform(img, clouds(), *matrices, None)
    out.sum().backward()
    assert not out.any() and not img.grad.any()


def test_gradients_are_those_of_index_add():
    transform = LSSTransform(**SIZES).double()
    matrices, points = calibration(), clouds()
    img = torch.randn(2, 3, 6, 4, 8, dtype=torch.float64, requires_grad=True)
    out = transform(img, points, *matrices, None)
    grad = torch.randn_like(out)
    found = torch.autograd.grad(out, [img, transform.depthnet.weight], grad)

    features = transform.depthnet(img.flatten(0, 1))
    weights = features[:, : transform.D].softmax(1)
    rows = (weights[:, None] * features[:, transform.D :, None]).permute(0, 2, 3, 4, 1)
    cell = cells(transform, matrices)
    flat = grad.permute(0, 2, 3, 1).reshape(-1, 4)
    value = (rows.reshape(-1, 4)[cell >= 0] * flat[cell[cell >= 0]]).sum()
    expected = torch.autograd.grad(value, [img, transform.depthnet.weight])
    for ours, theirs in zip(found, expected):
        assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()


def test_depth_images_against_a_loop():
    lidar2image, _, _, img_aug, lidar_aug = matrices = calibration()
    points = clouds()
    found = depth_images(points, lidar2image, img_aug, lidar_aug, (32, 64))
    expected = np.zeros((2, 3, 1, 32, 64))
    lidar2image, _, _, img_aug, lidar_aug = (matrix.double().numpy() for matrix in matrices)
    for b in range(2):
        for point in points[b].double().numpy():
            for n in range(3):
                x, y, z, _ = lidar2image[b, n] @ np.linalg.inv(lidar_aug[b]) @ [*point[:3], 1]
                if z <= 0:
                    continue
                x, y, _, _ = img_aug[b, n] @ [x / z, y / z, 0, 1]
                if 0 <= x < 64 and 0 <= y < 32:
                    known = expected[b, n, 0, int(y), int(x)]
                    expected[b, n, 0, int(y), int(x)] = min(z, known) if known else z
    assert (expected > 0).sum() > 100
    assert np.abs(found.numpy() - expected).max() < 1e-3


def test_depth_images_of_no_points_are_empty_and_points_stay():
    lidar2image, _, _, img_aug, lidar_aug = calibration()
    points = [torch.zeros(0, 5), torch.full((3, 5), torch.nan)]
    assert not depth_images(points, lidar2image, img_aug, lidar_aug, (32, 64)).any()
    points = clouds()
    before = [sample.clone() for sample in points]
    depth_images(points, lidar2image, img_aug, lidar_aug, (32, 64))
    assert all(torch.equal(a, b) for a, b in zip(before, points))


def test_first_cell_takes_the_cell_before_it():
    # As in the project, whose checkpoints learned it: 15 % of a nuScenes frame's points are below -10 m.
    transform, matrices = LSSTransform(**SIZES), calibration()
    below = places(transform, matrices)[..., 0]
    plan = transform.plan(matrices[2], matrices[1], *matrices[3:])
    # The plan has the pixels column by column.
    found = plan.cells.view(2, 3, 11, 8, 4).transpose(3, 4)
    assert torch.equal(found.flatten().long(), cells(transform, matrices))
    row = found % (16 * 12) // 12
    assert ((below > -9) & (below < -8) & (found >= 0)).any()
    assert (row[(below < -8) & (found >= 0)] == 0).all()
