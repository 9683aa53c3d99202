"""Train a model: mmdet3d's `tools/train.py`, with all of its options."""

from _mmdet3d import run

if __name__ == '__main__':
    run('train.py')
