"""Formats: every way to write a network, each compared with the network before its files get their names."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.data import Preprocessing
from lwdc.errors import ExportError, unknown_name
from lwdc.export.deployment import Deployment
from lwdc.export.description import describe
from lwdc.export.onnx import run_onnx, to_onnx
from lwdc.export.package import load, save
from lwdc.export.portable import portable
from lwdc.export.torch_export import run_torch_export, to_torch_export
from lwdc.export.verify import Run, verify
from lwdc.records import ExportRecord
from lwdc.sites import Shape


def export_all(
    folder: Path | str,
    network: nn.Module,
    architecture: Architecture,
    *,
    formats: Sequence[str] = ("safetensors", "torch_export", "onnx"),
    backbone: Backbone | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    input_size: Shape | None = None,
    model: nn.Module | None = None,
    seed: int = 0,
) -> tuple[ExportRecord, ...]:
    """Write ``network`` to ``folder`` in every format, and compare each file with it on inputs drawn from ``seed``.

    Files hold it in float32 and evaluation mode; ``network`` itself is not changed. ``model`` is the
    network before compression, with any weights, and needed where there is no ``backbone``. Raises
    ``ExportError`` for the first format that fails: its files do not appear, those before it stay.
    """
