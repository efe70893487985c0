"""Finished runs: evaluated and exported again from what they left behind."""

import json
from pathlib import Path
from typing import Any

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.errors import CheckpointError
from lwdc.export import export_all, load
from lwdc.files import write_json
from lwdc.pipeline.run import CHECKPOINT
from lwdc.pipeline.settings import Settings
from lwdc.records import ExportRecord
from lwdc.training import accuracy, load_checkpoint


def settings_of(folder: Path) -> dict[str, Any]:
    """The configuration that a run was started with."""
    config = json.loads(load_checkpoint(folder / CHECKPOINT)["config"])
    if not isinstance(config, dict):
        raise CheckpointError(f"the checkpoint in {folder} holds no configuration.")
    return config


def evaluate_run(folder: Path, settings: Settings) -> dict[str, Any]:
    """Accuracy of the packaged network on validation and test images; also written to ``evaluation.json``."""
    fabric = settings.compute.fabric()
    settings.data.prepare(fabric.device)
    network = load(folder).to(fabric.device)
    figures = {
        split: accuracy(network, settings.data.batches(split, settings.train.batch_size), fabric)
        for split in ("valid", "test")
    }
    write_json(folder / "evaluation.json", figures)
    return figures


def export_run(folder: Path, settings: Settings, formats: list[str]) -> tuple[ExportRecord, ...]:
    """Write and verify the packaged network's files again."""
    data = settings.data
    data.prepare(settings.compute.fabric().device)
    named = settings.backbone
    backbone = Backbone(named.name, data.num_classes, data.input_size[0], dict(named.options))
    return export_all(
        folder, load(folder), Architecture.load(folder / "architecture.json"), formats=formats, backbone=backbone,
        preprocessing=data.preprocessing, class_names=data.class_names, input_size=data.input_size,
    )  # fmt: skip
