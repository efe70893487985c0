"""Runs of the whole line, small enough to take seconds."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lwdc.costs import Macs
from lwdc.data import Digits
from lwdc.gates import GumbelSoftmax
from lwdc.objectives import Distillation
from lwdc.pipeline import BackboneSettings, Compute, CostSettings, Settings, compress
from lwdc.records import Result
from lwdc.space import SearchSpace
from lwdc.training import Recipe

CANDIDATES = [{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "separable"}, {"op": "pointwise"}]


def recipe(epochs: int, **changes: Any) -> Recipe:
    """Three steps of 64 an epoch."""
    return Recipe(epochs, 64, functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9), **changes)


@pytest.fixture(scope="session")
def settings() -> Callable[..., Settings]:
    """``settings(**changes)``: one epoch a phase, nothing exported or timed, randomness wherever there can be any."""

    def make(**changes: Any) -> Settings:
        defaults: dict[str, Any] = {
            "backbone": BackboneSettings("cifar_resnet8", {"channels": (4, 8, 8), "drop_rate": 0.1}),
            "data": Digits(crop_padding=1, limit_train=192, valid=100),
            "cost": CostSettings(Macs(), budget=0.5),
            "train": recipe(1),
            "search": recipe(1, objective=Distillation()),
            "finetune": recipe(1, objective=Distillation()),
            "logits_optim": functools.partial(torch.optim.Adam, lr=0.1),
            "space": SearchSpace(CANDIDATES),
            "gate": GumbelSoftmax,
            "compute": Compute("cpu"),
            "formats": (),
            "latency_batches": (),
        }
        return Settings(**defaults | changes)

    return make


@pytest.fixture(scope="session")
def finished(
    settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Settings, Result]:
    """A run with everything exported: its folder, settings and result. Tests leave it unchanged."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    given = settings(search=recipe(2), formats=("safetensors", "torch_export", "onnx"), latency_batches=(1, 3))
    result = compress(given, folder, {"seed": 0})
    assert result is not None
    return folder, given, result
