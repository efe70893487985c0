"""Translating: torch.onnx looks up all its operators anew at every export; here it does so once a process.

That is most of what the export of a layer takes, and hundreds of layers are exported where ONNX Runtime times them.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch.export import ExportedProgram
from torch.onnx import ONNXProgram

_known: dict[object, Any] = {}  # what torch.onnx found, by what it was asked for
_patching = threading.RLock()  # one at a time, so that every one puts back what was there


def translate(
    program: ExportedProgram,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset_version: int | None = None,
) -> ONNXProgram:
    """``torch.onnx.export`` of a program that is traced already; raises whatever that raises."""
    with _looked_up_once():
        translated = torch.onnx.export(
            program, dynamo=True, verbose=False,
            input_names=input_names, output_names=output_names, opset_version=opset_version,
        )  # fmt: skip
    assert translated is not None
    return translated


@contextlib.contextmanager
def _looked_up_once() -> Iterator[None]:
    look_up: Any = None
    with contextlib.suppress(ImportError, AttributeError):  # a PyTorch that is made otherwise looks up every time
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        look_up = ONNXRegistry.from_torchlib
    if look_up is None:
        yield
        return

    def known(*asked: Any, **by_name: Any) -> Any:
        key = (*asked, *sorted(by_name.items()))
        if key not in _known:
            _known[key] = look_up(*asked, **by_name)
        return _known[key]

    with _patching, mock.patch.object(ONNXRegistry, "from_torchlib", staticmethod(known)):
        yield
