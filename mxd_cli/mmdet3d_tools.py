"""Find and run the tools that the mmdet3d wheel ships."""

import runpy
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path


def run(name: str, arguments: Sequence[str]) -> None:
    """Run mmdet3d's tool `name` as the main program.

    Args:
        name: file name in mmdet3d's `tools` folder, such as `train.py`.
        arguments (Sequence[str]): of that tool.

    Raises:
        SystemExit: mmdet3d is not installed, or without its tools, or mmcv without its ops.
    """
    spec = find_spec('mmdet3d')
    if spec is None or spec.origin is None:  # a folder of that name is no package
        raise SystemExit('mmdet3d is not installed: pip install --no-deps mmdet3d==1.4.0')
    shipped = Path(spec.origin).parent / '.mim'
    script = shipped / 'tools' / name
    if not script.is_file():
        raise SystemExit(f'{script} is missing: install mmdet3d from its wheel, which carries it')
    try:
        import_module('mmcv.ops')
    except (ImportError, OSError) as error:  # OSError: a shared library that cannot be loaded
        raise SystemExit(
            f'mmdet3d cannot be used: {error}: `mxd doctor` tells what is missing'
        ) from None
    # The checkout's folder is named `tools` too and neither is a regular package, so the first on
    # the path is the one that `import tools.dataset_converters` looks into.
    sys.path.insert(0, str(shipped))
    sys.argv[1:] = arguments
    runpy.run_path(str(script), run_name='__main__')
