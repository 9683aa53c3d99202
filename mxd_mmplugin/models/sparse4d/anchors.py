"""Chooses the boxes that Sparse4D begins with: the middles of clusters of all annotated places (k-means)."""

import argparse
from pathlib import Path

import numpy as np

from .box3d import CENTER, SIZE, YAW
from .infos import read_infos


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument('infos', type=Path, help="mmdet3d's info file of the training data")
    parser.add_argument('--out', type=Path, default=Path('nuscenes_kmeans900.npy'))
    parser.add_argument('--num', type=int, default=900, help='anchors (900)')
    parser.add_argument('--range', type=float, default=55, help='farthest box, metres (55)')
    parser.add_argument('--seed', type=int, default=0)


def run(args: argparse.Namespace) -> None:
    """Write the file."""
    frames = read_infos('sparse4d-anchors', args.infos)['data_list']
    boxes = [x['bbox_3d'][:7] for frame in frames for x in frame.get('instances', [])]
    try:
        anchors = make_anchors(np.array(boxes).reshape(-1, 7), args.num, args.range, args.seed)
    except ValueError as error:
        raise SystemExit(f'mxd sparse4d-anchors: --num and --range: {error}') from None
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.save(args.out, anchors)
    print(f'{args.out}: {len(anchors)} anchors')


def make_anchors(boxes: np.ndarray, number: int, reach: float, seed: int = 0) -> np.ndarray:
    """Cluster boxes by their places.

    Args:
        boxes (array): [n, 7 or more], x, y, z of the middle, dx, dy, dz, and more.
        number (int): clusters.
        reach (float): boxes further away do not count, metres.
        seed (int): of the clusters' first places.

    Returns:
        array: states, float64 [number, 11]: the places, the mean sides of all boxes, no rotation, no velocity.

    Raises:
        ValueError: there are fewer boxes than clusters.
    """
    from sklearn.cluster import KMeans

    near = boxes[np.linalg.norm(boxes[:, :3], axis=1) <= reach]
    if len(near) < number:
        raise ValueError(
            f'{number} anchors need as many boxes within {reach} m, there are {len(near)}'
        )
    anchors = np.zeros((number, 11))
    fit = KMeans(number, n_init=1, random_state=seed).fit(near[:, :3])
    anchors[:, CENTER] = fit.cluster_centers_
    anchors[:, SIZE] = np.log(near[:, 3:6].mean(0))
    anchors[:, YAW] = 0, 1
    return anchors
