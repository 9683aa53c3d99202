"""`python -m mxd_mmplugin`: the `mxd` command."""

from mxd_cli import main

if __name__ == '__main__':
    raise SystemExit(main())
