"""Recipes: refused where they make no sense, and schedules stepped at every update."""

import functools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR, ReduceLROnPlateau, StepLR

from lwdc.errors import TrainingError
from lwdc.training import Recipe

SGD = functools.partial(torch.optim.SGD, lr=1.0)


def rates(schedule: Any, epochs: int, steps: int) -> list[float]:
    """The learning rate of every update, and the one after the last."""
    optimiser = SGD([nn.Parameter(torch.zeros(1))])
    scheduler = Recipe(epochs, 1, SGD, schedule).scheduler(optimiser, steps)
    found = []
    for step in range(epochs * steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
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


def test_torchs_schedules_are_stepped_as_torch_documents_them() -> None:
    falling = functools.partial(MultiStepLR, milestones=[1, 3], gamma=0.1)  # in epochs
    assert rates(falling, epochs=4, steps=2) == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])
    once = functools.partial(OneCycleLR, max_lr=2.0, total_steps=9, pct_start=0.5)  # in updates
    found = rates(once, epochs=4, steps=2)
    assert found.index(max(found)) == 4 and max(found) == pytest.approx(2.0, rel=0.05)
    assert found[-1] < 1e-3


def test_torchs_schedule_goes_on_where_it_was_saved() -> None:
    def start() -> tuple[torch.optim.Optimizer, Any]:
        optimiser = SGD([nn.Parameter(torch.zeros(1))])
        return optimiser, Recipe(4, 1, SGD, functools.partial(StepLR, step_size=1)).scheduler(optimiser, 2)

    optimiser, scheduler = start()
    for step in (1, 2, 3):
        optimiser.step()
        scheduler.step_update(step)
    again, later = start()
    again.load_state_dict(optimiser.state_dict())
    later.load_state_dict(scheduler.state_dict())
    again.step()
    later.step_update(4)
    assert again.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (StepLR, "cannot be built: .*step_size"),
        (ReduceLROnPlateau, "ReduceLROnPlateau cannot be used: .* needs no metric"),
        (lambda optimiser: 3, "type int cannot be used"),
    ],
)
def test_what_is_no_schedule_of_steps_is_refused(schedule: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        rates(schedule, epochs=1, steps=1)


def test_a_recipe_can_be_checked_before_anything_is_trained() -> None:
    Recipe(1, 1, SGD).check(10)
    with pytest.raises(TrainingError, match=r"optimiser cannot be built: .*momentun"):
        Recipe(1, 1, functools.partial(torch.optim.SGD, momentun=0.9)).check(10)
    with pytest.raises(TrainingError, match="'cosin'"):
        Recipe(1, 1, SGD, {"sched": "cosin"}).check(10)


def test_a_scaled_loss_skips_by_itself() -> None:
    skipping = Recipe(1, 64, torch.optim.SGD, nonfinite="skip")
    skipping.check_precision(scaled=False)
    with pytest.raises(TrainingError, match="Leave out nonfinite=skip, or use bf16-mixed"):
        skipping.check_precision(scaled=True)


def test_cutmix_is_for_images() -> None:
    recipe = Recipe(1, 4, SGD, mixup={"mixup_alpha": 1.0, "cutmix_alpha": 1.0})
    assert recipe.mixing(10, 1, (3, 8, 8)) is not None
    with pytest.raises(TrainingError, match="cutmix cuts rectangles, and the inputs are no images"):
        recipe.mixing(10, 1, (1, 100))
