"""Images of every size: padded by the preprocessor, or such that no stride divides them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.structures import LiDARPoints
from mmengine.registry import init_default_scope

from mxd_mmplugin import deformable_aggregation
from mxd_mmplugin.models.sparse4d import MultiScaleDepthMapGenerator
from mxd_mmplugin.models.sparse4d.aggregation import cover_alike, flatten_maps, map_strides

from .test_sparse4d import a_frame, batch_of, built, losses_of

STRIDES = [8, 16, 32]


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmdet3d')


def up(size, stride):
    return -(-size // stride)


def cropped(frame, height, width):
    """A frame with the upper left part of its images, and the depth of all their map pixels."""
    frame['inputs']['img'] = frame['inputs']['img'][..., :height, :width]
    sample = frame['data_samples']
    cameras = len(sample.image_wh)
    sample.set_metainfo(dict(image_wh=np.tile(np.float32([width, height]), (cameras, 1))))
    pixels = sum(up(height, stride) * up(width, stride) for stride in STRIDES)
    drawn = np.random.default_rng(5).uniform(-10, 40, (cameras, pixels))
    sample.gt_depth = torch.from_numpy(drawn.astype(np.float32))
    return frame


def padded(frame, height, width):
    """The same with black below and to the right, as the preprocessor of `built` makes it: the mean colour."""
    old_height, old_width = frame['inputs']['img'].shape[-2:]
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    image = mean.expand(len(frame['inputs']['img']), 3, height, width).clone()
    image[..., :old_height, :old_width] = frame['inputs']['img'].float()
    frame['inputs']['img'] = image
    sample = frame['data_samples']
    maps, begin = [], 0
    for stride in STRIDES:
        rows, columns = up(old_height, stride), up(old_width, stride)
        part = sample.gt_depth[:, begin : begin + rows * columns].unflatten(1, (rows, columns))
        begin += rows * columns
        more = 0, up(width, stride) - columns, 0, up(height, stride) - rows
        maps.append(F.pad(part, more, value=-1).flatten(1))
    sample.gt_depth = torch.cat(maps, 1)
    sample.set_metainfo(dict(image_wh=np.tile(np.float32([width, height]), (len(image), 1))))
    return frame


@given(
    height=st.integers(20, 150),
    width=st.integers(20, 150),
    strides=st.lists(st.sampled_from([4, 8, 16, 32]), min_size=1, max_size=4, unique=True),
    data=st.data(),
)
def test_every_scale_is_read_where_the_pixel_is(height, width, strides, data):
    """Maps that hold the place of their own pixels give back the place that is asked for."""
    maps = []
    for stride in strides:
        y = (torch.arange(up(height, stride), dtype=torch.float64) + 0.5) * stride
        x = (torch.arange(up(width, stride), dtype=torch.float64) + 0.5) * stride
        maps.append(torch.stack(torch.meshgrid(y, x, indexing='ij'))[None, None])
    assert map_strides(maps, (height, width)) == strides
    covering, covered = cover_alike(maps, (height, width))
    assert all(size % stride == 0 for size in covered for stride in strides)
    step = max(strides)
    if height <= step or width <= step:
        return  # such a place is nowhere between the middles of two pixels
    # Between the middles of the outermost pixels of every scale.
    y = data.draw(st.floats(step / 2, up(height, step) * step - step))
    x = data.draw(st.floats(step / 2, up(width, step) * step - step))
    flat = flatten_maps(covering)
    place = torch.tensor([x / covered[1], y / covered[0]], dtype=torch.float64)
    weight = torch.zeros(1, 1, 1, 1, len(strides), 1, dtype=torch.float64)
    for i in range(len(strides)):
        alone = weight.clone()
        alone[..., i, :] = 1
        read = deformable_aggregation(*flat, place.view(1, 1, 1, 1, 2), alone)[0, 0]
        torch.testing.assert_close(read, torch.tensor([y, x], dtype=torch.float64))


def test_a_map_that_is_of_other_images_is_refused():
    with pytest.raises(ValueError, match=r'\(5, 5\).*\(64, 96\).*pad_size_divisor'):
        map_strides([torch.zeros(5, 5)], (64, 96))


def test_padding_of_the_preprocessor_is_padding_of_the_images():
    frame = cropped(a_frame(0, 0), 40, 70)
    model, other = built(), built()
    model.data_preprocessor.pad_size_divisor = 32
    for one in (model, other):
        one.head.sampler.num_dn_groups = 0
    found = losses_of(model, frame)
    expected = losses_of(other, padded(cropped(a_frame(0, 0), 40, 70), 64, 96))
    assert found.keys() == expected.keys() and 'loss_dense_depth' in found
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('size', [(40, 70), (33, 95), (64, 90)])
def test_sizes_that_no_stride_divides(size):
    losses = losses_of(built(), cropped(a_frame(0, 0), *size))
    assert all(value.isfinite().all() for value in losses.values())


def test_depth_of_other_maps_is_refused():
    frame = a_frame(0, 0)
    frame['data_samples'].gt_depth = frame['data_samples'].gt_depth[:, :-2]
    with pytest.raises(ValueError, match='downsample of MultiScaleDepthMapGenerator'):
        losses_of(built(), frame)
    assert batch_of(a_frame(0, 0))


@given(height=st.integers(5, 60), width=st.integers(5, 60))
def test_depth_maps_round_up_and_have_every_point(height, width):
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    points = np.stack([x, y, np.ones_like(x)], 1) * 7.0
    results = dict(
        points=LiDARPoints(torch.from_numpy(points).float()),
        lidar2img=np.eye(4)[None],
        img=[np.zeros((height, width, 3), np.uint8)],
        img_shape=(1, 1),
    )
    depth = MultiScaleDepthMapGenerator([4, 8])(results)['gt_depth']
    assert depth.shape[1] == sum(up(height, s) * up(width, s) for s in (4, 8))
    assert (depth == 7).all()
