"""Prepare a data set: mmdet3d's `tools/create_data.py`, with all of its options."""

from _mmdet3d import run

if __name__ == '__main__':
    run('create_data.py')
