"""Distributed training (gloo, two processes) in which a process has no voxel: it goes on, with equal weights."""

from tests.conftest import run_pair

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from mmdet3d.models.middle_encoders import SparseEncoder
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import mxd_mmplugin as mxd
from mxd_mmplugin.models.bevfusion import BEVFusionSparseEncoder

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group('gloo', init_method='file://' + store, rank=rank, world_size=2)
torch.manual_seed(rank)


class Ours(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mxd.SparseSequential(
            mxd.SparseBatchNorm(4), mxd.SubMConv3d(4, 8, 3), nn.BatchNorm1d(8), nn.ReLU(),
            mxd.SparseConv3d(8, 8, 3, 2, 1), nn.LayerNorm(8), mxd.SparseMaxPool3d(2, 2), mxd.ToDense(),
        )

    def forward(self, features, coors, batch_size):
        return self.net(mxd.SparseConvTensor(features, coors, [16, 16, 16], batch_size))


def train(kind):
    block = kind.split('-')[-1]
    channels = dict(encoder_channels=((8,), (8, 8)), encoder_paddings=((1,), (1, 1)))
    if block == 'basicblock':
        channels = dict(encoder_channels=((8, 8), (8, 8)), encoder_paddings=((0, 1), (0, 0)))
    options = dict(base_channels=8, output_channels=8, block_type=block, **channels)
    model = {
        'ours': Ours,
        'stock': lambda: SparseEncoder(4, [16, 16, 16], **options),
        'bevfusion': lambda: BEVFusionSparseEncoder(4, [16, 16, 16], **options),
    }[kind.split('-')[0]]()
    model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(4):
        count = 0 if rank == step % 2 and step < 3 else 40
        cells = torch.randperm(16**3)[:count]
        coors = torch.stack([cells * 0, cells // 256, cells // 16 % 16, cells % 16], 1).int()
        optimizer.zero_grad()
        model(torch.randn(count, 4), coors, 1).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
    for name, weight in model.named_parameters():
        assert weight.isfinite().all(), name
        other = weight.detach().clone()
        dist.broadcast(other, 0)
        assert torch.equal(weight, other), name
    assert all(b.isfinite().all() for b in model.buffers())


for kind in ('ours', 'stock-conv_module', 'stock-basicblock', 'bevfusion-basicblock'):
    train(kind)
print('equal')
"""


def test_a_process_without_voxels(tmp_path):
    run_pair(SCRIPT, 'equal', tmp_path / 'store')
