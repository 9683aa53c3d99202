"""The generated data set: the devkit loads it, and boxes, points and images agree."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from mxd_mmplugin.datasets import synth
from mxd_mmplugin.datasets.synth import shapes
from mxd_mmplugin.datasets.synth.actors import KINDS, Actor, draw_body, drop_collisions
from mxd_mmplugin.datasets.synth.camera import Frame
from mxd_mmplugin.datasets.synth.geometry import face_normals, rotate
from mxd_mmplugin.datasets.synth.lidar import Lidar
from mxd_mmplugin.datasets.synth.raycast import Faces
from mxd_mmplugin.datasets.synth.scenes import SCENES
from mxd_mmplugin.datasets.synth.sensors import CAMERAS, IMAGE_HEIGHT, IMAGE_WIDTH, LIDAR
from mxd_mmplugin.datasets.synth.world import SCENERY, make_world

KEY_FRAMES = 3


def generate(out, **options):
    parser = argparse.ArgumentParser()
    synth.add_arguments(parser)
    arguments = {'scenes': 2, 'keyframes': KEY_FRAMES, 'workers': 2, **options}
    argv = [f'--{name}={value}' for name, value in {'out': out, **arguments}.items()]
    return synth.run(parser.parse_args(argv))


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp('synth') / 'set'
    assert generate(out) == 0
    return out


@pytest.fixture(scope='module')
def nusc(root):
    nuscenes = pytest.importorskip('nuscenes')
    return nuscenes.NuScenes(version='v1.0-mini', dataroot=str(root), verbose=False)


@pytest.fixture(scope='module')
def world():
    return make_world(SCENES[0], seed=0, key_frames=KEY_FRAMES)


def test_same_seed_same_bytes_with_any_number_of_workers(root, tmp_path):
    generate(tmp_path / 'again', workers=1)
    assert files(root) == files(tmp_path / 'again')


def test_another_seed_gives_another_world(world):
    points, _ = Lidar(world).sweep(0, np.random.default_rng(0))
    other, _ = Lidar(make_world(SCENES[0], 1, 2)).sweep(0, np.random.default_rng(0))
    assert points.shape != other.shape or not np.array_equal(points, other)


def test_finished_set_is_left_alone(root, capsys):
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert generate(root) == 0
    assert 'already there' in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob('*')}


def test_interrupted_set_is_finished(root, tmp_path):
    arguments = json.loads((root / 'synth.json').read_text())['arguments'] | {'scenes': 1}
    manifest = {'arguments': arguments | {'keyframes': 2}, 'complete': False}
    (tmp_path / 'synth.json').write_text(json.dumps(manifest))
    assert generate(tmp_path, scenes=1, keyframes=2, workers=1) == 0
    assert json.loads((tmp_path / 'synth.json').read_text())['complete']


@pytest.mark.parametrize(
    ('name', 'value', 'allowed'),
    [
        ('scenes', 11, '1 to 10'),
        ('scenes', 0, '1 to 10'),
        ('keyframes', 1, '2 to 40'),
        ('workers', 0, '1 to'),
        ('seed', -1, '0 to'),
    ],
)
def test_wrong_argument_is_named(tmp_path, name, value, allowed):
    with pytest.raises(ValueError, match=f'--{name} {value}: .*{allowed}'):
        generate(tmp_path / 'set', **{name: value})
    assert not (tmp_path / 'set').exists()


def test_other_contents_are_not_overwritten(root, tmp_path):
    with pytest.raises(ValueError, match=r'--out .*it holds a set made with'):
        generate(root, seed=5)
    (tmp_path / 'mine.txt').write_text('mine')
    with pytest.raises(ValueError, match=r'--out .*it holds other files'):
        generate(tmp_path)


def test_devkit_finds_every_file_and_counts_the_same_points(nusc):
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import points_in_box

    assert [len(nusc.scene), len(nusc.sample)] == [2, 2 * KEY_FRAMES]
    for row in nusc.sample_data:
        assert Path(nusc.get_sample_data_path(row['token'])).is_file()
    for sample in nusc.sample:
        assert set(sample['data']) == {'LIDAR_TOP', *(camera.channel for camera in CAMERAS)}
        path, boxes, _ = nusc.get_sample_data(sample['data']['LIDAR_TOP'])
        points = LidarPointCloud.from_file(path).points[:3]
        assert points.shape[1] > 20000
        for box in boxes:
            row = nusc.get('sample_annotation', box.token)
            assert row['num_lidar_pts'] == np.count_nonzero(points_in_box(box, points))


def test_points_have_the_format_of_nuscenes(root):
    points = np.fromfile(next((root / 'sweeps/LIDAR_TOP').iterdir()), np.float32).reshape(-1, 5)
    assert points[:, 3].min() >= 0 and points[:, 3].max() <= 255
    assert set(np.unique(points[:, 4])) == set(range(32))
    elevation = np.degrees(np.arcsin(points[:, 2] / np.linalg.norm(points[:, :3], axis=1)))
    lowest, highest = elevation[points[:, 4] == 0], elevation[points[:, 4] == 31]
    # The points of a beam spread a little, for the sensor moves on while it turns.
    np.testing.assert_allclose(np.median(lowest), -30.67, atol=0.3)
    np.testing.assert_allclose(np.median(highest), 10.67, atol=0.3)


def test_links_lead_from_first_to_last(nusc):
    for table in ('sample', 'sample_data', 'sample_annotation'):
        for row in getattr(nusc, table):
            if row['next']:
                after = nusc.get(table, row['next'])
                assert after['prev'] == row['token']
                if table == 'sample_data':
                    assert after['timestamp'] > row['timestamp']
    for instance in nusc.instance:
        row, count = nusc.get('sample_annotation', instance['first_annotation_token']), 1
        while row['next']:
            row, count = nusc.get('sample_annotation', row['next']), count + 1
        assert (row['token'], count) == (
            instance['last_annotation_token'],
            instance['nbr_annotations'],
        )


def test_sweeps_are_twenty_a_second(nusc):
    rows = [row for row in nusc.sample_data if row['channel'] == 'LIDAR_TOP']
    assert len(rows) == 2 * ((KEY_FRAMES - 1) * 10 + 1)
    steps = [
        nusc.get('sample_data', row['next'])['timestamp'] - row['timestamp']
        for row in rows
        if row['next']
    ]
    assert set(steps) == {50_000}


def test_vehicles_move_the_way_they_face(nusc):
    from pyquaternion import Quaternion

    checked = 0
    for row in nusc.sample_annotation:
        velocity = nusc.box_velocity(row['token'])[:2]
        if row['category_name'].startswith('vehicle') and np.linalg.norm(velocity) > 1:
            facing = Quaternion(row['rotation']).rotation_matrix[:2, 0]
            assert velocity @ facing > 0.97 * np.linalg.norm(velocity)
            checked += 1
    assert checked > 10


def test_walls_of_all_sweeps_line_up_in_the_global_frame(nusc, world):
    from nuscenes.utils.geometry_utils import transform_matrix
    from pyquaternion import Quaternion

    quads = world.vertices(0)[world.mesh.faces[world.owner == SCENERY]]
    upright = np.abs(face_normals(quads)[:, :2]).max(1) > 0.99
    tall = upright & (np.ptp(quads[:, :, 2], axis=1) > 3)
    walls = [
        np.unique(quads[tall][:, :, i][np.ptp(quads[tall][:, :, i], axis=1) < 1e-9]) for i in (0, 1)
    ]
    origin = world.layout.to_global([0, 0, 0])
    to_district = np.linalg.inv(
        transform_matrix([*origin[:2], 0], Quaternion(axis=[0, 0, 1], angle=origin[2]))
    )
    misses = []
    for row in nusc.sample_data:
        if row['channel'] == 'LIDAR_TOP' and 'synth-0061' in row['filename']:
            pose = nusc.get('ego_pose', row['ego_pose_token'])
            mount = nusc.get('calibrated_sensor', row['calibrated_sensor_token'])
            matrix = (
                to_district
                @ transform_matrix(pose['translation'], Quaternion(pose['rotation']))
                @ transform_matrix(mount['translation'], Quaternion(mount['rotation']))
            )
            path = nusc.get_sample_data_path(row['token'])
            points = np.fromfile(path, np.float32).reshape(-1, 5)[:, :3].astype(float)
            points = points @ matrix[:3, :3].T + matrix[:3, 3]
            high = points[(points[:, 2] > 4) & (points[:, 2] < 12)]
            away = [np.abs(high[:, i, None] - walls[i]).min(1) for i in (0, 1)]
            misses.append(np.median(np.minimum(*away)))
    assert len(misses) == (KEY_FRAMES - 1) * 10 + 1
    assert max(misses) < 0.05


def test_ego_drives_on_the_map_mask(nusc):
    for sample in nusc.sample:
        log = nusc.get('log', nusc.get('scene', sample['scene_token'])['log_token'])
        mask = nusc.get('map', log['map_token'])['mask']
        data = nusc.get('sample_data', sample['data']['LIDAR_TOP'])
        x, y, _ = nusc.get('ego_pose', data['ego_pose_token'])['translation']
        assert mask.is_on_mask(x, y).all()
        assert not mask.is_on_mask(x + 1000, y).any()


def test_devkit_evaluates_perfect_predictions_as_perfect(nusc, tmp_path):
    from nuscenes.eval.detection.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval
    from nuscenes.eval.detection.utils import category_to_detection_name

    attributes = {row['token']: row['name'] for row in nusc.attribute}
    results = {}
    for sample in nusc.sample:
        if nusc.get('scene', sample['scene_token'])['name'] == 'scene-0103':
            rows = [nusc.get('sample_annotation', token) for token in sample['anns']]
            # The devkit leaves boxes without points out of the truth, but not out of predictions.
            rows = [row for row in rows if row['num_lidar_pts'] > 0]
            results[sample['token']] = [
                {
                    'sample_token': sample['token'],
                    'translation': row['translation'],
                    'size': row['size'],
                    'rotation': row['rotation'],
                    'velocity': np.nan_to_num(nusc.box_velocity(row['token'])[:2]).tolist(),
                    'detection_name': category_to_detection_name(row['category_name']),
                    'detection_score': 0.9,
                    'attribute_name': ''.join(attributes[t] for t in row['attribute_tokens']),
                }
                for row in rows
            ]
    (tmp_path / 'results.json').write_text(json.dumps({'meta': {}, 'results': results}))
    metrics, _ = DetectionEval(
        nusc,
        config_factory('detection_cvpr_2019'),
        str(tmp_path / 'results.json'),
        'mini_val',
        str(tmp_path),
        verbose=False,
    ).evaluate()
    precisions = metrics.mean_dist_aps
    assert len(precisions) == 10
    # A class is scored 0 when no box of it is in range; every other one is found as a whole.
    assert all(value in (0, pytest.approx(1)) for value in precisions.values())
    assert sum(value > 0 for value in precisions.values()) >= 9


def _nearest_by_all(quads, origins, directions):
    """Distance (R,) to the nearest of all triangles, infinite without one: no tree, no planes."""
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    corner, one, two = triangles[:, 0], *(triangles[:, i] - triangles[:, 0] for i in (1, 2))
    with np.errstate(divide='ignore', invalid='ignore'):
        across = np.cross(directions[:, None], two)
        scale = 1 / np.sum(across * one, axis=2)
        offset = origins[:, None] - corner
        u = np.sum(offset * across, axis=2) * scale
        around = np.cross(offset, one)
        v = np.sum(directions[:, None] * around, axis=2) * scale
        distance = np.sum(around * two, axis=2) * scale
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0)
    return np.where(hit, distance, np.inf).min(1)


@pytest.mark.parametrize('count', [1, 4, 5, 300])
def test_rays_end_at_the_nearest_of_all_faces(count):
    rng = np.random.default_rng(count)
    centre, along, across = rng.normal(0, 4, (count, 1, 3)), *rng.normal(0, 1, (2, count, 1, 3))
    quads = centre + along * [[-1], [1], [1], [-1]] + across * [[-1], [-1], [1], [1]]
    quads[::3, 3] = quads[::3, 2]  # triangles
    quads[::5, :, 2] = 0  # flat boxes
    origins = rng.normal(0, 3, (2000, 3))
    directions = rng.normal(0, 1, (2000, 3))
    directions[::4, 0] = directions[::8, 1] = 0  # along walls, straight up and down
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    distance, face, cosine = Faces(quads).cast(origins, directions)
    np.testing.assert_allclose(distance, _nearest_by_all(quads, origins, directions), rtol=1e-9)
    hit = np.isfinite(distance)
    assert hit.any() and not hit.all()
    normals, places = (
        face_normals(quads[face]),
        origins[hit] + directions[hit] * distance[hit, None],
    )
    above = np.sum(normals[hit] * (places - quads[face[hit], 0]), axis=1)
    np.testing.assert_allclose(above, 0, atol=1e-9)
    np.testing.assert_allclose(cosine, np.abs(np.sum(normals * directions, axis=1)))


def test_of_faces_in_one_plane_the_first_is_hit():
    rng = np.random.default_rng(0)
    along, across = np.array([1.0, 0.3, 0.1]), np.array([-0.2, 0.7, 0.6])
    low, high = rng.uniform(-9, -1, (2, 40, 1)), rng.uniform(1, 9, (2, 40, 1))
    u = np.stack([low[0], high[0], high[0], low[0]], axis=1)
    v = np.stack([low[1], low[1], high[1], high[1]], axis=1)
    quads = u * along + v * across + [0, 0, 20]
    directions = np.column_stack([rng.uniform(-0.02, 0.02, (500, 2)), np.ones(500)])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    distance, face, _ = Faces(quads).cast(np.zeros((500, 3)), directions)
    assert np.isfinite(distance).all() and (face == 0).all()


def test_a_face_without_area_is_never_hit():
    quads = np.zeros((2, 4, 3)) + [1.0, 0, 0]
    distance, face, _ = Faces(quads).cast(np.zeros((1, 3)), np.array([[1.0, 0, 0]]))
    assert distance[0] == np.inf and face[0] == 0


def _depth_at(view, world, camera, step, pixels):
    """Depth (P,) of the faces seen at `pixels` (P, 2), infinite for sky."""
    origin, rotation = world.sensor_pose(camera, step)
    quads = rotate(world.vertices(step) - origin, rotation.T)[world.mesh.faces]
    face = view.face[pixels[:, 1], pixels[:, 0]]
    sky = face >= len(quads)
    face = np.where(sky, 0, face)
    normals = face_normals(quads[face])
    rays = np.column_stack([(pixels - camera.centre) / camera.focal, np.ones(len(pixels))])
    depth = (normals * quads[face, 0]).sum(1) / (normals * rays).sum(1)
    return np.where(sky, np.inf, depth)


def test_points_and_pixels_show_the_same_actor(world):
    step = 10
    points, owner = Lidar(world).sweep(step, np.random.default_rng(0))
    origin, rotation = world.sensor_pose(LIDAR, step)
    places = rotate(points[:, :3].astype(float), rotation) + origin
    frame = Frame(world, step)
    owners = np.append(world.owner, np.full(IMAGE_HEIGHT, SCENERY))
    agreed = []
    for camera in CAMERAS:
        view = frame.draw(camera)
        seen = owners[view.face]
        origin, rotation = world.sensor_pose(camera, step)
        local = rotate(places - origin, rotation.T)
        pixels = local[:, :2] / local[:, 2:] * camera.focal + camera.centre
        inner = np.all((pixels > 2) & (pixels < (IMAGE_WIDTH - 3, IMAGE_HEIGHT - 3)), axis=1)
        mine = inner & (local[:, 2] > 1) & (owner != SCENERY)
        pixels = np.round(pixels[mine]).astype(int)
        around = np.stack(
            [seen[pixels[:, 1] + dy, pixels[:, 0] + dx] for dy in (-2, 0, 2) for dx in (-2, 0, 2)]
        )
        # The LiDAR looks from higher up: it may see past what hides a point from the camera.
        hidden = _depth_at(view, world, camera, step, pixels) < local[mine, 2] - 0.3
        whole = np.all(around == around[:1], axis=0) & ~hidden
        agreed.append((around[4] == owner[mine])[whole])
    agreed = np.concatenate(agreed)
    assert len(agreed) > 3000
    assert agreed.mean() >= 0.99


def test_silhouettes_fill_the_projected_boxes(world):
    """An actor that nothing hides spans the very pixels that its vertices project to."""
    step, checked = 0, 0
    frame, boxes = Frame(world, step), world.boxes(step)
    owners = np.append(world.owner, np.full(IMAGE_HEIGHT, SCENERY))
    for camera in CAMERAS:
        view = frame.draw(camera)
        seen = owners[view.face]
        origin, rotation = world.sensor_pose(camera, step)
        for actor in np.flatnonzero((view.covered > 300) & (view.shown == view.covered)):
            vertices = world.vertices(step)[world.vertex_owner == actor]
            local = rotate(vertices - origin, rotation.T)
            corner = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
            cos, sin = np.cos(boxes[actor, 6]), np.sin(boxes[actor, 6])
            turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
            corners = rotate(corner * boxes[actor, 3:6], turn) + boxes[actor, :3]
            corners = rotate(corners - origin, rotation.T)
            if local[:, 2].min() < 0.5 or corners[:, 2].min() < 0.5:
                continue
            spans = []
            for points in (local, corners):
                pixels = points[:, :2] / points[:, 2:] * camera.focal + camera.centre
                spans.append(np.concatenate([pixels.min(0), pixels.max(0)]))
            if spans[0].min() < 0 or (spans[0][2:] > (IMAGE_WIDTH - 1, IMAGE_HEIGHT - 1)).any():
                continue
            rows, columns = np.nonzero(seen == actor)
            drawn = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
            np.testing.assert_allclose(drawn, spans[0], atol=1.5)
            assert (drawn[:2] >= spans[1][:2] - 1e-6).all()
            assert (drawn[2:] <= spans[1][2:] + 1e-6).all()
            checked += 1
    assert checked >= 5


def test_images_are_what_was_drawn(root, world):
    import cv2

    frame = Frame(world, 0)
    image = frame.image(frame.draw(CAMERAS[0])).astype(int)
    path = sorted((root / 'samples/CAM_FRONT').glob('synth-0061*'))[0]
    written = cv2.imread(str(path)).astype(int)
    assert written.shape == (IMAGE_HEIGHT, IMAGE_WIDTH, 3)
    assert np.abs(image - written).mean() < 3


@pytest.mark.parametrize('kind', KINDS)
def test_annotated_box_is_the_tight_box_of_the_mesh(kind):
    for seed in range(4):
        body = draw_body(kind, np.random.default_rng(seed))
        vertices = body.mesh.vertices
        np.testing.assert_allclose(vertices.max(0), np.array(body.size) / 2, atol=1e-9)
        np.testing.assert_allclose(vertices.min(0), -np.array(body.size) / 2, atol=1e-9)
        quads = vertices[body.mesh.faces]
        normals = face_normals(quads)
        bent = np.abs(((quads[:, 3] - quads[:, 0]) * normals).sum(1))
        assert bent.max() < 1e-6, 'a face is not planar'


def test_solids_face_outwards():
    ring = shapes.circle(1, 6)
    solid = shapes.loft(ring, ring * 0.5, 0, 1, shapes.METAL)
    for mesh in (
        solid,
        solid.mirrored(),
        shapes.beam((0, 0, 0), (1, 1, 1), 0.2, 0.3, shapes.DARK),
        shapes.wheel(0, 0, 0.3, 0.2),
    ):
        quads = mesh.vertices[mesh.faces]
        outwards = quads.mean(1) - mesh.vertices.mean(0)
        assert ((face_normals(quads) * outwards).sum(1) > 0).all()


@pytest.mark.parametrize('number', [0, 2, 5])
def test_nothing_is_run_through(number):
    from shapely import affinity
    from shapely.geometry import box as rectangle

    crowd = make_world(SCENES[number], 3, 12)
    for step in (0, 50, 110):
        footprints = [
            affinity.translate(
                affinity.rotate(
                    rectangle(-length / 2, -width / 2, length / 2, width / 2),
                    yaw,
                    origin=(0, 0),
                    use_radians=True,
                ),
                x,
                y,
            )
            for x, y, _, length, width, _, yaw in crowd.boxes(step)
        ]
        x, y, yaw = crowd.ego_pose(step)
        ego = affinity.translate(
            affinity.rotate(
                rectangle(-0.79, -0.86, 3.29, 0.86), yaw, origin=(0, 0), use_radians=True
            ),
            x,
            y,
        )
        shapes_ = [ego, *footprints]
        centres = np.array([(shape.centroid.x, shape.centroid.y) for shape in shapes_])
        for i, shape in enumerate(shapes_):
            near = np.flatnonzero(np.hypot(*(centres[i + 1 :] - centres[i]).T) < 15) + i + 1
            assert not any(shape.intersection(shapes_[j]).area > 1e-6 for j in near)


def test_ego_turns_where_the_plan_says(world):
    turning = make_world(SCENES[2], 0, 20)
    assert SCENES[2].plan == 'turn'
    assert np.ptp(turning.ego_track[:, 2]) > np.pi / 3
    assert np.ptp(world.ego_track[:, 2]) == 0


def test_the_later_of_two_that_meet_is_dropped():
    body = draw_body('car', np.random.default_rng(0))
    there = np.tile([20.0, 0, 0, 0], (5, 1))
    comes = there.copy()
    comes[:, 0] = np.linspace(0, 20, 5)
    ego = np.tile([-50.0, 0, 0], (5, 1))
    first, second = Actor(body, there, True), Actor(body, comes, False)
    assert drop_collisions([first, second], ego, (4, 2)) == [first]
    assert drop_collisions([first, second], comes[:, [0, 1, 3]], (4, 2)) == []
