"""Where CANN runs PyTorch's operators: the table, what obeys it, and the strict mode."""

import csv
import json
import re
from collections import Counter

import pytest
import torch

from mxd_mmplugin import softnpu
from tests.npu.test_models import build, step

pytestmark = pytest.mark.skipif(not softnpu.active(), reason='a real NPU has CANN itself')

TABLE = softnpu.DATA / 'aten_on_cann.csv'
DTYPES = {'f16', 'bf16', 'f32', 'f64', 'i8', 'i16', 'i32', 'i64', 'u8', 'bool', 'c64', 'c128'}
RULES = {'waits', 'mask-waits', 'casts', 'alike', 'no-single', 'no-scalar', 'many', 'square'}


@pytest.fixture(scope='module')
def rows():
    lines = [line for line in TABLE.read_text().splitlines() if not line.startswith('#')]
    return list(csv.DictReader(lines))


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """A function that hands over the calls recorded since it was last called."""
    path = tmp_path / 'profile.jsonl'
    monkeypatch.setenv('MXD_SOFTNPU_PROFILE', str(path))
    monkeypatch.setenv('MXD_SOFTNPU_PROFILE_ATEN', '1')
    monkeypatch.setenv('MXD_SOFTNPU_STRICT', '0')

    def read():
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    return read


@pytest.fixture
def strict(monkeypatch):
    """The strict mode with no exceptions."""
    monkeypatch.setenv('MXD_SOFTNPU_STRICT', '1')
    monkeypatch.setenv('MXD_SOFTNPU_ALLOW', '')


def npu(*values, dtype=None):
    return torch.tensor(values, dtype=dtype).npu()


def test_rows_are_complete(rows):
    for row in rows:
        assert row['unit'] in ('cube', 'vector', 'view', 'host'), row
        core, aicpu = set(row['core'].split()), set(row['aicpu'].split())
        assert core | aicpu <= DTYPES and not core & aicpu, row
        assert set(row['rules'].split()) <= RULES, row
        assert row['source'], row
        computes = row['unit'] in ('cube', 'vector')
        assert bool(row['aclnn']) == bool(core | aicpu) == computes, row


def test_operators_are_pytorchs_and_have_one_row(rows):
    names = Counter(name for row in rows for name in row['operator'].split())
    assert max(names.values()) == 1
    known = {name.removeprefix('aten::') for name in torch._C._dispatch_get_all_op_names()}
    bases = {name.split('.')[0] for name in known}
    assert not set(names) - known - bases - {base.removesuffix('_') for base in bases}


FLOATS, LONGS = torch.rand(4, 5), torch.arange(20).view(4, 5)
PLACES = {
    'sort of floats': ('AI core', lambda: FLOATS.npu().sort()),
    'sort of integers': ('AI CPU', lambda: LONGS.npu().sort()),
    'sort along an axis of one': ('AI CPU', lambda: FLOATS.npu()[:, :1].contiguous().sort()),
    'sum of two dtypes': ('AI core', lambda: FLOATS.npu() + LONGS.npu()),
    'float64': ('AI CPU', lambda: FLOATS.npu() * torch.tensor([1.0]).double().npu()),
    'a number beside integers': ('AI core', lambda: LONGS.npu() * 0.5),
    'cumsum of a mask': ('AI CPU', lambda: (LONGS.npu() > 3).cumsum(0)),
    'a power of integers': ('AI CPU', lambda: LONGS.npu() ** 3),
    'a square of integers': ('AI core', lambda: LONGS.npu() ** 2),
    'masked_fill of int64': ('AI CPU', lambda: LONGS.npu().masked_fill(LONGS.npu() > 3, 0)),
    'index': ('AI core', lambda: FLOATS.npu()[npu(0, 1), npu(2, 3)]),
    'index with broadcasting': ('AI CPU', lambda: FLOATS.npu()[npu(0, 1)[:, None], npu(2, 3)]),
    'index with a gap': ('AI CPU', lambda: FLOATS.npu()[:, None][npu(0, 1), :, npu(2, 3)]),
    'cast of uint8 to bool': ('AI CPU', lambda: npu(0, 1, dtype=torch.uint8).bool()),
    'isin': ('AI core', lambda: torch.isin(LONGS.npu(), npu(1, 2))),
    'isin of many': ('AI CPU', lambda: torch.isin(LONGS.npu(), torch.arange(50).npu())),
    'matmul, which PyTorch makes of others': ('AI core', lambda: FLOATS.npu() @ FLOATS.npu().T),
    'one_hot': ('AI core', lambda: torch.nn.functional.one_hot(npu(1, 2), 4)),
    'what torch_npu lacks': ('host', lambda: torch.linalg.inv(torch.eye(3).npu())),
    'what torch_npu does on the host': (
        'host',
        lambda: FLOATS.npu().scatter_reduce(0, LONGS.npu() % 4, FLOATS.npu(), 'amax'),
    ),
    'what the table has not': ('unknown', lambda: torch.erf(FLOATS.npu())),
}


@pytest.mark.parametrize('case', PLACES)
def test_place(calls, case):
    on, function = PLACES[case]
    function()
    places = [call['on'] for call in calls() if call['on'] not in ('to device', 'to host')]
    others = [place for place in places if place != 'AI core']
    assert others == ([] if on == 'AI core' else [on])
    assert places


def test_views_launch_nothing(calls):
    x = FLOATS.npu()
    calls()
    x.t()[1:, None].expand(-1, 3, -1).squeeze(0).unsqueeze(1).detach().select(1, 0).unbind(0)
    assert calls() == []


def test_refused_is_an_error_in_every_mode(monkeypatch):
    monkeypatch.setenv('MXD_SOFTNPU_STRICT', '0')
    x = torch.rand(3, dtype=torch.float64).npu().requires_grad_()
    with pytest.raises(RuntimeError, match=r'aclnnSoftmaxBackward failed.* of float64'):
        x.softmax(0).sum().backward()


def test_waits_and_copies(calls):
    x = FLOATS.npu()
    assert [(call['on'], call['syncs']) for call in calls()] == [('to device', 1)]
    y = FLOATS.pin_memory().to('npu', non_blocking=True)
    assert [(call['on'], call['syncs']) for call in calls()] == [('to device', 0)]
    y[0, 0].item()
    assert [(call['on'], call['syncs']) for call in calls()] == [('to host', 1)]
    x[x > 0.5]
    assert sum(call['syncs'] for call in calls()) == 1


def test_place_in_the_code(calls):
    """The line and the part of the model of each call; in a backward pass, those of the forward."""
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU()).npu()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls()
    model(FLOATS.npu()).sum().backward()
    optimizer.step()
    with torch.no_grad():
        model.eval()(FLOATS.npu())
    found = {(call['phase'], call['module'], call['operator'].split('.')[0]) for call in calls()}
    assert {
        ('forward', '0', 'addmm'),
        ('forward', '1', 'relu'),
        ('backward', '0', 'mm'),
        ('backward', '1', 'threshold_backward'),
        ('validation', '0', 'addmm'),
    } <= found
    assert {phase for phase, _, name in found if name.startswith('_foreach')} == {'optimizer'}


def line_of(error) -> str:
    return re.search(r'At (\S+):\d+', str(error.value))[1]


def test_strict_names_operator_dtype_and_line(strict):
    with pytest.raises(RuntimeError, match='STRICT: sort of int64 runs on the AI CPU') as error:
        LONGS.npu().sort()
    assert line_of(error) == 'tests/npu/test_operators.py'


def test_strict_sees_backward_threads(strict):
    x = torch.rand(5, 3).npu().requires_grad_()
    distance = torch.nn.functional.pdist(x).sum()
    with pytest.raises(RuntimeError, match='_pdist_backward of float32 runs on the host') as error:
        distance.backward()
    assert line_of(error) == 'tests/npu/test_operators.py'
    assert str(error.value).endswith('in the backward pass')


def test_strict_sees_calls_from_cpp(strict):
    @torch.jit.script
    def largest(x):
        return torch.sort(x)[0][-1]

    with pytest.raises(RuntimeError, match='STRICT: sort of int64 runs on the AI CPU'):
        largest(LONGS.flatten().npu())


def test_strict_allows_by_operator_and_place(strict, monkeypatch):
    monkeypatch.setenv('MXD_SOFTNPU_ALLOW', 'cumsum@;sort@elsewhere.py;sort@test_operators.py')
    LONGS.npu().sort()
    monkeypatch.setenv('MXD_SOFTNPU_ALLOW', 'sort@elsewhere.py;cumsum@test_operators.py')
    with pytest.raises(RuntimeError, match='sort of int64'):
        LONGS.npu().sort()


def test_a_sort_planted_in_a_models_step_is_named():
    """With the exceptions that all tests have."""

    def sort(*_):
        torch.arange(9).npu().sort()

    model, batch = build('centerpoint')
    model.npu().pts_backbone.register_forward_pre_hook(sort)
    with pytest.raises(RuntimeError, match='STRICT: sort of int64 runs on the AI CPU') as error:
        step(model, batch)
    assert line_of(error) == 'tests/npu/test_operators.py'
