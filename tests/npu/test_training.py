"""Training on the software NPU is training on the CPU: losses, checkpoints, autocast, two devices."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mxd_mmplugin import softnpu
from mxd_mmplugin.modules.sparse_conv import SparseConvolution
from mxd_mmplugin.softnpu import profile, usage
from tests.conftest import ROOT, on_cpu, run

pytestmark = pytest.mark.skipif(not softnpu.active(), reason='compares two settings of one machine')

CONFIG = next((ROOT / 'configs' / 'centerpoint').glob('*generated*.py'))
TRAIN = ROOT / 'tools' / 'train.py'
# The configuration as it is, but for its data: an epoch of four steps. Its warm-up, an epoch of forty,
# is then one of ten epochs, and twelve steps are as far into it as there. The workers start anew with each
# epoch, as they do in a resumed run, so that the random changes of the data are the same.
SHORT = f"""
_base_ = '{CONFIG}'
warm_up = _base_.param_scheduler[0]
warm_up.update(end=10)
param_scheduler = [warm_up]
train_dataloader = dict(batch_size=1, num_workers=1, persistent_workers=False)
train_cfg = dict(max_epochs=3, val_begin=99)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2, max_keep_ckpts=2))
log_processor = dict(window_size=1)
custom_hooks = []
"""


def on_npu(**settings) -> dict:
    """The environment of this process, with its Python path for other folders."""
    return {**os.environ, **settings}


def losses(folder, work, name='loss') -> list[float]:
    """The loss of each step of all runs in a work folder, in their order; or one of its parts."""
    logs = sorted((folder / work).glob('2*/vis_data/scalars.json'))
    steps = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return [step[name] for step in steps if 'loss' in step]


def train_on_both(folder, warm, short) -> None:
    """Train a config `warm` on the CPU, then `short`, which goes on from it, on the CPU and on the NPU.

    The configs are warm.py and short.py in the working folder, the work folders are warm, cpu and npu.
    """
    (folder / 'warm.py').write_text(warm)
    (folder / 'short.py').write_text(short)
    run(folder, TRAIN, 'warm.py', '--work-dir', 'warm', env=on_cpu())
    for work, env in (('cpu', on_cpu()), ('npu', on_npu(**recorded(folder)))):
        run(folder, TRAIN, 'short.py', '--work-dir', work, env=env)
    assert unknown_operators(folder) == []


def recorded(folder) -> dict:
    """Settings with which kernels and operators are recorded in a working folder."""
    path = str(folder / 'profile.jsonl')
    return {'MXD_SOFTNPU_PROFILE': path, 'MXD_SOFTNPU_PROFILE_ATEN': '1'}


def unknown_operators(folder) -> list[str]:
    """Of those recorded, the ones that the table of CANN's operators does not have."""
    calls = usage.calls_of(profile.load(folder / 'profile.jsonl'))
    assert any(call['on'] == 'AI core' for call in calls)
    return usage.unknown(calls)


@pytest.fixture(scope='module')
def folder(folder):
    """The working folder with a short configuration."""
    (folder / 'short.py').write_text(SHORT)
    return folder


def train_centerpoint(folder) -> None:
    """Twelve steps on either, in a working folder: short.py, the work folders cpu and npu, profile.jsonl."""
    (folder / 'short.py').write_text(SHORT)
    run(folder, TRAIN, 'short.py', '--work-dir', 'cpu', env=on_cpu())
    run(folder, TRAIN, 'short.py', '--work-dir', 'npu', env=on_npu(**recorded(folder)))


def test_losses_are_those_of_the_cpu(trained):
    cpu, npu = (losses(trained, work) for work in ('cpu', 'npu'))
    assert len(cpu) == len(npu) == 12
    assert npu == pytest.approx(cpu, rel=1e-3)


def test_every_sparse_convolution_was_an_ascend_kernel(trained):
    """Each step launched two kernels a layer, but for the input of the first, and a weight gradient."""
    init_default_scope('mmdet3d')
    model = MODELS.build(Config.fromfile(CONFIG).model.pts_middle_encoder)
    layers = sum(isinstance(layer, SparseConvolution) for layer in model.modules())
    calls = profile.load(trained / 'profile.jsonl')
    launches = Counter(call['kernel'] for call in calls if 'kernel' in call)
    convolutions = launches['sparse_conv'] + launches['sparse_conv_planned']
    assert convolutions == 12 * (2 * layers - 1)
    assert launches['sparse_conv_planned'] > 0
    assert launches['sparse_conv_weight_grad'] == 12 * layers
    assert launches['sparse_conv_rulebook_fill'] > 0


def test_every_operator_is_in_the_table(trained):
    assert unknown_operators(trained) == []


@pytest.mark.parametrize('first', ['cpu', 'npu'])
def test_a_run_is_resumed_on_the_other(folder, trained, first):
    """The last epoch from the other's checkpoint: the losses of the other, which did not stop."""
    env = {'cpu': on_npu(), 'npu': on_cpu()}[first]
    work = f'resume-{first}'
    command = TRAIN, 'short.py', '--work-dir', work, '--resume', trained / first / 'epoch_2.pth'
    assert 'resumed epoch: 2' in run(folder, *command, env=env)
    ends = losses(folder, work)
    assert len(ends) == 4 and ends == pytest.approx(losses(trained, first)[-4:], rel=1e-3)


def test_stock_configuration_with_autocast_trains_and_evaluates(folder):
    options = 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=2'
    command = TRAIN, CONFIG, '--work-dir', 'amp', '--amp', '--cfg-options', *options
    log = run(folder, *command, 'default_hooks.logger.interval=1', env=on_npu())
    assert 'NuScenes/mAP' in log
    state = torch.load(folder / 'amp' / 'epoch_1.pth', weights_only=True)
    assert all(x.isfinite().all() for x in state['state_dict'].values() if x.is_floating_point())
    assert 'loss_scaler' in state['optimizer']


DISTRIBUTED = """
import os, sys
import torch, torch_npu
import torch.distributed as dist

rank, ranks = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 4))
data, target = torch.randn(6, 4, 3, 8, 8), torch.randn(6, 4, 4)
torch.npu.set_device(rank)
model = model.npu()
if ranks > 1:
    dist.init_process_group('hccl')
    model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for x, y in zip(data, target):
    x, y = x.chunk(ranks)[rank].npu(), y.chunk(ranks)[rank].npu()
    loss = (model(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    mean = loss.detach() / ranks
    if ranks > 1:
        dist.all_reduce(mean)
    if rank == 0:
        print('loss', mean.item(), flush=True)
if ranks > 1:
    gathered = [None] * ranks
    dist.all_gather_object(gathered, rank)
    assert gathered == list(range(ranks))
    small = torch.tensor([rank + 1.0, -rank], dtype=torch.float16).npu()
    dist.all_reduce(small)
    assert small.tolist() == [sum(range(1, ranks + 1)), -sum(range(ranks))]
    part = torch.empty(3).npu()
    dist.reduce_scatter_tensor(part, torch.arange(3.0 * ranks).npu())
    assert part.tolist() == [ranks * (3 * rank + i) for i in range(3)]
    shared = torch.full((5,), float(rank)).npu()
    dist.broadcast(shared, ranks - 1)
    assert shared.tolist() == [ranks - 1] * 5
    dist.barrier()
    dist.destroy_process_group()
"""


def test_two_devices_have_the_loss_of_twice_the_batch(tmp_path):
    (tmp_path / 'script.py').write_text(DISTRIBUTED)
    results = []
    for ranks in (1, 2):
        launch = '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={ranks}'
        log = run(tmp_path, *launch, 'script.py', env=on_npu(OMP_NUM_THREADS='1'))
        results.append([float(x.split()[1]) for x in log.splitlines() if x.startswith('loss')])
    assert len(results[0]) == 6 and results[1] == pytest.approx(results[0], rel=1e-4)


DISAGREE = """
import os, torch, torch_npu
import torch.distributed as dist
rank = int(os.environ['RANK'])
torch.npu.set_device(rank)
dist.init_process_group('hccl')
x = torch.ones(4 + rank).npu()
dist.all_reduce(x)
print(x.cpu())
"""


def test_ranks_that_disagree_are_an_error(tmp_path):
    (tmp_path / 'script.py').write_text(DISAGREE)
    launch = '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', 'script.py'
    result = subprocess.run(
        [sys.executable, *launch], cwd=tmp_path, capture_output=True, text=True, env=on_npu()
    )
    assert result.returncode != 0
    assert 'rank 0 HcclAllReduce of 16 B; rank 1 HcclAllReduce of 20 B' in result.stderr


def test_tools_train_with_two_devices(folder):
    """The launcher of mmengine, with the process group that it chooses for an NPU."""
    options = 'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1'
    launch = '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2'
    command = TRAIN, 'short.py', '--work-dir', 'two', '--launcher', 'pytorch', '--cfg-options'
    run(folder, *launch, *command, *options, env=on_npu(OMP_NUM_THREADS='1'))
    assert len(losses(folder, 'two')) == 2
    assert (folder / 'two' / 'epoch_1.pth').exists()
