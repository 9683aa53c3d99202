"""Write the launch stub of an Ascend C source, and the headers that CANN's build would write for it.

For each kernel `NAME` of the source: aclrtlaunch_NAME.h, and in the stub a function aclrtlaunch_NAME that runs the
kernel on the software NPU.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+__aicore__\s+void\s+(?P<name>\w+)\s*\((?P<arguments>[^)]*)\)\s*\{'
    r'\s*KERNEL_TASK_TYPE_DEFAULT\((?P<type>\w+)\)'
)
TYPES = {
    'KERNEL_TYPE_AIV_ONLY': 'kAiv',
    'KERNEL_TYPE_AIC_ONLY': 'kAic',
    'KERNEL_TYPE_MIX_AIC_1_1': 'kMix11',
    'KERNEL_TYPE_MIX_AIC_1_2': 'kMix12',
}


def declaration(name: str, arguments: list) -> str:
    """The signature of the launch function: pointers for addresses and for the tiling."""
    pairs = (f'{"void" if kind == "GM_ADDR" else kind}* {argument}' for kind, argument in arguments)
    return ', '.join((f'uint32_t aclrtlaunch_{name}(uint32_t blockDim, void* stream', *pairs)) + ')'


def kernels(text: str, source: Path) -> Iterator[tuple[str, str, list]]:
    """Yield (name, type, [(argument type, argument name)]) of each kernel of a source."""
    for match in KERNEL.finditer(text):
        arguments = [
            tuple(argument.strip().rsplit(maxsplit=1)) for argument in match['arguments'].split(',')
        ]
        if match['type'] not in TYPES:
            raise SystemExit(
                f'{source}: the type of kernel {match["name"]} must be one of {", ".join(TYPES)}, '
                f'was {match["type"]}'
            )
        for kind, argument in arguments:
            if not kind.isidentifier():  # CANN finds the struct by its name, outside of namespaces
                raise SystemExit(
                    f'{source}: the type of argument {argument} of kernel {match["name"]} must be GM_ADDR '
                    f'or the name of a struct outside of namespaces, was {kind}'
                )
        yield match['name'], TYPES[match['type']], arguments


def stub(name: str, kind: str, arguments: list) -> str:
    """The definition of a launch function."""
    tilings = [argument for argument_type, argument in arguments if argument_type != 'GM_ADDR']
    call = ', '.join(
        f'static_cast<GM_ADDR>({argument})' if argument_type == 'GM_ADDR' else f'{argument}_value'
        for argument_type, argument in arguments
    )
    copies = ''.join(f'  const auto {tiling}_value = *{tiling};\n' for tiling in tilings)
    return (
        f'extern "C" {declaration(name, arguments)} {{\n{copies}'
        f'  return softnpu::launch("{name}", softnpu::KernelType::{kind}, blockDim, stream,\n'
        f'                         [=] {{ {name}({call}); }});\n}}\n'
    )


def header(name: str, arguments: list) -> str:
    """The header that a caller of the kernel includes, after that of the tiling."""
    return f'#pragma once\n#include <cstdint>\n\nextern "C" {declaration(name, arguments)};\n'


def main() -> None:
    """Run from ascendc.cmake."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('source', type=Path)
    parser.add_argument('--stub', type=Path, required=True)
    parser.add_argument('--include-dir', type=Path, required=True)
    args = parser.parse_args()
    found = list(kernels(args.source.read_text(), args.source))
    args.include_dir.mkdir(parents=True, exist_ok=True)
    args.stub.parent.mkdir(parents=True, exist_ok=True)
    for name, _, arguments in found:
        (args.include_dir / f'aclrtlaunch_{name}.h').write_text(header(name, arguments))
    body = '\n'.join(stub(*kernel) for kernel in found)
    runtime = Path(__file__).resolve().with_name('launch.h')
    args.stub.write_text(f'#include "{runtime}"\n\n#include "{args.source}"\n\n{body}')


if __name__ == '__main__':
    main()
