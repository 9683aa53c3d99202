"""mmcv's own sparse layers, imported by name, on npu tensors: as on the CPU."""

import copy

import mmcv.ops
import pytest
import torch
from torch import nn

from .compare import assert_same, npu

pytestmark = pytest.mark.npu
SHAPE = [8, 9, 10]


def voxels(count):
    cells = torch.randperm(2 * 720)[:count]
    columns = cells // 720, cells % 720 // 90, cells % 90 // 10, cells % 10
    return torch.randn(count, 6), torch.stack(columns, 1).int()


class Net(nn.Module):
    """A layer of each kind, with a key that kernels of two shapes share."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            mmcv.ops.SubMConv3d(6, 8, (1, 3, 3), padding=1, indice_key='a'),
            mmcv.ops.SubMConv3d(8, 8, (3, 1, 3), padding=1, indice_key='a', bias=False),
            mmcv.ops.SparseConv3d(8, 9, 3, stride=2, padding=1, indice_key='b'),
            mmcv.ops.SparseInverseConv3d(9, 5, 3, indice_key='b'),
            mmcv.ops.SparseMaxPool3d(2, 2),
        )

    def forward(self, features, indices):
        x = mmcv.ops.SparseConvTensor(features, indices, SHAPE, 2)
        out = self.layers(x)
        return out.features, out.indices


@pytest.mark.parametrize('count', [0, 300])
def test_as_on_the_cpu(count):
    torch.manual_seed(0)
    on_cpu = Net()
    on_npu = copy.deepcopy(on_cpu).npu()
    features, indices = voxels(count)
    results = []
    for net, inputs in ((on_npu, npu((features, indices))), (on_cpu, (features, indices))):
        rows = inputs[0].requires_grad_()
        out, places = net(rows, inputs[1])
        out.square().sum().backward()
        results.append((out.detach(), places, rows.grad, [x.grad for x in net.parameters()]))
    assert_same(*results, tolerance=1e-4)
