"""Translating: torch.onnx looks up all its operators anew at every export; here it does so once a process.

That is most of what the export of a layer takes, and hundreds of layers are exported where ONNX Runtime times them.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.export import ExportedProgram
from torch.onnx import ONNXProgram

_known: dict[object, Any] = {}  # what torch.onnx found, by what it was asked for


def translate(program: ExportedProgram, **options: Any) -> ONNXProgram:
    """``torch.onnx.export`` of a traced program, with further ``options`` of it; raises whatever it raises."""
    with _looked_up_once():
        translated = torch.onnx.export(program, dynamo=True, verbose=False, **options)
    assert translated is not None
    return translated


@contextlib.contextmanager
def _looked_up_once() -> Iterator[None]:
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        look_up = ONNXRegistry.from_torchlib
    except (ImportError, AttributeError):  # a PyTorch that is made otherwise: every export looks them up
        yield
        return

    def known(*asked: Any, **by_name: Any) -> Any:
        key = (*asked, *sorted(by_name.items()))
        if key not in _known:
            _known[key] = look_up(*asked, **by_name)
        return _known[key]

    with mock.patch.object(ONNXRegistry, "from_torchlib", staticmethod(known)):
        yield
