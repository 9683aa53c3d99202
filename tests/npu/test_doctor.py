"""The report on a machine with an NPU."""

from types import SimpleNamespace

import pytest
import torch

from tests.cli.test_doctor import report

pytestmark = pytest.mark.npu


def test_what_serves_npu_tensors(capsys):
    status, text = report(capsys)
    assert status == 0, text
    for words in ('Ascend910B3, in software', 'Training uses the NPU', 'Ops of mmcv'):
        assert words in text
    assert 'nms_rotated' in text and text.count('sigmoid_focal_loss_forward') == 2  # CPU and NPU


def test_mmcv_without_ops_for_npus_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(torch.ops, 'mxd', SimpleNamespace())
    status, text = report(capsys)
    assert status == 1
    assert "mmcv's ops for npu tensors: build mxd-mmplugin with CANN" in text
