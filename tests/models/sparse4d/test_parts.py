"""The parts of Sparse4D's head: boxes, key points, targets, noise, losses, decoder, anchors."""

import numpy as np
import pytest
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.registry import init_default_scope
from scipy.optimize import linear_sum_assignment

from mxd_mmplugin.models.sparse4d import (
    AsymmetricFFN,
    DenseDepthNet,
    DepthReweightModule,
    SparseBox3DDecoder,
    SparseBox3DKeyPointsGenerator,
    SparseBox3DLoss,
    SparseBox3DRefinementModule,
    SparseBox3DTarget,
)
from mxd_mmplugin.models.sparse4d.aggregation import flatten_maps
from mxd_mmplugin.models.sparse4d.anchors import make_anchors
from mxd_mmplugin.models.sparse4d.box3d import Truth, decode, encode
from mxd_mmplugin.models.sparse4d.target import NEGATIVE, PAD

CLASSES = 10


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmdet3d')


def some_boxes(count, seed=0):
    """x, y, z of the middle, dx, dy, dz, yaw, vx, vy."""
    drawn = np.random.default_rng(seed)
    columns = [
        drawn.uniform(-30, 30, (count, 2)),
        drawn.uniform(-2, 1, (count, 1)),
        drawn.uniform(0.5, 5, (count, 3)),
        drawn.uniform(-3, 3, (count, 1)),
        drawn.uniform(-5, 5, (count, 2)),
    ]
    return torch.from_numpy(np.concatenate(columns, 1).astype(np.float32))


def states(boxes):
    return torch.cat([encode(boxes), torch.zeros(*boxes.shape[:-1], 1)], -1)


def some_truth(*counts, ids=True):
    labels = [torch.arange(n) % CLASSES for n in counts]
    boxes = [encode(some_boxes(n, seed)) for seed, n in enumerate(counts)]
    return Truth(labels, boxes, [torch.arange(n) + 5 for n in counts] if ids else None)


def test_states_are_boxes():
    boxes = some_boxes(50)
    torch.testing.assert_close(decode(encode(boxes)), boxes)


def test_key_points_are_in_their_boxes():
    corners = [[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
    generator = SparseBox3DKeyPointsGenerator(8, num_learnable_pts=4, fix_scale=corners)
    assert generator.num_pts == 12
    boxes = some_boxes(20)
    anchor, feature = states(boxes)[None], torch.randn(1, 20, 8)
    points = generator(anchor, feature)
    expected = LiDARInstance3DBoxes(boxes, box_dim=9, origin=(0.5, 0.5, 0.5)).corners
    gaps = torch.cdist(points[0, :, :8], expected).amin(-1)
    assert gaps.max() < 1e-4
    assert generator(anchor).shape == (1, 20, 8, 3)
    # The learned ones, in units of the sides.
    local = points[0, :, 8:] - boxes[:, None, :3]
    cos, sin = boxes[:, None, 6].cos(), boxes[:, None, 6].sin()
    along = torch.stack(
        [cos * local[..., 0] + sin * local[..., 1], cos * local[..., 1] - sin * local[..., 0]], -1
    )
    assert (along.abs() <= boxes[:, None, 3:5] / 2 + 1e-4).all()


def test_boxes_stay_where_they_are_in_the_world():
    generator = SparseBox3DKeyPointsGenerator()
    boxes, seconds = some_boxes(30), torch.tensor([0.5])
    transform = torch.eye(4)[None]
    angle = torch.tensor(0.7)
    transform[0, :2, :2] = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(
        2, 2
    )
    transform[0, :3, 3] = torch.tensor([3.0, -2.0, 0.5])
    moved = generator.anchor_projection(states(boxes)[None], transform, seconds)[0]
    expected = boxes.clone()
    expected[:, :2] += boxes[:, 7:] * 0.5
    world = LiDARInstance3DBoxes(expected, box_dim=9, origin=(0.5, 0.5, 0.5))
    world.rotate(angle)
    world.translate(transform[0, :3, 3])
    torch.testing.assert_close(decode(moved)[:, :3], world.gravity_center, rtol=1e-4, atol=1e-4)
    turned = (decode(moved)[:, 6] - world.yaw + np.pi) % (2 * np.pi) - np.pi
    assert turned.abs().max() < 1e-4
    torch.testing.assert_close(decode(moved)[:, 7:9], world.tensor[:, 7:], rtol=1e-4, atol=1e-4)
    # Points go with them.
    points = generator(states(boxes)[None])
    there = generator.point_projection(points, states(boxes)[None], transform, seconds)
    torch.testing.assert_close(there[0, :, 0], decode(moved)[:, :3], rtol=1e-4, atol=1e-4)
    # The published weights of v3 want sine and cosine the other way round.
    swapped = SparseBox3DKeyPointsGenerator(swap_projected_yaw=True)
    other = swapped.anchor_projection(states(boxes)[None], transform, seconds)[0]
    torch.testing.assert_close(other[:, 6:8], moved[:, 6:8].flip(-1))


def test_refinement_changes_the_anchor():
    module = SparseBox3DRefinementModule(16, refine_yaw=True, with_quality_estimation=True)
    with torch.no_grad():
        module.layers[-2].weight.zero_()
        module.layers[-2].bias.copy_(torch.arange(11) * 0.1)
    anchor = torch.randn(2, 5, 11)
    feature = torch.randn(2, 5, 16)
    box, cls, quality = module(feature, anchor, feature, torch.tensor([0.5, 2.0]))
    change = torch.arange(11) * 0.1
    torch.testing.assert_close(box[..., :8], anchor[..., :8] + change[:8])
    torch.testing.assert_close(box[0, :, 8:], anchor[0, :, 8:] + change[8:] / 0.5)
    torch.testing.assert_close(box[1, :, 8:], anchor[1, :, 8:] + change[8:] / 2.0)
    assert cls.shape == (2, 5, 10) and quality.shape == (2, 5, 2)
    assert module(feature, anchor, feature, torch.ones(2), return_cls=False)[1:] == (None, None)
    module.init_weights()
    assert module.cls_layers[-1].bias.sigmoid().mean().item() == pytest.approx(0.01)


def test_matching_finds_the_nearest_box_of_the_class():
    truth = some_truth(4, 0, 7)
    sampler = SparseBox3DTarget(
        reg_weights=[2.0] * 3 + [0.5] * 3 + [0.0] * 4, cls_wise_reg_weights={'2': [3.0] * 10}
    )
    boxes = torch.randn(3, 20, 10) * 50
    logits = torch.full((3, 20, CLASSES), -4.0)
    places = {0: torch.tensor([3, 8, 1, 15]), 2: torch.tensor([0, 2, 4, 6, 8, 10, 12])}
    for i, rows in places.items():
        boxes[i, rows] = truth.boxes[i] + 0.05
        logits[i, rows, truth.labels[i]] = 2.0
    labels, target, weight = sampler.sample(logits, boxes, truth)
    assert (labels[1] == CLASSES).all() and (weight[1] == 0).all()
    for i, rows in places.items():
        assert torch.equal(labels[i, rows], truth.labels[i])
        assert torch.equal(target[i, rows], truth.boxes[i])
        assert (labels[i] < CLASSES).sum() == len(rows)
    assert weight[0, 1].tolist() == [3.0] * 10 and weight[0, 3].tolist() == [1.0] * 10


def test_unknown_velocities_do_not_count():
    truth = some_truth(3)
    truth.boxes[0][1, 8:] = torch.nan
    boxes = truth.boxes[0][None].nan_to_num() + 0.01
    labels, target, weight = SparseBox3DTarget().sample(torch.zeros(1, 3, CLASSES), boxes, truth)
    assert torch.equal(labels[0], truth.labels[0]) and target.isfinite().all()
    assert weight[0, 1].tolist() == [1.0] * 8 + [0.0] * 2


def test_noise_is_around_the_truth():
    truth = some_truth(4, 2)
    scale = [2.0] * 3 + [0.5] * 7
    sampler = SparseBox3DTarget(num_dn_groups=3, dn_noise_scale=scale, max_dn_gt=3)
    noisy = sampler.noisy(truth, 11)
    assert noisy.anchor.shape == (2, 3, 6, 11) and noisy.labels.shape == (2, 3, 6)
    assert (noisy.anchor[..., 10] == 0).all()
    scale = torch.tensor(scale)
    for i, known in enumerate((3, 2)):
        slots = [*range(known), *range(3, 3 + known)]  # positive ones, then negative ones
        gap = noisy.anchor[i][:, slots, :10] - truth.boxes[i][:known].repeat(2, 1)
        gap = gap.abs() / scale
        assert (gap[:, :known] <= 1 + 1e-4).all() and (gap[:, known:] >= 1 - 1e-4).all()
        assert (gap <= 2 + 1e-4).all()
        for group in range(3):
            labels = noisy.labels[i, group]
            assert sorted(labels[labels >= 0].tolist()) == truth.labels[i][:3].tolist()
            objects = labels >= 0
            meant = noisy.ids[i, group][objects] - 5
            assert torch.equal(noisy.boxes[i, group][objects], truth.boxes[i][meant])
        assert noisy.valid[i].sum() >= 3 * known
    assert noisy.valid[0].all() and {PAD, NEGATIVE} <= set(noisy.labels[1].flatten().tolist())
    mask = noisy.attention_mask()
    assert mask.shape == (18, 18)
    assert not mask[:6, :6].any() and mask[:6, 6:].all() and mask.sum() == 18 * 12


def test_no_objects_no_noise():
    assert SparseBox3DTarget(num_dn_groups=2).noisy(some_truth(0, 0), 11) is None
    assert SparseBox3DTarget().noisy(some_truth(3), 11) is None


class Bank:
    """As much of an `InstanceBank` as the noise needs: the second sample begins anew."""

    def __init__(self):
        self.before = True
        self.rows = torch.tensor([0, 0])
        self.mask = torch.tensor([True, False])

    def project(self, anchor):
        return anchor + 100


def test_noise_goes_on_with_its_objects():
    sampler = SparseBox3DTarget(num_dn_groups=3, num_temp_dn_groups=2)
    truth = some_truth(4, 3)
    before = sampler.noisy(truth, 11)
    feature = torch.randn(2, 24, 6)
    sampler.cache(before, feature, before.anchor.flatten(1, 2))
    kept = sampler.history
    assert kept.anchor.shape == (2, 2, 8, 11)

    later = some_truth(4, 3)  # the same objects, one gone, in another order
    order = torch.tensor([3, 1, 0])
    later.labels[0], later.boxes[0] = later.labels[0][order], later.boxes[0][order] + 1
    later.ids[0] = later.ids[0][order]
    now = sampler.noisy(later, 11)
    fresh = torch.randn(2, 18, 6)
    found, anchor, merged = sampler.go_on(now, Bank(), fresh, now.anchor.flatten(1, 2))
    size = now.labels.shape[2]
    assert merged.labels.shape == (2, 3, size) and anchor.shape == (2, 3 * size, 11)
    # The second sample, and the third group of the first, are the present frame's.
    for name in ('labels', 'ids', 'boxes', 'valid', 'anchor'):
        assert torch.equal(getattr(merged, name)[1], getattr(now, name)[1])
        assert torch.equal(getattr(merged, name)[0, 2], getattr(now, name)[0, 2])
    assert torch.equal(found.view(2, 3, size, 6)[1], fresh.view(2, 3, size, 6)[1])
    assert torch.equal(merged.anchor[0, :2], kept.anchor[0, :, :size] + 100)
    for group in range(2):
        for slot in range(size):
            number = kept.ids[0, group, slot].item()
            label = merged.labels[0, group, slot].item()
            if number < 0:
                assert label == NEGATIVE
            elif number == 5 + 2:  # what is gone
                assert label == PAD
            else:
                place = (later.ids[0] == number).nonzero().item()
                assert label == later.labels[0][place]
                assert torch.equal(merged.boxes[0, group, slot], later.boxes[0][place])
    # More objects than before: the rest is filled up, and counts nothing.
    more = some_truth(6, 3)
    wide = sampler.noisy(more, 11)
    merged = sampler.go_on(wide, Bank(), torch.randn(2, 36, 6), wide.anchor.flatten(1, 2))[2]
    assert not merged.valid[0, :2, 8:].any() and merged.valid[0, 2].any()
    sampler.cache(None, None, None)
    assert sampler.history is None


def some_loss(**options):
    return SparseBox3DLoss(
        dict(type='mmdet.L1Loss'),
        dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True),
        dict(type='mmdet.GaussianFocalLoss'),
        **options,
    )


def test_boxes_that_look_the_same_from_behind():
    target = encode(some_boxes(6))
    box = target.clone()
    box[:, 6:8] *= -1
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    given = (x[None] for x in (box, target, torch.ones(6, 10)))  # one layer
    losses = some_loss(cls_allow_reverse=[2])(
        *given, torch.tensor(6.0), quality=torch.zeros(1, 6, 2), labels=labels[None]
    )
    forward = target[labels != 2]
    expected = 2 * forward[:, 6:8].abs().sum() / 6
    torch.testing.assert_close(losses['loss_box'], expected[None])
    assert set(losses) == {'loss_box', 'loss_cns', 'loss_yns'}
    assert torch.equal(target, encode(some_boxes(6)))  # not changed


def test_quality_is_that_of_the_box():
    target = encode(some_boxes(2))
    box = target.clone().requires_grad_()
    with torch.no_grad():
        box[1, 0] += 3.0
    logits = torch.tensor([[8.0, 8.0], [torch.logit(torch.tensor(np.exp(-3.0))), 8.0]])
    args = box[None], target[None], torch.ones(1, 2, 10), torch.tensor(2.0)
    good = some_loss()(*args, quality=logits[None].float())
    bad = some_loss()(*args, quality=-logits[None].float())
    assert good['loss_cns'] < bad['loss_cns'] and good['loss_yns'] < bad['loss_yns']
    good['loss_cns'].requires_grad_().backward()
    assert box.grad is None or not box.grad.any()  # a box is not moved to please its quality


def test_decoder_ranks_by_quality_and_keeps_what_belongs_together():
    logits = torch.full((1, 4, 3), -5.0)
    logits[0, [0, 1, 2], [2, 0, 1]] = torch.tensor([2.0, 1.0, 0.0])
    boxes = some_boxes(4)
    quality = torch.zeros(1, 4, 2)
    quality[0, :, 0] = torch.tensor([-3.0, 3.0, 0.0, 0.0])
    ids = torch.tensor([[7, 8, 9, -1]])
    decoder = SparseBox3DDecoder(num_output=3, score_threshold=0.1)
    found = decoder.decode(logits, states(boxes)[None], ids, quality)[0]
    assert found.instances_id.tolist() == [8, 9, 7] and found.labels_3d.tolist() == [0, 1, 2]
    torch.testing.assert_close(found.cls_scores, torch.tensor([1.0, 0.0, 2.0]).sigmoid())
    torch.testing.assert_close(
        found.scores_3d, found.cls_scores * torch.tensor([3.0, 0.0, -3.0]).sigmoid()
    )
    torch.testing.assert_close(found.bboxes_3d.gravity_center, boxes[[1, 2, 0], :3])
    torch.testing.assert_close(found.bboxes_3d.tensor[:, 3:], boxes[[1, 2, 0], 3:])
    # Without tracks a box may have several classes.
    logits[0, 0, 1] = 1.5
    several = SparseBox3DDecoder(num_output=3).decode(logits, states(boxes)[None])[0]
    assert several.labels_3d.tolist() == [2, 1, 0] and 'instances_id' not in several
    torch.testing.assert_close(several.bboxes_3d.gravity_center, boxes[[0, 0, 1], :3])
    assert len(SparseBox3DDecoder(num_output=99).decode(logits, states(boxes)[None], ids)[0]) == 4


def test_depth_is_learned_where_it_was_measured():
    net = DenseDepthNet(4, num_depth_layers=2, loss_weight=0.5)
    with torch.no_grad():
        for layer in net.depth_layers:
            layer.weight.zero_()
            layer.bias.fill_(float(np.log(10.0)))
    maps = [torch.randn(2, 3, 4, 4, 6), torch.randn(2, 3, 4, 2, 3)]
    focal = torch.full((2, 3), 200.0)
    depths = net(maps, focal)
    assert [tuple(x.shape) for x in depths] == [(2, 3, 4, 6), (2, 3, 2, 3)]
    torch.testing.assert_close(depths[0], torch.full_like(depths[0], 20.0))
    truth = torch.full((2, 3, 24 + 6), -1.0)
    truth[0, 1, 5], truth[1, 2, 7] = 26.0, 16.0  # two of the first map
    assert net.loss(depths, truth).item() == pytest.approx(0.5 * (6 + 4) / 4)
    assert net.loss(depths, truth * 0).item() == 0


def test_depth_confidence_is_a_probability():
    module = DepthReweightModule(8)
    with torch.no_grad():
        module.depth_fc[-1].weight.zero_()
        module.depth_fc[-1].bias.zero_()
        module.depth_fc[-1].bias[2] = 50.0  # certain: 11 m
    features = torch.randn(1, 3, 8)
    points = torch.tensor([[[11.0, 0, 0], [0, 8.5, 0], [40.0, 0, 0]]])
    confidence = module.confidence(features, points)[0, :, 0]
    torch.testing.assert_close(confidence, torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)


def test_a_network_of_equal_channels_adds_its_input():
    network = AsymmetricFFN(None, None, embed_dims=6, feedforward_channels=12)
    x = torch.randn(3, 6)
    torch.testing.assert_close(network(x), x + network.layers(x))
    wide = AsymmetricFFN(12, dict(type='LN'), embed_dims=6, feedforward_channels=12, num_fcs=3)
    assert wide(torch.randn(3, 12)).shape == (3, 6) and wide.identity_fc.weight.shape == (6, 12)
    assert isinstance(MODELS.build(dict(type='AsymmetricFFN', add_identity=False)), AsymmetricFFN)


def test_anchors_are_where_objects_are():
    boxes = np.zeros((400, 7))
    centers = np.array([[10, 0, -1], [-20, 5, 0], [0, 30, 1], [90, 0, 0]], float)
    drawn = np.random.default_rng(0)
    boxes[:, :3] = centers[np.arange(400) % 4] + drawn.normal(0, 0.1, (400, 3))
    boxes[:, 3:6] = 4, 2, 1.5
    anchors = make_anchors(boxes, 3, 55)
    assert anchors.shape == (3, 11)
    gaps = np.linalg.norm(anchors[:, None, :3] - centers[None, :3], axis=-1)
    assert gaps.min(0).max() < 0.1
    np.testing.assert_allclose(np.exp(anchors[:, 3:6]), np.tile([4, 2, 1.5], (3, 1)))
    assert anchors[:, 6:].tolist() == [[0, 1, 0, 0, 0]] * 3
    np.testing.assert_array_equal(anchors, make_anchors(boxes, 3, 55))
    with pytest.raises(ValueError, match='need as many boxes'):
        make_anchors(boxes, 301, 55)


def test_index_tables_of_the_same_maps_are_the_same_tensors():
    maps = [torch.rand(1, 2, 4, 6, 8), torch.rand(1, 2, 4, 3, 4)]
    with torch.inference_mode():
        first = flatten_maps(maps)
    rows, shapes, starts = flatten_maps(maps)
    assert shapes is first[1] and starts is first[2] and not shapes.is_inference()
    assert shapes.tolist() == [[[6, 8], [3, 4]]] * 2 and starts.tolist() == [[0, 48], [60, 108]]
    assert rows.shape == (1, 120, 4)
    assert flatten_maps(maps[:1])[1] is not shapes


def test_layers_are_summed_as_by_one_call_each():
    """The mean over `avg_factor`, layer by layer, and with some boxes that do not count."""
    torch.manual_seed(0)
    boxes = torch.randn(3, 9, 10, requires_grad=True)
    target, weights = torch.randn(3, 9, 10), torch.rand(3, 9, 10)
    quality, labels = torch.randn(3, 9, 2), torch.randint(0, 4, (3, 9))
    counts = torch.randint(0, 2, (3, 9)).float()
    averages = torch.tensor([2.0, 1.0, 5.0])
    loss = some_loss(cls_allow_reverse=[1, 3])
    weights = weights * counts[..., None]
    found = loss(boxes, target, weights, averages, quality, labels, counts)
    for i in range(3):
        rows = counts[i] > 0
        one = (x[i, rows][None] for x in (boxes, target, weights))
        rest = (x[i, rows][None] for x in (quality, labels))
        expected = loss(*one, averages[i], *rest)
        for name, value in expected.items():
            torch.testing.assert_close(found[name][i], value[0])
    nothing = loss(*(x[:, :0] for x in (boxes, target, weights)), averages, quality[:, :0])
    assert all(value.tolist() == [0] * 3 for value in nothing.values())


@pytest.mark.parametrize('counts', [(4, 0, 7), (0, 0), (45,)])
def test_all_layers_are_matched_as_one_by_one(counts):
    """And with one copy to the host: the costs of all layers and samples together."""
    torch.manual_seed(0)
    truth = some_truth(*counts)
    truth.boxes[0][:1, 8:] = torch.nan
    sampler = SparseBox3DTarget(cls_wise_reg_weights={'2': [3.0] * 10})
    logits = torch.randn(4, len(counts), 40, CLASSES)
    boxes = torch.randn(4, len(counts), 40, 10)
    found = sampler.match(logits, boxes, truth)
    assert found.rows.shape == (4, sum(min(40, n) for n in counts))
    for layer in range(4):
        labels, targets, weights = sampler.sample(logits[layer], boxes[layer], truth)
        rows = (labels.flatten() < CLASSES).nonzero()[:, 0]
        assert torch.equal(found.labels[layer], labels.flatten())
        assert torch.equal(found.rows[layer], rows)
        assert torch.equal(found.boxes[layer], targets.flatten(0, 1)[rows])
        assert torch.equal(found.weights[layer], weights.flatten(0, 1)[rows])
        for i, count in enumerate(counts):
            # The cheapest matching of this layer and sample alone.
            cost = sampler._cls_gain(logits[layer, i])[:, truth.labels[i]] * sampler.cls_weight
            factors = (~truth.boxes[i].isnan()).float()
            factors[truth.labels[i] == 2] = 3.0
            cost += sampler._box_cost(boxes[layer, i], truth.boxes[i].nan_to_num(), factors)
            pairs = linear_sum_assignment(cost)
            expected = torch.full((40,), CLASSES)
            expected[pairs[0]] = truth.labels[i][pairs[1]]
            assert torch.equal(labels[i], expected), count
