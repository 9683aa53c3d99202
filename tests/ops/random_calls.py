"""Calls the operators with good and bad arguments at random: `python -m tests.ops.random_calls --seed 0 --count 10000`.

Each call must end in a result or a Python error. The last line of the log names the call that did not.
"""

import argparse
import faulthandler
import random
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Optional

import torch

from mxd_mmplugin import ops
from tests.ops import test_checks

INDICES, GEOMETRY = test_checks.INDICES, test_checks.GEOMETRY
RULEBOOK = ops.build_rulebook(INDICES, 2, *GEOMETRY[:5])
RANGE = [0.0, 0.0, 0.0, 4.0, 4.0, 4.0]
# Public function -> good arguments.
FUNCTIONS = {
    'bev_pool': (torch.rand(3, 2), torch.zeros(3, 4).int(), 1, 1, 2, 2),
    'bev_pool_plan': (torch.zeros(3, 4).int(), 1, 1, 2, 2),
    'bev_pool_v2': (
        *(torch.rand(1, 2, 3, 2, 1), torch.rand(1, 2, 2, 1, 5)),
        *(torch.tensor([0, 1, 2]).int(), torch.tensor([0, 1, 0]).int(), torch.zeros(3).int()),
        [1, 1, 2, 2, 5],
    ),
    'build_rulebook': (INDICES, 2, *GEOMETRY[:5], False, False, None),
    'deform_conv2d': (test_checks.IMAGE, test_checks.OFFSET, test_checks.KERNEL, 1, 1, 1, 1, 1),
    'deformable_aggregation': test_checks.MAPS,
    'draw_gaussians': (
        torch.zeros(3).int(),
        torch.zeros(3, 2).int(),
        torch.ones(3).int(),
        [2, 4, 5],
    ),
    'dynamic_scatter': (torch.rand(3, 2), torch.tensor([[0, 1], [0, 1], [-1, 0]]).int(), 'max'),
    'dynamic_voxelize': (torch.rand(3, 4), [1.0, 1.0, 1.0], RANGE),
    'gather_features_by_pc_voxel_id': (torch.rand(3, 2), torch.tensor([0, 2, -1]).int(), 0),
    'hard_voxelize': (torch.rand(3, 4), [1.0, 1.0, 1.0], RANGE, 2, 3),
    'hard_voxelize_batch': ([torch.rand(3, 4), torch.rand(0, 4)], [1.0] * 3, RANGE, 2, 3),
    'modulated_deform_conv2d': (
        *(test_checks.IMAGE, test_checks.OFFSET, test_checks.MASK, test_checks.KERNEL),
        *(None, 1, 1, 1, 1, 1),
    ),
    'sparse_avg_pool': (torch.rand(3, 4), RULEBOOK),
    'sparse_conv': (torch.rand(3, 4), torch.rand(9, 4, 6), torch.rand(6), RULEBOOK, 1),
    'sparse_from_dense': (torch.rand(2, 4, 4, 5), INDICES, True),
    'sparse_global_pool': (torch.rand(3, 4), INDICES, 2, 'max'),
    'sparse_max_pool': (torch.rand(3, 4), RULEBOOK),
    'sparse_sum': ([torch.rand(2, 3), torch.rand(1, 3)], torch.tensor([0, 1, 0]).int(), 2),
    'sparse_to_dense': (torch.rand(3, 4), INDICES, 2, [4, 5], True),
    'sparse_union': ([INDICES, INDICES[:1]], 2, [4, 5]),
    'voxelization': (torch.rand(3, 4), [1.0, 1.0, 1.0], RANGE, 2, 3, True),
}
TARGETS: dict[str, tuple[Callable, tuple]] = {
    **{
        f'torch.ops.mxd.{n}': (getattr(torch.ops.mxd, n), good)
        for n, (good, _) in test_checks.CASES.items()
    },
    **{f'ops.{name}': (getattr(ops, name), good) for name, good in FUNCTIONS.items()},
}
INTEGERS = -1, 0, 1, 2, 3, 7, 100, 2**15, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**31), -(2**63)
NUMBERS = 0.0, -1.0, 1e-30, 1e30, 0.1, float('nan'), float('inf'), -float('inf')
DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64),
    *(torch.bool, torch.uint8, torch.complex64),
)
OTHERS = None, 'mean', 1.5, 3, [], [1], [None], (2, 2), True, torch.ones(1), object()


def strides_of_another(value: torch.Tensor, draw: random.Random) -> torch.Tensor:
    """The same values, not contiguous."""
    wide = torch.empty([2 * size for size in value.shape], dtype=value.dtype)
    out = wide[tuple(slice(draw.randint(0, 1), None, 2) for _ in value.shape)]
    return out.copy_(value)


def other_tensor(value: torch.Tensor, draw: random.Random) -> Any:
    """A tensor that differs in one thing."""
    if value.device.type != 'cpu' or value.layout is not torch.strided:
        return value.dense_dim() if value.is_sparse else value.shape
    value = value.clone(memory_format=torch.contiguous_format)
    kind = draw.randrange(12)
    axis = draw.randrange(value.dim()) if value.dim() else 0
    if kind == 0:
        return value.to(draw.choice(DTYPES))
    if kind == 1 and value.dim():
        return value.narrow(axis, 0, draw.randint(0, value.shape[axis]))
    if kind == 2 and value.dim():
        return torch.cat([value] * draw.randint(2, 40), axis)
    if kind == 3:
        return value[None] if draw.random() < 0.5 else value.flatten()
    if kind == 4:
        return value.to('meta')
    if kind == 5 and value.dim():
        return value[..., :1].expand(value.shape) if value.shape[-1] else value
    if kind == 6 and value.dim():
        return value.transpose(axis, 0)
    if kind == 7:
        return value.new_empty(
            [draw.choice((0, 1, 2, 5)) for _ in range(draw.randint(0, 6))]
        ).zero_()
    if kind == 8:
        return (
            value.to_sparse()
            if draw.random() < 0.5
            else value.requires_grad_(value.is_floating_point())
        )
    # Values: a few of them, or all.
    flat = value.view(-1)
    for _ in range(draw.choice((1, 1, 3, flat.numel())) if flat.numel() else 0):
        place = draw.randrange(flat.numel())
        if value.is_floating_point():
            flat[place] = draw.choice(NUMBERS)
        elif value.dtype in (torch.int32, torch.int64):
            limits = torch.iinfo(value.dtype)
            number = draw.choice(INTEGERS) if kind < 11 else draw.randint(-3, 6)
            flat[place] = min(max(number, limits.min), limits.max)
    return value


def other(value: Any, draw: random.Random) -> Any:
    """What may stand in place of an argument."""
    if draw.random() < 0.06:
        return draw.choice(OTHERS)
    if isinstance(value, torch.Tensor):
        return other_tensor(value, draw)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice(INTEGERS) if draw.random() < 0.6 else draw.randint(0, 12)
    if isinstance(value, float):
        return draw.choice(NUMBERS)
    if isinstance(value, str):
        return draw.choice(('', 'sum', 'mean', 'max', 'min', 'x' * 1000))
    if isinstance(value, (list, tuple)) and value:
        parts, place = [*value], draw.randrange(len(value))
        way = draw.randrange(4)
        if way == 0:
            return parts[:place]
        if way == 1:
            return parts + parts[place:]
        parts[place] = other(parts[place], draw)
        return parts
    return draw.choice(OTHERS)


def harmless(value: Any, draw: random.Random) -> Any:
    """What must change nothing: the strides of a tensor."""
    if isinstance(value, (list, tuple)):
        return [harmless(part, draw) for part in value]
    return strides_of_another(value, draw) if isinstance(value, torch.Tensor) else value


def told(value: Any) -> str:
    """An argument in few words."""
    if isinstance(value, torch.Tensor):
        content = (
            f' {value.tolist()}'
            if value.numel() <= 16 and value.device.type == 'cpu' and value.layout is torch.strided
            else ''
        )
        return f'{str(value.dtype)[6:]}{[*value.shape]}@{value.device}{content}'
    if isinstance(value, (list, tuple)):
        return '[' + ', '.join(map(told, value)) + ']'
    return repr(value)[:60]


def tensors_of(value: Any) -> list[torch.Tensor]:
    """All tensors of a result."""
    if isinstance(value, torch.Tensor):
        return [value]
    return (
        [t for part in value for t in tensors_of(part)] if isinstance(value, (list, tuple)) else []
    )


def call(target: Callable, arguments: list) -> None:
    """One call, with its gradient where it has one; every number of the result is read."""
    result = target(*arguments)
    for tensor in tensors_of(result):
        if tensor.device.type != 'cpu':
            continue
        if tensor.requires_grad:
            tensor.sum().backward(retain_graph=True)
        tensor.detach().clone()


def main(argv: Optional[list[str]] = None) -> None:
    """Draw the calls, make them, and print how they ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--count', type=int, default=10000)
    parser.add_argument('--log', type=Path, default=Path('/dev/null'))
    parser.add_argument('--memory', type=float, default=4, help='GiB, 0 for as much as there is')
    options = parser.parse_args(argv)
    draw = random.Random(options.seed)
    torch.manual_seed(options.seed)
    torch.set_num_threads(2)
    if options.memory:
        used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        limit = used + int(options.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    ended: Counter[str] = Counter()
    with options.log.open('w') as log:
        for number in range(options.count):
            name = draw.choice([*TARGETS])
            target, good = TARGETS[name]
            arguments = [*good]
            if draw.random() < 0.5:
                arguments = [harmless(value, draw) for value in arguments]
            for _ in range(draw.choice((0, 1, 1, 1, 2, 4))):
                place = draw.randrange(len(arguments))
                arguments[place] = other(arguments[place], draw)
            log.write(f'{number} {name}({", ".join(map(told, arguments))})\n')
            log.flush()
            faulthandler.dump_traceback_later(60, exit=True)
            try:
                call(target, arguments)
                ended['result'] += 1
            except Exception as error:
                ended[type(error).__name__] += 1
    faulthandler.cancel_dump_traceback_later()
    print(dict(ended), file=sys.stdout)


if __name__ == '__main__':
    main()
