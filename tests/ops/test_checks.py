"""One check for every backend: kernel, plain PyTorch form and Meta refuse the same arguments in the same words."""

import pytest
import torch

from mxd_mmplugin.ops import fallback

FORMS = {name: form for forms in fallback.FAMILIES.values() for name, form in forms.items()}
# These have results whose sizes the data decide, and with that no Meta kernel.
NO_META = {
    'sparse_conv_rulebook',
    'sparse_conv_rulebook_transpose',
    'sparse_union',
    'voxelize_hard',
    'dynamic_scatter_plan',
}
PAIRS, BOUNDS = torch.tensor([[0, 0], [1, 1]]).int(), torch.tensor([[0, 1, 1, 2]])
INDICES = torch.tensor([[0, 1, 2], [0, 3, 4], [1, 0, 0]]).int()
GEOMETRY = [4, 5], [3, 3], [2, 2], [1, 1], [1, 1], [0, 0], False, False
MAPS = (
    torch.randn(1, 6, 4),
    torch.tensor([[[2, 3]]]),
    torch.tensor([[0]]),
    torch.rand(1, 2, 3, 1, 2),
    torch.rand(1, 2, 3, 1, 1, 2),
)
IMAGE, KERNEL = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
OFFSET, MASK = torch.randn(1, 18, 5, 5), torch.rand(1, 9, 5, 5)
CONVOLUTION = [1, 1], [1, 1], [1, 1], 1, 1
GRID = [1.0, 1.0], [0.0, 0.0, 4.0, 4.0]
SLOTS = torch.tensor([[0, 1], [2, -1]]).int()
BOXES = torch.rand(3, 5) + 1
PLAN = torch.tensor([0, 1, 2]).int(), torch.tensor([0, 1, 2]).int(), torch.tensor([0, 3])
DEPTH, CONTEXT = torch.rand(2, 3, 2), torch.rand(2, 2, 5)
FUSED = torch.tensor([0, 12])

# Operator -> good arguments, and position, value of those that are refused one at a time.
CASES = {
    'sparse_conv_rulebook': (
        (INDICES, 2, *GEOMETRY),
        [(0, INDICES.long()), (0, INDICES[:, 1:]), (1, -1), (2, [4]), (3, [9, 9]), (4, [0, 1])],
    ),
    'sparse_conv_rulebook_transpose': (
        (PAIRS, BOUNDS, 2),
        [(0, PAIRS.long()), (0, PAIRS[0]), (1, BOUNDS.int()), (1, BOUNDS[0]), (2, -1)],
    ),
    'sparse_conv': (
        (torch.randn(2, 4), torch.randn(3, 4, 6), torch.randn(6), PAIRS, BOUNDS, 2, 1),
        [
            (0, torch.ones(2, 4).int()),
            (0, torch.randn(2, 5)),
            (1, torch.randn(3, 4, 6).double()),
            (1, torch.randn(2, 4, 6)),
            (2, torch.randn(5)),
            (3, PAIRS.long()),
            (4, BOUNDS.int()),
            (5, -1),
            (6, 0),
        ],
    ),
    'sparse_conv_plan': (
        (torch.randn(2, 4), torch.randn(3, 4, 6), PAIRS, BOUNDS, 2, 1),
        [
            (0, torch.randn(2, 5)),
            (1, torch.randn(3, 4, 6).double()),
            (2, PAIRS.long()),
            (3, BOUNDS.int()),
            (4, -1),
            (5, 0),
        ],
    ),
    'sparse_conv_weight_grad': (
        (torch.randn(2, 4), torch.randn(2, 6), PAIRS, BOUNDS, 2, None),
        [
            (0, torch.randn(2)),
            (1, torch.randn(6)),
            (1, torch.randn(2, 6).double()),
            (4, 3),
            (5, torch.zeros(3)),
        ],
    ),
    'sparse_max_pool': (
        (torch.randn(2, 4), PAIRS, BOUNDS, 2),
        [(0, torch.randn(2)), (0, torch.ones(2, 4).int()), (2, BOUNDS.int()), (3, -1)],
    ),
    'sparse_max_pool_backward': (
        (torch.randn(2, 4), torch.zeros(2, 4).int(), PAIRS, BOUNDS, 2),
        [(0, torch.randn(2)), (1, torch.zeros(2, 3).int()), (1, torch.zeros(2, 4)), (4, -1)],
    ),
    'sparse_to_dense': (
        (torch.randn(3, 4), INDICES, 2, [4, 5], True),
        [(0, torch.randn(3)), (0, torch.randn(2, 4)), (1, INDICES.long()), (2, -1), (3, [4, 0])],
    ),
    'sparse_from_dense': (
        (torch.randn(2, 4, 4, 5), INDICES, True),
        [(0, torch.randn(2, 4)), (1, INDICES[:, 1:]), (1, INDICES.float())],
    ),
    'sparse_union': (
        ([INDICES, INDICES[:1]], 2, [4, 5]),
        [(0, []), (0, [INDICES.long()]), (1, -1), (2, [0, 5])],
    ),
    'sparse_sum': (
        ([torch.randn(2, 3), torch.randn(1, 3)], torch.tensor([0, 1, 0]).int(), 2),
        [
            (0, [torch.randn(2, 3), torch.randn(1, 4)]),
            (0, [torch.randn(2, 3), torch.randn(1, 3).double()]),
            (0, [torch.ones(3, 3).int()]),
            (1, torch.tensor([0, 1]).int()),
            (1, torch.tensor([0, 1, 0])),
            (2, -1),
        ],
    ),
    'modulated_deform_conv2d': (
        (IMAGE, OFFSET, MASK, KERNEL, torch.randn(3), *CONVOLUTION),
        [(0, IMAGE[0]), (1, OFFSET[:, 1:]), (2, MASK.double()), (4, torch.randn(2)), (5, [0, 1])],
    ),
    'modulated_deform_conv2d_backward': (
        (torch.randn(1, 3, 5, 5), IMAGE, OFFSET, MASK, KERNEL, *CONVOLUTION, True, True),
        [(0, torch.randn(1, 3, 5, 4)), (0, torch.randn(1, 3, 5, 5).double()), (9, 0)],
    ),
    'deformable_aggregation': (MAPS, [(0, MAPS[0][0]), (1, MAPS[1].float()), (4, MAPS[4][0])]),
    'deformable_aggregation_feature_grad': (
        (torch.randn(1, 2, 4), *MAPS),
        [(0, torch.randn(1, 2, 3)), (0, torch.randn(1, 2, 4).double()), (4, MAPS[3].long())],
    ),
    'deformable_aggregation_sample_grad': (
        (torch.randn(1, 2, 4), *MAPS),
        [(0, torch.randn(1, 2, 3)), (3, MAPS[2][0]), (5, MAPS[4].double())],
    ),
    'voxelize_hard': (
        (torch.rand(3, 3), *GRID, 2, 3),
        [(0, torch.rand(3, 1)), (0, torch.ones(3, 3).int()), (1, []), (2, [0.0]), (3, 0), (4, -1)],
    ),
    'voxelize_dynamic': (
        (torch.rand(3, 3), *GRID),
        [(0, torch.rand(3)), (1, [1.0, 0.0]), (2, [0.0, 0.0, 4.0, -4.0])],
    ),
    'voxelize_gather': (
        (torch.rand(3, 4), SLOTS, False),
        [(0, torch.rand(3)), (0, torch.ones(3, 4).int()), (1, SLOTS.long()), (1, SLOTS[0])],
    ),
    'voxelize_gather_grad': (
        (torch.rand(2, 2, 4), SLOTS, 3),
        [(0, torch.rand(2, 3, 4)), (0, torch.ones(2, 2, 4).int()), (1, SLOTS.long()), (2, -1)],
    ),
    'dynamic_scatter_plan': (
        (torch.zeros(3, 2).int(),),
        [(0, torch.zeros(3, 2)), (0, torch.zeros(3).int()), (0, torch.zeros(3, 0).int())],
    ),
    'dynamic_scatter': (
        (torch.rand(3, 2), PLAN[1], PLAN[2], 'sum'),
        [(0, torch.rand(3)), (1, PLAN[1].long()), (2, PLAN[2].int()), (2, PLAN[2][:0]), (3, 'min')],
    ),
    'draw_gaussians': (
        (PLAN[0], torch.zeros(3, 2).int(), PLAN[1], 3, 4, 5),
        [
            (0, PLAN[0].long()),
            (0, PLAN[0][None]),
            (1, torch.zeros(3, 3).int()),
            (1, torch.zeros(2, 2).int()),
            (2, PLAN[1].float()),
            (2, PLAN[1][1:]),
            (3, -1),
            (4, 0),
            (5, 0),
        ],
    ),
    'bev_pool_plan': (
        (torch.zeros(3, 4).int(), 1, 1, 2, 2),
        [(0, torch.zeros(3, 4)), (0, torch.zeros(3, 3).int()), (1, 0), (4, -1), (3, 2**31)],
    ),
    'bev_pool': (
        (torch.rand(3, 2), torch.zeros(3).int(), PLAN[1], PLAN[2][:2], 1, 1, 2, 2),
        [(0, torch.rand(4, 2)), (1, torch.zeros(3)), (2, PLAN[1][1:]), (3, PLAN[2][:1]), (4, 0)],
    ),
    'bev_pool_fused': (
        (DEPTH, CONTEXT, torch.zeros(12).int(), torch.arange(12).int(), FUSED, 1, 1, 2, 2),
        [
            (0, DEPTH[0]),
            (0, DEPTH.int()),
            (1, CONTEXT.double()),
            (1, CONTEXT[:1]),
            (1, CONTEXT[:, :1]),
            (2, torch.zeros(12)),
            (3, torch.arange(11).int()),
            (4, FUSED[:1]),
            (5, 0),
        ],
    ),
    'bev_pool_fused_grad': (
        (torch.rand(4, 5), DEPTH, CONTEXT, torch.zeros(12).int()),
        [
            (0, torch.rand(4, 6)),
            (0, torch.rand(4, 5).half()),
            (1, DEPTH[:, 1:]),
            (2, CONTEXT[0]),
            (3, torch.zeros(12)),
        ],
    ),
    'rotated_iou': (
        (BOXES, BOXES[:2], 0, False),
        [(0, BOXES[:, :4]), (0, BOXES.int()), (1, BOXES.double()), (2, 3), (3, True)],
    ),
    'rotated_nms': (
        (BOXES, BOXES[:, 0], None, 0.5, True),
        [(0, BOXES[0]), (1, BOXES[:2, 0]), (1, BOXES), (2, BOXES[:2, 0]), (3, float('nan'))],
    ),
    'circle_nms': (
        (BOXES[:, :2], BOXES[:, 0], 0.5),
        [(0, BOXES), (0, BOXES[:, :2].int()), (1, BOXES[:2, 0]), (2, float('nan'))],
    ),
    'grouped_nms': (
        (BOXES[None], BOXES[None, :, 0] > 0, 0.5, True),
        [
            (0, BOXES),
            (0, BOXES[None].int()),
            (0, BOXES[None, :, :3]),
            (0, torch.zeros(1, 4097, 5)),
            (1, BOXES[None, :, 0]),
            (1, BOXES[None, :2, 0] > 0),
            (2, float('nan')),
        ],
    ),
    'bev_pool_grad': (
        (torch.rand(4, 2), torch.zeros(3).int()),
        [(0, torch.rand(4)), (1, torch.zeros(3)), (1, torch.zeros(3, 1).int())],
    ),
}


def moved(value, device):
    if isinstance(value, list):
        return [moved(part, device) for part in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value


def refusal(run, arguments):
    with pytest.raises((ValueError, TypeError)) as error:
        run(*arguments)
    return type(error.value), str(error.value).splitlines()[0]


def test_every_operator_is_here():
    assert set(CASES) == set(FORMS)


@pytest.mark.parametrize('name', CASES)
def test_the_same_refusal_on_every_backend(name):
    good, changes = CASES[name]
    operator = getattr(torch.ops.mxd, name)
    runs = {'kernel': operator, 'pure PyTorch': FORMS[name]}
    for run in runs.values():
        run(*good)
    for position, value in changes:
        bad = [value if i == position else argument for i, argument in enumerate(good)]
        words = {backend: refusal(run, bad) for backend, run in runs.items()}
        if name not in NO_META and bad[0] != []:
            words['Meta'] = refusal(operator, moved(bad, 'meta'))
        assert len(set(words.values())) == 1, words


@pytest.mark.parametrize(
    'indices, message',
    [
        ([[0, 1, 2], [0, 4, 0]], r'indices[1] is [0, 4, 0]'),
        ([[0, 1, 2], [2, 1, 1]], r'indices[1] has the batch index 2; allowed are 0 to 1'),
        ([[1, 1, 2], [0, 0, 0], [1, 1, 2], [0, 0, 0]], r'rows 1 and 3 are both [0, 0, 0]'),
    ],
)
def test_the_same_words_of_a_voxel(indices, message):
    arguments = torch.tensor(indices).int(), 2, *GEOMETRY
    kernel = refusal(torch.ops.mxd.sparse_conv_rulebook, arguments)
    assert message in kernel[1]
    assert kernel == refusal(fallback.sparse_conv.rulebook, arguments)
