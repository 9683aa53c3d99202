"""The same as `mxd train`, as a file for torchrun."""

import sys

from mxd_cli.train import main

if __name__ == '__main__':
    main(sys.argv[1:])
