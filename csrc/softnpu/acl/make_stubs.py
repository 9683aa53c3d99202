"""Write a C++ file with a function for each symbol that torch_npu links and the software runtime lacks.

A stub says its name and fails: it only lets the library load. Usage:

    python make_stubs.py TORCH_NPU_DIR TORCH_LIB_DIR STUBS OBJECT...
"""

import re
import subprocess
import sys
from pathlib import Path

# The parts of CANN that torch_npu links: runtime, older runtime, profiler, collectives.
OF_CANN = re.compile(r'(acl|rt|Msprof|Hccl)[A-Z]|acl(mdl|rt|op)[A-Z]')
# Doing nothing is right for these: nothing is there to be dumped or profiled when torch_npu is
# imported and shut down, and the attributes are of operators that are refused (operator.cpp).
IDLE = re.compile(r'MsprofRegisterCallback|aclmdl(Init|Set|Finalize)Dump|aclopSetAttr\w+')


def symbols(path: Path, kind: str) -> set[str]:
    """The symbols of a library or object; kind is 'undefined' or 'defined'."""
    dynamic = ['--dynamic'] if '.so' in path.name else []
    command = ['nm', *dynamic, f'--{kind}-only', '--format=posix', str(path)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {line.split()[0].split('@')[0] for line in listing.splitlines() if line}


def main(torch_npu: str, torch_lib: str, output: str, *objects: str) -> None:
    """Compare what torch_npu needs with what the objects define, and write the rest."""
    package = Path(torch_npu)
    # libop_plugin_atb.so is opened only by those who ask for its ops; it needs libraries of its own.
    users = [*package.glob('_C*.so'), *package.glob('lib/*.so')]
    users = [path for path in users if 'atb' not in path.name]
    needed = set().union(*(symbols(path, 'undefined') for path in users))
    found = [*users, *Path(torch_lib).glob('*.so'), *map(Path, objects)]
    missing = needed - set().union(*(symbols(path, 'defined') for path in found))
    stubs = sorted(name for name in missing if OF_CANN.match(name))

    headers = ''.join(
        path.read_text(errors='replace') for path in package.glob('include/third_party/**/*.h')
    )
    lines = ['extern "C" {', 'int softnpu_stub(const char* name);']
    for name in stubs:
        if IDLE.fullmatch(name):
            lines.append(f'int {name}() {{ return 0; }}')
        elif re.search(rf'\*\s*{name}\(', headers):
            lines.append(f'void* {name}() {{ softnpu_stub("{name}"); return 0; }}')
        else:
            lines.append(f'int {name}() {{ return softnpu_stub("{name}"); }}')
    Path(output).write_text('\n'.join([*lines, '}', '']))


if __name__ == '__main__':
    main(*sys.argv[1:])
