"""Sparse4D's training by iterations and by epochs, stopped at any point and resumed: the losses of one that was not."""

import contextlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS, DefaultScope, init_default_scope
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mxd_mmplugin.models.sparse4d import GroupInBatchSampler, NuScenes3DDetTrackDataset
from mxd_mmplugin.models.sparse4d.dataset import NOTHING, seeded
from tests.conftest import on_cpu
from tests.models.sparse4d.test_sparse4d import a_frame, small

LENGTHS = 3, 4, 2


@pytest.fixture(autouse=True)
def _scope(monkeypatch):
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())
    init_default_scope('mmdet3d')


class Sequences(Dataset):
    """Frames of three scenes; like the real data set, but for the files."""

    metainfo = dict(classes=['car'] * 10)
    keep_consistent_seq_aug = False

    def __init__(self):
        self.frames = [
            (scene, time) for scene, count in enumerate(LENGTHS) for time in range(count)
        ]
        self.flag = np.array([scene for scene, _ in self.frames])
        self.loaded = []

    def __len__(self):
        return len(self.frames)

    def get_augmentation(self):
        return dict(shift=float(np.random.uniform()))

    def __getitem__(self, item):
        return NuScenes3DDetTrackDataset.prepare_data(self, item)

    seq_frame, test_mode = 0, False

    def _load(self, idx, aug_config=None, sequence=None):
        self.loaded.append(idx)
        frame = a_frame(*self.frames[idx])
        frame['data_samples'].set_metainfo(dict(sequence=sequence))
        noise = 20 * np.random.uniform(size=()) + 40 * aug_config['shift']
        frame['inputs']['img'] = (frame['inputs']['img'] * 0.5 + noise).byte()
        return frame


@HOOKS.register_module(force=True)
class Losses(Hook):
    """Notes the loss of each iteration, and stops the training at one of them."""

    def __init__(self, stop=None):
        self.stop, self.found = stop, {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.found[runner.iter] = float(outputs['loss'])
        if runner.iter == self.stop:
            raise KeyboardInterrupt


def train(folder, name, by_epoch, workers, stop=None, resume=False, batch_size=3, **options):
    """Losses by iteration, and the numbers of the frames that were loaded."""
    torch.manual_seed(3)
    np.random.seed(3)
    model = small(train_cfg=None)
    model.head.refine_layer.num_cls = 10
    model.head.deformable_model.attn_drop = 0.2  # something that is drawn
    model.use_grid_mask = True
    cfg = dict(by_epoch=True, max_epochs=3) if by_epoch else dict(by_epoch=False, max_iters=9)
    losses = Losses(stop)
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Sequences(),
            batch_size=batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_sampler=dict(type='GroupInBatchSampler'),
        ),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        param_scheduler=dict(type='LinearLR', start_factor=0.1, end=9, by_epoch=False),
        train_cfg=cfg,
        custom_hooks=[dict(type='ExactResumeHook'), losses],
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=1 if by_epoch else 2)
        ),
        randomness=dict(seed=7, deterministic=True),
        experiment_name=name,
        resume=resume,
        default_scope='mmdet3d',
        log_level='ERROR',
        **options,
    )
    torch.use_deterministic_algorithms(False)
    with contextlib.suppress(KeyboardInterrupt):
        runner.train()
    return losses.found, runner.train_dataloader.dataset.loaded


def stopped_and_resumed(folder, name, by_epoch, stops, batch_size=3, **options):
    """Losses of a training that is stopped after these iterations, where it reaches them, and resumed each time."""
    found = {}
    for number, stop in enumerate([*stops, None]):
        resume = number > 0 and (folder / 'last_checkpoint').exists()
        part, loaded = train(
            folder, f'{name}_{number}', by_epoch, 0, stop, resume, batch_size, **options
        )
        assert part and min(part) <= (max(found) + 1 if found else 0)
        assert len(loaded) == batch_size * len(part)  # nothing was loaded to be passed over
        found.update(part)
    return found


@pytest.mark.parametrize(('by_epoch', 'stops'), [(False, [4, 5]), (True, [2, 7])])
def test_resumed_training_has_the_losses_of_one_that_went_through(by_epoch, stops, tmp_path):
    name = f'{tmp_path.name}_{by_epoch}'
    whole, loaded = train(tmp_path / 'whole', f'{name}_whole', by_epoch, 0)
    assert [*whole] == [*range(9)] and len({*whole.values()}) == 9
    assert len(loaded) == 27
    assert stopped_and_resumed(tmp_path / 'parts', name, by_epoch, stops) == whole


PROCESS = """
import os, random, sys
from pathlib import Path
import torch
import mxd_mmplugin
from mmengine.registry import init_default_scope
from tests.engine.test_resume_hook import stopped_and_resumed, train

rank, folder, seed = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
os.environ['LOCAL_RANK'] = str(rank)
torch.distributed.init_process_group(
    'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
)
init_default_scope('mmdet3d')
wrapper = dict(type='MMDistributedDataParallel', device_ids=None, find_unused_parameters=True)
options = dict(batch_size=1, launcher='pytorch', cfg=dict(model_wrapper_cfg=wrapper))
draw = random.Random(seed)
for by_epoch in (False, True):
    stops = [draw.randrange(8) for _ in range(2)]
    whole, _ = train(folder / f'whole_{by_epoch}', f'whole_{by_epoch}', by_epoch, 0, **options)
    parts = stopped_and_resumed(folder / f'parts_{by_epoch}', str(by_epoch), by_epoch, stops, **options)
    assert whole == parts, (rank, by_epoch, stops, whole, parts)
    print(by_epoch, stops, len(whole))
print('same')
"""


def test_each_process_resumes_as_if_it_had_never_stopped(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', PROCESS, str(rank), str(tmp_path), '0'],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=on_cpu(),
        )
        for rank in range(2)
    ]
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert out.strip().endswith('same'), out[-500:] + error[-3000:]


def test_workers_draw_the_same(tmp_path):
    one, _ = train(tmp_path / 'one', f'{tmp_path.name}_one', False, 0, stop=2)
    two, _ = train(tmp_path / 'two', f'{tmp_path.name}_two', False, 2, stop=2)
    assert one == two


def test_an_epoch_ends_and_the_next_one_goes_on(monkeypatch):
    data = Sequences()
    sampler = GroupInBatchSampler(DefaultSampler(data, seed=1), 2)
    length = len(sampler)
    hub = MessageHub.get_instance('epochs')
    monkeypatch.setattr(MessageHub, 'get_current_instance', classmethod(lambda cls: hub))
    endless = [batch for batch, _ in zip(sampler, range(5 * length))]
    for name, value in dict(max_epochs=5, max_iters=5 * length).items():
        hub.update_info(name, value)
    parts = []
    for epoch in range(5):
        hub.update_info('epoch', epoch)
        parts.append([*sampler])
        assert len(parts[-1]) == length
    assert [*itertools.chain(*parts)] == endless
    hub.update_info('epoch', 3)  # resumed there
    assert [*sampler] == parts[3]
    # By iterations the batches before a resumed one are passed over.
    hub.update_info('max_epochs', 1)
    hub.update_info('iter', 2 * length + 1)
    resumed = [batch for batch, _ in zip(sampler, range(5 * length))]
    assert resumed[: 2 * length + 1] == [[NOTHING] * 2] * (2 * length + 1)
    assert resumed[2 * length + 1 :] == endless[2 * length + 1 :]
    assert data[NOTHING] == {} and data.loaded == []


def test_drawing_from_a_seed_leaves_no_trace():
    np.random.seed(5)
    expected = np.random.uniform(size=3)
    np.random.seed(5)
    with seeded(9):
        one = np.random.uniform(size=3)
    assert np.array_equal(np.random.uniform(size=3), expected)
    with seeded(9):
        assert np.array_equal(np.random.uniform(size=3), one)
    with seeded(None):
        pass
