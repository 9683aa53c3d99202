"""Voxelization against mmcv's and spconv's CPU kernels, a plain loop, and its pure-PyTorch form."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops import Voxelization as MMCVVoxelization
from mmcv.ops import voxelization as mmcv_voxelization

from mxd_mmplugin import PointToVoxel, Voxelization
from mxd_mmplugin.ops import (
    dynamic_voxelize,
    fallback,
    gather_features_by_pc_voxel_id,
    hard_voxelize,
    voxelization,
)
from tests.conftest import traces

SETTINGS = settings(max_examples=80, deadline=None, derandomize=True)
NUSCENES = [
    ([0.075, 0.075, 0.2], [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0], 10, 90000),
    ([0.2, 0.2, 8.0], [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0], 20, 5000),
]
ROOT = Path(__file__).parents[2]


def cell_of(point, voxel_size, coors_range):
    """The voxel of a point, z, y, x, by NumPy's scalars, or None."""
    wide = np.float64 if point.dtype == np.float64 else np.float32
    low, high = np.float32(coors_range).reshape(2, -1)
    cell = []
    for p, least, most, size in zip(point, low, high, np.float32(voxel_size)):
        grid = math.floor(float((most - least) / size) + 0.5)
        at = (wide(p) - least) / size
        if not 0 <= at < grid:
            return None
        cell.append(math.floor(at))
    return tuple(reversed(cell))


def loop(points, voxel_size, coors_range, max_points, max_voxels):
    """The definition: one point after the other.

    Returns:
        tuple[list, list]: (cell, its points' rows) of each voxel, and the voxel of each point.
    """
    voxels, ids = {}, []
    for row, point in enumerate(points.numpy()):
        cell = cell_of(point, voxel_size, coors_range)
        if cell is not None and cell not in voxels and len(voxels) < max_voxels:
            voxels[cell] = []
        ids.append(list(voxels).index(cell) if cell in voxels else -1)
        if cell in voxels and len(voxels[cell]) < max_points:
            voxels[cell].append(row)
    return list(voxels.items()), ids


@st.composite
def problems(draw, dtypes=(torch.float32, torch.float64)):
    """Points in and around a grid, many of them on borders, and the limits."""
    ndim = draw(st.integers(1, 4))
    size = draw(st.lists(st.sampled_from([0.1, 0.3, 0.5, 1.0]), min_size=ndim, max_size=ndim))
    low = draw(st.lists(st.sampled_from([-2.0, -0.4, 0.0, 1.3]), min_size=ndim, max_size=ndim))
    cells = draw(st.lists(st.integers(1, 5), min_size=ndim, max_size=ndim))
    high = [a + n * s for a, n, s in zip(low, cells, size)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count, extra = draw(st.integers(0, 60)), draw(st.integers(0, 3))
    points = torch.rand(count, ndim + extra, generator=generator, dtype=torch.float64)
    scale = torch.tensor(cells) + 2
    points[:, :ndim] = points[:, :ndim] * scale - 1
    if draw(st.booleans()):
        points[:, :ndim] = points[:, :ndim].round()
    points[:, :ndim] = points[:, :ndim] * torch.tensor(size) + torch.tensor(low)
    points = points.to(draw(st.sampled_from(dtypes)))
    limits = draw(st.integers(1, 5)), draw(st.sampled_from([0, 1, 3, 100]))
    return points, size, low + high, *limits


@SETTINGS
@given(problems())
def test_equals_the_definition(problem):
    points, *geometry, max_points, _ = problem
    voxels, ids = loop(*problem)
    found = hard_voxelize(*problem)
    assert found.coors.tolist() == [list(cell) for cell, _ in voxels]
    assert found.num_points.tolist() == [len(rows) for _, rows in voxels]
    assert found.point_voxel_id.tolist() == ids
    assert found.voxels.dtype == points.dtype
    assert found.voxels.shape == (len(voxels), max_points, points.shape[1])
    for filled, (_, rows) in zip(found.voxels, voxels):
        assert torch.equal(filled[: len(rows)], points[rows]) and not filled[len(rows) :].any()
    cells = [cell_of(point, *geometry) for point in points.numpy()]
    expected = [list(cell) if cell else [-1] * len(geometry[0]) for cell in cells]
    assert dynamic_voxelize(points, *geometry).tolist() == expected


@SETTINGS
@given(problems(dtypes=(torch.float32, torch.float64, torch.float16, torch.bfloat16)))
def test_equals_pure_pytorch_form(problem):
    points, voxel_size, coors_range, *_ = problem
    ours, theirs = torch.ops.mxd, fallback.voxelize
    assert torch.equal(
        ours.voxelize_dynamic(points, voxel_size, coors_range),
        theirs.dynamic(points, voxel_size, coors_range),
    )
    found = ours.voxelize_hard(*problem)
    for ids in (True, False):
        for got, want in zip(ours.voxelize_hard(*problem, ids), theirs.hard(*problem, ids)):
            assert got.dtype == want.dtype and torch.equal(got, want)
    slots = found[2]
    for empty_mean in (False, True):
        got = ours.voxelize_gather(points, slots, empty_mean)
        torch.testing.assert_close(got, theirs.gather(points, slots, empty_mean))
    grad = torch.randn_like(got)
    assert torch.equal(
        ours.voxelize_gather_grad(grad, slots, len(points)),
        theirs.gather_grad(grad, slots, len(points)),
    )


@pytest.mark.parametrize('geometry', NUSCENES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize('sweeps', [1, 3])  # three have more points than go through one table
def test_equals_mmcv_on_a_recorded_frame(real_points, geometry, dtype, sweeps):
    moved = [real_points + 0.03 * i for i in range(sweeps)]
    points = torch.cat(moved).to(dtype)
    for got, want in zip(voxelization(points, *geometry), mmcv_voxelization(points, *geometry)):
        assert got.dtype == want.dtype and torch.equal(got, want)
    for limits in ((-1, 100), (10, -1)):
        got = voxelization(points, *geometry[:2], *limits)
        assert torch.equal(got, mmcv_voxelization(points, *geometry[:2], *limits))


def test_borders_fall_as_in_mmcv():
    """Points on the borders of cells and one step of float32 beside them."""
    size, limits = [0.075, 0.1, 0.2], [-54.0, -51.2, -5.0, 54.0, 51.2, 3.0]
    columns = []
    for d in range(3):
        border = torch.arange(-5, 1450) * size[d] + limits[d]
        step = torch.tensor([-torch.inf, torch.inf])
        near = torch.nextafter(border[:, None], step[None])
        columns.append(torch.cat([border, near.flatten()]))
    points = torch.stack(columns, 1)
    points = torch.cat([points, points[:, [0]].expand(-1, 3), torch.rand(2000, 3) * 120 - 60])
    got, want = (f(points, size, limits, -1, -1) for f in (voxelization, mmcv_voxelization))
    assert (got >= 0).any() and torch.equal(got, want)


def test_not_a_number_and_infinity_are_outside():
    points = torch.tensor([[torch.nan, 0, 0], [0, torch.inf, 0], [0, 0, -torch.inf], [0, 1e30, 0]])
    found = hard_voxelize(points, [1.0] * 3, [-2.0] * 3 + [2.0] * 3, 2, 10)
    assert len(found.voxels) == 0 and found.point_voxel_id.tolist() == [-1] * 4
    assert (dynamic_voxelize(points, [1.0] * 3, [-2.0] * 3 + [2.0] * 3) == -1).all()


def test_layer_is_that_of_mmcv(real_points):
    arguments = dict(voxel_size=[0.2, 0.2, 8], point_cloud_range=[-51.2, -51.2, -5, 51.2, 51.2, 3])
    for max_voxels in ((300, 700), [300, 700], 500):
        ours, theirs = (
            cls(**arguments, max_num_points=10, max_voxels=max_voxels)
            for cls in (Voxelization, MMCVVoxelization)
        )
        assert repr(ours) == repr(theirs)
        assert torch.equal(ours.grid_size, theirs.grid_size)
        assert [int(n) for n in ours.pcd_shape] == [int(n) for n in theirs.pcd_shape]
        for mode in (True, False):
            for got, want in zip(ours.train(mode)(real_points), theirs.train(mode)(real_points)):
                assert torch.equal(got, want)
    dynamic = Voxelization(**arguments, max_num_points=-1, max_voxels=(-1, -1))
    assert torch.equal(
        dynamic(real_points), MMCVVoxelization(**arguments, max_num_points=-1)(real_points)
    )


def test_gradcheck():
    points = (torch.rand(30, 4, dtype=torch.float64) * 4).requires_grad_()

    def run(points):
        return hard_voxelize(points, [1.0] * 3, [0.0] * 3 + [3.0] * 3, 2, 12).voxels

    assert (run(points) != 0).any()
    # Further than its steps from any border.
    with torch.no_grad():
        points[:, :3] = points[:, :3].floor() + 0.5
    assert torch.autograd.gradcheck(run, points)


def test_memory_does_not_grow_with_the_grid():
    points = torch.rand(1000, 3) * 1e6
    found = hard_voxelize(points, [1.0] * 3, [0.0] * 3 + [1e6] * 3, 2, 5000)
    assert 0 < len(found.coors) <= 1000  # of 1e18 cells


def test_bit_identical_whatever_the_number_of_threads(real_points):
    points = real_points.repeat(4, 1) + torch.randn(4 * len(real_points), 5) * 0.1
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (threads, 1, 5):
            torch.set_num_threads(count)
            leaf = points.clone().requires_grad_()
            found = hard_voxelize(leaf, *NUSCENES[0])
            (grad,) = torch.autograd.grad(found.voxels.square().sum(), leaf)
            runs.append([*found, grad, dynamic_voxelize(points, *NUSCENES[0][:2])])
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other))


def test_non_contiguous_inputs(real_points):
    view = real_points.t().contiguous().t()
    assert not view.is_contiguous()
    for got, want in zip(
        hard_voxelize(view, *NUSCENES[1]), hard_voxelize(real_points, *NUSCENES[1])
    ):
        assert torch.equal(got, want)


def test_autocast_leaves_the_coordinates_alone(real_points):
    with torch.autocast('cpu', torch.bfloat16):
        inside = voxelization(real_points, *NUSCENES[1])
    for got, want in zip(inside, voxelization(real_points, *NUSCENES[1])):
        assert torch.equal(got, want)


@traces
def test_compiles_and_exports(real_points):
    geometry = NUSCENES[1]

    class Net(torch.nn.Module):
        def forward(self, points):
            voxels, coors, num_points = voxelization(points, *geometry)
            return voxels * 2, coors, num_points, voxelization(points, *geometry[:2], -1, -1)

    points = real_points[:500].clone().requires_grad_()
    expected = Net()(points)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(Net(), backend='aot_eager', fullgraph=True)(points)
    exported = torch.export.export(Net(), (points.detach(),)).module()(points.detach())
    for want, *others in zip(expected, compiled, exported):
        assert all(torch.equal(want, other) for other in others)
    for out in (expected, compiled):
        (grad,) = torch.autograd.grad(out[0].sum(), points)
        assert grad.sum() == 2 * 5 * expected[2].sum()


SPCONV_SCRIPT = """
import sys, numpy as np, torch, mxd_mmplugin
from spconv.pytorch.utils import PointToVoxel, gather_features_by_pc_voxel_id
points = torch.from_numpy(np.load(sys.argv[1]))
for limits in ((90000, 10), (2000, 3)):
    args = [0.2, 0.2, 0.5], [-51.2, -51.2, -5, 51.2, 51.2, 3], 5, *limits
    ours, theirs = mxd_mmplugin.PointToVoxel(*args), PointToVoxel(*args)
    for name in ('vsize', 'coors_range', 'grid_size'):
        assert list(getattr(ours, name)) == list(getattr(theirs, name)), name
    for pc in (points, points.double(), points[:0]):
        for got, want in zip(ours.generate_voxel_with_id(pc), theirs.generate_voxel_with_id(pc)):
            assert got.dtype == want.dtype and torch.equal(got, want)
        for got, want in zip(ours(pc), theirs(pc)):
            assert torch.equal(got, want)
voxels, _, _, ids = ours.generate_voxel_with_id(points)
for features in (voxels[:, 0], torch.arange(len(voxels))):
    for value in (0, 7):
        assert torch.equal(
            mxd_mmplugin.gather_features_by_pc_voxel_id(features, ids, value),
            gather_features_by_pc_voxel_id(features, ids, value))
one = mxd_mmplugin.PointToVoxel(*args[:3], 1, 10)(points, empty_mean=True)[0]
assert torch.allclose(one, PointToVoxel(*args[:3], 1, 10)(points, empty_mean=True)[0])
print('same')
"""


def test_equals_spconv(real_points, tmp_path):
    """Not `empty_mean` of more than one voxel: spconv starts a voxel's mean from the one before."""
    rivals = ROOT / '.rivals'
    if not (rivals / 'spconv').is_dir():
        pytest.skip('spconv is not in .rivals: `make test` puts it there')
    np.save(tmp_path / 'points.npy', real_points.numpy())
    run = subprocess.run(
        [sys.executable, '-c', SPCONV_SCRIPT, str(tmp_path / 'points.npy')],
        env={**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{rivals}'},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == 'same', run.stderr


def test_empty_slots_hold_the_mean(real_points):
    layer = PointToVoxel([0.5, 0.5, 0.5], [-51.2, -51.2, -5, 51.2, 51.2, 3], 5, 20000, 6)
    voxels, indices, num_points = layer(real_points, empty_mean=True)
    plain, *others = layer(real_points)
    assert torch.equal(indices, others[0]) and torch.equal(num_points, others[1])
    filled = torch.arange(6) < num_points[:, None]
    assert torch.equal(voxels[filled], plain[filled])
    mean = plain.sum(1, keepdim=True) / num_points[:, None, None]
    torch.testing.assert_close(voxels, torch.where(filled[..., None], plain, mean))


def test_gather_features_by_pc_voxel_id():
    features = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([2, -1, 0, 2])
    out = gather_features_by_pc_voxel_id(features, ids, 5)
    assert torch.equal(out[[0, 2, 3]], features[[2, 0, 2]]) and (out[1] == 5).all()
    assert torch.autograd.gradcheck(lambda f: gather_features_by_pc_voxel_id(f, ids), features)
    empty = gather_features_by_pc_voxel_id(features[:0], torch.tensor([-1, -1]))
    assert empty.shape == (2, 2, 4) and not empty.any()
    with pytest.raises(ValueError, match=r'pc_voxel_id must be below 3, .*, had 3'):
        gather_features_by_pc_voxel_id(features, ids + 1)
    with pytest.raises(TypeError, match=r'pc_voxel_id must hold integers, was torch\.float32'):
        gather_features_by_pc_voxel_id(features, ids.float())


@traces
def test_gather_features_by_pc_voxel_id_compiles():
    features = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([2, -1, 0, 2])
    compiled = torch.compile(gather_features_by_pc_voxel_id, fullgraph=True, backend='aot_eager')
    out = gather_features_by_pc_voxel_id(features, ids, 5)
    assert torch.equal(compiled(features, ids, 5), out)


GOOD = dict(
    points=torch.rand(5, 4),
    voxel_size=[1.0, 1.0, 1.0],
    coors_range=[0.0, 0.0, 0.0, 4.0, 4.0, 4.0],
    max_points=2,
    max_voxels=3,
)
BAD = [
    (dict(points=torch.rand(5, 2)), ValueError, r'points must have shape \[points, 3 or more\]'),
    (dict(points=torch.rand(5)), ValueError, 'points must have shape'),
    (dict(points=torch.ones(5, 4).int()), TypeError, 'points must be float32'),
    (dict(voxel_size=[]), ValueError, 'voxel_size must have 1 to 4 numbers'),
    (dict(voxel_size=[1.0] * 5), ValueError, 'voxel_size must have 1 to 4 numbers'),
    (dict(voxel_size=[1.0, 0.0, 1.0]), ValueError, 'voxel_size must be above 0'),
    (dict(voxel_size=[1.0, math.nan, 1.0]), ValueError, 'voxel_size must be above 0'),
    (dict(voxel_size=[1.0, 9.0, 1.0]), ValueError, 'coors_range must hold 1 to'),
    (dict(coors_range=[0.0] * 3), ValueError, 'coors_range must have 6 numbers'),
    (dict(coors_range=[4.0] * 3 + [0.0] * 3), ValueError, 'coors_range must hold 1 to'),
    (dict(coors_range=[0.0] * 3 + [math.inf] * 3), ValueError, 'coors_range must hold 1 to'),
    (dict(coors_range=[0.0] * 3 + [2e9] * 3), ValueError, r'fewer than 2\*\*63 cells'),
    (dict(max_points=0), ValueError, 'max_points must be at least 1, was 0'),
    (dict(max_voxels=-2), ValueError, 'max_voxels must be at least 0, was -2'),
]


@pytest.mark.parametrize('change, error, message', BAD)
@pytest.mark.parametrize('run', [hard_voxelize, lambda **good: fallback.voxelize.hard(**good)])
def test_bad_input(run, change, error, message):
    with pytest.raises(error, match=message):
        run(**{**GOOD, **change})


@pytest.mark.parametrize('change, error, message', BAD[:-2])
def test_bad_dynamic_input(change, error, message):
    arguments = [{**GOOD, **change}[name] for name in ('points', 'voxel_size', 'coors_range')]
    for run in (dynamic_voxelize, fallback.voxelize.dynamic):
        with pytest.raises(error, match=message):
            run(*arguments)


SLOTS = torch.tensor([[0, 2], [1, -1]], dtype=torch.int32)


@pytest.mark.parametrize('backend', ['kernel', 'pure PyTorch'])
@pytest.mark.parametrize(
    'points, slots, error, message',
    [
        (torch.rand(3), SLOTS, ValueError, 'points must have shape'),
        (torch.ones(3, 4).long(), SLOTS, TypeError, 'points must be float32'),
        (torch.rand(3, 4), SLOTS.long(), TypeError, 'slots must be int32'),
        (torch.rand(3, 4), SLOTS[0], ValueError, 'slots must have shape'),
        (torch.rand(2, 4), SLOTS, ValueError, 'slots must be at least -1 and below 2'),
        (torch.rand(3, 4), SLOTS - 1, ValueError, 'slots must be at least -1 and below 3'),
    ],
)
def test_bad_slots(backend, points, slots, error, message):
    kernel = backend == 'kernel'
    gather = torch.ops.mxd.voxelize_gather if kernel else fallback.voxelize.gather
    gather_grad = torch.ops.mxd.voxelize_gather_grad if kernel else fallback.voxelize.gather_grad
    with pytest.raises(error, match=message):
        gather(points, slots, False)
    if 'slots' in message:
        with pytest.raises(error, match=message):
            gather_grad(torch.rand(2, 2, 4), slots, len(points))


@pytest.mark.parametrize(
    'grad, num_points, error, message',
    [
        (torch.rand(2, 4), 3, ValueError, r'grad must have shape \[2, 2, channels\]'),
        (torch.rand(3, 2, 4), 3, ValueError, r'grad must have shape \[2, 2, channels\]'),
        (torch.ones(2, 2, 4).int(), 3, TypeError, 'grad must be float32'),
        (torch.rand(2, 2, 4), -1, ValueError, 'num_points must be at least 0, was -1'),
    ],
)
def test_bad_gradient(grad, num_points, error, message):
    for run in (torch.ops.mxd.voxelize_gather_grad, fallback.voxelize.gather_grad):
        with pytest.raises(error, match=message):
            run(grad, SLOTS, num_points)


def test_bad_point_cloud():
    layer = PointToVoxel([1.0] * 3, [0.0] * 3 + [4.0] * 3, 4, 10, 2)
    with pytest.raises(ValueError, match=r'pc must have shape \[points, 4\]'):
        layer(torch.rand(3, 5))
    with pytest.raises(ValueError, match='pc must be on cpu, was on meta'):
        layer(torch.rand(3, 4, device='meta'))
