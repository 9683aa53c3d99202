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
        infos = read_infos('sparse4d-infos', path)
        for frame in tqdm(infos['data_list'], desc=path.name, unit='frame'):
            token = frame.get('token')
            if token not in scenes:
                raise SystemExit(
                    f'mxd sparse4d-infos: {path}: frame {token} is not in {tables}: --root and --version must be those '
                    'that the infos were made from'
                )
            try:
                add_sequence(frame, scenes[token], objects[token])
            except ValueError as error:
                raise SystemExit(f'mxd sparse4d-infos: {path}: {error}') from None
        # Beside the file first: an interrupted run leaves a whole one.
        new = path.with_suffix('.new')
        new.write_bytes(pickle.dumps(infos))
        new.replace(path)
        print(f'{path}: {len(infos["data_list"])} frames')


def read_infos(command: str, path: Path) -> dict:
    """Read an info file.

    Args:
        command (str): the subcommand, for the error.
        path (Path): the file.

    Returns:
        dict: with `data_list`.

    Raises:
        SystemExit: it is not there, or none of mmdet3d 1.x.
    """
    if not path.is_file():
        raise SystemExit(f'mxd {command}: {path} is not there: `mxd create-data` makes info files')
    try:
        infos = pickle.loads(path.read_bytes())
    except Exception as error:  # whatever a file that is no pickle brings about
        raise SystemExit(f'mxd {command}: {path} is not an info file: {error}') from None
    if not isinstance(infos, dict) or not isinstance(infos.get('data_list'), list):
        old = (
            ' (mmdet3d 0.x made one with `infos`)'
            if isinstance(infos, dict) and 'infos' in infos
            else ''
        )
        raise SystemExit(
            f'mxd {command}: {path} has no data_list{old}: make it with `mxd create-data`, as mmdet3d 1.x reads it'
        )
    return infos


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
