"""Random calls of the operators, good and bad, end in a result or a Python error."""

import os
import subprocess
import sys

from tests.conftest import on_cpu

COUNT = os.environ.get('MXD_RANDOM_CALLS', '400')


def test_calls_end_in_a_result_or_an_error(tmp_path):
    log = tmp_path / 'calls.txt'
    run = subprocess.run(
        [
            sys.executable,
            '-W',
            'ignore',
            '-m',
            'tests.ops.random_calls',
            '--count',
            COUNT,
            '--log',
            log,
        ],
        capture_output=True,
        text=True,
        env=on_cpu(),
    )
    assert run.returncode == 0, (log.read_text().splitlines() or ['none'])[-1] + run.stderr[-3000:]
    ended = eval(run.stdout)
    assert sum(ended.values()) == int(COUNT) and ended['result'] > 50 and ended['ValueError'] > 50
