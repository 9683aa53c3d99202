"""The `mxd` command: one module a subcommand, imported only when it is asked for.

It is beside the package, not in it, so that `mxd doctor` runs where the package cannot be imported.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Optional

COMMANDS = {
    'bench': ('mxd_mmplugin.benchmarks', 'time the operators beside their rivals'),
    'configs': ('mxd_cli.configs', 'copy the configs of the package into a folder'),
    'create-data': ('mxd_cli.create_data', 'prepare a data set, as mmdet3d does'),
    'doctor': (
        'mxd_cli.doctor',
        'report versions, devices, backends and swapped names',
    ),
    'softnpu': ('mxd_mmplugin.softnpu', 'run a command on the software NPU'),
    'sparse4d-anchors': ('mxd_mmplugin.models.sparse4d.anchors', "choose Sparse4D's anchors"),
    'sparse4d-infos': (
        'mxd_mmplugin.models.sparse4d.infos',
        'add sequences to nuScenes info files',
    ),
    'synth': ('mxd_mmplugin.datasets.synth', 'generate a nuScenes-format data set'),
    'test': ('mxd_cli.test', 'test and evaluate a model, as mmdet3d does'),
    'train': ('mxd_cli.train', 'train a model, as mmdet3d does'),
    'verify': ('mxd_mmplugin.engine.verify', 'check every operator beside its reference'),
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run `mxd COMMAND ...`.

    A command's module has `add_arguments(parser)` and `run(args)`, or `main(arguments)` where the
    options are those of another program.

    Args:
        argv (Sequence[str], optional): the command and its arguments; by default this process's.

    Returns:
        int: the exit status.
    """
    parser = argparse.ArgumentParser(prog='mxd', description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, (path, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, add_help=False)
        command.set_defaults(module=path)
    argv = sys.argv[1:] if argv is None else argv
    args, rest = parser.parse_args(argv[:1]), argv[1:]
    try:
        module = importlib.import_module(args.module)
    except (ImportError, ValueError) as error:  # ValueError: MXD_DISABLE names what is not there
        doctor = args.command == 'doctor'  # which needs nothing else
        remedy = 'pip install rich' if doctor else '`mxd doctor` tells what is missing'
        print(f'mxd {args.command}: {error}: {remedy}', file=sys.stderr)
        return 1
    if hasattr(module, 'main'):
        return module.main(rest) or 0
    command = argparse.ArgumentParser(prog=f'mxd {args.command}', description=module.__doc__)
    module.add_arguments(command)
    return module.run(command.parse_args(rest)) or 0
