"""Prepare a data set: mmdet3d's `tools/create_data.py`, with all of its options.

Its nuScenes converter reads the tables from `./data/nuscenes` wherever `--root-path` points; here the data may lie
anywhere.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .mmdet3d_tools import run


def link_nuscenes(arguments: Sequence[str], folder: Path) -> list[str]:
    """Make `folder/data/nuscenes` a link to the data.

    Args:
        arguments (list[str]): of mmdet3d's `create_data.py`.
        folder (Path): an empty folder, the working directory of the converter.

    Returns:
        list[str]: the arguments to use there.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--root-path', default='./data/nuscenes')
    parser.add_argument('--out-dir')
    known, rest = parser.parse_known_args(arguments)
    root = Path(known.root_path).resolve()
    out = Path(known.out_dir).resolve() if known.out_dir else root
    (folder / 'data').mkdir()
    (folder / 'data' / 'nuscenes').symlink_to(root, target_is_directory=True)
    inside = 'data/nuscenes' if out == root else str(out)
    return [*rest, '--root-path', 'data/nuscenes', '--out-dir', inside]


def main(arguments: Sequence[str]) -> None:
    """Run it.

    Args:
        arguments (Sequence[str]): of mmdet3d's `create_data.py`.
    """
    if 'nuscenes' not in arguments:
        return run('create_data.py', arguments)
    with tempfile.TemporaryDirectory() as folder:
        arguments = link_nuscenes(arguments, Path(folder))
        os.chdir(folder)
        run('create_data.py', arguments)
