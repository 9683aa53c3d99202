#!/usr/bin/env python3
"""Checks Ascend C kernels as the device compiler would: with clang, against CANN's device headers.

devcheck.py KERNEL_DIR CANN_DIR [-I DIR]... [--keep DIR] [--stack]
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Optional, Union

HERE = pathlib.Path(__file__).resolve().parent
STACK_LIMIT = 0x8000  # -mllvm -cce-aicore-stack-size of ascendc_kernel_cmake's bisheng_intf.cmake
HALVES = ('VEC', 'CUBE')
# Intrinsics that one half's instruction set lacks.
VECTOR_ONLY = re.compile(
    r'^(v[a-z].*|scatter_v.*|copy_(gm_to_ubuf|ubuf_to|cbuf_to_ubuf).*|set_cmpmask|rpn_.*'
    r'|set_va_reg.*|movemask|bcopy|set_deqscale|get_vms4_sr|get_rsvd_cnt|set_quant)$'
)
CUBE_ONLY = re.compile(
    r'^(mad.*|load_(cbuf|gm)_to_c[ab].*|load_gm_to_cbuf.*|img2col.*|copy_(gm_to_cbuf|matrix_cc|cbuf_to).*|fix_.*'
    r'|create_c[ab].*|set_(fmatrix|l1_3d|l3d|padding|fpc|nd_para|l0_set).*|winograd.*)$'
)


VECTOR_API = """Add Sub Mul Div Max Min Adds Muls Maxs Mins Axpy Abs Exp Ln Sqrt Rsqrt Reciprocal Relu Not And Or
    ShiftLeft ShiftRight Cast Duplicate Brcb Gather Gatherb GatherMask Scatter Compare CompareScalar Select
    CreateVecIndex Transpose WholeReduceSum WholeReduceMax WholeReduceMin BlockReduceSum PairReduceSum
    ReduceSum ReduceMax ReduceMin RepeatReduceSum MulAddDst FusedMulAdd Sort MrgSort Sort32 DataCopyPad
    SetMaskCount SetMaskNorm SetVectorMask TransDataTo5HD"""
CUBE_API = """Mmad LoadData LoadDataWithTranspose LoadDataWithSparse MmadWithSparse Fixpipe SetFixPipeConfig
    InitConstValue SetLoadDataBoundary SetFmatrix"""
API_OF = {'VEC': set(VECTOR_API.split()), 'CUBE': set(CUBE_API.split())}


RESOURCES = (
    subprocess.run(
        ['clang-19', '-print-resource-dir'], capture_output=True, text=True
    ).stdout.strip()
    + '/include'
)

# A command's words.
Part = Union[str, pathlib.Path]
Parts = Sequence[Part]

# A source, its -D options, and how it was made.
Build = tuple[pathlib.Path, list[str], str]


def run(command: Parts, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it prints."""
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, errors='replace', **options
    )


class Cann:
    """Where things are in a CANN installation or in a checkout of its headers."""

    def __init__(self, root: pathlib.Path, work: pathlib.Path) -> None:
        roots = [
            root,
            *[
                root / name
                for name in ('aarch64-linux', 'x86_64-linux', 'compiler', 'tools', 'ascendc_devkit')
            ],
        ]

        def find(*names: str) -> pathlib.Path:
            for base in roots:
                for name in names:
                    if (base / name).exists():
                        return base / name
            raise SystemExit(f'{root} has no {" or ".join(names)}')

        self.stubs = find(
            'tikicpulib/lib/include/stub_fun.h', 'tools/tikicpulib/lib/include/stub_fun.h'
        )
        self.enums = next(find('ccec_compiler/lib/clang').glob('*/include/cce_aicore_intrinsics.h'))
        self.cmake = find('tikcpp/ascendc_kernel_cmake')
        self.acl = find('include/acl').parent
        self.api = work / 'api'
        copied = self.api.is_dir()
        if not copied:
            shutil.copytree(find('ascendc/include', 'tikcpp/tikcfw'), self.api)
        for header in [] if copied else self.api.rglob('*'):
            if header.suffix in ('.h', '.cppm') and header.is_file():
                text = header.read_text(errors='replace')
                # To bisheng a literal is a string in __gm__.
                new = re.sub(r'__gm__ const char\b|const __gm__ char\b', 'const char', text)
                new = re.sub(r'const_cast<__gm__ char ?\*>', '(__gm__ char*)', new)
                new = re.sub(r'\basm volatile\([^;]*\);', ';', new)
                if new != text:
                    header.write_text(new)
        base = self.api / 'basic_api' if (self.api / 'basic_api').is_dir() else self.api
        folders = [
            base,
            base / 'interface',
            base / 'impl',
            self.api,
            self.api / 'highlevel_api',
            self.api / 'highlevel_api/lib',
            self.api / 'highlevel_api/impl',
        ]
        self.includes: list[Part] = [
            part for folder in folders if folder.is_dir() for part in ('-isystem', folder)
        ]
        self.names = self.write_intrinsics(work / 'intrinsics.h')
        prelude = work / 'prelude.h'
        prelude.write_text(
            f'#include "{HERE}/prelude.h"\n#include "{self.enums}"\n'
            f'#include "{work}/intrinsics.h"\n#include "{HERE}/supplement.h"\n'
        )
        self.prelude = prelude
        self.pch: dict[str, pathlib.Path] = {}

    def write_intrinsics(self, to: pathlib.Path) -> set[str]:
        """The prototypes of CANN's CPU stubs, as device functions whose pointers have address spaces."""
        lines: list[str] = []
        names: set[str] = set()
        for line in self.stubs.read_text().splitlines():
            match = re.match(
                r'^(?!typedef|using|struct|extern|enum)([\w:]+(?: \w+)*[ *&]+)(\w+)\((.*)\);\s*$',
                line,
            )
            if not match or match.group(2).startswith('AscendC'):
                continue
            if re.search(
                r'std::|\bvector_(u|s|f|b|bf|bool|address|align)\d*\b|Literal|Mode_Zeroing_Type',
                line,
            ):
                continue  # of other chips
            if re.search(r'_to_cb(_|$)', match.group(2)):
                line = line.replace('__ca__', '__cb__')  # a slip: it means nothing on the CPU
            lines.append(f'__device_code__ {line.strip()}')
            names.add(match.group(2))
        to.write_text('\n'.join(lines) + '\n')
        return names


class Report:
    """What was found and noted, each thing once."""

    def __init__(self, kernels: pathlib.Path) -> None:
        self.kernels = kernels
        self.found: dict[tuple[str, str], bool] = {}
        self.notes: list[str] = []
        self.launches: dict[str, str] = {}
        self.builds: dict[pathlib.Path, dict[str, list[str]]] = {}

    def add(self, where: Union[str, pathlib.Path], text: str) -> None:
        """Print a finding, if it is new."""
        key = (str(where), re.sub(r' \[(VEC|CUBE)\]$', '', text))
        if key not in self.found:
            self.found[key] = True
            print(f'FINDING {where}: {text}')

    def note(self, text: str) -> None:
        """Print a note, if it is new."""
        if text not in self.notes:
            self.notes.append(text)
            print(f'note    {text}')


# -- 1. CANN's own generator of the launch stubs ----------------------------------------------------------------------

LAUNCH_NAMES = """#define __CCE_AICORE__ 220
#define __DAV_C220_VEC__
#define TILING_KEY_VAR 0
#define __CHECK_FEATURE_AT_PRECOMPILE
#define __aicore__ [aicore]
#define __global__ __attribute__((cce_kernel))
#define __gm__ __attribute__((cce_global))
#define __ubuf__ __attribute__((cce_unif_buff))
#define __cbuf__ __attribute__((cce_cube_buff))
"""


def origin(code: str, includes: Parts) -> str:
    """Where a line of the generated stub was copied from."""
    for folder in map(pathlib.Path, includes[1::2]):
        for file in sorted([*folder.glob('*.h'), *folder.glob('*.cpp')]):
            for number, line in enumerate(file.read_text(errors='replace').splitlines(), 1):
                if re.sub(r'\s*//.*', '', line).strip() == code:
                    return f'{file}:{number}'
    return 'host_stub.cpp'


def generate(
    sources: Sequence[pathlib.Path], includes: Parts, cann: Cann, work: pathlib.Path, report: Report
) -> dict[pathlib.Path, pathlib.Path]:
    """Runs ascendc_library's extract_host_stub.py; returns the generated sources by kernel file."""
    (work / 'names.h').write_text(LAUNCH_NAMES)
    (work / 'pp').mkdir()
    commands, objects = [], []
    for source in sources:
        to = work / 'pp' / f'{source.name}.o'
        command = [
            'clang-19',
            '-x',
            'c++',
            '-E',
            '-std=c++17',
            '-include',
            work / 'names.h',
            *cann.includes,
            *includes,
            '-o',
            to,
            source,
        ]
        result = run(command)
        if result.returncode:
            report.add(source, 'preprocessing failed: ' + result.stderr.strip().splitlines()[0])
            continue
        commands.append(
            {'directory': '/', 'command': ' '.join(map(str, command)), 'file': str(source)}
        )
        objects.append(to)
        kernels = re.findall(r'__global__\s+__aicore__\s+void\s+(\w+)', source.read_text())
        types = re.findall(r'KERNEL_TASK_TYPE_DEFAULT\(\s*(\w+)\s*\)', source.read_text())
        if kernels and len(types) != len(kernels):
            report.add(
                source,
                f'{len(kernels)} kernels but {len(types)} KERNEL_TASK_TYPE_DEFAULT: CANN takes the '
                'first type of a file for all of its kernels, and without one guesses',
            )
        if len(set(types)) > 1:
            report.add(
                source,
                f'kernels of different types ({", ".join(sorted(set(types)))}) in one file: '
                'extract_host_stub.py takes the first for all',
            )
    (work / 'commands.json').write_text(json.dumps(commands))
    auto, headers = work / 'auto', work / 'launch'
    result = run(
        [
            sys.executable,
            cann.cmake / 'util/extract_host_stub.py',
            *objects,
            '--dynamic-mode',
            '-d',
            auto,
            '-hd',
            headers,
            '--aiv-o',
            *objects,
            '--aic-o',
            *objects,
            '--build-mode',
            'aiv',
            '--compile-commands',
            work / 'commands.json',
            '--generate-definition',
        ]
    )
    if result.returncode:
        report.add(
            cann.cmake / 'util/extract_host_stub.py',
            'fails: ' + (result.stdout + result.stderr).strip().splitlines()[-1],
        )
        return {}
    stub = auto / 'host_stub.cpp'
    text = stub.read_text().replace(
        '#include <securec.h>', 'extern "C" int memcpy_s(void*, size_t, const void*, size_t);'
    )
    text = re.sub(r'__replaced_\w+_len', '4', text)
    stub.write_text(text)
    # As ascendc_kernel_cmake's host_intf.cmake compiles it.
    result = run(['g++', '-std=c++11', '-fsyntax-only', '-w', f'-I{cann.acl}', stub])
    for line in result.stderr.splitlines():
        if 'error:' in line:
            code = text.splitlines()[int(line.split(':')[1]) - 1].strip()
            report.add(
                origin(code, includes),
                f'ascendc_library copies the tiling structs to its host_stub.cpp, '
                f'and nothing that they refer to: {line.split("error:")[1].strip()} in "{code}"',
            )
    for header in sorted(headers.glob('aclrtlaunch_*.h')):
        if 'triple' not in header.name:
            (signature,) = re.findall(r'uint32_t (aclrtlaunch_\w+\(.*\));', header.read_text())
            report.launches[header.stem] = signature
    generated = {}
    for source in sources:
        wrapper = auto / f'auto_gen_{source.name}'
        if not wrapper.exists():
            continue
        text = wrapper.read_text().replace('[aicore]', '__aicore__')
        text = text.replace('__attribute__((cce_global))', '__gm__').replace(
            '__attribute__((cce_kernel))', ''
        )
        wrapper.write_text(text)
        generated[source] = wrapper
    for kind in ('aic', 'aiv'):
        config = (auto / f'{kind}_config.cmake').read_text()
        for source, wrapper in generated.items():
            match = re.search(
                re.escape(str(wrapper)) + r'\s+PROPERTIES COMPILE_DEFINITIONS "([^"]*)"', config
            )
            if match:
                report.builds.setdefault(source, {})['VEC' if kind == 'aiv' else 'CUBE'] = [
                    f'-D{name}' for name in match.group(1).split(';') if name
                ]
    return generated


# -- 2. The device compile ---------------------------------------------------------------------------------------------


def clang(
    cann: Cann, includes: Parts, half: str, source: pathlib.Path, more: Parts, use_pch: bool = False
) -> list[Union[str, pathlib.Path]]:
    """The command that compiles one half of a kernel as device code."""
    early: list[Part] = ['-include', cann.prelude]
    if use_pch:
        early = ['-Xclang', '-include-pch', '-Xclang', cann.pch[half]]
    return [
        'nice',
        '-n',
        '10',
        'clang-19',
        '-x',
        'cuda',
        '--cuda-device-only',
        '--cuda-gpu-arch=sm_80',
        '-nocudainc',
        '-nobuiltininc',
        '-isystem',
        RESOURCES,
        '-nocudalib',
        '-std=c++17',
        '-O1',
        '-Xclang',
        '-disable-llvm-passes',
        '-fno-exceptions',
        '-fno-rtti',
        '-ferror-limit=0',
        '-Wall',
        '-Wno-unknown-cuda-version',
        '-Wno-unused',
        '-Wno-unknown-pragmas',
        '-Wuninitialized',
        '-Wsometimes-uninitialized',
        '-Wdouble-promotion',
        '-Wc++20-extensions',
        '-Wno-unknown-attributes',
        '-gline-tables-only',
        f'-D__DAV_C220_{half}__',
        *early,
        *cann.includes,
        *includes,
        *more,
        source,
    ]


DIAGNOSTIC = re.compile(r'^(\S+?):(\d+):(\d+): (fatal error|error|warning|note): (.*)$')


def diagnose(output: str, folders: Sequence[pathlib.Path], report: Report, tag: str) -> bool:
    """Errors, wherever they are, by the line of the kernels that they come from."""
    # Kind, the kernels' line or None, text and the line where it was found.
    found: list[tuple[str, Optional[str], str, str]] = []
    for line in output.splitlines():
        match = DIAGNOSTIC.match(line)
        if not match:
            continue
        file, row, _, kind, text = match.groups()
        inside = any(os.path.realpath(file).startswith(str(folder) + '/') for folder in folders)
        if kind in ('error', 'fatal error', 'warning'):
            found.append((kind, f'{file}:{row}' if inside else None, text, f'{file}:{row}'))
        elif found and found[-1][1] is None and inside:
            kind, _, text, where = found[-1]
            found[-1] = kind, f'{file}:{row}', text, where
    for kind, at, text, where in found:
        if kind == 'warning' and (
            at is None
            or not re.search(
                r'uninitialized|double-promotion|return-type|implicit conversion increases|infinite|C\+\+20|non-void',
                text,
            )
        ):
            continue
        if kind == 'warning' and at is None:
            continue
        report.add(
            at or where,
            f'{text}{"" if at in (None, where) else f" (at {pathlib.Path(where).name})"} [{tag}]',
        )
    return any(kind != 'warning' for kind, *_ in found)


class Module:
    """What is of use here in the text of LLVM IR."""

    def __init__(self, text: str) -> None:
        self.functions: dict[str, list[str]] = {}
        self.globals: dict[str, str] = {}
        self.meta: dict[str, str] = {}
        name: Optional[str] = None
        for line in text.splitlines():
            if line.startswith('define'):
                name = re.findall(r'@("[^"]+"|[\w.$]+)\(', line)[0].strip('"')
                self.functions[name] = [line]
            elif line == '}':
                name = None
            elif name:
                self.functions[name].append(line)
            elif line.startswith('@'):
                match = re.match(r'@("[^"]+"|[\w.$]+) = (.*)', line)
                if match:
                    self.globals[match.group(1).strip('"')] = match.group(2)
            elif line.startswith('!'):
                match = re.match(r'(!\d+) = (.*)', line)
                if match:
                    self.meta[match.group(1)] = match.group(2)

    def field(self, node: Optional[str], name: str) -> Optional[str]:
        """A field of a metadata node."""
        match = re.search(rf'\b{name}: (!\d+|"[^"]*"|\d+)', self.meta.get(node or '', ''))
        return match.group(1) if match else None

    def file(self, scope: Optional[str]) -> str:
        """The file that a scope of the debug information is in."""
        while scope:
            file = self.field(scope, 'file')
            if file:
                name, folder = (
                    self.field(file, part) or '""' for part in ('filename', 'directory')
                )
                return os.path.realpath(os.path.join(folder.strip('"'), name.strip('"')))
            scope = self.field(scope, 'scope')
        return ''

    def place(self, line: str, folders: Sequence[pathlib.Path]) -> Optional[str]:
        """The line of the kernels' sources that an instruction comes from; None where it has none."""
        match = re.search(r'!dbg (!\d+)', line)
        node = match.group(1) if match else None
        if node and 'DISubprogram' in self.meta.get(node, ''):
            file = self.file(node)
            return (
                f'{file}:{self.field(node, "line")}'
                if any(file.startswith(f'{at}/') for at in folders)
                else None
            )
        while node:
            file = self.file(self.field(node, 'scope'))
            if any(file.startswith(str(folder) + '/') for folder in folders):
                return f'{file}:{self.field(node, "line")}'
            node = self.field(node, 'inlinedAt')
        return None

    def calls(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield the name and the line of each call in a function."""
        for line in self.functions[name]:
            match = re.search(r'\b(?:call|invoke)\b.*?@("[^"]+"|[\w.$]+)\(', line)
            if match:
                yield match.group(1).strip('"'), line


def plain(mangled: str) -> str:
    """The innermost name of a mangled function."""
    match = re.match(r'_Z(?:N\w*?)?(\d+)', mangled)
    if not match:
        return mangled
    at = match.end()
    return mangled[at : at + int(match.group(1))]


def demangle(names: Iterable[str]) -> dict[str, str]:
    """Mangled names to readable ones."""
    names = list(names)
    return dict(zip(names, run(['llvm-cxxfilt-19', *names]).stdout.splitlines())) if names else {}


def inspect(
    raw: Module,
    final: Module,
    half: str,
    cann: Cann,
    folders: Sequence[pathlib.Path],
    report: Report,
    mix: bool,
) -> None:
    """What Sema lets pass: recursion, variables, double, the other half's instructions."""
    # Lambdas are host functions to bisheng unless they say __aicore__; to CUDA they are as what they are in.
    marked = set(
        re.findall(
            r'ptr(?: addrspacecast \(ptr)? @("[^"]+"|[\w.$]+)',
            raw.globals.get('llvm.global.annotations', ''),
        )
    )
    for name, body in raw.functions.items():
        where = raw.place(body[0], folders)
        if re.search(r'Ul.*E\d*_(cl|clE)', name) and name not in marked and where:
            report.add(
                where,
                f'a lambda without __aicore__ is called: bisheng says "no matching '
                f'function for call to object of type (lambda): call to [host] function from [aicore] '
                f'function" [{half}]',
            )
    for name, body in raw.functions.items():
        made = re.search(
            r'(C[123]|D[012])E|aSE|Ul.*E\d*_cl', name
        )  # what the compiler makes of itself; lambdas
        where = raw.place(body[0], folders)
        if name not in marked and not made and where:
            report.add(
                where,
                f'{demangle([name])[name]} without __aicore__ (CUDA takes constexpr '
                f'functions, bisheng may not) [{half}]',
            )
    names = demangle(raw.functions)
    for name in raw.functions:
        if name in marked or raw.place(raw.functions[name][0], folders):
            continue
        if re.match(r'(.* )?std::', names[name]) and not re.search(
            r'std::(forward|move|declval|integral_constant)\b', names[name]
        ):
            for caller in raw.functions:
                for callee, line in raw.calls(caller):
                    where = raw.place(line, folders)
                    if callee == name and where:
                        report.add(
                            where,
                            f'calls {names[name].split("(")[0]}, a host function '
                            f'(CUDA takes constexpr ones, bisheng may not; the manual: no STL) [{half}]',
                        )
    # The API leaves out what the half lacks: such a call does nothing there.
    if mix:
        lacks = API_OF['CUBE' if half == 'VEC' else 'VEC']
        for name in raw.functions:
            for callee, line in raw.calls(name):
                match = re.match(r'_ZN7AscendC(\d+)(\w+)', callee)
                where = raw.place(line, folders)
                if match and match.group(2)[: int(match.group(1))] in lacks and where:
                    report.add(
                        where,
                        f'AscendC::{match.group(2)[: int(match.group(1))]} in the '
                        f'{half.lower()} half, where it does nothing or is not defined [{half}]',
                    )
    # Recursion: strongly connected parts of the call graph.
    graph = {
        name: {callee for callee, _ in raw.calls(name) if callee in raw.functions}
        for name in raw.functions
    }
    for name in graph:
        seen, stack = set(), list(graph[name])
        while stack:
            other = stack.pop()
            if other == name:
                where = raw.place(raw.functions[name][0], folders)
                if where:
                    report.add(
                        where,
                        f'recursion in {demangle([name])[name]} [{half}]',
                    )
                break
            if other not in seen:
                seen.add(other)
                stack.extend(graph[other])
    # Variables.
    api = re.compile(
        r'g_(cubeTPipePtr|vecTPipePtr|tPipePtr|maskCount|deqValue|sysWorkspaceReserved|dumpWorkspaceReserved'
        r'|hcclContextReserved|kfcClient|oomAddrArange)|llvm\.|__clang_gpu_used|_ZN7AscendC|\.str'
    )
    for name, value in raw.globals.items():
        if api.search(name) or ' section ' in value:
            continue
        if name.startswith('_ZTV'):
            report.add(demangle([name])[name], f'virtual functions [{half}]')
        elif name.startswith('_ZGV'):
            report.add(
                demangle([name])[name], f'a variable that is initialised at run time [{half}]'
            )
        elif re.search(r'\b(global|externally_initialized)\b', value) and ' constant ' not in value:
            report.add(
                demangle([name])[name], f'a static or global variable in device code [{half}]'
            )
    # Numbers.
    for name, body in final.functions.items():
        for line in body[1:]:
            if re.search(r'\b(double|fp128|x86_fp80)\b', line) and not line.lstrip().startswith(
                ';'
            ):
                where = final.place(line, folders) or demangle([name])[name]
                report.add(where, f'double arithmetic, which the AI core has not [{half}]')
            if re.search(r'\bcall\b.*@(malloc|free|_Znwm|_ZdlPv|__cxa|vprintf|_Znam|abort)', line):
                report.add(
                    final.place(line, folders) or name,
                    f"calls the host's library: {line.strip()[:90]} [{half}]",
                )
    # Instructions.
    absent = CUBE_ONLY if half == 'VEC' else VECTOR_ONLY
    for name in final.functions:
        for callee, line in final.calls(name):
            short = plain(callee)
            if callee not in final.functions and short in cann.names and absent.match(short):
                report.add(
                    final.place(line, folders) or demangle([name])[name],
                    f'{short} in the {half.lower()} half, which has no such instruction [{half}]',
                )
            if (
                callee not in final.functions
                and not callee.startswith('llvm.')
                and short not in cann.names
                and short
                not in ('metrics_prof_start', 'metrics_prof_stop', 'dcci', 'icache_preload')
            ):
                report.add(
                    final.place(line, folders) or demangle([name])[name],
                    f'calls {demangle([callee])[callee]}, which no device code defines [{half}]',
                )


# -- 3. Stack ----------------------------------------------------------------------------------------------------------


def stack(
    cann: Cann,
    includes: Parts,
    half: str,
    source: pathlib.Path,
    defines: Sequence[str],
    work: pathlib.Path,
    report: Report,
) -> Optional[tuple[dict[str, int], int]]:
    """Bytes of the kernels' frames as clang lays them out for a 64-bit RISC, all device code inlined."""
    text = work / f'{source.stem}.{half}.s'
    result = run(
        [
            'nice',
            '-n',
            '10',
            'clang-19',
            '-x',
            'c++',
            '--target=aarch64-linux-gnu',
            '-std=c++17',
            '-O3',
            '-S',
            '-w',
            '-ffreestanding',
            '-fno-exceptions',
            '-fno-rtti',
            '-fno-stack-protector',
            '-fno-vectorize',
            '-fno-slp-vectorize',
            '-mcpu=generic',
            '-fstack-usage',
            f'-D__DAV_C220_{half}__',
            '-D__STACK_ONLY__',
            '-include',
            cann.prelude,
            *cann.includes,
            *includes,
            *defines,
            source,
            '-o',
            text,
        ]
    )
    if result.returncode:
        report.note(
            f'stack of {source.name} [{half}] unknown: {result.stderr.strip().splitlines()[0][:160]}'
        )
        return None
    usage = {}
    for line in text.with_suffix('.su').read_text().splitlines():
        where, size, _ = line.split('\t')
        usage[where.split(':')[-1]] = int(size)
    return usage, text.read_text().count('\n\t')


def main() -> int:
    """Check a folder of kernels; returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument('kernels', type=pathlib.Path)
    parser.add_argument('cann', type=pathlib.Path)
    parser.add_argument('-I', dest='includes', action='append', default=[], type=pathlib.Path)
    parser.add_argument('--keep', type=pathlib.Path)
    parser.add_argument('--no-stack', action='store_true')
    parser.add_argument('--fast', action='store_true', help='only what is built in the end')
    options = parser.parse_args()
    kernels = options.kernels.resolve()
    folders = [kernels, *[folder.resolve() for folder in options.includes]]
    includes: list[Part] = [part for folder in folders for part in ('-I', folder)]
    sources = sorted(kernels.glob('*.cpp'))
    if not sources:
        raise SystemExit(f'{kernels} has no kernels')
    work = pathlib.Path(options.keep or tempfile.mkdtemp(prefix='devcheck.')).resolve()
    for part in ('pp', 'auto', 'launch', *([] if options.fast else ['api'])):
        shutil.rmtree(work / part, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    report = Report(kernels)
    cann = Cann(options.cann.resolve(), work)
    headers = work / 'headers.h'
    headers.write_text(f'#include "{cann.prelude}"\n#include "kernel_operator.h"\n')
    ready = {}
    for half in HALVES:
        ready[half] = work / f'{half}.pch'
        result = run(
            clang(
                cann,
                includes,
                half,
                headers,
                ['-fsyntax-only', '-Xclang', '-emit-pch', '-Xclang', '-o', '-Xclang', ready[half]],
            )
        )
        if result.returncode:
            print(result.stderr)
            raise SystemExit(
                f"clang cannot read CANN's device headers [{half}]: nothing was checked"
            )
    # What a kernel defines or includes ahead of the API's headers matters to them: then they are read anew.
    early = r'^\s*#\s*(define\b|include\s*<(?!(cstdint|stdint\.h|cstddef|type_traits)>))'
    if not any(re.search(early, file.read_text(), re.M) for file in kernels.glob('*.*')):
        cann.pch = ready

    # Whether bisheng makes `half` a keyword, as clang does for OpenCL, is not known: nothing may bear its name.
    for source in sources:
        result = run(clang(cann, includes, 'VEC', source, ['-fsyntax-only', '-DHALF_IS_A_KEYWORD']))
        for line in result.stderr.splitlines():
            match = DIAGNOSTIC.match(line)
            if match and 'error' in match.group(4):
                text = (
                    pathlib.Path(match.group(1)).read_text().splitlines()[int(match.group(2)) - 1]
                )
                if re.search(
                    r'\b(declaration specifier|unqualified-id)', match.group(5)
                ) and re.search(r'\bhalf\b', text):
                    report.add(
                        f'{match.group(1)}:{match.group(2)}',
                        f"uses `half` as a name, which is the compiler's own type: {text.strip()[:90]}",
                    )
    generated = generate(sources, includes, cann, work, report)
    compiles = 0
    frames = {}
    for source in sources:
        for half in HALVES:
            # As preprocess_obj's aiv_obj and aic_obj: every file, whatever its type, for both halves.
            builds: list[Build] = [] if options.fast else [(source, [], 'as it is')]
            if half in report.builds.get(source, {}):
                builds.append((generated[source], report.builds[source][half], 'as generated'))
            for file, defines, _tag in builds:
                compiles += 1
                ir = work / f'{source.stem}.{half}.ll'
                # The entry is device code that is emitted; __global__ of CUDA has rules of its own.
                result = run(
                    clang(
                        cann,
                        includes,
                        half,
                        file,
                        [*defines, '-S', '-emit-llvm', '-o', ir],
                        use_pch=bool(cann.pch),
                    )
                )
                failed = diagnose(result.stderr, folders, report, half)
                if result.returncode and not failed:
                    report.add(source, f'clang failed: {result.stderr.strip()[-300:]}')
            if not builds or result.returncode:
                continue
            final = work / f'{source.stem}.{half}.final.ll'
            result = run(
                ['nice', '-n', '10', 'opt-19', '-passes=default<O2>', '-S', ir, '-o', final]
            )
            if result.returncode:
                report.note(f'opt failed on {source.name} [{half}]: {result.stderr.strip()[:200]}')
                continue
            inspect(
                Module(ir.read_text()),
                Module(final.read_text()),
                half,
                cann,
                folders,
                report,
                'CUBE' in report.builds.get(source, {}),
            )
            if not options.no_stack and half in report.builds.get(source, {}):
                usage = stack(
                    cann,
                    includes,
                    half,
                    generated[source],
                    report.builds[source][half],
                    work,
                    report,
                )
                if usage:
                    frames[source.name, half] = usage
    for (name, half), (sizes, lines) in frames.items():
        deepest = max(sizes.values(), default=0)
        print(
            f'stack   {name} [{half}]: '
            + ', '.join(f'{kernel} {size}' for kernel, size in sorted(sizes.items()))
            + f' of {STACK_LIMIT} bytes; {lines} assembler lines'
        )
        if deepest > STACK_LIMIT:
            report.add(
                name, f'a frame of {deepest} bytes, more than the {STACK_LIMIT} of a core [{half}]'
            )
    for signature in report.launches.values():
        print(f'launch  {signature}')
    if not options.keep:
        shutil.rmtree(work)
    print(
        f'device check: {len(sources)} files, {len(report.launches)} kernels, {compiles} compiles, '
        f'{len(report.found)} findings'
    )
    return 1 if report.found else 0


if __name__ == '__main__':
    sys.exit(main())
