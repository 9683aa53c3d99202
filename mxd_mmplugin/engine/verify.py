"""Check every operator on a device: results and gradients beside the CPU's, two runs beside each other.

On an NPU the reference is the CPU operator, on the CPU the plain PyTorch form. The report is printed and written as
JSON, to be attached to a bug report. Exit status: 0 when every operator passes, 1 when not.
"""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Callable, Optional

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from .. import ops, softnpu
from ..ops import fallback
from ..softnpu import profile
from .verify_problems import OPERATORS, Problem

# Of the largest difference, relative to the largest value of the reference.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.int32: 0.0}
QUICK = 3  # problems of an operator and a dtype
DRIVER = Path('/usr/local/Ascend/driver/version.info')  # where its installer puts it
PACKAGES = 'torch', 'torch-npu', 'mmcv', 'mmdet3d', 'numpy', 'mxd-mmplugin'
# On an NPU their kernels add with atomics, in the order in which cores come.
ATOMIC = {'deformable_aggregation'}


@dataclass
class Row:
    """What was found for an operator and a dtype; times in ms, of the second runs together.

    `modelled` is what the software NPU says of this package's kernels, None where it is not there.
    """

    operator: str
    family: str
    dtype: str
    served_by: str
    tolerance: float
    problems: int = 0
    worst_error: float = 0.0
    deterministic: bool = True
    milliseconds: float = 0.0
    modelled: Optional[float] = None
    failures: list = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mxd verify`."""
    parser.add_argument('--device', choices=('npu', 'cpu'), help='npu where there is one, else cpu')
    parser.add_argument('--json', default='mxd_verify.json', metavar='F', help='report to write')
    parser.add_argument('--quick', action='store_true', help=f'{QUICK} problems each')


def run(args: argparse.Namespace) -> int:
    """Check all operators, print the table and write the report.

    Returns:
        int: the exit status, 0 or 1.
    """
    device = args.device or ('npu' if _has_npu() else 'cpu')
    if device == 'npu' and not _has_npu():
        raise SystemExit('mxd verify: --device was npu, but torch_npu sees none: try `mxd doctor`')
    rows = []
    for name, operator in OPERATORS.items():
        for dtype in operator.dtypes:
            rows.append(check(name, dtype, device, QUICK if args.quick else None))
            done = f'{len(rows)}. {name} {rows[-1].dtype}: {rows[-1].problems} problems'
            print(done, file=sys.stderr, flush=True)
    versions = _versions(device)
    report = dict(versions=versions, device=device, rows=[asdict(row) for row in rows])
    Path(args.json).write_text(json.dumps(report, indent=1) + '\n')
    return _print(rows, versions, args.json)


def check(name: str, dtype: torch.dtype, device: str, most: Optional[int] = None) -> Row:
    """Run the problems of an operator, each twice, and compare.

    Args:
        name (str): of `OPERATORS`.
        dtype (torch.dtype): of the features.
        device (str): 'npu' or 'cpu'.
        most (int, optional): so many problems at most.

    Returns:
        Row: a problem that raised is one of its failures.
    """
    operator = OPERATORS[name]
    served_by = _served_by(operator.family, device)
    row = Row(name, operator.family, str(dtype).split('.')[-1], served_by, TOLERANCES[dtype])
    promised = device == 'cpu' or ('kernel' in served_by and operator.family not in ATOMIC)
    problems = operator.problems(dtype, torch.Generator().manual_seed(0))
    for problem in islice(problems, most):
        row.problems += 1
        try:
            error, same, spent, modelled = _compare(problem, device)
        except Exception as raised:
            row.failures.append(f'{problem.name}: {type(raised).__name__}: {_first_line(raised)}')
            continue
        row.worst_error = max(row.worst_error, error)
        row.deterministic &= same
        row.milliseconds += spent
        if modelled is not None:
            row.modelled = (row.modelled or 0) + modelled
        if error > row.tolerance:
            row.failures.append(f'{problem.name}: relative error {error:.2g}')
        if not same and promised:
            row.failures.append(f'{problem.name}: two runs differ')
    return row


def _compare(problem: Problem, device: str) -> tuple[float, bool, float, Optional[float]]:
    """Largest relative error, whether two runs are bit-identical, the second's time and modelled time in ms."""
    first, _ = _timed(problem, device)
    with _model(device) as modelled:
        second, spent = _timed(problem, device)
        cost = modelled()
    if device == 'cpu':
        with fallback.Plain():
            wanted = _tensors(problem, 'cpu')
    else:
        wanted = _tensors(problem, 'cpu')
    same = all(a.shape == b.shape and _bits(a).equal(_bits(b)) for a, b in zip(first, second))
    return max(_error(a, b) for a, b in zip(first, wanted)), same, spent, cost


def _tensors(problem: Problem, device: str) -> list[Tensor]:
    """Results and gradients on a device, under gradients of the results that vary."""
    leaves = [x.to(device).detach().requires_grad_() for x in problem.leaves]
    outputs = problem.function(*leaves, *(x.to(device) for x in problem.rest))
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    differentiable = [x for x in outputs if x.requires_grad]
    slopes = [
        torch.linspace(-1, 1, x.numel()).view(x.shape).to(device, x.dtype) for x in differentiable
    ]
    grads = torch.autograd.grad(differentiable, leaves, slopes) if leaves else ()
    return [x.detach() for x in (*outputs, *grads)]


def _timed(problem: Problem, device: str) -> tuple[list[Tensor], float]:
    """Results on the CPU, and milliseconds: by events of the device where it has any."""
    if device == 'npu':
        begin, end = (torch.npu.Event(enable_timing=True) for _ in range(2))  # type: ignore[attr-defined]
        begin.record()
        tensors = _tensors(problem, device)
        end.record()
        torch.npu.synchronize()  # type: ignore[attr-defined]
        spent = begin.elapsed_time(end)
    else:
        start = time.perf_counter()
        tensors = _tensors(problem, device)
        spent = (time.perf_counter() - start) * 1e3
    return [x.cpu() for x in tensors], spent


@contextmanager
def _model(device: str) -> Iterator[Callable[[], Optional[float]]]:
    """Yield what tells the modelled ms of the launches since; None where they are not modelled, or for another."""
    setting = 'MXD_SOFTNPU_PROFILE'
    if device != 'npu' or not softnpu.active() or setting in os.environ:
        yield lambda: None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'profile.jsonl'
        os.environ[setting] = str(path)
        try:
            yield lambda: sum(row['modelled_us'] for row in profile.kernels(path)) / 1e3
        finally:
            del os.environ[setting]


def _bits(tensor: Tensor) -> Tensor:
    # The stride of an axis of one may be anything, and view() asks for 1.
    return tensor.flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8)


def _error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest value; infinite where integers or NaN differ."""
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        raise ValueError(
            f'gave {found.dtype} {list(found.shape)}, the reference {wanted.dtype} '
            f'{list(wanted.shape)}'
        )
    if found.equal(wanted):
        return 0.0
    if not found.is_floating_point():
        return math.inf
    error = (found.double() - wanted.double()).abs().max() / wanted.double().abs().max()
    return math.inf if error.isnan() else float(error)


def _served_by(family: str, device: str) -> str:
    """The first of the family's servers that is not plain PyTorch, if there is one."""
    served, names = ops.backends(), fallback.FAMILIES[family]
    return min((served[name][device] for name in names), key=lambda how: 'plain' in how)


def _has_npu() -> bool:
    return hasattr(torch, 'npu') and torch.npu.is_available()


def _versions(device: str) -> dict[str, str]:
    """What a bug report should name."""
    versions = {'python': platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = 'absent'
    versions['cann'] = _cann()
    versions['driver'] = _text(DRIVER) if DRIVER.exists() else f'no {DRIVER}'
    name = torch.npu.get_device_name(0) if device == 'npu' else 'CPU'  # type: ignore[attr-defined]
    versions['device'] = name + (', in software' if device == 'npu' and softnpu.active() else '')
    versions['processor'] = _processor()
    versions['os'] = platform.platform()
    versions['MXD_DISABLE'] = os.environ.get('MXD_DISABLE', '')
    return versions


def _cann() -> str:
    """CANN's own version file, in one line."""
    root = os.environ.get('ASCEND_HOME_PATH')
    if not root:
        return 'ASCEND_HOME_PATH is not set'
    for pattern in ('version.cfg', '*/ascend_toolkit_install.info', 'version.info'):
        for path in sorted(Path(root).glob(pattern)):
            return _text(path)
    return f'no version file in {root}'


def _text(path: Path) -> str:
    """A file's lines in one."""
    return '; '.join(path.read_text(errors='replace').split('\n')).strip('; ')


def _processor() -> str:
    """The model's name where Linux tells it, and the architecture."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return f'{next(names, platform.processor())} ({platform.machine()}, {os.cpu_count()} cores)'


def _print(rows: list[Row], versions: dict[str, str], path: str) -> int:
    """Print the table and what to do; return the exit status."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(', '.join(f'{name} {value}' for name, value in versions.items() if value))
    table = Table(title='[bold]Operators[/]', title_justify='left')
    for column in ('operator', 'dtype', 'served by', 'result'):
        table.add_column(column)
    for column in ('problems', 'worst error', 'tolerance', 'deterministic', 'ms', 'modelled'):
        table.add_column(column, justify='right')
    for row in rows:
        table.add_row(
            row.operator,
            row.dtype,
            row.served_by,
            '[bold red]failed[/]' if row.failures else '[green]ok[/]',
            str(row.problems),
            f'{row.worst_error:.1e}',
            f'{row.tolerance:.0e}',
            'yes' if row.deterministic else 'no',
            f'{row.milliseconds:.1f}',
            f'{row.modelled:.3f}' if row.modelled else '',
        )
    console.print(table)
    console.print(f'The report for an issue is {escape(path)}.')
    failed = [row for row in rows if row.failures]
    if not failed:
        console.print('[bold green]Every operator passes.[/]')
        return 0
    for row in failed:
        for failure in row.failures:
            console.print(f'[red]{row.operator} {row.dtype}[/] {escape(failure)}')
    families = dict.fromkeys(row.family for row in failed)
    kernels = [
        name
        for name in families
        if any(row.family == name and 'plain' not in row.served_by for row in failed)
    ]
    for name in families:
        if name not in kernels:
            console.print(f'{name} is served by plain PyTorch: please report it.')
    if kernels:
        known = [name for name in fallback.FAMILIES if name in fallback.DISABLED]
        console.print('To train without the kernels that fail, set:')
        # Never wrapped: it is there to be copied.
        console.print(f'export MXD_DISABLE={",".join([*known, *kernels])}', soft_wrap=True)
    return 1


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), '')
