"""Deformable aggregation's Ascend C kernels against the CPU's, and that they are what runs."""

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mxd_mmplugin import DeformableAggregationFunction, deformable_aggregation

pytestmark = pytest.mark.npu

SETTINGS = settings(max_examples=100, deadline=None, derandomize=True)
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def make(
    shapes,
    bs=1,
    anchors=3,
    points=2,
    channels=8,
    groups=2,
    dtype=torch.float32,
    index=torch.int64,
    gap=0,
    seed=0,
    spread=1.5,
):
    """Inputs for maps of `shapes` [cam][scale] (h, w); locations in and around the images."""
    generator = torch.Generator().manual_seed(seed)
    spatial_shape = torch.tensor(shapes)
    cams, scales, _ = spatial_shape.shape
    sizes = spatial_shape.prod(-1).flatten()
    start = (sizes.cumsum(0) - sizes).view(cams, scales) + gap
    maps = torch.randn(bs, int(sizes.sum()) + 2 * gap, channels, generator=generator)
    locations = torch.rand(bs, anchors, points, cams, 2, generator=generator)
    locations = (locations - 0.5) * spread + 0.5
    weight = torch.randn(bs, anchors, points, cams, scales, groups, generator=generator)
    return [maps.to(dtype), spatial_shape.to(index), start.to(index), locations, weight.to(dtype)]


def away_from_kinks(inputs):
    """Moves samples out of where the gradient of a location jumps: pixel centres, the image's border."""
    locations = inputs[3]
    sizes = inputs[1].flip(-1).float()
    pixel = locations[..., None, :] * sizes - 0.5
    kink = ((pixel - pixel.round()).abs() < 1e-4).any(-1).any(-1)
    border = torch.minimum(locations.abs(), (locations - 1).abs()).amin(-1) < 1e-5
    inputs[3] = torch.where((kink | border)[..., None], 2.0, locations)
    return inputs


@st.composite
def problems(draw, most_channels=512):
    """Cameras of different resolution, any channels and groups, gaps between maps, no samples at all."""
    cams, scales = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    groups = draw(st.integers(1, 24))
    width = draw(st.integers(1, max(most_channels // groups, 1)))
    side = st.integers(1, 9)
    shapes = [[[draw(side), draw(side)] for _ in range(scales)] for _ in range(cams)]
    return away_from_kinks(
        make(
            shapes,
            bs=draw(st.integers(0, 2)),
            anchors=draw(st.integers(0, 9)),
            points=draw(st.integers(0, 14)),
            channels=groups * width,
            groups=groups,
            dtype=draw(st.sampled_from([torch.float32, torch.float32, torch.float16])),
            index=draw(st.sampled_from([torch.int32, torch.int64])),
            gap=draw(st.sampled_from([0, 3])),
            seed=draw(st.integers(0, 2**31)),
        )
    )


def gradients(inputs, device, function=deformable_aggregation):
    """The output, and the gradients of maps, locations and weights for a fixed gradient, on the CPU."""
    leaves = [t.detach().to(device).requires_grad_(t.is_floating_point()) for t in inputs]
    out = function(*leaves)
    assert out.device.type == device
    grad = torch.sin(torch.arange(out.numel(), dtype=torch.float32)).view_as(out)
    wanted = [leaves[0], leaves[3], leaves[4]]
    found = torch.autograd.grad(out, wanted, grad.to(out.dtype).to(device))
    return [t.detach().cpu() for t in (out, *found)]


def check(inputs, function=deformable_aggregation):
    """Output and gradients on the NPU are the CPU's, relative to the largest of each."""
    tolerance = TOLERANCE[inputs[0].dtype]
    names = 'out', 'grad_maps', 'grad_locations', 'grad_weight'
    ours, theirs = gradients(inputs, 'npu', function), gradients(inputs, 'cpu', function)
    for name, got, want in zip(names, ours, theirs):
        assert got.dtype == want.dtype and got.shape == want.shape
        scale = want.abs().max().float().clamp(min=1e-3) if want.numel() else 1.0
        torch.testing.assert_close(
            got.float() / scale,
            want.float() / scale,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, name=name: f'{name}: {text}',
        )


@SETTINGS
@given(problems(), st.integers(1, 40))
def test_equals_cpu(inputs, blocks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_NPU_BLOCKS', str(blocks))
        check(inputs)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_model(dtype):
    """Sparse4D's channels, groups, cameras and scales."""
    shapes = [[[16, 44], [8, 22], [4, 11], [2, 5]]] * 6
    check(away_from_kinks(make(shapes, 1, 50, 13, 256, 8, dtype, spread=2.5)))


@pytest.mark.parametrize(
    'channels, groups',
    [(1, 1), (512, 512), (511, 7), (512, 1), (509, 1), (512, 128), (65, 65), (12, 4), (1200, 1)],
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_slices_of_channels(channels, groups, dtype):
    check(away_from_kinks(make([[[4, 5], [1, 3]]] * 2, 2, 3, 2, channels, groups, dtype)))


@pytest.mark.parametrize('shape', [(1, 1), (1, 6), (6, 1), (2, 2)])
def test_narrow_maps(shape):
    check(away_from_kinks(make([[shape]] * 2, 1, 20, 5, 24, 3)))


def test_more_samples_than_fit_at_a_time(monkeypatch):
    monkeypatch.setenv('MXD_NPU_BLOCKS', '2')
    check(away_from_kinks(make([[[3, 4]]] * 5, 1, 3, 1000, 16, 2, spread=4.0)))
    check(away_from_kinks(make([[[3, 4]]] * 3, 2, 150, 9, 16, 2)))


def test_more_scales_than_a_load():
    check(away_from_kinks(make([[[3, 4], [2, 2]] * 20] * 2, 1, 4, 3, 16, 2)))


def test_borders_and_whatever_is_not_inside_count_nothing():
    nan, inf = float('nan'), float('inf')
    outside = [0.0, 0.5], [1.0, 0.5], [0.5, 0.0], [0.5, 1.0], [-0.1, 0.5], [0.5, 1e30]
    broken = [nan, 0.5], [0.5, nan], [inf, 0.5], [0.5, -inf], [nan, inf], [-3e38, 3e38]
    border = [1 / 16, 0.375], [1 / 16, 1 / 16], [1 - 1 / 16, 1 - 1 / 16], [0.01, 0.99]
    inputs = make([[[4, 4]]], 1, 17, 1, 8, 2)
    inputs[3] = torch.tensor([[0.45, 0.55], *border, *outside, *broken]).view(1, 17, 1, 1, 2)
    inputs[4][0, 5:] = nan  # nor are their weights looked at
    check(inputs)
    out, maps, locations, weight = gradients(inputs, 'npu')
    assert out[0, :5].all() and not out[0, 5:].any()
    assert maps.isfinite().all()
    assert locations[0, :5].any() and not locations[0, 5:].any()
    assert weight[0, :5].any() and not weight[0, 5:].any()


def test_nothing_visible():
    inputs = make([[[4, 5]]], anchors=5)
    inputs[3] = inputs[3] + 3
    assert not any(t.any() for t in gradients(inputs, 'npu'))


def test_maps_that_share_rows():
    inputs = make([[[4, 4]], [[3, 5]]], anchors=20)
    inputs[0], inputs[2] = torch.randn(1, 30, 8), torch.tensor([[5], [8]])
    check(away_from_kinks(inputs))


def test_inputs_that_are_not_contiguous():
    inputs = make([[[4, 5]]] * 2, 2, 6, 3, 16, 4)
    inputs[0] = F.pad(inputs[0], (3, 5))[..., 3:-5]
    inputs[3] = inputs[3].transpose(1, 2).contiguous().transpose(1, 2)
    check(away_from_kinks(inputs), DeformableAggregationFunction.apply)


def test_errors():
    inputs = [t.npu() for t in make([[[4, 5]]])]
    with pytest.raises(TypeError, match='float32, float16 or bfloat16 on an NPU'):
        deformable_aggregation(inputs[0].double(), *inputs[1:4], inputs[4].double())
    with pytest.raises(ValueError, match='within the 20 rows of feature_maps'):
        deformable_aggregation(*inputs[:2], inputs[2] + 1, *inputs[3:])
    with pytest.raises(ValueError, match=r'at most 256 maps .* was of 257'):
        deformable_aggregation(*(t.npu() for t in make([[[1, 1]]] * 257)))


def test_kernels_run(tmp_path, monkeypatch):
    """In the profile, a launch of each kernel for a forward and a backward."""
    path = tmp_path / 'profile.jsonl'
    monkeypatch.setenv('MXD_SOFTNPU_PROFILE', str(path))
    gradients(make([[[4, 5]]]), 'npu')
    kernels = [json.loads(line)['kernel'] for line in path.read_text().splitlines()]
    name = 'deformable_aggregation'
    assert sorted(kernels) == [name, f'{name}_feature_grad', f'{name}_sample_grad']
