"""The operators that have no Ascend kernel yet: on npu tensors their plain PyTorch form serves them."""

import pytest
import torch

from mxd_mmplugin import (
    SparseConvTensor,
    bev_pool,
    dynamic_scatter,
    dynamic_voxelize,
    gather_features_by_pc_voxel_id,
    hard_voxelize,
    ops,
    sparse_add,
)
from mxd_mmplugin.ops import build_rulebook, sparse_max_pool
from tests.npu.compare import assert_same, npu, with_grads
from tests.ops.sparse_problems import coordinates

pytestmark = pytest.mark.npu
SIZE, AREA = [0.5, 0.5, 1.0], [-4, -4, -1, 4, 4, 1]
SHAPE = [6, 9, 8]
STRIDED = 2, SHAPE, [3] * 3, [2] * 3, [1] * 3, [1] * 3  # batch, grid and geometry of a convolution


def sites(count=150):
    cells = torch.randperm(2 * 6 * 9 * 8)[:count]
    return coordinates(cells, (2, *SHAPE))


def pooled(kind, count):
    def function(feats, coords):
        return kind(feats, coords, 2, 3, 10, 12)

    coords = torch.stack([torch.randint(size, (count,)) for size in (12, 10, 3, 2)], 1)
    return function, [torch.rand(count, 5)], [coords]


CASES = {
    'hard_voxelize': lambda: (
        lambda points: hard_voxelize(points, SIZE, AREA, 3, 40).voxels,
        [torch.randn(300, 5) * 3],
        [],
    ),
    'gather_features_by_pc_voxel_id': lambda: (
        gather_features_by_pc_voxel_id,
        [torch.rand(9, 4)],
        [torch.randint(-1, 9, (30,))],
    ),
    'dynamic_scatter max': lambda: (
        lambda feats, coors: dynamic_scatter(feats, coors, 'max')[0],
        [torch.randint(4, (90, 6)).float()],
        [torch.randint(-1, 3, (90, 3))],
    ),
    'dynamic_scatter mean': lambda: (
        lambda feats, coors: dynamic_scatter(feats, coors, 'mean')[0],
        [torch.rand(90, 6)],
        [torch.randint(-1, 3, (90, 3)).int()],
    ),
    'bev_pool': lambda: pooled(bev_pool, 200),
    'npu_bev_pool': lambda: pooled(ops.npu_bev_pool, 200),
    'sparse_max_pool': lambda: (
        lambda x, indices: sparse_max_pool(x, build_rulebook(indices, *STRIDED)),
        [torch.rand(150, 4)],
        [sites()],
    ),
    'sparse_add': lambda: (
        lambda a, b, at_a, at_b: (
            sparse_add(
                SparseConvTensor(a, at_a, SHAPE, 2), SparseConvTensor(b, at_b, SHAPE, 2)
            ).features
        ),
        [torch.rand(150, 4), torch.rand(90, 4)],
        [sites(), sites(90)],
    ),
    'dense': lambda: (
        lambda x, indices: SparseConvTensor(x, indices, SHAPE, 2).dense(),
        [torch.rand(150, 4)],
        [sites()],
    ),
    'from_dense': lambda: (
        lambda x: SparseConvTensor.from_dense(x).features,
        [torch.rand(2, *SHAPE, 3) * (torch.rand(2, *SHAPE, 1) > 0.7)],
        [],
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_forward_and_backward(case):
    function, inputs, rest = CASES[case]()
    assert_same(
        with_grads(lambda *leaves: function(*leaves, *npu(rest)), *npu(inputs)),
        with_grads(lambda *leaves: function(*leaves, *rest), *inputs),
        1e-4,
    )


def test_integers():
    points, indices = torch.randn(300, 5) * 3, sites()
    assert_same(dynamic_voxelize(points.npu(), SIZE, AREA), dynamic_voxelize(points, SIZE, AREA))
    assert_same(
        hard_voxelize(points.npu(), SIZE, AREA, 3, 40)[1:],
        hard_voxelize(points, SIZE, AREA, 3, 40)[1:],
    )
    assert_same(
        build_rulebook(indices.npu(), *STRIDED).out_indices,
        build_rulebook(indices, *STRIDED).out_indices,
    )


def test_every_operator_is_served():
    ascend = (
        'bev_pool',
        'circle_nms',
        'deformable_aggregation',
        'draw_gaussians',
        'dynamic_scatter',
        'grouped_nms',
        'modulated_deform_conv',
        'rotated_iou',
        'rotated_nms',
        'sparse_conv',
        'sparse_max_pool',
        'sparse_sum',
        'sparse_union',
        'voxelize',
    )
    for op, devices in ops.backends().items():
        assert devices['npu'] == ('Ascend kernel' if op.startswith(ascend) else 'plain PyTorch'), op
