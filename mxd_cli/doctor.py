"""Report versions, devices, how each op is served and which registry names are ours.

Exit status: 0 when everything that training needs on the found device is there, 1 when not.
"""

import argparse
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from glob import glob
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Optional

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:  # the report also runs where the package cannot be imported
    from mxd_mmplugin.registry import Status

# A table, None where there is nothing to show, and what to do about what is missing.
Section = tuple[Optional[Table], list[str]]


@dataclass(frozen=True)
class Package:
    """A package that the report looks for.

    Attributes:
        name: its name for pip.
        module: the module whose import proves that it works.
        required: whether training needs it.
        remedy: how to get it, or what its absence means.
    """

    name: str
    module: str
    required: bool
    remedy: str


PACKAGES = (
    Package('torch', 'torch', True, 'pip install torch'),
    Package('numpy', 'numpy', True, "pip install 'numpy<2'"),
    Package('mmengine', 'mmengine', True, 'pip install mmengine'),
    Package(
        'mmcv',
        'mmcv.ops',
        True,
        'MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0 (not mmcv-lite)',
    ),
    Package('mmdet', 'mmdet.models', True, 'pip install mmdet==3.3.0'),
    Package('mmdet3d', 'mmdet3d.models', True, 'pip install --no-deps mmdet3d==1.4.0'),
    Package('nuscenes-devkit', 'nuscenes', True, 'pip install --no-deps nuscenes-devkit==1.2.0'),
    Package('mxd-mmplugin', 'mxd_mmplugin.registry', True, 'pip install --no-build-isolation -e .'),
    Package('torch-npu', 'torch_npu', False, 'only for an NPU; of the same version as torch'),
    Package('spconv', 'spconv', False, 'not needed: the sparse convolutions are ours'),
)

MARKS = {'ok': '[green]ok[/]', 'absent': '[dim]absent[/]'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `mxd doctor --help`."""
    parser.add_argument(
        '-v', '--verbose', action='store_true', help='every registered name, not families of them'
    )


def run(args: argparse.Namespace) -> int:
    """Print the report.

    Returns:
        int: the exit status, 0 or 1.
    """
    console = Console(width=None if sys.stdout.isatty() else 120)
    remedies: list[str] = []
    sections = _packages, _device, _ops, _mmcv_ops, lambda: _registry(args.verbose), _effects
    for section in sections:
        if remedies and (section is _ops or remedies[0].startswith('torch is')):
            break  # without torch no section works, without the others none after the devices
        try:
            table, missing = section()
        except Exception as error:
            where = str(section.__doc__ or _registry.__doc__).split(':')[0]
            table, missing = None, [f'{where}: {_first_line(error)}']
        if table is not None:
            console.print(table)
        remedies += missing
    if remedies:
        console.print('[bold red]Missing for training on this machine:[/]')
        for remedy in remedies:
            console.print(f'  - {escape(remedy)}', soft_wrap=True)
        return 1
    console.print('[bold green]Everything that training needs on this machine is there.[/]')
    return 0


def _packages() -> Section:
    """Packages: the version of each, and whether it can be imported."""
    table = _table('Packages', 'package', 'version', 'state', 'note')
    table.add_row('python', platform.python_version(), MARKS['ok'], sys.executable)
    missing: list[str] = []
    causes: list[str] = []
    for package in PACKAGES:
        version, error = _version(package.name), _import_error(package.module)
        if error is None:
            table.add_row(package.name, version or '', MARKS['ok'], '')
            continue
        state = 'absent' if version is None else 'broken'
        note = package.remedy if state == 'absent' else error
        mark = f'[red]{state}[/]' if package.required or state == 'broken' else MARKS[state]
        table.add_row(package.name, version or '', mark, escape(note))
        # What fails only because a package above it does: this package always, others by the same error.
        own = package.name == 'mxd-mmplugin'
        follows = bool(missing) if own else state == 'broken' and error in causes
        if package.required and not follows:
            cause = f' ({error})' if state == 'broken' else ''
            missing.append(f'{package.name} is {state}: {package.remedy}{cause}')
            causes.append(error)
    return table, missing


def _device() -> Section:
    """Devices: what PyTorch finds here, and what training will use."""
    table = _table('Devices', 'device', 'found', 'details')
    missing: list[str] = []
    nodes = glob('/dev/davinci[0-9]*')
    npu_error = _import_error('torch_npu')
    import torch

    npus = torch.npu.device_count() if npu_error is None else 0  # type: ignore[attr-defined]
    # Of PyTorch itself: transfer_to_npu has torch.cuda answer for the NPUs.
    gpus = getattr(torch._C, '_cuda_getDeviceCount', int)()
    if npus:
        names = ', '.join(sorted({torch.npu.get_device_name(i) for i in range(npus)}))  # type: ignore[attr-defined]
        names += ', in software' if 'MXD_SOFTNPU' in os.environ else ''
        table.add_row('NPU', str(npus), names)
    elif nodes:
        table.add_row('NPU', f'[red]{len(nodes)}, unusable[/]', escape(npu_error or 'no driver'))
        missing.append(
            f'{len(nodes)} NPU(s) are in this machine, but torch_npu does not see them: install '
            f'CANN and the torch_npu of PyTorch {torch.__version__}, source set_env.sh of CANN'
        )
    else:
        table.add_row('NPU', 'none', '')
    gpu_names = ', '.join(sorted({torch.cuda.get_device_name(i) for i in range(gpus)}))
    table.add_row('CUDA', str(gpus or 'none'), gpu_names)
    table.add_row(
        'CPU',
        f'{len(os.sched_getaffinity(0))} cores',
        f'{platform.machine()}, {torch.backends.cpu.get_cpu_capability()} kernels, '
        f'{torch.get_num_threads()} threads',
    )
    used = 'NPU' if npus else 'CUDA' if gpus else 'CPU'
    table.caption = f'Training uses the {used}.'
    return table, missing


def _ops() -> Section:
    """Ops: how each is served on each device."""
    backends = import_module('mxd_mmplugin.ops').backends()
    devices = list(dict.fromkeys(device for served in backends.values() for device in served))
    table = _table('Ops', 'op', *devices)
    for op, served in backends.items():
        table.add_row(op, *(escape(str(served.get(device, ''))) for device in devices))
    if 'Ascend kernel' not in {served['npu'] for served in backends.values()}:
        table.caption = 'Ascend kernels are in the NPU build only: see docs/npu.md.'
    return table, []


def _mmcv_ops() -> Section:
    """Ops of mmcv: how each is served on an NPU, and those on a CPU that mmcv has for GPUs alone."""
    import torch

    table, missing = _table('Ops of mmcv', 'device', 'served by', 'ops'), []
    devices = {'CPU': import_module('mxd_mmplugin.ops.library').fill_mmcv_registry()}
    if not _import_error('torch_npu') and torch.npu.device_count():  # type: ignore[attr-defined]
        if hasattr(torch.ops.mxd, 'mmcv_registry'):
            devices['NPU'] = torch.ops.mxd.mmcv_registry()
        else:
            missing.append(
                "mmcv's ops for npu tensors: build mxd-mmplugin with CANN's set_env.sh sourced, "
                'see docs/npu.md'
            )
    for device, ops in devices.items():
        for server in dict.fromkeys(ops.values()):
            names = (name.removesuffix('_impl') for name in ops if ops[name] == server)
            table.add_row(device, server, ', '.join(names))
    return table if table.row_count else None, missing


def _families(rows: list['Status']) -> Iterator['Status']:
    """Rows for `SparseConv1d ... 4d` in place of one a dimension; names that are only ours left out."""
    families: dict[tuple, list[Status]] = {}
    for row in rows:
        if row.name.startswith('Mxd'):
            continue
        stem = re.sub(r'[1-4]d$', '', row.name)
        cls = re.sub(r'[1-4]d$', 'Nd', row.cls)
        families.setdefault((row.registry, stem, row.swapped, cls, row.note), []).append(row)
    for (*_, cls, _), members in families.items():
        name = members[0].name
        if len(members) > 1:
            name, cls = f'{name} ... {members[-1].name[-2:]}', cls
        else:
            cls = members[0].cls
        yield replace(members[0], name=name, cls=cls)


def _registry(verbose: bool) -> Section:
    """Registry: the names that stock configs use, and the class that each one builds."""
    table = _table('Registered names', 'registry', 'name', 'ours', 'class', 'note')
    rows = import_module('mxd_mmplugin.registry').status()
    for row in rows if verbose else _families(rows):
        ours = '[green]yes[/]' if row.swapped else '[yellow]no[/]'
        table.add_row(row.registry, row.name, ours, escape(row.cls), escape(row.note))
    return table, []


def _effects() -> Section:
    """Changes in other packages: what importing the package does to them."""
    table = _table('Changes in other packages', 'what', 'change', 'made')
    for effect, made in import_module('mxd_mmplugin.activation').activate().items():
        table.add_row(escape(effect.target), escape(effect.change), 'yes' if made else 'not needed')
    return table, []


def _table(title: str, *columns: str) -> Table:
    """Make a table with a bold title above it, at the left."""
    table = Table(title=f'[bold]{title}[/]', title_justify='left', caption_justify='left')
    for column in columns:
        table.add_column(column, overflow='fold')
    return table


def _version(name: str) -> Optional[str]:
    """Version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _import_error(module: str) -> Optional[str]:
    """What keeps a module from being imported, or None when it can be."""
    try:
        found = import_module(module)
    except Exception as error:
        return f'{type(error).__name__}: {_first_line(error)}'
    if hasattr(found, '__path__') and getattr(found, '__file__', None) is None:
        return f'{next(iter(found.__path__))} is a folder without __init__.py'
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
