"""Test and evaluate a model: mmdet3d's `tools/test.py`, with all of its options."""

from _mmdet3d import run

if __name__ == '__main__':
    run('test.py')
