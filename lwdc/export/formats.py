"""Formats: every way to write a network, each compared with it before the files get their names."""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.data import Preprocessing
from lwdc.errors import ExportError, unknown_name
from lwdc.export.description import Description, describe
from lwdc.export.onnx import run_onnx, write_onnx
from lwdc.export.package import load, save
from lwdc.export.portable import portable
from lwdc.export.staging import staging
from lwdc.export.torch_export import forgetting, run_torch_export, trace, write_program
from lwdc.export.verify import Run, verify
from lwdc.progress import tracked
from lwdc.records import ExportRecord
from lwdc.tracing import Shape


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
    """Write ``network`` to ``folder`` in every format, each compared with it on inputs drawn from ``seed``.

    Files hold it in float32 and evaluation mode; ``network`` itself is not changed. ``model`` is the
    network before compression, with any weights: needed where there is no ``backbone``. Raises
    ``ExportError`` at the first format that fails: its files do not appear, those before it stay. On a
    terminal a bar shows how far it is.
    """
    check_formats(formats)
    if "safetensors" in formats and backbone is None and model is None:
        raise ExportError(
            "a package that names no timm network can only be checked with the network that was compressed: "
            "give it, with any weights, as model=..."
        )
    copy = portable(network)
    description = describe(
        copy,
        architecture,
        backbone=backbone,
        preprocessing=preprocessing,
        class_names=class_names,
        input_size=input_size,
    )
    job = _Job(copy, description, model, seed)
    bar = tracked(formats, f"exporting and verifying {', '.join(formats)}")
    with forgetting(), contextlib.closing(bar) as shown:
        return tuple(_export(Path(folder), name, job) for name in shown)


def check_formats(formats: Sequence[str]) -> None:
    """Raise ``ExportError`` for a format that there is none of."""
    for name in formats:
        if name not in FORMATS:
            raise ExportError(unknown_name("export format", name, FORMATS))


@dataclasses.dataclass
class _Job:
    network: nn.Module
    description: Description
    model: nn.Module | None
    seed: int

    @functools.cached_property
    def program(self) -> ExportedProgram:
        """The trace that torch.export and ONNX files are both made from."""
        return trace(self.network, self.description.deployment.input_size)


def _export(folder: Path, name: str, job: _Job) -> ExportRecord:
    deployment = job.description.deployment
    with staging(folder) as stage:
        files, run = FORMATS[name](stage, job)
        found = verify(
            job.network,
            run,
            deployment.input_size,
            seed=job.seed,
            name=files[0].name,
            class_names=deployment.class_names,
        )
        size = files[0].stat().st_size
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(folder / file.name, file)
            file.replace(folder / file.name)
    return ExportRecord(name, files[0].name, size, *found)


def _package(folder: Path, job: _Job) -> tuple[list[Path], Run]:
    description = job.description
    files = save(
        folder,
        job.network,
        description.architecture,
        backbone=description.backbone,
        preprocessing=description.deployment.preprocessing,
        class_names=description.deployment.class_names,
        input_size=description.deployment.input_size,
    )
    return files, load(folder, job.model)


def _torch_export(folder: Path, job: _Job) -> tuple[list[Path], Run]:
    path = folder / "model.pt2"
    write_program(job.program, path, job.description.deployment)
    return [path], run_torch_export(path)


def _onnx(folder: Path, job: _Job) -> tuple[list[Path], Run]:
    path = folder / "model.onnx"
    write_onnx(job.program, path, job.description.deployment)
    return [path], run_onnx(path)


FORMATS: dict[str, Callable[[Path, _Job], tuple[list[Path], Run]]] = {
    "safetensors": _package,
    "torch_export": _torch_export,
    "onnx": _onnx,
}
