"""Translating: the same ONNX program as torch.onnx gives, its operators looked up once."""

import sys

import pytest
import torch
from torch import nn
from torch.onnx._internal.exporter import _registration

from lwdc import translating
from lwdc.translating import translate


@pytest.fixture
def program() -> torch.export.ExportedProgram:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return torch.export.export(network, (torch.randn(2, 3, 6, 6),))


def test_the_program_is_torchs_own_and_the_next_one_looks_nothing_up(
    program: torch.export.ExportedProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translating, "_known", {})
    kind, looked_up = _registration.ONNXRegistry, []
    own = kind.from_torchlib

    def counted(*asked: object, **by_name: object) -> object:
        looked_up.append(by_name)
        return own(*asked, **by_name)

    wanted = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=18)
    monkeypatch.setattr(kind, "from_torchlib", staticmethod(counted))
    assert wanted is not None
    for _ in range(2):
        found = translate(program, opset_version=18)
        assert found.model_proto.SerializeToString() == wanted.model_proto.SerializeToString()
    assert len(looked_up) == 1
    assert translate(program, opset_version=20).model_proto.opset_import[0].version == 20
    assert len(looked_up) == 2
    assert kind.from_torchlib is counted  # nothing stays behind


def test_a_pytorch_without_such_a_look_up_exports_as_well(
    program: torch.export.ExportedProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.onnx._internal.exporter._registration", None)
    with pytest.raises(ImportError):
        __import__("torch.onnx._internal.exporter._registration", fromlist=["ONNXRegistry"])
    assert translate(program).model_proto.graph.node
