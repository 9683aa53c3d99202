"""Sparse4D's data: transforms beside mmdet3d's boxes, sequences, samplers, info files, tracks in the devkit's form."""

import json
import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes, LiDARPoints, points_cam2img
from mmengine.dataset import DefaultSampler
from mmengine.registry import init_default_scope

from mxd_mmplugin.models.sparse4d import (
    BBoxRotation,
    CircleObjectRangeFilter,
    CropMultiViewImage,
    GroupInBatchSampler,
    InstanceNameFilter,
    MultiScaleDepthMapGenerator,
    NuScenes3DDetTrackDataset,
    NuScenesSparse4DAdaptor,
    NuScenesTrackingMetric,
    PhotoMetricDistortionMultiViewImage,
    ResizeCropFlipImage,
    SequenceBatchSampler,
)
from mxd_mmplugin.models.sparse4d.infos import add_sequence, run
from mxd_mmplugin.models.sparse4d.transforms import draw_augmentation

CONF = dict(
    H=90,
    W=160,
    final_dim=(32, 64),
    resize_lim=(0.42, 0.5),
    bot_pct_lim=(0.0, 0.1),
    rot_lim=(-5.0, 5.0),
    rand_flip=True,
    rot3d_range=(-0.4, 0.4),
)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmdet3d')


def frame(count=6):
    """Two cameras, one to the front (y) and one to the right (x), with a spot where each box's middle is."""
    inner = np.array([[80.0, 0, 80, 0], [0, 80, 45, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    front, right = np.eye(4), np.eye(4)
    front[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    right[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    drawn = np.random.default_rng(3)
    ahead, aside = drawn.uniform(12, 25, count), drawn.uniform(-6, 6, count)
    half = np.arange(count) % 2 == 0
    x, y = np.where(half, aside, ahead), np.where(half, ahead, -aside)
    columns = [x, y, drawn.uniform(-1, 1, count), *drawn.uniform(1, 3, (3, count))]
    boxes = np.stack([*columns, *drawn.uniform(-3, 3, (3, count))], 1).astype(np.float32)
    place = np.eye(4)
    place[:3, 3] = 100, 50, 1
    results = dict(
        img=[np.zeros((90, 160, 3), np.uint8) for _ in range(2)],
        lidar2img=np.stack([inner @ front, inner @ right]),
        cam2img=np.stack([inner, inner]),
        lidar2global=place,
        gt_bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9, origin=(0.5, 0.5, 0.5)),
        gt_labels_3d=np.arange(count) % 4,
        gt_instances_id=np.arange(count) + 20,
        timestamp=1.5e9,
        sequence='a',
        sample_idx=0,
        img_shape=(90, 160),
    )
    for image, matrix in zip(results['img'], results['lidar2img']):
        for u, v in middles(results['gt_bboxes_3d'], matrix):
            cv2.circle(image, (round(u), round(v)), 2, (255, 255, 255), -1)
    return results


def middles(boxes, matrix):
    """Pixels of the middles of boxes before a camera, by mmdet3d."""
    seen = points_cam2img(boxes.gravity_center.double(), torch.from_numpy(matrix), with_depth=True)
    return seen[seen[:, 2] > 0.5][:, :2].tolist()


def brightness(results):
    """How bright the images are where the middles of the boxes should be; those near the border do not count."""
    found = []
    for image, matrix in zip(results['img'], results['lidar2img']):
        height, width = image.shape[:2]
        for u, v in middles(results['gt_bboxes_3d'], np.asarray(matrix)):
            if 2 < u < width - 3 and 2 < v < height - 3:
                patch = image[int(v) - 1 : int(v) + 3, int(u) - 1 : int(u) + 3]
                found.append(float(patch.max()))
    return found


def test_boxes_stay_on_their_pixels():
    np.random.seed(0)
    assert len(brightness(frame())) == 6 and min(brightness(frame())) == 255
    seen = 0
    for _ in range(20):
        results = frame()
        results['aug_config'] = draw_augmentation(CONF, train=True)
        places = results['gt_bboxes_3d'].gravity_center.numpy() + [100, 50, 1]
        results = BBoxRotation()(ResizeCropFlipImage()(results))
        assert results['img'][0].shape == (32, 64, 3) and results['img_shape'] == (32, 64)
        found = brightness(results)
        seen += len(found)
        assert min(found, default=255) > 80
        # In the world nothing moved.
        now = results['gt_bboxes_3d'].gravity_center.numpy()
        back = now @ results['lidar2global'][:3, :3].T + results['lidar2global'][:3, 3]
        np.testing.assert_allclose(back, places, atol=1e-3)
        focal = 80 * results['aug_config']['resize']
        assert results['cam2img'][0][0][0] == pytest.approx(focal)
    assert seen > 40


def test_whole_boxes_turn_as_mmdet3d_turns_them():
    results, expected = frame(), frame()['gt_bboxes_3d']
    before = [expected.corners.numpy() @ m[:3, :3].T + m[:3, 3] for m in results['lidar2img']]
    results['aug_config'] = dict(rotate_3d=0.3)
    results = BBoxRotation()(results)
    expected.rotate(0.3)
    torch.testing.assert_close(results['gt_bboxes_3d'].tensor, expected.tensor)
    for corners, matrix in zip(before, results['lidar2img']):
        now = results['gt_bboxes_3d'].corners.numpy() @ matrix[:3, :3].T + matrix[:3, 3]
        np.testing.assert_allclose(now, corners, atol=1e-3)


def test_testing_changes_the_images_alike():
    one, two = (draw_augmentation(CONF, train=False) for _ in range(2))
    assert one == two and one['resize'] == 0.4 and not one['flip'] and one['rotate'] == 0
    assert one['crop'] == (0, 2, 64, 34)
    assert draw_augmentation(None, train=True) is None
    results = frame()
    assert ResizeCropFlipImage()(dict(results, aug_config=None))['img'][0].shape == (90, 160, 3)


def test_a_cut_image_keeps_its_boxes():
    results = CropMultiViewImage([10, 90, 0, 150])(frame())
    assert results['img'][0].shape == (80, 150, 3) and results['img_shape'] == (80, 150)
    assert len(brightness(results)) > 4 and min(brightness(results)) == 255


def test_distortion_changes_colours_only():
    np.random.seed(0)
    image = np.random.randint(0, 255, (8, 8, 3)).astype(np.uint8)
    step, seen = PhotoMetricDistortionMultiViewImage(), []
    for _ in range(10):
        one, two = step(dict(img=[image, image]))['img']
        assert one.dtype == np.float32 and one.shape == image.shape and np.isfinite(one).all()
        seen += [one, two]
    assert any(not np.allclose(a, b) for a, b in zip(seen[::2], seen[1::2]))
    same = PhotoMetricDistortionMultiViewImage(0, (1, 1), (1, 1), 0)
    for _ in range(10):
        out = same(dict(img=[image]))['img'][0]  # but for the order of the channels
        np.testing.assert_allclose(np.sort(out, -1), np.sort(image, -1), atol=0.5)


def test_depth_is_that_of_the_nearest_point():
    results = frame()
    points = np.array([[0, 10, 0], [0, 20, 0], [0.01, 90, 0], [0, -10, 0], [15, 0, 0]], np.float32)
    results['points'] = LiDARPoints(torch.from_numpy(points), points_dim=3)
    depth = MultiScaleDepthMapGenerator([8, 16], max_depth=60)(results)['gt_depth']
    assert depth.shape == (2, 12 * 20 + 6 * 10)  # of 90 rows: convolutions round up
    front, right = depth[:, :240].reshape(2, 12, 20)
    assert front[5, 10] == 10 and (front >= 0).sum() == 1
    assert right[5, 10] == 15 and (right >= 0).sum() == 1
    assert depth[0, 240:].reshape(6, 10)[2, 5] == 10
    results['points'] = LiDARPoints(torch.from_numpy(points[2:3]), points_dim=3)
    far = MultiScaleDepthMapGenerator([8], max_depth=60)(results)['gt_depth']
    assert far.max() == 60


def test_filters_keep_what_belongs_together():
    results = frame()
    results['gt_labels_3d'] = np.array([0, 1, 2, -1, 0, 1])
    distance = results['gt_bboxes_3d'].tensor[:, :2].norm(dim=1).numpy()
    limits = [distance[4] + 0.1, 100.0, 100.0]
    kept = CircleObjectRangeFilter(limits)(results)
    expected = [i for i in (0, 1, 2, 4, 5) if i not in (0, 4) or distance[i] <= limits[0]]
    assert kept['gt_instances_id'].tolist() == [20 + i for i in expected]
    assert len(kept['gt_bboxes_3d']) == len(kept['gt_labels_3d']) == len(expected)
    kept = InstanceNameFilter(['a', 'b'])(kept)
    assert set(kept['gt_labels_3d']) <= {0, 1} and 22 not in kept['gt_instances_id']


def test_what_the_model_gets():
    results = frame()
    results['gt_bboxes_3d'].tensor[0, 6] = 4.0
    packed = NuScenesSparse4DAdaptor()(dict(results, gt_depth=np.ones((2, 5), np.float32)))
    sample = packed['data_samples']
    assert packed['inputs']['img'].shape == (2, 3, 90, 160)
    assert sample.image_wh.tolist() == [[160, 90]] * 2 and sample.focal.tolist() == [80, 80]
    assert sample.projection_mat.dtype == np.float32 and sample.lidar2global.dtype == np.float64
    truth = sample.gt_instances_3d
    assert truth.instances_id.tolist() == list(range(20, 26)) and sample.gt_depth.shape == (2, 5)
    assert truth.bboxes_3d.yaw.abs().max() <= np.pi + 1e-5
    assert 'gt_depth' not in NuScenesSparse4DAdaptor()(frame())['data_samples']


def info(scene, time, tokens=True):
    pose = np.eye(4)
    pose[0, 3] = time
    names = dict(scene_token=f'scene {scene}') if tokens else {}
    sweep = dict(lidar_points=dict(lidar_path='none'))
    sweeps = dict(lidar_sweeps=[sweep]) if time else {}
    instance = dict(
        bbox_label_3d=0,
        bbox_3d=[5.0, 1, 0, 4, 2, 1.5, 0.1],
        velocity=[np.nan, np.nan] if time == 0 else [1.0, 0.0],
        num_lidar_pts=5,
        num_radar_pts=0,
        bbox_3d_isvalid=True,
    )
    objects = [dict(instance, instance_id=3), dict(instance, instance_id=4, num_lidar_pts=0)]
    return dict(
        **names,
        **sweeps,
        token=f'{scene}-{time}',
        timestamp=1.5e9 + 100 * (5 - scene) + 0.5 * time,
        ego2global=pose.tolist(),
        lidar_points=dict(lidar_path='none', num_pts_feats=5, lidar2ego=np.eye(4).tolist()),
        images={},
        instances=objects,
    )


def dataset(folder, lengths=(4, 1, 3), tokens=True, **options):
    frames = [info(scene, time, tokens) for scene, n in enumerate(lengths) for time in range(n)]
    for i, item in enumerate(frames):
        item['sample_idx'] = i
    meta = dict(categories={}, dataset='nuscenes', version='v1.0-mini')
    (folder / 'infos.pkl').write_bytes(pickle.dumps(dict(metainfo=meta, data_list=frames)))
    return NuScenes3DDetTrackDataset(
        data_root=str(folder),
        ann_file='infos.pkl',
        metainfo=dict(classes=['car', 'truck'], version='v1.0-mini'),
        data_prefix=dict(pts='', sweeps=''),
        modality=dict(use_camera=True, use_lidar=True),
        pipeline=options.pop('pipeline', []),
        data_aug_conf=CONF,
        **options,
    )


@pytest.mark.parametrize('tokens', [True, False])
def test_frames_come_in_the_order_of_their_scenes(tmp_path, tokens):
    data = dataset(tmp_path, tokens=tokens)
    times = [data.get_data_info(i)['token'] for i in range(len(data))]
    assert times == ['2-0', '2-1', '2-2', '1-0', '0-0', '0-1', '0-2', '0-3']
    assert data.flag.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    assert dataset(tmp_path, sequences_split_num=2).flag.tolist() == [0, 0, 1, 2, 3, 3, 4, 4]
    assert dataset(tmp_path, sequences_split_num='all').flag.tolist() == list(range(8))
    one = data[5]
    assert one['lidar2global'][0, 3] == 1 and one['gt_instances_id'].tolist() == [3]
    assert one['ann_info']['gt_bboxes_3d'].tensor[0, 7:].tolist() == [1.0, 0.0]
    assert data[0]['ann_info']['gt_bboxes_3d'].tensor[0, 7:].tolist() == [0.0, 0.0]


def test_an_augmentation_comes_with_its_number(tmp_path):
    data = dataset(tmp_path)
    config = dict(resize=0.5)
    one = data[dict(idx=2, aug_config=config, sequence='x')]
    assert one['aug_config'] is config and one['sequence'] == 'x' and one['token'] == '2-2'
    assert data[2]['aug_config'].keys() == draw_augmentation(CONF, True).keys()


def test_frames_before_come_with_a_frame(tmp_path):
    def pack(results):
        number = int(results['token'][-1])
        meta = dict(
            projection_mat=np.full((2, 4, 4), number),
            image_wh=np.ones((2, 2)),
            focal=np.ones(2),
            timestamp=results['timestamp'],
            lidar2global=results['lidar2global'],
        )
        sample = SimpleNamespace(metainfo=meta, set_metainfo=meta.update)
        image = torch.full((2, 3, 4, 4), number)
        return dict(inputs=dict(img=image), data_samples=sample)

    data = dataset(tmp_path, seq_frame=2, pipeline=[pack])
    for idx, expected, queue in (
        (7, [3, 2, 1], [True, True, True]),
        (5, [1, 0, 1], [True, True, False]),
        (3, [0, 0, 0], [True, False, False]),
    ):
        one = data[idx]
        meta = one['data_samples'].metainfo
        assert one['inputs']['img'][::2, 0, 0, 0].tolist() == expected
        assert meta['projection_mat'][:, 0, 0, 0].tolist() == expected
        assert meta['queue'].tolist() == queue and meta['lidar2global'].shape == (3, 4, 4)
    assert dataset(tmp_path, seq_frame=2, max_time_interval=0.6)._before(7) == [6]
    assert dataset(tmp_path, seq_frame=3, min_interval=2, max_interval=1)._before(7) == [5]


def test_each_sample_of_a_batch_goes_through_sequences(tmp_path):
    np.random.seed(0)
    data = dataset(tmp_path, (4, 5, 3, 6))
    sampler = DefaultSampler(data)
    batches = GroupInBatchSampler(sampler, 2, skip_prob=0.0, sequence_flip_prob=0.5)
    assert len(batches) == 9
    rows = [row for row, _ in zip(batches, range(60))]
    seen = set()
    for slot in range(2):
        runs = {}
        for row in rows:
            runs.setdefault(row[slot]['sequence'], []).append(row[slot])
        for frames in list(runs.values())[:-1]:
            numbers = [x['idx'] for x in frames]
            group = data.flag[numbers[0]]
            whole = np.flatnonzero(data.flag == group).tolist()
            assert numbers in (whole, whole[::-1])
            assert all(x['aug_config'] is frames[0]['aug_config'] for x in frames)
            seen |= {(group, numbers == whole)}
    assert len(seen) == 8  # every sequence, forwards and backwards
    again = GroupInBatchSampler(sampler, 2, skip_prob=0.0, sequence_flip_prob=0.5)
    other = [[x['idx'] for x in row] for row, _ in zip(again, range(60))]
    assert other == [[x['idx'] for x in row] for row in rows]
    skipping = [row[0]['idx'] for row, _ in zip(GroupInBatchSampler(sampler, 1), range(30))]
    assert any(abs(a - b) == 2 for a, b in zip(skipping, skipping[1:]))
    with pytest.raises(ValueError, match='sequences_split_num'):
        GroupInBatchSampler(sampler, 5)


@pytest.mark.parametrize(('size', 'ranks'), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_every_frame_is_tested_once_in_order(tmp_path, monkeypatch, size, ranks):
    data = dataset(tmp_path, (4, 1, 3, 2, 5))
    numbers = []
    for rank in range(ranks):
        monkeypatch.setattr(
            'mxd_mmplugin.models.sparse4d.dataset.get_dist_info', lambda rank=rank: (rank, ranks)
        )
        batches = list(SequenceBatchSampler(DefaultSampler(data, shuffle=False), size))
        assert max(map(len, batches)) == size
        last = {}
        for batch in batches:
            assert len({data.flag[i] for i in batch}) == len(batch)
            for i in batch:
                assert last.setdefault(data.flag[i], i - 1) == i - 1
                last[data.flag[i]] = i
            numbers += batch
        if size == ranks == 1:
            assert numbers == list(range(15))
    assert sorted(numbers) == list(range(15))


def test_info_files_learn_scenes_and_objects(tmp_path):
    tables = tmp_path / 'v1.0-mini'
    tables.mkdir()
    rows = dict(
        sample=[dict(token='s0', scene_token='a'), dict(token='s1', scene_token='b')],
        instance=[dict(token='i0'), dict(token='i1')],
        sample_annotation=[
            dict(sample_token='s1', instance_token='i1', num_lidar_pts=4),
            dict(sample_token='s0', instance_token='i1', num_lidar_pts=2),
            dict(sample_token='s1', instance_token='i0', num_lidar_pts=9),
        ],
    )
    for name, table in rows.items():
        (tables / f'{name}.json').write_text(json.dumps(table))
    path = tmp_path / 'infos.pkl'
    frames = [
        dict(token='s0', instances=[dict(num_lidar_pts=2)]),
        dict(token='s1', instances=[dict(num_lidar_pts=4), dict(num_lidar_pts=9)]),
    ]
    path.write_bytes(pickle.dumps(dict(metainfo=dict(x=1), data_list=frames)))
    for _ in range(2):
        run(SimpleNamespace(root=tmp_path, version='v1.0-mini', infos=[path]))
        found = pickle.loads(path.read_bytes())
        assert found['metainfo'] == dict(x=1)
        assert [x['scene_token'] for x in found['data_list']] == ['a', 'b']
        ids = [[o['instance_id'] for o in x['instances']] for x in found['data_list']]
        assert ids == [[1], [1, 0]]
    with pytest.raises(ValueError, match='are not the 1 of the tables'):
        add_sequence(frames[1], 'a', [(0, 4)])
    with pytest.raises(SystemExit, match='is not there'):
        run(SimpleNamespace(root=tmp_path, version='v1.0-trainval', infos=[path]))


def test_tracking_needs_a_package(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ImportError, match='needs the package motmetrics'):
        NuScenesTrackingMetric(data_root='', ann_file='')
    assert not NuScenesTrackingMetric(data_root='', ann_file='', tracking=False).tracking


def test_tracks_in_the_devkits_form(tmp_path):
    metric = NuScenesTrackingMetric(data_root=str(tmp_path), ann_file='', tracking_threshold=0.2)
    metric.dataset_meta = dict(classes=['car', 'barrier'])
    pose = np.eye(4)
    pose[:3, 3] = 100, 200, 0
    place = dict(lidar_points=dict(lidar2ego=np.eye(4)), ego2global=pose, token='t')
    metric.data_infos = [place]
    boxes = torch.tensor([[5.0, 1, 0, 4, 2, 1.5, 0.1, 1, 2]]).repeat(4, 1)
    boxes[3, 0] = 80.0
    found = dict(
        bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9, origin=(0.5, 0.5, 0.5)),
        scores_3d=torch.tensor([0.1, 0.3, 0.2, 0.4]),
        cls_scores=torch.tensor([0.5, 0.1, 0.5, 0.5]),
        labels_3d=torch.tensor([0, 0, 1, 0]),
        instances_id=torch.tensor([7, 8, 9, 10]),
    )
    result = dict(sample_idx=0, pred_instances_3d=found)
    written = json.loads(metric.write_tracks([result], tmp_path / 'x' / 'tracks.json').read_text())
    # One is not confident, a barrier is not tracked, one is too far away.
    (row,) = written['results']['t']
    assert row['tracking_id'] == '7' and row['tracking_name'] == 'car'
    assert row['tracking_score'] == pytest.approx(0.1)
    np.testing.assert_allclose(row['translation'], [105, 201, 0], atol=1e-5)
    np.testing.assert_allclose(row['size'], [2, 4, 1.5])
    del found['instances_id']
    with pytest.raises(ValueError, match='with_instance_id'):
        metric.write_tracks([result], tmp_path / 'tracks.json')
