"""`mxd verify` on a machine with an NPU."""

import pytest
import torch

from mxd_mmplugin import softnpu
from mxd_mmplugin.engine import verify
from tests.engine.test_verify import report

pytestmark = pytest.mark.npu


def test_every_operator_passes(capsys, tmp_path):
    status, text, found = report(capsys, tmp_path / 'r.json', '--quick')
    assert status == 0, text
    assert found['device'] == 'npu' and 'Ascend' in found['versions']['device']
    served = {row['operator']: row['served_by'] for row in found['rows']}
    assert served['sparse_conv'] == 'Ascend kernel' and set(served) == set(verify.OPERATORS)
    assert all(row['milliseconds'] > 0 for row in found['rows'])
    modelled = {row['operator'] for row in found['rows'] if row['modelled']}
    if softnpu.active():  # PyTorch's own operators are not modelled
        assert modelled == {name for name, by in served.items() if by == 'Ascend kernel'}
    else:
        assert {row['modelled'] for row in found['rows']} == {None}


def test_a_kernel_that_is_one_percent_off_is_found(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(
        verify, 'OPERATORS', {'deformable_aggregation': verify.OPERATORS['deformable_aggregation']}
    )
    right = verify.fallback.deformable_aggregation.forward
    with torch.library._scoped_library('mxd', 'IMPL') as library:
        library.impl('deformable_aggregation', lambda *args: right(*args) * 1.01, 'PrivateUse1')
        status, text, _ = report(capsys, tmp_path / 'r.json', '--device', 'npu', '--quick')
    assert status == 1
    assert 'export MXD_DISABLE=deformable_aggregation\n' in text
