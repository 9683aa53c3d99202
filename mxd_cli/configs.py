"""Copy the configs of the package into a folder, to change them there; each goes on finding its `_base_`."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def folder() -> Path:
    """Where the configs are: in the installed package, or beside it in a checkout.

    Raises:
        SystemExit: in neither.
    """
    places = ROOT / 'mxd_mmplugin' / 'configs', ROOT / 'configs'
    for place in places:
        if (place / 'centerpoint').is_dir():
            return place
    raise SystemExit(f'no configs in {places[0]}, nor in {places[1]}: install mxd_mmplugin again')


def with_config(arguments: Sequence[str]) -> list[str]:
    """Put the path of a config in place of its name.

    Args:
        arguments (Sequence[str]): of a tool whose first argument is a config: the path of a file, or the name
            of a config of the package, with or without its folder and `.py`.

    Returns:
        list[str]: the same with a path; as they are where the first one is an option.

    Raises:
        SystemExit: neither a file nor a name.
    """
    if not arguments or arguments[0].startswith('-') or Path(arguments[0]).is_file():
        return list(arguments)
    name, *rest = arguments
    names = {path.relative_to(folder()): path for path in sorted(folder().rglob('*.py'))}
    wanted = Path(name if name.endswith('.py') else f'{name}.py')
    for relative, path in names.items():
        if wanted in (relative, Path(relative.name)):
            return [str(path), *rest]
    known = '\n  '.join(path.stem for path in names)
    raise SystemExit(
        f'CONFIG must be a file or the name of a config of the package, was {name!r}; these are:\n  {known}'
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument('dir', metavar='DIR', type=Path, help='is made where it does not exist')


def run(args: argparse.Namespace) -> int:
    """Copy them; nothing is overwritten.

    Returns:
        int: the exit status, 0.

    Raises:
        SystemExit: a file is there already.
    """
    source = folder()
    files = [path.relative_to(source) for path in sorted(source.rglob('*.py'))]
    there = next((args.dir / file for file in files if (args.dir / file).exists()), None)
    if there is not None:
        raise SystemExit(f'mxd configs: {there} is there already, nothing was copied')
    for file in files:
        (args.dir / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, args.dir / file)
    print(f'{len(files)} configs are in {args.dir}')
    return 0
