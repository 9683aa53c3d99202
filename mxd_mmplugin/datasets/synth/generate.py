"""Generates a data set: scenes in parallel processes, then the maps and tables."""

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Callable

import cv2
import numpy as np
from tqdm import tqdm

from .actors import attribute
from .camera import Frame
from .geometry import rotate
from .lidar import Lidar, count_points
from .maps import write_mask
from .scenes import SCENES, SceneSpec
from .sensors import CAMERAS, LIDAR, SWEEP_SECONDS, SWEEPS_PER_KEY_FRAME
from .tables import SceneTables, common_tables, token, write_tables
from .world import World, make_streets, make_world

FORMAT = 2  # counts up whenever the same arguments come to give other bytes
MANIFEST = 'synth.json'
JPEG_QUALITY = 90
SWEEP_MICROSECONDS = round(SWEEP_SECONDS * 1e6)

_done: Synchronized  # counts the key frames done, in every process


def generate(out: Path, scenes: int, seed: int, key_frames: int, workers: int) -> bool:
    """Generates the first `scenes` scenes into `out`.

    The files depend on `scenes`, `seed` and `key_frames` alone. The manifest is written before
    the first file, and marked complete after the last, so that an interrupted run can be repeated.

    Returns:
        False if `out` already held this very set.

    Raises:
        ValueError: `out` holds something else.
    """
    arguments = {'format': FORMAT, 'scenes': scenes, 'seed': seed, 'keyframes': key_frames}
    manifest = out / MANIFEST
    if manifest.exists():
        held = json.loads(manifest.read_text())
        if held['arguments'] != arguments:
            raise ValueError(
                f'--out {out}: it holds a set made with {held["arguments"]}, not with '
                f'{arguments}; give an empty folder, or delete that one'
            )
        if held['complete']:
            return False
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f'--out {out}: it holds other files; give a new or empty folder, or one that '
            'this command made'
        )
    out.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({'arguments': arguments, 'complete': False}))

    specs = SCENES[:scenes]
    tables = common_tables(seed, specs)
    for rows in _generate_scenes(out, specs, seed, key_frames, workers):
        for name, added in rows.items():
            tables[name] += added
    for location in sorted({spec.location for spec in specs}):
        districts = [make_streets(spec, seed)[:2] for spec in specs if spec.location == location]
        write_mask(out / 'maps' / f'{token(seed, location, "map")}.png', districts)
    write_tables(out, tables)
    manifest.write_text(json.dumps({'arguments': arguments, 'complete': True}))
    return True


def _generate_scenes(
    out: Path, specs: Sequence[SceneSpec], seed: int, key_frames: int, workers: int
) -> list[dict]:
    """The rows of each scene, in the order of `specs`."""
    # Not forked: OpenCV's threads would not live on in the child.
    context = multiprocessing.get_context('spawn')
    done = context.Value('i', 0)
    workers = min(workers, len(specs))
    with tqdm(total=len(specs) * key_frames, unit='key frame', desc='synth') as bar:
        if workers == 1:
            return [generate_scene(out, spec, seed, key_frames, bar.update) for spec in specs]
        with ProcessPoolExecutor(workers, context, _start_worker, (done,)) as pool:
            jobs = [pool.submit(_work, out, spec, seed, key_frames) for spec in specs]
            pending = set(jobs)
            while pending:
                finished, pending = wait(pending, 0.2, FIRST_EXCEPTION)
                if done.value > bar.n:
                    bar.update(done.value - bar.n)
                if any(job.exception() for job in finished):
                    pool.shutdown(cancel_futures=True)
            return [job.result() for job in jobs]


def _start_worker(done: Synchronized) -> None:
    global _done
    _done = done


def _work(out: Path, spec: SceneSpec, seed: int, key_frames: int) -> dict[str, list[dict]]:
    def count() -> None:
        with _done.get_lock():
            _done.value += 1

    return generate_scene(out, spec, seed, key_frames, count)


def generate_scene(
    out: Path, spec: SceneSpec, seed: int, key_frames: int, progress: Callable[[], object]
) -> dict[str, list[dict]]:
    """Writes the files of scene `spec` and returns its rows.

    Args:
        out: the data set's folder.
        spec: the scene.
        seed: the data set's.
        key_frames: their number.
        progress: called after each key frame.
    """
    world = make_world(spec, seed, key_frames)
    for channel in ('LIDAR_TOP', *(camera.channel for camera in CAMERAS)):
        for folder in ('samples', 'sweeps'):
            (out / folder / channel).mkdir(parents=True, exist_ok=True)
    lidar = Lidar(world)
    tables = SceneTables(spec, seed, world.layout)
    speeds = np.array([actor.speeds(SWEEP_SECONDS) for actor in world.actors])
    for step in range((key_frames - 1) * SWEEPS_PER_KEY_FRAME + 1):
        key_frame, remainder = divmod(step, SWEEPS_PER_KEY_FRAME)
        is_key = remainder == 0
        time = step * SWEEP_MICROSECONDS
        points, _ = lidar.sweep(step, np.random.default_rng([seed, spec.number, step]))
        belongs_to = key_frame if is_key else key_frame + 1
        name = tables.add_data(LIDAR, belongs_to, time, world.ego_pose(step), is_key)
        points.tofile(out / name)
        if is_key:
            tables.add_sample(key_frame, time)
            visible = _write_images(out, world, step, key_frame, tables)
            _add_sightings(world, step, points, visible, speeds[:, step], tables)
            progress()
    return tables.finish([actor.body.category for actor in world.actors])


def _write_images(
    out: Path, world: World, step: int, key_frame: int, tables: SceneTables
) -> np.ndarray:
    """Writes the images of a key frame; returns the visible fraction (N,) of each actor."""
    frame = Frame(world, step)
    shown, covered = (np.zeros(len(world.actors), np.int64) for _ in range(2))
    for camera in CAMERAS:
        view = frame.draw(camera)
        shown, covered = shown + view.shown, covered + view.covered
        name = tables.add_data(
            camera, key_frame, step * SWEEP_MICROSECONDS, world.ego_pose(step), True
        )
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        cv2.imwrite(str(out / name), frame.image(view), quality)
    return shown / np.maximum(covered, 1)


def _add_sightings(
    world: World,
    step: int,
    points: np.ndarray,
    visible: np.ndarray,
    speeds: np.ndarray,
    tables: SceneTables,
) -> None:
    """Adds the actors' boxes and what was seen of them; `points` (P, 5) as written."""
    boxes = world.boxes(step)
    origin, rotation = world.sensor_pose(LIDAR, step)
    placed = rotate(points[:, :3].astype(np.float64), rotation) + origin
    counts = count_points(placed, boxes)
    attributes = [attribute(actor, speed) for actor, speed in zip(world.actors, speeds)]
    tables.add_sightings(boxes, attributes, counts, visible)
