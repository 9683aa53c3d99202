"""Find and run the tools that the mmdet3d wheel ships."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path


def run(name: str) -> None:
    """Run mmdet3d's tool `name` as the main program, with this process's arguments.

    Args:
        name: file name in mmdet3d's `tools` folder, such as `train.py`.

    Raises:
        SystemExit: mmdet3d is not installed, or without its tools.
    """
    spec = find_spec('mmdet3d')
    if spec is None:
        raise SystemExit('mmdet3d is not installed: pip install mmdet3d==1.4.0')
    shipped = Path(spec.origin).parent / '.mim'
    script = shipped / 'tools' / name
    if not script.is_file():
        raise SystemExit(f'{script} is missing: install mmdet3d from its wheel, which carries it')
    # Both folders are named `tools` and neither is a regular package, so the first on the path is
    # the one that `import tools.dataset_converters` looks into.
    sys.path.insert(0, str(shipped))
    runpy.run_path(str(script), run_name='__main__')
