"""What importing the package changes in other packages, and that it changes nothing else."""

import subprocess
import sys

from mxd_mmplugin import activation

# Prints which attributes of other packages' modules hold something else after the import.
COMPARE = """
import sys
import mmcv.ops, mmdet3d.apis, mmengine.runner, numba, torch

def snapshot():
    # Packages that PyTorch loads when they are asked for appear as attributes: not a change.
    return {
        (name, key): value
        for name, module in list(sys.modules.items())
        if name.split('.')[0] in ('mmcv', 'mmdet', 'mmdet3d', 'mmengine', 'numpy', 'torch')
        for key, value in list(vars(module).items())
    }

before = snapshot()
import mxd_mmplugin
after = snapshot()
changed = {place for place, value in before.items() if after.get(place) is not value}
# Of the effects: the types that may be loaded, what serves rotated boxes and mmcv's sparse layers on a CPU, what asks
# for a GPU.
from mxd_mmplugin import mmcv_boxes, mmcv_sparse
from mxd_mmplugin.mmcv_points import ASKING_MODULES
changed -= {('torch._weights_only_unpickler', '_marked_safe_globals_set')}
changed -= {(name, 'torch') for name in ASKING_MODULES}
print(changed - {('mmcv._ext', name) for name in (*mmcv_boxes.FUNCTIONS, *mmcv_sparse.FUNCTIONS)})
"""


def test_activating_again_does_nothing():
    assert activation.activate() is activation.activate()
    assert set(activation.activate()) == set(activation.EFFECTS)


def test_nothing_but_the_effects_is_replaced_in_another_package():
    result = subprocess.run([sys.executable, '-c', COMPARE], capture_output=True, text=True)
    assert result.stdout.strip().splitlines()[-1] == 'set()', result.stdout + result.stderr
