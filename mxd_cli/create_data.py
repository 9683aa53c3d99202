"""Prepare a data set: mmdet3d's `tools/create_data.py`, with all of its options.

Its nuScenes converter reads the tables from `./data/nuscenes` wherever `--root-path` points, and writes beside them
wherever `--out-dir` points; here the data may lie anywhere, and what is made goes to `--out-dir`.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .mmdet3d_tools import run

# Those whose converters write to --root-path and look in --out-dir for it, or do not ask for --out-dir.
BESIDE_THE_DATA = 'kitti', 'lyft'


def link_nuscenes(root: Path, infos: Path, tag: str, place: Path) -> None:
    """Fill a folder with links to the data, but for what the converter makes there.

    Args:
        root (Path): the data.
        infos (Path): where info files are that were made before.
        tag (str): `--extra-tag`, with which the names of all made files begin.
        place (Path): the folder, which is made.
    """
    place.mkdir()
    for path in root.iterdir():
        if not path.name.startswith(f'{tag}_'):
            (place / path.name).symlink_to(path)
    for path in infos.glob(f'{tag}_infos_*.pkl'):
        shutil.copyfile(path, place / path.name)  # to a link the converter would write


def move_made(place: Path, out: Path) -> None:
    """Move what is no link out of a folder, over what has its name there."""
    for path in list(place.iterdir()):
        if path.is_symlink():
            continue
        if (out / path.name).is_dir():
            shutil.rmtree(out / path.name)
        shutil.move(path, out / path.name)


def main(arguments: Sequence[str]) -> None:
    """Run it.

    Args:
        arguments (Sequence[str]): of mmdet3d's `create_data.py`.

    Raises:
        SystemExit: there is no data, or `--out-dir` cannot be served.
    """
    dataset = next((name for name in ('nuscenes', *BESIDE_THE_DATA) if name in arguments), '')
    if not dataset or {'-h', '--help'} & set(arguments):
        return run('create_data.py', arguments)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--root-path', default=f'./data/{dataset}')
    parser.add_argument('--out-dir')
    parser.add_argument('--extra-tag', default='kitti')
    known, rest = parser.parse_known_args(arguments)
    root = Path(known.root_path).resolve()
    out = Path(known.out_dir or root).resolve()
    if not root.is_dir():
        raise SystemExit(f'mxd create-data: --root-path {root} is not a folder')
    rest += ['--extra-tag', known.extra_tag]
    if dataset != 'nuscenes':
        if out != root:
            raise SystemExit(
                f'mxd create-data: --out-dir must be --root-path for {dataset}, {root}, was {out}: its converter '
                'writes beside the data'
            )
        return run(
            'create_data.py',
            [*rest, '--root-path', known.root_path, '--out-dir', known.root_path],
        )
    out.mkdir(parents=True, exist_ok=True)
    # Where the files are made they are moved, not copied.
    with tempfile.TemporaryDirectory(dir=None if out == root else out) as folder:
        place = Path(folder) / 'data' / 'nuscenes'
        place.parent.mkdir()
        if out == root:
            place.symlink_to(root, target_is_directory=True)
        else:
            link_nuscenes(root, out, known.extra_tag, place)
        os.chdir(folder)
        try:
            inside = '--root-path', 'data/nuscenes', '--out-dir', 'data/nuscenes'
            run('create_data.py', [*rest, *inside])
        finally:
            os.chdir(out)
            if out != root:
                move_made(place, out)
