"""What CANN's device compiler and launch stubs ask of csrc/kernels, as far as it shows without CANN.

`make devcheck CANN=DIR` reads the kernels with CANN's own headers.
"""

import re
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / 'csrc'
SOURCES = sorted([*(CSRC / 'kernels').rglob('*.h'), *(CSRC / 'kernels').glob('*.cpp')])
TILINGS = sorted((CSRC / 'kernels').glob('*_tiling.h'))
STRUCT = re.compile(r'^struct \w+ \{\n.*?^\};', re.S | re.M)
LAMBDA = re.compile(r'\[[&=][^\]]*\]\s*(?:\([^)]*\))?\s*(\w*)')
FUNCTION = re.compile(
    r'^(?!\s*(?:return|else|if|for|while|switch|using|typedef)\b)(?P<head>[^;{}()#]*?)\b(?P<name>~?\w+)\s*'
    r'\([^;{}]*\)\s*(?:const\s*)?(?::[^;{]*)?\{',
    re.M,
)


def without_comments(text: str) -> str:
    return re.sub(r'//.*', '', text)


def lambdas_of_the_host(text: str) -> list[str]:
    """The lambdas that are not device code."""
    return [match[0] for match in LAMBDA.finditer(text) if match[1] != '__aicore__']


def functions_of_the_host(text: str) -> list[str]:
    """The functions with a body that are not device code."""
    found = []
    for match in FUNCTION.finditer(text):
        keyword = match['name'] in ('if', 'for', 'while', 'switch', 'static_assert', '__aicore__')
        if not keyword and '__aicore__' not in match['head']:
            found.append(match['name'])
    return found


def test_kernels_are_found():
    assert len(SOURCES) >= 30 and len(TILINGS) >= 3


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(CSRC)))
def test_all_code_is_of_the_device(path):
    text = without_comments(path.read_text())
    assert not lambdas_of_the_host(text)
    assert not functions_of_the_host(text)


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(CSRC)))
def test_types_of_the_device_are_not_names(path):
    text = without_comments(path.read_text())
    assert not re.findall(r'[\w>]\s+(?:half|bfloat16_t)\s*[=;,)[]|\.half\b', text)


@pytest.mark.parametrize('path', TILINGS, ids=lambda path: path.name)
def test_tilings_compile_as_the_stub_repeats_them(path, tmp_path):
    """CANN's generator copies the structs alone, without the constants beside them, to C++11."""
    structs = STRUCT.findall(path.read_text())
    assert structs
    source = tmp_path / 'stub.cpp'
    source.write_text('#include <cstdint>\n' + '\n'.join(structs))
    result = subprocess.run(
        ['c++', '-std=c++11', '-fsyntax-only', source], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_faults_are_found():
    """The checks above see what they are for."""
    assert lambdas_of_the_host('Each(n, [&](int32_t i) { body(i); });')
    assert lambdas_of_the_host('const auto f = [=] { return x; };')
    assert not lambdas_of_the_host('Each(n, [&](int32_t i) __aicore__ { body(i); });')
    assert functions_of_the_host('inline int32_t Least(int32_t a, int32_t b) {\n  return a;\n}')
    assert functions_of_the_host('class A {\n  explicit A(int32_t a) : a_(a) {}\n};')
    assert not functions_of_the_host('__aicore__ inline void Run() const {\n  if (a) {\n  }\n}')
