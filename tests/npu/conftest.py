"""Runs the tests of this folder on the software NPU, each reported by itself.

Where this process has an NPU, real or software, they run as any test. Elsewhere pytest asks another
pytest, on the software NPU, which tests there are, has it run those that were selected beside the
tests of this process, and takes over the report of each. The trainings have a process of their own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from mxd_mmplugin import softnpu
from mxd_mmplugin.packages import is_installed

# What may run on the AI CPU or the host all the same: operator@place, and why.
ALLOWED = {
    'copy_@tests/npu/': 'float64 of tests that expect an error',
    '*@tests/npu/test_aten.py': 'the values of operators, wherever CANN runs them',
}
# Each tensor has an allocation of its own: any access outside of it, or after it, is noticed.
SETTINGS = {
    'PYTORCH_NO_NPU_MEMORY_CACHING': '1',
    'MXD_SOFTNPU_DEVICES': '2',
    'MXD_SOFTNPU_STRICT': '1',
    'MXD_SOFTNPU_ALLOW': ';'.join(ALLOWED),
}
REPORT = 'MXD_SOFTNPU_TEST_REPORT'
HERE = Path(__file__).parent
GROUPS = 'software NPU', 'training on the software NPU'


def has_npu() -> bool:
    """Whether the tests can run in this process."""
    if softnpu.active():
        return True
    return is_installed('torch_npu') and torch.npu.is_available()


@pytest.fixture(scope='session')
def trained(generated, tmp_path_factory) -> Path:
    """The working folder of CenterPoint's training on the CPU and on the NPU; see `made_once`."""
    from tests.conftest import link_data, made_once
    from tests.npu.test_training import train_centerpoint

    def make(folder):
        link_data(generated, folder)
        train_centerpoint(folder)

    return made_once('trained', make, tmp_path_factory)


def pytest_runtest_logreport(report):
    """In the inner pytest: hand each report over."""
    if REPORT in os.environ and (report.when == 'call' or report.outcome != 'passed'):
        line = {
            'test': report.nodeid,
            'outcome': report.outcome,
            'text': report.longreprtext or str(report.longrepr or ''),
            'output': ''.join(text for _, text in report.sections)[-10000:],
        }
        with open(os.environ[REPORT], 'a') as file:
            file.write(json.dumps(line) + '\n')


def pytest_pycollect_makemodule(module_path, parent):
    """In a process with no NPU: the tests of another process in place of the module's."""
    if not has_npu():
        return SoftwareNpuModule.from_parent(parent, path=module_path)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The tests of the other processes come last: by then most of them have run."""
    items.sort(key=lambda item: isinstance(item, SoftwareNpuTest))


def pytest_collection_finish(session):
    """Start the other processes, whose tests are known now."""
    if not session.config.option.collectonly:
        for process in getattr(session, 'software_npus', {}).values():
            process.start(session.items)


def pytest_sessionfinish(session):
    """After an interrupt nothing is left running."""
    for process in getattr(session, 'software_npus', {}).values():
        process.stop()


class SoftwareNpu:
    """A pytest process on the software NPU, for the tests of one group."""

    def __init__(self, config, group=''):
        self.config = config
        self.group = group
        self.process = None
        self.reports = {}
        self.read = 0
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / 'reports.jsonl'
        self.log = Path(self.folder.name) / 'log.txt'
        self.command = [
            sys.executable,
            '-m',
            'pytest',
            '-q',
            '-p',
            'no:cacheprovider',
            '--disable-warnings',
        ]

    def tests(self) -> dict[str, list[str]]:
        """The names of the tests, by file."""
        try:
            env = {**softnpu.environment(), **SETTINGS}
        except RuntimeError as error:
            raise pytest.UsageError(str(error)) from None
        command = [*self.command, '--collect-only', str(HERE)]
        done = subprocess.run(
            command, env=env, cwd=self.config.rootpath, capture_output=True, text=True, timeout=300
        )
        if done.returncode not in (0, 5):
            raise pytest.UsageError(done.stdout[-5000:] + done.stderr[-5000:])
        tests = defaultdict(list)
        for line in done.stdout.splitlines():
            file, found, name = line.partition('::')
            if found:
                tests[Path(file).name].append(name)
        return tests

    def start(self, items) -> None:
        """Start the process on those of the tests that are of its group."""
        tests = [i.inner for i in items if isinstance(i, SoftwareNpuTest) and i.group == self.group]
        if not tests:
            return
        self.path.touch()
        self.process = subprocess.Popen(
            [*self.command, *tests],
            env={**softnpu.environment(), **SETTINGS, REPORT: str(self.path)},
            cwd=self.config.rootpath,
            stdout=self.log.open('w'),
            stderr=subprocess.STDOUT,
        )

    def stop(self) -> None:
        """End the process where it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    def report(self, item) -> dict:
        """The report of a test, waited for."""
        while item.inner not in self.reports:
            ended = self.process.poll() is not None
            with self.path.open() as file:
                file.seek(self.read)
                lines = file.read()
            lines = lines[: lines.rfind('\n') + 1]
            self.read += len(lines.encode())
            for line in lines.splitlines():
                report = json.loads(line)
                # A failure of the teardown comes after the test's own report: the worst one counts.
                if self.reports.get(report['test'], {}).get('outcome') != 'failed':
                    self.reports[report['test']] = report
            if item.inner not in self.reports and ended:
                text = f'the process ended with status {self.process.returncode} before this test'
                return {'outcome': 'failed', 'text': text, 'output': self.log.read_text()[-5000:]}
            time.sleep(0.05)
        return self.reports[item.inner]


class SoftwareNpuModule(pytest.File):
    """A file of tests that run in the other process."""

    def collect(self):
        """One item a test."""
        session = self.session
        if not hasattr(session, 'software_npus'):
            session.software_npus = {group: SoftwareNpu(self.config, group) for group in GROUPS}
            session.software_npu_tests = SoftwareNpu(self.config).tests()
        for name in session.software_npu_tests[self.path.name]:
            yield SoftwareNpuTest.from_parent(self, name=name)


class SoftwareNpuTest(pytest.Item):
    """A test that runs in the other process."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_marker('npu')
        self.group = GROUPS['training' in self.path.stem or self.path.stem == 'test_beside']
        self.inner = f'{self.path.relative_to(self.config.rootpath).as_posix()}::{self.name}'

    def runtest(self):
        """Wait for the report and take it over."""
        report = self.session.software_npus[self.group].report(self)
        if report['outcome'] == 'skipped':
            pytest.skip(report['text'])
        if report['outcome'] == 'failed':
            raise InnerFailureError(report['text'] + '\n' + report['output'])

    def repr_failure(self, excinfo, style=None):
        """What the other process says about it."""
        if isinstance(excinfo.value, InnerFailureError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self):
        """Where the test is."""
        return self.path, None, self.inner


class InnerFailureError(Exception):
    """A test failed in the other process; the message is its report."""
