"""mmdet3d's SparseEncoder, built from the stock config, against the same network computed densely on real points."""

import copy

import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from torch import nn

from mxd_mmplugin.modules.sparse_conv import SparseConvolution
from tests.conftest import ROOT
from tests.counting import Counting
from tests.ops import sparse_reference as reference

STOCK = 'centerpoint_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py'
CELLS = 96  # of the crop, across


def crop(points):
    """Voxels of 0.075 x 0.075 x 0.2 m in front of the car, mean features [N, 5] and indices [N, 4]."""
    size, low = torch.tensor([0.075, 0.075, 0.2]), torch.tensor([-3.6, 0.5, -5.0])
    cell = torch.floor((points[:, :3] - low) / size).int()
    inside = ((cell >= 0) & (cell < torch.tensor([CELLS, CELLS, 40]))).all(1)
    voxels, voxel_of_point = torch.unique(cell[inside].flip(1), dim=0, return_inverse=True)
    features = torch.zeros(len(voxels), 5).index_add(0, voxel_of_point, points[inside])
    features /= torch.bincount(voxel_of_point)[:, None]
    indices = torch.cat([torch.zeros(len(voxels), 1, dtype=torch.int32), voxels], 1)
    return features * torch.tensor([0.1, 0.1, 1, 0.01, 0.1]), indices


class DenseTensor:
    """A dense grid [1, C, D, H, W] and the voxels of it that count."""

    def __init__(self, features, indices, shape):
        self.grid = reference.scatter(features, indices, 1, shape)
        self.indices = indices

    @property
    def features(self):
        """[N, C] at the voxels that count."""
        return reference.gather(self.grid, self.indices)

    @features.setter
    def features(self, value):
        self.grid = reference.scatter(value, self.indices, 1, self.grid.shape[2:])

    def dense(self):
        """The grid."""
        return self.grid.contiguous()


class DenseConv(nn.Module):
    """A sparse layer's weight used by a dense convolution, its output masked to the layer's sites."""

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias, self.layer = layer.weight, layer.bias, [layer]

    def forward(self, x):
        """Convolve the grid; cells where the sparse layer has no voxel are set to zero."""
        layer, shape = self.layer[0], list(x.grid.shape[2:])
        names = (
            'kernel_size',
            'stride',
            'padding',
            'dilation',
            'output_padding',
            'subm',
            'transposed',
        )
        geometry = {name: getattr(layer, name) for name in names}
        out = reference.convolve(x.grid, self.weight, self.bias, layer.groups, **geometry)
        indices = x.indices
        if not layer.subm:
            indices = reference.reached(indices, batch_size=1, spatial_shape=shape, **geometry)
        return DenseTensor(reference.gather(out, indices), indices, out.shape[2:])


class DenseSequential(nn.Sequential):
    """mmcv's SparseSequential for dense tensors: layers see the tensor, norms and activations its features."""

    def forward(self, x):
        """Run the modules in order."""
        for module in self:
            if isinstance(module, (nn.BatchNorm1d, nn.ReLU)):
                x.features = module(x.features)
            else:
                x = module(x)
        return x


def densify(module):
    """Replace every sparse layer and container below `module`."""
    for name, child in list(module.named_children()):
        if isinstance(child, SparseConvolution):
            setattr(module, name, DenseConv(child))
            continue
        densify(child)
        if type(child).__name__ == 'SparseSequential':
            setattr(module, name, DenseSequential(*child.children()))
    return module


def test_stock_encoder_equals_dense_network(real_points, monkeypatch):
    config = Config.fromfile(ROOT / 'configs' / 'centerpoint' / STOCK)
    settings = dict(config.model.pts_middle_encoder, sparse_shape=[41, CELLS, CELLS])
    # In float64: in float32 the sign at a ReLU, and its gradient, may hang on the order of a sum.
    sparse = MODELS.build(settings).double()
    layers = [m for m in sparse.modules() if isinstance(m, SparseConvolution)]
    assert len(layers) == 21
    dense = densify(copy.deepcopy(sparse))
    features, indices = crop(real_points)
    assert len(features) > 1000

    def tensor(features, indices, shape, batch_size):
        return DenseTensor(features, indices, shape)

    runs = []
    for net in (sparse, dense):
        x = features.double().requires_grad_()
        with monkeypatch.context() as patch:
            if net is dense:
                patch.setattr(
                    'mmdet3d.models.middle_encoders.sparse_encoder.SparseConvTensor', tensor
                )
            with Counting() as counting:
                out = net(x, indices, 1)
            # One for each of the four strided layers, and one for the submanifold layers of each of the four grids.
            rulebooks = counting.calls['mxd::sparse_conv_rulebook']
            assert rulebooks == (8 if net is sparse else 0)
        weight = torch.sin(torch.arange(out.numel(), dtype=out.dtype)).view_as(out)
        (out * weight).sum().backward()
        runs.append((out, x.grad, [p.grad for p in net.parameters()]))
    (out, grad, grads), (expected, wanted_grad, wanted_grads) = runs
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    assert len(grads) == len(wanted_grads)
    for got, want in zip([grad, *grads], [wanted_grad, *wanted_grads]):
        scale = want.abs().max().clamp(min=1e-6)
        torch.testing.assert_close(got / scale, want / scale, rtol=1e-4, atol=1e-4)
