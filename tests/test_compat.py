"""Checkpoints of mmengine's Runner under PyTorch's weights_only loading."""

import pickle
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.utils import digit_version

from mxd_mmplugin import compat


@pytest.fixture(autouse=True)
def _scope(monkeypatch):
    """A Runner's scope, in which mmdet3d's names are not found, ends with the test."""
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())


needs_weights_only = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'), reason='loads everything by default'
)


class Line(BaseModel):
    """The smallest model that a Runner trains."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x, mode='tensor'):
        """Give the loss in training, predictions else."""
        y = self.layer(torch.stack(x) if isinstance(x, list) else x)
        return dict(loss=y.square().mean()) if mode == 'loss' else y

    def train_step(self, data, optim_wrapper):
        """Run one step; the base class's needs a data preprocessor for dicts."""
        loss, logs = self.parse_losses(self(data, mode='loss'))
        optim_wrapper.update_params(loss)
        return logs


class Points(torch.utils.data.Dataset):
    """Four points, with meta information as mmdet3d's data sets have."""

    metainfo = dict(classes=('car',), palette=[(0, 0, 0)], version='v1.0-mini')

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.full((2,), float(index))


def make_runner(work_dir, max_epochs, **kwargs):
    """Make a Runner with what a 3D detection config uses of mmengine."""
    return Runner(
        Line(),
        str(work_dir),
        train_dataloader=dict(
            dataset=Points(), batch_size=2, sampler=dict(type='DefaultSampler', shuffle=True)
        ),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=0.01),
            clip_grad=dict(max_norm=35),
        ),
        param_scheduler=[
            dict(type='OneCycleLR', eta_max=0.01, total_steps=6, by_epoch=False),
            dict(type='CosineAnnealingMomentum', T_max=3),
        ],
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        custom_hooks=[dict(type='EMAHook')],
        experiment_name=f'{work_dir.name}_{max_epochs}',
        log_level='ERROR',
        **kwargs,
    )


def test_runner_checkpoint_resumes(tmp_path):
    make_runner(tmp_path, max_epochs=2).train()
    checkpoint = torch.load(tmp_path / 'epoch_2.pth')
    assert isinstance(checkpoint['message_hub']['log_scalars']['train/loss'], HistoryBuffer)
    assert checkpoint['meta']['dataset_meta']['classes'] == ('car',)

    runner = make_runner(tmp_path, max_epochs=3, resume=True)
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 6)


def reload(value, tmp_path):
    """Save a value and load it with weights_only."""
    torch.save(value, tmp_path / 'value.pth')
    return torch.load(tmp_path / 'value.pth', weights_only=True)


@needs_weights_only
@pytest.mark.parametrize('dtype', ['?', 'i4', 'i8', 'u1', 'f2', 'f4', 'f8'])
def test_numpy_numbers_load(dtype, tmp_path):
    array = np.arange(3).astype(dtype)
    loaded = reload(dict(array=array, scalar=array[1]), tmp_path)
    assert np.array_equal(loaded['array'], array) and loaded['array'].dtype == array.dtype
    assert loaded['scalar'] == array[1] and loaded['scalar'].dtype == array.dtype


@needs_weights_only
@pytest.mark.parametrize('module', ['numpy.core.multiarray', 'numpy._core.multiarray'])
def test_both_numpy_names_load(module, tmp_path):
    path = tmp_path / 'array.pth'
    # The old file format is a plain pickle, in which a name can be replaced by a longer one.
    torch.save(np.arange(3.0), path, _use_new_zipfile_serialization=False)
    written = np.empty(0).__reduce__()[0].__module__.encode()
    data = path.read_bytes()
    assert b'c%s\n' % written in data
    path.write_bytes(data.replace(b'c%s\n' % written, b'c%s\n' % module.encode()))
    assert np.array_equal(torch.load(path, weights_only=True), np.arange(3.0))


VALUES = dict(
    strings=[np.str_('car'), np.array(['car', 'bus']), np.array([b'a', b'bc']), np.bytes_(b'x')],
    objects=np.array([None, 'a', 3], dtype=object),
    path=[Path('data/nuscenes'), PurePosixPath('a/b')],
    ranges=[range(3, 9, 2), slice(1, None, 2)],
    sets=[{1, 2}, frozenset('ab'), ConfigDict(a=[1, dict(b=2)])],
    counted=Counter('abca'),
    ordered=OrderedDict(b=1, a=2),
    complex=[np.zeros(2, 'c8'), np.complex128(1j), np.longdouble(2)],
    tables=[np.zeros(2, [('name', 'U4'), ('size', 'f4')]), np.ones(1, [('a', 'i4')])[0]],
    bytes=[b'abc', bytearray(b'abc'), 2**70, 1j],
    times=[datetime(2026, 1, 2, tzinfo=timezone.utc), timedelta(3), np.datetime64('2026-01-02')],
)


@needs_weights_only
@pytest.mark.parametrize('name', VALUES)
def test_plain_values_in_the_meta_information_load(name, tmp_path):
    value = VALUES[name]
    loaded = reload(dict(value=value), tmp_path)['value']
    assert type(loaded) is type(value)
    for one, two in zip(loaded, value):
        assert type(one) is type(two) and (np.array_equal(one, two) or one == two)


@needs_weights_only
def test_containers_that_pytorch_does_not_fill_load_as_plain_ones(tmp_path):
    groups, lines = defaultdict(list, a=[1], b=[np.int64(2)]), deque([1, 'x'], maxlen=4)
    loaded = reload(dict(groups=groups, lines=lines, nested=defaultdict(dict, a={})), tmp_path)
    assert loaded == dict(groups=dict(groups), lines=[1, 'x'], nested=dict(a={}))


def test_a_run_with_such_values_resumes(tmp_path, monkeypatch):
    meta = dict(Points.metainfo, **VALUES, groups=defaultdict(list, a=[1]))
    monkeypatch.setattr(Points, 'metainfo', meta)
    make_runner(tmp_path, max_epochs=1).train()
    runner = make_runner(tmp_path, max_epochs=2, resume=True)
    runner.train()
    assert runner.epoch == 2


class Attack:
    """Pickles as a call of getattr."""

    def __init__(self, *args):
        self.args = args

    def __reduce__(self):
        return getattr, self.args


@needs_weights_only
@pytest.mark.parametrize('args', [(HistoryBuffer, '__init__'), (np.ndarray, 'min')])
def test_getattr_in_a_checkpoint_stays_refused(args, tmp_path):
    with pytest.raises(pickle.UnpicklingError, match='allowed are HistoryBuffer'):
        reload(Attack(*args), tmp_path)


@needs_weights_only
def test_other_classes_stay_refused(tmp_path):
    with pytest.raises(pickle.UnpicklingError, match='Unsupported global'):
        reload(Points(), tmp_path)


def test_earlier_torch_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.1.0')
    monkeypatch.setattr(torch, 'serialization', None)
    compat.allow_mmengine_checkpoints()
