"""Deformable convolution's Ascend C kernels against the CPU's, and that they are what runs."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxd_mmplugin import DeformConv2dPack, ModulatedDeformConv2dPack, modulated_deform_conv2d
from tests.npu.compare import npu
from tests.ops.test_modulated_deform_conv import problems

pytestmark = pytest.mark.npu

SETTINGS = settings(max_examples=50, deadline=None, derandomize=True)
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}
NAMES = 'out', 'input', 'offset', 'mask', 'weight', 'bias'
ALL = True, True  # gradients of data and of parameters


def make(
    size,
    kernel=(3, 3),
    channels=8,
    outputs=8,
    batch=1,
    groups=1,
    deform_groups=1,
    stride=1,
    padding=1,
    dilation=1,
    spread=1.0,
    dtype=torch.float32,
    seed=0,
):
    """Tensors and geometry of a convolution whose offsets have the standard deviation `spread`."""
    generator = torch.Generator().manual_seed(seed)
    out = [(s + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for s, k in zip(size, kernel)]
    samples = deform_groups * kernel[0] * kernel[1]
    tensors = [
        torch.randn(*shape, generator=generator)
        for shape in (
            (batch, channels, *size),
            (batch, 2 * samples, *out),
            (batch, samples, *out),
            (outputs, channels // groups, *kernel),
            (outputs,),
        )
    ]
    tensors[1] *= spread
    geometry = [stride] * 2, [padding] * 2, [dilation] * 2, groups, deform_groups
    return [t.to(dtype) for t in tensors], geometry


def run(tensors, geometry, wanted=ALL):
    """Output and gradients, where the tensors are."""
    out = torch.ops.mxd.modulated_deform_conv2d(*tensors, *geometry)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=generator).to(out)
    grads = torch.ops.mxd.modulated_deform_conv2d_backward(grad, *tensors[:4], *geometry, *wanted)
    return [t.cpu() for t in (out, *grads)]


def check(problem, wanted=ALL):
    """Output and gradients on the NPU are the CPU's, relative to the largest of each."""
    tensors, geometry = problem
    tolerance = TOLERANCE[tensors[0].dtype]
    ours = run([None if t is None else t.npu() for t in tensors], geometry, wanted)
    for name, got, want in zip(NAMES, ours, run(tensors, geometry, wanted)):
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
@given(problems(dtype=torch.float32), st.sampled_from(list(TOLERANCE)), st.integers(1, 40))
def test_equals_cpu(problem, dtype, blocks):
    tensors, geometry = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_NPU_BLOCKS', str(blocks))
        check(([None if t is None else t.to(dtype) for t in tensors], geometry))


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('groups, deform_groups', [(1, 1), (4, 1), (2, 4)])
def test_model(groups, deform_groups, dtype):
    """CenterPoint's channels; several tiles of an image, the last one in part."""
    check(make((13, 22), (3, 3), 64, 64, 2, groups, deform_groups, dtype=dtype))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize(
    'channels, outputs, groups, deform_groups',
    [
        (272, 8, 1, 1),  # more than a step takes
        (300, 20, 1, 3),
        (256, 256, 1, 1),  # the weight does not fit L1
        (8, 300, 1, 1),  # several passes over a group's outputs
        (40, 40, 40, 1),  # several passes over groups
        (24, 48, 24, 24),
        (12, 12, 4, 6),  # borders of groups within deform groups, and the reverse
        (130, 140, 2, 5),
        (1, 1, 1, 1),
    ],
)
def test_channels(channels, outputs, groups, deform_groups, dtype):
    check(make((5, 9), (2, 2), channels, outputs, 1, groups, deform_groups, dtype=dtype))


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_small_images(size):
    check(make(size, padding=2, batch=3, spread=2.0))


@pytest.mark.parametrize('kernel', [(1, 1), (5, 5), (1, 7)])
def test_kernels_of_more_points_than_a_list(kernel):
    check(make((12, 16), kernel, padding=3, dilation=2, batch=2))


@pytest.mark.parametrize('wanted', [(True, False), (False, True), (False, False)])
def test_some_gradients(wanted):
    check(make((9, 15), batch=2), wanted)


def test_no_image():
    check(make((5, 6), batch=0))


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 1e30, -3e38, 4e5])
def test_offsets_far_outside_read_nothing(value):
    tensors, geometry = make((6, 7), channels=4, outputs=3)
    tensors[1][:, ::3] = value
    check((tensors, geometry))
    tensors[1][:] = value
    out, grad_input, grad_offset, grad_mask, *_ = run(npu(tensors), geometry)
    assert torch.equal(out, tensors[4][:, None, None].expand_as(out))
    assert not (grad_input.any() or grad_offset.any() or grad_mask.any())


def test_offsets_across_the_image():
    check(make((20, 30), channels=16, batch=2, spread=15.0))


def test_on_pixels_and_on_the_border():
    """As with an offset convolution that is still zero."""
    check(make((6, 7), padding=2, spread=0.0))


@pytest.mark.parametrize('dtype', TOLERANCE)
def test_bits_do_not_depend_on_the_number_of_blocks(monkeypatch, dtype):
    tensors, geometry = make((14, 19), batch=3, channels=16, spread=3.0, dtype=dtype)
    results = []
    for blocks in (1, 3, 20):
        monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
        results.append(run(npu(tensors), geometry))
    for result in results[1:]:
        for name, got, want in zip(NAMES, result, results[0]):
            assert torch.equal(got, want), name


def test_inputs_that_are_not_contiguous():
    tensors, geometry = make((9, 15), batch=2)
    tensors = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in tensors[:4]]
    check(([*tensors, None], geometry))


def test_errors():
    tensors, geometry = make((3, 4))
    with pytest.raises(TypeError, match='float32, float16 or bfloat16 on an NPU'):
        modulated_deform_conv2d(*(t.double().npu() for t in tensors), *geometry)
    tensors, geometry = make((1, 2**20 + 2), (1, 1), 1, 1, padding=0)
    with pytest.raises(ValueError, match='at most 1048576 rows and columns'):
        modulated_deform_conv2d(*npu(tensors), *geometry)


@pytest.mark.parametrize('layer', [DeformConv2dPack, ModulatedDeformConv2dPack])
def test_kernels_run(tmp_path, monkeypatch, layer):
    """In the profile, a launch of each kernel for a forward and a backward of a config's DCN or DCNv2."""
    path = tmp_path / 'profile.jsonl'
    monkeypatch.setenv('MXD_SOFTNPU_PROFILE', str(path))
    layer(8, 8, 3, padding=1, bias=False).npu()(torch.randn(1, 8, 5, 6).npu()).sum().backward()
    kernels = [json.loads(line)['kernel'] for line in path.read_text().splitlines()]
    name = 'modulated_deform_conv'
    assert sorted(kernels) == [name, f'{name}_backward']
