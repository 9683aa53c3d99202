"""The rows of the nuScenes tables (schema v1.0)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from .geometry import quaternion_z
from .layout import Layout
from .scenes import SceneSpec
from .sensors import CAMERAS, IMAGE_HEIGHT, IMAGE_WIDTH, LIDAR, Sensor

VERSION = 'v1.0-mini'
TABLES = (
    'category',
    'attribute',
    'visibility',
    'instance',
    'sensor',
    'calibrated_sensor',
    'ego_pose',
    'log',
    'scene',
    'sample',
    'sample_data',
    'sample_annotation',
    'map',
)
CATEGORIES = (
    'human.pedestrian.adult',
    'human.pedestrian.child',
    'human.pedestrian.wheelchair',
    'human.pedestrian.stroller',
    'human.pedestrian.personal_mobility',
    'human.pedestrian.police_officer',
    'human.pedestrian.construction_worker',
    'animal',
    'vehicle.car',
    'vehicle.motorcycle',
    'vehicle.bicycle',
    'vehicle.bus.bendy',
    'vehicle.bus.rigid',
    'vehicle.truck',
    'vehicle.construction',
    'vehicle.emergency.ambulance',
    'vehicle.emergency.police',
    'vehicle.trailer',
    'movable_object.barrier',
    'movable_object.trafficcone',
    'movable_object.pushable_pullable',
    'movable_object.debris',
    'static_object.bicycle_rack',
)
ATTRIBUTES = (
    'vehicle.moving',
    'vehicle.stopped',
    'vehicle.parked',
    'cycle.with_rider',
    'cycle.without_rider',
    'pedestrian.sitting_lying_down',
    'pedestrian.standing',
    'pedestrian.moving',
)
VISIBILITIES = ('v0-40', 'v40-60', 'v60-80', 'v80-100')
FIRST_TIMESTAMP = 1_532_402_927_000_000  # microseconds


def token(*names: object) -> str:
    """The token of what `names` name: 32 hexadecimal digits that depend on nothing else."""
    return hashlib.md5('/'.join(map(str, names)).encode()).hexdigest()


def link(rows: list[dict]) -> list[dict]:
    """Gives each row the tokens of its neighbours in `rows` as `prev` and `next`."""
    for before, after in zip(rows, rows[1:]):
        before['next'], after['prev'] = after['token'], before['token']
    rows[0]['prev'] = rows[-1]['next'] = ''
    return rows


def logfile(spec: SceneSpec) -> str:
    """The name of a scene's log, with which its files begin."""
    return f'synth-{spec.number:04d}'


def common_tables(seed: int, scenes: Sequence[SceneSpec]) -> dict[str, list[dict]]:
    """The tables, empty but for what does not depend on what happens in `scenes`."""
    tables: dict[str, list[dict]] = {name: [] for name in TABLES}
    tables['category'] = [
        {'token': token('category', name), 'name': name, 'description': ''} for name in CATEGORIES
    ]
    tables['attribute'] = [
        {'token': token('attribute', name), 'name': name, 'description': ''} for name in ATTRIBUTES
    ]
    tables['visibility'] = [
        {
            'token': str(index),
            'level': level,
            'description': f'visible pixels over all cameras, in percent: {level[1:]}',
        }
        for index, level in enumerate(VISIBILITIES, start=1)
    ]
    for sensor in (LIDAR, *CAMERAS):
        sensor_token = token('sensor', sensor.channel)
        tables['sensor'].append(
            {'token': sensor_token, 'channel': sensor.channel, 'modality': sensor.modality}
        )
        rotation = np.array(sensor.quaternion) / np.linalg.norm(sensor.quaternion)
        tables['calibrated_sensor'].append(
            {
                'token': token('calibrated_sensor', sensor.channel),
                'sensor_token': sensor_token,
                'translation': list(sensor.translation),
                'rotation': rotation.tolist(),
                'camera_intrinsic': sensor.intrinsic,
            }
        )
    for spec in scenes:
        tables['log'].append(
            {
                'token': token(seed, spec.name, 'log'),
                'logfile': logfile(spec),
                'vehicle': 'synthetic',
                'date_captured': '2018-07-24',
                'location': spec.location,
            }
        )
    for location in sorted({spec.location for spec in scenes}):
        map_token = token(seed, location, 'map')
        tables['map'].append(
            {
                'token': map_token,
                'log_tokens': [
                    token(seed, spec.name, 'log') for spec in scenes if spec.location == location
                ],
                'category': 'semantic_prior',
                'filename': f'maps/{map_token}.png',
            }
        )
    return tables


class SceneTables:
    """The rows of one scene, collected sweep by sweep."""

    def __init__(self, spec: SceneSpec, seed: int, layout: Layout) -> None:
        """Rows of scene `spec`, whose district lies where `layout` says."""
        self._spec, self._seed, self._layout = spec, seed, layout
        self._first = FIRST_TIMESTAMP + spec.number * 1_000_000_000
        self._samples: list[dict] = []
        self._ego_poses: list[dict] = []
        self._data: dict[str, list[dict]] = {}
        self._sightings: list[dict] = []

    def _token(self, *names: object) -> str:
        return token(self._seed, self._spec.name, *names)

    def add_sample(self, key_frame: int, microseconds: int) -> None:
        """Adds key frame number `key_frame`, `microseconds` after the scene's start."""
        self._samples.append(
            {
                'token': self._token('sample', key_frame),
                'timestamp': self._first + microseconds,
                'prev': '',
                'next': '',
                'scene_token': self._token('scene'),
            }
        )

    def add_data(
        self, sensor: Sensor, key_frame: int, microseconds: int, ego_pose: np.ndarray, is_key: bool
    ) -> str:
        """Adds one sensor's data and its ego pose; returns the file's name in the data set.

        Args:
            sensor: the sensor.
            key_frame: the number of the key frame that it belongs to, the next one in time.
            microseconds: since the scene's start.
            ego_pose: x, y, yaw in the district frame.
            is_key: whether it is part of the key frame.
        """
        timestamp = self._first + microseconds
        x, y, yaw = self._layout.to_global(ego_pose)
        data_token = self._token(sensor.channel, timestamp)
        self._ego_poses.append(
            {
                'token': data_token,
                'timestamp': timestamp,
                'rotation': quaternion_z(yaw),
                'translation': [float(x), float(y), 0.0],
            }
        )
        camera = sensor.modality == 'camera'
        folder, ending = 'samples' if is_key else 'sweeps', 'jpg' if camera else 'pcd.bin'
        stem = f'{logfile(self._spec)}__{sensor.channel}__{timestamp}'
        filename = f'{folder}/{sensor.channel}/{stem}.{ending}'
        self._data.setdefault(sensor.channel, []).append(
            {
                'token': data_token,
                'sample_token': self._token('sample', key_frame),
                'ego_pose_token': data_token,
                'calibrated_sensor_token': token('calibrated_sensor', sensor.channel),
                'timestamp': timestamp,
                'fileformat': 'jpg' if camera else 'pcd',
                'is_key_frame': is_key,
                'height': IMAGE_HEIGHT if camera else 0,
                'width': IMAGE_WIDTH if camera else 0,
                'filename': filename,
                'prev': '',
                'next': '',
            }
        )
        return filename

    def add_sightings(
        self,
        boxes: np.ndarray,
        attributes: Sequence[Optional[str]],
        points: np.ndarray,
        visible: np.ndarray,
    ) -> None:
        """Adds what the sensors saw of each actor at the key frame added last.

        Args:
            boxes: (N, 7) x, y, z, length, width, height, yaw in the district frame.
            attributes: N attribute names or None.
            points: (N,) LiDAR points in each box.
            visible: (N,) the visible fraction of each actor's pixels.
        """
        self._sightings.append(
            {'boxes': boxes, 'attributes': attributes, 'points': points, 'visible': visible}
        )

    def finish(self, categories: list[str]) -> dict[str, list[dict]]:
        """The scene's rows, table by table; `categories` are the actors' (N)."""
        annotations, instances = self._annotations(categories)
        return {
            'ego_pose': self._ego_poses,
            'sample': link(self._samples),
            'sample_data': [row for rows in self._data.values() for row in link(rows)],
            'sample_annotation': annotations,
            'instance': instances,
            'scene': [
                {
                    'token': self._token('scene'),
                    'log_token': self._token('log'),
                    'nbr_samples': len(self._samples),
                    'first_sample_token': self._samples[0]['token'],
                    'last_sample_token': self._samples[-1]['token'],
                    'name': self._spec.name,
                    'description': f'Generated: {self._spec.plan}, {self._spec.location}',
                }
            ],
        }

    def _annotations(self, categories: Sequence[str]) -> tuple[list[dict], list[dict]]:
        """Annotates each actor from the first to the last key frame in which the LiDAR hit it."""
        hit = np.array([sighting['points'] > 0 for sighting in self._sightings])
        annotations, instances = [], []
        for actor in np.flatnonzero(hit.any(0)):
            frames = np.flatnonzero(hit[:, actor])
            rows = [self._annotation(actor, k) for k in range(frames[0], frames[-1] + 1)]
            annotations += link(rows)
            instances.append(
                {
                    'token': self._token('instance', actor),
                    'category_token': token('category', categories[actor]),
                    'nbr_annotations': len(rows),
                    'first_annotation_token': rows[0]['token'],
                    'last_annotation_token': rows[-1]['token'],
                }
            )
        return annotations, instances

    def _annotation(self, actor: int, key_frame: int) -> dict:
        sighting = self._sightings[key_frame]
        x, y, z, length, width, height, yaw = sighting['boxes'][actor]
        x, y, yaw = self._layout.to_global([x, y, yaw])
        name = sighting['attributes'][actor]
        level = np.searchsorted([0.4, 0.6, 0.8], sighting['visible'][actor], side='right')
        return {
            'token': self._token('annotation', actor, key_frame),
            'sample_token': self._token('sample', key_frame),
            'instance_token': self._token('instance', actor),
            'visibility_token': str(level + 1),
            'attribute_tokens': [token('attribute', name)] if name else [],
            'translation': [float(x), float(y), float(z)],
            'size': [float(width), float(length), float(height)],
            'rotation': quaternion_z(yaw),
            'prev': '',
            'next': '',
            'num_lidar_pts': int(sighting['points'][actor]),
            'num_radar_pts': 0,
        }


def write_tables(root: Path, tables: dict[str, list[dict]]) -> None:
    """Writes every table as JSON under `root`."""
    folder = root / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        (folder / f'{name}.json').write_text(json.dumps(tables[name], indent=0))
