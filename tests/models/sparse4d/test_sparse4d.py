"""The detector: names and shapes of the original's weights, every mode, sequences, and both ways to aggregate."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mxd_mmplugin.models.matching import match
from mxd_mmplugin.models.sparse4d import GridSampleAggregation, Sparse4D, target
from mxd_mmplugin.modules import DeformableAggregation
from tests.conftest import ROOT
from tests.counting import Counting

FOLDER = ROOT / 'configs' / 'sparse4d'
# The column of parameters.txt: lists made by the authors' own code at the tags of each version.
FULL = {
    'sparse4d_r101_H4': '1',
    'sparse4dv2_r50_HInf_256x704': '2',
    'sparse4dv3_temporal_r50_1x8_bs6_256x704': '3',
    'sparse4dv3_temporal_r101_1x8_bs6_512x1408': 'R',
}
SMALL = next(path.stem for path in FOLDER.glob('*generated*.py'))
HEIGHT, WIDTH, CAMERAS = 64, 96, 6


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmdet3d')


def config_of(name, anchors=None):
    config = Config.fromfile(FOLDER / f'{name}.py')
    config.model.img_backbone.init_cfg = None
    bank = config.model.head.instance_bank
    bank.anchor = some_anchors(bank.num_anchor) if anchors is None else anchors
    return config


def some_anchors(count):
    drawn = np.random.default_rng(0)
    anchors = np.zeros((count, 11))
    anchors[:, :2] = drawn.uniform(-30, 30, (count, 2))
    anchors[:, 2] = -1
    anchors[:, 3:6] = np.log([4.0, 2.0, 1.6])
    anchors[:, 7] = 1
    return anchors.tolist()


def small(version=3, head=None, **changes):
    """The small config with 40 instances; version 2 and 1 leave out what these do not have."""
    model = config_of(SMALL, some_anchors(40)).model
    part = dict(
        instance_bank=dict(num_anchor=40, num_temp_instances=25), decoder=dict(num_output=20)
    )
    if version < 3:
        part.update(with_instance_id=False, sampler=dict(num_dn_groups=0, num_temp_dn_groups=0))
        part.update(refine_layer=dict(with_quality_estimation=False))
    if version < 2:
        points = dict(type='SparseBox3DKeyPointsGenerator')
        part.update(
            instance_bank=dict(num_anchor=40, num_temp_instances=0, max_queue_length=2),
            operation_order=['gnn', 'norm', 'deformable', 'ffn', 'norm', 'refine'] * 2,
            deformable_model=dict(temporal_fusion_module=dict(type='LinearFusionModule')),
            depth_module=dict(type='DepthReweightModule', embed_dims=64),
            kps_generator=points,
        )
    config = Config(dict(model=model))
    config.merge_from_dict(dict(model=dict(changes, head=part)))
    if head:
        config.merge_from_dict(dict(model=dict(head=head)))
    return config.model


def built(version=3, seed=0, **changes):
    """A small model whose weights are drawn; the biases too, so that everything matters."""
    torch.manual_seed(seed)
    model = MODELS.build(small(version, **changes))
    model.init_weights()
    with torch.no_grad():
        for weight in model.head.parameters():
            if weight.requires_grad:
                weight += torch.randn_like(weight) * 0.05
    return model


def cameras():
    """Matrices of cameras around the car, and their intrinsics."""
    matrices, focal = [], 40.0
    for i in range(CAMERAS):
        angle = i * np.pi / 3 + 0.1
        pose, inner = np.eye(4), np.diag([focal, focal, 1.0, 1.0])
        inner[0, 2], inner[1, 2] = WIDTH / 2, HEIGHT / 2
        pose[:3, :3] = [
            [np.sin(angle), -np.cos(angle), 0],
            [0, 0, -1],
            [np.cos(angle), np.sin(angle), 0],
        ]
        matrices.append(inner @ pose)
    return np.stack(matrices), np.full(CAMERAS, focal)


def a_frame(scene, time, seed=None, objects=5, ids=True):
    """A frame of a scene: the car drives along a curve, objects move straight on."""
    drawn = np.random.default_rng([scene, time] if seed is None else seed)
    matrices, focal = cameras()
    place = np.eye(4)
    turn = 0.05 * time
    place[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    place[:2, 3] = 100 * scene + 2 * time, 0.3 * time
    sample = Det3DDataSample(
        metainfo=dict(
            projection_mat=matrices.astype(np.float32),
            image_wh=np.tile(np.array([WIDTH, HEIGHT], np.float32), (CAMERAS, 1)),
            focal=focal.astype(np.float32),
            timestamp=1.5e9 + 100 * scene + 0.5 * time,
            lidar2global=place,
            sequence=f'scene {scene}',
            box_type_3d=LiDARInstance3DBoxes,
        )
    )
    steady = np.random.default_rng(scene)
    boxes = np.concatenate(
        [steady.uniform(-20, 20, (objects, 2)), np.full((objects, 1), -1.0)]
        + [steady.uniform(1, 4, (objects, 3)), steady.uniform(-3, 3, (objects, 1))]
        + [steady.uniform(-1, 1, (objects, 2))],
        axis=1,
    ).astype(np.float32)
    boxes[:, :2] += boxes[:, 7:] * 0.5 * time
    truth = InstanceData(labels_3d=torch.from_numpy(steady.integers(0, 10, objects)))
    truth.bboxes_3d = LiDARInstance3DBoxes(boxes, box_dim=9, origin=(0.5, 0.5, 0.5))
    if ids:
        truth.instances_id = torch.arange(objects) + 10
    sample.gt_instances_3d = truth
    sample.gt_depth = torch.from_numpy(
        drawn.uniform(-10, 40, (CAMERAS, 8 * 12 + 4 * 6 + 2 * 3)).astype(np.float32)
    )
    image = drawn.integers(0, 255, (CAMERAS, 3, HEIGHT, WIDTH)).astype(np.uint8)
    return dict(inputs=dict(img=torch.from_numpy(image)), data_samples=sample)


def batch_of(*frames):
    frames = deepcopy(frames)
    return dict(
        inputs=dict(img=[frame['inputs']['img'] for frame in frames]),
        data_samples=[frame['data_samples'] for frame in frames],
    )


def losses_of(model, *frames):
    data = model.data_preprocessor(batch_of(*frames), True)
    return model(**data, mode='loss')


@torch.no_grad()
def predictions(model, *frames):
    data = model.data_preprocessor(batch_of(*frames), False)
    return [sample.pred_instances_3d for sample in model(**data, mode='predict')]


def assert_same(one, two):
    assert len(one) == len(two) > 0
    assert torch.equal(one.labels_3d, two.labels_3d)
    assert torch.equal(one.instances_id, two.instances_id)
    torch.testing.assert_close(one.scores_3d, two.scores_3d, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.bboxes_3d.tensor, two.bboxes_3d.tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('name', FULL)
def test_names_and_shapes_are_the_originals(name):
    state = MODELS.build(config_of(name).model).state_dict()
    rows = Path(__file__).with_name('parameters.txt').read_text().splitlines()
    expected = dict(row[5:].split() for row in rows if FULL[name] in row[:4])
    found = {k: 'x'.join(map(str, v.shape)) or 'scalar' for k, v in state.items()}
    found.update({k: '1' for k, v in state.items() if v.dim() == 0 and expected.get(k) == '1'})
    assert found == expected


@pytest.mark.parametrize('name', [*FULL, SMALL])
def test_configs_agree_with_themselves(name):
    config = config_of(name)
    assert config.custom_imports.imports == ['mxd_mmplugin', 'mxd_mmplugin.models.sparse4d']
    head, neck = config.model.head, config.model.img_neck
    assert head.deformable_model.aggregation.type == 'DeformableAggregation'
    dims = head.instance_bank.embed_dims
    for part in (head.deformable_model, head.refine_layer, head.ffn):
        assert part.embed_dims == dims
    assert neck.out_channels == dims and neck.num_outs == head.deformable_model.num_levels
    assert head.refine_layer.num_cls == len(config.class_names)
    assert head.graph_model.embed_dims == dims * (2 if head.decouple_attn else 1)
    for loader in (config.train_dataloader, config.val_dataloader):
        conf = loader.dataset.get('data_aug_conf')
        if conf:
            assert all(side % 32 == 0 for side in conf.final_dim)
            assert conf.resize_lim[0] <= conf.final_dim[1] / conf.W <= conf.resize_lim[1]
    types = {step.type for step in config.train_pipeline}
    if 'depth_branch' in config.model:
        step = next(s for s in config.train_pipeline if s.type == 'MultiScaleDepthMapGenerator')
        assert len(step.downsample) == config.model.depth_branch.num_depth_layers
    assert {'BEVLoadMultiViewImageFromFiles', 'NuScenesSparse4DAdaptor'} <= types


@pytest.mark.parametrize('version', [1, 2, 3])
def test_loss_prediction_and_tensors(version):
    model = built(version).train()
    assert isinstance(model, Sparse4D)
    for time in range(3):
        losses = losses_of(model, a_frame(0, time), a_frame(1, time))
        assert all(torch.isfinite(value).all() for value in losses.values())
        assert ('loss_cls_dn_2' in losses) == (version == 3)
        assert ('loss_depth' in losses) == (version == 1)
        assert 'loss_dense_depth' in losses
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    model.eval()
    for time in range(3):
        found = predictions(model, a_frame(0, time), a_frame(1, time))
        for instances in found:
            assert len(instances) == 20 and instances.bboxes_3d.tensor.shape[1] == 9
            assert ('instances_id' in instances) == (version == 3)
    with torch.no_grad():
        data = model.data_preprocessor(batch_of(a_frame(0, 3)), False)
        out = model(**data, mode='tensor')
    assert out['prediction'][-1].shape == (1, 40, 11)


def test_a_frame_with_no_object_and_one_without_identities():
    model = built().train()
    first = losses_of(model, a_frame(0, 0, objects=0), a_frame(1, 0))
    second = losses_of(model, a_frame(0, 1, objects=0), a_frame(1, 1, objects=0))
    assert 'loss_cls_dn_0' in first and 'loss_cls_dn_0' not in second
    third = losses_of(model, a_frame(0, 2, ids=False), a_frame(1, 2))
    for losses in (first, second, third):
        assert all(torch.isfinite(value) for value in losses.values())
        sum(losses.values()).backward()


def test_sequences_one_by_one_and_in_batches_are_the_same():
    model = built().eval()
    lengths = [4, 1, 3]
    alone = {}
    for scene, length in enumerate(lengths):  # one stream: the scenes follow one another
        for time in range(length):
            alone[scene, time] = predictions(model, a_frame(scene, time))[0]
    model.eval()
    for time in range(max(lengths)):
        scenes = [i for i, length in enumerate(lengths) if time < length]
        together = predictions(model, *(a_frame(scene, time) for scene in scenes))
        for scene, found in zip(scenes, together):
            assert_same(found, alone[scene, time])


def test_samples_may_change_places_and_leave():
    model = built().eval()
    expected = [predictions(model, a_frame(0, time), a_frame(1, time)) for time in range(2)]
    model.eval()
    predictions(model, a_frame(1, 0), a_frame(2, 0), a_frame(0, 0))
    found = predictions(model, a_frame(0, 1), a_frame(1, 1))
    for one, two in zip(found, expected[1]):
        assert_same(one, two)


def test_history_matters_and_ends_with_the_scene():
    model = built().eval()
    bank = model.head.instance_bank
    fresh = predictions(model, a_frame(1, 0))[0]
    again = predictions(model, a_frame(1, 1))[0]
    assert bank.known.tolist() == [True]
    assert fresh.instances_id.max() < again.instances_id.max()
    assert set(fresh.instances_id.tolist()) & set(again.instances_id.tolist())
    model.eval()
    alone = predictions(model, a_frame(1, 1))[0]
    assert bank.known.tolist() == [False]
    assert (alone.bboxes_3d.tensor - again.bboxes_3d.tensor).abs().max() > 0.01
    # Other scenes before it change nothing.
    for scene in (5, 6):
        predictions(model, a_frame(scene, 0))
    assert_same(predictions(model, a_frame(1, 0))[0], fresh)
    # Nor does the same scene too long ago, or the same frame once more.
    predictions(model, a_frame(1, 9))
    assert_same(predictions(model, a_frame(1, 0))[0], fresh)
    assert_same(predictions(model, a_frame(1, 0))[0], fresh)


def test_without_names_a_sample_goes_on_where_it_was():
    model = built().eval()
    named = [predictions(model, a_frame(0, time))[0] for time in range(3)]
    model.eval()
    for time, expected in enumerate(named):
        frame = a_frame(0, time)
        frame['data_samples'].set_metainfo(dict(nothing=0))
        del frame['data_samples'].sequence
        assert_same(predictions(model, frame)[0], expected)


def test_training_and_validation_know_nothing_of_each_other():
    model = built(head=dict(sampler=dict(num_dn_groups=0, num_temp_dn_groups=0)))
    model.eval()
    expected = [predictions(model, a_frame(0, time))[0] for time in range(2)]
    model.train()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.0  # training changes no weight here, but it counts running statistics
    first = [sum(losses_of(model, a_frame(0, time)).values()).item() for time in range(2)]
    assert model.head.instance_bank.known.tolist() == [True]
    model.eval()  # validation, of the scene that training is in
    for time in range(2):
        assert_same(predictions(model, a_frame(0, time))[0], expected[time])
    model.eval()  # a second run over the same data
    assert_same(predictions(model, a_frame(0, 0))[0], expected[0])
    model.train()
    again = [sum(losses_of(model, a_frame(0, time)).values()).item() for time in range(2)]
    assert again == first
    model.train()  # each step of mmengine's loop says so: nothing is forgotten
    losses_of(model, a_frame(0, 2))
    assert model.head.instance_bank.known.tolist() == [True]


@pytest.mark.parametrize('version', [1, 3])
def test_both_aggregations_give_the_same_losses_and_gradients(version):
    other = dict(deformable_model=dict(aggregation=dict(type='GridSampleAggregation')))
    # Weights of seed 0 bring a ReLU of the head to its kink, where rounding decides the gradient.
    models = built(version, seed=2).train(), built(version, seed=2, head=other).train()
    models[1].load_state_dict(models[0].state_dict())
    kinds = [{type(m) for m in model.modules()} for model in models]
    assert DeformableAggregation in kinds[0] and GridSampleAggregation in kinds[1]
    for time in range(2):
        results = []
        for model in models:
            torch.manual_seed(time)
            np.random.seed(time)
            model.zero_grad()
            losses = losses_of(model, a_frame(0, time), a_frame(1, time))
            sum(losses.values()).backward()
            grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            results.append((losses, grads))
        (losses, grads), (others, other_grads) = results
        for name, value in losses.items():
            torch.testing.assert_close(value, others[name], rtol=1e-4, atol=1e-4)
        assert grads.keys() == other_grads.keys()
        for name, grad in grads.items():
            scale = grad.norm().item() + 1e-3
            assert (grad - other_grads[name]).norm().item() < 1e-4 * scale, name


def test_frames_of_the_past_fill_up_without_counting():
    """v1: a sample with fewer frames before it is what it is alone, with as many."""
    model = built(1).train()
    model.head.instance_bank.max_queue_length = 0
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.eval()

    def joined(frame, before, total):
        frame = deepcopy(frame)
        frames = [frame, *before, *[frame] * (total - len(before))]
        metas = [x['data_samples'].metainfo for x in frames]
        names = 'projection_mat', 'image_wh', 'focal', 'timestamp', 'lidar2global'
        meta = {name: np.stack([m[name] for m in metas]) for name in names}
        frame['inputs']['img'] = torch.cat([x['inputs']['img'] for x in frames])
        frame['data_samples'].set_metainfo(dict(meta, queue=np.arange(total + 1) <= len(before)))
        return frame

    frame, before = a_frame(0, 5), [a_frame(0, 4), a_frame(0, 3)]
    for known in range(3):
        exact = losses_of(model, joined(frame, before[:known], known))
        filled = losses_of(model, joined(frame, before[:known], 2))
        for name, value in exact.items():
            torch.testing.assert_close(value, filled[name], rtol=1e-4, atol=1e-5)
    assert abs(exact['loss_cls_1'] - losses_of(model, joined(frame, [], 0))['loss_cls_1']) > 1e-5

    # In inference the frames before are remembered, those of the scene only.
    model = built(1).eval()
    seen = [predictions(model, a_frame(0, time))[0] for time in range(4)]
    model.eval()
    predictions(model, a_frame(7, 0))
    for time in range(4):
        found = predictions(model, a_frame(0, time))[0]
        torch.testing.assert_close(found.scores_3d, seen[time].scores_3d, rtol=1e-4, atol=1e-5)
    model.eval()
    alone = predictions(model, a_frame(0, 3))[0]
    assert (alone.scores_3d - seen[3].scores_3d).abs().max() > 1e-4


def test_half_precision_and_one_step():
    model = built().train()
    with torch.autocast('cpu', torch.bfloat16):
        losses = losses_of(model, a_frame(0, 0))
    assert all(torch.isfinite(value) and value.dtype == torch.float32 for value in losses.values())
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3))
    steps = [model.train_step(batch_of(a_frame(0, 0)), wrapper) for _ in range(12)]
    # That of the boxes grows at first: more and more of them are confident enough to be learned.
    assert steps[-1]['loss_cls_2'] < 0.7 * steps[0]['loss_cls_2']


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(instance_bank=dict(anchor='nowhere.npy')), 'mxd sparse4d-anchors'),
        (dict(instance_bank=dict(anchor=[[0.0] * 10])), r'shape \[n, 11\]'),
        (dict(instance_bank=dict(num_temp_instances=41)), 'num_temp_instances must be at most'),
        (dict(operation_order=['gnn', 'guess']), 'operation_order must be made of'),
        (dict(sampler=dict(num_temp_dn_groups=9)), 'num_temp_dn_groups must be at most'),
        (dict(deformable_model=dict(num_groups=5)), 'embed_dims must be a multiple'),
        (dict(deformable_model=dict(residual_mode='mix')), 'residual_mode must be'),
        (dict(anchor_encoder=dict(mode='mix')), 'mode must be'),
        (dict(ffn=dict(num_fcs=1)), 'num_fcs must be 2 or more'),
    ],
)
def test_wrong_options_are_named(changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        MODELS.build(small(head=changes))


@pytest.mark.parametrize('samples', [1, 3])
def test_a_step_waits_for_its_two_matchings_alone(monkeypatch, samples):
    """That of the noise and that of the predictions, whatever the layers and samples are."""
    model = built().train()
    looks = []
    monkeypatch.setattr(target, 'match', lambda costs: looks.append(len(costs)) or match(costs))
    for time in range(2):
        frames = [a_frame(scene, time) for scene in range(samples)]
        data = model.data_preprocessor(batch_of(*frames), True)
        looks.clear()
        with Counting() as counting:
            losses = model(**data, mode='loss')
        assert counting.waits == 0, counting.calls
        groups, layers = model.head.sampler.num_dn_groups, 3
        assert looks == [groups * samples, layers * samples]
        sum(losses.values()).backward()
