"""Recipes: refused where they make no sense, and schedules stepped at every update."""

import functools
import math
from typing import Any

import pytest
import torch
from torch import nn

from lwdc.errors import TrainingError
from lwdc.training import Recipe

SGD = functools.partial(torch.optim.SGD, lr=1.0)


def rates(schedule: dict[str, Any], epochs: int, steps: int) -> list[float]:
    """The learning rate of every update, and the one after the last."""
    optimiser = SGD([nn.Parameter(torch.zeros(1))])
    scheduler = Recipe(epochs, 1, SGD, schedule).scheduler(optimiser, steps)
    found = []
    for step in range(epochs * steps):
        found.append(optimiser.param_groups[0]["lr"])
        scheduler.step_update(step + 1)
    return [*found, optimiser.param_groups[0]["lr"]]


def test_the_cosine_falls_at_every_update() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * step / 12)) for step in range(13)]
    assert rates({"sched": "cosine"}, epochs=4, steps=3) == pytest.approx(expected, abs=1e-6)


def test_the_warm_up_rises_at_every_update() -> None:
    found = rates({"sched": "cosine", "warmup_epochs": 1, "warmup_lr": 0.0}, epochs=3, steps=4)
    assert found[:4] == pytest.approx([0.0, 0.25, 0.5, 0.75])
    assert found[4:] == sorted(found[4:], reverse=True) and found[4] > 0.7


def test_other_schedules_of_timm_are_known() -> None:
    found = rates({"sched": "step", "decay_epochs": 2, "decay_rate": 0.1}, epochs=4, steps=2)
    assert found[:8] == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"sched": "cosin"}, "'cosin'"),
        ({"sched": "cosine", "warmup": 1}, "the schedule .* cannot be built: .*'warmup'"),
    ],
)
def test_an_unknown_schedule_is_refused(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        rates(schedule, epochs=1, steps=1)


@pytest.mark.parametrize(("epochs", "batch_size"), [(-1, 8), (1, 0), (1, -4)])
def test_lengths_that_make_no_sense_are_refused(epochs: int, batch_size: int) -> None:
    with pytest.raises(TrainingError, match=f"epochs must be >= 0 .*, found {epochs} and {batch_size}"):
        Recipe(epochs, batch_size, SGD)
