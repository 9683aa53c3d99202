"""mmcv's operators point by point: what its CUDA kernels do, thread by thread where ties depend on it."""

import math

import numpy as np
from numpy import ndarray


def squared_distances(centres: ndarray, points: ndarray) -> ndarray:
    """[M, 3] and [N, 3] to [M, N]."""
    return ((centres[:, None] - points[None]) ** 2).sum(-1)


def furthest_points(distances: ndarray, count: int) -> list[int]:
    """Of one cloud with distances [N, N], by threads that each look at every T-th point and join in a tree."""
    threads = min(2 ** int(math.log(len(distances)) / math.log(2)), 1024)
    nearest = np.full(len(distances), 1e10, np.float32)
    sampled = [0]
    while len(sampled) < count:
        nearest = np.minimum(nearest, distances[sampled[-1]])
        best = []
        for thread in range(threads):
            mine = range(thread, len(distances), threads)
            point = max(mine, key=lambda k: (nearest[k], -k))
            best.append((nearest[point], point))
        half = threads // 2
        while half:
            for thread in range(half):
                if best[thread + half][0] > best[thread][0]:
                    best[thread] = best[thread + half]
            half //= 2
        sampled.append(best[0][1])
    return sampled[:count]


def ball(distances: ndarray, low: float, high: float, count: int, empty: list[int]) -> list[int]:
    """The first points of one centre with distances [N], the first one again where there are fewer."""
    near = [k for k, d in enumerate(distances) if d == 0 or low**2 <= d < high**2][:count]
    return near + [near[0]] * (count - len(near)) if near else empty


def neighbours(distances: ndarray, count: int) -> list[int]:
    """The nearest points of one centre as a heap gives them, in which an equal child goes up."""
    heap = [(1e10, 0)] * count

    def sift(size: int) -> None:
        root, child = 0, 1
        while child < size:
            child += child + 1 < size and heap[child + 1][0] > heap[child][0]
            if heap[root][0] > heap[child][0]:
                return
            heap[root], heap[child] = heap[child], heap[root]
            root, child = child, 2 * child + 1

    for point, distance in enumerate(distances):
        if distance < heap[0][0]:
            heap[0] = (distance, point)
            sift(count)
    for last in range(count - 1, 0, -1):
        heap[0], heap[last] = heap[last], heap[0]
        sift(last)
    return [point for _, point in heap]


def inside(box: ndarray, point: ndarray) -> bool:
    """On the top and the bottom too, on the sides not."""
    x, y = point[:2] - box[:2]
    cos, sin = math.cos(box[6]), math.sin(box[6])
    return bool(
        abs(point[2] - (box[2] + box[5] / 2)) <= box[5] / 2
        and abs(x * cos + y * sin) < box[3] / 2
        and abs(y * cos - x * sin) < box[4] / 2
    )


def cells(box: ndarray, points: ndarray, size: tuple[int, int, int], most: int) -> dict:
    """Of one RoI: cell -> its points, at most `most`."""
    found: dict[tuple, list[int]] = {}
    for number, point in enumerate(points):
        if not inside(box, point):
            continue
        x, y = point[:2] - box[:2]
        cos, sin = math.cos(box[6]), math.sin(box[6])
        local = (
            x * cos + y * sin + box[3] / 2,
            y * cos - x * sin + box[4] / 2,
            point[2] - box[2],
        )
        cell = tuple(
            min(int(value / (side / parts)), parts - 1) if side else 0
            for value, side, parts in zip(local, box[3:6], size)
        )
        points_of_cell = found.setdefault(cell, [])
        if len(points_of_cell) < most:
            points_of_cell.append(number)
    return found
