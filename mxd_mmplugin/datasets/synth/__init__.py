"""Generates a data set in the format of nuScenes (v1.0-mini) from a small synthetic world."""

import argparse
import os
import time
from pathlib import Path

MOST_SCENES = 10
KEY_FRAMES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments to an `argparse` parser."""
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('data/nuscenes-generated'),
        help='folder of the data set (default: %(default)s)',
    )
    parser.add_argument(
        '--scenes',
        type=int,
        default=MOST_SCENES,
        help='number of scenes, 1 to 10; from 2 on, mini_val has at least one (default: 10)',
    )
    parser.add_argument('--seed', type=int, default=0, help='any number from 0 (default: 0)')
    parser.add_argument(
        '--keyframes',
        type=int,
        default=KEY_FRAMES,
        help='key frames in a scene, two a second, 2 to 40 (default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=os.cpu_count() or 1,
        help='processes; the data do not depend on it (default: one a core)',
    )


def run(args: argparse.Namespace) -> int:
    """Generates the data set that `args` describe, unless it is there already."""
    _check('--scenes', args.scenes, 1, MOST_SCENES)
    _check('--seed', args.seed, 0, 2**32 - 1)
    _check('--keyframes', args.keyframes, 2, 40)
    _check('--workers', args.workers, 1, 256)
    # Imported late, so that `mxd synth --help` and a wrong argument need no Numba.
    from .generate import generate

    start = time.monotonic()
    made = generate(args.out, args.scenes, args.seed, args.keyframes, args.workers)
    if made:
        print(f'{args.out}: {args.scenes} scenes in {time.monotonic() - start:.0f} s')
    else:
        print(f'{args.out}: already there')
    return 0


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f'{name} {value}: must be from {low} to {high}')
