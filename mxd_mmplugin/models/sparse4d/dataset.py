"""nuScenes as sequences: the data set, and samplers that give each sample of a batch a sequence of its own."""

import contextlib
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any, Optional, Union

import numpy as np
import torch
from mmdet3d.datasets import NuScenesDataset
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_dist_info
from mmengine.logging import MessageHub
from torch.utils.data import Sampler

from ...ops.sizes import takes_whole_numbers, whole
from .transforms import draw_augmentation

NOTHING = dict(idx=None)  # in place of a frame, where a resumed training passes over it


class NuScenes3DDetTrackDataset(NuScenesDataset):
    """Frames in the order of their sequences, with the places of the LiDAR and which object is which.

    Reads mmdet3d's info files. `mxd sparse4d-infos` adds to them to which scene a frame belongs, and which
    object an annotation is. Without it a scene begins where a frame has no sweeps, and objects have no identity.

    Args:
        data_aug_conf (dict, optional): see `draw_augmentation`.
        sequences_split_num (int or str): parts that a scene is cut into; 'all' for one frame each.
        keep_consistent_seq_aug (bool): the same augmentation for all frames of a sequence.
        seq_frame (int): frames before that come with each (v1), in training.
        min_interval, max_interval (int): how many frames lie between one of them and the next, drawn at random.
        fix_interval (bool): draw it once for a frame.
        max_time_interval (float): a frame of longer ago does not come, seconds.
        kwargs: see `NuScenesDataset`.
    """

    @takes_whole_numbers
    def __init__(
        self,
        *args: Any,
        data_aug_conf: Optional[dict] = None,
        sequences_split_num: Union[int, str] = 1,
        keep_consistent_seq_aug: bool = True,
        seq_frame: int = 0,
        min_interval: int = 1,
        max_interval: int = 1,
        fix_interval: bool = True,
        max_time_interval: float = 5,
        filter_empty_gt: bool = False,
        **kwargs: Any,
    ) -> None:
        if not kwargs.get('with_velocity', True):
            raise ValueError('with_velocity must be True: Sparse4D learns velocities, was False')
        self.data_aug_conf = data_aug_conf
        if sequences_split_num != 'all':
            sequences_split_num = whole('sequences_split_num', sequences_split_num, 1)
        self.sequences_split_num = sequences_split_num
        self.keep_consistent_seq_aug = keep_consistent_seq_aug
        self.seq_frame = seq_frame
        self.min_interval, self.max_interval = min_interval, max_interval
        self.fix_interval = fix_interval
        self.max_time_interval = max_time_interval
        super().__init__(*args, filter_empty_gt=filter_empty_gt, **kwargs)

    def load_data_list(self) -> list:
        """Frames scene by scene, in the order of time."""
        try:
            frames = super().load_data_list()
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'ann_file {self.ann_file} must be an info file of mmdet3d 1.x, made by `mxd create-data`: '
                f'{type(error).__name__}: {error}'
            ) from error
        scenes: list[str] = []
        first: dict[str, float] = {}
        for i, frame in enumerate(frames):
            scene = frame.get('scene_token')
            if scene is None:
                scene = scenes[-1] if i and frame.get('lidar_sweeps') else f'scene {i}'
            frame['sequence'] = scene
            scenes.append(scene)
            first[scene] = min(first.get(scene, np.inf), frame['timestamp'])
        frames.sort(
            key=lambda frame: (first[frame['sequence']], frame['sequence'], frame['timestamp'])
        )
        return frames

    def full_init(self) -> None:
        """As the base class does; then the frames know their sequences."""
        super().full_init()
        names = [self.get_data_info(i)['sequence'] for i in range(len(self))]
        self.flag = self._flags(names)

    def _flags(self, names: Sequence) -> np.ndarray:
        """The number of each frame's sequence, where scenes are cut into parts."""
        if isinstance(self.sequences_split_num, str):  # 'all'
            return np.arange(len(names))
        flags: list[int] = []
        count = 0
        for _, group in itertools.groupby(names):
            parts = np.array_split(list(group), self.sequences_split_num)
            for part in parts:
                flags += [count] * len(part)
                count += len(part) > 0
        return np.array(flags, dtype=np.int64)

    def parse_data_info(self, info: dict) -> dict:
        """Also where the LiDAR is, `lidar2global`."""
        info = super().parse_data_info(info)
        places = info['ego2global'], info['lidar_points']['lidar2ego']
        info['lidar2global'] = np.asarray(places[0], float) @ np.asarray(places[1], float)
        return info

    def get_augmentation(self) -> Optional[dict]:
        """How a sequence is changed, see `draw_augmentation`."""
        return draw_augmentation(self.data_aug_conf, train=not self.test_mode)

    def prepare_data(self, idx: Union[int, dict]) -> dict:
        """A frame.

        Args:
            idx (int or dict): its number; or idx, aug_config, sequence, a name for what it belongs to, and seed, of
                what the pipeline draws.

        Returns:
            dict: what the pipeline returns, nothing for `NOTHING`; with `seq_frame` the images and matrices of the
            frames before come after it, and `queue` tells which of them there are.
        """
        if not isinstance(idx, dict):
            idx = dict(idx=idx, aug_config=self.get_augmentation())
        if idx == NOTHING:
            return {}
        number, augmentation = idx['idx'], idx.get('aug_config')
        with seeded(idx.get('seed')):
            frame = self._load(number, augmentation, idx.get('sequence'))
            if self.seq_frame < 1 or self.test_mode:
                return frame
            before = [self._load(i, augmentation) for i in self._before(number)]
            return self._join(frame, before)

    def _load(
        self, idx: int, aug_config: Optional[dict] = None, sequence: Optional[str] = None
    ) -> dict:
        info = self.get_data_info(idx)
        info.update(
            box_type_3d=self.box_type_3d, box_mode_3d=self.box_mode_3d, aug_config=aug_config
        )
        if sequence is not None:
            info['sequence'] = sequence
        if 'instance_id' in info.get('ann_info', {}):
            info['gt_instances_id'] = info['ann_info']['instance_id']
        return self.pipeline(info)

    def _before(self, idx: int) -> list:
        """The numbers of the frames before, the latest first."""
        now, found = self.get_data_info(idx), []
        step = np.random.randint(self.min_interval, self.max_interval + self.min_interval)
        for _ in range(self.seq_frame):
            idx -= step
            if idx < 0:
                break
            info = self.get_data_info(idx)
            passed = now['timestamp'] - info['timestamp']
            if info['sequence'] != now['sequence'] or passed > self.max_time_interval:
                break
            found.append(idx)
            if not self.fix_interval:
                step = np.random.randint(self.min_interval, self.max_interval + self.min_interval)
        return found

    def _join(self, frame: dict, before: list) -> dict:
        """Put the frames before behind a frame; where there are too few, the frame itself fills up."""
        missing = self.seq_frame - len(before)
        frames = [frame, *before, *[frame] * missing]
        frame['inputs']['img'] = torch.cat([x['inputs']['img'] for x in frames])
        metas = [x['data_samples'].metainfo for x in frames]
        names = 'projection_mat', 'image_wh', 'focal', 'timestamp', 'lidar2global'
        joined = {name: np.stack([meta[name] for meta in metas]) for name in names}
        joined['queue'] = np.arange(len(frames)) <= len(before)
        frame['data_samples'].set_metainfo(joined)
        return frame


def sequence_numbers(dataset: object) -> np.ndarray:
    """The number of each frame's sequence.

    Raises:
        ValueError: a data set that does not know them, such as one around a `NuScenes3DDetTrackDataset`.
    """
    flag = getattr(dataset, 'flag', None)
    if flag is None:
        inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
        around = f' around {type(inner[0]).__name__}' if inner[0] is not None else ''
        raise ValueError(
            f'dataset must be a NuScenes3DDetTrackDataset itself, whose sequences the batch_sampler goes through, was '
            f'{type(dataset).__name__}{around}: join info files, or train for more epochs, in its place'
        )
    return np.asarray(flag)


@contextlib.contextmanager
def seeded(seed: Optional[int]) -> Iterator[None]:
    """Let NumPy and Python draw from a seed (None: as they would), and go on afterwards where they were."""
    if seed is None:
        yield
        return
    states = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])


class GroupInBatchSampler(Sampler):
    """Batches for training: each sample of a batch goes through a sequence, frame by frame.

    Sequences come in random order; in each round through them no two samples, over all processes, get the same one.
    There is one stream of batches without end, which depends on the seeds alone. Training by iterations takes it as it
    is, and where it was resumed, the batches that it passes over are not loaded. Training by epochs gets `len` batches
    of it, each epoch the next ones. (Which of them it is, mmengine's `RuntimeInfoHook` writes into the `MessageHub`.)

    Args:
        sampler (Sampler): mmengine's, for its data set.
        batch_size (int): samples of a batch.
        seed (int): of the order, the same in all processes. What is drawn for the images depends on the seed of
            `sampler` too, that of the training.
        skip_prob (float): how often a frame is left out.
        sequence_flip_prob (float): how often a sequence comes backwards.
    """

    @takes_whole_numbers
    def __init__(
        self,
        sampler: Union[DefaultSampler, InfiniteSampler],
        batch_size: int,
        seed: int = 0,
        skip_prob: float = 0.5,
        sequence_flip_prob: float = 0.1,
    ) -> None:
        self.sampler = sampler
        self.dataset = sampler.dataset
        self.flag = sequence_numbers(self.dataset)
        self.batch_size = batch_size
        self.seed = seed
        self.skip_prob = skip_prob
        self.sequence_flip_prob = sequence_flip_prob
        self.rank, self.world_size = get_dist_info()
        self.groups = [np.flatnonzero(self.flag == i) for i in np.unique(self.flag)]
        wanted = batch_size * self.world_size
        if len(self.groups) < wanted:
            raise ValueError(
                f'batch_size {batch_size} on {self.world_size} processes needs {wanted} sequences, there are '
                f'{len(self.groups)}: cut the scenes with sequences_split_num'
            )

    def __len__(self) -> int:
        """Batches in which each frame comes about once."""
        return max(len(self.dataset) // (self.batch_size * self.world_size), 1)

    def _sequences(self, slot: int) -> Iterator:
        """Endless numbers of sequences for a sample of a batch."""
        drawn = np.random.default_rng(self.seed)
        step = self.batch_size * self.world_size
        while True:
            order = drawn.permutation(len(self.groups))
            yield from order[: len(order) // step * step][slot::step]

    def _frames(self, slot: int) -> Iterator[dict]:
        """Endless frames for a sample of a batch."""
        drawn = np.random.default_rng([self.seed, slot])
        fresh = np.random.default_rng([self.seed, slot, getattr(self.sampler, 'seed', None) or 0])
        for number, group in enumerate(self._sequences(slot)):
            frames = self.groups[group].tolist()
            if drawn.uniform() < self.sequence_flip_prob:
                frames.reverse()
            augmentation = self._augmentation(fresh)
            while frames:
                if len(frames) > 1 and drawn.uniform() < self.skip_prob:
                    frames.pop(0)
                if not self.dataset.keep_consistent_seq_aug:
                    augmentation = self._augmentation(fresh)
                yield dict(
                    idx=frames.pop(0),
                    aug_config=augmentation,
                    sequence=f'{slot}: {number}',
                    seed=int(fresh.integers(2**32)),
                )

    def _augmentation(self, drawn: np.random.Generator) -> Optional[dict]:
        with seeded(int(drawn.integers(2**32))):
            return self.dataset.get_augmentation()

    def _by_epochs(self) -> bool:
        """Whether training is by epochs of this sampler; by iterations the numbers do not fit."""
        hub = MessageHub.get_current_instance()
        epochs, iters = (hub.get_info(name, 0) for name in ('max_epochs', 'max_iters'))
        return iters > 0 and iters == epochs * len(self)

    def __iter__(self) -> Iterator[list]:
        """Batches of what `NuScenes3DDetTrackDataset` takes as a number."""
        hub = MessageHub.get_current_instance()
        begin = hub.get_info('epoch', 0) * len(self) if self._by_epochs() else 0
        first = self.rank * self.batch_size
        stream = zip(*(self._frames(first + i) for i in range(self.batch_size)))
        for number, batch in enumerate(itertools.islice(stream, begin, None), begin):
            # Asked late: mmengine begins to load before it knows how it will train, and from where.
            by_epochs = self._by_epochs()
            if by_epochs and number == begin + len(self):
                return
            passed_over = not by_epochs and number < hub.get_info('iter', 0)
            yield [NOTHING] * self.batch_size if passed_over else list(batch)


class SequenceBatchSampler(Sampler):
    """Batches for validation and test: each sample of a batch goes through whole sequences, and each frame comes once.

    Args:
        sampler (Sampler): mmengine's, for its data set.
        batch_size (int): sequences at a time.
    """

    @takes_whole_numbers
    def __init__(self, sampler: Union[DefaultSampler, InfiniteSampler], batch_size: int) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        rank, world_size = get_dist_info()
        flag = sequence_numbers(sampler.dataset)
        groups = [np.flatnonzero(flag == i).tolist() for i in np.unique(flag)]
        self.batches = []
        slots: list[list[int]] = [[] for _ in range(batch_size)]
        groups = groups[rank::world_size]
        while groups or any(slots):
            for slot in slots:
                if not slot and groups:
                    slot += groups.pop(0)
            self.batches.append([slot.pop(0) for slot in slots if slot])

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list]:
        """The numbers of the frames of each batch."""
        return iter(self.batches)
