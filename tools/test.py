"""The same as `mxd test`, as a file for torchrun."""

import sys

from mxd_cli.test import main

if __name__ == '__main__':
    main(sys.argv[1:])
