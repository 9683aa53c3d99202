"""Options that do not go together, and what is said of them where a model, a data set or a command is made."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.dataset import ConcatDataset, DefaultSampler, RepeatDataset
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mxd_mmplugin.datasets.db_sampler import DataBaseSampler
from mxd_mmplugin.models.bevfusion import ImageAug3D, TransFusionBBoxCoder
from mxd_mmplugin.models.sparse4d import (
    CropMultiViewImage,
    GroupInBatchSampler,
    MultiScaleDepthMapGenerator,
    SequenceBatchSampler,
    Sparse4D,
    SparseBox3DTarget,
)
from mxd_mmplugin.models.sparse4d import anchors as anchors_command
from mxd_mmplugin.models.sparse4d import infos as infos_command
from mxd_mmplugin.models.sparse4d.transforms import draw_augmentation

from .bevfusion.test_bevfusion import small as bevfusion
from .bevfusion.test_head import head_config
from .centerpoint.test_head import config as centerpoint
from .sparse4d.test_data import dataset
from .sparse4d.test_sparse4d import a_frame, losses_of
from .sparse4d.test_sparse4d import built as sparse4d_built
from .sparse4d.test_sparse4d import small as sparse4d


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmdet3d')


NO_VELOCITY = dict(center=[2, 2], height=[1, 2], dim=[3, 2], rot=[2, 2], _delete_=True)
BEVFUSION = [
    (dict(pts_middle_encoder=None), 'pts_middle_encoder must be given, was None: .*not of cameras'),
    (dict(pts_backbone=None), 'pts_backbone must be given, was None'),
    (dict(pts_neck=None), 'pts_neck must be given, was None'),
    (dict(bbox_head=None), 'bbox_head must be given, was None'),
    (
        dict(pts_middle_encoder=dict(sparse_shape=[128, 90, 41])),
        r'sparse_shape of pts_middle_encoder must be the .* cells of voxelize_cfg.*\[128, 90, 41\]',
    ),
    (
        dict(pts_middle_encoder=dict(sparse_shape=[128, 0.3 / 0.1 * 32, 41])),
        'sparse_shape must be a whole number, was 95.9999',
    ),
    (
        dict(bbox_head=dict(test_cfg=dict(grid_size=[64, 96, 41]))),
        r'grid_size of test_cfg of bbox_head must be the .*was \[64, 96, 41\]',
    ),
    (dict(view_transform=dict(xbound=[-10, 10, 0.3])), r'xbound must hold a whole number of steps'),
    (dict(view_transform=dict(image_size=[64.5, 96])), 'image_size must be a whole number, was 64'),
    (dict(view_transform=dict(dbound=[5, 1, 1.0])), r'dbound must be .* was \[5, 1, 1.0\]'),
    (
        dict(view_transform=dict(xbound=[-12.0, 12.0, 0.75])),
        r'xbound of view_transform must begin and end as point_cloud_range',
    ),
    (
        dict(view_transform=dict(ybound=[-9.6, 9.6, 0.4])),
        r'ybound and downsample of view_transform must make .*24 cells .*made 48',
    ),
    (dict(bbox_head=dict(num_proposals=7681)), r'num_proposals must be 1 to the 10 .*32 x 24'),
]


@pytest.mark.parametrize(('changes', 'message'), BEVFUSION)
def test_bevfusion(changes, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(bevfusion(**changes))


def test_bevfusion_without_a_preprocessor():
    with pytest.raises(ValueError, match=r'data_preprocessor must have voxelize_cfg, has \[\]'):
        MODELS.build(dict(bevfusion(), data_preprocessor=None))


HEAD = [
    (dict(common_heads=NO_VELOCITY), 'code_size of bbox_coder must be 8, .* was 10'),
    (dict(bbox_coder=dict(code_size=8)), "code_size of bbox_coder must be 10, .*'vel': 2.*was 8"),
    (dict(train_cfg=dict(code_weights=[1.0] * 8)), r'code_weights must have 10 numbers .*was \[1'),
    (dict(train_cfg=dict(voxel_size=[0.5, 0.5, 0.2])), 'voxel_size of train_cfg must begin as'),
    (
        dict(train_cfg=dict(point_cloud_range=[-9.0, -16, -5, 12, 16, 3])),
        'point_cloud_range of train_cfg must begin as pc_range of bbox_coder',
    ),
    (
        dict(test_cfg=dict(out_size_factor=8)),
        'out_size_factor of train_cfg and test_cfg must be .*8',
    ),
    (dict(test_cfg=dict(grid_size=[96.5, 64, 41])), 'grid_size must be a whole number, was 96.5'),
    (dict(test_cfg=dict(nms_type='soft')), "nms_type of test_cfg must be None, .*was 'soft'"),
    (dict(test_cfg=None), 'test_cfg must be given, .*was None'),
    (dict(num_proposals=0), 'num_proposals must be 1 to .* was 0'),
]


@pytest.mark.parametrize(('changes', 'message'), HEAD)
def test_transfusion_head(changes, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(head_config(**changes))


def test_losses_need_a_train_cfg():
    head = MODELS.build(head_config(train_cfg=None))
    with pytest.raises(ValueError, match='train_cfg must be given where losses'):
        head.loss_by_feat(head([torch.randn(1, 8, 24, 16)]), [])


CENTERPOINT = [
    (dict(out_size_factor=8), r'out_size_factor of train_cfg must begin as .*\[4\], was 8'),
    (
        dict(point_cloud_range=[0.0, 0, -5, 24, 32, 3]),
        r'point_cloud_range of train_cfg must begin as that of bbox_coder, \[-12.0, -16.0\]',
    ),
    (dict(voxel_size=[0.5, 0.5, 0.2]), 'voxel_size of train_cfg must begin as that of bbox_coder'),
    (dict(grid_size=[96.5, 64, 40]), 'grid_size must be a whole number, was 96.5'),
    (
        dict(grid_size=[64, 96, 40]),
        r'grid_size of train_cfg must begin as \[96, 64\].*was \[64, 96',
    ),
    (dict(code_weights=[1.0] * 8), 'code_weights of train_cfg must have 10 numbers.*was'),
]


@pytest.mark.parametrize(('changes', 'message'), CENTERPOINT)
def test_center_head(changes, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(centerpoint(train_cfg=changes))


def test_a_map_and_boxes_that_do_not_fit_a_center_head_are_named():
    for size, columns, message in (
        ((16, 20), 9, r'out_size_factor must be the map, \[20, 16\], was \[24, 16\]'),
        ((16, 24), 7, 'bboxes_3d must have 9 columns or more, had 7: .*with_velocity=True'),
    ):
        head = MODELS.build(centerpoint())
        truth = InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(torch.ones(2, columns), box_dim=columns),
            labels_3d=torch.tensor([0, 1]),
        )
        with pytest.raises(ValueError, match=message):
            head.loss_by_feat(head([torch.randn(1, 8, *size)]), [truth])


def test_a_map_of_another_size_is_named():
    with pytest.raises(ValueError, match=r'must be the map, \[20, 16\], was \[24, 16\]'):
        MODELS.build(head_config())([torch.randn(1, 8, 20, 16)])


def test_boxes_without_velocity_are_named():
    coder = TransFusionBBoxCoder([0, 0], 8, [0.1, 0.1], code_size=10)
    with pytest.raises(ValueError, match=r'code_size 10 needs boxes with velocity.*with_velocity'):
        coder.encode(torch.ones(2, 7))
    frame = a_frame(0, 0)['data_samples']
    frame.gt_instances_3d.bboxes_3d = LiDARInstance3DBoxes(torch.ones(5, 7))
    with pytest.raises(ValueError, match=r'boxes must have 9 numbers.*had 7: with_velocity'):
        Sparse4D.truth([frame], torch.device('cpu'))


def odd(**change):
    states = np.ones((40, 11))
    states[3, 4] = change.get('value', 1)
    return states[: change.get('rows', 40)].tolist()


SPARSE4D = [
    (dict(reg_weights=[1.0] * 8), 'reg_weights must have 10 numbers, was'),
    (dict(sampler=dict(reg_weights=[1.0] * 11)), 'reg_weights must have 10 numbers, one for each'),
    (dict(sampler=dict(dn_noise_scale=[1.0])), 'dn_noise_scale must have 10 numbers'),
    (dict(instance_bank=dict(anchor=odd(rows=39))), 'anchor must have 40 rows or more .*has 39'),
    (dict(instance_bank=dict(anchor=odd(value=np.nan))), 'anchor must be finite, and row 3 is not'),
    (dict(instance_bank=dict(anchor=[['a'] * 11] * 40)), 'anchor must be numbers of the shape'),
    (dict(instance_bank=dict(anchor=[[0.0] * 11, [0.0]])), 'anchor must be numbers of the shape'),
    (dict(instance_bank=dict(num_anchor=40.5)), 'num_anchor must be a whole number, was 40.5'),
    (dict(operation_order=['gnn', 'norm']), "operation_order must end with 'refine', was"),
    (dict(operation_order=['nothing', 'refine']), "operation_order must be made of .*'nothing'"),
    (dict(num_single_frame_decoder=9), "num_single_frame_decoder must be at most the 3 'refine'"),
    *(
        (
            dict(instance_bank=dict(embed_dims=32))
            if option is None
            else {option: dict(embed_dims=32)},
            f'embed_dims of {option or ""}.* must make .* channels, .* made',
        )
        for option in (
            None,
            'graph_model',
            'temp_graph_model',
            'ffn',
            'deformable_model',
            'refine_layer',
        )
    ),
    (
        dict(anchor_encoder=dict(embed_dims=[16, 16, 16, 32])),
        'embed_dims of anchor_encoder must make 64 channels, .* made 80',
    ),
]


@pytest.mark.parametrize(('changes', 'message'), SPARSE4D)
def test_sparse4d(changes, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(sparse4d(head=changes))


@pytest.mark.parametrize(('name', 'found'), [('num_cams', 6), ('num_levels', 3)])
def test_images_and_maps_of_another_number(name, found):
    model = sparse4d_built(head=dict(deformable_model={name: 2}))
    with pytest.raises(
        ValueError, match=f'{name} of the deformable_model must be the {found} .*was 2'
    ):
        losses_of(model, a_frame(0, 0))


def test_more_classes_than_the_model_has():
    frame = a_frame(0, 0)
    model = sparse4d_built(head=dict(refine_layer=dict(num_cls=3)))
    with pytest.raises(ValueError, match=r'labels_3d must be below 3 \(num_cls of refine_layer\)'):
        losses_of(model, frame)
    head = MODELS.build(head_config())
    frame['data_samples'].gt_instances_3d.labels_3d[0] = 11
    with pytest.raises(ValueError, match=r'must be below 10 \(num_classes\); the data set'):
        head.loss_by_feat(
            head([torch.randn(1, 8, 24, 16)]), [frame['data_samples'].gt_instances_3d]
        )


def sizes_of(config):
    """The integers of a config: their places and values."""
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        if isinstance(value, (dict, list, tuple)):
            yield from (((key, *path), number) for path, number in sizes_of(value))
        elif type(value) is int:
            yield (key,), value


def with_number(config, path, number):
    """A copy with a number in a place."""
    config = copy.deepcopy(config)
    part = config
    for key in path[:-1]:
        if isinstance(part[key], tuple):
            part[key] = list(part[key])
        part = part[key]
    part[path[-1]] = number
    return config


# Parts of mmdet3d, mmdet, mmcv and mmengine; layers and boxes that are no sizes.
OTHERS = (
    *(
        'data_preprocessor',
        'pts_voxel_encoder',
        'encoder_channels',
        'encoder_paddings',
        'pts_backbone',
    ),
    *('pts_neck', 'decoder_layer', 'train_cfg', 'test_cfg', 'common_heads', 'post_center_range'),
    *(
        'img_backbone',
        'img_neck',
        'graph_model',
        'temp_graph_model',
        'norm_layer',
        'fix_scale',
        'loss_reg',
    ),
    *('num_stages', 'dbound', 'view_transform.image_size'),
)


@pytest.mark.parametrize('make', [bevfusion, sparse4d])
def test_numbers_that_become_sizes(make):
    """Each integer of our own parts: numpy's and a whole float are taken, others refused by name."""
    config, named = make(), set()
    for path, number in sizes_of(config):
        option = next(key for key in reversed(path) if isinstance(key, str))
        if {*path} & {*OTHERS} or (path[0], option) in named:
            continue
        named.add((path[0], option))
        for value in (np.int64(number), float(number)):
            MODELS.build(with_number(config, path, value))
        with pytest.raises(ValueError, match=f'{option} must be a whole number, was'):
            MODELS.build(with_number(config, path, number + 0.5))
    assert len(named) > 8


def test_sizes_of_transforms():
    for make in (
        lambda size: CropMultiViewImage([0, size, 0, 4]),
        lambda size: MultiScaleDepthMapGenerator([4, size]),
        lambda size: ImageAug3D([size, 9], [1, 1], [0, 0], [0, 0], False, False),
    ):
        make(8.0)
        with pytest.raises(ValueError, match=r'must be a whole number, was 8.5, in'):
            make(8.5)
    conf = dict(H=16, W=16, resize_lim=[1, 1], bot_pct_lim=[0, 0], rand_flip=False)
    assert draw_augmentation(dict(conf, final_dim=[8.0, 8]), False)['crop'] == (0, 0, 8, 8)
    with pytest.raises(ValueError, match='final_dim must be a whole number'):
        draw_augmentation(dict(conf, final_dim=[8.5, 8]), False)


def test_weights_of_a_class():
    with pytest.raises(ValueError, match=r'cls_wise_reg_weights\[3\] must have 10 numbers'):
        SparseBox3DTarget(cls_wise_reg_weights={3: [1.0]})


def test_files_of_anchors(tmp_path):
    (tmp_path / 'text.npy').write_text('no array')
    np.save(tmp_path / 'objects.npy', np.array([None, {}]), allow_pickle=True)
    for name in ('text.npy', 'objects.npy'):
        path = str(tmp_path / name)
        with pytest.raises(ValueError, match=f'anchor {path} is not a .npy file of numbers'):
            MODELS.build(sparse4d(head=dict(instance_bank=dict(anchor=path))))


@pytest.mark.parametrize('sampler', [GroupInBatchSampler, SequenceBatchSampler])
def test_data_sets_around_sequences(sampler, tmp_path):
    data = dataset(tmp_path)
    for around in (ConcatDataset([data, data]), RepeatDataset(data, 2)):
        message = f'itself.*was {type(around).__name__} around NuScenes3DDetTrackDataset'
        with pytest.raises(ValueError, match=message):
            sampler(DefaultSampler(around), 1)


def test_sequences_need_velocities(tmp_path):
    with pytest.raises(ValueError, match=r'with_velocity must be True.*was False'):
        dataset(tmp_path, with_velocity=False)


OLD = [
    (dict(infos=[], metadata={}), r'has no data_list \(mmdet3d 0.x made one with `infos`\)'),
    ([], 'has no data_list'),
    (None, 'is not there: `mxd create-data`'),
    (b'no pickle', 'is not an info file'),
]


@pytest.mark.parametrize(('content', 'message'), OLD)
def test_old_info_files(content, message, tmp_path):
    path, tables = tmp_path / 'infos.pkl', tmp_path / 'v1.0-mini'
    tables.mkdir()
    for name in ('sample', 'instance', 'sample_annotation'):
        (tables / f'{name}.json').write_text('[]')
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    arguments = SimpleNamespace(infos=[path], root=tmp_path, version='v1.0-mini')
    with pytest.raises(SystemExit, match=f'mxd sparse4d-infos: {path} {message}'):
        infos_command.run(arguments)
    arguments = SimpleNamespace(infos=path, num=9, range=40, seed=0, out=tmp_path / 'a.npy')
    with pytest.raises(SystemExit, match=f'mxd sparse4d-anchors: {path} {message}'):
        anchors_command.run(arguments)


def test_commands_name_what_does_not_fit(tmp_path):
    path, tables = tmp_path / 'infos.pkl', tmp_path / 'v1.0-mini'
    tables.mkdir()
    (tables / 'sample.json').write_text('[{"token": "a", "scene_token": "s"}]')
    (tables / 'instance.json').write_text('[{"token": "i"}]')
    (tables / 'sample_annotation.json').write_text('[]')
    box = dict(bbox_3d=[1.0] * 7, num_lidar_pts=3)
    for token, message in (
        ('b', 'frame b is not in .*--root and --version'),
        ('a', 'its 1 objects are not the 0'),
    ):
        path.write_bytes(pickle.dumps(dict(data_list=[dict(token=token, instances=[box])])))
        arguments = SimpleNamespace(infos=[path], root=tmp_path, version='v1.0-mini')
        with pytest.raises(SystemExit, match=message):
            infos_command.run(arguments)
    arguments = SimpleNamespace(infos=path, num=9, range=40, seed=0, out=tmp_path / 'a.npy')
    with pytest.raises(SystemExit, match='--num and --range: 9 anchors need as many boxes'):
        anchors_command.run(arguments)


def test_old_info_files_of_a_data_set(tmp_path):
    data = dataset(tmp_path, lazy_init=True)
    (tmp_path / 'infos.pkl').write_bytes(pickle.dumps(dict(infos=[], metadata={})))
    with pytest.raises(
        ValueError, match=r'ann_file .*infos.pkl must be an info file of mmdet3d 1.x'
    ):
        data.full_init()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(sample_groups=dict(bus=2)),
            "sample_groups has 'bus', and the data base .*only .*car",
        ),
        (
            dict(prepare=dict(filter_by_min_points=dict(bus=5))),
            "filter_by_min_points has 'bus', and the data base",
        ),
        (dict(classes=['truck']), "sample_groups has 'car', which is none of classes"),
    ],
)
def test_a_class_that_the_data_base_does_not_have(options, message, tmp_path):
    path = tmp_path / 'dbinfos.pkl'
    path.write_bytes(pickle.dumps(dict(car=[dict(difficulty=0, num_points_in_gt=9)])))
    arguments = dict(
        info_path=str(path),
        data_root=None,
        rate=1.0,
        prepare={},
        sample_groups=dict(car=1),
        classes=['car', 'bus'],
    )
    assert DataBaseSampler(**arguments).sample_classes == ['car']
    with pytest.raises(ValueError, match=message):
        DataBaseSampler(**{**arguments, **options})
