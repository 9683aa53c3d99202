#!/usr/bin/env python3
"""Whether devcheck.py finds the faults planted in faults/, and nothing in its clean.cpp: plant.py CANN_DIR"""

import pathlib
import re
import subprocess
import sys

here = pathlib.Path(__file__).resolve().parent
out = subprocess.run(
    [sys.executable, here / 'devcheck.py', here / 'faults', *sys.argv[1:]],
    capture_output=True,
    text=True,
)
found = [line for line in out.stdout.splitlines() if line.startswith('FINDING')]
caught: list[str] = []
missed: list[str] = []
used: set[int] = set()
for file in sorted((here / 'faults').iterdir()):
    for number, line in enumerate(file.read_text().splitlines(), 1):
        match = re.search(r'// fault: ([^~]+?)(?: ~(.*))?$', line)
        if match:
            name, pattern = match.groups()
            hits = {
                i
                for i, text in enumerate(found)
                if (
                    re.search(pattern, text)
                    if pattern
                    else text.startswith(f'FINDING {file}:{number}:')
                )
            }
            used |= hits
            (caught if hits else missed).append(name)
            print(
                f'{"caught" if hits else "MISSED"} {name}: {found[min(hits)].split(": ", 1)[1][:150] if hits else ""}'
            )
for index, text in enumerate(found):
    if index not in used:
        print(f'also   {text[8:200]}')
wrong = any('clean.cpp' in text for text in found)
print(out.stdout.splitlines()[-1] if out.stdout else out.stderr[-300:])
total = len(caught) + len(missed)
also = ', and something found in clean.cpp' if wrong else ''
print(f'planted faults: {len(caught)} of {total} caught{also}')
sys.exit(bool(missed or wrong or out.returncode == 0))
