"""A network, digits and recipes small enough to be trained in a test."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from lwdc.data import Digits
from lwdc.training import Fit, Recipe

SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)


@pytest.fixture(scope="session")
def data() -> Digits:
    """Three batches of 64 an epoch."""
    digits = Digits(crop_padding=1, limit_train=192, valid=100)
    digits.prepare(torch.device("cpu"))
    return digits


@pytest.fixture
def network() -> nn.Module:
    """Weights, statistics and something random in the forward pass."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(36, 10)
    )  # fmt: skip


@pytest.fixture
def fit(data: Digits) -> Callable[..., Fit]:
    """``fit(network, **changes)``: a fit of two epochs."""

    def make(network: nn.Module, phase: str = "baseline", **changes: Any) -> Fit:
        recipe = Recipe(**{"epochs": 2, "batch_size": 64, "optim": SGD, **changes.pop("recipe", {})})
        fabric = Fabric(accelerator="cpu", devices=1)
        return Fit(phase, network, data, recipe, **{"seed": 0, "fabric": fabric, **changes})

    return make
