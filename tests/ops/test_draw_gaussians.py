"""Bumps on heatmaps against mmdet3d's loop and the plain PyTorch form, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.models.utils import draw_heatmap_gaussian

from mxd_mmplugin.ops import draw_gaussians, fallback
from tests.conftest import traces


def ints(*values):
    return torch.tensor(values).int()


@st.composite
def problems(draw):
    """Bumps on and around maps, also such that are drawn on no map."""
    shape = tuple(draw(st.integers(1, high)) for high in (3, 20, 24))
    count = draw(st.integers(0, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def random(low, high):
        return torch.randint(low, high, (count,), generator=generator).int()

    centers = torch.stack([random(-5, size + 5) for size in shape[1:]], 1)
    return random(-1, shape[0] + 1), centers, random(-1, draw(st.integers(1, 15))), shape


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems())
def test_kernel_is_the_plain_form(problem):
    channels, centers, radii, shape = problem
    found = draw_gaussians(channels, centers, radii, shape)
    assert found.shape == shape and found.dtype == torch.float32 and found.is_contiguous()
    assert torch.equal(found, fallback.draw_gaussians.draw(channels, centers, radii, *shape))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems())
def test_bumps_are_mmdet3ds(problem):
    """Its function draws only what has its middle on the map."""
    channels, centers, radii, shape = problem
    inside = (centers >= 0) & (centers < ints(*shape[1:]))
    drawn = inside.all(1) & (channels >= 0) & (channels < shape[0]) & (radii >= 0)
    expected = torch.zeros(shape)
    for channel, center, radius in zip(channels[drawn], centers[drawn], radii[drawn]):
        draw_heatmap_gaussian(expected[channel], center.flip(0), int(radius))
    found = draw_gaussians(channels.where(drawn, -1), centers, radii, shape)
    assert torch.equal(found, expected)
    everywhere = draw_gaussians(channels, centers, radii, shape)
    assert (everywhere >= found).all() and (everywhere <= 1).all()


def test_a_bump_whose_middle_is_outside_reaches_in():
    wide = draw_gaussians(ints(0), ints([10, 12]), ints(4), (1, 20, 20))
    for top, left in ((10, 0), (0, 12), (12, 14)):
        part = draw_gaussians(
            ints(0), ints([10 - top, 12 - left]), ints(4), (1, 20 - top, 20 - left)
        )
        assert torch.equal(part, wide[:, top:, left:])


def test_the_greatest_numbers():
    least, most = -(2**31), 2**31 - 1
    for row, radius in ((least, most), (most, 5), (5, most), (least, least)):
        found = draw_gaussians(ints(0), ints([row, row]), ints(radius), (1, 4, 4))
        assert torch.isfinite(found).all() and bool(found.any()) == (row == 5)


def test_no_bump_no_map():
    nothing = ints(), torch.zeros(0, 2).int(), ints()
    assert not draw_gaussians(*nothing, (2, 3, 4)).any()
    assert draw_gaussians(*nothing, (0, 3, 4)).shape == (0, 3, 4)
    assert not draw_gaussians(ints(-1, 5), ints([1, 1], [2, 2]), ints(2, 2), (2, 3, 4)).any()


def test_bit_identical_whatever_the_number_of_threads():
    torch.manual_seed(0)
    channels, radii = torch.randint(0, 30, (500,)).int(), torch.randint(0, 12, (500,)).int()
    centers = torch.randint(-5, 75, (500, 2)).int()
    threads, found = torch.get_num_threads(), []
    try:
        for count in (threads, 1, 5):
            torch.set_num_threads(count)
            found.append(draw_gaussians(channels, centers, radii, (30, 70, 60)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_non_contiguous_inputs():
    channels, radii = (torch.randint(0, 3, (40, 2)).int()[:, 0] for _ in range(2))
    centers = torch.randint(0, 9, (2, 40)).int().t()
    dense = [x.contiguous() for x in (channels, centers, radii)]
    shape = 3, 9, 9
    assert torch.equal(
        draw_gaussians(channels, centers, radii, shape), draw_gaussians(*dense, shape)
    )


@traces
def test_compiles_and_exports():
    def run(channels, centers, radii):
        return draw_gaussians(channels, centers, radii, (2, 8, 9)) * 2

    class Net(torch.nn.Module):
        def forward(self, *args):
            return run(*args)

    args = ints(0, 1, 1), ints([1, 2], [3, 4], [7, 8]), ints(1, 2, 3)
    compiled = torch.compile(run, backend='aot_eager', fullgraph=True)(*args)
    exported = torch.export.export(Net(), args).module()(*args)
    assert torch.equal(run(*args), compiled) and torch.equal(run(*args), exported)
    torch.library.opcheck(
        torch.ops.mxd.draw_gaussians.default,
        (*args, 2, 8, 9),
        test_utils=('test_schema', 'test_faketensor'),
    )


GOOD = dict(channels=ints(0, 1), centers=ints([1, 2], [3, 4]), radii=ints(1, 2), shape=(2, 5, 6))


@pytest.mark.parametrize(
    'change, error, message',
    [
        (dict(channels=ints(0, 1).long()), TypeError, 'channels must be int32, was Long'),
        (dict(channels=ints([0, 1])), ValueError, r'channels must have shape \[bumps\]'),
        (dict(centers=torch.rand(2, 2)), TypeError, 'centers must be int32'),
        (dict(centers=ints([1, 2])), ValueError, r'centers must have shape \[2, 2\]'),
        (dict(centers=ints([1], [2])), ValueError, r'centers must have shape \[2, 2\]'),
        (dict(radii=ints(1, 2).float()), TypeError, 'radii must be int32'),
        (dict(radii=ints(1)), ValueError, r'radii must have shape \[2\], was \[1\]'),
        (dict(shape=(-1, 5, 6)), ValueError, 'count must be at least 0, was -1'),
        (dict(shape=(2, 0, 6)), ValueError, 'height must be at least 1, was 0'),
        (dict(shape=(2, 5, 0)), ValueError, 'width must be at least 1, was 0'),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        draw_gaussians(**{**GOOD, **change})
