"""Finished runs: evaluated and exported again from what they left behind."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.export import FORMATS, export_all, load, write_card
from lwdc.files import write_json
from lwdc.folders import RECORDS
from lwdc.pipeline.measures import UNTIMED, add_onnx_times
from lwdc.pipeline.quantising import LOST, quantise, warning_of
from lwdc.pipeline.run import alone, state_of
from lwdc.pipeline.settings import Settings
from lwdc.records import ExportRecord, FileMeasures, Int8Result, Result, as_dict
from lwdc.surgery import rebuild
from lwdc.tracking import parse_record, read_records, replace_last
from lwdc.training import accuracy, put_tensors, read_tensors


def settings_of(folder: Path) -> dict[str, Any]:
    """The configuration that a run was started with, without what earlier versions asked for and this one does not."""
    config: dict[str, Any] = state_of(folder)["config"]
    cost = config.get("cost") or {}
    for each in (cost, *(cost.get("also") or {}).values()):
        for gone in ("stiffness", "rate"):  # of budgets, before they were held
            each.pop(gone, None)
    for gone in ("commit", "trial_steps"):
        (config.get("strategy") or {}).pop(gone, None)
    return config


def evaluate_run(folder: Path, settings: Settings) -> dict[str, Any]:
    """Accuracy of a run's network on validation and test examples; also written to ``evaluation.json``."""
    fabric = settings.compute.alone().fabric()
    execution = settings.compute.alone().execution
    execution.check(settings.data.input_size)
    settings.data.prepare(fabric.device)
    network = _network(folder, settings).to(fabric.device)
    with execution.of(network):
        figures = {
            split: accuracy(network, settings.data.batches(split, settings.train.batch_size), fabric, execution)
            for split in ("valid", "test")
        }
    write_json(folder / "evaluation.json", figures)
    return figures


def export_run(folder: Path, settings: Settings) -> tuple[tuple[ExportRecord, ...], Int8Result | None]:
    """Write and verify the files of a run's network again; its result, summary and model card then name them as well.

    An ONNX file is timed beside the original network, on the machine that it is exported on. Returns what is written
    now. What an earlier export says of other files stays where these do.
    """
    with alone(folder, resume=True):
        return _export_run(folder, settings)


def _export_run(folder: Path, settings: Settings) -> tuple[tuple[ExportRecord, ...], Int8Result | None]:
    data, formats = settings.data, settings.formats
    data.prepare(settings.compute.alone().fabric().device)
    exports = export_all(
        folder, _network(folder, settings), Architecture.load(folder / "architecture.json"), formats=formats,
        backbone=_backbone(settings), preprocessing=data.preprocessing, class_names=data.class_names,
        input_size=data.input_size,
    )  # fmt: skip
    int8 = None
    if settings.int8:
        int8 = quantise(folder, data, settings.train.batch_size, settings.latency_batches, seed=settings.seed)
    result = next(
        (r for r in map(parse_record, reversed(read_records(folder / RECORDS))) if isinstance(r, Result)), None
    )
    if result is not None:
        result = _with_exports(result, folder, exports, int8)
        file = next((folder / export.file for export in exports if export.format == "onnx"), None)
        if file is not None and settings.latency_batches:
            result = _with_onnx_times(result, settings, file)
        replace_last(folder / RECORDS, result)
        write_json(folder / "summary.json", as_dict(result))
        write_card(result, folder, licence=settings.licence)
    return exports, int8


def _with_onnx_times(result: Result, settings: Settings, file: Path) -> Result:
    before, after, untimed = add_onnx_times(
        result.before, result.after, _backbone(settings).create(), file, settings.data.input_size,
        settings.latency_batches,
    )  # fmt: skip
    warnings = [text for text in result.warnings if not text.startswith(UNTIMED)] + ([untimed] if untimed else [])
    return dataclasses.replace(result, before=before, after=after, warnings=tuple(warnings))


def _with_exports(result: Result, folder: Path, exports: Sequence[ExportRecord], int8: Int8Result | None) -> Result:
    """The result with these exports, and those of its own whose files are still there."""

    def stays(record: ExportRecord | FileMeasures) -> bool:
        path = folder / record.file
        return path.is_file() and path.stat().st_size == record.bytes

    by_format = {record.format: record for record in result.exports if stays(record)}
    by_format |= {record.format: record for record in exports}
    if int8 is None and result.int8 is not None and stays(result.int8.float32) and stays(result.int8.int8):
        int8 = result.int8
    warnings = [text for text in result.warnings if not text.startswith(LOST)]
    warnings += [text for text in [int8 and warning_of(int8)] if text]
    kept = tuple(by_format[name] for name in FORMATS if name in by_format)
    return dataclasses.replace(result, exports=kept, int8=int8, warnings=tuple(warnings))


def _network(folder: Path, settings: Settings) -> nn.Module:
    """The packaged network; where formats other than the package were asked for, the one fine-tuned."""
    weights = folder / "finetuned.safetensors"
    if (folder / "model.json").is_file() or not weights.is_file():
        return load(folder)
    architecture = Architecture.load(folder / "architecture.json")
    network = rebuild(_backbone(settings).create(), architecture, settings.data.input_size)
    put_tensors(network, read_tensors(weights), weights)
    return network.eval()


def _backbone(settings: Settings) -> Backbone:
    return settings.backbone.of(settings.data.num_classes, settings.data.input_size[0])
