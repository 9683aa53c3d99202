"""What several tests of the NPU use."""

import torch
from torch.utils import _pytree as pytree


def npu(values):
    """The same structure with its tensors on the NPU."""
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.npu(), values)


def assert_same(on_npu, on_cpu, tolerance=1e-5):
    """Compare results, whatever their structure, and check where they are."""
    found, wanted = pytree.tree_leaves(on_npu), pytree.tree_leaves(on_cpu)
    assert len(found) == len(wanted)
    for ours, reference in zip(found, wanted):
        if isinstance(reference, torch.Tensor):
            assert ours.device.type == 'npu' and ours.dtype == reference.dtype
            torch.testing.assert_close(ours.cpu(), reference, rtol=tolerance, atol=tolerance)
        else:
            assert ours == reference


def with_grads(function, *inputs):
    """The result of a function, and the gradients of its inputs under a gradient that varies."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    out = function(*leaves)
    slopes = torch.linspace(-1, 1, out.numel()).view_as(out).to(out.device, out.dtype)
    (out * slopes).sum().backward()
    return out.detach(), [leaf.grad for leaf in leaves]
