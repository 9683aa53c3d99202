"""The cost of ATen operators on an Atlas, modelled, and the tables and the picture of a profile."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mxd_mmplugin.softnpu import profile, roofline, usage


def call(operator, inputs, outputs, on='AI core', dtype='float16', **place):
    """A line of the profile."""
    tensors = {'inputs': inputs, 'outputs': outputs}
    return {
        'operator': operator,
        'on': on,
        'syncs': 0,
        **{key: [[dtype, shape] for shape in shapes] for key, shapes in tensors.items()},
        **place,
    }


class Recorder(TorchDispatchMode):
    """Lines of the profile for what is called on the CPU."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        shapes = [
            [list(x.shape) for x in values if isinstance(x, torch.Tensor)]
            for values in (args, result if isinstance(result, tuple) else (result,))
        ]
        name = function._schema.name.removeprefix('aten::')
        self.calls.append(call(name, *shapes, dtype='float32'))
        return result


PRODUCTS = {
    'linear': lambda: F.linear(torch.rand(7, 6, requires_grad=True), torch.rand(5, 6)),
    'linear with bias': lambda: F.linear(torch.rand(7, 6), torch.rand(5, 6), torch.rand(5)),
    'bmm': lambda: torch.rand(3, 7, 6, requires_grad=True) @ torch.rand(3, 6, 5),
    'baddbmm': lambda: torch.baddbmm(torch.rand(5), torch.rand(3, 7, 6), torch.rand(3, 6, 5)),
    'conv2d': lambda: F.conv2d(
        torch.rand(2, 4, 9, 8, requires_grad=True),
        torch.rand(6, 4, 3, 3, requires_grad=True),
        torch.rand(6, requires_grad=True),
        stride=2,
    ),
    'conv2d in groups': lambda: F.conv2d(torch.rand(2, 4, 9, 8), torch.rand(6, 2, 3, 3), groups=2),
    'conv_transpose2d': lambda: F.conv_transpose2d(
        torch.rand(2, 4, 9, 8, requires_grad=True), torch.rand(4, 7, 2, 2), stride=2
    ),
    'conv3d': lambda: F.conv3d(torch.rand(1, 4, 5, 6, 7), torch.rand(2, 4, 1, 3, 3)),
}


@pytest.mark.parametrize('product', PRODUCTS)
def test_multiply_adds_are_those_of_pytorchs_counter(product):
    with FlopCounterMode(display=False) as counter, Recorder() as recorder:
        result = PRODUCTS[product]()
        if result.requires_grad:
            result.sum().backward()
    assert 2 * sum(map(roofline.multiplies, recorder.calls)) == counter.get_total_flops() > 0


# Measured on an Ascend910B1 (24 cube and 48 vector cores at 1.85 GHz), by the best-practice examples of
# Ascend's asc-devkit: their fastest kernel, in microseconds, and how much faster its cores are than the model's.
FASTER_CORES = 24 * 1.85 / (20 * 1.8)
MEASURED = {
    'matmul of 8192 x 8192, float16': (
        call('mm', [[8192, 8192], [8192, 8192]], [[8192, 8192]]),
        4012.4,
        FASTER_CORES,
    ),
    'sum of two of 8192 x 8192, float16': (
        call('add.Tensor', [[8192, 8192], [8192, 8192]], [[8192, 8192]]),
        264.0,
        1,
    ),
    'reading 12288 x 12288, float16': (call('sum', [[12288, 12288]], [[]]), 215.8, 1),
}


@pytest.mark.parametrize('case', MEASURED)
def test_time_is_near_what_was_measured(case):
    line, measured, faster = MEASURED[case]
    assert 0.7 < roofline.cost(line).us / faster / measured < 1


def test_rows_of_a_table_cost_only_themselves():
    table, rows = [1000000, 64], [10, 64]
    gathered = roofline.cost(call('index_select', [table, [10]], [rows]))
    scattered = roofline.cost(call('index_put_', [table, [10], rows], [table]))
    assert gathered.bytes < scattered.bytes < 10 * 64 * 2 * 4
    assert roofline.cost(call('mul', [table], [table])).bytes == 2 * 64000000 * 2


def test_costs_away_from_the_ai_core_are_greater():
    fast, *slow = (
        roofline.cost(call('sort', [[5000]], [[5000]], on=on)).us
        for on in ('AI core', 'AI CPU', 'host')
    )
    assert min(slow) > 10 * fast


def calls():
    """Of a training step with one wait, an operator of each place, and a validation."""
    places = [
        ('forward', 'neck.0', 'mm', 'AI core'),
        ('forward', 'head.loss', 'sort', 'AI CPU'),
        ('forward', 'head', 'copy_', 'to host'),
        ('backward', 'neck.0', 'mm', 'AI core'),
        ('backward', 'head', 'unheard_of', 'unknown'),
        ('optimizer', '', '_foreach_add_', 'AI core'),
        ('validation', 'neck.0', 'inv', 'host'),
    ]
    return [
        call(name, [[64, 64]], [[64, 64]], on, phase=phase, module=module, line='file.py:7 f')
        | {'syncs': int(on == 'to host')}
        for phase, module, name, on in places
    ]


def test_report(tmp_path, capsys):
    path, picture = tmp_path / 'profile.jsonl', tmp_path / 'step.png'
    path.write_text(''.join(json.dumps(line) + '\n' for line in calls()))
    profile.report(path, picture)
    text = capsys.readouterr().out
    assert '4 of 5 operators are in the table of CANN; unknown: unheard_of' in text
    assert '1 training step' in text and 'file.py:7 f' in text
    with Image.open(picture) as image:
        assert image.width > 500 and len(image.convert('RGB').getcolors(1 << 20)) > 5


def test_totals():
    rows = usage.calls_of(calls())
    assert usage.steps(rows) == 1 and usage.unknown(rows) == ['unheard_of']
    assert {row['part'] for row in rows} == {'neck', 'head', 'rest'}
    launches = [row for row in rows if row['launches']]
    assert len(launches) == 6 and sum(row['waits'] for row in rows) == 1
    # Copies and what runs on the host are the host's time, the rest is the device's.
    on_host = sum(row['us'] for row in rows if row['on'] in ('to host', 'host'))
    assert usage.host_us(rows) == pytest.approx(6 * 10 + 30 + on_host)
    assert usage.device_us(rows) == pytest.approx(sum(row['us'] for row in rows) - on_host)
