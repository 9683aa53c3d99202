"""`mxd bench`: every op has its cases, and the figures come out as asked for."""

import json

import pytest

from mxd_cli import main
from mxd_mmplugin import benchmarks
from mxd_mmplugin.benchmarks import report
from mxd_mmplugin.benchmarks.case import Case
from mxd_mmplugin.benchmarks.measurement import Peak, Result, measure, peak_memory


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr('mxd_mmplugin.benchmarks.measurement.ROUNDS', 1)
    monkeypatch.setattr('mxd_mmplugin.benchmarks.measurement.milliseconds.__defaults__', (0.01,))


@pytest.mark.parametrize('op', benchmarks.OPS)
def test_small_shapes_of_each_op(op, sweep, tmp_path, capsys):
    figures, picture = tmp_path / 'bench.json', tmp_path / 'bench.png'
    options = ['--shapes', 'small', '--json', str(figures), '--plot', str(picture)]
    assert main(['bench', op, *options]) == 0
    printed = capsys.readouterr().out
    assert op in printed and 'of peak' in printed
    rows = json.loads(figures.read_text())['results']
    assert {row['step'] for row in rows} >= {'forward'}
    assert all(row['times']['mxd'] > 0 and (row['flop'] or row['bytes']) for row in rows)
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_a_rival_that_is_not_installed_is_left_out_with_a_line(sweep, monkeypatch, capsys):
    for module in ('', '.sparse_conv', '.voxelize'):
        monkeypatch.setattr(f'mxd_mmplugin.benchmarks{module}.is_installed', lambda name: False)
    assert main(['bench', 'voxelize', 'sparse_conv', '--shapes', 'small']) == 0
    printed = capsys.readouterr().out
    assert printed.count('spconv is left out, as it is not installed') == 1
    assert 'mmcv: time' in printed and 'spconv: time' not in printed


def test_unknown_op_is_named():
    with pytest.raises(SystemExit, match=r"op must be one of .*sparse_conv.*, was 'conv9d'"):
        main(['bench', 'conv9d'])


def test_rate_and_ratio():
    peak = Peak(gflops=100, gbs=10)
    times, memory = dict(mxd=2.0, other=6.0), dict(mxd=1 << 20, other=None)
    bound_by_arithmetic = Result('op', 'a', 'forward', 1e8, None, None, times, memory, peak)
    assert bound_by_arithmetic.rate == (50, 'GFLOP/s', 0.5)
    assert bound_by_arithmetic.ratio('other') == 3
    bound_by_memory = Result('op', 'a', 'forward', None, 1e7, None, times, memory, peak)
    assert bound_by_memory.rate == (5, 'GB/s', 0.5)
    assert Result('op', 'a', 'forward', None, None, None, times, memory, peak).rate is None


def test_memory_is_that_of_the_call():
    found = peak_memory(lambda: bytearray(64 << 20))
    if found is None:
        pytest.skip('this system does not tell the peak of the resident memory')
    assert 60 << 20 < found < 80 << 20


def test_series_is_drawn_against_its_size(tmp_path):
    rows = [
        measure('op', Case(f'layer, {n} rows', 'forward', lambda: None, size=n), Peak(1, 1))
        for n in (10, 100)
    ]
    report.save_plot(rows, tmp_path / 'series.png', series=True)
    assert (tmp_path / 'series.png').stat().st_size > 1000
