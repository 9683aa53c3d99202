"""The same as `mxd create-data`."""

import sys

from mxd_cli.create_data import main

if __name__ == '__main__':
    main(sys.argv[1:])
