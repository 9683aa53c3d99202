"""Adds what sequences need to mmdet3d's nuScenes info files: the scene of each frame, the identity of each object.

The files are changed in place, and stay what they are to everything else. Again does nothing new.
"""

import argparse
import json
import pickle
from collections import defaultdict
from pathlib import Path

from tqdm import tqdm


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument('infos', type=Path, nargs='+', help="mmdet3d's info files")
    parser.add_argument(
        '--root', type=Path, default=Path('data/nuscenes'), help='folder of nuScenes'
    )
    parser.add_argument('--version', default='v1.0-trainval', help='folder of the tables in it')


def run(args: argparse.Namespace) -> None:
    """Change the files."""
    tables = args.root / args.version
    scenes = {row['token']: row['scene_token'] for row in _read(tables / 'sample.json')}
    numbers = {row['token']: i for i, row in enumerate(_read(tables / 'instance.json'))}
    objects = defaultdict(list)
    for row in _read(tables / 'sample_annotation.json'):
        objects[row['sample_token']].append((numbers[row['instance_token']], row['num_lidar_pts']))
    for path in args.infos:
        infos = pickle.loads(path.read_bytes())
        for frame in tqdm(infos['data_list'], desc=path.name, unit='frame'):
            add_sequence(frame, scenes[frame['token']], objects[frame['token']])
        # Beside the file first: an interrupted run leaves a whole one.
        new = path.with_suffix('.new')
        new.write_bytes(pickle.dumps(infos))
        new.replace(path)
        print(f'{path}: {len(infos["data_list"])} frames')


def add_sequence(frame: dict, scene: str, objects: list) -> None:
    """Add scene_token to a frame, and instance_id to its objects.

    Args:
        frame (dict): of `data_list`; changed.
        scene (str): token of its scene.
        objects (list): (number, LiDAR points) of each annotation, in the order of the table.

    Raises:
        ValueError: the objects are others than those of the table.
    """
    frame['scene_token'] = scene
    instances = frame.get('instances', [])
    if not instances:
        return
    if [x['num_lidar_pts'] for x in instances] != [points for _, points in objects]:
        raise ValueError(
            f'frame {frame["token"]}: its {len(instances)} objects are not the {len(objects)} '
            'of the tables'
        )
    for instance, (number, _) in zip(instances, objects):
        instance['instance_id'] = number


def _read(path: Path) -> list:
    if not path.is_file():
        raise SystemExit(f'mxd sparse4d-infos: --root and --version: {path} is not there')
    return json.loads(path.read_text())
